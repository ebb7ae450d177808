//! Every function of the header, called with each parameter wrong in turn, under `AddressSanitizer` and `UBSan`.
//!
//! The calls are written from the declarations, so that a new function is tested the day it is declared; one with a
//! parameter of an unknown type fails here until somebody says what is hostile there.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
#![cfg(unix)]

mod common;

use std::fmt::Write as _;
use std::path::Path;

use common::{SANITIZED, compile, in_repository, model, succeeds, text};

struct Parameter {
    kind: String,
    name: String,
}

struct Function {
    comment: String,
    result: String,
    name: String,
    parameters: Vec<Parameter>,
}

impl Function {
    /// Whether it can fail: others give something for anything.
    fn fails(&self) -> bool {
        self.parameters
            .last()
            .is_some_and(|one| one.kind == "bge_error **")
    }
}

/// A value for a parameter, what the call has to answer, and whether its error names the parameter.
type Hostile = (&'static str, &'static str, bool);

/// The declarations of the header.
fn functions(header: &str) -> Vec<Function> {
    let mut found = Vec::new();
    let mut comment = String::new();
    let mut lines = header.lines();
    let body = |line: &&str| *line != "#ifdef __cplusplus";
    while let Some(line) = lines.next() {
        if let Some(words) = line.strip_prefix("//") {
            comment += words;
        } else if line.starts_with("BGE_API") {
            let mut declaration = line.to_owned();
            while !declaration.ends_with(';') {
                declaration += " ";
                declaration += lines.by_ref().find(body).unwrap().trim();
            }
            found.push(function(&declaration, std::mem::take(&mut comment)));
        } else {
            comment.clear();
        }
    }
    found
}

