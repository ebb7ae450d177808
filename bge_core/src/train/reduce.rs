//! The gradients of all ranks become one, a few large pieces at a time.

use crate::config::NumberType;
use crate::distributed::Communicator;
use crate::error::{Error, ErrorKind, Result};
use crate::nn::{Gradients, Param, ParamStore, read};

/// Floats that are sent at once: 16 MB. What is summed with what does not depend on it.
const PIECE: usize = 1 << 22;

/// Replaces the gradients of the `trained` weights by their sums over the ranks, which travel as the type says.
///
/// A weight that no rank has a gradient for stays without one.
pub(super) fn all_reduce(
    ranks: &dyn Communicator,
    gradients: &mut Gradients,
    params: &ParamStore,
    trained: &[usize],
    travels: NumberType,
) -> Result<()> {
    let mut known: Vec<f32> = trained
        .iter()
        .map(|&id| f32::from(u8::from(gradients.get(id).is_some())))
        .collect();
    ranks.all_reduce(&mut known, NumberType::Fp32)?;
    let weights: Vec<_> = params.iter().map(|(_, value, _)| value).collect();
    let mut waiting: Vec<Param> = Vec::new();
    let mut floats: Vec<f32> = Vec::new();
    let wanted = trained.iter().zip(&known).filter(|(_, known)| **known > 0.0);
    for (&id, _) in wanted {
        let Some(&value) = weights.get(id) else {
            return Err(Error::new(ErrorKind::Internal, "a trained weight is unknown"));
        };
        let length = value.elem_count();
        if !floats.is_empty() && floats.len() + length > PIECE {
            send(ranks, gradients, &mut waiting, &mut floats, travels)?;
        }
        match gradients.get(id) {
            Some(gradient) => floats.extend_from_slice(&read(gradient)?),
            None => floats.resize(floats.len() + length, 0.0),
        }
        let value = value.clone();
        waiting.push(Param { id, value });
    }
    send(ranks, gradients, &mut waiting, &mut floats, travels)
}

/// Sums what is waiting and puts it back.
fn send(
    ranks: &dyn Communicator,
    gradients: &mut Gradients,
    waiting: &mut Vec<Param>,
    floats: &mut Vec<f32>,
    travels: NumberType,
) -> Result<()> {
    ranks.all_reduce(floats, travels)?;
    let mut rest = floats.as_slice();
    for param in waiting.drain(..) {
        let (numbers, after) = rest.split_at(param.value.elem_count());
        gradients.replace(&param, numbers)?;
        rest = after;
    }
    floats.clear();
    Ok(())
}
