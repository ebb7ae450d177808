//! How long a step takes, on one device and on many.
//!
//! A device computes, changes its weights, and waits for what the others send. Products of matrices are counted exactly
//! (a backward is two forwards, and what is computed twice is counted twice); AdamW is bound by memory; collectives go round a
//! ring, whose slowest line is the network as soon as there are two hosts (Patarasuk and Yuan 2009; volumes of the stages of
//! `ZeRO`: Rajbhandari et al. 2020, section 7). Batches differ in length, and all wait for the longest of a step. What these
//! leave out (the start of kernels, the loss of contrastive scores on a CPU's vectors) is in [`Rates::flops`], which is
//! measured, not read off a data sheet. `benches/cost_model.py` holds the model beside runs on a CPU.

use serde::Serialize;

use super::memory::memory;
use super::shape::{ModelShape, Parameters};
use super::{Lengths, PlanOptions, Precision, Tokens};
use crate::config::{FinetuneConfig, Module};

/// What a device, and the lines between devices, can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Operations a second in products of matrices, as training reaches them: a device's peak times the share that is used.
    pub flops: f64,
    /// Bytes a second between a device and its memory.
    pub memory: f64,
    /// Bytes a second that a device sends within its host.
    pub line: f64,
    /// Bytes a second that a host sends to other hosts.
    pub network: f64,
    /// Devices of a host.
    pub devices_per_host: usize,
    /// Seconds until a message arrives.
    pub latency: f64,
    /// Whether devices talk while they compute; ranks on a CPU do not.
    pub overlap: bool,
}

impl Rates {
    /// A host of eight H100 with `NVLink` and a network card of 400 Gbit/s each. All but `tflops` is assumed, somewhat below the
    /// vendor's peaks, and was not measured.
    pub fn accelerator(tflops: f64) -> Self {
        Self {
            flops: tflops * 1e12,
            memory: 2.5e12,
            line: 360e9,
            network: 320e9,
            devices_per_host: 8,
            latency: 15e-6,
            overlap: true,
        }
    }
}

/// A step on some number of devices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepTime {
    /// Devices.
    pub devices: usize,
    /// Bytes of one device at its fullest batch.
    pub memory: u64,
    /// Seconds of a step.
    pub step: f64,
    /// Of these: products of matrices, on the device with the most tokens.
    pub compute: f64,
    /// Of these: new weights.
    pub optimizer: f64,
    /// Of these: waiting for others.
    pub waiting: f64,
    /// Seconds that lines are busy, also while devices compute.
    pub communication: f64,
    /// Tokens a second, of all devices.
    pub tokens_per_second: f64,
    /// How many times faster than one device, for each device.
    pub efficiency: f64,
}

/// Numbers of devices that a curve goes through.
const CURVE: [usize; 8] = [1, 8, 16, 32, 64, 128, 256, 512];

/// Everything a step is made of.
pub(super) struct Model<'a> {
    pub(super) shape: &'a ModelShape,
    pub(super) parameters: Parameters,
    pub(super) module: Module,
    pub(super) config: &'a FinetuneConfig,
    pub(super) lengths: Lengths,
    pub(super) batch: super::FullestBatch,
    pub(super) options: &'a PlanOptions,
}

/// The tokens of a device's batch.
#[derive(Clone, Copy)]
struct Load {
    mean: f64,
    deviation: f64,
    /// The sum of the squares of the lengths.
    squares: f64,
}

