//! Vectors on disk: written in checked blocks, resumed after a crash, mapped into memory for reading.
//!
//! # The file
//!
//! All numbers are little-endian. A file is a header, blocks, and a trailer, each of a multiple of 64 bytes:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | `BGEVECT1` |
//! | 8..12 | type of the numbers: 1 is f32, 2 is f16 |
//! | 12..16 | rows of a full block: 256 |
//! | 16..24 | numbers of a row |
//! | 24..56 | the caller's key: what the vectors were made from |
//! | 56..64 | checksum of bytes 0..56 |
//!
//! A block holds up to 256 rows, one after the other, then zeros up to a multiple of 64 bytes of which the last 8 are the
//! checksum of the rows. Every block but the last is full, so row `i` has a fixed place. The trailer is `BGEVEND1`, the
//! number of rows, the checksum of the header, 32 zeros, and the checksum of these 56 bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use memmap2::Mmap;

use crate::error::{Error, ErrorKind, Result, bail};
use crate::files::sync;

const MAGIC: &[u8; 8] = b"BGEVECT1";
const END: &[u8; 8] = b"BGEVEND1";
/// Bytes of the header and of the trailer, and what every part is padded to.
const UNIT: usize = 64;
/// Rows of a full block.
pub(super) const BLOCK_ROWS: usize = 256;
/// Numbers of a row at most: more than any encoder has, and small enough that no size overflows.
const MOST_DIM: usize = 1 << 20;

/// How the numbers of a row are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum VectorType {
    /// Four bytes, as computed.
    F32 = 1,
    /// Two bytes: half the space, rounded to 11 bits.
    F16 = 2,
}

impl VectorType {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// What a file of vectors must be to be the one that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorLayout {
    /// Type of the numbers.
    pub dtype: VectorType,
    /// Numbers of a row.
    pub dim: usize,
    /// A hash of everything that the vectors were made from: model, texts, settings.
    pub key: [u8; 32],
}

impl VectorLayout {
    fn check(&self, path: &Path) -> Result<()> {
        if self.dim == 0 || self.dim > MOST_DIM {
            let message = format!(
                "vectors of {} numbers cannot be stored; it takes 1 to {MOST_DIM}",
                self.dim
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message).with_path(path));
        }
        Ok(())
    }

    fn header(&self) -> [u8; UNIT] {
        let mut header = [0; UNIT];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&(self.dtype as u32).to_le_bytes());
        header[12..16].copy_from_slice(&(BLOCK_ROWS as u32).to_le_bytes());
        header[16..24].copy_from_slice(&(self.dim as u64).to_le_bytes());
        header[24..56].copy_from_slice(&self.key);
        seal(&mut header);
        header
    }

    /// Reads a header; `Err` says what it is instead.
    fn parse(header: &[u8; UNIT]) -> Result<Self, &'static str> {
        if header[..7] != MAGIC[..7] {
            return Err("this is not a file of vectors that bge wrote");
        }
        if header[7] != MAGIC[7] || number::<4>(&header[12..]) != BLOCK_ROWS as u64 {
            return Err("another version of bge wrote these vectors; delete the file to have it made anew");
        }
        if !sealed(header) {
            return Err("the header is damaged; delete the file to have it made anew");
        }
        let dtype = match number::<4>(&header[8..]) {
            1 => VectorType::F32,
            2 => VectorType::F16,
            _ => return Err("the header names an unknown type of numbers; delete the file"),
        };
        let dim = number::<8>(&header[16..]);
        if dim == 0 || dim > MOST_DIM as u64 {
            return Err("the header names an impossible length of rows; delete the file");
        }
        let mut key = [0; 32];
        key.copy_from_slice(&header[24..56]);
        Ok(Self {
            dtype,
            dim: dim as usize,
            key,
        })
    }

    fn row_bytes(&self) -> usize {
        self.dim * self.dtype.bytes()
    }

    /// Bytes of a block of `rows` rows with its checksum.
    fn block_bytes(&self, rows: usize) -> usize {
        (rows * self.row_bytes() + 8).next_multiple_of(UNIT)
    }

    /// Bytes of a complete file.
    fn file_bytes(&self, rows: usize) -> Option<usize> {
        let full = (rows / BLOCK_ROWS).checked_mul(self.block_bytes(BLOCK_ROWS))?;
        let rest = match rows % BLOCK_ROWS {
            0 => 0,
            rest => self.block_bytes(rest),
        };
        full.checked_add(rest)?.checked_add(2 * UNIT)
    }

    /// Seed of the checksums: blocks of another file, or from another place, do not pass.
    fn seed(&self, block: usize) -> u64 {
        checksum(block as u64, &self.header())
    }

    fn trailer(&self, rows: usize) -> [u8; UNIT] {
        let mut trailer = [0; UNIT];
        trailer[..8].copy_from_slice(END);
        trailer[8..16].copy_from_slice(&(rows as u64).to_le_bytes());
        trailer[16..24].copy_from_slice(&checksum(0, &self.header()).to_le_bytes());
        seal(&mut trailer);
        trailer
    }
}

