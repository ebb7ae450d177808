//! What tests of lines share: ranks as threads, and the calls that every line makes alike.

use std::sync::Arc;

use super::{Communicator, of_rank};
use crate::config::NumberType;
use crate::error::Result;

/// Runs `work` for each rank on a thread of its own, over the line that `open` makes; one that fails ends the others too.
pub(crate) fn on_threads<L, C, T>(
    lines: impl IntoIterator<Item = L>,
    open: impl Fn(L) -> Result<Arc<C>> + Sync,
    work: impl Fn(&Arc<C>) -> Result<T> + Sync,
) -> Vec<Result<T>>
where
    L: Send,
    C: Communicator + ?Sized,
    T: Send,
{
    let run = &|line: L| {
        let line = open(line)?;
        work(&line).inspect_err(|error| line.fail(&of_rank(line.rank(), error)))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = lines
            .into_iter()
            .map(|line| scope.spawn(move || run(line)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Makes every call on one of three ranks, and looks at what it brings.
pub(crate) fn every_call(line: &dyn Communicator) -> Result<()> {
    let rank = line.rank();
    assert_eq!((line.local_rank(), line.world_size()), (rank, 3));
    for &travels in NumberType::ALL {
        every_call_of_floats(line, travels)?;
    }
    assert_eq!(
        line.gather_numbers(&[rank as f64, 0.5])?,
        [0.0, 0.5, 1.0, 0.5, 2.0, 0.5]
    );
    line.barrier()?;
    assert_eq!(line.order(7 + rank as u32)?, 7);
    Ok(())
}

/// The calls whose numbers travel in a type, which has all that are brought, but for some that are rounded.
fn every_call_of_floats(line: &dyn Communicator, travels: NumberType) -> Result<()> {
    let rank = line.rank();
    let mut values: Vec<f32> = (0..7).map(|at| (at * (rank + 1)) as f32).collect();
    line.all_reduce(&mut values, travels)?;
    assert_eq!(values, [0.0, 6.0, 12.0, 18.0, 24.0, 30.0, 36.0]);
    line.all_reduce(&mut [], travels)?;
    let lengths = [2, 0, 3];
    let own: Vec<f32> = (0..lengths[rank]).map(|at| (10 * rank + at) as f32).collect();
    let all = line.all_gather(&own, &lengths, travels)?;
    assert_eq!(all, [0.0, 1.0, 20.0, 21.0, 22.0]);
    let given: Vec<f32> = (0..5).map(|at| (at + rank) as f32).collect();
    let want: [&[f32]; 3] = [&[3.0, 6.0], &[], &[9.0, 12.0, 15.0]];
    assert_eq!(line.reduce_scatter(&given, &lengths, travels)?, want[rank]);
    let mut values = [rank as f32; 4];
    line.broadcast(2, &mut values, travels)?;
    assert_eq!(values, [2.0; 4]);

    // Nine and twelve bits after the first one, and a sum that fp16 cannot hold.
    let fine = [1.001_953_1, 1.000_244_1, 6e4];
    let (sums, whole) = match travels {
        NumberType::Fp32 => ([3.005_859_4, 3.000_732_4, 1.8e5], fine),
        NumberType::Fp16 => ([3.005_859_4, 3.0, f32::INFINITY], [fine[0], 1.0, 6e4]),
        NumberType::Bf16 => ([3.0, 3.0, 180_224.0], [1.0, 1.0, 59_904.0]),
    };
    let mut values = fine;
    line.all_reduce(&mut values, travels)?;
    assert_eq!(values, sums, "{travels}");
    let own = line.reduce_scatter(&fine, &[1; 3], travels)?;
    assert_eq!(own, [sums[rank]], "{travels}");
    // All hold what arrives, also who has sent it.
    let mut values = fine;
    line.broadcast(1, &mut values, travels)?;
    assert_eq!(values, whole, "{travels}");
    let all = line.all_gather(&fine[rank..=rank], &[1; 3], travels)?;
    assert_eq!(all, whole, "{travels}");
    Ok(())
}
