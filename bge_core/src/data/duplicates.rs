//! Which texts were seen before: 64-bit fingerprints in a bounded set.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use twox_hash::XxHash3_64;

/// A 64-bit fingerprint of a text (XXH3); equal texts have equal ones, others with a chance of 2^-64.
pub fn fingerprint(text: &[u8]) -> u64 {
    XxHash3_64::oneshot(text)
}

/// Fingerprints are random already, so they hash as themselves.
#[derive(Clone, Copy, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Fingerprints seen, each with a value, up to a bound; beyond it new ones are not remembered.
#[derive(Clone)]
pub struct Seen<V> {
    map: HashMap<u64, V, BuildHasherDefault<Identity>>,
    most: usize,
    full: bool,
}

impl<V> std::fmt::Debug for Seen<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seen")
            .field("len", &self.map.len())
            .field("full", &self.full)
            .finish_non_exhaustive()
    }
}

impl<V> Seen<V> {
    /// Remembers up to `most` fingerprints.
    pub fn new(most: usize) -> Self {
        Self {
            map: HashMap::default(),
            most,
            full: false,
        }
    }

    /// The value of a fingerprint that was seen before; a new one is remembered with `value`.
    pub fn see(&mut self, fingerprint: u64, value: V) -> Option<&mut V> {
        if self.map.len() < self.most {
            match self.map.entry(fingerprint) {
                std::collections::hash_map::Entry::Occupied(entry) => Some(entry.into_mut()),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(value);
                    None
                }
            }
        } else {
            let known = self.map.get_mut(&fingerprint);
            self.full |= known.is_none();
            known
        }
    }

    /// Whether a fingerprint was seen; nothing is remembered.
    pub fn contains(&self, fingerprint: u64) -> bool {
        self.map.contains_key(&fingerprint)
    }

    /// How many different fingerprints are remembered.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Whether the bound was reached and something was not remembered.
    pub const fn is_full(&self) -> bool {
        self.full
    }

    /// Forgets everything but the memory it is kept in.
    pub fn clear(&mut self) {
        self.map.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn fingerprints_tell_similar_texts_apart() {
        let mut texts: Vec<Vec<u8>> = (0..200).map(|n| vec![0; n]).collect();
        texts.extend((0..200).map(|n| vec![b'a'; n]).skip(1));
        for at in 0..64 {
            for byte in 1..=255 {
                let mut text = vec![0; 64];
                text[at] = byte;
                texts.push(text);
            }
        }
        let hashes: BTreeSet<u64> = texts.iter().map(|text| fingerprint(text)).collect();
        assert_eq!(hashes.len(), texts.len());
        let low: BTreeSet<u64> = (0..10_000_u32)
            .map(|n| fingerprint(&n.to_le_bytes()) & 0xffff_ffff)
            .collect();
        assert!(low.len() > 9_990);
    }

    #[test]
    fn a_full_set_still_knows_what_it_has() {
        let mut seen = Seen::new(2);
        assert!(seen.see(1, 'a').is_none() && seen.see(2, 'b').is_none() && !seen.is_full());
        assert!(seen.see(3, 'c').is_none() && seen.is_full());
        assert_eq!(seen.see(1, 'x'), Some(&mut 'a'));
        assert_eq!(seen.see(3, 'x'), None);
        assert_eq!(seen.len(), 2);
    }
}
