//! Text that is safe inside HTML and SVG, and numbers as people write them.

/// Escapes a text for element content and quoted attributes.
///
/// Control characters, which HTML does not allow, become spaces; direction marks stay, as the report isolates
/// foreign text with `<bdi>`.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// A whole number with thin spaces between thousands from ten thousand on.
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    if digits.len() < 5 {
        return digits;
    }
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A tick label: as many decimals as the step between ticks needs, scientific when very small or large.
pub(super) fn tick_label(value: f64, step: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if step < 1e-4 || value.abs() >= 1e6 {
        return format!("{value:.0e}");
    }
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    minus(&format!("{value:.decimals$}"))
}

/// Replaces the hyphen of a negative number by a minus sign.
pub(super) fn minus(number: &str) -> String {
    number.replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_has_no_markup_left() {
        let safe = escape("<script>alert(\"1\" & '2')</script>\u{0}\u{b}\u{202e}");
        assert_eq!(
            safe,
            "&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;  \u{202e}"
        );
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(9999), "9999");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(tick_label(-0.5, 0.25), "\u{2212}0.5");
        assert_eq!(tick_label(0.25, 0.05), "0.25");
        assert_eq!(tick_label(400.0, 100.0), "400");
        assert_eq!(tick_label(2e-5, 1e-5), "2e-5");
    }
}