impl Model<'_> {
    /// A step on `options.world_size` devices, and on powers of two up to 512.
    pub(super) fn curve(&self, rates: &Rates) -> Vec<StepTime> {
        let own = self.options.world_size;
        let mut devices: Vec<usize> = CURVE.into_iter().chain([own]).collect();
        devices.sort_unstable();
        devices.dedup();
        let alone = self.step(1, rates, None);
        devices
            .into_iter()
            .map(|devices| self.step(devices, rates, Some(alone.tokens_per_second)))
            .collect()
    }

    fn step(&self, devices: usize, rates: &Rates, alone: Option<f64>) -> StepTime {
        let options = PlanOptions {
            world_size: devices,
            ..*self.options
        };
        let stage = options.zero_stage;
        let training = &self.config.training;
        let micro = training.gradient_accumulation_steps.max(1) as f64;
        let load = self.load();
        // The expected largest of n normal numbers is near the mean and sqrt(2 ln n) deviations.
        let longest = load.mean + (2.0 * (devices as f64).ln()).sqrt() * load.deviation;
        let forward = self.forward(load, devices) * longest / load.mean.max(1.0) / rates.flops;
        let compute = micro * forward * self.passes();
        let trained = self.parameters.trained as f64;
        let bytes = match options.precision {
            Precision::F32 => 4.0,
            Precision::Half => 2.0,
        };
        let moved = 28.0; // AdamW reads weight, gradient and moments and writes all but the gradient, in 32 bits
        let shared = if stage >= 1 { devices as f64 } else { 1.0 };
        let optimizer = trained * moved / shared / rates.memory;
        let gradients = trained * training.communication_data_type.bytes() as f64;
        // New weights travel in f32, those of a layer that is about to run as it computes with them.
        let [tables, _] = self.shape.parts().map(|floats| floats as f64);
        let (new, parts) = (
            trained * 4.0,
            tables * 4.0 + (self.parameters.all as f64 - tables) * bytes,
        );
        let half = |volume: f64| ring(volume, devices, self.shape.num_hidden_layers as f64, rates);
        // Each time, a reduce-scatter of gradients or an all-gather of weights; the sum of all gradients is two halves.
        let parameters = match stage {
            0 => 2.0 * half(gradients),
            1 => half(gradients) + half(new),
            2 => micro * half(gradients) + half(new),
            _ => micro * (half(gradients) + (self.passes() - 1.0) * half(parts)),
        };
        // The loss is between forward and backward: nothing hides what it waits for.
        let vectors = micro * self.vectors(devices, rates);
        let hidden = match (rates.overlap, stage) {
            (false, _) => 0.0,
            (true, 0..=2) => forward * 2.0, // gradients go while the last backward runs
            (true, _) => compute,
        };
        let waiting = (parameters - hidden).max(0.0) + vectors;
        let step = compute + optimizer + waiting;
        let tokens_per_second = micro * load.mean * devices as f64 / step;
        StepTime {
            devices,
            memory: memory(
                self.shape,
                self.parameters,
                self.module,
                self.config,
                self.batch,
                &options,
            )
            .total,
            step,
            compute,
            optimizer,
            waiting,
            communication: parameters + vectors,
            tokens_per_second,
            efficiency: tokens_per_second / devices as f64 / alone.unwrap_or(tokens_per_second),
        }
    }

    fn load(&self) -> Load {
        let texts = self.batch.texts as f64;
        let group = self.config.data.train_group_size as f64;
        let queries = self.lengths.query.map_or(0.0, |_| texts / (group + 1.0));
        let kinds = [
            self.lengths.query.map(|tokens| (queries, tokens)),
            Some((texts - queries, self.lengths.passage)),
        ];
        let sum = |value: &dyn Fn(f64, Tokens) -> f64| -> f64 {
            kinds
                .iter()
                .flatten()
                .map(|&(count, tokens)| value(count, tokens))
                .sum()
        };
        Load {
            mean: sum(&|count, tokens| count * tokens.mean),
            deviation: sum(&|count, tokens| count * tokens.deviation().powi(2)).sqrt(),
            squares: sum(&|count, tokens| count * (tokens.mean.powi(2) + tokens.deviation().powi(2))),
        }
    }

    /// Operations of one forward of one device's batch.
    fn forward(&self, load: Load, devices: usize) -> f64 {
        let shape = self.shape;
        let (width, hidden) = (shape.hidden_size as f64, shape.intermediate_size as f64);
        let layers = shape.num_hidden_layers as f64;
        let maps = load.mean * 2.0 * (4.0 * width * width + 2.0 * width * hidden);
        let attention = 4.0 * width * load.squares;
        let (queries, passages) = self.texts();
        let crossed = if self.config.training.negatives_cross_device {
            devices as f64
        } else {
            1.0
        };
        let scores = 2.0 * queries * passages * crossed * width;
        let heads = if self.module == Module::EncoderOnlyM3 && self.config.training.unified_finetuning {
            let dim = shape.colbert_dim(self.config) as f64;
            let of_queries = queries * self.lengths.query.map_or(0.0, |tokens| tokens.mean);
            2.0 * dim * (load.mean * width + of_queries * passages * self.lengths.passage.mean)
        } else {
            0.0
        };
        layers * (maps + attention) + scores + heads
    }

    /// Forwards that a step is worth: a backward is two, and with checkpoints or sub-batches one is made twice.
    fn passes(&self) -> f64 {
        let training = &self.config.training;
        let twice = |on: bool| if on { 1.0 } else { 0.0 };
        let sub_batches = training
            .sub_batch_size
            .is_some_and(|size| size > 0 && (size as u64) < self.batch.texts);
        let reranker = self.module.trains_reranker(); // its sub-batches need no second forward
        3.0 + twice(training.gradient_checkpointing) + twice(sub_batches && !reranker)
    }

    /// Queries and passages of a device.
    fn texts(&self) -> (f64, f64) {
        let texts = self.batch.texts as f64;
        let group = self.config.data.train_group_size as f64;
        match self.lengths.query {
            Some(_) => (texts / (group + 1.0), texts * group / (group + 1.0)),
            None => (0.0, texts),
        }
    }

    /// Seconds to give each other the vectors of passages and back their gradients (`negatives_cross_device`).
    fn vectors(&self, devices: usize, rates: &Rates) -> f64 {
        if !self.config.training.negatives_cross_device || self.module.trains_reranker() {
            return 0.0;
        }
        let (_, passages) = self.texts();
        let bytes = passages * devices as f64 * self.shape.hidden_size as f64 * 4.0;
        2.0 * ring(bytes, devices, 1.0, rates)
    }
}

