//! Weights of a model folder: safetensors, whole or sharded, under today's names.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::files;

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Reads every weight of a folder as contiguous `f32` CPU tensors, under the names of the files.
pub(super) fn read_all_weights(folder: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    for file in weight_files(folder)? {
        read_file(&file, &mut tensors)?;
    }
    Ok(tensors)
}

/// Reads all weights of an encoder as contiguous `f32` CPU tensors.
///
/// Names lose the prefix of the task model they were saved from (`bert.`, `roberta.`), `gamma`/`beta` become
/// `weight`/`bias`, and what does not belong to the encoder (heads, buffers) is left out.
pub fn read_weights(folder: &Path) -> Result<BTreeMap<String, Tensor>> {
    read_weights_and(folder, |_| false)
}

/// Reads the weights of an encoder and those of a head, which stand in the file without the encoder's prefix.
pub(crate) fn read_weights_and(
    folder: &Path,
    head: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Tensor>> {
    let tensors = read_all_weights(folder)?;
    let prefix = prefix(tensors.keys()).ok_or_else(|| {
        Error::new(ErrorKind::ModelFormat, "the weights hold no `embeddings.word_embeddings.weight`; this is not a BERT or XLM-RoBERTa encoder")
            .with_path(folder)
    })?;
    let mut renamed = BTreeMap::new();
    for (name, tensor) in tensors {
        if head(&name) {
            renamed.insert(name, tensor);
        } else if let Some(name) = name.strip_prefix(&prefix).and_then(current_name) {
            renamed.insert(name, tensor);
        }
    }
    Ok(renamed)
}

/// Reads every tensor of one safetensors file under its own name.
pub(crate) fn read_file(path: &Path, tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
    let damaged = |message: &str| Error::new(ErrorKind::ModelFormat, message).with_path(path);
    if path.is_dir() {
        return Err(damaged("this is a folder, not a safetensors file"));
    }
    let file = File::open(path).map_err(|error| Error::io(path, "open the weights", error))?;
    #[expect(unsafe_code, reason = "weights are read through a memory map")]
    // SAFETY: the map is read-only and lives for this function; a file that another process cuts meanwhile
    // ends this process with SIGBUS, the documented risk of every memory-mapped loader.
    let map = unsafe { memmap2::Mmap::map(&file) };
    let map = map.map_err(|error| Error::io(path, "read the weights", error))?;
    let parsed = SafeTensors::deserialize(&map).map_err(|error| {
        damaged("the file is cut or damaged; copy it again").with_source(error.to_string())
    })?;
    let mut views: Vec<_> = parsed.tensors();
    views.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, view) in views {
        if matches!(view.dtype(), Dtype::I64 | Dtype::I32 | Dtype::U8 | Dtype::BOOL) {
            continue; // buffers such as `position_ids`
        }
        let values = floats(view.dtype(), view.data()).ok_or_else(|| {
            damaged(&format!("the element type {:?} is not supported", view.dtype())).with_field(&name)
        })?;
        if let Some(at) = first_not_finite(&values) {
            let message = format!(
                "element {at} is {}; the weights come from a run that diverged",
                values[at]
            );
            return Err(damaged(&message).with_field(&name));
        }
        tensors.insert(name, Tensor::from_vec(values, view.shape(), &Device::Cpu)?);
    }
    Ok(())
}

/// Where the first number is that is none, or infinite.
///
/// Billions are looked at while a model is opened: by blocks, each in a loop without a branch.
fn first_not_finite(values: &[f32]) -> Option<usize> {
    const BLOCK: usize = 1 << 14;
    const EXPONENT: u32 = 0x7f80_0000;
    let broken = |x: &f32| x.to_bits() & EXPONENT == EXPONENT;
    let block = values
        .par_chunks(BLOCK)
        .position_first(|block| block.iter().fold(false, |any, x| any | broken(x)))?;
    let start = block * BLOCK;
    values[start..].iter().position(broken).map(|at| start + at)
}

pub(super) fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Dtype::F64 => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b) as f32)
            .collect(),
        Dtype::F16 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| half::f16::from_le_bytes(*b).to_f32())
            .collect(),
        Dtype::BF16 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| half::bf16::from_le_bytes(*b).to_f32())
            .collect(),
        _ => return None,
    })
}