/// The little-endian number in the first `N` bytes.
fn number<const N: usize>(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    for (wide, byte) in wide.iter_mut().zip(bytes.iter().take(N)) {
        *wide = *byte;
    }
    u64::from_le_bytes(wide)
}

/// Sixty-four bits that change with every change of the bytes that a crash or a worn disk could make.
fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    let mut sum = seed ^ 0x243f_6a88_85a3_08d3 ^ bytes.len() as u64;
    let mut add = |word: u64| {
        sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^= sum >> 29;
    };
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        add(u64::from_le_bytes(*word));
    }
    add(number::<8>(rest));
    crate::random::mix(sum)
}

fn seal(unit: &mut [u8; UNIT]) {
    let sum = checksum(0, &unit[..UNIT - 8]);
    unit[UNIT - 8..].copy_from_slice(&sum.to_le_bytes());
}

fn sealed(unit: &[u8; UNIT]) -> bool {
    number::<8>(&unit[UNIT - 8..]) == checksum(0, &unit[..UNIT - 8])
}

fn part_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.part"))
}

/// Writes vectors, block by block, into `NAME.part` beside their place; [`finish`](Self::finish) gives them their name.
///
/// A crash leaves the part, and [`resume`](Self::resume) goes on after its last whole block. The finished file has the
/// same bytes however often it was interrupted.
#[derive(Debug)]
pub struct VectorWriter {
    place: PathBuf,
    part: PathBuf,
    file: File,
    layout: VectorLayout,
    rows: usize,
    /// Bytes of the rows of the block that is not full yet.
    open: Vec<u8>,
}

impl VectorWriter {
    /// Starts a new file of vectors; a part that is there is overwritten.
    ///
    /// Fails when the folder cannot be written to, or when another process writes the same file.
    pub fn create(path: &Path, layout: VectorLayout) -> Result<Self> {
        Self::start(path, layout, false)
    }

    /// Goes on with what an interrupted writer left, if its layout and key are the same, and starts anew otherwise.
    ///
    /// [`rows`](Self::rows) says how many rows are there already: the caller pushes those after them.
    pub fn resume(path: &Path, layout: VectorLayout) -> Result<Self> {
        Self::start(path, layout, true)
    }

