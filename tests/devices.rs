//! Several ranks: what they say to each other, and that together they train as one does.

mod collectives;
mod runs;
mod steps;
mod zero;

use std::time::Duration;

/// Longer than any test, so that only what is meant to hang ends by it.
const LIMIT: Duration = Duration::from_mins(5);
