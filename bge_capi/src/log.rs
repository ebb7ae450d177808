//! What the library would like to say: nothing, until a host listens.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

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

/// Hears a message, which is borrowed for the call. Comes from whichever thread has something to say, from several at once
/// too. May call the library, which may then have something to say again; must not throw or jump out.
pub type bge_log_fn = Option<extern "C" fn(user_data: *mut c_void, level: u32, message: bge_str<'_>)>;

/// Frees what a callback was given. NULL where there is nothing to free.
pub type bge_destroy_fn = Option<extern "C" fn(user_data: *mut c_void)>;

struct Listener {
    say: bge_log_fn,
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

#[expect(unsafe_code, reason = "several threads may have something to say at once")]
// SAFETY: as above.
unsafe impl Sync for Pointer {}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(destroy) = self.destroy {
            destroy(self.user_data.0);
        }
    }
}

static LISTENER: Mutex<Option<Arc<Listener>>> = Mutex::new(None);

/// Passes a message to the host.
pub(crate) fn say(level: bge_log_level, message: &str) {
    // Not locked during the call, as the host may call the library from there.
    let listener = LISTENER.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(listener) = listener.filter(|listener| level as u32 <= listener.level)
        && let Some(say) = listener.say
    {
        say(listener.user_data.0, level as u32, bge_str::of(message));
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
/// Messages up to `level` (a bge_log_level) are heard. `destroy` is called with `user_data` once it has been replaced and no
/// thread is in the callback any more, or at once where there is no callback; until then `user_data` must stay.
/// May be called at any time from any thread, from the callback too.
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
    let next = Arc::new(Listener {
        say: on_message,
        destroy,
        user_data: Pointer(user_data),
        level,
    });
    let next = Some(next).filter(|next| next.say.is_some());
    let earlier = std::mem::replace(
        &mut *LISTENER.lock().unwrap_or_else(PoisonError::into_inner),
        next,
    );
    // Here, where nothing is locked, it may call `destroy`.
    drop(earlier);
}

#[cfg(test)]
mod tests {
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    static HEARD: AtomicUsize = AtomicUsize::new(0);
    static DESTROYED: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn hear(_: *mut c_void, _: u32, _: bge_str<'_>) {
        if HEARD.fetch_add(1, Ordering::SeqCst) == 0 {
            say(bge_log_level::Warning, "said from within");
            bge_log_set(None, null_mut(), 0, None);
            assert_eq!(DESTROYED.load(Ordering::SeqCst), 0, "while it is used");
        }
    }

    extern "C" fn destroy(_: *mut c_void) {
        DESTROYED.fetch_add(1, Ordering::SeqCst);
    }

    #[test]
    fn a_callback_may_call_the_library_and_what_it_was_given_is_freed_after_it() {
        bge_log_set(Some(hear), null_mut(), bge_log_level::Info as u32, Some(destroy));
        say(bge_log_level::Warning, "said");
        assert!(HEARD.load(Ordering::SeqCst) >= 2);
        assert_eq!(DESTROYED.load(Ordering::SeqCst), 1);
        bge_log_set(None, null_mut(), 0, Some(destroy));
        assert_eq!(DESTROYED.load(Ordering::SeqCst), 2, "nobody will use it");
    }
}
