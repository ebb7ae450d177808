//! Training: from checked settings to a folder that `from_finetuned` opens.
//!
//! One optimizer step, with the events that callbacks see:
//!
//! ```text
//! for each micro-batch:
//!     embed queries and passages        all at once, or by sub-batches (GradCache)
//!     loss, its gradient on the vectors, and back through the encoder
//! loss and gradient finite?             no: stop with the step and the lines, nothing is written
//! clip by the global norm
//! AdamW with the schedule's rate
//!                                       <Step>  <Log>  <Evaluated>  <Saved>
//! ```

mod batch;
mod callback;
mod checkpoint;
mod embed;
mod evaluator;
mod feed;
mod policy;
mod state;
mod step;
mod trainer;

pub use batch::TrainBatch;
pub use callback::{Callback, Control, Stopper, TrainEvent};
pub use state::{CallbackStates, OwnState, SinceLog, TrainerState};
pub use step::{StepReport, Stepper};
pub use trainer::{TrainReport, Trainer};
