//! Instructions in front of texts: Python's positional `"{}{}"` formats, and which text gets which instruction.

use crate::config::format::{Part, parts};
use crate::config::{DataArguments, Module};
use crate::error::{Result, bail};

/// A format with two positional places, the instruction (0) and the text (1).
///
/// Understands what Python's `str.format` does with positions: `{}`, `{0}`, `{1}`, `{{` and `}}`. A backslash followed
/// by `n` is a line break, as in FlagEmbedding's flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl Template {
    /// Reads a format; it must have a place for the text, else all texts would be the same.
    pub fn parse(format: &str) -> Result<Self> {
        let format = format.replace("\\n", "\n");
        let parts = match parts(&format) {
            Ok(parts) => parts,
            Err(message) => bail!(InvalidConfig, "the format {format:?}: {message}"),
        };
        if !parts.contains(&Part::Text) {
            bail!(
                InvalidConfig,
                "the format {format:?} has no place for the text; the usual one is {{}}{{}}"
            );
        }
        Ok(Self(parts))
    }

    /// Fills in both places.
    pub fn fill(&self, instruction: &str, text: &str) -> String {
        let mut filled = String::with_capacity(instruction.len() + text.len() + 16);
        for part in &self.0 {
            filled.push_str(match part {
                Part::Literal(literal) => literal,
                Part::Instruction => instruction,
                Part::Text => text,
            });
        }
        filled
    }
}

/// What is put around queries and passages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instructions {
    query: Template,
    query_instruction: Option<String>,
    passage: Template,
    passage_instruction: Option<String>,
    /// Whether they are a reranker's: a row has prompts for query and passages apart.
    pairs: bool,
}

impl Instructions {
    /// The formats and instructions of the settings; a bad format is an error that names its flag.
    pub fn new(arguments: &DataArguments) -> Result<Self> {
        Self::for_module(Module::default(), arguments)
    }

    /// The same for a module: the rows of a reranker have a `query_prompt` and a `passage_prompt`, those of an
    /// embedder one `prompt`.
    pub fn for_module(module: Module, arguments: &DataArguments) -> Result<Self> {
        let parse =
            |flag: &str, format: &str| Template::parse(format).map_err(|error| error.with_field(flag));
        Ok(Self {
            query: parse("query_instruction_format", &arguments.query_instruction_format)?,
            query_instruction: arguments.query_instruction().map(str::to_owned),
            passage: parse(
                "passage_instruction_format",
                &arguments.passage_instruction_format,
            )?,
            passage_instruction: arguments.passage_instruction().map(str::to_owned),
            pairs: module.trains_reranker(),
        })
    }

    /// Whether query and passage are read together, by a reranker.
    pub(super) fn pairs(&self) -> bool {
        self.pairs
    }

    /// Which of a row's prompts are for its query and for its passages.
    pub(super) fn prompts<'a>(&self, row: [Option<&'a str>; 3]) -> [Option<&'a str>; 2] {
        let [prompt, query, passage] = row;
        if self.pairs {
            [query, passage]
        } else {
            [prompt, prompt]
        }
    }

    /// A query with the row's prompt, else the instruction of the settings, else nothing at all around it.
    pub fn query(&self, text: &str, prompt: Option<&str>) -> String {
        match prompt.or(self.query_instruction.as_deref()) {
            Some(instruction) => self.query.fill(instruction, text),
            None => text.to_owned(),
        }
    }

    /// A passage with the passage instruction, or, where `as_query` (symmetric tasks), formatted as a query.
    ///
    /// A row's prompt for passages replaces the instruction; only rerankers have one.
    pub fn passage(&self, text: &str, prompt: Option<&str>, as_query: bool) -> String {
        if as_query {
            return self.query(text, prompt);
        }
        let own = prompt.filter(|_| self.pairs);
        match own.or(self.passage_instruction.as_deref()) {
            Some(instruction) => self.passage.fill(instruction, text),
            None => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_mean_what_python_makes_of_them() {
        for (format, filled) in [
            ("{}{}", "IT"),
            ("{0}: {1}", "I: T"),
            ("{1} {0} {1}", "T I T"),
            ("{1}", "T"),
            ("{{{}}} {}", "{I} T"),
            ("Instruct: {}\\nQuery: {}", "Instruct: I\nQuery: T"),
            ("<{}>\n<{}>", "<I>\n<T>"),
        ] {
            assert_eq!(
                Template::parse(format).unwrap().fill("I", "T"),
                filled,
                "{format}"
            );
        }
    }

    #[test]
    fn a_bad_format_is_refused_with_the_reason() {
        for (format, part) in [
            ("", "no place for the text"),
            ("{}", "no place for the text"),
            ("{0}", "no place for the text"),
            ("{}{}{}", "more than two"),
            ("{}{1}", "mixed"),
            ("{2}{1}", "{2}"),
            ("{query}", "{query}"),
            ("{!r}{}", "{!r}"),
            ("{", "not closed"),
            ("} {}{}", "no `{`"),
        ] {
            let error = Template::parse(format).unwrap_err();
            assert!(error.message().contains(part), "{format}: {error}");
        }
    }

    #[test]
    fn a_missing_instruction_leaves_the_text_alone() {
        let mut arguments = DataArguments {
            query_instruction_format: "q: {}{}".into(),
            ..DataArguments::default()
        };
        let none = Instructions::new(&arguments).unwrap();
        assert_eq!(none.query("t", None), "t");
        assert_eq!(none.query("t", Some("P ")), "q: P t");
        assert_eq!(none.query("t", Some("")), "q: t");
        assert_eq!(none.passage("t", Some("P "), false), "t");
        assert_eq!(none.passage("t", Some("P "), true), "q: P t");
        arguments.query_instruction_for_retrieval = Some("I ".into());
        arguments.passage_instruction_for_retrieval = Some("D ".into());
        let both = Instructions::new(&arguments).unwrap();
        assert_eq!(both.query("t", None), "q: I t");
        assert_eq!(both.query("t", Some("P ")), "q: P t");
        assert_eq!(both.passage("t", Some("P "), false), "D t");
    }
}
