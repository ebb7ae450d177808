//! The table of settings as JSON Schema, and as help for people.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::field::{Arguments, FieldDoc, FieldKind};
use super::module::Module;

/// Columns of a help text.
const WIDTH: usize = 100;

/// The groups of settings, in the order of their first setting.
pub fn groups<A: Arguments>() -> Vec<&'static str> {
    let mut groups = Vec::new();
    for field in A::fields() {
        if !groups.contains(&field.group) {
            groups.push(field.group);
        }
    }
    groups
}

/// The settings as JSON Schema (draft 2020-12): one flat object, with `x-group` and `x-ours` beside each setting.
pub fn json_schema<A: Arguments>(title: &str, module: Module) -> Value {
    let fields = || A::fields().iter().filter(|field| module.takes(field));
    let properties: Map<String, Value> = fields()
        .map(|field| (field.name.to_owned(), property(field)))
        .collect();
    let required: Vec<&str> = fields()
        .filter(|field| field.required)
        .map(|field| field.name)
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn property(field: &FieldDoc) -> Value {
    let name = match field.kind {
        FieldKind::Boolean => "boolean",
        FieldKind::Count | FieldKind::Integer => "integer",
        FieldKind::Number => "number",
        FieldKind::Text | FieldKind::Choice => "string",
        FieldKind::Texts | FieldKind::Counts => "array",
        FieldKind::Object => "object",
    };
    let mut property = Map::new();
    let kind = if field.optional {
        json!([name, "null"])
    } else {
        json!(name)
    };
    property.insert("type".to_owned(), kind);
    property.insert("description".to_owned(), field.help.as_str().into());
    if field.kind == FieldKind::Count {
        property.insert("minimum".to_owned(), 0.into());
    }
    match field.kind {
        FieldKind::Texts => property.insert("items".to_owned(), json!({ "type": "string" })),
        FieldKind::Counts => property.insert("items".to_owned(), json!({ "type": "integer", "minimum": 0 })),
        _ => None,
    };
    if !field.choices.is_empty() {
        let words = field.choices.iter().map(|word| Value::from(*word));
        let null = field.optional.then_some(Value::Null);
        property.insert("enum".to_owned(), words.chain(null).collect());
    }
    if !field.required {
        property.insert("default".to_owned(), field.default.clone());
    }
    property.insert("x-group".to_owned(), field.group.into());
    property.insert("x-ours".to_owned(), field.ours.into());
    Value::Object(property)
}

/// The flags of a group for people, with kinds and defaults.
pub fn flag_help<A: Arguments>(group: &str) -> String {
    help_of::<A>(|field| field.group == group)
}

/// The flags of a group that a module has; empty if it has none.
pub fn module_flag_help<A: Arguments>(group: &str, module: Module) -> String {
    help_of::<A>(|field| field.group == group && module.takes(field))
}

fn help_of<A: Arguments>(shown: impl Fn(&FieldDoc) -> bool) -> String {
    let mut text = String::new();
    for field in A::fields().iter().filter(|field| shown(field)) {
        let _ = writeln!(text, "  --{} {}", field.name, placeholder(field));
        let mut help = field.help.clone();
        if placeholder(field) == "WORD" {
            let _ = write!(help, " One of {}.", field.choices.join(", "));
        }
        if field.required {
            help.push_str(" (required)");
        } else if let Some(default) = default_text(field) {
            let _ = write!(help, " [default: {default}]");
        }
        wrap(&mut text, &help, 10);
    }
    text
}

/// What stands for the value of a flag.
fn placeholder(field: &FieldDoc) -> String {
    match field.kind {
        FieldKind::Boolean => "[True|False]".to_owned(),
        FieldKind::Count | FieldKind::Integer => "N".to_owned(),
        FieldKind::Number => "NUMBER".to_owned(),
        FieldKind::Text => "TEXT".to_owned(),
        FieldKind::Choice if field.choices.len() > 4 => "WORD".to_owned(),
        FieldKind::Choice => field.choices.join("|"),
        FieldKind::Texts => "TEXT...".to_owned(),
        FieldKind::Counts => "N...".to_owned(),
        FieldKind::Object => "JSON".to_owned(),
    }
}

/// The default as it would be typed; nothing for what is unset or empty.
fn default_text(field: &FieldDoc) -> Option<String> {
    match &field.default {
        Value::Null => None,
        Value::Bool(flag) => Some(if *flag { "True" } else { "False" }.to_owned()),
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => Some(items.iter().map(Value::to_string).collect::<Vec<_>>().join(" ")),
        Value::Object(map) if map.is_empty() => None,
        other => Some(other.to_string()),
    }
}

/// Appends a paragraph, broken between words.
fn wrap(text: &mut String, paragraph: &str, indent: usize) {
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > WIDTH {
            text.push('\n');
            column = 0;
        }
        if column == 0 {
            let _ = write!(text, "{:indent$}", "");
            column = indent;
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}
