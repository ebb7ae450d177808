//! What the library would like to say: nothing, until a host listens.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use bge_core::{Issue, Severity};

use crate::text::bge_str;

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum bge_log_level {
    /// Something failed.
    Error = 1,
    /// Something is worth a look.
    Warning = 2,
    /// Good to know.
    Info = 3,
}

/// Hears a message, which is borrowed for the call. Comes from whichever thread has something to say, one message at a
/// time; must not call bge_log_set, throw or jump out.
pub type bge_log_fn = Option<extern "C" fn(user_data: *mut c_void, level: u32, message: bge_str<'_>)>;

/// Frees what a callback was given. NULL where there is nothing to free.
pub type bge_destroy_fn = Option<extern "C" fn(user_data: *mut c_void)>;

struct Listener {
    say: extern "C" fn(*mut c_void, u32, bge_str<'_>),
    destroy: bge_destroy_fn,
    user_data: Pointer,
    level: u32,
}

/// A pointer that only the host follows.
struct Pointer(*mut c_void);

#[expect(
    unsafe_code,
    reason = "the host's pointer goes to whichever thread has something to say"
)]
// SAFETY: it is handed back to the host and never followed; the header says that any thread may do so.
unsafe impl Send for Pointer {}

static LISTENER: Mutex<Option<Listener>> = Mutex::new(None);

/// Passes a message to the host.
pub(crate) fn say(level: bge_log_level, message: &str) {
    let listener = LISTENER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(listener) = listener
        .as_ref()
        .filter(|listener| level as u32 <= listener.level)
    {
        (listener.say)(listener.user_data.0, level as u32, bge_str::of(message));
    }
}

/// Passes a finding to the host.
pub(crate) fn note(issue: &Issue) {
    let level = match issue.severity {
        Severity::Info => bge_log_level::Info,
        Severity::Warning => bge_log_level::Warning,
        Severity::Error => bge_log_level::Error,
    };
    say(level, &issue.to_string());
}

/// Sets who hears what the library would like to say, in place of whoever heard before; NULL for nobody, as at the start.
/// Messages up to `level` (a bge_log_level) are heard. `destroy` is called with `user_data` when it is replaced.
/// May be called at any time from any thread, but not from the callback.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_log_set(
    on_message: bge_log_fn,
    user_data: *mut c_void,
    level: u32,
    destroy: bge_destroy_fn,
) {
    let next = on_message.map(|say| Listener {
        say,
        destroy,
        user_data: Pointer(user_data),
        level,
    });
    let earlier = std::mem::replace(
        &mut *LISTENER.lock().unwrap_or_else(PoisonError::into_inner),
        next,
    );
    if let Some(Listener {
        destroy: Some(destroy),
        user_data,
        ..
    }) = earlier
    {
        destroy(user_data.0);
    }
}
