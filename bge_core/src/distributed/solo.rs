//! The world of one rank: nothing is sent, nothing is copied but what a caller asks for.

use super::{Communicator, check_lengths, check_root};
use crate::config::NumberType;
use crate::error::{Error, Result};

/// The only rank.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Communicator for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn all_reduce(&self, _: &mut [f32], _: NumberType) -> Result<()> {
        Ok(())
    }

    fn reduce_scatter(&self, values: &[f32], lengths: &[usize], _: NumberType) -> Result<Vec<f32>> {
        check_lengths(1, lengths, values.len())?;
        Ok(values.to_vec())
    }

    fn all_gather(&self, own: &[f32], lengths: &[usize], _: NumberType) -> Result<Vec<f32>> {
        check_lengths(1, lengths, own.len())?;
        Ok(own.to_vec())
    }

    fn gather_numbers(&self, own: &[f64]) -> Result<Vec<f64>> {
        Ok(own.to_vec())
    }

    fn broadcast(&self, root: usize, _: &mut [f32], _: NumberType) -> Result<()> {
        check_root(1, root)
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }

    fn order(&self, word: u32) -> Result<u32> {
        Ok(word)
    }

    fn fail(&self, _: &Error) {}
}
