//! Trains one step of a model of bge-m3's shape with random weights and prints the most memory that it took.
//!
//! Arguments: queries, passages of each, tokens of every text (`2 2 2048`); the numbers behind them, if given, replace the
//! layers, the width, the heads, the feed-forward width and the rows of the word table (`24 1024 16 4096 250002`). Gradient
//! checkpointing and `unified_finetuning` are on, dropout is bge-m3's, the allocator is that of `bge`. Prints a line of JSON;
//! the peak is Linux's `VmHWM`.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use bge_core::config::TrainingArguments;
use bge_core::models::{EncoderConfig, M3};
use bge_core::random::{Draws, Stream, key};
use bge_core::tokenize::TokenBatch;
use bge_core::train::{Stepper, TrainBatch};
use candle_core::{Device, Tensor};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay`, as the command sets it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Ids of `<s>`, `</s>`, `<pad>` and `<unk>`.
const SPECIAL: [u32; 4] = [0, 2, 1, 3];

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    #[expect(unsafe_code, reason = "the allocator's settings are a C function")]
    // SAFETY: setting an option is allowed at any time, from any thread.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
    }
    let args = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let numbers: Vec<usize> = args.map(|argument| argument.parse()).collect::<Result<_, _>>()?;
    let [queries, group, tokens, shape @ ..] = numbers.as_slice() else {
        return Ok(()); // `cargo bench` and `cargo test` run this without arguments
    };
    let mut sizes = [24, 1024, 16, 4096, 250_002];
    for (size, given) in sizes.iter_mut().zip(shape) {
        *size = *given;
    }
    let model = model(sizes)?;
    let weights: usize = model
        .params()
        .iter()
        .map(|(_, value, _)| value.elem_count())
        .sum();
    let loaded = peak_kib();
    let arguments = TrainingArguments {
        unified_finetuning: true,
        gradient_checkpointing: true,
        ..TrainingArguments::default()
    };
    let mut stepper = Stepper::m3(model, &arguments, 1, SPECIAL.to_vec())?;
    let batch = TrainBatch {
        queries: texts(*queries, *tokens, sizes[4], 1)?,
        passages: texts(queries * group, *tokens, sizes[4], 2)?,
        no_in_batch_neg: false,
        teacher_scores: None,
    };
    let start = Instant::now();
    let report = stepper.step(&[batch])?;
    #[expect(clippy::print_stdout, reason = "this is what it is for")]
    {
        println!(
            "{{\"weights\": {weights}, \"tokens\": {}, \"loss\": {}, \"grad_norm\": {}, \"seconds\": {:.1}, \
             \"peak_gib_after_loading\": {:.2}, \"peak_gib\": {:.2}}}",
            report.tokens,
            report.loss,
            report.grad_norm,
            start.elapsed().as_secs_f64(),
            gib(loaded),
            gib(peak_kib())
        );
    }
    Ok(())
}

/// XLM-RoBERTa of these layers, width, heads, feed-forward width and words, with both heads and bge-m3's 8,194 positions.
fn model([layers, width, heads, inner, words]: [usize; 5]) -> Outcome<M3> {
    let config = EncoderConfig::parse(&format!(
        "{{\"model_type\": \"xlm-roberta\", \"vocab_size\": {words}, \"hidden_size\": {width}, \
         \"num_hidden_layers\": {layers}, \"num_attention_heads\": {heads}, \"intermediate_size\": {inner}, \
         \"max_position_embeddings\": 8194, \"type_vocab_size\": 1, \"layer_norm_eps\": 1e-5, \"pad_token_id\": 1}}"
    ))?;
    let mut weights = BTreeMap::new();
    let mut table = |name: &str, rows: usize, columns: usize| -> Outcome<()> {
        let mut draws = Draws::new(key(42, Stream::Init, weights.len() as u64));
        let values = (0..rows * columns)
            .map(|_| (draws.unit() as f32 - 0.5) * 0.07)
            .collect();
        let value = Tensor::from_vec::<_, f32>(values, (rows, columns), &Device::Cpu)?;
        weights.insert(format!("{name}.weight"), value);
        Ok(())
    };
    for (name, rows) in [("word", words), ("position", 8194), ("token_type", 1)] {
        table(&format!("embeddings.{name}_embeddings"), rows, width)?;
    }
    let mut maps = vec![
        ("sparse_linear".to_owned(), 1),
        ("colbert_linear".to_owned(), width),
    ];
    table("sparse_linear", 1, width)?;
    table("colbert_linear", width, width)?;
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in 0..layers {
        for (part, outputs, inputs) in [
            ("attention.self.query", width, width),
            ("attention.self.key", width, width),
            ("attention.self.value", width, width),
            ("attention.output.dense", width, width),
            ("intermediate.dense", inner, width),
            ("output.dense", width, inner),
        ] {
            let name = format!("encoder.layer.{layer}.{part}");
            table(&name, outputs, inputs)?;
            maps.push((name, outputs));
        }
        norms.extend(
            ["attention.output", "output"].map(|part| format!("encoder.layer.{layer}.{part}.LayerNorm")),
        );
    }
    let mut vector = |name: String, length: usize, value: f32| -> Outcome<()> {
        weights.insert(name, Tensor::from_vec(vec![value; length], length, &Device::Cpu)?);
        Ok(())
    };
    for (name, outputs) in maps {
        vector(format!("{name}.bias"), outputs, 0.0)?;
    }
    for name in norms {
        vector(format!("{name}.weight"), width, 1.0)?;
        vector(format!("{name}.bias"), width, 0.0)?;
    }
    Ok(M3::new(config, weights)?)
}

/// Texts of random words, all of one length.
fn texts(count: usize, tokens: usize, words: usize, seed: u64) -> Outcome<TokenBatch> {
    let mut draws = Draws::new(key(seed, Stream::Init, 0));
    let mut text = || (0..tokens).map(|_| 4 + draws.below(words - 4) as u32).collect();
    let rows: Vec<Vec<u32>> = (0..count).map(|_| text()).collect();
    Ok(TokenBatch::from_rows(&rows)?)
}

/// The most memory that this process has had, in KiB; 0 where Linux does not tell.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn gib(kib: u64) -> f64 {
    kib as f64 / f64::from(1 << 20)
}
