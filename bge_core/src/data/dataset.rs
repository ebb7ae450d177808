//! Training files larger than memory: found by offset in a memory map, parsed when a batch needs them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memchr::{memchr, memchr_iter, memmem};
use memmap2::Mmap;

use super::group::{DrawRules, RERANKER_NEGATIVES, TrainGroup, draw};
use super::layout::{FileShape, Layout, lay_out_for};
use super::lines::{DEFAULT_LIMIT, Found, LineSplitter};
use super::plan::{BatchPlan, PlanInput, RowId};
use super::record::{RecordView, TrainingRecord};
use super::source::{DataFile, find};
use super::template::Instructions;
use crate::config::{DataArguments, Module, TrainingArguments};
use crate::error::{Error, ErrorKind, Result, bail};
use crate::issue::{Issue, Severity};
use crate::random::{Draws, Stream, key, mix};

/// All training data of a run. Costs memory for its offsets only (8 bytes per row).
#[derive(Debug)]
pub struct Dataset {
    files: Vec<IndexedFile>,
    layout: Layout,
    /// Per dataset of the layout: its files with the global number of their first row.
    starts: Vec<(RowId, usize, usize)>,
    instructions: Instructions,
    data: DataArguments,
    seed: u64,
    drop_last: bool,
}

/// One mapped file with the offsets of its rows.
#[derive(Debug)]
struct IndexedFile {
    path: PathBuf,
    file: File,
    map: Option<Mmap>,
    modified: Option<SystemTime>,
    /// Rows are elements of an array, not lines.
    array: bool,
    /// Whether the score columns are read.
    scored: bool,
    offsets: Vec<u64>,
}

impl Dataset {
    /// Finds, maps and indexes all files of `data.train_data` and forms the datasets.
    ///
    /// One pass over the bytes; of the rows only the first of each file is parsed, and, where that has no negatives, the
    /// following ones up to the first that has.
    pub fn open(data: &DataArguments, training: &TrainingArguments) -> Result<Self> {
        Self::open_for(Module::default(), data, training)
    }

    /// The same for a module.
    pub fn open_for(module: Module, data: &DataArguments, training: &TrainingArguments) -> Result<Self> {
        let sources = find(&data.train_data)?;
        let seed = training.data_seed.unwrap_or(training.seed);
        let instructions = Instructions::for_module(module, data)?;
        let mut files = Vec::with_capacity(sources.files.len());
        let mut shapes = Vec::with_capacity(sources.files.len());
        for (ordinal, source) in sources.files.iter().enumerate() {
            let mut file = IndexedFile::open(&source.path, data.knowledge_distillation)?;
            let rows = file.offsets.len() as u64;
            file.cap(
                data.max_example_num_per_dataset,
                key(seed, Stream::Subsample, ordinal as u64),
            );
            shapes.push(file.shape(source, rows, needs_negatives(data), &instructions)?);
            files.push(file);
        }
        let mut layout = lay_out_for(module, &shapes, data, training);
        layout.notes.splice(0..0, sources.notes);
        if let Some(issue) = layout.notes.iter().find(|note| note.severity == Severity::Error) {
            return Err(error_of(issue));
        }
        if layout.datasets.is_empty() {
            let names: Vec<String> = files
                .iter()
                .take(5)
                .map(|file| file.path.display().to_string())
                .collect();
            let message = format!(
                "the training data has no rows ({}); give files with one record a line",
                names.join(", ")
            );
            return Err(Error::new(ErrorKind::InvalidData, message).with_field("train_data"));
        }
        let mut starts = Vec::new();
        let mut row = 0;
        for (index, dataset) in layout.datasets.iter().enumerate() {
            for &file in &dataset.files {
                starts.push((row, index, file));
                row += files
                    .get(file)
                    .map_or(0, |file: &IndexedFile| file.offsets.len() as u64);
            }
        }
        Ok(Self {
            files,
            layout,
            starts,
            instructions,
            data: data.clone(),
            seed,
            drop_last: training.dataloader_drop_last,
        })
    }

    /// The datasets and what was left out in forming them.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Notes on files: ignored, capped, merged, dropped, without negatives.
    pub fn notes(&self) -> &[Issue] {
        &self.layout.notes
    }

    /// Rows of all datasets together.
    pub fn len(&self) -> u64 {
        self.layout.datasets.iter().map(|dataset| dataset.rows).sum()
    }

