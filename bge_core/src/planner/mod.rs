//! What a run will need before it starts: tokens of its fullest batch, memory of a device, steps; and what to change
//! where that does not fit.

mod advice;
mod gpu;
#[cfg(not(target_arch = "wasm32"))]
mod host;
mod memory;
mod outline;
mod render;
mod shape;
mod time;

pub use advice::{Advice, size_text};
#[cfg(not(target_arch = "wasm32"))]
pub use host::{available_memory, peak_memory};
pub use memory::{FullestBatch, Memory};
pub use outline::DataOutline;
pub use shape::{ModelShape, Parameters};
pub use time::{Rates, StepTime};

use serde::Serialize;

use crate::config::{FinetuneConfig, Module};
use outline::Counts;

/// The numbers that a device computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits; the only one of a CPU.
    #[default]
    F32,
    /// `bf16` or `fp16` with master weights in 32 bits.
    Half,
}

/// Where a run is to take place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanOptions {
    /// Devices that share a batch.
    pub world_size: usize,
    /// What the devices share out (`DeepSpeed`'s `ZeRO`): 0 nothing, 1 the optimizer, 2 also gradients, 3 also weights.
    pub zero_stage: u8,
    /// The numbers of a device.
    pub precision: Precision,
    /// Threads of a device.
    pub threads: usize,
    /// Bytes that a device has, where that is known.
    pub memory_bytes: Option<u64>,
    /// What a device can do, where a time is wanted.
    pub rates: Option<Rates>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            world_size: 1,
            zero_stage: 0,
            precision: Precision::F32,
            threads: 1,
            memory_bytes: None,
            rates: None,
        }
    }
}

/// What a run will need.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Numbers in the weights.
    pub parameters: Parameters,
    /// The batch that needs the most memory.
    pub fullest_batch: FullestBatch,
    /// Bytes of one device.
    pub memory: Memory,
    /// Bytes that it has, where that is known.
    pub memory_bytes: Option<u64>,
    /// Whether it fits, where that is known.
    pub fits: Option<bool>,
    /// Where it does not fit: settings that would, and what they cost.
    pub advice: Option<Advice>,
    /// Optimizer steps of the run, where the data is known or `max_steps` says it.
    pub total_steps: Option<u64>,
    /// Whether lengths were measured in tokens of the data, or assumed to be the longest allowed.
    pub lengths_measured: bool,
    /// Steps on these devices and on up to 512, where it is known what a device can do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<StepTime>,
}

/// Plans a run of `module` with these settings; `data` is what is known of its training data, best with token counts.
///
/// The settings need not be checked: a number that makes no sense only gives a plan that makes none.
pub fn plan(
    shape: &ModelShape,
    module: Module,
    config: &FinetuneConfig,
    data: Option<&DataOutline>,
    options: &PlanOptions,
) -> Plan {
    let parameters = shape.parameters(module, config);
    let lengths = Lengths::of(shape, module, config, data);
    let batch = lengths.fullest(config, data);
    let memory = memory::memory(shape, parameters, module, config, batch, options);
    let fits = options.memory_bytes.map(|bytes| memory.total <= bytes);
    let advice = match options.memory_bytes {
        Some(bytes) if memory.total > bytes => {
            Some(advice::advise(shape, module, config, data, options, bytes))
        }
        _ => None,
    };
    let model = time::Model {
        shape,
        parameters,
        module,
        config,
        lengths,
        batch,
        options,
    };
    let curve = options.rates.map(|rates| model.curve(&rates));
    let total_steps = match u64::try_from(config.training.max_steps) {
        Ok(steps) if steps > 0 => Some(steps),
        _ => data.and_then(|data| data.training.total_steps),
    };
    Plan {
        parameters,
        fullest_batch: batch,
        memory,
        memory_bytes: options.memory_bytes,
        fits,
        advice,
        total_steps,
        lengths_measured: lengths.measured,
        curve: curve.unwrap_or_default(),
    }
}

/// Tokens of the texts of a batch: the mean, what nine in ten do not exceed, the longest.
#[derive(Clone, Copy, Debug)]
struct Tokens {
    mean: f64,
    p90: f64,
    longest: f64,
}

impl Tokens {
    fn all(longest: u64) -> Self {
        let longest = longest as f64;
        Self {
            mean: longest,
            p90: longest,
            longest,
        }
    }

