//! From a model's name to its folder: a path, the local Hugging Face cache, or (feature `hub`) the hub itself.
//!
//! The cache is the one that Python's `huggingface_hub` keeps, so what transformers, sentence-transformers or
//! `hf download` have fetched is found here, and the other way round:
//!
//! ```text
//! CACHE/models--ORG--NAME/refs/main             the commit that `main` was at
//! CACHE/models--ORG--NAME/snapshots/COMMIT/...  the model folder of that commit
//! ```
//!
//! Settings come from [`HubOptions`] first, then from the environment: `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN`,
//! `HF_TOKEN_PATH`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`, with the meaning they have in `huggingface_hub`.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, bail};

/// Where to look for a model that is given by name; all empty means: as the environment says.
#[derive(Clone, Default)]
pub struct HubOptions {
    /// The folder that holds `models--ORG--NAME`; `None` is `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub cache_dir: Option<PathBuf>,
    /// The access token for gated and private models; `None` is `HF_TOKEN`, or the file that `hf auth login` wrote.
    pub token: Option<String>,
    /// A branch, tag or commit; `None` is `main`.
    pub revision: Option<String>,
    /// Whether downloads show a progress bar on the terminal.
    pub progress: bool,
}

impl HubOptions {
    /// The two that settings have.
    pub fn new(cache_dir: Option<&String>, token: Option<&String>) -> Self {
        Self {
            cache_dir: cache_dir.map(Into::into),
            token: token.cloned(),
            ..Self::default()
        }
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("cache_dir", &self.cache_dir)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("revision", &self.revision)
            .field("progress", &self.progress)
            .finish()
    }
}

/// The folder of a model that is given as a path or as a hub name (`org/name`).
///
/// A path that exists is returned as it is, and nothing else is asked. A hub name is looked up in the local cache;
/// with the feature `hub` the hub is asked first, and the cache serves when there is no network or `HF_HUB_OFFLINE` is set.
/// A fetched model is seen by others once all of its files are there.
pub fn resolve_model(name_or_path: &str, options: &HubOptions) -> Result<PathBuf> {
    if name_or_path.is_empty() {
        bail!(
            InvalidArgument,
            "the model's name is empty; give a folder or a hub name such as BAAI/bge-small-en-v1.5"
        );
    }
    let path = Path::new(name_or_path);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    if !is_hub_name(name_or_path) {
        return Err(Error::new(ErrorKind::NotFound, "there is no such model folder").with_path(path));
    }
    let revision = options.revision.as_deref().unwrap_or("main");
    if !is_revision(revision) {
        bail!(
            InvalidArgument,
            "`{revision}` is not a revision; give a branch, a tag or a commit"
        );
    }
    let environment = Environment::read(|name| std::env::var_os(name), std::env::home_dir());
    let model = Model {
        name: name_or_path,
        revision,
        cache: options.cache_dir.as_deref().unwrap_or(&environment.cache),
    };
    #[cfg(feature = "hub")]
    if !environment.offline {
        return fetch::fetch(&model, options, &environment);
    }
    model.cached().ok_or_else(|| model.not_cached())
}

/// Whether a text can only be a name on the hub: `name` or `org/name`, from the letters that the hub allows.
fn is_hub_name(text: &str) -> bool {
    let part = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty()
            && part.len() <= 96
            && part.chars().all(plain)
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && !part.contains("--")
    };
    text.split('/').count() <= 2 && text.split('/').all(part)
}

/// Whether a text can be a branch, tag or commit; it becomes part of a path.
fn is_revision(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    text.split('/')
        .all(|part| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain))
}

/// A commit as the hub writes it; it becomes the name of a folder.
fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric())
}

/// What the environment says about the hub.
#[cfg_attr(
    not(feature = "hub"),
    expect(dead_code, reason = "without the hub only the cache is asked")
)]
struct Environment {
    cache: PathBuf,
    token: Option<String>,
    endpoint: String,
    offline: bool,
}

