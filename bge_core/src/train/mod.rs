//! Training: from checked settings to a folder that `from_finetuned`, or `CrossEncoder::open`, opens.
//!
//! One optimizer step, with the events that callbacks see:
//!
//! ```text
//! for each micro-batch:
//!     embedder: embed the texts         all at once, or by sub-batches (GradCache)
//!     reranker: score the pairs         all at once, or by sub-batches of whole groups
//!     loss, its gradient on vectors or scores, and back through the encoder
//! add up the ranks' gradients            where there are several (`nproc_per_node`, `devices`, `zero_stage`)
//! loss and gradient finite?             no: stop with the step and the lines, nothing is written
//! clip by the global norm
//! AdamW with the schedule's rate
//!                                       <Step>  <Log>  <Evaluated>  <Saved>
//! ```

mod batch;
#[cfg(any(feature = "cuda", test))]
mod between;
mod callback;
mod checkpoint;
#[cfg(test)]
mod checks;
mod embed;
mod evaluator;
mod feed;
mod forecast;
#[cfg(any(feature = "cuda", test))]
mod gpu;
#[cfg(any(feature = "nccl", test))]
mod halves;
mod heads;
mod joined;
mod objective;
mod open;
#[cfg(any(feature = "cuda", test))]
mod parts;
mod policy;
mod rank;
mod reduce;
mod running;
mod share;
mod state;
mod step;
mod trainer;
mod worker;
mod zero;

pub use batch::{MicroBatch, PairBatch, TrainBatch};
pub use callback::{Callback, Control, Stopper, TrainEvent};
pub(crate) use checkpoint::has_checkpoint;
pub use forecast::Forecast;
pub use state::{CallbackStates, LossScale, OwnState, SinceLog, TrainerState};
pub use step::{StepReport, Stepper};
pub use trainer::{TrainReport, Trainer};
pub use zero::Held;
