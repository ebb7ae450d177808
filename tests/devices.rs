//! Several ranks: what they say to each other, and that together they train as one does.

#[path = "devices/collectives.rs"]
mod collectives;
#[path = "devices/runs.rs"]
mod runs;
#[path = "devices/steps.rs"]
mod steps;

use std::time::Duration;

/// Longer than any test, so that only what is meant to hang ends by it.
const LIMIT: Duration = Duration::from_secs(300);
