//! The functions as a host calls them: hostile, from many threads, in the wrong order.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
#![expect(unsafe_code, reason = "tests do what C does")]

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};

use bge::{
    bge_config, bge_config_free, bge_config_get, bge_config_kind, bge_config_new, bge_config_set,
    bge_embedder, bge_embedder_coalesce, bge_embedder_dim, bge_embedder_encode, bge_embedder_free,
    bge_embedder_open, bge_error, bge_error_free, bge_error_message, bge_error_status, bge_mine,
    bge_reranker_score, bge_status, bge_str, bge_text_free, bge_trainer_run, bge_trainer_stop, bge_validate,
    bge_validator_push,
};

fn config(name: &str, value: &str) -> Box<bge_config> {
    let mut out = MaybeUninit::uninit();
    let kind = bge_config_kind::Embed as u32;
    assert_eq!(bge_config_new(kind, Some(&mut out), None), bge_status::Ok);
    // SAFETY: an `out` of a call that went well is a Box's.
    let mut config = unsafe { Box::from_raw(out.assume_init()) };
    let status = bge_config_set(Some(&mut config), bge_str::of(name), bge_str::of(value), None);
    assert_eq!(status, bge_status::Ok);
    config
}

#[expect(clippy::unnecessary_box_returns, reason = "C gets its handles in boxes")]
fn embedder() -> Box<bge_embedder> {
    let model = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/fixtures/parity/models/bert"
    );
    let config = config("embedder_name_or_path", model);
    let mut out = MaybeUninit::uninit();
    assert_eq!(
        bge_embedder_open(Some(&config), Some(&mut out), None),
        bge_status::Ok
    );
    bge_config_free(Some(config));
    // SAFETY: as above.
    unsafe { Box::from_raw(out.assume_init()) }
}

