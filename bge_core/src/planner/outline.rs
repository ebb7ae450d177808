//! What a plan needs to know of the training data: a few numbers of a report, taken from it or read from its JSON.

use serde_json::{Map, Value};

use crate::data::histogram::Histogram;
use crate::data::report::{DatasetReport, TextReport};
use crate::error::{Error, ErrorKind, Result};

/// The part of `bge validate`'s report that decides memory and steps. A field that the JSON lacks counts as unknown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataOutline {
    pub(super) queries: Texts,
    pub(super) positives: Texts,
    pub(super) negatives: Texts,
    pub(super) training: Run,
}

/// Texts of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Texts {
    pub(super) tokens: Option<Counts>,
}

/// Tokens of texts, as they are before anything is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) count: u64,
    pub(super) mean: f64,
    pub(super) p90: f64,
    pub(super) max: f64,
}

/// The run that the report's settings would make.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Run {
    pub(super) total_steps: Option<u64>,
    pub(super) datasets: Vec<Batches>,
}

/// The batches of a dataset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Batches {
    pub(super) queries_per_device: usize,
    pub(super) passages_per_query: usize,
}

impl DataOutline {
    /// Reads it from the report's JSON.
    pub fn parse(report: &str) -> Result<Self> {
        let read = serde_json::from_str::<Map<String, Value>>(report);
        let outline = read
            .map_err(|error| error.to_string())
            .and_then(|report| Self::read(&report));
        outline.map_err(|reason| {
            let message = format!("this is not a report of `bge validate --json`: {reason}");
            Error::new(ErrorKind::InvalidArgument, message)
        })
    }

    /// Picked by hand: what derives would write for each struct is much code, which a browser has to fetch.
    fn read(report: &Map<String, Value>) -> Result<Self, String> {
        let texts = |name: &str| -> Result<Texts, String> {
            let tokens = report.get(name).and_then(|texts| texts.get("tokens"));
            let tokens = tokens.filter(|tokens| !tokens.is_null());
            let tokens = tokens.map(|tokens| {
                Ok::<_, String>(Counts {
                    count: whole(tokens, "count")?,
                    mean: number(tokens, "mean")?,
                    p90: number(tokens, "p90")?,
                    max: number(tokens, "max")?,
                })
            });
            Ok(Texts {
                tokens: tokens.transpose()?,
            })
        };
        let training = report.get("training").unwrap_or(&Value::Null);
        let datasets = training.get("datasets").and_then(Value::as_array);
        let batches = datasets.into_iter().flatten().map(|set| {
            Ok::<_, String>(Batches {
                queries_per_device: whole(set, "queries_per_device")? as usize,
                passages_per_query: whole(set, "passages_per_query")? as usize,
            })
        });
        let steps = training.get("total_steps").filter(|steps| !steps.is_null());
        Ok(Self {
            queries: texts("queries")?,
            positives: texts("positives")?,
            negatives: texts("negatives")?,
            training: Run {
                total_steps: steps.map(|_| whole(training, "total_steps")).transpose()?,
                datasets: batches.collect::<Result<_, _>>()?,
            },
        })
    }
}

fn whole(object: &Value, name: &str) -> Result<u64, String> {
    let value = object.get(name).and_then(Value::as_u64);
    value.ok_or_else(|| format!("`{name}` must be a whole number"))
}

fn number(object: &Value, name: &str) -> Result<f64, String> {
    let value = object.get(name).and_then(Value::as_f64);
    value.ok_or_else(|| format!("`{name}` must be a number"))
}

impl From<&DatasetReport> for DataOutline {
    fn from(report: &DatasetReport) -> Self {
        let texts = |texts: &TextReport| Texts {
            tokens: texts.tokens.as_ref().map(Counts::from),
        };
        let batches = report.training.datasets.iter().map(|set| Batches {
            queries_per_device: set.queries_per_device,
            passages_per_query: set.passages_per_query,
        });
        Self {
            queries: texts(&report.queries),
            positives: texts(&report.positives),
            negatives: texts(&report.negatives),
            training: Run {
                total_steps: Some(report.training.total_steps),
                datasets: batches.collect(),
            },
        }
    }
}

impl From<&Histogram> for Counts {
    fn from(histogram: &Histogram) -> Self {
        Self {
            count: histogram.total(),
            mean: histogram.mean(),
            p90: histogram.quantile(0.9) as f64,
            max: histogram.most() as f64,
        }
    }
}
