//! Reaching the floats of a candle tensor on the CPU, to read them and to change them in place.

use std::cell::RefCell;
use std::ops::Deref;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, StorageRef, Tensor};

use crate::error::{Error, ErrorKind, Result, bail};

/// The floats of a contiguous `f32` tensor, borrowed.
pub(crate) struct Read<'a> {
    storage: StorageRef<'a>,
    start: usize,
    end: usize,
}

impl Deref for Read<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => values.get(self.start..self.end).unwrap_or(&[]),
            _ => &[],
        }
    }
}

/// Borrows the floats of a tensor; an error when it is not contiguous `f32` on the CPU.
pub(crate) fn read(tensor: &Tensor) -> Result<Read<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!(
            Internal,
            "a tensor of shape {:?} is not contiguous",
            tensor.dims()
        );
    };
    if !matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) {
        bail!(Unsupported, "this operation runs on the CPU in f32 only");
    }
    Ok(Read { storage, start, end })
}

/// A tensor that owns `values`, without a copy.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape.into(), &Device::Cpu)?)
}

/// Changes the floats of a contiguous `f32` CPU tensor in place; every tensor that shares its storage sees it.
pub(crate) fn update<R>(tensor: &Tensor, change: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    let Some((start, end)) = tensor.layout().contiguous_offsets() else {
        bail!(
            Internal,
            "a tensor of shape {:?} is not contiguous",
            tensor.dims()
        );
    };
    let changed = storage(tensor, |values| values.get_mut(start..end).map(change))?;
    changed.ok_or_else(|| Error::new(ErrorKind::Internal, "the floats of a tensor are not here"))
}

/// Takes the floats out of a tensor that has its storage to itself and its clones; none of them can be read until
/// [`put_back`].
pub(crate) fn take_out(tensor: &Tensor) -> Result<Vec<f32>> {
    storage(tensor, std::mem::take)
}

/// Puts floats into a tensor from which [`take_out`] took them.
pub(crate) fn put_back(tensor: &Tensor, floats: Vec<f32>) -> Result<()> {
    if floats.len() != tensor.elem_count() {
        bail!(
            Internal,
            "{} floats do not fill a tensor of {}",
            floats.len(),
            tensor.elem_count()
        );
    }
    storage(tensor, |values| *values = floats)
}

/// Floats that a tensor holds in memory.
pub(crate) fn held(tensor: &Tensor) -> Result<usize> {
    storage(tensor, |values| values.len())
}

/// Reaches the whole storage of an `f32` CPU tensor.
fn storage<R>(tensor: &Tensor, change: impl FnOnce(&mut Vec<f32>) -> R) -> Result<R> {
    type Change<'a> = Box<dyn FnOnce(&mut Vec<f32>) + 'a>;
    struct Update<'a>(RefCell<Option<Change<'a>>>);

    impl InplaceOp1 for Update<'_> {
        fn name(&self) -> &'static str {
            "update"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
            let CpuStorage::F32(values) = storage else {
                candle_core::bail!("not an f32 tensor");
            };
            if let Some(change) = self.0.take() {
                change(values);
            }
            Ok(())
        }
    }

    let mut result = None;
    let change = |values: &mut Vec<f32>| result = Some(change(values));
    tensor.inplace_op1(&Update(RefCell::new(Some(Box::new(change)))))?;
    result.ok_or_else(|| Error::new(ErrorKind::Internal, "an update in place did not run"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_leave_a_tensor_and_come_back_for_all_its_clones() {
        let whole = tensor(vec![1.0, 2.0, 3.0, 4.0], (2, 2)).unwrap();
        let clone = whole.clone();
        let floats = take_out(&whole).unwrap();
        assert_eq!(floats, [1.0, 2.0, 3.0, 4.0]);
        assert_eq!((held(&clone).unwrap(), read(&clone).unwrap().len()), (0, 0));
        assert!(update(&clone, |values| values.fill(0.0)).is_err());
        assert!(put_back(&whole, vec![0.0; 3]).is_err());
        put_back(&whole, vec![5.0; 4]).unwrap();
        assert_eq!(&*read(&clone).unwrap(), [5.0; 4]);
    }
}