/// Seconds of a reduce-scatter or all-gather of `bytes` in `calls` parts: all but one of the devices' blocks go over each line.
fn ring(bytes: f64, devices: usize, calls: f64, rates: &Rates) -> f64 {
    if devices < 2 {
        return 0.0;
    }
    let devices_f = devices as f64;
    let line = if devices > rates.devices_per_host {
        rates.line.min(rates.network)
    } else {
        rates.line
    };
    bytes * (devices_f - 1.0) / devices_f / line + calls * devices_f.log2().ceil() * rates.latency
}

#[cfg(test)]
mod tests {
    use super::super::{Plan, PlanOptions, plan};
    use super::*;
    use crate::config::NumberType;

    fn planned(options: PlanOptions, change: impl FnOnce(&mut FinetuneConfig)) -> Plan {
        let mut config = FinetuneConfig::default();
        config.data.passage_max_len = 512;
        change(&mut config);
        let shape = ModelShape::preset("bge-m3").unwrap();
        plan(&shape, Module::EncoderOnlyBase, &config, None, &options)
    }

    fn options(zero_stage: u8, rates: Rates) -> PlanOptions {
        PlanOptions {
            zero_stage,
            precision: Precision::Half,
            rates: Some(rates),
            ..PlanOptions::default()
        }
    }