impl Environment {
    /// Reads the variables through `variable`; an empty one counts as missing.
    fn read(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Self {
        let value = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| value(name).and_then(|value| value.into_string().ok());
        let home = home.unwrap_or_default();
        let path = |name: &str| {
            let expanded = |text: String| PathBuf::from(expand(&text, &home, &variable));
            value(name).map(|value| value.into_string().map_or_else(PathBuf::from, expanded))
        };
        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .unwrap_or_else(|| home.join(".cache/huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let on = |value: String| matches!(value.to_lowercase().as_str(), "1" | "on" | "yes" | "true");
        Self {
            token: text("HF_TOKEN")
                .or_else(|| std::fs::read_to_string(token_file).ok())
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
            cache: cache.unwrap_or_else(|| hf_home.join("hub")),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            offline: text("HF_HUB_OFFLINE")
                .or_else(|| text("TRANSFORMERS_OFFLINE"))
                .is_some_and(on),
        }
    }
}

/// A path with `~`, `$NAME` and `${NAME}` written out, as `huggingface_hub` reads paths.
fn expand(text: &str, home: &Path, variable: &impl Fn(&str) -> Option<OsString>) -> String {
    let (mut whole, mut rest) = (String::new(), text);
    if let Some(inside) = text
        .strip_prefix('~')
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
    {
        whole.push_str(&home.to_string_lossy());
        rest = inside;
    }
    while let Some((before, after)) = rest.split_once('$') {
        whole.push_str(before);
        let braced = after.strip_prefix('{').and_then(|inside| inside.split_once('}'));
        let (name, behind) = braced.unwrap_or_else(|| {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            after.split_at(end.unwrap_or(after.len()))
        });
        if let Some(value) = variable(name).and_then(|value| value.into_string().ok()) {
            whole.push_str(&value);
            rest = behind;
        } else {
            whole.push('$');
            rest = after;
        }
    }
    whole + rest
}

/// A model by name, and the cache that may hold it.
struct Model<'a> {
    name: &'a str,
    revision: &'a str,
    cache: &'a Path,
}

impl Model<'_> {
    fn folder(&self) -> PathBuf {
        self.cache
            .join(format!("models--{}", self.name.replace('/', "--")))
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// The model folder of the revision, if the cache holds it.
    fn cached(&self) -> Option<PathBuf> {
        let commit = std::fs::read_to_string(self.folder().join("refs").join(self.revision));
        let commit = commit.unwrap_or_else(|_| self.revision.to_owned());
        let commit = commit.trim();
        let folder = is_commit(commit).then(|| self.snapshot(commit))?;
        folder.join("config.json").exists().then_some(folder)
    }

    fn not_cached(&self) -> Error {
        let way_out = if cfg!(feature = "hub") {
            "unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to fetch it".to_owned()
        } else {
            format!(
                "fetch it with `hf download {}`, or build bge with `--features hub`",
                self.name
            )
        };
        let message = format!(
            "there is no folder `{}`, and no model of that name (revision {}) in this cache of the hub; {way_out}",
            self.name, self.revision
        );
        Error::new(ErrorKind::NotFound, message).with_path(self.cache)
    }
}

/// Asks the hub.
#[cfg(feature = "hub")]
mod fetch {
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
    use hf_hub::{Cache, Repo, RepoType};
    use serde_json::Value;

    use super::{Environment, HubOptions, Model, is_commit};
    use crate::error::{Error, ErrorKind, Result, bail};
    use crate::models::m3::is_head_file;
    use crate::{files, tokenize};

    const WHOLE: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    /// The file that makes a folder a model; fetched last, so that a folder that has it has all.
    const CONFIG: &str = "config.json";
    const SENTENCE: [&str; 3] = [
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
    ];
    /// How long to wait for another process that fetches the same model.
    const PATIENCE: Duration = Duration::from_hours(1);

    /// Fetches what is missing of a model, all files of one commit.
    pub(super) fn fetch(model: &Model, options: &HubOptions, environment: &Environment) -> Result<PathBuf> {
        let endpoint = &environment.endpoint;
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            bail!(
                InvalidArgument,
                "HF_ENDPOINT is `{endpoint}`, which is not an address such as https://huggingface.co"
            );
        }
        let cache = std::path::absolute(model.cache)
            .map_err(|error| Error::io(model.cache, "find this cache folder", error))?;
        let token = options.token.clone().or_else(|| environment.token.clone());
        let api = ApiBuilder::from_cache(Cache::new(cache))
            .with_endpoint(endpoint.clone())
            .with_token(token)
            .with_progress(options.progress)
            .with_retries(2)
            .build()
            .map_err(|error| failure(model, endpoint, &error))?;
        let at =
            |revision: &str| Repo::with_revision(model.name.to_owned(), RepoType::Model, revision.to_owned());
        let info = match api.repo(at(model.revision)).info() {
            Ok(info) => info,
            Err(error) => {
                let failure = failure(model, endpoint, &error);
                return match model.cached() {
                    Some(folder) if failure.kind() == ErrorKind::Io => {
                        tracing::warn!("{failure}; using the copy in {}", folder.display());
                        Ok(folder)
                    }
                    _ => Err(failure),
                };
            }
        };
        if !is_commit(&info.sha) {
            bail!(
                Io,
                "{endpoint} names no commit for `{}`; is this a hub?",
                model.name
            );
        }
        let there: BTreeSet<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
        let download = Download {
            model,
            endpoint,
            folder: model.snapshot(&info.sha),
            repo: api.repo(at(&info.sha)),
        };
        let weights = weights(&there).ok_or_else(|| without_weights(model, &there))?;
        for file in small_files(&there) {
            download.file(file)?;
        }
        download.file(weights)?;
        if weights == INDEX {
            for shard in shards(&download.folder.join(INDEX), &there)? {
                download.file(&shard)?;
            }
        }
        if !there.contains(CONFIG) {
            let message = format!(
                "`{}` on the hub has no config.json; it is not a model",
                model.name
            );
            return Err(Error::new(ErrorKind::ModelFormat, message));
        }
        download.file(CONFIG)?;
        note_commit(model, &info.sha);
        Ok(download.folder)
    }

    /// Notes which commit the revision is at, for when the hub cannot be asked. A cache that is read only still serves.
    fn note_commit(model: &Model, commit: &str) {
        let place = model.folder().join("refs").join(model.revision);
        let noted = || std::fs::read_to_string(&place).is_ok_and(|noted| noted.trim() == commit);
        if model.revision == commit || noted() {
            return;
        }
        if let Some(folder) = place.parent() {
            // Where this fails, so does writing.
            let _ = std::fs::create_dir_all(folder);
        }
        if let Err(error) = files::write_whole(&place, |file| file.write_all(commit.as_bytes())) {
            tracing::warn!("{error}; without the hub this model will not be found as it is now");
        }
    }

    struct Download<'a> {
        model: &'a Model<'a>,
        endpoint: &'a str,
        folder: PathBuf,
        repo: ApiRepo,
    }

