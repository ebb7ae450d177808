//! `AdamW` over named parameters, in place, one pass over the memory.
//!
//! The moments are two flat buffers over the stretches of the parameters that this optimizer holds: all of them, or, where
//! ranks share it out, some.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::error::{Result, bail};

/// Elements that one thread updates at a time.
const PIECE: usize = 1 << 15;

/// First moments are stored under this prefix and the parameter's name.
const FIRST: &str = "exp_avg.";

/// Second moments are stored under this prefix and the parameter's name.
const SECOND: &str = "exp_avg_sq.";

/// The settings of `AdamW` that do not change from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment, in `[0, 1)`.
    pub beta1: f64,
    /// Decay of the second moment, in `[0, 1)`.
    pub beta2: f64,
    /// Added to the root of the second moment, at least 0.
    pub epsilon: f64,
    /// Decoupled weight decay per unit of learning rate, for the parameters that decay.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    /// Hugging Face's defaults: 0.9, 0.999, 1e-8 and no weight decay.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// One trainable parameter as the optimizer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the model file.
    pub name: String,
    /// Its number of elements.
    pub len: usize,
    /// Whether weight decay applies, see [`super::decays`].
    pub decay: bool,
}

/// A stretch of one parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The parameter's place in [`AdamW::parameters`].
    pub(crate) parameter: usize,
    /// The first of its elements.
    pub(crate) first: usize,
    /// The number of elements.
    pub(crate) length: usize,
}

impl Span {
    /// The elements within their parameter.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.length
    }
}