    fn start(path: &Path, layout: VectorLayout, resume: bool) -> Result<Self> {
        layout.check(path)?;
        let part = part_of(path);
        let failed = |error| Error::io(&part, "write this file", error);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|error| Error::io(folder, "create this folder", error))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part)
            .map_err(failed)?;
        if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
            let message = "another process is writing this file; wait for it, or choose another folder";
            return Err(Error::new(ErrorKind::Io, message).with_path(&part));
        }
        let blocks = if resume {
            whole_blocks(&mut file, &layout).map_err(failed)?
        } else {
            None
        };
        let place = blocks.map_or(0, |blocks| UNIT + blocks * layout.block_bytes(BLOCK_ROWS));
        file.set_len(place as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        if blocks.is_none() {
            file.write_all(&layout.header()).map_err(failed)?;
        }
        Ok(Self {
            place: path.to_path_buf(),
            part: part.clone(),
            file,
            layout,
            rows: blocks.unwrap_or(0) * BLOCK_ROWS,
            open: Vec::with_capacity(layout.block_bytes(BLOCK_ROWS)),
        })
    }

    /// Rows pushed so far, with those of the interrupted run that it goes on with.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Appends rows of `dim` numbers.
    ///
    /// Fails on a number that is not finite, or too large for f16, and names its row; nothing is appended then.
    pub fn push(&mut self, rows: &[f32]) -> Result<()> {
        let dim = self.layout.dim;
        if !rows.len().is_multiple_of(dim) {
            bail!(
                InvalidArgument,
                "{} numbers are not whole rows of {dim}",
                rows.len()
            );
        }
        let fits = |x: &f32| match self.layout.dtype {
            VectorType::F32 => x.is_finite(),
            VectorType::F16 => f16::from_f32(*x).is_finite(),
        };
        if let Some(bad) = rows.iter().position(|x| !fits(x)) {
            let x = rows.get(bad).copied().unwrap_or(f32::NAN);
            let row = self.rows + bad / dim + 1;
            let message = if x.is_finite() {
                format!("row {row} holds {x}, which f16 has no room for; store these vectors as f32")
            } else {
                format!("the vector of row {row} holds {x}; the model is damaged or its training diverged")
            };
            return Err(Error::new(ErrorKind::NotFinite, message).with_path(&self.place));
        }
        for row in rows.chunks_exact(dim) {
            match self.layout.dtype {
                VectorType::F32 => self.open.extend(row.iter().flat_map(|x| x.to_le_bytes())),
                VectorType::F16 => self
                    .open
                    .extend(row.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes())),
            }
            self.rows += 1;
            if self.rows.is_multiple_of(BLOCK_ROWS) {
                self.write_block()?;
            }
        }
        Ok(())
    }

    fn write_block(&mut self) -> Result<()> {
        let block = (self.rows - 1) / BLOCK_ROWS;
        let sum = checksum(self.layout.seed(block), &self.open);
        let size = (self.open.len() + 8).next_multiple_of(UNIT);
        self.open.resize(size - 8, 0);
        self.open.extend(sum.to_le_bytes());
        let written = self.file.write_all(&self.open);
        self.open.clear();
        written.map_err(|error| Error::io(&self.part, "write this file", error))
    }

    /// Writes the rest, makes sure that everything is on disk, and gives the file its name.
    pub fn finish(mut self) -> Result<VectorStore> {
        if !self.open.is_empty() {
            self.write_block()?;
        }
        let ended = self
            .file
            .write_all(&self.layout.trailer(self.rows))
            .and_then(|()| self.file.sync_all());
        ended.map_err(|error| Error::io(&self.part, "write this file", error))?;
        fs::rename(&self.part, &self.place)
            .map_err(|error| Error::io(&self.place, "move the finished file here", error))?;
        let folder = self
            .place
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        sync(folder.unwrap_or(Path::new(".")))?;
        VectorStore::open(&self.place)
    }
}

/// Full blocks with right checksums at the start of a part; `None` when it is not of this layout.
fn whole_blocks(file: &mut File, layout: &VectorLayout) -> std::io::Result<Option<usize>> {
    let mut read = |bytes: &mut [u8]| match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == IoKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    };
    let mut header = [0; UNIT];
    if !read(&mut header)? || header != layout.header() {
        return Ok(None);
    }
    let mut block = vec![0; layout.block_bytes(BLOCK_ROWS)];
    let mut blocks = 0;
    while read(&mut block)? && block_is_whole(layout, blocks, BLOCK_ROWS, &block) {
        blocks += 1;
    }
    Ok(Some(blocks))
}

