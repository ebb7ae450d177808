//! The report's charts: metric bars, changes with intervals, similarity histograms.
//!
//! Each chart is drawn for two widths, and the style sheet shows one of them, so that text keeps its size on a
//! phone and on a wide screen.

use std::fmt::Write as _;

use super::compare::{Comparison, MetricChange};
use super::markup::minus;
use super::metrics::{Metric, MetricKey};
use super::similarity::{Histogram, SimilarityReport};
use super::statistics::{Interval, PairedEstimate};
use super::svg::{Anchor, Scale, Svg, round_step};
use super::verdict::{is_real, signed};

/// The two widths of every chart, in CSS pixels, with the class that shows it.
const WIDTHS: [(f64, &str); 2] = [(520.0, "wide"), (312.0, "narrow")];

/// Draws both widths of one chart.
pub(super) fn both(id: &str, title: &str, description: &str, draw: impl Fn(f64) -> Svg) -> String {
    WIDTHS
        .iter()
        .map(|(width, class)| draw(*width).finish(&format!("{id}-{class}"), class, title, description))
        .collect()
}

/// One row of [`metric_bars`]: a metric and up to two values with their intervals.
pub(super) struct BarRow {
    pub(super) metric: MetricKey,
    pub(super) bars: Vec<(&'static str, f64, Interval)>,
}

/// The metrics that have intervals, the deciding one first, then by name and cut-off.
pub(super) fn measured(comparison: &Comparison) -> Vec<(&MetricChange, &PairedEstimate)> {
    let mut rows: Vec<(&MetricChange, &PairedEstimate)> = comparison
        .metrics
        .iter()
        .filter_map(|change| change.estimate.as_ref().map(|estimate| (change, estimate)))
        .collect();
    let order = |metric: Metric| match metric {
        Metric::Ndcg => 0,
        Metric::Mrr => 1,
        _ => 2,
    };
    rows.sort_by_key(|(change, _)| {
        (
            change.metric != comparison.options.metric,
            order(change.metric.metric),
            change.metric,
        )
    });
    rows
}

/// Horizontal bars from 0 to 1 with whiskers for the 95 % intervals.
pub(super) fn metric_bars(rows: &[BarRow]) -> String {
    let mut description = String::from("Bars from 0 to 1 with 95 % intervals. ");
    for row in rows {
        let values: Vec<String> = row
            .bars
            .iter()
            .map(|(_, value, _)| format!("{value:.4}"))
            .collect();
        let _ = write!(description, "{}: {}. ", row.metric.title(), values.join(" to "));
    }
    both("bars", "Metrics", &description, |width| {
        let bar = 13.0;
        let label = if width > 400.0 { 96.0 } else { 0.0 };
        let per_row =
            |row: &BarRow| row.bars.len() as f64 * (bar + 3.0) + if label > 0.0 { 16.0 } else { 32.0 };
        let bottom: f64 = rows.iter().map(per_row).sum::<f64>() + 4.0;
        let scale = Scale::new((0.0, 1.0), (label, width - 52.0));
        let mut svg = Svg::new(width, bottom + 20.0);
        for (value, text) in scale.ticks(5) {
            let x = scale.at(value);
            svg.line("grid", (x, 4.0), (x, bottom));
            svg.text("tick", (x, bottom + 15.0), Anchor::Middle, &text);
        }
        let mut y = 10.0;
        for row in rows {
            let height = row.bars.len() as f64 * (bar + 3.0);
            if label > 0.0 {
                let middle = y + height / 2.0 + 3.0;
                svg.text("label", (label - 10.0, middle), Anchor::End, &row.metric.title());
            } else {
                svg.text("label", (0.0, y + 9.0), Anchor::Start, &row.metric.title());
                y += 16.0;
            }
            for (class, value, interval) in &row.bars {
                let middle = y + bar / 2.0;
                svg.rect(class, scale.at(0.0), y, scale.at(*value) - scale.at(0.0), bar);
                whisker(&mut svg, scale, *interval, middle, 3.5);
                let edge = scale.at(value.max(interval.high)) + 6.0;
                svg.text(
                    "value",
                    (edge, middle + 4.0),
                    Anchor::Start,
                    &format!("{value:.3}"),
                );
                y += bar + 3.0;
            }
            y += 16.0;
        }
        svg
    })
}

fn whisker(svg: &mut Svg, scale: Scale, interval: Interval, y: f64, half: f64) {
    let (low, high) = (scale.at(interval.low), scale.at(interval.high));
    for class in ["halo", "whisker"] {
        svg.line(class, (low, y), (high, y));
        svg.line(class, (low, y - half), (low, y + half));
        svg.line(class, (high, y - half), (high, y + half));
    }
}

/// Differences around zero: a dot with its interval for each metric, filled where it is more than chance.
pub(super) fn changes(comparison: &Comparison) -> String {
    let rows = measured(comparison);
    let reach = rows
        .iter()
        .flat_map(|(_, estimate)| {
            [
                estimate.change.interval.low.abs(),
                estimate.change.interval.high.abs(),
            ]
        })
        .fold(0.005, f64::max);
    let reach = round_step(reach * 1.05);
    let described: Vec<String> = rows
        .iter()
        .map(|(change, estimate)| {
            let interval = estimate.change.interval;
            format!(
                "{} {} ({} to {})",
                change.metric.title(),
                signed(change.change),
                signed(interval.low),
                signed(interval.high)
            )
        })
        .collect();
    let description = format!(
        "After minus before with 95 % intervals: {}.",
        described.join("; ")
    );
    both("changes", "Change of each metric", &description, |width| {
        let label = if width > 400.0 { 96.0 } else { 0.0 };
        let row = if label > 0.0 { 48.0 } else { 46.0 };
        let bottom = rows.len() as f64 * row + 4.0;
        let scale = Scale::new((-reach, reach), (label + 14.0, width - 14.0));
        let mut svg = Svg::new(width, bottom + 20.0);
        for (value, text) in scale.ticks(4) {
            let x = scale.at(value);
            svg.line(if value == 0.0 { "axis" } else { "grid" }, (x, 4.0), (x, bottom));
            let text = if value > 0.0 { format!("+{text}") } else { text };
            svg.text("tick", (x, bottom + 15.0), Anchor::Middle, &text);
        }
        for (index, (change, estimate)) in rows.iter().enumerate() {
            let top = 4.0 + index as f64 * row;
            let y = top + if label > 0.0 { row * 0.62 } else { row * 0.76 };
            if label > 0.0 {
                svg.text(
                    "label",
                    (label - 10.0, y + 4.0),
                    Anchor::End,
                    &change.metric.title(),
                );
            } else {
                svg.text("label", (0.0, top + 15.0), Anchor::Start, &change.metric.title());
            }
            whisker(&mut svg, scale, estimate.change.interval, y, 4.0);
            let class = match (is_real(estimate), change.change > 0.0) {
                (true, true) => "dot up",
                (true, false) => "dot down",
                (false, _) => "dot open",
            };
            let x = scale.at(change.change);
            svg.circle(class, (x, y), 5.0);
            let inside = x.clamp(label + 40.0, width - 30.0);
            svg.text(
                "value haloed",
                (inside, y - 10.0),
                Anchor::Middle,
                &minus(&signed(change.change)),
            );
        }
        svg
    })
}

/// The range and the bin width in which all given similarities are drawn alike.
pub(super) struct Frame {
    first: usize,
    last: usize,
    merge: usize,
    peak: f64,
}

impl Frame {
    pub(super) fn around(reports: &[&SimilarityReport]) -> Self {
        let all: Vec<&Histogram> = reports
            .iter()
            .flat_map(|report| [&report.positives.histogram, &report.negatives.histogram])
            .collect();
        let filled = |histogram: &Histogram| {
            let first = histogram.counts.iter().position(|count| *count > 0);
            let last = histogram.counts.iter().rposition(|count| *count > 0);
            first.zip(last)
        };
        let ends: Vec<(usize, usize)> = all.iter().filter_map(|histogram| filled(histogram)).collect();
        let first = ends.iter().map(|(first, _)| *first).min().unwrap_or(100) / 10 * 10;
        let last = (ends.iter().map(|(_, last)| *last).max().unwrap_or(199) / 10 + 1) * 10;
        let merge = if last - first > 100 { 5 } else { 2 };
        let mut frame = Self {
            first,
            last,
            merge,
            peak: 0.0,
        };
        frame.peak = all
            .iter()
            .flat_map(|histogram| frame.shares(histogram))
            .fold(0.01, f64::max);
        frame
    }

