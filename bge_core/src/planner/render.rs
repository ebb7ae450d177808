//! A plan in words.

use std::fmt;

use super::{Plan, size_text};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = &self.memory;
        let batch = &self.fullest_batch;
        writeln!(
            f,
            "weights   {:.1} million, {:.1} million trained",
            self.parameters.all as f64 / 1e6,
            self.parameters.trained as f64 / 1e6
        )?;
        writeln!(
            f,
            "batch     {} texts and {} tokens a device at the fullest, {}",
            batch.texts,
            batch.tokens,
            if self.lengths_measured {
                "by the lengths of the data"
            } else {
                "every text as long as allowed"
            }
        )?;
        writeln!(f, "memory    {} a device:", size_text(memory.total))?;
        let parts = [
            ("weights", memory.weights),
            ("gradients", memory.gradients),
            ("optimizer", memory.optimizer),
            ("activations", memory.activations),
            ("temporary", memory.temporary),
            ("program", memory.program),
        ];
        for (name, bytes) in parts {
            writeln!(f, "          {:>9}  {name}", size_text(bytes))?;
        }
        if let Some(steps) = self.total_steps {
            writeln!(f, "steps     {steps}")?;
        }
        if let Some(bytes) = self.memory_bytes {
            let fits = if self.fits == Some(true) {
                "fits into"
            } else {
                "does not fit into"
            };
            writeln!(f, "verdict   {fits} {}", size_text(bytes))?;
        }
        if let Some(advice) = &self.advice {
            writeln!(f, "advice    {}", advice.message)?;
        }
        if !self.curve.is_empty() {
            writeln!(
                f,
                "devices   a device  seconds a step  waiting  tokens/s  efficiency"
            )?;
        }
        for step in &self.curve {
            writeln!(
                f,
                "{:>7}  {:>9}  {:>14.4}  {:>5.1} %  {:>8.0}  {:>8.1} %",
                step.devices,
                size_text(step.memory),
                step.step,
                step.waiting / step.step * 100.0,
                step.tokens_per_second,
                step.efficiency * 100.0
            )?;
        }
        Ok(())
    }
}
