//! What a plan needs to know of the training data: a few numbers of a report, taken from it or read from its JSON.

use serde::Deserialize;

use crate::data::histogram::Histogram;
use crate::data::report::{DatasetReport, TextReport};
use crate::error::{Error, ErrorKind, Result};

/// The part of `bge validate`'s report that decides memory and steps. A field that the JSON lacks counts as unknown.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct DataOutline {
    #[serde(default)]
    pub(super) queries: Texts,
    #[serde(default)]
    pub(super) positives: Texts,
    #[serde(default)]
    pub(super) negatives: Texts,
    #[serde(default)]
    pub(super) training: Run,
}

/// Texts of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Texts {
    pub(super) tokens: Option<Counts>,
}

/// Tokens of texts, as they are before anything is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Counts {
    pub(super) count: u64,
    pub(super) mean: f64,
    pub(super) p90: f64,
    pub(super) max: f64,
}

/// The run that the report's settings would make.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Run {
    pub(super) total_steps: Option<u64>,
    #[serde(default)]
    pub(super) datasets: Vec<Batches>,
}

/// The batches of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(super) struct Batches {
    pub(super) queries_per_device: usize,
    pub(super) passages_per_query: usize,
}

impl DataOutline {
    /// Reads it from the report's JSON.
    pub fn parse(report: &str) -> Result<Self> {
        // Read as an object first: serde takes a list for a struct, too.
        let object: serde_json::Result<serde_json::Map<_, _>> = serde_json::from_str(report);
        let outline = object.and_then(|object| serde_json::from_value(object.into()));
        outline.map_err(|error| {
            Error::new(
                ErrorKind::InvalidArgument,
                "this is not a report of `bge validate --json`",
            )
            .with_source(error)
        })
    }
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
