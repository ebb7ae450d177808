//! The border: a panic becomes a status, an error an object of C's.

use std::any::Any;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{ErrorOut, Outcome, bge_error};
use crate::log;
use crate::status::bge_status;

/// Calls from C that are under way: while there is one, panics go to the log instead of standard error.
static CALLS: AtomicUsize = AtomicUsize::new(0);
static HOOK: Once = Once::new();

/// Runs the body of a function that C called.
pub(crate) fn guard(error: ErrorOut<'_>, body: impl FnOnce() -> Outcome) -> bge_status {
    let outcome = quietly(body).unwrap_or_else(|panic| {
        let message = format!(
            "bge panicked, which is a bug in it: {}; free the handles of this call",
            words(panic.as_ref())
        );
        Err(bge_error::new(bge_status::Panic, message))
    });
    match outcome {
        Ok(()) => bge_status::Ok,
        Err(failure) => {
            let status = failure.status;
            if let Some(error) = error {
                error.write(Box::into_raw(failure));
            }
            status
        }
    }
}

/// Catches panics, which the log hears of.
fn quietly<T>(body: impl FnOnce() -> T) -> std::thread::Result<T> {
    HOOK.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if CALLS.load(Ordering::SeqCst) == 0 {
                earlier(info);
            } else {
                log::say(log::bge_log_level::Error, &info.to_string());
            }
        }));
    });
    CALLS.fetch_add(1, Ordering::SeqCst);
    // Handles see for themselves whether they were in use: `handle::Entered`.
    let outcome = catch_unwind(AssertUnwindSafe(body));
    CALLS.fetch_sub(1, Ordering::SeqCst);
    outcome
}

fn words(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without words")
}

/// Hands an object over to C.
pub(crate) fn give<T>(place: &mut MaybeUninit<*mut T>, value: T) {
    place.write(Box::into_raw(Box::new(value)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::Health;

    #[test]
    fn a_panic_becomes_a_status_and_poisons_the_handle() {
        let health = Health::default();
        let mut error = MaybeUninit::uninit();
        let status = guard(Some(&mut error), || {
            let _entered = health.enter("handle")?;
            panic!("on purpose");
        });
        assert_eq!(status, bge_status::Panic);
        #[expect(unsafe_code, reason = "what was given to C is taken back")]
        // SAFETY: a status other than OK has written an error, made by a Box.
        let error = unsafe { Box::from_raw(error.assume_init()) };
        let message = crate::error::bge_error_message(Some(&error));
        assert!(message.text("").unwrap().contains("on purpose"));
        let again = guard(None, || health.enter("handle").map(|_| ()));
        assert_eq!(again, bge_status::Poisoned);
    }

    #[test]
    fn an_error_leaves_the_handle_sound() {
        let health = Health::default();
        let status = guard(None, || {
            let _entered = health.enter("handle")?;
            Err(bge_error::null("x"))
        });
        assert_eq!(status, bge_status::NullPointer);
        assert_eq!(guard(None, || health.enter("handle").map(|_| ())), bge_status::Ok);
    }
}
