//! The checks of the data before a run, and what the run is expected to need.

use std::fmt;

use crate::config::CheckedConfig;
use crate::data::DatasetReport;
use crate::data::findings::IssueGroup;
use crate::data::preflight::validate_files;
use crate::data::session::ValidationOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::files::read_text;
use crate::issue::{Issue, Severity};
use crate::models::ModelFolder;
use crate::planner::{DataOutline, ModelShape, Plan, PlanOptions, Precision, plan, size_text};
use crate::tokenize::Tokenizer;

/// Rows whose tokens are all counted before a run, which is enough for a plan and quick.
const TOKEN_ROWS: u64 = 500;

/// What a run is expected to need, before its first step.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// What one rank needs; its memory is that of the machine, shared by the ranks, or that of its GPU.
    pub plan: Plan,
    /// Bytes of all ranks, which are one process; on GPUs those of each.
    pub bytes: u64,
    /// Bytes that were free before the model was loaded, where the system tells; unknown of GPUs.
    pub available: Option<u64>,
    /// Whether it is about GPUs.
    pub on_gpus: bool,
}

impl Forecast {
    /// Plans the run; `None` for a model that plans are not made for.
    pub(super) fn of(
        config: &CheckedConfig,
        folder: &ModelFolder,
        report: Option<&DatasetReport>,
        steps: usize,
        available: Option<u64>,
    ) -> Option<Self> {
        let text = read_text(&folder.path.join("config.json")).ok()?;
        let shape = ModelShape::parse(&text).ok()?;
        let ranks = config.training.world_size().max(1);
        let on_gpus = config.training.on_gpus();
        let available = available.filter(|_| !on_gpus);
        let options = PlanOptions {
            world_size: ranks,
            // Ranks that share the memory of a machine save nothing.
            zero_stage: if on_gpus {
                config.training.zero_stage.min(3) as u8
            } else {
                0
            },
            precision: Precision::F32,
            threads: rayon::current_num_threads().div_ceil(ranks),
            memory_bytes: available.map(|bytes| bytes / ranks as u64),
            rates: None,
        };
        let outline = report.map(DataOutline::from);
        let mut plan = plan(&shape, config.module(), config, outline.as_ref(), &options);
        plan.total_steps = Some(steps as u64);
        Some(Self {
            bytes: plan
                .memory
                .total
                .saturating_mul(if on_gpus { 1 } else { ranks as u64 }),
            plan,
            available,
            on_gpus,
        })
    }

    /// What to say where the memory will not do; the run starts all the same.
    pub(super) fn warning(&self) -> Option<Issue> {
        let (available, advice) = (self.available?, self.plan.advice.as_ref()?);
        let ranks = self.bytes / self.plan.memory.total.max(1);
        let each = if ranks > 1 { " for each rank" } else { "" };
        let message = format!(
            "the run needs about {}, and {} are free; {}{each}",
            size_text(self.bytes),
            size_text(available),
            advice.message
        );
        Some(Issue::new("run.memory", Severity::Warning, message))
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plan: about {}", size_text(self.bytes))?;
        if self.on_gpus {
            write!(f, " on each GPU")?;
        }
        if let Some(available) = self.available {
            write!(f, " of the {} that are free", size_text(available))?;
        }
        if let Some(steps) = self.plan.total_steps {
            write!(f, ", {steps} steps")?;
        }
        let batch = &self.plan.fullest_batch;
        write!(
            f,
            "; the fullest batch has {} texts and {} tokens, {}",
            batch.texts,
            batch.tokens,
            if self.plan.lengths_measured {
                "by the lengths of the data"
            } else {
                "every text as long as allowed"
            }
        )
    }
}

/// The checks of `bge validate`: its report, or one error that counts its errors and shows the first ones.
pub(super) fn preflight(config: &CheckedConfig, tokenizer: &Tokenizer) -> Result<DatasetReport> {
    let options = ValidationOptions {
        module: config.module(),
        data: config.data.clone(),
        training: config.training.clone(),
        world_size: config.training.world_size(),
        token_rows: TOKEN_ROWS,
        ..ValidationOptions::default()
    };
    let count = |text: &str| tokenizer.count(text).unwrap_or(0);
    let report = validate_files(options, Some(&count), |_| true)?;
    if !report.has_errors() {
        return Ok(report);
    }
    let groups = report
        .issues
        .iter()
        .filter(|group| group.severity == Severity::Error);
    let shown: Vec<String> = groups
        .flat_map(|group| &group.first)
        .take(5)
        .map(|issue| format!("\n  {issue}"))
        .collect();
    let message = format!(
        "the training data has {} errors (all of them: bge validate; to train all the same: --validate_data False){}",
        report.count(Severity::Error),
        shown.concat()
    );
    Err(Error::new(ErrorKind::InvalidData, message))
}

/// The warnings of a report, one for each kind.
pub(super) fn warnings(report: &DatasetReport) -> impl Iterator<Item = Issue> + '_ {
    let warnings = report
        .issues
        .iter()
        .filter(|group| group.severity == Severity::Warning);
    warnings.filter_map(IssueGroup::summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FinetuneConfig, Module};

    /// A run of bge-base on a machine with so much memory.
    fn forecast(gib: u64, ranks: u64) -> Forecast {
        let shape = ModelShape::preset("bge-base-en-v1.5").unwrap();
        let options = PlanOptions {
            memory_bytes: Some((gib << 30) / ranks),
            ..PlanOptions::default()
        };
        let config = FinetuneConfig::default();
        let plan = plan(&shape, Module::EncoderOnlyBase, &config, None, &options);
        Forecast {
            bytes: ranks * plan.memory.total,
            plan,
            available: Some(gib << 30),
            on_gpus: false,
        }
    }

    #[test]
    fn a_run_that_does_not_fit_is_named_with_settings_that_would() {
        let small = forecast(4, 1);
        let warning = small.warning().unwrap();
        assert_eq!(
            (warning.code, warning.severity),
            ("run.memory", Severity::Warning)
        );
        let needs = format!("needs about {}, and 4.0 GiB are free", size_text(small.bytes));
        assert!(warning.message.contains(&needs), "{warning}");
        assert!(warning.message.contains("--gradient_checkpointing"), "{warning}");
        assert_eq!(forecast(64, 1).warning(), None);
        let ranks = forecast(8, 8);
        assert!(ranks.bytes > 8 * (1 << 30));
        assert!(
            ranks.warning().unwrap().message.ends_with("for each rank"),
            "{ranks}"
        );
    }

    #[test]
    fn the_plan_is_one_line() {
        let forecast = forecast(64, 1);
        let text = forecast.to_string();
        assert!(text.starts_with("plan: about ") && !text.contains('\n'), "{text}");
        assert!(text.contains("of the 64.0 GiB that are free"), "{text}");
        assert!(
            text.ends_with("the fullest batch has 72 texts and 8448 tokens, every text as long as allowed"),
            "{text}"
        );
    }
}
