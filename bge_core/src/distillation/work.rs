//! Finished work beside an output that is not there yet: scores in whole blocks, so that a killed run loses one block.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::files::Digest;

const MAGIC: &[u8; 8] = b"bgescore";
/// A key and a block's hash are 64 hexadecimal digits.
const HASH: usize = 64;

/// The scores of some consecutive rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    pub(super) rows: u32,
    pub(super) scores: Vec<f32>,
}

/// The side file of an output; only one run at a time has it.
///
/// It starts with the key of input, model and settings; each block follows with a hash over key, place and content. What a kill cut
/// off in the middle is dropped on opening, and so is a file with another key.
#[derive(Debug)]
pub(super) struct Work {
    path: PathBuf,
    key: String,
    /// Behind the last whole block when appending.
    file: File,
    blocks: u64,
}

impl Work {
    /// Where the side file of an output is.
    pub(super) fn path_for(output: &Path) -> PathBuf {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        output.with_file_name(format!(".{name}.scores"))
    }

    /// Opens or starts the side file of an output.
    pub(super) fn open(output: &Path, key: String) -> Result<Self> {
        let path = Self::path_for(output);
        let failed = |error| Error::io(output, "write here", error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let message = "another run is writing this file; wait for it or give another name";
            return Err(Error::new(ErrorKind::Io, message).with_path(output));
        }
        let mut work = Self {
            path,
            key,
            file,
            blocks: 0,
        };
        work.recover().map_err(failed)?;
        Ok(work)
    }

    fn recover(&mut self) -> std::io::Result<()> {
        let mut end = self.header_length();
        let mut reader = BufReader::new(&self.file);
        let mut header = vec![0; end as usize];
        if reader.read_exact(&mut header).is_err() || header != self.header() {
            drop(reader);
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&self.header())?;
            return self.file.sync_data();
        }
        let mut blocks = 0;
        let left = self.file.metadata()?.len();
        while let Some(block) = read_block(&mut reader, &self.key, blocks, left) {
            end += block_length(block.scores.len());
            blocks += 1;
        }
        drop(reader);
        self.blocks = blocks;
        self.file.set_len(end)?;
        self.file.seek(SeekFrom::Start(end)).map(|_| ())
    }

    /// How many blocks are finished.
    #[cfg(test)]
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Adds a block and makes sure that it is on disk.
    pub(super) fn append(&mut self, block: &Block) -> Result<()> {
        let mut bytes = Vec::with_capacity(block_length(block.scores.len()) as usize);
        bytes.extend_from_slice(&block.rows.to_le_bytes());
        bytes.extend_from_slice(&(block.scores.len() as u32).to_le_bytes());
        for score in &block.scores {
            bytes.extend_from_slice(&score.to_le_bytes());
        }
        let hash = block_hash(&self.key, self.blocks, &bytes);
        bytes.extend_from_slice(hash.as_bytes());
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|error| Error::io(&self.path, "write this file", error))?;
        self.blocks += 1;
        Ok(())
    }

    /// Reads the finished blocks again, from the first.
    pub(super) fn reader(&self) -> Result<impl Iterator<Item = Block> + use<>> {
        let failed = |error| Error::io(&self.path, "read this file", error);
        let file = File::open(&self.path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut reader = BufReader::new(file);
        reader
            .seek(SeekFrom::Start(self.header_length()))
            .map_err(failed)?;
        let key = self.key.clone();
        let blocks = 0..self.blocks;
        Ok(blocks.map_while(move |index| read_block(&mut reader, &key, index, length)))
    }

    /// Removes the side file: the output is complete.
    pub(super) fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|error| Error::io(&self.path, "remove this file", error))
    }

    /// Removes the side file if nothing in it is worth keeping.
    pub(super) fn give_up(self) {
        if self.blocks == 0 {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn header(&self) -> Vec<u8> {
        [MAGIC, self.key.as_bytes()].concat()
    }

    fn header_length(&self) -> u64 {
        (MAGIC.len() + self.key.len()) as u64
    }
}

/// Bytes of a block with so many scores.
fn block_length(scores: usize) -> u64 {
    8 + 4 * scores as u64 + HASH as u64
}

fn block_hash(key: &str, index: u64, content: &[u8]) -> String {
    let mut digest = Digest::default();
    digest.add(key.as_bytes()).add(&index.to_le_bytes()).add(content);
    digest.finish()
}

/// The next block; none at the end and where it is damaged. `most` is the length of the file.
fn read_block(reader: &mut impl Read, key: &str, index: u64, most: u64) -> Option<Block> {
    let mut head = [0; 8];
    reader.read_exact(&mut head).ok()?;
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let (rows, count) = (word(0)?, word(4)?);
    if block_length(count as usize) > most {
        return None;
    }
    let mut content = head.to_vec();
    content.resize(8 + 4 * count as usize, 0);
    reader.read_exact(content.get_mut(8..)?).ok()?;
    let mut hash = [0; HASH];
    reader.read_exact(&mut hash).ok()?;
    if block_hash(key, index, &content).as_bytes() != hash {
        return None;
    }
    let numbers = content.get(8..)?.chunks_exact(4);
    let scores = numbers
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap_or_default()))
        .collect();
    Some(Block { rows, scores })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(i: u32) -> Block {
        Block {
            rows: i,
            scores: vec![i as f32 + 0.25; i as usize],
        }
    }

    #[test]
    fn whole_blocks_survive_a_cut_at_any_byte_and_damage_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let path = Work::path_for(&output);
        let key = "k".repeat(HASH);
        let mut work = Work::open(&output, key.clone()).unwrap();
        let mut ends = vec![work.header_length()];
        for i in 0..4 {
            work.append(&block(i)).unwrap();
            ends.push(std::fs::metadata(&path).unwrap().len());
        }
        drop(work);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut work = Work::open(&output, key.clone()).unwrap();
            let kept = ends
                .iter()
                .filter(|&&end| end <= cut as u64)
                .count()
                .saturating_sub(1);
            assert_eq!(work.blocks(), kept as u64, "cut at {cut}");
            let read: Vec<Block> = work.reader().unwrap().collect();
            assert_eq!(read, (0..kept as u32).map(block).collect::<Vec<_>>());
            work.append(&block(kept as u32)).unwrap();
            assert_eq!(work.reader().unwrap().count(), kept + 1);
        }
        for damaged in (0..whole.len()).step_by(3) {
            let mut bytes = whole.clone();
            bytes[damaged] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let work = Work::open(&output, key.clone()).unwrap();
            assert!(work.blocks() < 4, "byte {damaged}");
        }
    }

    #[test]
    fn another_key_starts_anew_and_another_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let mut work = Work::open(&output, "a".repeat(HASH)).unwrap();
        work.append(&block(2)).unwrap();
        let second = Work::open(&output, "a".repeat(HASH)).unwrap_err();
        assert!(second.message().contains("another run"), "{second}");
        drop(work);
        assert_eq!(Work::open(&output, "a".repeat(HASH)).unwrap().blocks(), 1);
        let fresh = Work::open(&output, "b".repeat(HASH)).unwrap();
        assert_eq!(fresh.blocks(), 0);
        fresh.give_up();
        assert!(!Work::path_for(&output).exists());
    }
}