    /// Whether there are no rows; never true after [`Dataset::open`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A number that other files, or other rows in them, are all but sure to change: made of the offset of every row and
    /// of both ends of every file, but not of its name.
    pub fn fingerprint(&self) -> u64 {
        const END: usize = 4096;
        let mut sum = 0;
        let mut add = |value: u64| sum = mix(sum ^ value);
        for file in &self.files {
            let bytes = file.map.as_deref().unwrap_or_default();
            add(bytes.len() as u64);
            file.offsets.iter().for_each(|&offset| add(offset));
            let head = bytes.iter().take(END);
            let tail = bytes.iter().skip(END.max(bytes.len().saturating_sub(END)));
            head.chain(tail).for_each(|&byte| add(u64::from(byte)));
        }
        sum
    }

    /// What [`super::plan::EpochPlan::new`] needs.
    pub fn plan_input(&self, world_size: usize, epoch: u64) -> PlanInput<'_> {
        PlanInput {
            datasets: &self.layout.datasets,
            same_dataset: self.data.same_dataset_within_batch,
            world_size,
            drop_last: self.drop_last,
            seed: self.seed,
            epoch,
        }
    }

    /// Reads a row, with an error that names file, line and field.
    pub fn record(&self, row: RowId) -> Result<TrainingRecord<'_>> {
        let (file, index) = self.locate(row)?;
        file.record(index)
    }

    /// File and line (counted from 1) of a row. Counts the lines before it, so it is for messages, not for loops.
    pub fn place(&self, row: RowId) -> Result<(&Path, u64)> {
        let (file, index) = self.locate(row)?;
        Ok((&file.path, file.line(index)))
    }

    /// Passages per query of a batch; reads the first row of the global batch where the task type asks for it.
    pub fn group_size(&self, batch: &BatchPlan) -> Result<usize> {
        let negatives = match batch.group {
            super::task::GroupSize::Fixed(_) => 0,
            super::task::GroupSize::FirstRow(_) => self.record(batch.first)?.neg.len(),
        };
        Ok(batch.group.resolve(negatives))
    }

    /// How the groups of a batch are drawn.
    pub fn draw_rules(&self, batch: &BatchPlan) -> Result<DrawRules<'_>> {
        let Some(dataset) = self.layout.datasets.get(batch.dataset) else {
            bail!(InvalidArgument, "the batch is of another dataset");
        };
        Ok(DrawRules {
            group_size: self.group_size(batch)?,
            instructions: &self.instructions,
            passages_are_queries: dataset.task.passages_are_queries(),
            scored: dataset.scored,
            shuffle_ratio: self.data.shuffle_ratio,
            seed: batch.seed,
            epoch: batch.epoch,
        })
    }

    /// Reads one row and draws its group.
    pub fn group(&self, row: RowId, rules: &DrawRules<'_>) -> Result<TrainGroup> {
        let (file, index) = self.locate(row)?;
        let record = file.record(index)?;
        draw(&record, row, rules).map_err(|error| file.at(index, error))
    }

    /// Reads the rows of a batch and draws their groups, all of one size.
    pub fn training_batch(&self, batch: &BatchPlan) -> Result<Vec<TrainGroup>> {
        let rules = self.draw_rules(batch)?;
        batch.rows.iter().map(|&row| self.group(row, &rules)).collect()
    }

    fn locate(&self, row: RowId) -> Result<(&IndexedFile, usize)> {
        let at = self.starts.partition_point(|&(start, ..)| start <= row);
        let found = self.starts.get(at.wrapping_sub(1)).and_then(|&(start, _, file)| {
            let (file, index) = (self.files.get(file)?, (row - start) as usize);
            (index < file.offsets.len()).then_some((file, index))
        });
        match found {
            Some(found) => Ok(found),
            None => bail!(
                InvalidArgument,
                "row {row} is outside the training data of {} rows",
                self.len()
            ),
        }
    }
}

/// Whether a row without negatives would be an error, so that files have to be looked through for it.
fn needs_negatives(data: &DataArguments) -> bool {
    data.train_group_size > 1 || data.same_dataset_within_batch
}

fn error_of(issue: &Issue) -> Error {
    let mut error = Error::new(ErrorKind::InvalidData, issue.message.clone());
    if let Some(path) = &issue.path {
        error = error.with_path(path);
    }
    if let Some(line) = issue.line {
        error = error.with_line(line);
    }
    error
}