/// `AdamW` (Loshchilov and Hutter 2019) with the arithmetic of `torch.optim.AdamW`: weight decay first, then the
/// moments, then the step with bias correction, all in f32 with the scalars computed in f64.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    parameters: Vec<Parameter>,
    /// How often each parameter was updated; a step without a gradient does not count.
    steps: Vec<u64>,
    /// The stretches that have moments, in the order of the buffers.
    spans: Vec<Span>,
    /// Whether the stretches are the whole parameters in their order.
    whole: bool,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl AdamW {
    /// A fresh optimizer; the order of `parameters` is the order that [`AdamW::step`] expects.
    ///
    /// Refuses settings out of range and a name given twice.
    pub fn new(config: AdamWConfig, parameters: &[Parameter]) -> Result<Self> {
        for (name, beta) in [("adam_beta1", config.beta1), ("adam_beta2", config.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                bail!(
                    InvalidArgument,
                    "`{name}` is {beta}; it must be at least 0 and below 1"
                );
            }
        }
        for (name, value) in [
            ("adam_epsilon", config.epsilon),
            ("weight_decay", config.weight_decay),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                bail!(
                    InvalidArgument,
                    "`{name}` is {value}; it must be 0 or a positive number"
                );
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = parameters.iter().find(|p| !seen.insert(p.name.as_str())) {
            bail!(InvalidArgument, "the parameter `{}` is given twice", twice.name);
        }
        let whole = |(at, parameter): (usize, &Parameter)| Span {
            parameter: at,
            first: 0,
            length: parameter.len,
        };
        Ok(Self {
            config,
            parameters: parameters.to_vec(),
            steps: vec![0; parameters.len()],
            spans: parameters.iter().enumerate().map(whole).collect(),
            whole: true,
            first: Vec::new(),
            second: Vec::new(),
        }
        .with_fresh_moments())
    }

    /// The optimizer of a rank that holds only some stretches of the parameters; the other ranks hold the rest.
    ///
    /// It starts afresh, and [`AdamW::update_span`] takes the place of [`AdamW::step`]. Refuses a stretch outside of its parameter.
    pub(crate) fn part(&self, spans: Vec<Span>) -> Result<Self> {
        for span in &spans {
            let len = self.parameters.get(span.parameter).map_or(0, |p| p.len);
            if span.first.checked_add(span.length).is_none_or(|end| end > len) {
                bail!(
                    InvalidArgument,
                    "a stretch of {} elements from {} does not fit parameter {} of {len}",
                    span.length,
                    span.first,
                    span.parameter
                );
            }
        }
        Ok(Self {
            config: self.config,
            parameters: self.parameters.clone(),
            steps: vec![0; self.parameters.len()],
            spans,
            whole: false,
            first: Vec::new(),
            second: Vec::new(),
        }
        .with_fresh_moments())
    }

    fn with_fresh_moments(mut self) -> Self {
        let length = self.spans.iter().map(|span| span.length).sum();
        self.first = vec![0.0; length];
        self.second = vec![0.0; length];
        self
    }

    /// Bytes of the moments.
    pub fn bytes(&self) -> usize {
        size_of_val(self.first.as_slice()) + size_of_val(self.second.as_slice())
    }

    /// The parameters in the order of [`AdamW::step`].
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Updates every parameter that has a gradient, in place.
    ///
    /// `values` and `gradients` are in the order of [`AdamW::parameters`]. Every gradient is multiplied by `scale` (the clip
    /// factor, see [`super::clip_factor`]) on the way. A parameter without a gradient is left alone as in torch: no decay, no
    /// moments, and the step does not count for its bias correction. The result does not depend on the number of threads.
    /// On an error nothing was changed.
    pub fn step(
        &mut self,
        lr: f64,
        scale: f32,
        values: &mut [&mut [f32]],
        gradients: &[Option<&[f32]>],
    ) -> Result<()> {
        let count = self.parameters.len();
        if values.len() != count || gradients.len() != count {
            bail!(
                InvalidArgument,
                "the optimizer has {count} parameters but got {} values and {} gradients",
                values.len(),
                gradients.len()
            );
        }
        for ((parameter, value), gradient) in self.parameters.iter().zip(values.iter()).zip(gradients) {
            let lengths = [value.len(), gradient.map_or(parameter.len, <[f32]>::len)];
            if lengths != [parameter.len; 2] {
                bail!(
                    InvalidArgument,
                    "`{}` has {} elements but its value has {} and its gradient {}",
                    parameter.name,
                    parameter.len,
                    lengths[0],
                    lengths[1]
                );
            }
        }

        if !self.whole {
            bail!(InvalidArgument, "this rank holds only a part of the optimizer");
        }
        for (index, (value, gradient)) in values.iter_mut().zip(gradients).enumerate() {
            if let Some(gradient) = gradient {
                self.update(index, lr, scale, value, gradient);
            }
        }
        Ok(())
    }

    /// Updates one parameter, by its place in [`AdamW::parameters`]; [`AdamW::step`] for callers whose weights
    /// cannot all be borrowed at once. Slices of a wrong length are a bug of the caller and change nothing past the shortest.
    pub fn update(&mut self, index: usize, lr: f64, scale: f32, value: &mut [f32], gradient: &[f32]) {
        debug_assert!(self.whole, "this rank holds only a part of the optimizer");
        self.count(index);
        let before = self.spans.iter().take(index).map(|span| span.length).sum();
        self.update_span(index, before, lr, scale, value, gradient);
    }

    /// Counts an update of a parameter. Every rank counts it once, before it updates the stretches that it holds.
    pub(crate) fn count(&mut self, parameter: usize) {
        if let Some(steps) = self.steps.get_mut(parameter) {
            *steps += 1;
        }
    }

    /// Updates one stretch, by its place among those it holds; `before` is the length of all stretches before it.
    pub(crate) fn update_span(
        &mut self,
        span: usize,
        before: usize,
        lr: f64,
        scale: f32,
        value: &mut [f32],
        gradient: &[f32],
    ) {
        let Some(&Span {
            parameter, length, ..
        }) = self.spans.get(span)
        else {
            debug_assert!(false, "there is no stretch {span}");
            return;
        };
        debug_assert_eq!([value.len(), gradient.len()], [length; 2]);
        let (decay, steps) = (self.parameters[parameter].decay, self.steps[parameter]);
        let scalars = Scalars::new(&self.config, decay, steps, lr, scale);
        let moments = self.first[before..before + length]
            .par_chunks_mut(PIECE)
            .zip(self.second[before..before + length].par_chunks_mut(PIECE));
        let weights = value.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE));
        weights
            .zip(moments)
            .for_each(|((value, gradient), (first, second))| {
                pulp::Arch::new().dispatch(
                    #[inline(always)]
                    || scalars.update(value, gradient, first, second),
                );
            });
    }

    /// What a GPU must know to update a parameter that was counted.
    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn gpu_update(&self, parameter: usize, lr: f64) -> crate::cuda::Update {
        let (decay, steps) = (self.parameters[parameter].decay, self.steps[parameter]);
        let scalars = Scalars::new(&self.config, decay, steps, lr, 1.0);
        crate::cuda::Update {
            keep: scalars.keep,
            root_correction: scalars.root_correction,
            step: scalars.step,
        }
    }

    /// What a GPU must know of all parameters.
    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn gpu_betas(&self) -> crate::cuda::Betas {
        let scalars = Scalars::new(&self.config, false, 1, 0.0, 1.0);
        crate::cuda::Betas {
            beta1: scalars.beta1,
            take1: scalars.take1,
            beta2: scalars.beta2,
            take2: scalars.take2,
            epsilon: scalars.epsilon,
        }
    }

    /// First and second moments of all stretches, one after another.
    pub(crate) fn moments(&self) -> [&[f32]; 2] {
        [&self.first, &self.second]
    }

    /// The moments as named tensors: `exp_avg.NAME` and `exp_avg_sq.NAME` for every parameter; none of a part of a
    /// shared-out optimizer.
    pub fn state_tensors(&self) -> BTreeMap<String, &[f32]> {
        let mut tensors = BTreeMap::new();
        if !self.whole {
            return tensors;
        }
        let mut at = 0;
        for Parameter { name, len, .. } in &self.parameters {
            for (prefix, moments) in [(FIRST, &self.first), (SECOND, &self.second)] {
                tensors.insert(format!("{prefix}{name}"), &moments[at..at + len]);
            }
            at += len;
        }
        tensors
    }

    /// The names that [`AdamW::state_tensors`] gives first and second moments of a parameter.
    pub(crate) fn state_names(parameter: &Parameter) -> [String; 2] {
        [FIRST, SECOND].map(|prefix| format!("{prefix}{}", parameter.name))
    }

    /// How often each parameter was updated, by name.
    pub fn state_steps(&self) -> BTreeMap<String, u64> {
        self.parameters
            .iter()
            .zip(&self.steps)
            .map(|(parameter, steps)| (parameter.name.clone(), *steps))
            .collect()
    }

    /// Takes back what [`AdamW::state_tensors`] and [`AdamW::state_steps`] gave; a part takes its stretches.
    ///
    /// Names and lengths must be exactly those of the parameters; on an error nothing was changed.
    pub fn load_state(
        &mut self,
        mut tensors: BTreeMap<String, Vec<f32>>,
        steps: &BTreeMap<String, u64>,
    ) -> Result<()> {
        let mut counts = Vec::with_capacity(self.parameters.len());
        let mut moments = Vec::with_capacity(self.parameters.len());
        for parameter in &self.parameters {
            let mut take = |prefix: &str| -> Result<Vec<f32>> {
                let name = format!("{prefix}{}", parameter.name);
                let Some(tensor) = tensors.remove(&name) else {
                    bail!(
                        ModelFormat,
                        "the optimizer state lacks `{name}`; it belongs to another model or another set of trained parameters"
                    );
                };
                if tensor.len() != parameter.len {
                    bail!(
                        ModelFormat,
                        "`{name}` has {} elements in the optimizer state but the parameter has {}; it belongs to another model",
                        tensor.len(),
                        parameter.len
                    );
                }
                Ok(tensor)
            };
            let (first, second) = (take(FIRST)?, take(SECOND)?);
            let Some(&steps) = steps.get(&parameter.name) else {
                bail!(
                    ModelFormat,
                    "the optimizer state lacks the step count of `{}`",
                    parameter.name
                );
            };
            counts.push(steps);
            moments.push([first, second]);
        }
        let known = |name: &String| self.parameters.iter().any(|p| &p.name == name);
        if let Some(name) = tensors.keys().next().or(steps.keys().find(|name| !known(name))) {
            bail!(
                ModelFormat,
                "the optimizer state has `{name}`, which the model lacks; it belongs to another model or another set of trained parameters"
            );
        }
        self.steps = counts;
        let mut at = 0;
        for span in &self.spans {
            let [first, second] = &moments[span.parameter];
            self.first[at..at + span.length].copy_from_slice(&first[span.range()]);
            self.second[at..at + span.length].copy_from_slice(&second[span.range()]);
            at += span.length;
        }
        Ok(())
    }
}

