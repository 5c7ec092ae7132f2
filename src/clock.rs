//! The only reader of the clocks: everything else gets `now` as an argument.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use crate::model::Mono;

/// The monotonic clock's reading at the first call in this process.
static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Now, on the monotonic clock of this process.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub(crate) fn now() -> Mono {
    let now = Instant::now();
    Mono::new(now.saturating_duration_since(*ORIGIN.get_or_init(|| now)))
}

/// Now, on the wall clock: for people only.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}
