//! `AdamW` over named parameters, in place, one pass over the memory.

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

/// What the optimizer remembers of one parameter.
#[derive(Clone, Debug)]
struct State {
    /// How often it was updated; a step without a gradient does not count.
    steps: u64,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// `AdamW` (Loshchilov and Hutter 2019) with the arithmetic of `torch.optim.AdamW`: weight decay first, then the
/// moments, then the step with bias correction, all in f32 with the scalars computed in f64.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    parameters: Vec<Parameter>,
    states: Vec<State>,
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
        let states = parameters
            .iter()
            .map(|parameter| State {
                steps: 0,
                first: vec![0.0; parameter.len],
                second: vec![0.0; parameter.len],
            })
            .collect();
        Ok(Self {
            config,
            parameters: parameters.to_vec(),
            states,
        })
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
        let (Some(parameter), Some(state)) = (self.parameters.get(index), self.states.get_mut(index)) else {
            debug_assert!(false, "there is no parameter {index}");
            return;
        };
        debug_assert_eq!([value.len(), gradient.len()], [parameter.len; 2]);
        state.steps += 1;
        let scalars = Scalars::new(&self.config, parameter.decay, state.steps, lr, scale);
        let moments = state
            .first
            .par_chunks_mut(PIECE)
            .zip(state.second.par_chunks_mut(PIECE));
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

    /// The moments as named tensors: `exp_avg.NAME` and `exp_avg_sq.NAME` for every parameter.
    pub fn state_tensors(&self) -> BTreeMap<String, &[f32]> {
        self.parameters
            .iter()
            .zip(&self.states)
            .flat_map(|(parameter, state)| {
                [
                    (format!("{FIRST}{}", parameter.name), state.first.as_slice()),
                    (format!("{SECOND}{}", parameter.name), state.second.as_slice()),
                ]
            })
            .collect()
    }

    /// How often each parameter was updated, by name.
    pub fn state_steps(&self) -> BTreeMap<String, u64> {
        self.parameters
            .iter()
            .zip(&self.states)
            .map(|(parameter, state)| (parameter.name.clone(), state.steps))
            .collect()
    }

    /// Takes back what [`AdamW::state_tensors`] and [`AdamW::state_steps`] gave.
    ///
    /// Names and lengths must be exactly those of the parameters; on an error nothing was changed.
    pub fn load_state(
        &mut self,
        mut tensors: BTreeMap<String, Vec<f32>>,
        steps: &BTreeMap<String, u64>,
    ) -> Result<()> {
        let mut states = Vec::with_capacity(self.parameters.len());
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
            states.push(State { steps, first, second });
        }
        let known = |name: &String| self.parameters.iter().any(|p| &p.name == name);
        if let Some(name) = tensors.keys().next().or(steps.keys().find(|name| !known(name))) {
            bail!(
                ModelFormat,
                "the optimizer state has `{name}`, which the model lacks; it belongs to another model or another set of trained parameters"
            );
        }
        self.states = states;
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
