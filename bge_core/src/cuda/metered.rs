//! A test's GPU that counts the memory that is taken of another one, and gives none of more bytes than there is room for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::gpu::{Arg, Gpu, Memory, Product};
use crate::error::{Error, ErrorKind, Result};

/// What was taken and refused.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    now: AtomicUsize,
    most: AtomicUsize,
    refused: AtomicUsize,
}

impl Meter {
    /// Bytes that are taken.
    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// The most bytes that were taken at a time, since the count was begun anew.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Begins the count of the most anew.
    pub(crate) fn begin(&self) {
        self.most.store(0, Ordering::Relaxed);
    }

    /// How often there was no room.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Memory that is counted until it is dropped.
struct Taken {
    _memory: Memory,
    bytes: usize,
    meter: Arc<Meter>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.meter.now.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Metered {
    gpu: Arc<dyn Gpu>,
    room: usize,
    meter: Arc<Meter>,
}

/// The GPU with room for `room` bytes at once, and what tells of it.
pub(crate) fn metered(gpu: Arc<dyn Gpu>, room: usize) -> (Arc<dyn Gpu>, Arc<Meter>) {
    let meter = Arc::new(Meter::default());
    let metered = Metered {
        gpu,
        room,
        meter: Arc::clone(&meter),
    };
    (Arc::new(metered), meter)
}

impl Gpu for Metered {
    fn name(&self) -> String {
        self.gpu.name()
    }

    fn alloc(&self, bytes: usize) -> Result<Memory> {
        if bytes > self.room {
            self.meter.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::new(ErrorKind::OutOfMemory, "the GPU cannot give so much"));
        }
        let memory = self.gpu.alloc(bytes)?;
        let now = self.meter.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.meter.most.fetch_max(now, Ordering::Relaxed);
        let address = memory.address();
        let taken = Taken {
            _memory: memory,
            bytes,
            meter: Arc::clone(&self.meter),
        };
        Ok(Memory::new(taken, address, bytes))
    }

    fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        self.gpu.zero(at, bytes)
    }

    fn upload(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.gpu.upload(at, bytes)
    }

    fn download(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.gpu.download(at, bytes)
    }

    fn launch(&self, kernel: &'static str, grid: [usize; 2], args: &[Arg]) -> Result<()> {
        self.gpu.launch(kernel, grid, args)
    }

    fn product(&self, product: Product) -> Result<bool> {
        self.gpu.product(product)
    }

    fn enter(&self) -> Result<u64> {
        self.gpu.enter()
    }

    fn is_idle(&self) -> Result<bool> {
        self.gpu.is_idle()
    }

    fn enter_beside(&self) -> Result<u64> {
        self.gpu.enter_beside()
    }

    fn is_idle_beside(&self) -> Result<bool> {
        self.gpu.is_idle_beside()
    }

    fn identity(&self) -> u64 {
        self.gpu.identity()
    }
}
