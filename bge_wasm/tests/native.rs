//! What the functions behind the JavaScript give, in one file for this machine and for WebAssembly.
//!
//! `package.mjs` holds the package against the same `expected.json`. After a change that is meant,
//! `BGE_WRITE_EXPECTED=1 cargo test -p bge_wasm` writes that file anew; read the difference.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

use bge_core::config::{FinetuneConfig, Loader, Module};
use bge_core::data::convert::{ColumnNames, ConvertOptions, Converted, Converter, Role};
use bge_core::data::length::{ByLength, DEFAULT_LENGTHS, LengthSplit};
use bge_core::planner::{DataOutline, ModelShape, PlanOptions, Precision, plan};
use serde_json::{Map, Value, json};

fn files(case: &Value) -> Vec<(&str, &[u8])> {
    let files = case["files"].as_array().unwrap().iter();
    files
        .map(|file| (file[0].as_str().unwrap(), file[1].as_str().unwrap().as_bytes()))
        .collect()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.map(|one| one.as_str().unwrap().to_owned()).collect()
}

fn convert(case: &Value, chunk: usize) -> Value {
    let given = &case["options"];
    let name = |key: &str| given[key].as_str().map(str::to_owned);
    let mut converter = Converter::new(ConvertOptions {
        group: given["group"].as_bool().unwrap_or_default(),
        quotes: given["quotes"].as_bool().unwrap_or(true),
        columns: ColumnNames {
            query: name("query"),
            positives: strings(&given["positives"]),
            negatives: strings(&given["negatives"]),
            score: name("score"),
        },
        ..ConvertOptions::default()
    });
    let mut out = Converted::default();
    for (name, bytes) in files(case) {
        if let Err(error) = converter.start_file(name, Role::of(name).unwrap(), &mut out) {
            return json!({ "error": error.to_string() });
        }
        for piece in bytes.chunks(chunk) {
            converter.push(piece, &mut out);
        }
    }
    let report = converter.finish(&mut out);
    json!({ "report": report, "rows": text(out.rows), "quarantine": text(out.quarantine) })
}

fn by_length(case: &Value, chunk: usize) -> Value {
    let lengths = case["lengths"].as_array();
    let lengths = lengths.map_or_else(
        || DEFAULT_LENGTHS.to_vec(),
        |lengths| lengths.iter().map(|length| length.as_u64().unwrap()).collect(),
    );
    let mut split = LengthSplit::new(&lengths, None).unwrap();
    let mut out = ByLength::default();
    for (name, bytes) in files(case) {
        split.start_file(name, &mut out);
        for piece in bytes.chunks(chunk) {
            split.push(piece, &mut out);
        }
    }
    let report = split.finish(&mut out);
    let rows: Map<String, Value> = report
        .buckets
        .iter()
        .zip(out.buckets)
        .map(|(bucket, rows)| (bucket.label(), text(rows).into()))
        .collect();
    let mean = report.mean_length();
    json!({ "report": report, "mean_length": mean, "rows": rows, "quarantine": text(out.quarantine) })
}

fn planned(case: &Value) -> Value {
    let module = case["module"]
        .as_str()
        .map_or(Module::default(), |name| Module::from_path(name).unwrap());
    let loader = Loader::<FinetuneConfig>::for_module(module).json(&case["config"].to_string());
    let config = loader.finish().unwrap().arguments;
    let request = &case["request"];
    let shape = request["config_json"].as_str().map_or_else(
        || ModelShape::preset(&config.model.model_name_or_path).unwrap(),
        |text| ModelShape::parse(text).unwrap(),
    );
    let data = request["report"]
        .as_str()
        .map(|text| DataOutline::parse(text).unwrap());
    let options = PlanOptions {
        world_size: request["world_size"].as_u64().unwrap_or(1) as usize,
        zero_stage: request["zero_stage"].as_u64().unwrap_or(0) as u8,
        precision: match request["precision"].as_str() {
            Some("half") => Precision::Half,
            _ => Precision::F32,
        },
        threads: request["threads"].as_u64().unwrap_or(1) as usize,
        memory_bytes: request["memory_gib"].as_u64().map(|gib| gib << 30),
        rates: None,
    };
    json!(plan(&shape, module, &config, data.as_ref(), &options))
}

#[test]
fn every_case_gives_what_is_expected_however_its_bytes_are_cut() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let read = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap()
    };
    let cases = read("cases.json");
    let run = |case: &Value, chunk: usize| match case["kind"].as_str().unwrap() {
        "convert" => convert(case, chunk),
        "length" => by_length(case, chunk),
        _ => planned(case),
    };
    let mut given = Map::new();
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let whole = run(case, usize::MAX);
        for chunk in [1, 2, 3, 7, 64] {
            assert_eq!(run(case, chunk), whole, "{name}, by {chunk} bytes");
        }
        given.insert(name.to_owned(), whole);
    }
    let given = Value::Object(given);
    if std::env::var_os("BGE_WRITE_EXPECTED").is_some() {
        let text = serde_json::to_string_pretty(&given).unwrap() + "\n";
        fs::write(folder.join("expected.json"), text).unwrap();
    }
    let expected = read("expected.json");
    for (name, value) in given.as_object().unwrap() {
        assert_eq!(Some(value), expected.get(name), "{name}");
    }
}
