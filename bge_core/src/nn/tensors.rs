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
    type Change<'a> = Box<dyn FnOnce(&mut [f32]) + 'a>;
    struct Update<'a>(RefCell<Option<Change<'a>>>);

    impl InplaceOp1 for Update<'_> {
        fn name(&self) -> &'static str {
            "update"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
            let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
                candle_core::bail!("not a contiguous f32 tensor");
            };
            if let (Some(change), Some(values)) = (self.0.take(), values.get_mut(start..end)) {
                change(values);
            }
            Ok(())
        }
    }

    let mut result = None;
    let change = |values: &mut [f32]| result = Some(change(values));
    tensor.inplace_op1(&Update(RefCell::new(Some(Box::new(change)))))?;
    result.ok_or_else(|| Error::new(ErrorKind::Internal, "an update in place did not run"))
}
