//! The report's charts: metric bars, changes with intervals, similarity histograms, loss and evaluation curves.
//!
//! Each chart is drawn for two widths, and the style sheet shows one of them, so that text keeps its size on a
//! phone and on a wide screen.

use super::compare::{Comparison, MetricChange};
use super::markup::minus;
use super::metrics::{Metric, MetricKey};
use super::report::TrainingCurve;
use super::similarity::{Histogram, SimilarityReport};
use super::statistics::{Interval, PairedEstimate};
use super::svg::{Anchor, Scale, Svg, round_step};
use super::verdict::{is_real, signed};

/// Steps drawn of a loss curve; more are averaged.
const CURVE_POINTS: usize = 240;

/// The two widths of every chart, in CSS pixels, with the class that shows it.
const WIDTHS: [(f64, &str); 2] = [(520.0, "wide"), (312.0, "narrow")];

/// Draws both widths of one chart.
fn both(id: &str, title: &str, description: &str, draw: impl Fn(f64) -> Svg) -> String {
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
        description += &format!("{}: {}. ", row.metric.title(), values.join(" to "));
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

/// Means of at most `most` groups of neighbouring points; what is not finite stays as a gap.
fn thin(points: &[(u64, f64)], most: usize) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(most).max(1);
    points
        .chunks(group)
        .map(|points| {
            let finite: Vec<f64> = points
                .iter()
                .map(|(_, value)| *value)
                .filter(|value| value.is_finite())
                .collect();
            let value = if finite.is_empty() {
                f64::NAN
            } else {
                super::statistics::mean(&finite)
            };
            (points.last().map_or(0.0, |(step, _)| *step as f64), value)
        })
        .collect()
}

/// An exponential average over about a twentieth of the points, started at the first.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let weight = 2.0 / (points.len() as f64 / 20.0 + 1.0).max(1.5);
    let weight = weight.min(1.0);
    let mut average: Option<f64> = None;
    points
        .iter()
        .map(|(step, value)| {
            if !value.is_finite() {
                return (*step, f64::NAN);
            }
            let next = average.map_or(*value, |average| average + weight * (value - average));
            average = Some(next);
            (*step, next)
        })
        .collect()
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .filter(|value| value.is_finite())
        .fold(None, |range, value| {
            Some(range.map_or((value, value), |(low, high): (f64, f64)| {
                (low.min(value), high.max(value))
            }))
        })
}

/// Loss by step, smoothed over the raw values, with the learning rate below; nothing without a finite loss.
pub(super) fn loss_curve(curve: &TrainingCurve) -> Option<String> {
    let raw = thin(&curve.loss, CURVE_POINTS);
    let line = smooth(&raw);
    let (low, high) = range(raw.iter().map(|(_, value)| *value))?;
    let last_step = curve.last_step() as f64;
    let low = if low >= 0.0 && low < high * 0.4 {
        0.0
    } else {
        low - (high - low) * 0.08
    };
    let first = line.iter().find(|(_, value)| value.is_finite())?.1;
    let last = line.iter().rev().find(|(_, value)| value.is_finite())?.1;
    let description =
        format!("Training loss over {last_step} steps, from {first:.4} to {last:.4} (smoothed).");
    let rate = range(curve.learning_rate.iter().map(|(_, value)| *value)).filter(|(_, peak)| *peak > 0.0);
    Some(both("loss", "Training loss", &description, |width| {
        let (left, right, top, bottom) = (44.0, width - 12.0, 12.0, 196.0);
        let x = Scale::new((0.0, last_step), (left, right));
        let y = Scale::new((low, high + (high - low) * 0.05), (bottom, top));
        let floor = if rate.is_some() { bottom + 58.0 } else { bottom };
        let mut svg = Svg::new(width, floor + 38.0);
        for (value, text) in y.ticks(4) {
            svg.line("grid", (left, y.at(value)), (right, y.at(value)));
            svg.text("tick", (left - 6.0, y.at(value) + 4.0), Anchor::End, &text);
        }
        svg.line("axis", (left, bottom), (right, bottom));
        svg.polyline("raw", raw.iter().map(|(step, value)| (x.at(*step), y.at(*value))));
        svg.polyline(
            "curve",
            line.iter().map(|(step, value)| (x.at(*step), y.at(*value))),
        );
        let end = line
            .iter()
            .rev()
            .find(|(_, value)| value.is_finite())
            .copied()
            .unwrap_or((0.0, last));
        svg.circle("curve-end", (x.at(end.0), y.at(end.1)), 3.5);
        if let Some((_, peak)) = rate {
            let strip = Scale::new((0.0, peak), (floor, bottom + 24.0));
            let points: Vec<(f64, f64)> = thin(&curve.learning_rate, CURVE_POINTS)
                .into_iter()
                .map(|(step, value)| (x.at(step), strip.at(value)))
                .collect();
            svg.area("rate-area", &points, floor);
            svg.polyline("rate", points);
            svg.line("axis", (left, floor), (right, floor));
            let label = minus(&format!("learning rate, peak {peak:.1e}"));
            svg.text("tick haloed", (right, bottom + 18.0), Anchor::End, &label);
        }
        step_axis(&mut svg, x, floor, width);
        svg
    }))
}

