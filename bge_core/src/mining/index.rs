//! The index that the settings ask for: built, or read from the file where an earlier run kept it.

use crate::config::{MineArguments, cuda_number};
use crate::error::Result;
use crate::search::{FaissOptions, IndexSpec, Rows, SearchIndex, open_index};

/// What the settings ask for; a GPU is the one that the vectors are made on, or the first.
pub(super) fn spec(arguments: &MineArguments, devices: &[String]) -> IndexSpec {
    IndexSpec {
        factory: Some(arguments.index_factory.trim().to_owned()).filter(|factory| !factory.is_empty()),
        options: FaissOptions {
            nprobe: arguments.nprobe,
            ef_search: arguments.ef_search,
            ..FaissOptions::default()
        },
        use_gpu: arguments.use_gpu_for_searching,
        gpu: devices
            .first()
            .and_then(|name| cuda_number(name))
            .unwrap_or_default(),
    }
}

/// Opens the index over `rows`; `key` is the hash of everything that these rows were made from.
pub(super) fn open<'a>(
    rows: Rows<'a>,
    spec: &IndexSpec,
    arguments: &MineArguments,
    key: &[u8; 32],
) -> Result<Box<dyn SearchIndex + 'a>> {
    #[cfg(feature = "faiss")]
    if let (Some(factory), Some(path), false) = (&spec.factory, &arguments.index_file, spec.use_gpu) {
        return kept::open(rows, factory, &spec.options, std::path::Path::new(path), key);
    }
    #[cfg(not(feature = "faiss"))]
    let _ = (key, arguments);
    open_index(rows, spec)
}

#[cfg(feature = "faiss")]
mod kept {
    use std::io::Write;
    use std::path::Path;

    use crate::error::Result;
    use crate::files::{self, hash_bytes};
    use crate::search::{Faiss, FaissOptions, Rows, SearchIndex};

    /// Reads the index of a file if the note beside it says that it was made of these rows, else builds and keeps it.
    pub(super) fn open<'a>(
        rows: Rows<'a>,
        factory: &str,
        options: &FaissOptions,
        path: &Path,
        key: &[u8; 32],
    ) -> Result<Box<dyn SearchIndex + 'a>> {
        let made_of = hash_bytes(&[key.as_slice(), factory.as_bytes()].concat());
        let mut note = path.as_os_str().to_owned();
        note.push(".key");
        let note = Path::new(&note);
        if path.is_file() && std::fs::read_to_string(note).is_ok_and(|text| text.trim() == made_of) {
            return Ok(Box::new(Faiss::load(rows, path, options)?));
        }
        let _ = std::fs::remove_file(note);
        let index = Faiss::build(rows, factory, options)?;
        index.save(path)?;
        files::write_whole(note, |file| file.write_all(made_of.as_bytes()))?;
        Ok(Box::new(index))
    }
}
