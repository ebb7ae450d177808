//! Models by name: from the local cache, and (feature `hub`) from a hub on this machine.
//!
//! What depends on the environment runs in a process of its own: this binary again, told by `Ask` to run `child` only.

use std::path::{Path, PathBuf};
use std::process::Command;

use bge_core::ErrorKind;
use bge_core::models::hub::{HubOptions, resolve_model};
use serde_json::{Value, json};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One call of `resolve_model` in a process whose environment holds nothing about hubs but this.
struct Ask<'a> {
    name: &'a str,
    revision: &'a str,
    cache: &'a Path,
    variables: Vec<(&'a str, String)>,
}

impl<'a> Ask<'a> {
    fn new(name: &'a str, cache: &'a Path) -> Self {
        Self {
            name,
            revision: "",
            cache,
            variables: Vec::new(),
        }
    }

    fn with(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// The folder, or the text of the error.
    fn run(self) -> Result<PathBuf, String> {
        let answer = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "hub::child", "--ignored"]);
        for (name, _) in std::env::vars_os() {
            let upper = name.to_string_lossy().to_uppercase();
            let about_hubs = ["HF_", "HUGGING", "TRANSFORMERS_"];
            if about_hubs.iter().any(|start| upper.starts_with(start)) || upper.ends_with("_PROXY") {
                command.env_remove(name);
            }
        }
        let output = command
            .env("BGE_TEST_ANSWER", answer.path())
            .env("BGE_TEST_NAME", self.name)
            .env("BGE_TEST_REVISION", self.revision)
            .env("HF_HOME", self.cache.join("home"))
            .env("HF_HUB_CACHE", self.cache)
            .envs(self.variables)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let answer: Value = serde_json::from_str(&std::fs::read_to_string(answer.path()).unwrap()).unwrap();
        match answer["folder"].as_str() {
            Some(folder) => Ok(PathBuf::from(folder)),
            None => Err(answer["error"].as_str().unwrap().to_owned()),
        }
    }
}

#[test]
#[ignore = "the other tests run it, each in a process of its own"]
fn child() {
    let (Ok(answer), Ok(name)) = (std::env::var("BGE_TEST_ANSWER"), std::env::var("BGE_TEST_NAME")) else {
        return;
    };
    let options = HubOptions {
        revision: std::env::var("BGE_TEST_REVISION")
            .ok()
            .filter(|text| !text.is_empty()),
        ..HubOptions::default()
    };
    let value = match resolve_model(&name, &options) {
        Ok(folder) => json!({ "folder": folder }),
        Err(error) => json!({ "error": format!("{:?}: {error}", error.kind()) }),
    };
    std::fs::write(answer, value.to_string()).unwrap();
}

/// A cache as `huggingface_hub` leaves it, with one model.
fn filled_cache() -> (tempfile::TempDir, PathBuf) {
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("models--org--name");
    let snapshot = model.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(model.join("refs/refs/pr")).unwrap();
    std::fs::write(snapshot.join("config.json"), "{}").unwrap();
    std::fs::write(model.join("refs/main"), format!("{COMMIT}\n")).unwrap();
    std::fs::write(model.join("refs/refs/pr/1"), COMMIT).unwrap();
    (cache, snapshot)
}

#[test]
fn a_folder_that_exists_is_returned_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().to_str().unwrap();
    assert_eq!(
        resolve_model(name, &HubOptions::default()).unwrap(),
        folder.path()
    );
}