    impl Download<'_> {
        /// Fetches a file unless it is there.
        fn file(&self, name: &str) -> Result<()> {
            let path = self.folder.join(name);
            if path.exists() {
                return Ok(());
            }
            let _turn = self.turn();
            if path.exists() {
                return Ok(());
            }
            tracing::info!("fetching {name} of {}", self.model.name);
            self.repo
                .download(name)
                .map_err(|error| failure(self.model, self.endpoint, &error).with_field(name))?;
            if !path.exists() {
                bail!(
                    Io,
                    "{} answered with a file of another commit; try again",
                    self.endpoint
                );
            }
            Ok(())
        }

        /// Waits until no other process that came here first is downloading this model, so that ranks fetch each file once.
        fn turn(&self) -> Option<File> {
            let folder = self.model.folder();
            std::fs::create_dir_all(&folder).ok()?;
            let lock = File::create(folder.join(".bge.lock")).ok()?;
            let begun = Instant::now();
            // Where files cannot be locked, hf-hub says so.
            while let Err(std::fs::TryLockError::WouldBlock) = lock.try_lock() {
                if begun.elapsed() > PATIENCE {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            Some(lock)
        }
    }

    /// Which small files of a model to fetch: tokenizer, pooling, prompts, and the heads of BGE-M3.
    fn small_files(there: &BTreeSet<String>) -> impl Iterator<Item = &str> {
        there.iter().map(String::as_str).filter(|name| {
            SENTENCE.contains(name)
                || tokenize::FILES.contains(name)
                || is_module_config(name)
                || is_head_file(name)
                || *name == "mode_weights.json"
        })
    }

    /// `1_Pooling/config.json` and its like.
    fn is_module_config(name: &str) -> bool {
        name.strip_suffix("/config.json").is_some_and(|folder| {
            folder.starts_with(|c: char| c.is_ascii_digit())
                && folder.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        })
    }

    fn weights(there: &BTreeSet<String>) -> Option<&'static str> {
        [WHOLE, INDEX].into_iter().find(|name| there.contains(*name))
    }

