//! A small SVG writer: shapes with CSS classes, axes with round numbers, a title and a description for readers.

use std::fmt::Write as _;

use super::markup::{escape, tick_label};

/// A drawing of fixed size in its own units; colours come from the page's style sheet by class.
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// Where a text is anchored.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            body: String::new(),
        }
    }

    pub(super) fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64) {
        let (width, height) = (width.max(0.0), height.max(0.0));
        let _ = write!(
            self.body,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        );
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = write!(
            self.body,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    pub(super) fn circle(&mut self, class: &str, center: (f64, f64), radius: f64) {
        let (x, y) = center;
        let _ = write!(
            self.body,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\"/>"
        );
    }

    pub(super) fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let (x, y) = at;
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        let _ = write!(
            self.body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    /// A line through points; a point that is not finite interrupts it.
    pub(super) fn polyline(&mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>) {
        self.path(class, points, None);
    }

    /// The area between points and a base line.
    pub(super) fn area(&mut self, class: &str, points: &[(f64, f64)], base: f64) {
        if let (Some(first), Some(last)) = (points.first(), points.last()) {
            let ends = [(last.0, base), (first.0, base)];
            self.path(class, points.iter().copied().chain(ends), Some("Z"));
        }
    }

    fn path(&mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>, end: Option<&str>) {
        let mut data = String::new();
        let mut pen = 'M';
        for (x, y) in points {
            if x.is_finite() && y.is_finite() {
                let _ = write!(data, "{pen}{x:.1} {y:.1}");
                pen = 'L';
            } else {
                pen = 'M';
            }
        }
        if !data.is_empty() {
            let _ = write!(
                self.body,
                "<path class=\"{class}\" d=\"{data}{}\"/>",
                end.unwrap_or_default()
            );
        }
    }

    /// The element; `id` must be unique on the page.
    pub(super) fn finish(self, id: &str, class: &str, title: &str, description: &str) -> String {
        format!(
            "<svg class=\"{class}\" viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\" \
             focusable=\"false\"><title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>{}</svg>",
            self.width,
            self.height,
            escape(title),
            escape(description),
            self.body
        )
    }
}

/// A linear scale from values to drawing units.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl Scale {
    pub(super) fn new(values: (f64, f64), units: (f64, f64)) -> Self {
        let (low, mut high) = values;
        if high <= low {
            high = low + low.abs().max(1e-6);
        }
        Self {
            low,
            high,
            start: units.0,
            end: units.1,
        }
    }

    pub(super) fn at(self, value: f64) -> f64 {
        self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)
    }

    /// Values at round steps (1, 2 or 5 times a power of ten), about `count` of them, with their labels.
    pub(super) fn ticks(self, count: usize) -> Vec<(f64, String)> {
        let step = round_step((self.high - self.low) / count.max(1) as f64);
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last.min(first + 100))
            .map(|index| {
                let value = index as f64 * step;
                (value, tick_label(value, step))
            })
            .collect()
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is at least `width`.
pub(super) fn round_step(width: f64) -> f64 {
    let power = 10_f64.powf(width.max(1e-12).log10().floor());
    let multiple = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|m| m * power >= width * (1.0 - 1e-9));
    multiple.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let labels = |low, high, count| -> Vec<String> {
            Scale::new((low, high), (0.0, 100.0))
                .ticks(count)
                .into_iter()
                .map(|(_, label)| label)
                .collect()
        };
        assert_eq!(labels(0.0, 1.0, 4), ["0", "0.5", "1.0"]);
        assert_eq!(labels(0.0, 1.0, 5), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(3.0, 1234.0, 3), ["500", "1000"]);
        assert!(!labels(5.0, 5.0, 3).is_empty());
    }

    #[test]
    fn a_gap_in_the_data_is_a_gap_in_the_line() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.polyline("a", [(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0), (3.0, 4.0)]);
        let text = svg.finish("x", "c", "<t>", "d");
        assert!(text.contains("d=\"M0.0 1.0M2.0 3.0L3.0 4.0\""), "{text}");
        assert!(text.contains("&lt;t&gt;") && !text.contains("NaN"));
    }
}
