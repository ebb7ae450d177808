//! NCCL's functions over the memory of an emulated GPU, which is that of this process, and its worlds in a table.
//!
//! Like NCCL when it must not block, a call returns at once, and is done when all ranks have made theirs.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::library::{Config, Functions, Handle, ID_BYTES, IN_PROGRESS, Id, Nvidia, SUCCESS};

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

/// What a rank was told: from, to, floats.
type Post = (What, u64, u64, usize);

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
fn post(handle: Handle, what: What, from: *const c_void, to: *mut c_void, floats: usize) -> c_int {
    let end = end(handle);
    end.begun += 1;
    with(&end.world, |world| {
        world
            .posts
            .insert(end.rank, (what, from as u64, to as u64, floats));
        if world.posts.len() == world.size {
            work(&std::mem::take(&mut world.posts));
            world.done += 1;
        }
    });
    IN_PROGRESS
}

#[expect(unsafe_code, reason = "addresses")]
fn floats(at: u64, count: usize) -> Vec<f32> {
    // SAFETY: the memory of a rank that waits.
    unsafe { std::slice::from_raw_parts(at as *const f32, count) }.to_vec()
}

#[expect(unsafe_code, reason = "addresses")]
fn write(at: u64, values: &[f32]) {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(at as *mut f32, values.len()) }.copy_from_slice(values);
}

fn work(posts: &BTreeMap<usize, Post>) {
    let (what, _, _, count) = posts[&0];
    let ranks = posts.len();
    assert!(
        posts.values().all(|post| post.0 == what && post.3 == count),
        "the ranks are not in the same place: {posts:?}"
    );
    let given = if what == What::ReduceScatter {
        count * ranks
    } else {
        count
    };
    let all: Vec<Vec<f32>> = posts.values().map(|post| floats(post.1, given)).collect();
    // From the last rank on: the order of NCCL's sums is its own.
    let mut sums = vec![0.0; given];
    for values in all.iter().rev() {
        sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += x);
    }
    for (&rank, post) in posts {
        match what {
            What::AllReduce => write(post.2, &sums),
            What::Reduce(root) if root as usize == rank => write(post.2, &sums),
            What::Reduce(_) => {}
            What::ReduceScatter => write(post.2, &sums[rank * count..(rank + 1) * count]),
            What::AllGather => write(post.2, &all.concat()),
            What::Broadcast(root) => write(post.2, &all[root as usize]),
        }
    }
}

extern "C" fn all_reduce(
    from: *const c_void,
    to: *mut c_void,
    floats: usize,
    _: c_int,
    _: c_int,
    comm: Handle,
    _: *mut c_void,
) -> c_int {
    post(comm, What::AllReduce, from, to, floats)
}

extern "C" fn reduce(
    from: *const c_void,
    to: *mut c_void,
    floats: usize,
    _: c_int,
    _: c_int,
    root: c_int,
    comm: Handle,
    _: *mut c_void,
) -> c_int {
    post(comm, What::Reduce(root), from, to, floats)
}

extern "C" fn reduce_scatter(
    from: *const c_void,
    to: *mut c_void,
    floats: usize,
    _: c_int,
    _: c_int,
    comm: Handle,
    _: *mut c_void,
) -> c_int {
    post(comm, What::ReduceScatter, from, to, floats)
}

extern "C" fn all_gather(
    from: *const c_void,
    to: *mut c_void,
    floats: usize,
    _: c_int,
    comm: Handle,
    _: *mut c_void,
) -> c_int {
    post(comm, What::AllGather, from, to, floats)
}

extern "C" fn broadcast(
    from: *const c_void,
    to: *mut c_void,
    floats: usize,
    _: c_int,
    root: c_int,
    comm: Handle,
    _: *mut c_void,
) -> c_int {
    post(comm, What::Broadcast(root), from, to, floats)
}
