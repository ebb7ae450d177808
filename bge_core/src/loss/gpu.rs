//! The scores of other queries' passages on the GPU that makes the vectors.

use std::sync::Arc;

use candle_core::{Error, Result, Tensor};

use super::others::{Others, Own};
use crate::cuda::{Encoder, Rows};
use crate::nn::{read, tensor};

/// An encoder's GPU.
#[derive(Debug)]
pub(super) struct OnGpu(pub(super) Arc<Encoder>);

/// Calls `work` with the vectors as floats.
fn with_rows<T>(
    queries: &Tensor,
    passages: &Tensor,
    own: Own,
    work: impl FnOnce(Rows) -> crate::Result<T>,
) -> Result<T> {
    let work = || {
        let (from, to) = (read(queries)?, read(passages)?);
        work(Rows {
            queries: &from,
            passages: &to,
            width: queries.dim(1)?,
            group_size: own.group_size,
            first_query: own.first_query,
        })
    };
    work().map_err(Error::wrap)
}

impl Others for OnGpu {
    fn forward(&self, queries: &Tensor, passages: &Tensor, own: Own) -> Result<[Tensor; 2]> {
        let made = with_rows(queries, passages, own, |rows| {
            let [sums, maxima] = self.0.others(rows)?;
            let column = |values: Vec<f32>| {
                let n = values.len();
                tensor(values, (n, 1))
            };
            Ok([column(sums)?, column(maxima)?])
        })?;
        Ok(made)
    }

    fn backward(
        &self,
        queries: &Tensor,
        passages: &Tensor,
        own: Own,
        value: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Tensor; 2]> {
        let gradient = gradient.contiguous()?;
        with_rows(queries, passages, own, |rows| {
            let [to_queries, to_passages] = self.0.others_backward(rows, &read(value)?, &read(&gradient)?)?;
            Ok([
                tensor(to_queries, queries.shape())?,
                tensor(to_passages, passages.shape())?,
            ])
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::super::{LossConfig, LossInputs, contrastive_at, others::Here};
    use super::*;
    use crate::config::TrainingArguments;
    use crate::cuda::gpu::Storage;
    use crate::models::checks::{config, model, on_gpu};
    use crate::random::Draws;

    /// Loss, accuracy and both gradients of two ranks' queries, or of all with one.
    fn losses(others: &Arc<dyn Others>, in_batch: bool, taught: bool, mrl: bool) -> Vec<Vec<f32>> {
        let (n, group_size, width) = (9, 3, 40);
        let mut draws = Draws::new(3);
        let mut normal = |rows: usize| {
            let values = (0..rows * width).map(|_| draws.normal() as f32).collect();
            Var::from_tensor(&tensor(values, (rows, width)).unwrap()).unwrap()
        };
        let (queries, passages) = (normal(n), normal(n * group_size));
        let teacher = tensor(
            (0..n * group_size).map(|at| (at as f32).sin()).collect(),
            (n, group_size),
        )
        .unwrap();
        let config = LossConfig::from(&TrainingArguments {
            temperature: 0.05,
            use_mrl: mrl,
            mrl_dims: vec![16, 40],
            ..TrainingArguments::default()
        });
        let mut found = Vec::new();
        for (first, count) in [(0, 9), (0, 4), (4, 5)] {
            let share = |x: &Tensor| x.narrow(0, first, count).unwrap();
            let teacher = share(&teacher);
            let inputs = LossInputs {
                queries: &share(queries.as_tensor()),
                passages: passages.as_tensor(),
                group_size,
                no_in_batch_neg: !in_batch,
                teacher_scores: taught.then_some(&teacher),
            };
            let output = contrastive_at(others, &config, &inputs, first).unwrap();
            let gradients = output.total.backward().unwrap();
            found.push(vec![
                output.total.to_scalar().unwrap(),
                output.accuracy.to_scalar().unwrap(),
            ]);
            for of in [&queries, &passages] {
                let gradient = gradients.get(of.as_tensor()).unwrap().contiguous().unwrap();
                found.push(read(&gradient).unwrap().to_vec());
            }
        }
        found
    }

    #[test]
    fn losses_and_gradients_are_those_of_the_cpu() {
        let here = Arc::new(Here) as Arc<dyn Others>;
        for storage in [Storage::F32, Storage::Bf16] {
            let Some(model) = on_gpu(model(&config("bert", 96, 3, 0.0)), storage) else {
                return;
            };
            let gpu = super::super::others::place(&model);
            for (in_batch, taught, mrl) in [
                (true, false, false),
                (true, true, false),
                (true, false, true),
                (false, false, false),
            ] {
                let pairs = losses(&here, in_batch, taught, mrl).into_iter();
                for (want, got) in pairs.zip(losses(&gpu, in_batch, taught, mrl)) {
                    let largest = want.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                    assert_eq!(want.len(), got.len());
                    for (want, got) in want.iter().zip(&got) {
                        // f32 whatever the storage.
                        assert!((want - got).abs() <= 1e-5 * largest, "{want} {got} of {largest}");
                    }
                }
            }
        }
    }
}
