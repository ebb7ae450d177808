//! Calls of the C interface in an order, with texts, numbers, NULLs and lengths, that the bytes decide.
//!
//! What must hold: nothing is read or written that is not lent (`AddressSanitizer` watches), a panic never reaches the border
//! (`Panic` is a failure here), an error has a message, and `out` is written on success only. Functions that run files are left
//! to `tests/hostile.rs`.
#![no_main]

use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use bge::*;
use libfuzzer_sys::fuzz_target;

/// Bytes that become the arguments of calls; zeros when they have run out.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// A number that is small, or as large as can be.
    fn number(&mut self) -> u32 {
        match self.byte() {
            255 => u32::MAX,
            byte => u32::from(byte % 12),
        }
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()) * if self.byte() == 7 { 64 } else { 1 };
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A text that is true, or NULL with a length, or longer than memory.
    fn text(&mut self) -> bge_str<'a> {
        let kind = self.byte();
        let bytes = self.bytes();
        // SAFETY: what is not true here cannot be: NULL, or more than any allocation has.
        unsafe {
            match kind {
                0 => bge_str::from_raw(null(), bytes.len()),
                1 => bge_str::from_raw(bytes.as_ptr(), usize::MAX),
                _ => bge_str::from_raw(bytes.as_ptr(), bytes.len()),
            }
        }
    }

    /// The name of a setting, or any text.
    fn name(&mut self) -> bge_str<'a> {
        const NAMES: [&str; 10] = [
            "train_data",
            "learning_rate",
            "max_steps",
            "train_group_size",
            "query_max_len",
            "matryoshka_dims",
            "embedder_name_or_path",
            "batch_size",
            "weights",
            "deepspeed",
        ];
        match NAMES.get(usize::from(self.byte())) {
            Some(name) => bge_str::of(name),
            None => self.text(),
        }
    }
}

/// A call that may fail: what it returned must fit what it wrote.
fn call<T>(
    body: impl FnOnce(Option<&mut MaybeUninit<*mut T>>, Option<&mut MaybeUninit<*mut bge_error>>) -> bge_status,
) -> Option<Box<T>> {
    let mut out = MaybeUninit::new(null_mut());
    let mut error = MaybeUninit::new(null_mut());
    let status = body(Some(&mut out), Some(&mut error));
    // SAFETY: both were written above; what calls write is a Box's.
    let (out, error): (*mut T, *mut bge_error) = unsafe { (out.assume_init(), error.assume_init()) };
    assert!(status != bge_status::Panic && status != bge_status::Poisoned);
    if status == bge_status::Ok {
        assert!(error.is_null());
        return (!out.is_null()).then(|| unsafe { Box::from_raw(out) });
    }
    assert!(out.is_null() && !error.is_null());
    // SAFETY: as above.
    let error = unsafe { Box::from_raw(error) };
    assert_eq!(bge_error_status(Some(&error)), status);
    for text in [bge_error_message, bge_error_path, bge_error_field, bge_error_issues] {
        let _borrowed = text(Some(&error));
    }
    bge_error_free(Some(error));
    None
}

/// A call whose answer is a text.
fn answer(
    body: impl FnOnce(Option<&mut MaybeUninit<*mut bge_text>>, Option<&mut MaybeUninit<*mut bge_error>>) -> bge_status,
) {
    bge_text_free(call(body));
}

/// One tiny model for all runs. Vectors do not depend on the runs before.
fn model() -> &'static bge_embedder {
    static MODEL: OnceLock<Box<bge_embedder>> = OnceLock::new();
    MODEL.get_or_init(|| {
        let mut config = call(|out, error| bge_config_new(bge_config_kind::Embed as u32, out, error)).unwrap();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/parity/models/bert");
        let name = bge_str::of("embedder_name_or_path");
        assert_eq!(bge_config_set(Some(&mut config), name, bge_str::of(folder), None), bge_status::Ok);
        let opened = call(|out, error| bge_embedder_open(Some(&config), out, error)).unwrap();
        bge_config_free(Some(config));
        opened
    })
}

fn encode(words: &mut Words<'_>) {
    let texts: Vec<bge_str<'_>> = (0..words.byte() % 4).map(|_| words.text()).collect();
    let role = words.number();
    let needed = texts.len() * bge_embedder_dim(Some(model()));
    let count = match words.byte() {
        0 => usize::MAX,
        1 => usize::MAX / size_of::<bge_str<'_>>(),
        _ => texts.len(),
    };
    let room = needed.saturating_sub(usize::from(words.byte() % 2));
    let mut rows = vec![f32::NAN; room];
    let first = if words.byte() == 0 { null() } else { texts.as_ptr() };
    let place = if words.byte() == 0 { null_mut() } else { rows.as_mut_ptr() };
    // SAFETY: what is wrong here is found before it is read, or is true.
    let _: Option<Box<bge_text>> =
        call(|_, error| unsafe { bge_embedder_encode(Some(model()), role, first, count, place, room, error) });
}

fuzz_target!(|bytes: &[u8]| {
    let mut words = Words(bytes);
    let mut config: Option<Box<bge_config>> = None;
    let mut validator: Option<Box<bge_validator>> = None;
    while !words.0.is_empty() {
        match words.byte() % 11 {
            0 => {
                bge_config_free(config.take());
                let kind = words.number();
                config = call(|out, error| bge_config_new(kind, out, error));
            }
            1 => {
                bge_config_free(config.take());
                let (kind, format, text) = (words.number(), words.number(), words.text());
                config = call(|out, error| bge_config_parse(kind, format, text, out, error));
            }
            2 => {
                let (name, value) = (words.name(), words.text());
                let _: Option<Box<bge_text>> =
                    call(|_, error| bge_config_set(config.as_deref_mut(), name, value, error));
            }
            3 => {
                let name = words.name();
                answer(|out, error| bge_config_get(config.as_deref(), name, out, error));
            }
            4 => answer(|out, error| bge_config_check(config.as_deref(), out, error)),
            5 => {
                let format = words.number();
                answer(|out, error| bge_config_render(config.as_deref(), format, out, error));
            }
            6 => answer(|out, error| bge_config_schema(config.as_deref(), out, error)),
            7 => {
                bge_validator_free(validator.take());
                let name = words.text();
                validator = call(|out, error| bge_validator_new(config.as_deref(), name, out, error));
            }
            8 => {
                let bytes = words.bytes();
                let len = if words.byte() == 0 { usize::MAX } else { bytes.len() };
                // SAFETY: the length is true, or more than memory has.
                let _: Option<Box<bge_text>> = call(|_, error| unsafe {
                    bge_validator_push(validator.as_deref_mut(), bytes.as_ptr(), len, error)
                });
            }
            9 => answer(|out, error| bge_validator_finish(validator.as_deref_mut(), out, error)),
            _ => encode(&mut words),
        }
    }
    bge_config_free(config);
    bge_validator_free(validator);
});
