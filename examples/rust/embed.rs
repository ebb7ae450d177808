//! Ranks passages for a query: `embed [MODEL_FOLDER [QUERY]]`.

#![allow(clippy::print_stdout, reason = "a program that prints")]

use bge_core::config::EmbedArguments;
use bge_core::files;
use bge_core::inference::Embedder;
use bge_examples::{toy_data, toy_model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().map_or_else(toy_model, Into::into);
    let query = args
        .next()
        .unwrap_or_else(|| "why does bread dough rise?".to_owned());

    // Pooling, prompts and lengths are the folder's own unless the arguments say otherwise.
    let embedder = Embedder::from_finetuned(&folder, &EmbedArguments::default())?;
    for note in embedder.notes() {
        println!("{note}");
    }

    let text = files::read_text(&toy_data())?;
    let mut passages = Vec::new();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let texts = row["pos"].as_array().into_iter().flatten();
        passages.extend(texts.filter_map(|text| text.as_str().map(str::to_owned)));
    }

    let queries = embedder.encode_queries(&[&query])?;
    let corpus = embedder.encode_corpus(&passages)?;

    // Vectors have length 1, so that the inner product is the cosine.
    let mut ranked: Vec<(f32, &str)> = corpus
        .rows()
        .zip(&passages)
        .map(|(row, passage)| (dot(queries.row(0), row), passage.as_str()))
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("{query}");
    for (score, passage) in ranked.iter().take(3) {
        println!("{score:.4}  {passage}");
    }
    Ok(())
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
