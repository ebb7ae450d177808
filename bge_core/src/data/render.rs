//! The report as text for a terminal.

use std::fmt::{self, Write};

use super::findings::IssueGroup;
use super::histogram::Histogram;
use super::report::{DatasetReport, FileReport, Range, TextReport, Verdict};
use crate::issue::Severity;

/// Files and datasets shown before the rest is only counted.
const MOST_ROWS: usize = 30;

impl fmt::Display for DatasetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.headline(f)?;
        self.show_files(f)?;
        self.show_texts(f)?;
        self.show_training(f)?;
        ShowIssues(&self.issues).fmt(f)
    }
}

impl DatasetReport {
    fn headline(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |severity| self.count(severity);
        let verdict = match self.verdict {
            Verdict::Ready => "ready to train".to_owned(),
            Verdict::Warnings => format!("can be trained, {}", plural(count(Severity::Warning), "warning")),
            Verdict::Errors => format!(
                "{} and {}, training would refuse to start",
                plural(count(Severity::Error), "error"),
                plural(count(Severity::Warning), "warning")
            ),
        };
        writeln!(
            f,
            "{} in {}, {}: {verdict}",
            plural(self.rows, "row"),
            plural(self.files.len() as u64, "file"),
            bytes(self.bytes)
        )
    }

    fn show_files(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&[
            "file", "rows", "size", "pos/row", "neg/row", "type", "scores", "prompts",
        ]);
        for file in self.files.iter().take(MOST_ROWS) {
            table.row([
                tail(&file.name, 48),
                number(file.rows),
                bytes(file.bytes),
                extent(&file.positives),
                extent(&file.negatives),
                types(file),
                scores(file),
                if file.prompted == 0 {
                    "-".into()
                } else {
                    number(file.prompted)
                },
            ]);
        }
        table.show(f)?;
        rest(self.files.len(), f)
    }

    fn show_texts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows == 0 {
            return Ok(());
        }
        let kinds = [
            ("query", &self.queries),
            ("positive", &self.positives),
            ("negative", &self.negatives),
        ];
        let kinds = kinds.iter().filter(|(_, report)| report.characters.total() > 0);
        let mut table = Table::new(&["length of a", "texts", "mean", "p50", "p90", "p99", "max", "in"]);
        for (name, report) in kinds.clone() {
            table.row(lengths(name, &report.characters, "characters"));
            if let Some(tokens) = &report.tokens {
                table.row(lengths("", tokens, "tokens"));
            }
        }
        table.show(f)?;
        let least = if self.duplicates_bounded { "at least " } else { "" };
        writeln!(
            f,
            "\ndifferent: {least}{}, {least}{}",
            plural(self.distinct_queries, "query").replace("querys", "queries"),
            plural(self.distinct_passages, "passage")
        )?;
        for (name, report) in kinds.clone() {
            if let Some(share) = report.cut_share {
                writeln!(
                    f,
                    "{}: {:.1} % are longer than {} tokens and are cut",
                    plural_of(name),
                    100.0 * share,
                    report.max_tokens
                )?;
            }
        }
        for (name, report) in kinds {
            histogram(name, report, f)?;
        }
        Ok(())
    }

    fn show_training(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outlook = &self.training;
        if outlook.datasets.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(&[
            "dataset",
            "rows",
            "queries",
            "passages",
            "negatives",
            "batches",
            "sit out",
        ]);
        for dataset in outlook.datasets.iter().take(MOST_ROWS) {
            table.row([
                tail(&dataset.name, 48),
                number(dataset.rows),
                format!("{} x {}", dataset.queries_per_device, outlook.world_size),
                dataset.passages_per_query.to_string(),
                if dataset.in_batch_negatives {
                    "in batch"
                } else {
                    "own"
                }
                .to_owned(),
                number(dataset.batches),
                number(dataset.left_out),
            ]);
        }
        table.show(f)?;
        rest(outlook.datasets.len(), f)?;
        writeln!(
            f,
            "\nan epoch has {} in {}, the run {}",
            plural(outlook.batches_per_epoch, "batch").replace("batchs", "batches"),
            plural(outlook.steps_per_epoch, "step"),
            plural(outlook.total_steps, "step"),
        )?;
        if self.shared_positive_share >= 0.0005 {
            let percent = 100.0 * self.shared_positive_share;
            writeln!(
                f,
                "about {percent:.1} % of the queries of a batch meet their own positive as another's"
            )?;
        }
        if let Some(leak) = &self.evaluation {
            writeln!(
                f,
                "evaluation data: {} and {}; {} with a query of it, {} with a document of it",
                plural(leak.queries, "query").replace("querys", "queries"),
                plural(leak.passages, "document"),
                plural(leak.leaked_queries, "row"),
                plural(leak.leaked_positives, "row")
            )?;
        }
        Ok(())
    }
}

/// Findings as `bge validate` shows them: of each code the first places, then how many there are more.
#[derive(Clone, Copy, Debug)]
pub struct ShowIssues<'a>(pub &'a [IssueGroup]);

