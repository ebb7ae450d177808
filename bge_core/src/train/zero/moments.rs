//! The optimizer's moments, brought together for a checkpoint.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::shards::Shards;
use crate::config::NumberType;
use crate::error::Result;
use crate::optim::AdamW;

/// The tensors of an optimizer by their names in a checkpoint.
pub(crate) type Moments<'a> = BTreeMap<String, Cow<'a, [f32]>>;

impl Shards {
    /// The moments of all ranks, on rank 0; the others, which all call this too, get nothing.
    pub(crate) fn moments(&self, optimizer: &AdamW) -> Result<Moments<'static>> {
        let lead = self.ranks.rank() == 0;
        let mut whole: Vec<[Vec<f32>; 2]> = Vec::new();
        if lead {
            let zeros =
                |parameter: &crate::optim::Parameter| [vec![0.0; parameter.len], vec![0.0; parameter.len]];
            whole.extend(optimizer.parameters().iter().map(zeros));
        }
        let mut before = 0;
        for bucket in &self.layout.buckets {
            let own = bucket.lengths[self.ranks.rank()];
            for (kind, moments) in optimizer.moments().into_iter().enumerate() {
                let all = self.ranks.all_gather(
                    &moments[before..before + own],
                    &bucket.lengths,
                    NumberType::Fp32,
                )?;
                if !lead {
                    continue;
                }
                let mut rest = all.as_slice();
                for span in &bucket.spans {
                    let (floats, after) = rest.split_at(span.length);
                    whole[span.parameter][kind][span.range()].copy_from_slice(floats);
                    rest = after;
                }
            }
            before += own;
        }
        let mut moments = Moments::new();
        for (parameter, pair) in optimizer.parameters().iter().zip(whole) {
            for (name, floats) in AdamW::state_names(parameter).into_iter().zip(pair) {
                moments.insert(name, Cow::Owned(floats));
            }
        }
        Ok(moments)
    }
}
