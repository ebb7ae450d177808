//! The two-place formats that join an instruction and a text, as Python's `str.format` reads them.

/// A piece of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Literal(String),
    Instruction,
    Text,
}

/// Takes a format apart; the error says what Python would trip over, or what only Python can do.
pub(crate) fn parts(format: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut automatic = 0_usize;
    let mut numbered = false;
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '{' | '}' if characters.next_if_eq(&character).is_some() => literal.push(character),
            '}' => return Err("a `}` has no `{` before it; write `}}` for the character itself".to_owned()),
            '{' => {
                let mut inside = String::new();
                loop {
                    match characters.next() {
                        Some('}') => break,
                        Some(other) => inside.push(other),
                        None => {
                            return Err("a `{` is not closed; write `{{` for the character itself".to_owned());
                        }
                    }
                }
                let index = match inside.as_str() {
                    "" => {
                        automatic += 1;
                        automatic - 1
                    }
                    "0" | "1" => {
                        numbered = true;
                        usize::from(inside == "1")
                    }
                    other => {
                        let other: String = other.chars().take(20).collect();
                        return Err(format!(
                            "`{{{other}}}` cannot be filled; use `{{}}` twice, or `{{0}}` for the instruction and \
                             `{{1}}` for the text"
                        ));
                    }
                };
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(match index {
                    0 => Part::Instruction,
                    1 => Part::Text,
                    _ => {
                        return Err(
                            "there are more than two `{}`; the first is the instruction, the second the text"
                                .to_owned(),
                        );
                    }
                });
            }
            other => literal.push(other),
        }
    }
    if numbered && automatic > 0 {
        return Err("`{}` and numbered places cannot be mixed".to_owned());
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_as_python_reads_them() {
        use Part::{Instruction, Text};
        let literal = |text: &str| Part::Literal(text.to_owned());
        for (format, expected) in [
            ("", vec![]),
            ("{}{}", vec![Instruction, Text]),
            ("{0}{1}{0}", vec![Instruction, Text, Instruction]),
            ("{1}: {0}", vec![Text, literal(": "), Instruction]),
            (
                "{{{}}}\n{}.",
                vec![literal("{"), Instruction, literal("}\n"), Text, literal(".")],
            ),
            ("{1}", vec![Text]),
            ("{{}}", vec![literal("{}")]),
        ] {
            assert_eq!(parts(format), Ok(expected), "{format}");
        }
        for format in [
            "{}{}{}", "{0}{}", "{2}", "{query}", "{", "}", "{}}{", "{:>9}", "{0!r}", "{-1}",
        ] {
            assert!(parts(format).is_err(), "{format}");
        }
    }
}
