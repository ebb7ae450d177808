//! The source of the kernels, and the macros that make it that of one model.

use super::gpu::Storage;
use crate::error::{Result, bail};

/// All kernels, as one source for NVRTC.
pub(crate) const SOURCE: &str = concat!(
    include_str!("kernels/common.cu"),
    include_str!("kernels/attention.cu"),
    include_str!("kernels/attention_mma.cu"),
    include_str!("kernels/norm.cu"),
    include_str!("kernels/rows.cu"),
    include_str!("kernels/decoder.cu"),
    include_str!("kernels/optimizer.cu"),
    include_str!("kernels/scores.cu"),
    include_str!("kernels/search.cu"),
);

/// Threads of every block (`THREADS`).
pub(crate) const THREADS: usize = 128;

/// Rows that one block sums into a partial sum (`SUM_ROWS`).
pub(crate) const SUM_ROWS: usize = 64;

/// Floats of the flat buffers that a block of the optimizer owns (`CHUNK`).
pub(crate) const CHUNK: usize = 1024;

/// The widest head whose tiles fit the shared memory that every GPU has.
pub(crate) const MAX_HEAD: usize = 128;

/// Names of all kernels.
pub(crate) const NAMES: &[&str] = &[
    "activation_backward",
    "activation_forward",
    "adamw",
    "add_bias",
    "add_floats",
    "add_partials",
    "attention_backward_keys",
    "attention_backward_queries",
    "attention_forward",
    "column_partials",
    "copy_floats",
    "count_reached",
    "dropout_rows",
    "embedding_forward",
    "first_rows",
    "narrow",
    "narrow_halves",
    "norm_backward",
    "norm_partials",
    "others_backward",
    "others_forward",
    "pool_backward",
    "pool_forward",
    "residual_norm_forward",
    "rms_norm_backward",
    "rms_norm_forward",
    "rotate",
    "spread_first_rows",
    "squares",
    "sum_squares",
    "table_pieces",
    "table_rows",
    "take_reached",
    "widen",
    "widen_halves",
];

/// What the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) storage: Storage,
    /// Width of the hidden states.
    pub(crate) width: usize,
    /// Width of an attention head.
    pub(crate) head: usize,
}

impl Variant {
    /// Refuses a head that is too wide for the attention's tiles.
    pub(crate) fn new(storage: Storage, width: usize, heads: usize) -> Result<Self> {
        let head = width / heads.max(1);
        if head == 0 || head > MAX_HEAD {
            bail!(
                Unsupported,
                "attention heads of {head} numbers do not run on a GPU, which takes up to {MAX_HEAD}; use `--devices cpu`"
            );
        }
        Ok(Self { storage, width, head })
    }

    /// Whether the attention runs on tensor cores.
    fn mma(&self) -> bool {
        self.storage != Storage::F32 && self.head <= 64 && self.head.is_multiple_of(16)
    }

    /// Query rows of a tile of the attention's forward, and keys.
    pub(crate) fn forward_tile(&self) -> [usize; 2] {
        match (self.mma(), self.head) {
            (true, _) => [64, 64],
            (false, ..=64) => [64, 32],
            (false, _) => [32, 16],
        }
    }

    /// Rows and columns of a tile of the attention's backward.
    pub(crate) fn backward_tile(&self) -> [usize; 2] {
        match (self.mma(), self.head) {
            (true, _) => [64, 32],
            (false, ..=64) => [32, 32],
            (false, _) => [16, 16],
        }
    }

    /// The macros of the source, by name.
    pub(crate) fn macros(&self) -> [(&'static str, usize); 8] {
        let storage = match self.storage {
            Storage::F32 => 0,
            Storage::Bf16 => 1,
            Storage::F16 => 2,
        };
        let [rows, keys] = self.forward_tile();
        let [backward_rows, backward_columns] = self.backward_tile();
        [
            ("STORAGE", storage),
            ("MMA", usize::from(self.mma())),
            ("WIDTH", self.width),
            ("HEAD", self.head),
            ("FORWARD_ROWS", rows),
            ("FORWARD_KEYS", keys),
            ("BACKWARD_ROWS", backward_rows),
            ("BACKWARD_COLUMNS", backward_columns),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_of_the_source_has_its_name_in_the_list() {
        let mut found: Vec<&str> = SOURCE
            .split("KERNEL ")
            .skip(1)
            .filter_map(|rest| rest.split('(').next())
            .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            .collect();
        found.sort_unstable();
        found.dedup(); // attention has two forms
        assert_eq!(found, NAMES);
        for (name, value) in [("SUM_ROWS", SUM_ROWS), ("CHUNK", CHUNK), ("THREADS", THREADS)] {
            assert!(SOURCE.contains(&format!("#define {name} {value}")), "{name}");
        }
    }

    #[test]
    fn heads_that_are_too_wide_are_refused() {
        let error = Variant::new(Storage::F32, 512, 2).unwrap_err();
        assert!(error.to_string().contains("--devices cpu"), "{error}");
        assert_eq!(Variant::new(Storage::F32, 512, 4).unwrap().head, 128);
    }

    #[test]
    fn tiles_fit_48_kib_of_shared_memory() {
        for (storage, head) in [Storage::F32, Storage::Bf16]
            .into_iter()
            .flat_map(|s| (1..=MAX_HEAD).map(move |h| (s, h)))
        {
            let variant = Variant {
                storage,
                width: head,
                head,
            };
            let ([rows, keys], [back, columns]) = (variant.forward_tile(), variant.backward_tile());
            let (forward, backward) = if variant.mma() {
                let pitch = (head + 8) * 2;
                (
                    (rows + 2 * keys) * pitch,
                    (back + 2 * columns) * pitch + columns * 16,
                )
            } else {
                let pitch = (head.next_multiple_of(4) + 4) * 4;
                (
                    (rows + 2 * keys) * pitch + rows * (keys + 4) * 4,
                    4 * back * pitch + back * (back + 4) * 4 + back * 16,
                )
            };
            assert!(forward.max(backward) <= 48 << 10, "{head}");
        }
    }
}
