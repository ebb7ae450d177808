//! How numbers travel: as they are, or rounded to 16 bits.
//!
//! A sum of numbers that travel in 16 bits is one of rounded numbers, made in f32 and rounded once more, so that it can travel too.

use half::{bf16, f16};

use crate::config::NumberType;

impl NumberType {
    /// The bytes that travel, each number rounded to the nearest.
    #[cfg(any(feature = "mpi", feature = "nccl", test))]
    pub(crate) fn pack(self, values: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(values.len() * self.bytes());
        match self {
            Self::Fp32 => values.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
            Self::Fp16 => (values.iter()).for_each(|x| bytes.extend(f16::from_f32(*x).to_le_bytes())),
            Self::Bf16 => (values.iter()).for_each(|x| bytes.extend(bf16::from_f32(*x).to_le_bytes())),
        }
        bytes
    }

    /// The numbers that arrive.
    #[cfg(any(feature = "mpi", feature = "nccl", test))]
    pub(crate) fn unpack(self, bytes: &[u8]) -> Vec<f32> {
        let (words, _) = bytes.as_chunks();
        let (halves, _) = bytes.as_chunks();
        match self {
            Self::Fp32 => words.iter().map(|word| f32::from_le_bytes(*word)).collect(),
            Self::Fp16 => (halves.iter().map(|half| f16::from_le_bytes(*half).to_f32())).collect(),
            Self::Bf16 => (halves.iter().map(|half| bf16::from_le_bytes(*half).to_f32())).collect(),
        }
    }

    /// Makes of numbers what arrives of them.
    pub(crate) fn round(self, values: &mut [f32]) {
        match self {
            Self::Fp32 => {}
            Self::Fp16 => values.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
            Self::Bf16 => values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_is_what_was_rounded() {
        let values = [
            0.0,
            -1.5,
            1.003_906_3,
            1.011_718_8,
            3.3e-8,
            65504.0,
            1e6,
            f32::INFINITY,
        ];
        for (kind, two, largest) in [
            (NumberType::Fp32, 1.003_906_3, 1e6),
            (NumberType::Fp16, 1.003_906_3, f32::INFINITY),
            (NumberType::Bf16, 1.0, 999_424.0),
        ] {
            let bytes = kind.pack(&values);
            assert_eq!(bytes.len(), values.len() * kind.bytes());
            let mut rounded = values;
            kind.round(&mut rounded);
            assert_eq!(kind.unpack(&bytes), rounded);
            assert_eq!(
                (rounded[2], rounded[6], rounded[7]),
                (two, largest, f32::INFINITY)
            );
            assert!(kind.unpack(&kind.pack(&[f32::NAN]))[0].is_nan());
        }
    }
}