impl fmt::Display for ShowIssues<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in self.0 {
            let severity = match group.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Info => "info",
            };
            let times = if group.total == 1 {
                String::new()
            } else {
                format!(", {} times", number(group.total))
            };
            writeln!(f, "\n{severity} {}{times}", group.code)?;
            for issue in &group.first {
                f.write_str("  ")?;
                match (&issue.path, issue.line) {
                    (Some(path), Some(line)) => write!(f, "{path}:{line}: ")?,
                    (Some(path), None) => write!(f, "{path}: ")?,
                    (None, Some(line)) => write!(f, "line {line}: ")?,
                    (None, None) => {}
                }
                if let Some(element) = issue.element {
                    write!(f, "element {element}: ")?;
                }
                if let Some(field) = &issue.field {
                    write!(f, "`{}` ", printable(field))?;
                }
                writeln!(f, "{}", printable(&issue.message))?;
            }
            let more = group.total.saturating_sub(group.first.len() as u64);
            if more > 0 {
                writeln!(f, "  ... and {} more", number(more))?;
            }
        }
        Ok(())
    }
}

/// Texts from a file without the characters that steer a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A number with a mark at the thousands.
fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut marked = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            marked.push(',');
        }
        marked.push(digit);
    }
    marked
}

fn plural(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", number(count), if count == 1 { "" } else { "s" })
}

fn plural_of(noun: &str) -> String {
    if noun == "query" {
        "queries".into()
    } else {
        format!("{noun}s")
    }
}

fn bytes(count: u64) -> String {
    let (mut value, mut units) = (count as f64, ["B", "kB", "MB", "GB", "TB"].iter());
    let mut unit = units.next();
    while value >= 1000.0 {
        value /= 1000.0;
        unit = units.next().or(unit);
    }
    let unit = unit.copied().unwrap_or_default();
    if count < 1000 {
        format!("{count} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// The end of a path, which tells more than its beginning.
fn tail(path: &str, width: usize) -> String {
    let path = printable(path);
    let length = path.chars().count();
    if length <= width {
        return path;
    }
    "..."
        .chars()
        .chain(path.chars().skip(length + 3 - width))
        .collect()
}

fn extent(counts: &Histogram) -> String {
    match (counts.least(), counts.most()) {
        (least, most) if least == most => most.to_string(),
        (least, most) => format!("{least}-{most}"),
    }
}

fn types(file: &FileReport) -> String {
    match file.types.len() {
        0 => "-".into(),
        1 => file
            .types
            .keys()
            .next()
            .map_or_else(String::new, |name| tail(name, 24)),
        count => format!("{count} types"),
    }
}

fn scores(file: &FileReport) -> String {
    let parts = [file.pos_scores, file.neg_scores];
    let range = parts
        .iter()
        .filter(|range| range.count > 0)
        .copied()
        .reduce(|one, two| Range {
            min: one.min.min(two.min),
            max: one.max.max(two.max),
            ..one
        });
    range.map_or_else(
        || "-".into(),
        |range| format!("{:.3} to {:.3}", range.min, range.max),
    )
}

fn lengths(name: &str, counts: &Histogram, unit: &str) -> [String; 8] {
    [
        name.to_owned(),
        number(counts.total()),
        format!("{:.1}", counts.mean()),
        number(counts.quantile(0.5)),
        number(counts.quantile(0.9)),
        number(counts.quantile(0.99)),
        number(counts.most()),
        unit.to_owned(),
    ]
}

/// One bar for each doubling of the length.
fn histogram(name: &str, report: &TextReport, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const WIDTH: f64 = 40.0;
    let (counts, unit) = match &report.tokens {
        Some(tokens) => (tokens, "tokens"),
        None => (&report.characters, "characters"),
    };
    let bars = counts.bars();
    let most = bars.iter().map(|bar| bar.1).max().unwrap_or(1).max(1);
    writeln!(f, "\n{unit} of a {name}")?;
    let mut from = bars.first().map_or(0, |bar| bar.0 / 2 + bar.0 % 2);
    for (to, count) in bars {
        let eighths = (count as f64 / most as f64 * WIDTH * 8.0).round() as usize;
        let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"]
            .get(eighths % 8)
            .copied()
            .unwrap_or_default();
        let bar = "█".repeat(eighths / 8) + part;
        let bar = if bar.is_empty() && count > 0 {
            "▏".to_owned()
        } else {
            bar
        };
        let range = if from == to {
            to.to_string()
        } else {
            format!("{from}-{to}")
        };
        writeln!(f, "{range:>15} {bar} {}", number(count))?;
        from = to + 1;
    }
    Ok(())
}

fn rest(count: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match count.checked_sub(MOST_ROWS) {
        Some(more @ 1..) => writeln!(f, "... and {more} more"),
        _ => Ok(()),
    }
}

/// Columns as wide as they have to be; the first is flush left, the others flush right.
struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    fn new(head: &[&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned)],
        }
    }

    fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        writeln!(f)?;
        for row in &self.rows {
            let mut line = String::new();
            for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
                if at == 0 {
                    write!(line, "{cell:<width$}")?;
                } else {
                    write!(line, "  {cell:>width$}")?;
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
