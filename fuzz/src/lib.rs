//! What the fuzz targets share: how bytes are cut, and how a run's first bytes choose its options.

/// The first two bytes choose: options by their bits, and how long the pieces are that the rest is pushed in.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    bits: u8,
    piece: usize,
}

impl Choice {
    /// Takes the choice off the bytes; `None` where there are too few.
    pub fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let [bits, piece, rest @ ..] = bytes else {
            return None;
        };
        let piece = usize::from(*piece).max(1);
        Some((Self { bits: *bits, piece }, rest))
    }

    /// Whether a bit is set.
    pub fn bit(self, at: u8) -> bool {
        self.bits >> at & 1 == 1
    }

    /// The files of the bytes, which a byte that UTF-8 never has sets apart.
    pub fn files(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        bytes.split(|byte| *byte == 0xff)
    }

    /// A file's pieces; all of it in one where `whole`.
    pub fn pieces(self, file: &[u8], whole: bool) -> impl Iterator<Item = &[u8]> {
        file.chunks(if whole { file.len().max(1) } else { self.piece })
    }
}
