//! The two-place formats that join an instruction and a text, as Python's `str.format` reads them.

/// Which of the two places a format fills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) instruction: bool,
    pub(crate) text: bool,
}

/// Finds the places of a format; the error says what Python would trip over, or what only Python can do.
pub(crate) fn places(format: &str) -> Result<Places, String> {
    let mut places = Places::default();
    let mut automatic = 0_usize;
    let mut numbered = false;
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '{' if characters.next_if_eq(&'{').is_some() => {}
            '}' if characters.next_if_eq(&'}').is_some() => {}
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
                match index {
                    0 => places.instruction = true,
                    1 => places.text = true,
                    _ => {
                        return Err(
                            "there are more than two `{}`; the first is the instruction, the second the text"
                                .to_owned(),
                        );
                    }
                }
            }
            _ => {}
        }
    }
    if numbered && automatic > 0 {
        return Err("`{}` and numbered places cannot be mixed".to_owned());
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_as_python_reads_them() {
        let both = Places {
            instruction: true,
            text: true,
        };
        for format in [
            "{}{}",
            "{0}{1}",
            "{1} {0}",
            "<instruct>{}\n<query>{}",
            "{{{}}} {}",
            "{0}{1}{0}",
        ] {
            assert_eq!(places(format), Ok(both), "{format}");
        }
        assert_eq!(
            places("{1}"),
            Ok(Places {
                instruction: false,
                text: true
            })
        );
        assert_eq!(places("{{}}"), Ok(Places::default()));
        for format in [
            "{}{}{}", "{0}{}", "{2}", "{query}", "{", "}", "{}}{", "{:>9}", "{0!r}", "{-1}",
        ] {
            assert!(places(format).is_err(), "{format}");
        }
    }
}