    /// Shares of all pairs in each drawn bin.
    fn shares(&self, histogram: &Histogram) -> Vec<f64> {
        let total = histogram.counts.iter().sum::<u64>().max(1) as f64;
        let range = histogram.counts.get(self.first..self.last).unwrap_or_default();
        range
            .chunks(self.merge)
            .map(|bins| bins.iter().sum::<u64>() as f64 / total)
            .collect()
    }

    fn value(bin: usize) -> f64 {
        bin as f64 / 100.0 - 1.0
    }
}

/// Similarities of right pairs (filled) and wrong pairs (outlined) in one model's space.
pub(super) fn similarity_histogram(
    id: &str,
    title: &str,
    report: &SimilarityReport,
    frame: &Frame,
) -> String {
    let description = format!(
        "Cosine similarity of queries with relevant documents (mean {:.3}) and with the highest ranked wrong ones (mean \
         {:.3}); the two histograms share {:.0} % of their area.",
        report.positives.mean,
        report.negatives.mean,
        report.overlap * 100.0
    );
    both(id, title, &description, |width| {
        let (top, bottom) = (34.0, 214.0);
        let x = Scale::new(
            (Frame::value(frame.first), Frame::value(frame.last)),
            (36.0, width - 10.0),
        );
        let y = Scale::new((0.0, frame.peak * 1.06), (bottom, top));
        let mut svg = Svg::new(width, bottom + 38.0);
        for (value, _) in y.ticks(3) {
            svg.line("grid", (36.0, y.at(value)), (width - 10.0, y.at(value)));
            let text = format!("{:.0} %", value * 100.0);
            svg.text("tick", (30.0, y.at(value) + 4.0), Anchor::End, &text);
        }
        let outline = |histogram: &Histogram| -> Vec<(f64, f64)> {
            let mut points = vec![(x.at(Frame::value(frame.first)), bottom)];
            for (index, share) in frame.shares(histogram).iter().enumerate() {
                let bin = frame.first + index * frame.merge;
                points.push((x.at(Frame::value(bin)), y.at(*share)));
                points.push((x.at(Frame::value(bin + frame.merge)), y.at(*share)));
            }
            points.push((x.at(Frame::value(frame.last)), bottom));
            points
        };
        let positives = outline(&report.positives.histogram);
        let negatives = outline(&report.negatives.histogram);
        svg.area("right-area", &positives, bottom);
        svg.area("wrong-area", &negatives, bottom);
        svg.polyline("right-line", positives);
        svg.polyline("wrong-line", negatives);
        svg.line("axis", (36.0, bottom), (width - 10.0, bottom));
        for (value, text) in x.ticks(if width > 400.0 { 8 } else { 5 }) {
            svg.text("tick", (x.at(value), bottom + 16.0), Anchor::Middle, &text);
        }
        svg.text(
            "tick",
            (f64::midpoint(26.0, width), bottom + 33.0),
            Anchor::Middle,
            "cosine similarity",
        );
        for (class, mean) in [
            ("right-mean", report.positives.mean),
            ("wrong-mean", report.negatives.mean),
        ] {
            svg.line(class, (x.at(mean), top - 6.0), (x.at(mean), bottom));
        }
        let (right, wrong) = (x.at(report.positives.mean), x.at(report.negatives.mean));
        let label = |mean: f64, name: &str| minus(&format!("{name} {mean:.2}"));
        let (first, second) = (
            label(report.positives.mean, "relevant"),
            label(report.negatives.mean, "wrong"),
        );
        let room = |x: f64| x.clamp(100.0, width - 90.0);
        if right >= wrong {
            svg.text(
                "right-text",
                (room(right) + 5.0, top - 12.0),
                Anchor::Start,
                &first,
            );
            svg.text(
                "wrong-text",
                (room(right) - 7.0, top - 12.0),
                Anchor::End,
                &second,
            );
        } else {
            svg.text("right-text", (room(right) - 7.0, top - 12.0), Anchor::End, &first);
            svg.text(
                "wrong-text",
                (room(right) + 5.0, top - 12.0),
                Anchor::Start,
                &second,
            );
        }
        svg
    })
}