    #[test]
    fn a_forward_has_the_operations_that_its_weights_say() {
        let plan = planned(options(0, Rates::accelerator(100.0)), |_| {});
        let alone = plan.curve[0];
        // 24 layers of 12 * 1024^2 weights, two operations each, and attention; three times for the backward.
        let tokens = f64::from(8 * 32 + 64 * 512);
        let maps = tokens * 2.0 * 24.0 * 12.0 * 1024.0 * 1024.0;
        let attention = 24.0 * 4.0 * 1024.0 * f64::from(8 * 32 * 32 + 64 * 512 * 512);
        let scores = 2.0 * 8.0 * 64.0 * 1024.0;
        let wanted = 3.0 * (maps + attention + scores) / 100e12;
        assert!(
            (alone.compute / wanted - 1.0).abs() < 1e-9,
            "{} {wanted}",
            alone.compute
        );
        assert!(alone.waiting == 0.0 && alone.efficiency == 1.0);
        let again = planned(options(0, Rates::accelerator(100.0)), |config| {
            config.training.gradient_checkpointing = true;
        });
        assert!((again.curve[0].compute / wanted - 4.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn more_devices_do_more_and_talk_more() {
        for stage in 0..=3 {
            for (overlap, network) in [(true, 320e9), (true, 1e9), (false, 20e9)] {
                let rates = Rates {
                    network,
                    overlap,
                    ..Rates::accelerator(200.0)
                };
                let curve = planned(options(stage, rates), |_| {}).curve;
                assert_eq!(curve.last().map(|last| last.devices), Some(512));
                for pair in curve.windows(2) {
                    // Weights that are shared out are changed sooner.
                    assert!(
                        stage > 0 || pair[1].efficiency <= pair[0].efficiency + 1e-12,
                        "{pair:?}"
                    );
                    assert!(pair[1].tokens_per_second > pair[0].tokens_per_second || network < 1e10);
                    assert!(
                        pair[1].communication >= pair[0].communication,
                        "stage {stage}: {pair:?}"
                    );
                    assert!(pair[1].memory <= pair[0].memory);
                    let parts = pair[1].compute + pair[1].optimizer + pair[1].waiting;
                    assert!((parts - pair[1].step).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn a_slow_network_is_waited_for_and_stage_3_sends_half_as_much_again() {
        let slow = Rates {
            network: 1e9,
            latency: 0.0,
            overlap: false,
            ..Rates::accelerator(200.0)
        };
        let plans = [0, 3].map(|stage| {
            let options = PlanOptions {
                precision: Precision::F32,
                ..options(stage, slow)
            };
            planned(options, |_| {})
        });
        let at = |stage: usize, devices: usize| {
            let curve = &plans[stage / 3].curve;
            *curve.iter().find(|step| step.devices == devices).unwrap()
        };
        // Four bytes of each trained weight, twice, but for a sixteenth.
        let wanted = 2.0 * plans[0].parameters.trained as f64 * 4.0 * 15.0 / 16.0 / 1e9;
        assert!((at(0, 16).waiting / wanted - 1.0).abs() < 1e-9);
        assert!((at(3, 16).communication / at(0, 16).communication - 1.5).abs() < 2e-3);
        assert!(at(0, 8).communication < at(0, 16).communication / 300.0);
    }

    #[test]
    fn gradients_in_16_bits_are_half_of_what_is_waited_for_and_weights_travel_as_before() {
        let slow = Rates {
            network: 1e9,
            latency: 0.0,
            overlap: false,
            ..Rates::accelerator(200.0)
        };
        let sent = |stage: u8, travels: NumberType| {
            let plan = planned(options(stage, slow), |config| {
                config.training.communication_data_type = travels;
            });
            plan.curve.last().unwrap().communication
        };
        for (stage, share) in [(0, 0.5), (1, 0.75), (2, 0.75)] {
            let exact = sent(stage, NumberType::Fp32);
            for travels in [NumberType::Bf16, NumberType::Fp16] {
                let ratio = sent(stage, travels) / exact;
                assert!((ratio - share).abs() < 1e-3, "stage {stage}, {travels}: {ratio}");
            }
        }
        assert!(sent(3, NumberType::Bf16) < sent(3, NumberType::Fp32));
    }
}
