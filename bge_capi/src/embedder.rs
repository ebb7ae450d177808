//! A model in use: texts to vectors, from many threads at once.

use std::mem::MaybeUninit;
use std::time::Duration;

use bge_core::Embedder;
use bge_core::config::TextRole;
use bge_core::inference::{EncodeQueue, QueueLimits};

use crate::config::{bge_config, other_kind};
use crate::error::{Outcome, bge_error, json_text, required};
use crate::guard::{give, guard};
use crate::handle::{Health, bge_text, give_text};
use crate::log;
use crate::runs::use_threads;
use crate::settings::Settings;
use crate::status::bge_status;
use crate::text::{bge_str, fill, fits, texts as read_texts};

/// The longest that a request may be told to wait for others.
const LONGEST_WAIT_US: u32 = 1_000_000;

/// What texts are, which decides instruction and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum bge_text_role {
    /// Plain texts: no instruction.
    None = 0,
    /// Queries.
    Query = 1,
    /// Passages.
    Passage = 2,
}

/// A loaded embedder. Any number of threads may encode with it at once.
#[derive(Debug)]
pub struct bge_embedder {
    way: Way,
    health: Health,
}

/// How requests reach the model.
#[derive(Debug)]
enum Way {
    Straight(Box<Embedder>),
    Joined(Box<EncodeQueue>),
}

impl bge_embedder {
    fn model(&self) -> &Embedder {
        match &self.way {
            Way::Straight(embedder) => embedder,
            Way::Joined(queue) => queue.embedder(),
        }
    }
}

fn role_of(role: u32) -> Outcome<TextRole> {
    Ok(match role {
        _ if role == bge_text_role::None as u32 => TextRole::None,
        _ if role == bge_text_role::Query as u32 => TextRole::Query,
        _ if role == bge_text_role::Passage as u32 => TextRole::Passage,
        other => {
            return Err(bge_error::argument(
                "role",
                format!("{other} is not a bge_text_role"),
            ));
        }
    })
}

/// Opens the model that settings of kind BGE_CONFIG_KIND_EMBED name (embedder_name_or_path).
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_embedder_open(
    config: Option<&bge_config>,
    out: Option<&mut MaybeUninit<*mut bge_embedder>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let config = required(config, "config")?;
        let out = required(out, "out")?;
        let Settings::Embed(arguments) = config.settings()? else {
            return Err(other_kind("BGE_CONFIG_KIND_EMBED"));
        };
        let arguments = arguments.clone().check_to_open().map_err(bge_error::refused)?;
        use_threads(arguments.threads)?;
        let embedder = Embedder::open(&arguments)?;
        arguments
            .warnings()
            .iter()
            .chain(embedder.notes())
            .for_each(log::note);
        let way = Way::Straight(Box::new(embedder));
        let health = Health::default();
        give(out, bge_embedder { way, health });
        Ok(())
    })
}

/// Makes an embedder join the requests of several threads: up to `max_batch` texts are encoded together, and the first
/// request of an idle embedder waits up to `max_wait_us` microseconds, a second at most, for others. Vectors do not
/// change by it. Call it before other threads use the embedder; calling it again changes the limits.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_embedder_coalesce(
    embedder: Option<&mut bge_embedder>,
    max_batch: usize,
    max_wait_us: u32,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let embedder = required(embedder, "embedder")?;
        let _entered = embedder.health.enter("embedder")?;
        if max_batch == 0 {
            return Err(bge_error::argument("max_batch", "a batch has at least one text"));
        }
        if max_wait_us > LONGEST_WAIT_US {
            let message =
                format!("{max_wait_us} microseconds; at most {LONGEST_WAIT_US}, a second, may be waited");
            return Err(bge_error::argument("max_wait_us", message));
        }
        let limits = QueueLimits {
            max_batch,
            max_wait: Duration::from_micros(u64::from(max_wait_us)),
        };
        let model = match &embedder.way {
            Way::Straight(model) => model.as_ref().clone(),
            Way::Joined(queue) => queue.embedder().clone(),
        };
        embedder.way = Way::Joined(Box::new(EncodeQueue::new(model, limits)));
        Ok(())
    })
}

/// Numbers in a vector; 0 for NULL.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_embedder_dim(embedder: Option<&bge_embedder>) -> usize {
    embedder.map_or(0, |embedder| embedder.model().dim())
}

/// What was assumed where neither the settings nor the folder said it, as a JSON array of findings.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_embedder_notes(
    embedder: Option<&bge_embedder>,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let embedder = required(embedder, "embedder")?;
        let out = required(out, "out")?;
        give_text(out, json_text(&embedder.model().notes())?);
        Ok(())
    })
}

/// Writes the vectors of `count` texts, one row of bge_embedder_dim() numbers after the other, to `out`, which has room
/// for `out_len` numbers. `role` is a bge_text_role. A text's vector does not depend on the texts around it.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's, and so are its arrays")]
#[expect(
    clippy::missing_safety_doc,
    reason = "the header says what C promises of arrays"
)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bge_embedder_encode(
    embedder: Option<&bge_embedder>,
    role: u32,
    texts: *const bge_str<'_>,
    count: usize,
    out: *mut f32,
    out_len: usize,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let embedder = required(embedder, "embedder")?;
        let _entered = embedder.health.enter("embedder")?;
        let role = role_of(role)?;
        // Before the texts are read: a count that is wrong is seldom true of both arrays.
        fits(out_len, count.saturating_mul(embedder.model().dim()), "out_len")?;
        // SAFETY: what C promises of arrays.
        let texts = unsafe { read_texts(texts, count, "texts")? };
        if out.is_null() && count > 0 {
            return Err(bge_error::null("out"));
        }
        let vectors = match &embedder.way {
            Way::Straight(model) => model.encode_role(role, &texts)?,
            Way::Joined(queue) => queue.encode(role, &texts)?,
        };
        // SAFETY: what C promises of arrays.
        unsafe { fill(out, out_len, &vectors.data, "out") }
    })
}

/// Frees an embedder that no call is using. NULL is fine.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_embedder_free(embedder: Option<Box<bge_embedder>>) {
    drop(embedder);
}