impl IndexedFile {
    fn open(path: &Path, scored: bool) -> Result<Self> {
        let open = |error| Error::io(path, "open training data", error);
        let file = File::open(path).map_err(open)?;
        let before = file.metadata().map_err(open)?;
        let mut indexed = Self {
            path: path.to_path_buf(),
            modified: before.modified().ok(),
            map: None,
            array: false,
            scored,
            offsets: Vec::new(),
            file,
        };
        if before.len() > 0 {
            indexed.map = Some(map_file(&indexed.file).map_err(open)?);
            indexed.index()?;
        }
        let after = indexed.file.metadata().map_err(open)?;
        if after.len() != before.len() || after.modified().ok() != indexed.modified {
            return Err(Error::new(
                ErrorKind::InvalidData,
                "the file changed while it was read; start again when it is complete",
            )
            .with_path(path));
        }
        Ok(indexed)
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// One pass over the bytes for the offsets of the rows.
    fn index(&mut self) -> Result<()> {
        let mut offsets = std::mem::take(&mut self.offsets);
        let mut damage: Option<Error> = None;
        let mut splitter = LineSplitter::default();
        let mut look = |found: Found<'_>| match found {
            Found::Record(line) => offsets.push(line.offset),
            Found::TooLong(line) => {
                let message = format!(
                    "the record has {} bytes, more than {DEFAULT_LIMIT}; is the file one object per line?",
                    line.length
                );
                damage.get_or_insert(Error::new(ErrorKind::InvalidData, message).with_line(line.number));
            }
            Found::BadArray { line, message } => {
                damage.get_or_insert(Error::new(ErrorKind::InvalidData, message).with_line(line));
            }
        };
        let bytes = self.bytes();
        #[cfg(unix)]
        if let Some(map) = &self.map {
            let _ = map.advise(memmap2::Advice::Sequential);
        }
        splitter.push(bytes, &mut look);
        splitter.finish(&mut look);
        #[cfg(unix)]
        if let Some(map) = &self.map {
            let _ = map.advise(memmap2::Advice::Random);
        }
        if let Some(error) = damage {
            return Err(error.with_path(&self.path));
        }
        offsets.shrink_to_fit();
        self.array = splitter.is_array();
        self.offsets = offsets;
        Ok(())
    }

    /// Keeps a sample of at most `most` rows without replacement, in the order of the file.
    ///
    /// Knuth, The Art of Computer Programming, volume 2, algorithm 3.4.2 S.
    fn cap(&mut self, most: usize, key: u64) {
        let mut left = self.offsets.len();
        if left <= most {
            return;
        }
        let mut random = Draws::new(key);
        let mut needed = most;
        self.offsets.retain(|_| {
            let keep = needed > 0 && random.below(left) < needed;
            left -= 1;
            needed -= usize::from(keep);
            keep
        });
        self.offsets.shrink_to_fit();
    }

    fn shape(
        &self,
        source: &DataFile,
        rows: u64,
        look_for_negatives: bool,
        instructions: &Instructions,
    ) -> Result<FileShape> {
        let mut shape = FileShape {
            name: source.path.display().to_string(),
            argument: source.argument,
            from_folder: source.from_folder,
            no_in_batch_neg: source.no_in_batch_neg,
            rows,
            ..FileShape::default()
        };
        if self.offsets.is_empty() {
            return Ok(shape);
        }
        let first = self.record(0)?;
        shape.first_line = self.line(0);
        shape.task_type = first.task_type.as_deref().map(str::to_owned);
        shape.batch_size = first.batch_size;
        shape.train_group_size = first.train_group_size;
        shape.scored = first.has_scores();
        if first.neg.is_empty() && look_for_negatives {
            shape.no_negatives = true;
            if let Some(index) = self.first_with_negatives()? {
                let way_out = if instructions.pairs() {
                    RERANKER_NEGATIVES
                } else {
                    "mine negatives for all rows, split the file, or set train_group_size 1 to use in-batch negatives only"
                };
                let line = self.line(index);
                let message = format!("the row has no negatives, but line {line} has; {way_out}");
                let error = Error::new(ErrorKind::InvalidData, message).with_field("neg");
                return Err(self.at(0, error));
            }
        }
        Ok(shape)
    }

