//! The learning rate of every step: Hugging Face's schedules, number by number.

use std::f64::consts::PI;

use serde_json::{Map, Value};

use crate::config::LrSchedulerType;
use crate::error::{Result, bail};

/// The number of warm-up steps out of `total` optimizer steps.
///
/// `steps` from 1 on is a count (its whole part); between 0 and 1 a share of `total`, rounded up, as in transformers 5.
/// Where it is 0, `ratio` of `total` counts, rounded up, as in transformers 4. Refuses negative numbers and a
/// ratio above 1.
pub fn warmup_steps(steps: f64, ratio: f64, total: usize) -> Result<usize> {
    if !(steps >= 0.0 && steps.is_finite()) {
        bail!(
            InvalidArgument,
            "`warmup_steps` is {steps}; give a number of steps, or a share of all steps below 1"
        );
    }
    if !(0.0..=1.0).contains(&ratio) {
        bail!(
            InvalidArgument,
            "`warmup_ratio` is {ratio}; give a share of all steps between 0 and 1"
        );
    }
    if steps >= 1.0 {
        return Ok(steps as usize);
    }
    let share = if steps > 0.0 { steps } else { ratio };
    Ok((total as f64 * share).ceil() as usize)
}

/// A learning rate as a function of the optimizer steps already taken (`transformers/optimization.py`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    base: f64,
    warmup: usize,
    total: usize,
    shape: Shape,
}

/// The part after the warm-up, with the settings it has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    /// Constant from the first step, without warm-up.
    Flat,
    /// Constant after the warm-up.
    Constant,
    Linear,
    Cosine {
        cycles: f64,
    },
    Restarts {
        cycles: f64,
    },
    Polynomial {
        power: f64,
        end: f64,
    },
    InverseSqrt {
        timescale: f64,
    },
}

impl Schedule {
    /// A schedule of `total` optimizer steps that starts from, or warms up to, the rate `base`.
    ///
    /// `kwargs` is `lr_scheduler_kwargs`: `num_cycles` (cosine, default 0.5; cosine with restarts, default 1), `power` and
    /// `lr_end` (polynomial, defaults 1 and 1e-7), `timescale` (inverse square root; default the warm-up steps, or 10,000
    /// without). Both constant schedules ignore it, as upstream does; elsewhere a name that the schedule lacks is refused.
    pub fn new(
        kind: LrSchedulerType,
        kwargs: &Map<String, Value>,
        base: f64,
        warmup: usize,
        total: usize,
    ) -> Result<Self> {
        let mut kwargs = Kwargs {
            kind,
            rest: kwargs.clone(),
        };
        let shape = match kind {
            LrSchedulerType::Constant => Shape::Flat,
            LrSchedulerType::ConstantWithWarmup => Shape::Constant,
            LrSchedulerType::Linear => Shape::Linear,
            LrSchedulerType::Cosine => Shape::Cosine {
                cycles: kwargs.number("num_cycles")?.unwrap_or(0.5),
            },
            LrSchedulerType::CosineWithRestarts => Shape::Restarts {
                cycles: kwargs.number("num_cycles")?.unwrap_or(1.0),
            },
            LrSchedulerType::Polynomial => {
                let power = kwargs.number("power")?.unwrap_or(1.0);
                let end = kwargs.number("lr_end")?.unwrap_or(1e-7);
                if base <= end {
                    bail!(
                        InvalidArgument,
                        "`lr_end` of the polynomial schedule is {end}; it must be below the learning rate {base}"
                    );
                }
                Shape::Polynomial { power, end }
            }
            LrSchedulerType::InverseSqrt => {
                let default = if warmup == 0 { 10_000 } else { warmup };
                let timescale = kwargs.number("timescale")?.unwrap_or(default as f64);
                if timescale <= 0.0 {
                    bail!(InvalidArgument, "`timescale` is {timescale}; it must be above 0");
                }
                Shape::InverseSqrt { timescale }
            }
        };
        if !matches!(shape, Shape::Flat | Shape::Constant) {
            kwargs.finish()?;
        }
        Ok(Self {
            base,
            warmup,
            total,
            shape,
        })
    }

    /// The learning rate of the update that follows `step` finished ones; 0 is the very first.
    pub fn lr(&self, step: usize) -> f64 {
        self.base * self.factor(step)
    }

    /// The share of the base rate.
    fn factor(&self, step: usize) -> f64 {
        if matches!(self.shape, Shape::Flat) {
            return 1.0;
        }
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        // In f64 from here on: `total` may be below `warmup`.
        let (done, decay) = (
            (step - self.warmup) as f64,
            self.total as f64 - self.warmup as f64,
        );
        let progress = done / decay.max(1.0);
        match self.shape {
            Shape::Flat | Shape::Constant => 1.0,
            Shape::Linear => ((self.total as f64 - step as f64) / decay.max(1.0)).max(0.0),
            Shape::Cosine { cycles } => (0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos())).max(0.0),
            Shape::Restarts { .. } if progress >= 1.0 => 0.0,
            Shape::Restarts { cycles } => {
                (0.5 * (1.0 + (PI * (cycles * progress).rem_euclid(1.0)).cos())).max(0.0)
            }
            // Upstream divides by zero where the warm-up takes all steps.
            Shape::Polynomial { end, .. } if step > self.total || decay <= 0.0 => end / self.base,
            Shape::Polynomial { power, end } => {
                ((self.base - end) * (1.0 - done / decay).powf(power) + end) / self.base
            }
            Shape::InverseSqrt { timescale } => {
                let shift = timescale - self.warmup as f64;
                1.0 / ((step as f64 + shift) / timescale).sqrt()
            }
        }
    }
}

/// The settings of a schedule, taken one by one.
struct Kwargs {
    kind: LrSchedulerType,
    rest: Map<String, Value>,
}

impl Kwargs {
    fn number(&mut self, name: &str) -> Result<Option<f64>> {
        match self.rest.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => bail!(
                    InvalidConfig,
                    "`{name}` of `lr_scheduler_kwargs` is {value}; give a number"
                ),
            },
        }
    }

    fn finish(self) -> Result<()> {
        if let Some(name) = self.rest.keys().next() {
            bail!(
                InvalidConfig,
                "`lr_scheduler_kwargs` has `{name}`, which the schedule `{}` does not know",
                self.kind
            );
        }
        Ok(())
    }
}
