//! The store of a launcher that has none, which rank 0 keeps: a `PyTorchJob` sets the address of its first process and leaves the rest to it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{CHECK, COMPARE_SET, DELETE, GET, GREETING, MOST_BYTES, SET, VALIDATE, WAIT};
use crate::error::{Error, ErrorKind, Result};

/// Bytes of a key, and keys of a command.
const MOST_KEY: usize = 1 << 12;
const MOST_KEYS: u64 = 1 << 16;

#[derive(Default)]
struct Values {
    known: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    changed: Condvar,
}

impl Values {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a store at a port, or at any where it is 0, until the process ends; the port.
pub(in crate::distributed) fn serve(port: u16) -> Result<u16> {
    let failed = |error: io::Error| {
        let message = format!("rank 0 cannot keep the store of the ranks at port {port} (MASTER_PORT)");
        Error::new(ErrorKind::Distributed, message).with_source(error)
    };
    // All addresses of both kinds, or of the older one alone.
    let listener = TcpListener::bind(("::", port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let values = Arc::new(Values::default());
    let accept = move || {
        for stream in listener.incoming().flatten() {
            let values = Arc::clone(&values);
            let thread = std::thread::Builder::new().name("store".to_owned());
            // What cannot be served is noticed by the rank that asks.
            let _ = thread.spawn(move || talk(stream, &values));
        }
    };
    let thread = std::thread::Builder::new().name("stores".to_owned());
    thread.spawn(accept).map_err(failed)?;
    Ok(port)
}

/// Answers a client until it goes.
fn talk(mut stream: TcpStream, values: &Values) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if byte(&mut stream)? != VALIDATE || bytes::<4>(&mut stream)? != GREETING.to_le_bytes() {
        return Ok(());
    }
    loop {
        match byte(&mut stream)? {
            SET => {
                let (key, value) = (text(&mut stream, MOST_KEY)?, text(&mut stream, MOST_BYTES)?);
                values.lock().insert(key, value);
                values.changed.notify_all();
            }
            COMPARE_SET => {
                let key = text(&mut stream, MOST_KEY)?;
                let (expected, wanted) = (text(&mut stream, MOST_BYTES)?, text(&mut stream, MOST_BYTES)?);
                let mut known = values.lock();
                let now = match known.get(&key) {
                    Some(value) if *value != expected => value.clone(),
                    None if !expected.is_empty() => expected,
                    _ => {
                        known.insert(key, wanted.clone());
                        wanted
                    }
                };
                drop(known);
                values.changed.notify_all();
                send(&mut stream, &now)?;
            }
            GET => {
                let key = text(&mut stream, MOST_KEY)?;
                let value = values.lock().get(&key).cloned();
                let Some(value) = value else {
                    return Ok(()); // nobody gets what was not waited for
                };
                send(&mut stream, &value)?;
            }
            CHECK => {
                let keys = keys(&mut stream)?;
                let known = values.lock();
                let ready = keys.iter().all(|key| known.contains_key(key));
                drop(known);
                stream.write_all(&[u8::from(!ready)])?;
            }
            WAIT => {
                let keys = keys(&mut stream)?;
                let mut known = values.lock();
                while !keys.iter().all(|key| known.contains_key(key)) {
                    known = values.changed.wait(known).unwrap_or_else(PoisonError::into_inner);
                }
                drop(known);
                stream.write_all(&[0])?;
            }
            DELETE => {
                let key = text(&mut stream, MOST_KEY)?;
                let count = u64::from(values.lock().remove(&key).is_some());
                stream.write_all(&count.to_le_bytes())?;
            }
            _ => return Ok(()),
        }
    }
}

fn bytes<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn byte(stream: &mut TcpStream) -> io::Result<u8> {
    bytes::<1>(stream).map(|[byte]| byte)
}

fn text(stream: &mut TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let length = u64::from_le_bytes(bytes(stream)?);
    let length = usize::try_from(length).ok().filter(|&length| length <= most);
    let mut text = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    stream.read_exact(&mut text)?;
    Ok(text)
}

fn keys(stream: &mut TcpStream) -> io::Result<Vec<Vec<u8>>> {
    let count = u64::from_le_bytes(bytes(stream)?);
    if count > MOST_KEYS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    (0..count).map(|_| text(stream, MOST_KEY)).collect()
}

fn send(stream: &mut TcpStream, value: &[u8]) -> io::Result<()> {
    stream.write_all(&super::framed(value))
}
