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

#[cfg(test)]
mod tests {
    use nix::time::{ClockId, clock_gettime};

    use super::*;

    /// That nothing but the stamp of an event reads the wall clock is a ban of the tidy test.
    #[test]
    fn f_147_now_is_the_kernels_monotonic_clock_which_nobody_can_set() {
        let kernel = || std::time::Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
        let mut last = now();
        for _ in 0..10_000 {
            let before = (kernel(), now());
            let after = (now(), kernel());
            // Both readings of ours lie between the kernel's, on one scale with it.
            assert!(after.0.since(before.1) <= after.1 - before.0);
            assert!(last <= before.1 && before.1 <= after.0);
            last = after.0;
        }
    }
}