    fn of(kinds: &[Counts], limit: u64) -> Self {
        let cut = |tokens: f64| tokens.min(limit as f64);
        let all = kinds.iter().map(|kind| kind.count as f64).sum::<f64>().max(1.0);
        let weighted = |value: fn(&Counts) -> f64| {
            kinds
                .iter()
                .map(|kind| kind.count as f64 * cut(value(kind)))
                .sum::<f64>()
                / all
        };
        Self {
            mean: weighted(|kind| kind.mean),
            p90: weighted(|kind| kind.p90),
            longest: kinds.iter().map(|kind| cut(kind.max)).fold(0.0, f64::max),
        }
    }

    /// The sum of `count` such texts that a run of some thousand batches may come to: the mean and four deviations.
    fn fullest(self, count: f64) -> f64 {
        (count * self.mean + 4.0 * count.sqrt() * self.deviation()).min(count * self.longest)
    }

    /// The standard deviation of a length, as the nine tenths show it.
    fn deviation(self) -> f64 {
        const P90: f64 = 1.2816; // the 90 % point of a normal distribution
        (self.p90 - self.mean).max(0.0) / P90
    }
}

/// The lengths of a run's texts.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    /// `None` for a reranker, whose pairs are one text each.
    query: Option<Tokens>,
    passage: Tokens,
    measured: bool,
}

impl Lengths {
    fn of(shape: &ModelShape, module: Module, config: &FinetuneConfig, data: Option<&DataOutline>) -> Self {
        let data_args = &config.data;
        let limit = |length: usize| (length as u64).min(shape.max_tokens);
        if module.trains_reranker() {
            // The lengths of pairs are not in a report, which counts queries and passages alone.
            let pair = data_args
                .max_len
                .min(data_args.query_max_len.saturating_add(data_args.passage_max_len));
            return Self {
                query: None,
                passage: Tokens::all(limit(pair)),
                measured: false,
            };
        }
        let (query, passage) = (limit(data_args.query_max_len), limit(data_args.passage_max_len));
        let counted = data.and_then(|data| {
            let passages: Vec<Counts> = [data.positives, data.negatives]
                .iter()
                .filter_map(|texts| texts.tokens.filter(|tokens| tokens.count > 0))
                .collect();
            let queries = data.queries.tokens.filter(|tokens| tokens.count > 0)?;
            (!passages.is_empty()).then_some((queries, passages))
        });
        match counted {
            Some((queries, passages)) => Self {
                query: Some(Tokens::of(&[queries], query)),
                passage: Tokens::of(&passages, passage),
                measured: true,
            },
            _ => Self {
                query: Some(Tokens::all(query)),
                passage: Tokens::all(passage),
                measured: false,
            },
        }
    }