fn block_is_whole(layout: &VectorLayout, block: usize, rows: usize, bytes: &[u8]) -> bool {
    let payload = bytes.get(..rows * layout.row_bytes());
    let sum = bytes.len().checked_sub(8).and_then(|at| bytes.get(at..));
    match (payload, sum) {
        (Some(payload), Some(sum)) => number::<8>(sum) == checksum(layout.seed(block), payload),
        _ => false,
    }
}

/// A finished file of vectors, mapped into memory: rows are read from disk when they are needed.
#[derive(Debug)]
pub struct VectorStore {
    path: PathBuf,
    layout: VectorLayout,
    rows: usize,
    map: Mmap,
}

impl VectorStore {
    /// Opens a finished file; header, trailer and length must agree. [`verify`](Self::verify) checks the rows too.
    pub fn open(path: &Path) -> Result<Self> {
        let damaged = |message: &str| Error::new(ErrorKind::InvalidData, message).with_path(path);
        let file = File::open(path).map_err(|error| Error::io(path, "read this file", error))?;
        #[expect(unsafe_code, reason = "vectors of a corpus may be larger than the memory")]
        // SAFETY: the map is read only, and any bytes are valid numbers. bge never writes to a finished file, it puts
        // another in its place; whoever cuts the file while it is mapped ends the process.
        let map = unsafe { Mmap::map(&file) };
        let map = map.map_err(|error| Error::io(path, "read this file", error))?;
        let header = map
            .first_chunk::<UNIT>()
            .ok_or_else(|| damaged("the file is too short for vectors; delete it to have it made anew"))?;
        let layout = VectorLayout::parse(header).map_err(damaged)?;
        let cut = "the file ends too early; delete it to have it made anew";
        let trailer = map.last_chunk::<UNIT>().ok_or_else(|| damaged(cut))?;
        if trailer[..8] != *END || !sealed(trailer) {
            return Err(damaged(cut));
        }
        let rows = number::<8>(&trailer[8..]) as usize;
        if layout.file_bytes(rows) != Some(map.len()) || *trailer != layout.trailer(rows) {
            return Err(damaged(
                "the length of the file is not that of its rows; delete it to have it made anew",
            ));
        }
        Ok(Self {
            path: path.to_path_buf(),
            layout,
            rows,
            map,
        })
    }

