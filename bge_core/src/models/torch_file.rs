//! Small state dicts in PyTorch's own file format, read without running anything and written so that torch opens them.
//!
//! Such a file is a zip archive with a pickle, a program for a stack machine that may call any function of Python.
//! Here only the steps are known that a dictionary of plain tensors takes; whatever else the program asks for is an
//! error that names it. Nothing is called, and nothing larger than the file itself is allocated.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek, Write};
use std::path::Path;
use std::rc::Rc;

use candle_core::{Device, Tensor};
use safetensors::Dtype;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::weights::floats;
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::nn::read;

/// The pickle of a few tensors has a few hundred bytes.
const MAX_PICKLE_BYTES: u64 = 1 << 20;
/// Values on the stack and in the memo: many more than a state dict of a few tensors needs.
const MAX_VALUES: usize = 1 << 10;

/// What is wrong with a file, without its name.
type Damage = String;
/// A tensor's name, shape and values.
type Named = (String, Vec<usize>, Vec<f32>);

/// Reads a state dict: contiguous tensors as `f32`, by name.
pub(super) fn read_state_dict(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = files::read_bytes(path)?;
    let tensors = parse(&bytes).map_err(|damage| {
        let message = format!(
            "this is not a plain state dict of torch.save: {damage}; save the head again with torch.save(linear.state_dict(), ...), or as safetensors"
        );
        Error::new(ErrorKind::ModelFormat, message).with_path(path)
    })?;
    let mut named = BTreeMap::new();
    for (name, shape, values) in tensors {
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            let message = format!(
                "element {at} is {}; the weights come from a run that diverged",
                values[at]
            );
            return Err(Error::new(ErrorKind::ModelFormat, message)
                .with_path(path)
                .with_field(&name));
        }
        named.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(named)
}

fn parse(bytes: &[u8]) -> Result<Vec<Named>, Damage> {
    let damaged = |error: zip::result::ZipError| format!("the zip archive is damaged ({error})");
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    let names: Vec<String> = archive
        .file_names()
        .filter_map(|name| name.ok().map(|name| name.to_string()))
        .collect();
    let mut pickles = names.iter().filter_map(|name| name.strip_suffix("data.pkl"));
    let (Some(root), None) = (pickles.next().map(str::to_owned), pickles.next()) else {
        return Err("there is not exactly one data.pkl in it".to_owned());
    };
    if names.iter().any(|name| *name == format!("{root}byteorder")) {
        let order = entry(&mut archive, &format!("{root}byteorder"), 16)?;
        if order.trim_ascii() != b"little" {
            return Err("its numbers are big-endian".to_owned());
        }
    }
    let program = entry(&mut archive, &format!("{root}data.pkl"), MAX_PICKLE_BYTES)?;
    let Value::Dict(items) = Machine::run(&program)? else {
        return Err("it holds something else than a dictionary".to_owned());
    };
    let mut tensors = Vec::new();
    for (key, value) in items {
        let (Value::Text(name), Value::Tensor(tensor)) = (key, value) else {
            return Err("it holds something else than tensors by name".to_owned());
        };
        let size = tensor.dtype.bitsize() / 8;
        let data = entry(
            &mut archive,
            &format!("{root}data/{}", tensor.storage),
            bytes.len() as u64,
        )?;
        let range = tensor
            .byte_range(size)
            .filter(|range| range.end <= data.len())
            .ok_or_else(|| format!("the tensor `{name}` reaches past its numbers"))?;
        let values = floats(tensor.dtype, &data[range])
            .ok_or_else(|| format!("the element type of `{name}` is not known"))?;
        tensors.push((name.to_string(), tensor.shape.clone(), values));
    }
    Ok(tensors)
}

fn entry<R: Read + Seek>(archive: &mut ZipArchive<R>, name: &str, limit: u64) -> Result<Vec<u8>, Damage> {
    let file = archive
        .by_name(name)
        .map_err(|error| format!("`{name}` cannot be read ({error})"))?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("`{name}` is damaged ({error})"))?;
    if bytes.len() as u64 > limit {
        return Err(format!("`{name}` is larger than {limit} bytes"));
    }
    Ok(bytes)
}

/// Where a tensor's numbers lie.
#[derive(Debug)]
struct TensorPlace {
    storage: String,
    dtype: Dtype,
    /// In elements.
    offset: usize,
    shape: Vec<usize>,
}

impl TensorPlace {
    fn byte_range(&self, size: usize) -> Option<std::ops::Range<usize>> {
        let count = self
            .shape
            .iter()
            .try_fold(1_usize, |product, n| product.checked_mul(*n))?;
        let start = self.offset.checked_mul(size)?;
        Some(start..start.checked_add(count.checked_mul(size)?)?)
    }
}