    fn without_weights(model: &Model, there: &BTreeSet<String>) -> Error {
        let message = if there.contains("pytorch_model.bin") {
            format!(
                "`{0}` on the hub has only pytorch_model.bin; save it as safetensors with transformers, or where a pull request on its page adds model.safetensors, fetch that with `hf download {0} --revision refs/pr/N`, and give the folder",
                model.name
            )
        } else {
            format!("`{}` on the hub has no model.safetensors", model.name)
        };
        Error::new(ErrorKind::Unsupported, message)
    }

    /// The shards that an index names, all of which the hub must have.
    fn shards(index: &Path, there: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        let bad = |message: String| Error::new(ErrorKind::ModelFormat, message).with_path(index);
        let value: Value = serde_json::from_str(&files::read_text(index)?)
            .map_err(|error| bad("the file is not JSON".to_owned()).with_source(error))?;
        let map = value.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| bad("the object `weight_map` is missing".to_owned()))?;
        let shards: BTreeSet<String> = map
            .values()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let plain = |name: &&String| Path::new(name.as_str()).file_name() == Some(name.as_ref());
        match shards.iter().find(|name| !plain(name) || !there.contains(*name)) {
            Some(name) => Err(bad(format!(
                "the index names `{name}`, which the hub does not have"
            ))),
            None => Ok(shards),
        }
    }

    /// A failed request, in words. `Io` means that the hub did not answer, so a cached copy may serve.
    fn failure(model: &Model, endpoint: &str, error: &ApiError) -> Error {
        let name = model.name;
        let (kind, message) = match error {
            ApiError::TooManyRetries(last) => return failure(model, endpoint, last),
            ApiError::LockAcquisition(path) => {
                let message = "another process is fetching this file; try again when it has finished";
                return Error::new(ErrorKind::Io, message).with_path(path);
            }
            ApiError::IoError(io) => (
                ErrorKind::Io,
                format!("`{name}` cannot be written to {}: {io}", model.cache.display()),
            ),
            ApiError::RequestError(request) => match **request {
                ureq::Error::StatusCode(401 | 403) => (
                    ErrorKind::NotFound,
                    format!(
                        "there is no folder `{name}`, and the hub shows no model `{name}`: it does not exist, or is private or gated; check the spelling, or set HF_TOKEN to a token that may read it"
                    ),
                ),
                ureq::Error::StatusCode(404) => (
                    ErrorKind::NotFound,
                    format!(
                        "there is no folder `{name}`, and the hub has no model `{name}` with a revision `{}`; check the spelling",
                        model.revision
                    ),
                ),
                ureq::Error::StatusCode(416) => (
                    ErrorKind::Io,
                    format!(
                        "an earlier download of `{name}` was cut; delete the .part files in {} and try again",
                        model.folder().join("blobs").display()
                    ),
                ),
                ureq::Error::StatusCode(code) => (
                    ErrorKind::Io,
                    format!("{endpoint} answered with status {code} about `{name}`; try again later"),
                ),
                _ => (
                    ErrorKind::Io,
                    format!(
                        "{endpoint} cannot be reached for `{name}` ({request}); without a network give the folder of a model, or one that was fetched before"
                    ),
                ),
            },
            other => (
                ErrorKind::Io,
                format!("{endpoint} gave no usable answer about `{name}` ({other})"),
            ),
        };
        Error::new(kind, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let find = |name: &str| {
            variables
                .iter()
                .find(|pair| pair.0 == name)
                .map(|pair| pair.1.into())
        };
        Environment::read(find, Some("/nowhere".into()))
    }

    #[test]
    fn the_cache_is_where_huggingface_hub_has_it() {
        let cache = |variables: &[(&str, &str)]| environment(variables).cache;
        assert_eq!(cache(&[]), Path::new("/nowhere/.cache/huggingface/hub"));
        assert_eq!(
            cache(&[("XDG_CACHE_HOME", "/x")]),
            Path::new("/x/huggingface/hub")
        );
        let home = ("HF_HOME", "/home");
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/x")]), Path::new("/home/hub"));
        assert_eq!(cache(&[home, ("HF_HUB_CACHE", "/cache")]), Path::new("/cache"));
        assert_eq!(cache(&[home, ("HF_HUB_CACHE", "")]), Path::new("/home/hub"));
    }

    #[cfg(feature = "hub")]
    #[test]
    fn token_endpoint_and_offline_come_from_the_environment() {
        let none = environment(&[]);
        assert_eq!(none.token, None);
        assert_eq!(none.endpoint, "https://huggingface.co");
        assert!(!none.offline);
        let all = environment(&[
            ("TRANSFORMERS_OFFLINE", "0"),
            ("HF_TOKEN", " hf_x\n"),
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_HUB_OFFLINE", "1"),
        ]);
        assert_eq!(all.token.as_deref(), Some("hf_x"));
        assert_eq!(all.endpoint, "http://mirror");
        assert!(all.offline);
        assert!(environment(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
        let first = [("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")];
        assert!(!environment(&first).offline);
    }

    #[test]
    fn paths_in_the_environment_may_name_the_home_and_variables() {
        let cache = |path: &str| environment(&[("HF_HUB_CACHE", path), ("DISK", "/disk"), ("U", "me")]).cache;
        for (path, expanded) in [
            ("~", "/nowhere"),
            ("~/hf", "/nowhere/hf"),
            ("~me/hf", "~me/hf"),
            ("/a~/b", "/a~/b"),
            ("$DISK/$U/hf", "/disk/me/hf"),
            ("${DISK}s/x-$U", "/disks/x-me"),
            ("/$NONE/${NONE}/$/${U", "/$NONE/${NONE}/$/${U"),
        ] {
            assert_eq!(cache(path), Path::new(expanded), "{path}");
        }
        assert_eq!(
            environment(&[("HF_HOME", "~/hf")]).cache,
            Path::new("/nowhere/hf/hub")
        );
    }

    #[test]
    fn paths_are_told_from_hub_names() {
        for name in ["bert-base-uncased", "BAAI/bge-small-en-v1.5", "a/b_c"] {
            assert!(is_hub_name(name), "{name}");
        }
        for path in [
            "./x", "../x", "/x/y", "a/b/c", "a\\b", "~/x", "C:\\x", "a/", "/", ".", "..", "a/..", "a b",
            "a/b\n", "a--b", "ä/b",
        ] {
            assert!(!is_hub_name(path), "{path}");
        }
        assert!(is_revision("main") && is_revision("refs/pr/5") && is_revision("v1.0"));
        for revision in ["", "../x", "a//b", "/x", "a/../b", "a b"] {
            assert!(!is_revision(revision), "{revision}");
        }
    }

    #[test]
    fn a_token_does_not_show_in_debug_output() {
        let options = HubOptions {
            token: Some("hf_secret".to_owned()),
            ..HubOptions::default()
        };
        assert!(!format!("{options:?}").contains("secret"));
    }
}
