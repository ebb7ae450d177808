//! `bge encode`: texts to vectors.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use bge_core::config::{EmbedArguments, EncodeConfig, Module};
use bge_core::inference::{Embedder, M3Embedder, M3Outputs, M3Vectors, Vectors};
use bge_core::{Error, ErrorKind, files};
use serde_json::{Map, Value, json};

use crate::command::{Outcome, checked, print, say, settings, use_threads};
use crate::progress;

const USAGE: &str =
    "usage: bge encode --embedder_name_or_path FOLDER --input_file FILE --output_file FILE [FLAGS]\n";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let settings = settings::<EncodeConfig>(USAGE, args, Module::EncoderOnlyBase)?;
    let config = checked(settings.arguments.check())?;
    use_threads(config.embed.threads)?;
    let output = Path::new(&config.encode.output_file);
    let format = Format::of(output)?;
    let texts = read_texts(Path::new(&config.encode.input_file))?;
    let outputs = M3Outputs {
        dense: config.encode.return_dense,
        sparse: config.encode.return_sparse,
        colbert: config.encode.return_colbert_vecs,
    };
    let bar = progress::bar(texts.len() as u64, "texts");
    let advance = |done| bar.set_position(done as u64);
    let (tokens, secs, dim);
    if outputs.sparse || outputs.colbert {
        let embedder = M3Embedder::open(&config.embed)?;
        embedder.notes().iter().for_each(say);
        let started = Instant::now();
        tokens = embedder.embedder().tokenize(config.encode.role, &texts)?;
        let vectors = embedder.encode_tokens(&tokens, outputs, advance)?;
        (secs, dim) = (started.elapsed().as_secs_f64(), embedder.embedder().dim());
        write_heads(output, texts.len(), &vectors)?;
    } else {
        let embedder = open(&config.embed)?;
        let started = Instant::now();
        tokens = embedder.tokenize(config.encode.role, &texts)?;
        let vectors = embedder.encode_tokens(&tokens, advance)?;
        (secs, dim) = (started.elapsed().as_secs_f64(), vectors.dim);
        format.write(output, &vectors)?;
    }
    bar.finish_and_clear();
    let result = json!({
        "texts": texts.len(),
        "tokens": tokens.total_tokens(),
        "dim": dim,
        "secs": secs,
        "tokens_per_second": tokens.total_tokens() as f64 / secs,
        "output_file": output,
    });
    if settings.json {
        print(&format!("{result}\n"));
    } else {
        say(format!(
            "{} texts, {} tokens in {secs:.2} s ({:.0} tokens/s): {}",
            texts.len(),
            tokens.total_tokens(),
            tokens.total_tokens() as f64 / secs,
            output.display()
        ));
    }
    Ok(())
}

/// Opens the embedder that the settings name, and says what was assumed.
pub(crate) fn open(arguments: &EmbedArguments) -> Result<Embedder, Error> {
    let embedder = Embedder::open(arguments)?;
    for note in embedder.notes() {
        say(note);
    }
    Ok(embedder)
}

/// One text a line of a .txt file; else JSONL with `text` (after `title`, where there is one) or `query`.
fn read_texts(path: &Path) -> Result<Vec<String>, Error> {
    let content = files::read_text(path)?;
    let content = content.strip_prefix('\u{feff}').unwrap_or(&content);
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    if extension.eq_ignore_ascii_case("txt") {
        return Ok(content.lines().map(str::to_owned).collect());
    }
    let mut texts = Vec::new();
    for (index, line) in content
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let bad = |message: &str| {
            Error::new(ErrorKind::InvalidData, message)
                .with_path(path)
                .with_line(index as u64 + 1)
        };
        let value: Value = serde_json::from_str(line)
            .map_err(|error| bad("the line is not a JSON object").with_source(error))?;
        let field = |name: &str| value.get(name).and_then(Value::as_str);
        let text = field("text")
            .or_else(|| field("query"))
            .or_else(|| value.as_str());
        let text = text.ok_or_else(|| bad("the line has neither `text` nor `query` as a string"))?;
        texts.push(match field("title").filter(|title| !title.is_empty()) {
            Some(title) => format!("{title} {text}").trim().to_owned(),
            None => text.to_owned(),
        });
    }
    Ok(texts)
}

/// One object a text, with what was asked for under upstream's names.
fn write_heads(path: &Path, texts: usize, vectors: &M3Vectors) -> Result<(), Error> {
    files::write_whole(path, |file| {
        for text in 0..texts {
            let mut line = Map::new();
            if let Some(dense) = &vectors.dense_vecs {
                line.insert("dense_vecs".to_owned(), json!(dense.row(text)));
            }
            if let Some(weights) = vectors.lexical_weights.as_ref().and_then(|all| all.get(text)) {
                line.insert("lexical_weights".to_owned(), json!(weights));
            }
            if let Some(rows) = vectors.colbert_vecs.as_ref().and_then(|all| all.get(text)) {
                line.insert("colbert_vecs".to_owned(), rows.rows().collect());
            }
            serde_json::to_writer(&mut *file, &line)?;
            file.write_all(b"\n")?;
        }
        Ok(())
    })
}

/// The form of the output, by its extension.
#[derive(Clone, Copy)]
enum Format {
    Npy,
    Safetensors,
    Jsonl,
}

impl Format {
    fn of(path: &Path) -> Result<Self, Error> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("safetensors") => Ok(Self::Safetensors),
            Some("jsonl") => Ok(Self::Jsonl),
            _ => {
                let message = "the name must end in .npy, .safetensors or .jsonl";
                Err(Error::new(ErrorKind::InvalidConfig, message)
                    .with_path(path)
                    .with_field("output_file"))
            }
        }
    }

    fn write(self, path: &Path, vectors: &Vectors) -> Result<(), Error> {
        files::write_whole(path, |file| match self {
            Self::Npy => {
                let mut header = format!(
                    "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}",
                    vectors.len(),
                    vectors.dim
                );
                while (header.len() + 11) % 64 != 0 {
                    header.push(' ');
                }
                header.push('\n');
                file.write_all(b"\x93NUMPY\x01\x00")?;
                file.write_all(&(header.len() as u16).to_le_bytes())?;
                file.write_all(header.as_bytes())?;
                write_floats(file, &vectors.data)
            }
            Self::Safetensors => {
                let header = json!({ "dense_vecs": {
                    "dtype": "F32", "shape": [vectors.len(), vectors.dim], "data_offsets": [0, vectors.data.len() * 4]
                }});
                let mut header = header.to_string();
                while !header.len().is_multiple_of(8) {
                    header.push(' ');
                }
                file.write_all(&(header.len() as u64).to_le_bytes())?;
                file.write_all(header.as_bytes())?;
                write_floats(file, &vectors.data)
            }
            Self::Jsonl => vectors.rows().try_for_each(|row| {
                serde_json::to_writer(&mut *file, &json!({ "dense_vecs": row }))?;
                file.write_all(b"\n")
            }),
        })
    }
}

fn write_floats(file: &mut impl Write, values: &[f32]) -> std::io::Result<()> {
    values
        .iter()
        .try_for_each(|value| file.write_all(&value.to_le_bytes()))
}
