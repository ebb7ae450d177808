//! The picture of the layers is true: dependencies inside `bge_core` only point down.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The layers, lowest first. A module may use the layers below its own; its neighbours in a row and the rows above
/// are out of reach. A new top-level module of `bge_core` gets its place here and in ARCHITECTURE.md.
const LAYERS: &[&[&str]] = &[
    &["error"],
    &["issue", "random"],
    &["files"],
    &["config"],
    &["data"],
    &["planner"],
    &["tokenize"],
    &["nn"],
    &["cuda"],
    &["models"],
    &["inference", "search", "loss", "optim", "distributed"],
    &["distillation", "evaluation", "mining"],
    &["train"],
    &["pipeline"],
];

/// The house aims at 500 lines to a file; from here on a file must be split by noun.
const LONGEST_FILE: usize = 650;

/// One use of a module by another.
#[derive(Debug, PartialEq)]
struct Arrow {
    line: usize,
    from: String,
    to: String,
}

impl fmt::Display for Arrow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.line, self.from, self.to)
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// All Rust files under a folder, in order.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The module path of a file below `src`: `nn/ops/gemm.rs` is `[nn, ops, gemm]`, `nn/mod.rs` is `[nn]`.
fn module_of(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// The code of each line without its comments, and how many inline modules (`mod tests {`) are around it.
fn code_lines(text: &str) -> Vec<(&str, usize)> {
    let mut open: Vec<usize> = Vec::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let code = line.split("//").next().unwrap_or_default();
        let word = code
            .trim_start()
            .trim_start_matches("pub ")
            .trim_start_matches("pub(crate) ");
        if code.trim() == "}" && open.last() == Some(&indent) {
            open.pop();
        }
        lines.push((code, open.len()));
        if word.starts_with("mod ") && code.trim_end().ends_with('{') {
            open.push(indent);
        }
    }
    lines
}

