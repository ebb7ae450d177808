//! What the C interface costs: the same 32 texts through `Embedder` and through `bge_embedder_encode`, in turn.
//!
//! Arguments: a model folder and the number of rounds (`tests/fixtures/parity/models/bert 200`). Prints a line of JSON: the
//! medians in microseconds, and the median of the ratios of C to Rust, each within one round. The vectors must be the same
//! bytes.
#![expect(unsafe_code, reason = "does what C does")]

use std::error::Error;
use std::hint::black_box;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use bge::{
    bge_config, bge_config_free, bge_config_kind, bge_config_new, bge_config_set, bge_embedder,
    bge_embedder_dim, bge_embedder_encode, bge_embedder_free, bge_embedder_open, bge_status, bge_str,
    bge_text_role,
};
use bge_core::Embedder;
use bge_core::config::{EmbedArguments, TextRole};

type Outcome<T> = Result<T, Box<dyn Error>>;

const BATCH: usize = 32;

fn done(status: bge_status) -> Outcome<()> {
    match status {
        bge_status::Ok => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn open(model: &str) -> Outcome<Box<bge_embedder>> {
    let mut made = MaybeUninit::uninit();
    done(bge_config_new(
        bge_config_kind::Embed as u32,
        Some(&mut made),
        None,
    ))?;
    // SAFETY: an `out` of a call that went well is a Box's.
    let mut config: Box<bge_config> = unsafe { Box::from_raw(made.assume_init()) };
    let name = bge_str::of("embedder_name_or_path");
    done(bge_config_set(Some(&mut config), name, bge_str::of(model), None))?;
    let mut opened = MaybeUninit::uninit();
    done(bge_embedder_open(Some(&config), Some(&mut opened), None))?;
    bge_config_free(Some(config));
    // SAFETY: as above.
    Ok(unsafe { Box::from_raw(opened.assume_init()) })
}

fn timed<T>(body: impl FnOnce() -> Outcome<T>) -> Outcome<(T, Duration)> {
    let begun = Instant::now();
    let value = body()?;
    Ok((value, begun.elapsed()))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let [model, rounds] = args.as_slice() else {
        return Ok(()); // `cargo bench` and `cargo test` run this without arguments
    };
    let rust = Embedder::from_finetuned(model, &EmbedArguments::default())?;
    let c = open(model)?;
    let texts: Vec<String> = (0..BATCH)
        .map(|i| format!("what is known of question {i}, and how does salt lower the melting point of ice?"))
        .collect();
    let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
    let dim = bge_embedder_dim(Some(&c));
    let through_rust = || Ok(black_box(rust.encode_role(TextRole::Query, &borrowed)?).data);
    let through_c = || {
        let lent: Vec<bge_str<'_>> = texts.iter().map(|text| bge_str::of(text)).collect();
        let mut rows = vec![0.0_f32; BATCH * dim];
        let role = bge_text_role::Query as u32;
        // SAFETY: pointers and lengths belong together.
        let status = unsafe {
            bge_embedder_encode(
                Some(&c),
                role,
                lent.as_ptr(),
                lent.len(),
                rows.as_mut_ptr(),
                rows.len(),
                None,
            )
        };
        done(status)?;
        Ok(black_box(rows))
    };
    let (mut ratios, mut of_rust, mut of_c) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds.parse::<usize>()? + 3 {
        let ((first, rust_time), (second, c_time)) = if round % 2 == 0 {
            let first = timed(through_rust)?;
            (first, timed(through_c)?)
        } else {
            let second = timed(through_c)?;
            (timed(through_rust)?, second)
        };
        if first != second {
            return Err("C and Rust give different bytes".into());
        }
        if round >= 3 {
            ratios.push(c_time.as_secs_f64() / rust_time.as_secs_f64());
            of_rust.push(rust_time.as_secs_f64() * 1e6);
            of_c.push(c_time.as_secs_f64() * 1e6);
        }
    }
    bge_embedder_free(Some(c));
    writeln!(
        std::io::stdout(),
        "{{\"texts\": {BATCH}, \"rounds\": {rounds}, \"rust_us\": {:.1}, \"c_us\": {:.1}, \"ratio\": {:.4}}}",
        median(of_rust),
        median(of_c),
        median(ratios)
    )?;
    Ok(())
}
