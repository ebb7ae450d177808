//! Makes JavaScript modules for the web and for Node from a compiled `bge_wasm`.

use std::error::Error;
use std::path::Path;

use wasm_bindgen_cli_support::Bindgen;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [input, target, name, folder] = words.as_slice() else {
        return Err("usage: bge_wasm_pack INPUT.wasm web|node NAME FOLDER".into());
    };
    let mut bindgen = Bindgen::new();
    bindgen
        .input_path(input)
        .out_name(name)
        .typescript(true)
        .omit_default_module_path(false);
    match target.as_str() {
        "web" => bindgen.web(true)?,
        "node" => bindgen.nodejs(true)?,
        other => return Err(format!("the target is web or node, got {other}").into()),
    };
    Ok(bindgen.generate(Path::new(folder))?)
}