/// First names of the paths that start at `text`: `{a::b, c}` gives `a` and `c`, `a::b;` gives `a`.
fn first_names(text: &str) -> Vec<&str> {
    fn name(text: &str) -> &str {
        let text = text.trim_start();
        let end = text
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(text.len());
        &text[..end]
    }
    let Some(list) = text.strip_prefix('{') else {
        return vec![name(text)];
    };
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&list[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// What a file of `bge_core` uses of other top-level modules: `crate::x` and `super::` chains that reach the root.
///
/// `exports` says which module a name that `lib.rs` re-exports comes from.
fn arrows(file: &Path, text: &str, exports: &BTreeMap<String, String>) -> Vec<Arrow> {
    let module = module_of(file);
    let lines = code_lines(text);
    let code: Vec<&str> = lines.iter().map(|line| line.0).collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    let mut report = |at: usize, rest: &str| {
        for name in first_names(rest) {
            let to = exports.get(name).map_or(name, String::as_str);
            if to != module[0] {
                found.push(Arrow {
                    line: code[..at].matches('\n').count() + 1,
                    from: module[0].clone(),
                    to: to.to_owned(),
                });
            }
        }
    };
    let starts_word = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    for (at, root) in code.match_indices("crate::") {
        if starts_word(at) {
            report(at, &code[at + root.len()..]);
        }
    }
    for (at, _) in code.match_indices("super::") {
        if !starts_word(at) || code[..at].ends_with("super::") {
            continue;
        }
        let rest = code[at..].trim_start_matches("super::");
        let supers = (code.len() - at - rest.len()) / "super::".len();
        let line = code[..at].matches('\n').count();
        if supers >= module.len() + lines[line].1 {
            report(at, rest);
        }
    }
    found.sort_by_key(|arrow| arrow.line);
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// What is wrong with an arrow, in words.
fn complaint(arrow: &Arrow) -> Option<String> {
    let (Some(from), Some(to)) = (layer(&arrow.from), layer(&arrow.to)) else {
        let unknown = if layer(&arrow.from).is_none() {
            &arrow.from
        } else {
            &arrow.to
        };
        return Some(format!(
            "{arrow} (`{unknown}` has no layer: give it one in tests/layers.rs)"
        ));
    };
    match from.cmp(&to) {
        std::cmp::Ordering::Greater => None,
        std::cmp::Ordering::Equal => Some(format!("{arrow} points sideways")),
        std::cmp::Ordering::Less => Some(format!("{arrow} points up")),
    }
}

/// Which module each name comes from that `lib.rs` re-exports.
fn exports(lib: &str) -> BTreeMap<String, String> {
    let mut exports = BTreeMap::new();
    for statement in lib.split(';') {
        let Some((_, path)) = statement.split_once("pub use ") else {
            continue;
        };
        let Some((module, names)) = path.split_once("::") else {
            continue;
        };
        for name in names.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
            exports.insert(name.to_owned(), module.trim().to_owned());
        }
    }
    exports
}

#[test]
fn dependencies_between_modules_point_down() {
    let src = workspace().join("bge_core/src");
    let exports = exports(&std::fs::read_to_string(src.join("lib.rs")).unwrap());
    let mut complaints = Vec::new();
    let mut checked = 0;
    for file in rust_files(&src) {
        let below = file.strip_prefix(&src).unwrap();
        if below == Path::new("lib.rs") || below.starts_with("bin") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for arrow in arrows(below, &text, &exports) {
            checked += 1;
            if let Some(complaint) = complaint(&arrow) {
                complaints.push(format!("bge_core/src/{}:{complaint}", below.display()));
            }
        }
    }
    assert!(
        checked > 50,
        "only {checked} arrows found: the reader of this test is broken"
    );
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn an_arrow_is_found_in_every_way_to_write_it() {
    let exports = exports("pub use error::{Error, Result};\npub use train::Trainer;\n");
    let text = "\
//! See [x](crate::train::X).
use crate::config::{A, B};
use crate::{
    files, // crate::train
    nn::{self, read},
};
fn f() -> crate::Result<()> {
    crate::train::go(super::y())
}
fn g() -> crate::Trainer {
    super::super::tokenize::z()
}
mod tests {
    use super::super::sibling;
    use super::super::super::evaluation;
}
use super::super::random;
";
    let arrow = |line, to: &str| Arrow {
        line,
        from: "models".to_owned(),
        to: to.to_owned(),
    };
    assert_eq!(
        arrows(Path::new("models/bert.rs"), text, &exports),
        [
            arrow(2, "config"),
            arrow(3, "files"),
            arrow(3, "nn"),
            arrow(7, "error"),
            arrow(8, "train"),
            arrow(10, "train"),
            arrow(11, "tokenize"),
            arrow(15, "evaluation"),
            arrow(17, "random"),
        ]
    );
    assert_eq!(complaint(&arrow(1, "nn")), None);
    assert_eq!(
        complaint(&arrow(1, "train")).unwrap(),
        "1: models -> train points up"
    );
    assert!(
        complaint(&arrow(1, "nowhere"))
            .unwrap()
            .contains("`nowhere` has no layer")
    );
    let sideways = Arrow {
        line: 9,
        from: "loss".to_owned(),
        to: "optim".to_owned(),
    };
    assert_eq!(complaint(&sideways).unwrap(), "9: loss -> optim points sideways");
}

#[test]
fn no_file_is_too_long_to_read() {
    for folder in ["bge_core/src", "tests"] {
        for file in rust_files(&workspace().join(folder)) {
            let lines = std::fs::read_to_string(&file).unwrap().lines().count();
            assert!(
                lines <= LONGEST_FILE,
                "{} has {lines} lines, more than {LONGEST_FILE}: split it by noun",
                file.display()
            );
        }
    }
}

#[test]
fn every_module_says_what_it_is() {
    for folder in ["bge_core/src", "tests"] {
        for file in rust_files(&workspace().join(folder)) {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(
                file.ends_with("main.rs") || text.starts_with("//!"),
                "{} does not start with a `//!` sentence",
                file.display()
            );
        }
    }
}

fn toml(path: &Path) -> toml::Table {
    let text = std::fs::read_to_string(path).unwrap();
    text.parse()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_member_inherits_the_lints() {
    let root = toml(&workspace().join("Cargo.toml"));
    let members = root["workspace"]["members"].as_array().unwrap();
    assert!(members.len() >= 2);
    for member in members {
        let path = workspace().join(member.as_str().unwrap()).join("Cargo.toml");
        let lints = toml(&path)
            .get("lints")
            .and_then(|lints| lints.get("workspace")?.as_bool());
        assert_eq!(
            lints,
            Some(true),
            "{} lacks `[lints] workspace = true`",
            path.display()
        );
    }
}

#[test]
fn no_banned_crate_is_locked() {
    let rules = toml(&workspace().join("deny.toml"));
    let banned = rules["bans"]["deny"].as_array().unwrap();
    assert!(!banned.is_empty());
    let lock = toml(&workspace().join("Cargo.lock"));
    let locked = lock["package"].as_array().unwrap();
    let name = |package: &toml::Value| package["name"].as_str().unwrap().to_owned();
    assert!(locked.iter().any(|package| name(package) == "bge_core"));
    for ban in banned {
        let crate_name = ban["crate"].as_str().unwrap();
        // A wrapper may bring it: a crate that only a feature has which is off by default, see the next test.
        let wrappers: Vec<&str> = match ban.get("wrappers") {
            Some(wrappers) => wrappers
                .as_array()
                .unwrap()
                .iter()
                .map(|name| name.as_str().unwrap())
                .collect(),
            None => Vec::new(),
        };
        assert!(
            !wrappers.is_empty() || locked.iter().all(|package| name(package) != crate_name),
            "Cargo.lock holds {crate_name}: {}",
            ban["reason"].as_str().unwrap()
        );
        for package in locked {
            let dependencies = package.get("dependencies").and_then(|list| list.as_array());
            let needs = dependencies.into_iter().flatten().any(|dependency| {
                let dependency = dependency.as_str().unwrap();
                dependency.split(' ').next() == Some(crate_name)
            });
            assert!(
                !needs || wrappers.contains(&name(package).as_str()),
                "{} needs {crate_name}: {}",
                name(package),
                ban["reason"].as_str().unwrap()
            );
        }
    }
}

#[test]
fn no_default_feature_needs_faiss_mpi_or_cuda() {
    for member in ["bge_core", "tests", "examples/rust"] {
        let manifest = toml(&workspace().join(member).join("Cargo.toml"));
        let Some(features) = manifest.get("features").and_then(|features| features.as_table()) else {
            continue;
        };
        let mut names = vec!["default".to_owned()];
        let mut next = 0;
        while next < names.len() {
            let brought = features.get(&names[next]).and_then(|list| list.as_array());
            let brought = brought.into_iter().flatten().map(|name| name.as_str().unwrap());
            names.extend(brought.map(str::to_owned));
            next += 1;
        }
        for heavy in ["faiss", "mpi", "cuda"] {
            assert!(
                names.iter().all(|name| !name.contains(heavy)),
                "{member} needs {heavy} by default: {names:?}"
            );
            let optional = manifest["dependencies"]
                .get(heavy)
                .map(|found| &found["optional"]);
            assert!(optional.is_none_or(|optional| optional.as_bool() == Some(true)));
        }
    }
}