    /// The batch of one device that holds the most tokens.
    fn fullest(self, config: &FinetuneConfig, data: Option<&DataOutline>) -> FullestBatch {
        let own = (
            config.training.per_device_train_batch_size,
            config.data.train_group_size,
        );
        // Files may bring sizes of their own, and rows without negatives make smaller groups.
        let sizes = data
            .map(|data| data.training.datasets.as_slice())
            .filter(|datasets| !datasets.is_empty())
            .map_or_else(
                || vec![own],
                |datasets| {
                    let sizes = |set: &outline::Batches| (set.queries_per_device, set.passages_per_query);
                    datasets.iter().map(sizes).collect()
                },
            );
        let batch = |(queries, group): (usize, usize)| {
            let (queries, passages) = (queries as f64, queries as f64 * group as f64);
            let texts = passages + if self.query.is_some() { queries } else { 0.0 };
            let of_queries = self.query.map_or(0.0, |tokens| tokens.fullest(queries));
            FullestBatch {
                texts: texts as u64,
                tokens: (of_queries + self.passage.fullest(passages)).ceil() as u64,
                longest: self
                    .passage
                    .longest
                    .max(self.query.map_or(0.0, |tokens| tokens.longest)) as u64,
            }
        };
        sizes
            .into_iter()
            .map(batch)
            .max_by_key(|batch| batch.tokens)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(name: &str, config: &FinetuneConfig, gib: u64) -> Option<Plan> {
        let options = PlanOptions {
            memory_bytes: Some(gib << 30),
            ..PlanOptions::default()
        };
        let shape = ModelShape::preset(name)?;
        Some(plan(&shape, Module::EncoderOnlyBase, config, None, &options))
    }

    #[test]
    fn presets_have_as_many_weights_as_the_models_on_the_hub() {
        let config = FinetuneConfig::default();
        let weights = |name: &str| planned(name, &config, 64).map(|plan| plan.parameters.all);
        // Counted by transformers' `num_parameters()`.
        assert_eq!(weights("BAAI/bge-base-en-v1.5"), Some(109_482_240));
        assert_eq!(weights("bge-large-en-v1.5"), Some(335_141_888));
        assert_eq!(weights("BAAI/bge-m3/"), Some(567_754_752));
        assert_eq!(weights("some/other-model"), None);
    }

    #[test]
    fn what_does_not_fit_gets_settings_that_do() {
        let mut config = FinetuneConfig::default();
        config.data.passage_max_len = 512;
        let plan = planned("bge-base-en-v1.5", &config, 6).unwrap();
        assert_eq!(plan.fits, Some(false));
        let advice = plan.advice.unwrap();
        assert_eq!(advice.settings["gradient_checkpointing"], true);
        assert!(advice.total <= 6 << 30 && advice.total < plan.memory.total);
        let hopeless = planned("bge-m3", &config, 2).unwrap().advice.unwrap();
        assert!(hopeless.settings.is_empty() && hopeless.total > 2 << 30);
    }

    #[test]
    fn devices_share_out_what_the_stage_says_but_for_the_part_that_runs() {
        let shape = ModelShape::preset("bge-base-en-v1.5").unwrap();
        let memory = |world_size: usize, zero_stage: u8| {
            let options = PlanOptions {
                world_size,
                zero_stage,
                ..PlanOptions::default()
            };
            let config = FinetuneConfig::default();
            plan(&shape, Module::EncoderOnlyBase, &config, None, &options).memory
        };
        let whole = memory(4, 0);
        assert_eq!(memory(1, 3), whole);
        let staged = [1, 2, 3].map(|stage| memory(4, stage));
        // 30,522 words, 512 positions and 2 types.
        let tables = 4 * 768 * (30_522 + 512 + 2);
        for (memory, stage) in staged.iter().zip(1..) {
            assert_eq!(memory.optimizer, whole.optimizer.div_ceil(4));
            let gradients = if stage >= 2 {
                whole.gradients.div_ceil(4) + tables
            } else {
                whole.gradients
            };
            let weights = if stage == 3 {
                whole.weights.div_ceil(4) + tables
            } else {
                whole.weights
            };
            assert_eq!(
                (memory.gradients, memory.weights),
                (gradients, weights),
                "stage {stage}"
            );
        }
    }

    #[test]
    fn measured_lengths_need_no_more_than_the_longest_allowed() {
        let config = FinetuneConfig::default();
        let shape = ModelShape::preset("bge-small-en-v1.5").unwrap();
        let text = r#"{"queries":{"tokens":{"count":9,"mean":8.0,"p90":12,"max":20}},
            "positives":{"tokens":{"count":9,"mean":60.0,"p90":100,"max":900}},"training":{"total_steps":7}}"#;
        let data = DataOutline::parse(text).unwrap();
        let options = PlanOptions::default();
        let measured = plan(&shape, Module::EncoderOnlyBase, &config, Some(&data), &options);
        let assumed = plan(&shape, Module::EncoderOnlyBase, &config, None, &options);
        assert!(measured.lengths_measured && measured.total_steps == Some(7));
        assert!(measured.memory.total < assumed.memory.total);
        assert_eq!(assumed.fullest_batch.tokens, 8 * 32 + 64 * 128);
        assert!(DataOutline::parse("[]").is_err());
    }

    #[test]
    fn a_config_that_is_no_encoder_is_refused_by_its_field() {
        let error = ModelShape::parse(r#"{"model_type":"llama"}"#).unwrap_err();
        assert!(error.to_string().contains("config.json"));
        let text = r#"{"model_type":"bert","vocab_size":0,"hidden_size":8,"num_hidden_layers":1,"num_attention_heads":1,"intermediate_size":8}"#;
        assert!(
            ModelShape::parse(text)
                .unwrap_err()
                .to_string()
                .contains("vocab_size")
        );
    }
}
