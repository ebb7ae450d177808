//! From a model's name to its folder.

use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};

/// How a name is looked up.
#[derive(Clone, Debug, Default)]
pub struct HubOptions {
    /// Where models are kept.
    pub cache_dir: Option<String>,
    /// Access token.
    pub token: Option<String>,
    /// Branch, tag or commit.
    pub revision: Option<String>,
}

/// The folder of a model.
pub fn resolve_model(name_or_path: &str, _options: &HubOptions) -> Result<PathBuf> {
    let path = PathBuf::from(name_or_path);
    if path.exists() {
        return Ok(path);
    }
    Err(Error::new(ErrorKind::NotFound, "there is no such model folder").with_path(path))
}
