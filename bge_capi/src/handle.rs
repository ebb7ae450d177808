//! What the objects of C have in common: they know whether a panic broke them.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Outcome, bge_error};
use crate::guard::give;
use crate::status::bge_status;
use crate::text::bge_str;

/// Whether a handle may still be used.
#[derive(Debug, Default)]
pub(crate) struct Health(AtomicBool);

/// A handle in use; a panic before it is dropped poisons the handle.
#[derive(Debug)]
pub(crate) struct Entered<'a>(&'a AtomicBool);

impl Health {
    /// Begins a use.
    pub(crate) fn enter(&self, parameter: &str) -> Outcome<Entered<'_>> {
        if self.0.load(Ordering::SeqCst) {
            let message =
                format!("`{parameter}`: an earlier call panicked; free the handle and make a new one");
            return Err(bge_error::new(bge_status::Poisoned, message));
        }
        Ok(Entered(&self.0))
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// A text that the caller owns; freed with bge_text_free.
#[derive(Debug)]
pub struct bge_text(String);

/// Hands a text over to C.
pub(crate) fn give_text(place: &mut MaybeUninit<*mut bge_text>, text: String) {
    give(place, bge_text(text));
}

/// The text itself, borrowed from its owner; empty for NULL.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_text_view(text: Option<&bge_text>) -> bge_str<'_> {
    bge_str::of(text.map_or("", |text| &text.0))
}

/// Frees a text. NULL is fine.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_text_free(text: Option<Box<bge_text>>) {
    drop(text);
}