#[test]
fn a_missing_path_is_a_missing_folder_and_not_a_hub_name() {
    for path in [
        "./nowhere",
        "/nowhere/model",
        "a/b/c",
        "a\\b",
        "../models/bge",
        "models/bge/",
    ] {
        let error = resolve_model(path, &HubOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{path}");
        assert_eq!(error.message(), "there is no such model folder");
        assert_eq!(error.path(), Some(Path::new(path)));
    }
    let error = resolve_model("", &HubOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_revision_cannot_leave_the_cache() {
    let options = HubOptions {
        revision: Some("../../other".to_owned()),
        ..HubOptions::default()
    };
    let error = resolve_model("org/name", &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(
        error.message().contains("`../../other` is not a revision"),
        "{error}"
    );
}

#[test]
fn a_model_in_the_local_cache_needs_no_network() {
    let (cache, snapshot) = filled_cache();
    for revision in ["", "main", "refs/pr/1", COMMIT] {
        let ask = Ask {
            revision,
            ..Ask::new("org/name", cache.path()).with("HF_HUB_OFFLINE", "1")
        };
        assert_eq!(ask.run().unwrap(), snapshot, "{revision}");
    }
}

#[test]
fn a_model_that_is_nowhere_names_the_cache_and_the_way_out() {
    let (cache, snapshot) = filled_cache();
    let ask = |name| Ask::new(name, cache.path()).with("HF_HUB_OFFLINE", "1").run();
    let error = ask("org/other").unwrap_err();
    assert!(error.starts_with("NotFound: "), "{error}");
    assert!(error.contains(cache.path().to_str().unwrap()), "{error}");
    assert!(error.contains("`org/other`"), "{error}");
    let way_out = if cfg!(feature = "hub") {
        "HF_HUB_OFFLINE"
    } else {
        "--features hub"
    };
    assert!(error.contains(way_out), "{error}");

    std::fs::remove_file(snapshot.join("config.json")).unwrap();
    assert!(ask("org/name").is_err(), "a cut download is not a model");
}

#[cfg(feature = "hub")]
mod server {
    //! A hub of one model: answers as huggingface.co does, to this machine only, and remembers what it was asked.

    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};
    use std::thread::JoinHandle;
    use std::time::Duration;

    /// What the hub holds and does.
    #[derive(Clone, Default)]
    pub(super) struct Hub {
        pub(super) commit: String,
        pub(super) files: BTreeMap<String, Vec<u8>>,
        /// Status of every answer but 200; 0 answers properly.
        pub(super) status: u16,
        /// How many of the next downloads are cut in the middle.
        pub(super) cuts: usize,
        /// `METHOD PATH AUTHORIZATION` of every request.
        pub(super) log: Vec<String>,
    }

    pub(super) struct Server {
        pub(super) hub: Arc<Mutex<Hub>>,
        address: SocketAddr,
        thread: Option<JoinHandle<()>>,
    }

    impl Server {
        pub(super) fn start(hub: Hub) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let hub = Arc::new(Mutex::new(hub));
            let shared = Arc::clone(&hub);
            let thread = std::thread::spawn(move || {
                for stream in listener.incoming().take(500) {
                    if !answer(stream.unwrap(), &mut shared.lock().unwrap()) {
                        break;
                    }
                }
            });
            Self {
                hub,
                address,
                thread: Some(thread),
            }
        }

        pub(super) fn url(&self) -> String {
            format!("http://{}", self.address)
        }

        /// What was asked since the last call.
        pub(super) fn log(&self) -> Vec<String> {
            std::mem::take(&mut self.hub.lock().unwrap().log)
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            // A connection without a request ends the thread.
            drop(TcpStream::connect(self.address));
            if let Some(thread) = self.thread.take() {
                let _ = thread.join();
            }
        }
    }

    /// Answers one request and closes the connection; `false` for a connection without one.
    fn answer(mut stream: TcpStream, hub: &mut Hub) -> bool {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && head.len() < 1 << 14 {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return false,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let header = |name: &str| {
            let find = |line: &str| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            };
            head.lines().find_map(find).unwrap_or_default()
        };
        hub.log
            .push(format!("{method} {path} {}", header("authorization")));
        let reply = reply(hub, path, &header("host"), &header("range"));
        // The client may have seen enough and gone.
        let _ = stream.write_all(&reply);
        true
    }

    fn reply(hub: &mut Hub, path: &str, host: &str, range: &str) -> Vec<u8> {
        let plain = |status: u16, headers: &str, body: &[u8]| {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
            );
            [head.as_bytes(), body].concat()
        };
        if hub.status != 0 {
            return plain(hub.status, "", b"no");
        }
        let commit = hub.commit.clone();
        if path.starts_with("/api/models/org/name/revision/") {
            let siblings: Vec<_> = hub
                .files
                .keys()
                .map(|name| serde_json::json!({ "rfilename": name }))
                .collect();
            let body = serde_json::json!({ "sha": commit, "siblings": siblings }).to_string();
            return plain(200, "Content-Type: application/json\r\n", body.as_bytes());
        }
        let (stored, name) = match path.strip_prefix("/store/") {
            Some(name) => (true, name),
            None => match path.strip_prefix(&format!("/org/name/resolve/{commit}/")) {
                Some(name) => (false, name),
                None => return plain(404, "", b"no such page"),
            },
        };
        let Some(body) = hub.files.get(name) else {
            return plain(404, "", b"no such file");
        };
        let etag = format!("{:x}-{}", body.len(), name.replace('/', "-"));
        if name.ends_with(".safetensors") && !stored {
            // Large files are kept elsewhere.
            let store = format!("http://{host}");
            let headers = format!(
                "X-Repo-Commit: {commit}\r\nX-Linked-Etag: \"{etag}\"\r\nLocation: {store}/store/{name}\r\n"
            );
            return plain(302, &headers, b"");
        }
        let (first, last) = range
            .trim_start_matches("bytes=")
            .split_once('-')
            .unwrap_or(("0", ""));
        let first: usize = first.parse().unwrap();
        if first >= body.len() {
            return plain(416, "", b"");
        }
        let last = last.parse().unwrap_or(body.len() - 1);
        let headers = format!(
            "X-Repo-Commit: {commit}\r\nETag: \"{etag}\"\r\nContent-Range: bytes {first}-{last}/{}\r\n",
            body.len()
        );
        let mut reply = plain(206, &headers, &body[first..=last]);
        if hub.cuts > 0 && last > first + 1000 {
            hub.cuts -= 1;
            reply.truncate(reply.len() - (last - first) / 2);
        }
        reply
    }
}

#[cfg(feature = "hub")]
mod fetched {
    use super::server::{Hub, Server};
    use super::*;

    const FILES: [&str; 6] = [
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "modules.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];

    fn body(name: &str) -> Vec<u8> {
        name.bytes().cycle().take(5000).collect()
    }

    fn hub(files: &[&str]) -> Hub {
        Hub {
            commit: COMMIT.to_owned(),
            files: files
                .iter()
                .map(|name| ((*name).to_owned(), body(name)))
                .collect(),
            ..Hub::default()
        }
    }

    fn ask<'a>(server: &Server, cache: &'a tempfile::TempDir) -> Ask<'a> {
        Ask::new("org/name", cache.path()).with("HF_ENDPOINT", server.url())
    }

    #[test]
    fn a_model_is_fetched_once_with_all_its_files_and_no_others() {
        let cache = tempfile::tempdir().unwrap();
        let mut hub = hub(&FILES);
        for other in [
            "onnx/model.onnx",
            "README.md",
            "pytorch_model.bin",
            "onnx/config.json",
        ] {
            hub.files.insert(other.to_owned(), body(other));
        }
        let server = Server::start(hub);
        let folder = ask(&server, &cache).with("HF_TOKEN", "hf_secret").run().unwrap();
        assert!(
            folder.starts_with(cache.path()) && folder.ends_with(COMMIT),
            "{}",
            folder.display()
        );
        for name in FILES {
            assert_eq!(std::fs::read(folder.join(name)).unwrap(), body(name), "{name}");
        }
        assert!(!folder.join("README.md").exists() && !folder.join("onnx").exists());
        let log = server.log();
        assert!(
            log.iter().all(|line| line.ends_with(" Bearer hf_secret")),
            "{log:#?}"
        );
        assert!(log.iter().all(|line| !line.contains("onnx")), "{log:#?}");

        assert_eq!(ask(&server, &cache).run().unwrap(), folder);
        assert_eq!(
            server.log(),
            ["GET /api/models/org/name/revision/main "],
            "nothing is fetched twice"
        );
        let offline = ask(&server, &cache).with("HF_HUB_OFFLINE", "1").run();
        assert_eq!(offline.unwrap(), folder);
        assert!(server.log().is_empty(), "offline means that nobody is asked");
    }

    #[test]
    fn the_heads_of_bge_m3_are_fetched_with_it() {
        let heads = [
            "colbert_linear.pt",
            "colbert_linear.safetensors",
            "mode_weights.json",
            "sparse_linear.pt",
            "sparse_linear.safetensors",
        ];
        let server = Server::start(hub(
            &[&FILES[..], &heads, &["other_linear.pt", "optimizer.pt"]].concat()
        ));
        let cache = tempfile::tempdir().unwrap();
        let folder = ask(&server, &cache).run().unwrap();
        for name in heads {
            assert_eq!(std::fs::read(folder.join(name)).unwrap(), body(name), "{name}");
        }
        assert!(!folder.join("other_linear.pt").exists() && !folder.join("optimizer.pt").exists());
    }

    #[test]
    fn processes_that_start_together_fetch_each_file_once() {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(hub(&FILES));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| ask(&server, &cache).run().unwrap());
            }
        });
        let mut log = server.log();
        log.retain(|line| line.contains("/resolve/"));
        let (asked, mut once) = (log.len(), log);
        // Size and hash are asked for first, by the same address.
        once.sort();
        once.dedup();
        assert_eq!((once.len(), asked), (FILES.len(), 2 * FILES.len()));
    }

    #[test]
    fn a_process_waits_for_the_one_that_is_fetching() {
        let (cache, _) = filled_cache();
        let lock = std::fs::File::create(cache.path().join("models--org--name/.bge.lock")).unwrap();
        lock.lock().unwrap();
        let server = Server::start(hub(&FILES));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| ask(&server, &cache).run());
            std::thread::sleep(std::time::Duration::from_secs(7));
            assert_eq!(server.log(), ["GET /api/models/org/name/revision/main "]);
            lock.unlock().unwrap();
            waits.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_complete_cache_that_cannot_be_written_to_serves() {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(hub(&FILES));
        let folder = ask(&server, &cache).run().unwrap();
        let refs = cache.path().join("models--org--name/refs");
        std::fs::write(refs.join("main"), format!("{COMMIT}\n")).unwrap();
        assert_eq!(ask(&server, &cache).run().unwrap(), folder);
        assert_eq!(
            std::fs::read_to_string(refs.join("main")).unwrap(),
            format!("{COMMIT}\n"),
            "what is noted is not written again"
        );
        std::fs::remove_dir_all(&refs).unwrap();
        std::fs::write(&refs, "a file where notes cannot be").unwrap();
        assert_eq!(ask(&server, &cache).run().unwrap(), folder);
    }

    #[test]
    fn shards_are_fetched_as_the_index_names_them() {
        let cache = tempfile::tempdir().unwrap();
        let shards = [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        let index = |second: &str| json!({ "weight_map": { "a": shards[0], "b": second } }).to_string();
        let mut hub = hub(&["config.json", shards[0], shards[1]]);
        let key = "model.safetensors.index.json".to_owned();
        hub.files.insert(key.clone(), index(shards[1]).into_bytes());
        let server = Server::start(hub);
        let folder = ask(&server, &cache).run().unwrap();
        for name in shards {
            assert_eq!(std::fs::read(folder.join(name)).unwrap(), body(name), "{name}");
        }
        for hostile in ["../../evil.safetensors", "not-there.safetensors"] {
            let cache = tempfile::tempdir().unwrap();
            server
                .hub
                .lock()
                .unwrap()
                .files
                .insert(key.clone(), index(hostile).into_bytes());
            let error = ask(&server, &cache).run().unwrap_err();
            assert!(
                error.starts_with("ModelFormat: ") && error.contains(hostile),
                "{error}"
            );
        }
    }

    #[test]
    fn a_new_commit_gets_a_folder_of_its_own() {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(hub(&FILES));
        let old = ask(&server, &cache).run().unwrap();
        let newer = "f".repeat(40);
        {
            let mut hub = server.hub.lock().unwrap();
            hub.commit.clone_from(&newer);
            hub.files.insert("config.json".to_owned(), b"new".to_vec());
        }
        let new = ask(&server, &cache).run().unwrap();
        assert!(new.ends_with(&newer));
        assert_eq!(std::fs::read(new.join("config.json")).unwrap(), b"new");
        assert_eq!(
            std::fs::read(old.join("config.json")).unwrap(),
            body("config.json")
        );
        let pinned = Ask {
            revision: COMMIT,
            ..ask(&server, &cache).with("HF_HUB_OFFLINE", "1")
        };
        assert_eq!(pinned.run().unwrap(), old);
    }

    #[test]
    fn a_cut_download_goes_on_where_it_stopped() {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(Hub {
            cuts: 1,
            ..hub(&FILES)
        });
        let folder = ask(&server, &cache).run().unwrap();
        assert_eq!(server.hub.lock().unwrap().cuts, 0, "the cut did not happen");
        for name in FILES {
            assert_eq!(std::fs::read(folder.join(name)).unwrap(), body(name), "{name}");
        }
    }

    #[test]
    fn a_download_that_fails_leaves_no_model_behind() {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(Hub {
            cuts: 100,
            ..hub(&FILES)
        });
        let error = ask(&server, &cache).run().unwrap_err();
        assert!(error.starts_with("Io: "), "{error}");
        let offline = || ask(&server, &cache).with("HF_HUB_OFFLINE", "1").run();
        assert!(offline().is_err());
        server.hub.lock().unwrap().cuts = 0;
        let folder = ask(&server, &cache).run().unwrap();
        assert_eq!(offline().unwrap(), folder);
    }

    #[test]
    fn refusals_are_told_in_words() {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(hub(&["config.json", "pytorch_model.bin"]));
        let error = ask(&server, &cache).run().unwrap_err();
        assert!(
            error.starts_with("Unsupported: ")
                && error.contains("pytorch_model.bin")
                && error.contains("`hf download org/name --revision refs/pr/N`"),
            "{error}"
        );
        for (status, kind, words) in [
            (401, "NotFound", "HF_TOKEN"),
            (403, "NotFound", "gated"),
            (404, "NotFound", "no model `org/name`"),
            (429, "Io", "status 429"),
            (500, "Io", "try again"),
        ] {
            server.hub.lock().unwrap().status = status;
            let error = ask(&server, &cache).run().unwrap_err();
            assert!(
                error.starts_with(kind) && error.contains(words),
                "{status}: {error}"
            );
        }
    }

    #[test]
    fn a_hub_that_cannot_be_reached_gives_the_copy_in_the_cache() {
        let (cache, snapshot) = filled_cache();
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let ask = |name| {
            Ask::new(name, cache.path())
                .with("HF_ENDPOINT", format!("http://{closed}"))
                .run()
        };
        assert_eq!(ask("org/name").unwrap(), snapshot);
        let error = ask("org/other").unwrap_err();
        assert!(
            error.starts_with("Io: ") && error.contains("cannot be reached"),
            "{error}"
        );
        let bad = Ask::new("org/name", cache.path())
            .with("HF_ENDPOINT", "localhost")
            .run()
            .unwrap_err();
        assert!(
            bad.starts_with("InvalidArgument: ") && bad.contains("HF_ENDPOINT"),
            "{bad}"
        );
    }

    #[test]
    fn a_hub_that_names_a_path_as_its_commit_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(Hub {
            commit: "../../../evil".to_owned(),
            ..hub(&FILES)
        });
        let error = ask(&server, &cache).run().unwrap_err();
        assert!(error.contains("is this a hub?"), "{error}");
        assert!(
            std::fs::read_dir(cache.path()).unwrap().next().is_none(),
            "nothing is written"
        );
    }
}