fn step_axis(svg: &mut Svg, x: Scale, y: f64, width: f64) {
    for (value, text) in x.ticks(if width > 400.0 { 6 } else { 4 }) {
        svg.text("tick", (x.at(value), y + 16.0), Anchor::Middle, &text);
    }
    svg.text(
        "tick",
        (f64::midpoint(32.0, width), y + 33.0),
        Anchor::Middle,
        "step",
    );
}

/// The evaluation metric during training, with the value before training as a dashed line.
pub(super) fn evaluation_curve(curve: &TrainingCurve, before: Option<f64>) -> Option<String> {
    let points: Vec<(u64, f64)> = curve
        .evaluations
        .iter()
        .filter(|(_, value)| value.is_finite())
        .copied()
        .collect();
    let (low, high) = range(points.iter().map(|(_, value)| *value).chain(before))?;
    let best = points
        .iter()
        .copied()
        .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))?;
    let pad = ((high - low) * 0.15).max(0.005);
    let title = format!("{} during training", curve.evaluation_title());
    let description = format!(
        "{} evaluations; the best is {:.4} at step {}.",
        points.len(),
        best.1,
        best.0
    );
    Some(both("evaluations", &title, &description, |width| {
        let (left, right, top, bottom) = (44.0, width - 12.0, 12.0, 254.0);
        let x = Scale::new((0.0, curve.last_step() as f64), (left, right));
        let y = Scale::new((low - pad, high + pad), (bottom, top));
        let mut svg = Svg::new(width, bottom + 38.0);
        for (value, text) in y.ticks(4) {
            svg.line("grid", (left, y.at(value)), (right, y.at(value)));
            svg.text("tick", (left - 6.0, y.at(value) + 4.0), Anchor::End, &text);
        }
        svg.line("axis", (left, bottom), (right, bottom));
        if let Some(before) = before {
            svg.line("baseline", (left, y.at(before)), (right, y.at(before)));
            let text = format!("before {before:.4}");
            svg.text("tick haloed", (right, y.at(before) + 14.0), Anchor::End, &text);
        }
        svg.polyline(
            "curve",
            points
                .iter()
                .map(|(step, value)| (x.at(*step as f64), y.at(*value))),
        );
        for (step, value) in &points {
            svg.circle("curve-end", (x.at(*step as f64), y.at(*value)), 3.5);
        }
        let at = (
            x.at(best.0 as f64).clamp(left + 40.0, right - 40.0),
            y.at(best.1) - 10.0,
        );
        svg.text("value haloed", at, Anchor::Middle, &format!("best {:.4}", best.1));
        step_axis(&mut svg, x, bottom, width);
        svg
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_is_thinned_and_keeps_its_end_and_its_mean() {
        let points: Vec<(u64, f64)> = (1..=100_000).map(|step| (step, 1.0)).collect();
        let thinned = thin(&points, CURVE_POINTS);
        assert!(thinned.len() <= CURVE_POINTS);
        assert_eq!(thinned.last(), Some(&(100_000.0, 1.0)));
        assert!(smooth(&thinned).iter().all(|(_, value)| *value == 1.0));
    }

    #[test]
    fn a_loss_that_was_never_finite_has_no_chart() {
        let mut curve = TrainingCurve {
            loss: vec![(1, f64::NAN), (2, f64::INFINITY)],
            ..TrainingCurve::default()
        };
        assert!(loss_curve(&curve).is_none());
        assert!(loss_curve(&TrainingCurve::default()).is_none());
        curve.loss.push((3, 0.5));
        let drawn = loss_curve(&curve).unwrap();
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    }
}