/// What the stack machine handles.
#[derive(Clone, Debug)]
enum Value {
    None,
    Bool,
    Int(i64),
    Text(Rc<str>),
    Tuple(Rc<Vec<Value>>),
    Dict(Vec<(Value, Value)>),
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch.FloatStorage` and its like.
    Storage(Dtype),
    /// A storage of this name.
    Numbers(Rc<str>, Dtype),
    Tensor(Rc<TensorPlace>),
    Mark,
}

/// The part of pickle's stack machine (PEP 307, Python's `pickletools`) that a state dict needs.
struct Machine<'a> {
    program: &'a [u8],
    stack: Vec<Value>,
    memo: BTreeMap<u32, Value>,
}

impl<'a> Machine<'a> {
    fn run(program: &'a [u8]) -> Result<Value, Damage> {
        let mut machine = Self {
            program,
            stack: Vec::new(),
            memo: BTreeMap::new(),
        };
        while !machine.step()? {
            if machine.stack.len() + machine.memo.len() > MAX_VALUES {
                return Err("its pickle holds too many values".to_owned());
            }
        }
        machine.pop()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) = self.program.split_at_checked(count).ok_or("its pickle is cut")?;
        self.program = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<u32, Damage> {
        Ok(self
            .take(bytes)?
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    fn line(&mut self) -> Result<&'a str, Damage> {
        let end = self.program.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or("its pickle is cut")?)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| "its pickle holds a name that is not UTF-8".to_owned())
    }

    fn pop(&mut self) -> Result<Value, Damage> {
        self.stack
            .pop()
            .ok_or_else(|| "its pickle takes more than it puts".to_owned())
    }

    /// The values above the last mark.
    fn since_mark(&mut self) -> Result<Vec<Value>, Damage> {
        let mark = self.stack.iter().rposition(|value| matches!(value, Value::Mark));
        let values = self.stack.split_off(mark.ok_or("its pickle lacks a mark")?);
        Ok(values.into_iter().skip(1).collect())
    }

    /// Executes one instruction; true at the end.
    fn step(&mut self) -> Result<bool, Damage> {
        let code = self.take(1)?[0];
        let value = match code {
            b'.' => return Ok(true),
            0x80 => {
                self.take(1)?;
                return Ok(false);
            }
            b'c' => self.global()?,
            b'(' => Value::Mark,
            b')' => Value::Tuple(Rc::default()),
            b'}' => Value::Dict(Vec::new()),
            b'N' => Value::None,
            0x88 | 0x89 => Value::Bool,
            b'K' => Value::Int(self.number(1)?.into()),
            b'M' => Value::Int(self.number(2)?.into()),
            b'J' => Value::Int(i64::from(self.number(4)? as i32)),
            0x8a => self.long()?,
            b'X' => {
                let length = self.number(4)? as usize;
                let text = std::str::from_utf8(self.take(length)?);
                Value::Text(
                    text.map_err(|_| "its pickle holds a text that is not UTF-8")?
                        .into(),
                )
            }
            b't' => tuple(self.since_mark()?)?,
            0x85..=0x87 => {
                let count = usize::from(code - 0x84);
                let start = self.stack.len().checked_sub(count);
                let values = self
                    .stack
                    .split_off(start.ok_or("its pickle takes more than it puts")?);
                tuple(values)?
            }
            b'q' | b'r' => {
                let place = self.number(if code == b'q' { 1 } else { 4 })?;
                let value = self.stack.last().ok_or("its pickle takes more than it puts")?;
                // The dictionary under construction is never asked for again, and copying it could double without end.
                let value = match value {
                    Value::Dict(_) => Value::None,
                    other => other.clone(),
                };
                self.memo.insert(place, value);
                return Ok(false);
            }
            b'h' | b'j' => {
                let place = self.number(if code == b'h' { 1 } else { 4 })?;
                let value = self.memo.get(&place);
                value
                    .ok_or("its pickle recalls what it did not remember")?
                    .clone()
            }
            b'Q' => self.numbers()?,
            b'R' => self.call()?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                return self.put(vec![key, value]);
            }
            b'u' => {
                let items = self.since_mark()?;
                return self.put(items);
            }
            b'b' => {
                // The attributes of a state dict: its `_metadata`.
                self.pop()?;
                return Ok(false);
            }
            other => return Err(format!("its pickle uses the instruction 0x{other:02x}")),
        };
        self.stack.push(value);
        Ok(false)
    }

    /// A name of Python's: one of a few, or an error.
    fn global(&mut self) -> Result<Value, Damage> {
        let (module, name) = (self.line()?, self.line()?);
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Value::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Value::RebuildTensor,
            ("torch", "FloatStorage") => Value::Storage(Dtype::F32),
            ("torch", "DoubleStorage") => Value::Storage(Dtype::F64),
            ("torch", "HalfStorage") => Value::Storage(Dtype::F16),
            ("torch", "BFloat16Storage") => Value::Storage(Dtype::BF16),
            _ => {
                let name: String = format!("{module}.{name}").chars().take(80).collect();
                return Err(format!("it asks for `{}`", name.escape_debug()));
            }
        })
    }

    fn long(&mut self) -> Result<Value, Damage> {
        let count = self.number(1)? as usize;
        let bytes = self.take(count)?;
        let number = bytes
            .iter()
            .rev()
            .try_fold(0_i64, |number, &byte| {
                Some(number.checked_mul(256)? + i64::from(byte))
            })
            .ok_or("its pickle holds a number that is too large")?;
        Ok(Value::Int(number))
    }

    /// `("storage", torch.FloatStorage, name, "cpu", count)`.
    fn numbers(&mut self) -> Result<Value, Damage> {
        if let Value::Tuple(parts) = self.pop()?
            && let [Value::Text(kind), Value::Storage(dtype), Value::Text(name), ..] = parts.as_slice()
            && &**kind == "storage"
        {
            return Ok(Value::Numbers(Rc::clone(name), *dtype));
        }
        Err("its pickle refers to something else than the numbers of a tensor".to_owned())
    }

    /// An ordered dictionary, or a tensor: `(storage, offset, shape, strides, ...)`.
    fn call(&mut self) -> Result<Value, Damage> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        match (function, arguments) {
            (Value::OrderedDict, Value::Tuple(arguments)) if arguments.is_empty() => {
                Ok(Value::Dict(Vec::new()))
            }
            (Value::RebuildTensor, Value::Tuple(arguments)) => {
                let [
                    Value::Numbers(storage, dtype),
                    Value::Int(offset),
                    shape,
                    strides,
                    ..,
                ] = arguments.as_slice()
                else {
                    return Err("a tensor is described in an unknown way".to_owned());
                };
                let (shape, strides) = (sizes(shape)?, sizes(strides)?);
                if !contiguous(&shape, &strides) {
                    return Err("a tensor is not contiguous".to_owned());
                }
                let offset = usize::try_from(*offset).map_err(|_| "a tensor starts before its numbers")?;
                Ok(Value::Tensor(Rc::new(TensorPlace {
                    storage: storage.to_string(),
                    dtype: *dtype,
                    offset,
                    shape,
                })))
            }
            _ => Err("its pickle calls what is not a function of a state dict".to_owned()),
        }
    }

    /// Puts keys and values, alternating, into the dictionary on top of the stack.
    fn put(&mut self, items: Vec<Value>) -> Result<bool, Damage> {
        let Some(Value::Dict(dict)) = self.stack.last_mut() else {
            return Err("its pickle fills what is not a dictionary".to_owned());
        };
        let mut items = items.into_iter();
        while let Some(key) = items.next() {
            let value = items.next().ok_or("its pickle puts a key without a value")?;
            dict.push((key, value));
        }
        Ok(false)
    }
}

/// A tuple of plain values, of tuples of such, and of empty dictionaries: deeper ones would be built to exhaust a stack.
fn tuple(values: Vec<Value>) -> Result<Value, Damage> {
    let deep = |value: &Value| match value {
        Value::Tuple(inner) => inner.iter().any(|value| matches!(value, Value::Tuple(_))),
        Value::Dict(items) => !items.is_empty(),
        _ => false,
    };
    if values.iter().any(deep) {
        return Err("its pickle nests deeper than a state dict does".to_owned());
    }
    Ok(Value::Tuple(values.into()))
}

fn sizes(value: &Value) -> Result<Vec<usize>, Damage> {
    let Value::Tuple(values) = value else {
        return Err("a tensor's shape is not a tuple".to_owned());
    };
    let size = |value: &Value| match value {
        Value::Int(size) => usize::try_from(*size).ok(),
        _ => None,
    };
    values
        .iter()
        .map(size)
        .collect::<Option<_>>()
        .ok_or_else(|| "a tensor's shape is not made of whole numbers".to_owned())
}

/// Whether strides are those of a row-major tensor; those of sizes 1 and 0 say nothing.
fn contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1_usize;
    shape.len() == strides.len()
        && shape.iter().zip(strides).rev().all(|(&size, &stride)| {
            let fits = size <= 1 || stride == expected;
            expected = expected.saturating_mul(size.max(1));
            fits
        })
}

/// Writes a state dict of `f32` tensors, as `torch.save` does.
pub(super) fn write_state_dict(path: &Path, tensors: &[(&str, &Tensor)]) -> Result<()> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let fill = |archive: &mut ZipWriter<Cursor<Vec<u8>>>| -> Result<(), zip::result::ZipError> {
        // torch maps files whose numbers start at a multiple of 64.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(64);
        archive.start_file("archive/data.pkl", options)?;
        archive.write_all(&program(tensors))?;
        archive.start_file("archive/byteorder", options)?;
        archive.write_all(b"little")?;
        for (index, (_, tensor)) in tensors.iter().enumerate() {
            archive.start_file(format!("archive/data/{index}"), options)?;
            let values = read(tensor).map_err(std::io::Error::other)?;
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            archive.write_all(&bytes)?;
        }
        archive.start_file("archive/version", options)?;
        archive.write_all(b"3\n")?;
        Ok(())
    };
    let failed = |error: zip::result::ZipError| {
        Error::new(ErrorKind::Internal, "the weights cannot be put into an archive")
            .with_path(path)
            .with_source(error)
    };
    fill(&mut archive).map_err(failed)?;
    let bytes = archive.finish().map_err(failed)?.into_inner();
    files::write_whole(path, |file| file.write_all(&bytes))
}

/// The pickle, protocol 2, of an ordered dictionary of tensors.
fn program(tensors: &[(&str, &Tensor)]) -> Vec<u8> {
    let mut out = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let integer = |out: &mut Vec<u8>, number: usize| {
        out.push(b'J');
        out.extend((number as i32).to_le_bytes());
    };
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, &index.to_string());
        text(&mut out, "cpu");
        integer(&mut out, tensor.elem_count());
        out.extend(b"tQK\x00"); // its numbers, from the first on
        for numbers in [tensor.dims().to_vec(), tensor.stride().to_vec()] {
            out.push(b'(');
            for number in numbers {
                integer(&mut out, number);
            }
            out.push(b't');
        }
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.pt");
        let weight = Tensor::from_vec(vec![1.5_f32, -2.0, 3.25, 0.0, 1e-30, -0.5], (2, 3), &Device::Cpu);
        let bias = Tensor::from_vec(vec![0.25_f32, 7.0], 2, &Device::Cpu).unwrap();
        write_state_dict(&path, &[("weight", &weight.unwrap()), ("bias", &bias)]).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn what_was_written_reads_back_in_every_bit() {
        let tensors = parse(&saved()).unwrap();
        assert_eq!(tensors[0].0, "weight");
        assert_eq!(tensors[0].1, [2, 3]);
        assert_eq!(tensors[0].2, [1.5, -2.0, 3.25, 0.0, 1e-30, -0.5]);
        assert_eq!(tensors[1], ("bias".to_owned(), vec![2], vec![0.25, 7.0]));
    }

    #[test]
    fn no_damage_panics() {
        let whole = saved();
        for end in 0..whole.len() {
            let _ = parse(&whole[..end]);
        }
        for at in 0..whole.len() {
            for value in [0, 1, b'R', b'(', b'.', 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = parse(&bytes);
            }
        }
        let program = program(&[]);
        for at in 0..program.len() {
            for value in 0..=255 {
                let mut bytes = program.clone();
                bytes[at] = value;
                let _ = Machine::run(&bytes);
            }
        }
    }

    #[test]
    fn a_function_call_is_refused_by_its_name() {
        let error = Machine::run(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.").unwrap_err();
        assert!(error.contains("`posix.system`"), "{error}");
    }

    #[test]
    fn a_pickle_that_doubles_or_nests_itself_is_refused() {
        let nested = [
            b"\x80\x02)".as_slice(),
            b"q\x00h\x00\x86".repeat(64).as_slice(),
            b".",
        ]
        .concat();
        assert!(Machine::run(&nested).unwrap_err().contains("nests deeper"));
        let wrapped = [
            b"\x80\x02)q\x00".as_slice(),
            b"}Nh\x00s\x85q\x00".repeat(9).as_slice(),
            b".",
        ]
        .concat();
        assert!(Machine::run(&wrapped).unwrap_err().contains("nests deeper"));
        let endless = [b"\x80\x02".as_slice(), &[b'N'; MAX_VALUES + 8]].concat();
        assert!(Machine::run(&endless).unwrap_err().contains("too many values"));
    }
}