/// The numbers of one step that all elements of a parameter share.
#[derive(Clone, Copy)]
struct Scalars {
    scale: f32,
    /// What weight decay leaves of a weight.
    keep: f32,
    beta1: f32,
    /// `1 - beta1`, computed in f64.
    take1: f32,
    beta2: f32,
    /// `1 - beta2`, computed in f64.
    take2: f32,
    epsilon: f32,
    /// Square root of the second moment's bias correction.
    root_correction: f32,
    /// Minus the learning rate over the first moment's bias correction.
    step: f32,
}

impl Scalars {
    fn new(config: &AdamWConfig, decay: bool, steps: u64, lr: f64, scale: f32) -> Self {
        let decay = if decay { config.weight_decay } else { 0.0 };
        let correction1 = 1.0 - config.beta1.powf(steps as f64);
        let correction2 = 1.0 - config.beta2.powf(steps as f64);
        Self {
            scale,
            keep: (1.0 - lr * decay) as f32,
            beta1: config.beta1 as f32,
            take1: (1.0 - config.beta1) as f32,
            beta2: config.beta2 as f32,
            take2: (1.0 - config.beta2) as f32,
            epsilon: config.epsilon as f32,
            root_correction: correction2.sqrt() as f32,
            step: -(lr / correction1) as f32,
        }
    }

    /// Updates a stretch of one parameter; the order of operations is torch's `_single_tensor_adam`.
    #[allow(
        clippy::inline_always,
        reason = "must be compiled into the instruction set that was dispatched to"
    )]
    #[inline(always)]
    fn update(self, value: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        let moments = first.iter_mut().zip(second);
        for ((w, &g), (m, v)) in value.iter_mut().zip(gradient).zip(moments) {
            let g = g * self.scale;
            let decayed = *w * self.keep;
            // torch's `lerp` starts from the nearer end.
            *m = if self.take1 < 0.5 {
                *m + self.take1 * (g - *m)
            } else {
                g - (g - *m) * self.beta1
            };
            *v = *v * self.beta2 + self.take2 * g * g;
            let denominator = v.sqrt() / self.root_correction + self.epsilon;
            *w = decayed + self.step * *m / denominator;
        }
    }
}