/// The safetensors files of a folder: one, or the shards that its index names.
pub(super) fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let whole = folder.join(WHOLE);
    if whole.exists() {
        return Ok(vec![whole]);
    }
    let index = folder.join(INDEX);
    if index.exists() {
        let bad = |message: &str| Error::new(ErrorKind::ModelFormat, message).with_path(&index);
        let value: Value = serde_json::from_str(&files::read_text(&index)?)
            .map_err(|error| bad("the file is not JSON").with_source(error))?;
        let map = value.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| bad("the object is missing").with_field("weight_map"))?;
        let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
        names.sort_unstable();
        names.dedup();
        return names
            .into_iter()
            .map(|name| {
                if Path::new(name).file_name() == Some(name.as_ref()) {
                    Ok(folder.join(name))
                } else {
                    Err(bad(&format!("`{name}` is not a plain file name")).with_field("weight_map"))
                }
            })
            .collect();
    }
    let message = if folder.join("pytorch_model.bin").exists() {
        "only pytorch_model.bin is here; save the model as safetensors (transformers: save_pretrained(..., safe_serialization=True))"
    } else if folder.join("adapter_model.safetensors").exists() {
        "this is a LoRA adapter, not a model; name the folder of the merged model"
    } else {
        "there is no model.safetensors in this folder"
    };
    Err(Error::new(ErrorKind::NotFound, message).with_path(folder))
}

/// What stands before `embeddings.word_embeddings.weight`: nothing, `bert.`, `roberta.`, ...
fn prefix<'a>(names: impl Iterator<Item = &'a String>) -> Option<String> {
    let key = "embeddings.word_embeddings.weight";
    names
        .filter_map(|name| name.strip_suffix(key))
        .min_by_key(|prefix| prefix.len())
        .map(str::to_owned)
}

/// Today's name of an encoder weight; `None` for what is not one.
fn current_name(name: &str) -> Option<String> {
    let part = name.split('.').next()?;
    if !matches!(part, "embeddings" | "encoder" | "pooler") || name.ends_with("position_ids") {
        return None;
    }
    let name = name
        .strip_suffix("LayerNorm.gamma")
        .map(|head| format!("{head}LayerNorm.weight"))
        .unwrap_or(name.to_owned());
    Some(
        name.strip_suffix("LayerNorm.beta")
            .map(|head| format!("{head}LayerNorm.bias"))
            .unwrap_or(name),
    )
}

/// Writes tensors as one safetensors file, or as shards with an index past `shard_bytes`.
pub(crate) fn write_weights<'a>(
    folder: &Path,
    tensors: impl Iterator<Item = (&'a str, &'a Tensor)>,
    shard_bytes: usize,
) -> Result<()> {
    let mut shards: Vec<(usize, Vec<(&str, &Tensor)>)> = vec![(0, Vec::new())];
    for (name, tensor) in tensors {
        let bytes = tensor.elem_count() * 4;
        if let Some((size, shard)) = shards.last_mut() {
            if *size > 0 && *size + bytes > shard_bytes {
                shards.push((bytes, vec![(name, tensor)]));
            } else {
                *size += bytes;
                shard.push((name, tensor));
            }
        }
    }
    if let [(_, only)] = shards.as_slice() {
        return write_weights_file(&folder.join(WHOLE), only);
    }
    let (mut map, count) = (serde_json::Map::new(), shards.len());
    let total: usize = shards.iter().map(|(size, _)| size).sum();
    for (index, (_, shard)) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", index + 1);
        write_weights_file(&folder.join(&file), shard)?;
        map.extend(
            shard
                .iter()
                .map(|(name, _)| ((*name).to_owned(), Value::String(file.clone()))),
        );
    }
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map });
    files::write_whole(&folder.join(INDEX), |file| {
        Ok(serde_json::to_writer_pretty(file, &index)?)
    })
}

/// Writes `f32` tensors as one safetensors file.
pub(super) fn write_weights_file(path: &Path, tensors: &[(&str, &Tensor)]) -> Result<()> {
    let slices = tensors
        .iter()
        .map(|(_, tensor)| crate::nn::read(tensor))
        .collect::<Result<Vec<_>>>()?;
    let slices: Vec<_> = tensors
        .iter()
        .zip(&slices)
        .map(|((name, tensor), slice)| (*name, tensor.dims(), &**slice))
        .collect();
    write_file(path, &slices)
}

/// Writes `f32` arrays (name, shape, values) as one safetensors file in the order given.
pub(crate) fn write_file(path: &Path, arrays: &[(&str, &[usize], &[f32])]) -> Result<()> {
    use std::io::Write;
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), serde_json::json!({ "format": "pt" }));
    let mut offset = 0;
    for (name, shape, values) in arrays {
        let end = offset + values.len() * 4;
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [offset, end] });
        header.insert((*name).to_owned(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)
        .map_err(|error| Error::new(ErrorKind::Internal, "a header cannot be written").with_source(error))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    files::write_whole(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        let mut bytes = Vec::with_capacity(1 << 18);
        for chunk in arrays.iter().flat_map(|(_, _, values)| values.chunks(1 << 16)) {
            bytes.clear();
            bytes.extend(chunk.iter().flat_map(|x| x.to_le_bytes()));
            file.write_all(&bytes)?;
        }
        Ok(())
    })
}