fn encode(embedder: &bge_embedder, texts: &[bge_str<'_>]) -> Vec<f32> {
    let mut rows = vec![f32::NAN; texts.len() * bge_embedder_dim(Some(embedder))];
    // SAFETY: pointers and lengths belong together.
    let status = unsafe {
        bge_embedder_encode(
            Some(embedder),
            1,
            texts.as_ptr(),
            texts.len(),
            rows.as_mut_ptr(),
            rows.len(),
            None,
        )
    };
    assert_eq!(status, bge_status::Ok);
    rows
}

#[test]
fn encoding_refuses_null_and_impossible_lengths_and_writes_nothing() {
    let embedder = embedder();
    let texts = [bge_str::of("a"), bge_str::of("b")];
    let mut rows = vec![7.0_f32; 64];
    let place = rows.as_mut_ptr();
    // SAFETY: what is wrong here is found before it is read.
    let call = |embedder, role, first, count, out, room| unsafe {
        bge_embedder_encode(embedder, role, first, count, out, room, None)
    };
    let some = Some(embedder.as_ref());
    assert_eq!(
        call(None, 0, texts.as_ptr(), 2, place, 64),
        bge_status::NullPointer
    );
    assert_eq!(call(some, 0, null(), 2, place, 64), bge_status::NullPointer);
    assert_eq!(
        call(some, 0, texts.as_ptr(), 2, null_mut(), 64),
        bge_status::NullPointer
    );
    for (role, count, room) in [
        (0, usize::MAX, 64),
        (0, 2, 63),
        (9, 2, 64),
        (u32::MAX, 2, 64),
        (0, usize::MAX / 4, usize::MAX),
    ] {
        assert_eq!(
            call(some, role, texts.as_ptr(), count, place, room),
            bge_status::InvalidArgument
        );
    }
    assert_eq!(call(some, 0, null(), 0, null_mut(), 0), bge_status::Ok);
    assert!(rows.iter().all(|x| *x == 7.0));
    bge_embedder_free(Some(embedder));
}

#[test]
fn null_is_answered_everywhere() {
    let nothing: *mut c_void = null_mut();
    assert_eq!(bge_config_new(1, None, None), bge_status::NullPointer);
    assert_eq!(bge_embedder_open(None, None, None), bge_status::NullPointer);
    assert_eq!(bge_embedder_coalesce(None, 1, 1, None), bge_status::NullPointer);
    assert_eq!(
        bge_validate(None, None, nothing, None, None),
        bge_status::NullPointer
    );
    assert_eq!(bge_mine(None, None, nothing, None, None), bge_status::NullPointer);
    assert_eq!(
        bge_trainer_run(None, None, nothing, None, None),
        bge_status::NullPointer
    );
    // SAFETY: NULL is not read.
    unsafe {
        assert_eq!(
            bge_reranker_score(None, null(), null(), 1, null_mut(), 1, None),
            bge_status::NullPointer
        );
        assert_eq!(bge_validator_push(None, null(), 1, None), bge_status::NullPointer);
    }
    bge_trainer_stop(None);
    bge_embedder_free(None);
    bge_text_free(None);
    bge_error_free(None);
    assert_eq!(bge_error_status(None), bge_status::Ok);
}

#[test]
fn an_error_names_the_nearest_setting() {
    let mut config = config("embedder_name_or_path", "x");
    let mut error: MaybeUninit<*mut bge_error> = MaybeUninit::uninit();
    let status = bge_config_set(
        Some(&mut config),
        bge_str::of("batch_sise"),
        bge_str::of("8"),
        Some(&mut error),
    );
    assert_eq!(status, bge_status::UnknownFlag);
    // SAFETY: a status other than OK has written an error.
    let error = unsafe { Box::from_raw(error.assume_init()) };
    let message = format!("{error:?}");
    assert!(message.contains("batch_size"), "{message}");
    let _borrowed = bge_error_message(Some(&error));
    bge_error_free(Some(error));
    bge_config_free(Some(config));
}

#[test]
fn validation_finds_a_tokenizer_by_name_in_cache_dir() {
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().join("models--org--name");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = named.join("snapshots").join(commit);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir(named.join("refs")).unwrap();
    std::fs::write(named.join("refs/main"), commit).unwrap();
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for file in ["config.json", "tokenizer.json"] {
        let from = format!("{tests}/tests/fixtures/parity/models/bert/{file}");
        std::fs::copy(from, snapshot.join(file)).unwrap();
    }
    let mut out = MaybeUninit::uninit();
    let kind = bge_config_kind::Finetune as u32;
    assert_eq!(bge_config_new(kind, Some(&mut out), None), bge_status::Ok);
    // SAFETY: an `out` of a call that went well is a Box's.
    let mut config = unsafe { Box::from_raw(out.assume_init()) };
    for (name, value) in [
        ("train_data", format!("{tests}/examples/data/toy.jsonl").as_str()),
        ("tokenizer_name", "org/name"),
        ("cache_dir", folder.path().to_str().unwrap()),
    ] {
        let status = bge_config_set(Some(&mut config), bge_str::of(name), bge_str::of(value), None);
        assert_eq!(status, bge_status::Ok, "{name}");
    }
    let mut report = MaybeUninit::uninit();
    let status = bge_validate(Some(&config), None, null_mut(), Some(&mut report), None);
    assert_eq!(status, bge_status::Ok);
    // SAFETY: as above.
    bge_text_free(Some(unsafe { Box::from_raw(report.assume_init()) }));
    bge_config_free(Some(config));
}

#[test]
fn a_setting_is_read_under_the_names_it_is_set_under() {
    let config = config("--batch_size", "8");
    for name in ["batch_size", "--batch_size"] {
        let mut out = MaybeUninit::uninit();
        let status = bge_config_get(Some(&config), bge_str::of(name), Some(&mut out), None);
        assert_eq!(status, bge_status::Ok, "{name}");
        // SAFETY: an `out` of a call that went well is a Box's.
        let text = unsafe { Box::from_raw(out.assume_init()) };
        assert!(format!("{text:?}").contains('8'), "{name}: {text:?}");
        bge_text_free(Some(text));
    }
    bge_config_free(Some(config));
}

#[test]
fn requests_wait_for_others_a_second_at_most() {
    let mut embedder = embedder();
    let mut coalesce =
        |max_batch, max_wait_us| bge_embedder_coalesce(Some(&mut embedder), max_batch, max_wait_us, None);
    assert_eq!(coalesce(0, 1), bge_status::InvalidArgument);
    for too_long in [1_000_001, u32::MAX] {
        assert_eq!(coalesce(8, too_long), bge_status::InvalidArgument);
    }
    assert_eq!(coalesce(usize::MAX, 0), bge_status::Ok);
    assert_eq!(encode(&embedder, &[bge_str::of("a text")]).len(), 32);
    bge_embedder_free(Some(embedder));
}

#[test]
fn sixteen_threads_get_the_same_bytes_joined_or_not_while_others_open_and_free() {
    let mut shared = embedder();
    let texts: Vec<String> = (0..16).map(|i| format!("text {i} of the moon")).collect();
    let want: Vec<Vec<f32>> = texts
        .iter()
        .map(|text| encode(&shared, &[bge_str::of(text)]))
        .collect();
    for joined in [false, true] {
        if joined {
            assert_eq!(
                bge_embedder_coalesce(Some(&mut shared), 8, 300, None),
                bge_status::Ok
            );
        }
        let shared = &shared;
        std::thread::scope(|threads| {
            for (text, want) in texts.iter().zip(&want) {
                threads.spawn(move || {
                    for _ in 0..10 {
                        assert!(encode(shared, &[bge_str::of(text)]) == *want, "{text}");
                    }
                });
            }
            for _ in 0..2 {
                threads.spawn(|| (0..3).for_each(|_| bge_embedder_free(Some(embedder()))));
            }
        });
    }
    bge_embedder_free(Some(shared));
}
