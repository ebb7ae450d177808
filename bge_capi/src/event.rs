//! What a host hears while work goes on, and how it says stop.

use std::ffi::c_void;

use bge_core::Issue;
use serde_json::Value;

use crate::log;
use crate::text::bge_str;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum bge_event_kind {
    /// Something worth knowing; json is a finding (code, severity, message, ...).
    Note = 1,
    /// A stage or a run begins.
    Begin = 2,
    /// So much of it is done.
    Progress = 3,
    /// An optimizer step is done; json has global_step, max_steps, epoch, loss, accuracy, grad_norm, learning_rate, tokens, secs.
    Step = 4,
    /// An entry of the training log; json is the entry.
    Log = 5,
    /// The model was evaluated; json has the metrics.
    Evaluated = 6,
    /// A checkpoint or a model was written; json has its path.
    Saved = 7,
    /// A stage is complete; json has its summary, and whether it was skipped as current.
    Done = 8,
}

/// Something that happened. Borrowed for the call. Fields are appended, and struct_size says how many there are.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct bge_event<'a> {
    /// The size of this struct in the library that made it.
    struct_size: usize,
    /// A bge_event_kind.
    kind: u32,
    /// Always 0.
    reserved: u32,
    /// How much is done, in units of the stage.
    done: u64,
    /// Of how much; 0 where it is not known.
    total: u64,
    /// The name of the stage, such as `encoding queries` or `train`.
    stage: bge_str<'a>,
    /// Details as a JSON object.
    json: bge_str<'a>,
}

/// Hears events, on the thread that made the call. Answers true to go on and false to stop; must not throw or jump out,
/// nor free the handle of the call.
pub type bge_event_fn = Option<extern "C" fn(user_data: *mut c_void, event: &bge_event<'_>) -> bool>;

/// A host's callback, which may be absent.
pub(crate) struct Listener {
    pub(crate) call: bge_event_fn,
    pub(crate) user_data: *mut c_void,
}

impl Listener {
    /// Tells the host; `false` means stop.
    pub(crate) fn tell(
        &self,
        kind: bge_event_kind,
        stage: &str,
        (done, total): (u64, u64),
        details: &Value,
    ) -> bool {
        let Some(call) = self.call else {
            return true;
        };
        let json = details.to_string();
        let event = bge_event {
            struct_size: size_of::<bge_event<'_>>(),
            kind: kind as u32,
            reserved: 0,
            done,
            total,
            stage: bge_str::of(stage),
            json: bge_str::of(&json),
        };
        call(self.user_data, &event)
    }

    /// Tells of a finding, and logs it.
    pub(crate) fn note(&self, stage: &str, issue: &Issue) -> bool {
        log::note(issue);
        let details = serde_json::json!(issue);
        self.tell(bge_event_kind::Note, stage, (0, 0), &details)
    }

    /// Tells how far a stage is.
    pub(crate) fn progress(&self, stage: &str, done: u64, total: u64) -> bool {
        self.tell(
            bge_event_kind::Progress,
            stage,
            (done, total),
            &Value::Object(serde_json::Map::new()),
        )
    }
}
