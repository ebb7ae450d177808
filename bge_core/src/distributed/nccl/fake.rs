//! NCCL's functions over the memory of an emulated GPU, which is that of this process, and its worlds in a table.
//!
//! Like NCCL when it must not block, a call returns at once, and is done when all ranks have made theirs.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::library::{self, Config, Functions, Handle, ID_BYTES, IN_PROGRESS, Id, Nvidia, SUCCESS};
use crate::config::NumberType;

/// `ncclRemoteError`.
const REMOTE: c_int = 6;

/// The library.
pub(super) fn nvidia() -> Arc<Nvidia> {
    Arc::new(Nvidia::of(Functions {
        get_error_string,
        get_unique_id,
        comm_init_rank_config,
        comm_get_async_error,
        comm_abort,
        all_reduce,
        reduce,
        reduce_scatter,
        all_gather,
        broadcast,
    }))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    AllReduce,
    Reduce(c_int),
    ReduceScatter,
    AllGather,
    Broadcast(c_int),
}

/// What a rank was told: from, to, count, type of the numbers.
type Post = (What, u64, u64, usize, c_int);

#[derive(Debug, Default)]
struct World {
    size: usize,
    joined: usize,
    posts: BTreeMap<usize, Post>,
    done: u64,
    aborted: bool,
}

type Shared = Arc<Mutex<World>>;

struct End {
    world: Shared,
    rank: usize,
    /// The collectives that this rank has begun.
    begun: u64,
}

static WORLDS: Mutex<BTreeMap<[u8; ID_BYTES], Shared>> = Mutex::new(BTreeMap::new());

fn with<T>(world: &Shared, work: impl FnOnce(&mut World) -> T) -> T {
    work(&mut world.lock().unwrap_or_else(PoisonError::into_inner))
}

#[expect(unsafe_code, reason = "a handle is a pointer")]
fn end<'a>(handle: Handle) -> &'a mut End {
    // SAFETY: made in `comm_init_rank_config`, and used by one thread at a time.
    unsafe { &mut *handle.cast::<End>() }
}

extern "C" fn get_error_string(code: c_int) -> *const c_char {
    let text = if code == REMOTE {
        c"a fake remote error"
    } else {
        c"a fake error"
    };
    text.as_ptr()
}

#[expect(unsafe_code, reason = "as NCCL has it")]
unsafe extern "C" fn get_unique_id(id: *mut Id) -> c_int {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut bytes = [0xfe; ID_BYTES];
    bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    // SAFETY: the caller's.
    unsafe { *id = Id(bytes) };
    SUCCESS
}

#[expect(unsafe_code, reason = "as NCCL has it")]
unsafe extern "C" fn comm_init_rank_config(
    handle: *mut Handle,
    size: c_int,
    id: Id,
    rank: c_int,
    _: *mut Config,
) -> c_int {
    let mut worlds = WORLDS.lock().unwrap_or_else(PoisonError::into_inner);
    let world = Arc::clone(worlds.entry(id.0).or_default());
    with(&world, |world| {
        world.size = size as usize;
        world.joined += 1;
    });
    let end = End {
        world,
        rank: rank as usize,
        begun: 0,
    };
    // SAFETY: the caller's.
    unsafe { *handle = Box::into_raw(Box::new(end)).cast() };
    IN_PROGRESS
}

#[expect(unsafe_code, reason = "as NCCL has it")]
unsafe extern "C" fn comm_get_async_error(handle: Handle, state: *mut c_int) -> c_int {
    let end = end(handle);
    let found = with(&end.world, |world| {
        if world.joined == world.size && world.done >= end.begun {
            SUCCESS
        } else if world.aborted {
            REMOTE
        } else {
            IN_PROGRESS
        }
    });
    // SAFETY: the caller's.
    unsafe { *state = found };
    SUCCESS
}

#[expect(unsafe_code, reason = "as NCCL has it")]
unsafe extern "C" fn comm_abort(handle: Handle) -> c_int {
    with(&end(handle).world, |world| world.aborted = true);
    // SAFETY: made in `comm_init_rank_config`, and not used again.
    drop(unsafe { Box::from_raw(handle.cast::<End>()) });
    SUCCESS
}

/// Takes what a rank was told; the last one does the work of all.
fn post(handle: Handle, what: What, from: *const c_void, to: *mut c_void, count: usize, of: c_int) -> c_int {
    let end = end(handle);
    end.begun += 1;
    with(&end.world, |world| {
        world
            .posts
            .insert(end.rank, (what, from as u64, to as u64, count, of));
        if world.posts.len() == world.size {
            work(&std::mem::take(&mut world.posts));
            world.done += 1;
        }
    });
    IN_PROGRESS
}

/// The numbers at an address.
#[expect(unsafe_code, reason = "addresses")]
fn numbers(at: u64, count: usize, of: NumberType) -> Vec<f32> {
    // SAFETY: the memory of a rank that waits.
    of.unpack(unsafe { std::slice::from_raw_parts(at as *const u8, count * of.bytes()) })
}

#[expect(unsafe_code, reason = "addresses")]
fn write(at: u64, values: &[f32], of: NumberType) {
    let bytes = of.pack(values);
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(at as *mut u8, bytes.len()) }.copy_from_slice(&bytes);
}

fn work(posts: &BTreeMap<usize, Post>) {
    let (what, _, _, count, of) = posts[&0];
    let ranks = posts.len();
    assert!(
        posts
            .values()
            .all(|post| (post.0, post.3, post.4) == (what, count, of)),
        "the ranks are not in the same place: {posts:?}"
    );
    let mut types = NumberType::ALL.iter().copied();
    let of = types.find(|&kind| library::code(kind) == of).unwrap();
    let given = if what == What::ReduceScatter {
        count * ranks
    } else {
        count
    };
    let all: Vec<Vec<f32>> = posts.values().map(|post| numbers(post.1, given, of)).collect();
    // From the last rank on, rounded at each addition: the order of NCCL's sums is its own, and they pass from rank to rank.
    let mut sums = vec![0.0; given];
    for values in all.iter().rev() {
        sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += x);
        of.round(&mut sums);
    }
    for (&rank, post) in posts {
        let write = |values: &[f32]| write(post.2, values, of);
        match what {
            What::AllReduce => write(&sums),
            What::Reduce(root) if root as usize == rank => write(&sums),
            What::Reduce(_) => {}
            What::ReduceScatter => write(&sums[rank * count..(rank + 1) * count]),
            What::AllGather => write(&all.concat()),
            What::Broadcast(root) => write(&all[root as usize]),
        }
    }
}

extern "C" fn all_reduce(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    of: c_int,
    _: c_int,
    comm: Handle,
    _: *mut c_void,
) -> c_int {
    post(comm, What::AllReduce, from, to, count, of)
}

extern "C" fn reduce(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    of: c_int,
    _: c_int,
    root: c_int,
    comm: Handle,
    _: *mut c_void,
) -> c_int {
    post(comm, What::Reduce(root), from, to, count, of)
}

extern "C" fn reduce_scatter(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    of: c_int,
    _: c_int,
    comm: Handle,
    _: *mut c_void,
) -> c_int {
    post(comm, What::ReduceScatter, from, to, count, of)
}

extern "C" fn all_gather(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    of: c_int,
    comm: Handle,
    _: *mut c_void,
) -> c_int {
    post(comm, What::AllGather, from, to, count, of)
}

extern "C" fn broadcast(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    of: c_int,
    root: c_int,
    comm: Handle,
    _: *mut c_void,
) -> c_int {
    post(comm, What::Broadcast(root), from, to, count, of)
}