    /// The first row that has negatives. Rows that plainly have none are not parsed.
    fn first_with_negatives(&self) -> Result<Option<usize>> {
        let key = memmem::Finder::new("\"neg\"");
        for index in 0..self.offsets.len() {
            let plain = !self.array && self.raw(index).is_some_and(|line| has_empty_neg(line, &key));
            if !plain && !self.record(index)?.neg.is_empty() {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// The bytes of a row from its first one on; of a line, up to its end.
    fn raw(&self, index: usize) -> Option<&[u8]> {
        let offset = *self.offsets.get(index)?;
        let rest = self.bytes().get(offset as usize..)?;
        if self.array {
            return Some(rest);
        }
        rest.get(..memchr(b'\n', rest).unwrap_or(rest.len()))
    }

    /// Adds path and line of a row to an error.
    fn at(&self, index: usize, error: Error) -> Error {
        error.with_path(&self.path).with_line(self.line(index))
    }

    fn line(&self, index: usize) -> u64 {
        let offset = self.offsets.get(index).copied().unwrap_or_default() as usize;
        if self.file_is_shorter() {
            return 0;
        }
        1 + memchr_iter(b'\n', self.bytes().get(..offset).unwrap_or_default()).count() as u64
    }

    /// Reading a map beyond the end of a file that was cut would end the process, so this is asked before.
    fn file_is_shorter(&self) -> bool {
        self.file
            .metadata()
            .map_or(true, |metadata| metadata.len() < self.bytes().len() as u64)
    }

    fn record(&self, index: usize) -> Result<TrainingRecord<'_>> {
        if self.file_is_shorter() {
            return Err(Error::new(
                ErrorKind::InvalidData,
                "the file became shorter during the run; restore it and resume",
            )
            .with_path(&self.path));
        }
        let Some(bytes) = self.raw(index) else {
            bail!(InvalidArgument, "row {index} is outside the file");
        };
        let view = if self.array {
            RecordView::parse_prefix(bytes)
        } else {
            RecordView::parse(bytes)
        };
        let read = if self.scored {
            RecordView::into_record
        } else {
            RecordView::into_unscored_record
        };
        view.map_err(Error::from).and_then(read).map_err(|error| {
            let changed = self
                .file
                .metadata()
                .is_ok_and(|now| now.modified().ok() != self.modified);
            let error = if changed {
                Error::new(
                    ErrorKind::InvalidData,
                    "the file changed during the run; restore it and resume",
                )
                .with_source(error)
            } else {
                error
            };
            self.at(index, error)
        })
    }
}

/// Whether a line plainly has an empty `neg`: the key occurs once, and behind it stands `[]`.
///
/// Inside of a text the quotes would be escaped, so what is found is a key or a whole text `neg`.
fn has_empty_neg(line: &[u8], key: &memmem::Finder<'_>) -> bool {
    let Some(at) = key.find(line) else { return false };
    let rest = line.get(at + key.needle().len()..).unwrap_or_default();
    let mut signs = rest.iter().filter(|byte| !byte.is_ascii_whitespace());
    let empty = signs.next() == Some(&b':') && signs.next() == Some(&b'[') && signs.next() == Some(&b']');
    empty && key.find(rest).is_none()
}

#[allow(
    unsafe_code,
    reason = "mapping a file has no safe interface; data larger than memory needs it"
)]
fn map_file(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read only and private to `IndexedFile`, whose parser takes any bytes: bytes that change under it
    // give an error or another text, never undefined values of a type with invalid patterns, as `str`s are made of it only
    // after a check on a borrow that ends with the record. A file that is cut is noticed by `file_is_shorter` before a read.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_neg_is_seen_without_parsing() {
        let key = memmem::Finder::new("\"neg\"");
        for (line, empty) in [
            (r#"{"query":"q","pos":["p"],"neg":[]}"#, true),
            (r#"{"query":"q","pos":["p"],"neg" : [ ] , "type": "x"}"#, true),
            (r#"{"query":"say \"neg\": []","pos":["p"],"neg":["n"]}"#, false),
            (r#"{"query":"q","pos":["p"],"neg":["n"]}"#, false),
            (r#"{"query":"neg","pos":["p"],"neg":[]}"#, false),
            (
                r#"{"meta":{"neg":[]},"query":"q","pos":["p"],"neg":["n"]}"#,
                false,
            ),
            (r#"{"query":"q","pos":["p"]}"#, false),
        ] {
            assert_eq!(has_empty_neg(line.as_bytes(), &key), empty, "{line}");
        }
    }
}
