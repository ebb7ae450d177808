//! The report's curves over the steps of training: loss, learning rate, evaluations.

use super::charts::both;
use super::markup::minus;
use super::report::TrainingCurve;
use super::statistics::mean;
use super::svg::{Anchor, Scale, Svg};

/// Steps drawn of a curve; more are averaged.
const CURVE_POINTS: usize = 240;

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
                mean(&finite)
            };
            (points.last().map_or(0.0, |(step, _)| *step as f64), value)
        })
        .collect()
}

/// The mean of the neighbours, about a twentieth of all points; gaps stay gaps.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = points.len() / 40;
    let average = |index: usize| {
        let near = points
            .get(index.saturating_sub(half)..(index + half + 1).min(points.len()))
            .unwrap_or_default();
        let finite: Vec<f64> = near
            .iter()
            .map(|(_, value)| *value)
            .filter(|value| value.is_finite())
            .collect();
        mean(&finite)
    };
    let point = |(index, (step, value)): (usize, &(f64, f64))| {
        (
            *step,
            if value.is_finite() {
                average(index)
            } else {
                f64::NAN
            },
        )
    };
    points.iter().enumerate().map(point).collect()
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
        let y = Scale::new((low - pad, high + pad * 1.5), (bottom, top));
        let mut svg = Svg::new(width, bottom + 38.0);
        for (value, text) in y.ticks(6) {
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