/// `const struct bge_x *name` as type and name.
fn split(declared: &str) -> (String, String) {
    let at = declared
        .rfind(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap()
        + 1;
    (
        declared[..at].trim().replace("struct ", ""),
        declared[at..].to_owned(),
    )
}

fn function(declaration: &str, comment: String) -> Function {
    let (head, rest) = declaration.split_once('(').unwrap();
    let (result, name) = split(head.trim_start_matches("BGE_API").trim());
    let parameters = rest.trim_end_matches(");").split(',').map(str::trim);
    let parameters = parameters
        .filter(|one| *one != "void")
        .map(|one| {
            let (kind, name) = split(one);
            Parameter { kind, name }
        })
        .collect();
    Function {
        comment,
        result,
        name,
        parameters,
    }
}

/// A value that is right.
fn sound(parameter: &Parameter) -> &str {
    match (parameter.kind.as_str(), parameter.name.as_str()) {
        ("bge_str", "name") => "BGE_STR(\"batch_size\")",
        ("bge_str", "value") => "BGE_STR(\"8\")",
        ("bge_str", "text") => "BGE_STR(\"--batch_size 8\")",
        ("bge_str", "path") => "BGE_STR(arguments[5])",
        ("const bge_str *", _) => "texts",
        ("const uint8_t *", _) => "(const uint8_t *)\"{}\"",
        ("float *", _) => "numbers",
        (_, "kind") => "BGE_CONFIG_KIND_EMBED",
        (_, "format") => "BGE_FORMAT_FLAGS",
        (_, "role") => "BGE_TEXT_ROLE_QUERY",
        (_, "level" | "max_wait_us") => "1",
        (_, "count" | "len") => "2",
        (_, "max_batch") => "4",
        (_, "out_len") => "ROOM",
        ("bge_event_fn", _) => "go_on",
        (
            "void *" | "bge_log_fn" | "bge_destroy_fn" | "const bge_text *" | "bge_text *"
            | "const bge_error *" | "bge_error *",
            _,
        ) => "NULL",
        (kind, "out" | "error") if kind.ends_with("**") => match parameter.name.as_str() {
            "out" => "&out",
            _ => "&error",
        },
        (kind, name) if kind.starts_with("bge_") || kind.starts_with("const bge_") => name,
        (kind, name) => panic!("say in hostile.rs what a sound `{kind}` named `{name}` is"),
    }
}

/// Values that are wrong, at least one.
fn hostile(function: &Function, parameter: &Parameter) -> Vec<Hostile> {
    const NULL: &str = "BGE_STATUS_NULL_POINTER";
    const INVALID: &str = "BGE_STATUS_INVALID_ARGUMENT";
    let works = !function.name.starts_with("bge_config_") && function.fails();
    let optional = format!("`{}` may be NULL", parameter.name);
    match (parameter.kind.as_str(), parameter.name.as_str()) {
        ("bge_str", _) => vec![
            ("raw(NULL, 1)", NULL, true),
            ("raw(\"x\", SIZE_MAX)", INVALID, true),
            ("raw(\"x\", SIZE_MAX / 2 + 1)", INVALID, true),
            ("raw(\"\\xff\", 1)", INVALID, true),
        ],
        ("const bge_str *", _) => vec![
            ("NULL", NULL, true),
            ("(const bge_str *)((const char *)texts + 1)", INVALID, true),
            ("no_bytes", NULL, true),
            ("no_end", INVALID, true),
            ("no_utf8", INVALID, true),
        ],
        ("float *", _) => vec![
            ("NULL", NULL, true),
            ("(float *)((char *)numbers + 1)", INVALID, true),
        ],
        ("const uint8_t *", _) => vec![("NULL", NULL, true)],
        ("size_t", "count") => vec![
            ("ROOM + 1", "REFUSED", false),
            ("(size_t)1 << 40", "REFUSED", false),
            ("SIZE_MAX / sizeof(bge_str)", "REFUSED", false),
            ("SIZE_MAX", "REFUSED", false),
        ],
        ("size_t", "len") => vec![
            ("SIZE_MAX", "REFUSED", false),
            ("SIZE_MAX / 2 + 1", "REFUSED", false),
        ],
        ("size_t", "out_len") => vec![("0", INVALID, true), ("1", INVALID, true)],
        ("size_t", "max_batch") => vec![("0", INVALID, true), ("SIZE_MAX", "ANY", false)],
        ("uint32_t", "kind" | "format" | "role") => {
            vec![("77", INVALID, true), ("UINT32_MAX", INVALID, true)]
        }
        ("uint32_t", "level" | "max_wait_us") => vec![("UINT32_MAX", "ANY", false)],
        ("void *", _) => vec![("(void *)(uintptr_t)1", "ANY", false)],
        ("bge_event_fn", _) => vec![("NULL", "ANY", false), ("stop", "ANY", false)],
        ("bge_log_fn" | "bge_destroy_fn", _) => vec![("NULL", "ANY", false)],
        // Beside something wrong: nobody hears what.
        ("bge_error **", "error") => vec![("NULL", "REFUSED", false)],
        (kind, "out") if kind.ends_with("**") && function.comment.contains(&optional) => {
            vec![("NULL", "ANY", false)]
        }
        ("const bge_config *", _) if works => vec![("NULL", NULL, true), ("other", INVALID, true)],
        (kind, _) if kind.starts_with("bge_") || kind.starts_with("const bge_") => vec![("NULL", NULL, true)],
        (kind, name) => panic!("say in hostile.rs what a hostile `{kind}` named `{name}` is"),
    }
}

/// The settings a function is for, others that it must refuse, and the handle it needs.
fn preparation(function: &Function) -> String {
    let name = function.name.as_str();
    let kind = match name {
        "bge_mine" | "bge_score" | "bge_evaluate" | "bge_merge" => name["bge_".len()..].to_uppercase(),
        _ if name.starts_with("bge_reranker") => "RERANK".to_owned(),
        _ if name.starts_with("bge_embedder") || name.starts_with("bge_config") => "EMBED".to_owned(),
        _ => "FINETUNE".to_owned(),
    };
    let wrong = if kind == "EMBED" { "RERANK" } else { "EMBED" };
    let mut text = format!("    begin(BGE_CONFIG_KIND_{kind}, BGE_CONFIG_KIND_{wrong});\n");
    let needs = |handle: &str| function.parameters.iter().any(|one| one.name == handle);
    for handle in ["embedder", "reranker"] {
        if needs(handle) {
            let _ = writeln!(text, "    must(bge_{handle}_open(config, &{handle}, &error));");
        }
    }
    if needs("trainer") {
        text += "    must(bge_trainer_new(config, &trainer, &error));\n";
    }
    if needs("validator") {
        text += "    must(bge_validator_new(config, BGE_STR(\"x.jsonl\"), &validator, &error));\n";
    }
    text
}

/// The calls of one function in C, and how many.
fn calls(function: &Function) -> (String, usize) {
    let sounds: Vec<&str> = function.parameters.iter().map(sound).collect();
    let mut block = preparation(function);
    let out = function
        .parameters
        .iter()
        .find(|one| one.name == "out" && one.kind.ends_with("**"));
    let object = out.map(|out| out.kind.trim_end_matches("**").trim());
    if let Some(object) = object {
        let _ = writeln!(block, "    {object} *out = NULL;");
    }
    let mut count = 0;
    let mut call = |values: &[&str], want: &str, field: Option<&str>| {
        let code = format!("{}({})", function.name, values.join(", "));
        let said = format!("\"{}\"", code.replace('\\', "\\\\").replace('"', "\\\""));
        let _ = match function.result.as_str() {
            _ if function.fails() => {
                let field = field.map_or("NULL".to_owned(), |name| format!("\"{name}\""));
                let asked = values.last() == Some(&"&error");
                let wrote = if object.is_some() { "out" } else { "NULL" };
                writeln!(
                    block,
                    "    status = {code};\n    judge({said}, status, {want}, {field}, {asked}, {wrote});"
                )
            }
            "bge_str" => writeln!(block, "    readable({said}, {code});"),
            _ => writeln!(block, "    {code};\n    calls++;"),
        };
        if let Some(object) = object {
            let _ = writeln!(block, "    {object}_free(out), out = NULL;");
        }
        count += 1;
    };
    for (at, parameter) in function.parameters.iter().enumerate() {
        for (value, want, named) in hostile(function, parameter) {
            let mut values = sounds.clone();
            values[at] = value;
            if parameter.name == "error" && parameter.kind.ends_with("**") {
                // The first parameter is wrong too.
                let (also, _, _) = hostile(function, &function.parameters[0])[0];
                values[0] = also;
            }
            call(&values, want, named.then_some(parameter.name.as_str()));
        }
    }
    // That the rest was right all along; work is refused for what its settings lack.
    let lacking = [
        "bge_mine",
        "bge_score",
        "bge_evaluate",
        "bge_merge",
        "bge_pipeline",
    ];
    let want = if lacking.contains(&function.name.as_str()) {
        "REFUSED"
    } else {
        "BGE_STATUS_OK"
    };
    call(&sounds, want, None);
    // What was freed is gone.
    if let Some(handle) = function
        .name
        .strip_prefix("bge_")
        .and_then(|name| name.strip_suffix("_free"))
        && sounds[0] != "NULL"
    {
        let _ = writeln!(block, "    {handle} = NULL;");
    }
    (block + "    end();\n", count)
}

#[test]
fn every_function_refuses_whatever_parameter_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let functions = functions(&std::fs::read_to_string(in_repository("include/bge.h")).unwrap());
    let (mut code, mut total, mut main) = (String::new(), 0, String::new());
    for function in functions
        .iter()
        .filter(|function| !function.parameters.is_empty())
    {
        let (block, count) = calls(function);
        total += count;
        let status = if function.fails() {
            "    bge_status status;\n"
        } else {
            ""
        };
        let _ = writeln!(
            code,
            "static void hostile_{}(void) {{\n{status}{block}}}\n",
            function.name
        );
        let _ = writeln!(main, "    hostile_{}();", function.name);
    }
    let _ = writeln!(code, "static void hostile_calls(void) {{\n{main}}}");
    assert!(
        functions.len() > 40 && total > 150,
        "{} functions, {total} calls",
        functions.len()
    );
    std::fs::write(folder.path().join("hostile_calls.h"), code).unwrap();

    let program = folder.path().join("hostile");
    let include = format!("-I{}", text(folder.path()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile.c");
    compile(&source, &program, &[&SANITIZED[..], &[include.as_str()]].concat());
    let out = folder.path().join("out");
    let reranker = in_repository("tests/fixtures/reranker/models/bert");
    let toy = in_repository("examples/data/toy.jsonl");
    let file = folder.path().join("settings.toml");
    std::fs::write(&file, "batch_size = 8\n").unwrap();
    let printed = succeeds(
        text(&program),
        &[&model(), &reranker, &toy, text(&out), text(&file)],
    );
    assert_eq!(printed.trim(), total.to_string());
}