    /// Opens a file if it is there, is sound in every row, and has this layout and key; otherwise it must be made.
    pub fn open_current(path: &Path, layout: &VectorLayout) -> Result<Option<Self>> {
        match Self::open(path) {
            Ok(store) if store.layout == *layout && store.verify().is_ok() => Ok(Some(store)),
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads everything and compares the checksums.
    pub fn verify(&self) -> Result<()> {
        for block in 0..self.rows.div_ceil(BLOCK_ROWS) {
            let rows = (self.rows - block * BLOCK_ROWS).min(BLOCK_ROWS);
            let start = self.place(block * BLOCK_ROWS);
            let bytes = self.map.get(start..start + self.layout.block_bytes(rows));
            if !bytes.is_some_and(|bytes| block_is_whole(&self.layout, block, rows, bytes)) {
                let message = format!(
                    "rows {} to {} are damaged; delete the file to have it made anew",
                    block * BLOCK_ROWS + 1,
                    block * BLOCK_ROWS + rows
                );
                return Err(Error::new(ErrorKind::InvalidData, message).with_path(&self.path));
            }
        }
        Ok(())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Numbers of a row.
    pub fn dim(&self) -> usize {
        self.layout.dim
    }

    /// Type, length and key of the rows.
    pub fn layout(&self) -> &VectorLayout {
        &self.layout
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// First byte of a row.
    fn place(&self, row: usize) -> usize {
        let (block, row) = (row / BLOCK_ROWS, row % BLOCK_ROWS);
        UNIT + block * self.layout.block_bytes(BLOCK_ROWS) + row * self.layout.row_bytes()
    }

    /// Replaces `out` by the rows of a range, `[range.len(), dim]`.
    pub fn block(&self, range: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        if range.start > range.end || range.end > self.rows {
            bail!(
                InvalidArgument,
                "there are no rows {} to {} among {}",
                range.start,
                range.end,
                self.rows
            );
        }
        out.clear();
        out.reserve(range.len() * self.layout.dim);
        let mut row = range.start;
        while row < range.end {
            let end = range.end.min((row / BLOCK_ROWS + 1) * BLOCK_ROWS);
            self.decode(self.bytes(row..end), out);
            row = end;
        }
        Ok(())
    }

    /// Replaces `out` by one row.
    pub fn row(&self, row: usize, out: &mut Vec<f32>) -> Result<()> {
        self.block(row..row.saturating_add(1), out)
    }

    /// Bytes of rows that lie in one block.
    fn bytes(&self, range: Range<usize>) -> &[u8] {
        let start = self.place(range.start);
        let end = start + range.len() * self.layout.row_bytes();
        self.map.get(start..end).unwrap_or_default()
    }

    fn decode(&self, bytes: &[u8], out: &mut Vec<f32>) {
        match self.layout.dtype {
            VectorType::F32 => out.extend(bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x))),
            VectorType::F16 => {
                let mut bits = [0_u16; 256];
                for chunk in bytes.as_chunks::<2>().0.chunks(bits.len()) {
                    for (bits, bytes) in bits.iter_mut().zip(chunk) {
                        *bits = u16::from_le_bytes(*bytes);
                    }
                    let start = out.len();
                    out.resize(start + chunk.len(), 0.0);
                    if let (Some(out), Some(bits)) = (out.get_mut(start..), bits.get(..chunk.len())) {
                        bits.reinterpret_cast::<f16>().convert_to_f32_slice(out);
                    }
                }
            }
        }
    }

    /// Rows of one block, without a copy where the file holds them as the processor does.
    pub(super) fn slice<'s>(&'s self, range: Range<usize>, scratch: &'s mut Vec<f32>) -> &'s [f32] {
        let bytes = self.bytes(range);
        if self.layout.dtype == VectorType::F32 && cfg!(target_endian = "little") {
            #[expect(unsafe_code, reason = "a copy would cost as much as part of the search")]
            // SAFETY: every pattern of four bytes is an f32, and `align_to` leaves out what is not aligned.
            let (before, rows, after) = unsafe { bytes.align_to::<f32>() };
            if before.is_empty() && after.is_empty() {
                return rows;
            }
        }
        scratch.clear();
        self.decode(bytes, scratch);
        scratch
    }

    /// The bytes of rows within one block, where they are stored in f16: little-endian, as a GPU has them.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn halves(&self, range: Range<usize>) -> Option<&[u8]> {
        (self.layout.dtype == VectorType::F16).then(|| self.bytes(range))
    }

    /// Gives back the memory of rows that were read; they stay on disk and are mapped again when needed.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            /// Pages are whole within this.
            const PAGE: usize = 1 << 16;
            let start = self.place(range.start).next_multiple_of(PAGE);
            let end = self.place(range.end) / PAGE * PAGE;
            if start < end && end <= self.map.len() {
                #[expect(unsafe_code, reason = "the size of the process must not grow with the corpus")]
                // SAFETY: the pages are a shared map of a file that nobody writes: dropped ones are read again.
                let advised = unsafe {
                    self.map
                        .unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
                };
                // It is only advice: without it the system takes the pages when it needs them.
                let _ = advised;
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> usize {
        self.map.len()
    }
}
