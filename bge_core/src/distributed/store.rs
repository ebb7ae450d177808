//! A client of the key-value store over which PyTorch's processes find each other: torchrun has one at `MASTER_ADDR:MASTER_PORT`.
//!
//! The protocol is that of `c10d::TCPStore`, in either of its servers: a byte that names the command, then keys and values, each
//! after its length in 8 bytes. Only the commands that are needed here are known, and those that [`host`] has.

pub(super) mod host;

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result, bail};

/// What a connection begins with, after the command [`VALIDATE`].
const GREETING: u32 = 0x3C85_F7CE;

const VALIDATE: u8 = 0;
const SET: u8 = 1;
const COMPARE_SET: u8 = 2;
const GET: u8 = 3;
const CHECK: u8 = 5;
const WAIT: u8 = 6;
const DELETE: u8 = 8;

/// Bytes of a value: what the server takes.
pub(super) const MOST_BYTES: usize = 8 << 20;

/// How long one try to connect takes at most, and how long until the next.
const TRY: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// How long the server may take for an answer that needs nobody else.
const ANSWER: Duration = Duration::from_mins(1);

/// One connection to the store.
#[derive(Debug)]
pub(super) struct Store {
    stream: TcpStream,
}

impl Store {
    /// Connects to `host:port`, which may not be there yet, within `limit`.
    pub(super) fn connect(host: &str, port: u16, limit: Duration) -> Result<Self> {
        let started = Instant::now();
        loop {
            let error = match once(host, port) {
                Ok(stream) => {
                    let mut store = Self { stream };
                    let greeting = [&[VALIDATE][..], &GREETING.to_le_bytes()].concat();
                    store.send(&greeting)?;
                    return Ok(store);
                }
                Err(error) => error,
            };
            if started.elapsed() > limit {
                let message = format!(
                    "cannot reach the store of the launcher at {host}:{port} (MASTER_ADDR, MASTER_PORT) within {limit:?}"
                );
                return Err(Error::new(ErrorKind::Distributed, message).with_source(error));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Gives a key a value.
    pub(super) fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.send(&[&[SET][..], &framed(key.as_bytes()), &framed(value)].concat())
    }

    /// Gives a key a value unless it has one, and says which one it has now.
    pub(super) fn set_first(&mut self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        let expected = framed(&[]);
        let command = [
            &[COMPARE_SET][..],
            &framed(key.as_bytes()),
            &expected,
            &framed(value),
        ];
        self.send(&command.concat())?;
        self.value()
    }

    /// The value of a key that has one.
    pub(super) fn get(&mut self, key: &str) -> Result<Vec<u8>> {
        self.send(&[&[GET][..], &framed(key.as_bytes())].concat())?;
        self.value()
    }

    /// Whether a key has a value.
    pub(super) fn has(&mut self, key: &str) -> Result<bool> {
        self.send(&[&[CHECK][..], &keys(&[key])].concat())?;
        Ok(self.bytes::<1>()? == [0])
    }

    /// Forgets a key.
    pub(super) fn delete(&mut self, key: &str) -> Result<()> {
        self.send(&[&[DELETE][..], &framed(key.as_bytes())].concat())?;
        self.bytes::<8>().map(drop)
    }

    /// Asks to be told when these keys have values; [`Store::told`] hears it. Nothing else may be asked meanwhile.
    pub(super) fn wait(&mut self, wanted: &[&str]) -> Result<()> {
        self.send(&[&[WAIT][..], &keys(wanted)].concat())
    }

    /// Whether the server has told it within `patience`.
    pub(super) fn told(&mut self, patience: Duration) -> Result<bool> {
        let patience = patience.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(patience)).map_err(lost)?;
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(1) if byte == [0] => Ok(true),
            Ok(0) => Err(lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => bail!(Distributed, "the store of the launcher gives up waiting"),
            Err(error) if is_pause(&error) => Ok(false),
            Err(error) => Err(lost(error)),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(lost)
    }

    fn value(&mut self) -> Result<Vec<u8>> {
        let length = u64::from_le_bytes(self.bytes()?);
        let length = usize::try_from(length)
            .ok()
            .filter(|&length| length <= MOST_BYTES);
        let Some(length) = length else {
            bail!(Distributed, "what answers at MASTER_ADDR:MASTER_PORT is no store");
        };
        let mut value = vec![0; length];
        self.fill(&mut value)?;
        Ok(value)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.stream.set_read_timeout(Some(ANSWER)).map_err(lost)?;
        self.stream.read_exact(bytes).map_err(lost)
    }
}

fn once(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TRY) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(ANSWER))?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn lost(error: io::Error) -> Error {
    let message = "the store of the launcher does not answer; has its process, or rank 0's, ended?";
    Error::new(ErrorKind::Distributed, message).with_source(error)
}

/// Whether an error only says that nothing has come yet.
fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Bytes after their length.
fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

/// Keys after their number.
fn keys(keys: &[&str]) -> Vec<u8> {
    let framed = keys.iter().flat_map(|key| framed(key.as_bytes()));
    let count = (keys.len() as u64).to_le_bytes();
    count.into_iter().chain(framed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_mins(2);

    #[test]
    fn the_bytes_are_those_that_pytorch_sends() {
        // What torch.distributed.TCPStore(...).set("k", "vv"), .check(["k"]), .wait(["a", "bc"]), .get("k"), .compare_set("k", "", "x")
        // and .delete_key("k") of PyTorch 2.15 write, recorded; it also pings after the greeting and waits before it gets.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let mut expect = |sent: &[u8], answer: &[u8]| {
                let mut got = vec![0; sent.len()];
                stream.read_exact(&mut got).unwrap();
                assert_eq!(got, sent);
                stream.write_all(answer).unwrap();
            };
            expect(b"\x00\xce\xf7\x85\x3c", b"");
            expect(
                b"\x01\x02\x00\x00\x00\x00\x00\x00\x00/k\x02\x00\x00\x00\x00\x00\x00\x00vv",
                b"",
            );
            expect(
                b"\x05\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00/k",
                b"\x00",
            );
            expect(
                b"\x06\x02\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00/a\
                  \x03\x00\x00\x00\x00\x00\x00\x00/bc",
                b"",
            );
            std::thread::sleep(Duration::from_millis(30));
            expect(b"", b"\x00");
            expect(
                b"\x03\x02\x00\x00\x00\x00\x00\x00\x00/k",
                b"\x02\x00\x00\x00\x00\x00\x00\x00vv",
            );
            expect(
                b"\x02\x02\x00\x00\x00\x00\x00\x00\x00/k\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00x",
                b"\x02\x00\x00\x00\x00\x00\x00\x00vv",
            );
            expect(
                b"\x08\x02\x00\x00\x00\x00\x00\x00\x00/k",
                b"\x01\x00\x00\x00\x00\x00\x00\x00",
            );
        });
        let mut store = Store::connect("127.0.0.1", port, LIMIT).unwrap();
        store.set("/k", b"vv").unwrap();
        assert!(store.has("/k").unwrap());
        store.wait(&["/a", "/bc"]).unwrap();
        assert!(!store.told(Duration::from_millis(1)).unwrap());
        while !store.told(Duration::from_millis(50)).unwrap() {}
        assert_eq!(store.get("/k").unwrap(), b"vv");
        assert_eq!(store.set_first("/k", b"x").unwrap(), b"vv");
        store.delete("/k").unwrap();
        server.join().unwrap();
        let error = store.has("/k").unwrap_err().to_string();
        assert!(error.contains("does not answer"), "{error}");
    }

    #[test]
    fn a_store_that_never_comes_is_an_error_that_names_its_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = Store::connect("127.0.0.1", port, Duration::from_millis(200)).unwrap_err();
        assert!(
            error.to_string().contains(&format!("127.0.0.1:{port}")),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_store_is_an_error_and_not_a_wait() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        });
        let mut store = Store::connect("127.0.0.1", port, LIMIT).unwrap();
        let error = store.get("/k").unwrap_err().to_string();
        assert!(
            error.contains("is no store") || error.contains("does not answer"),
            "{error}"
        );
    }

    /// Against PyTorch's own store: `BGE_TEST_STORE=host:port`, empty at first.
    #[test]
    fn a_real_store_answers_as_the_own_one() {
        let Ok(place) = std::env::var("BGE_TEST_STORE") else {
            let port = host::serve(0).unwrap();
            return exercise("127.0.0.1", port);
        };
        let (host, port) = place.split_once(':').unwrap();
        exercise(host, port.parse().unwrap());
    }

    fn exercise(host: &str, port: u16) {
        let mut store = Store::connect(host, port, LIMIT).unwrap();
        assert!(!store.has("bge/a").unwrap());
        store.wait(&["bge/a", "bge/b"]).unwrap();
        assert!(!store.told(Duration::from_millis(50)).unwrap());
        let mut other = Store::connect(host, port, LIMIT).unwrap();
        let large: Vec<u8> = (0..3_000_000).map(|at| at as u8).collect();
        other.set("bge/a", &large).unwrap();
        assert!(!store.told(Duration::from_millis(50)).unwrap());
        other.set("bge/b", b"").unwrap();
        while !store.told(Duration::from_secs(1)).unwrap() {}
        assert_eq!(store.get("bge/a").unwrap(), large);
        assert_eq!(store.get("bge/b").unwrap(), b"");
        assert_eq!(store.set_first("bge/c", b"first").unwrap(), b"first");
        assert_eq!(other.set_first("bge/c", b"second").unwrap(), b"first");
        for key in ["bge/a", "bge/b", "bge/c"] {
            store.delete(key).unwrap();
            assert!(!other.has(key).unwrap());
        }
        // Keys that are there already are told at once.
        store.set("bge/d", b"x").unwrap();
        store.wait(&["bge/d"]).unwrap();
        while !store.told(Duration::from_secs(1)).unwrap() {}
        store.delete("bge/d").unwrap();
    }
}
