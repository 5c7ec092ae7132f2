//! The harness of the suites beside this folder: clients, probes and scanners that know the framework from outside only.
//!
//! Not here: the assertions themselves (they are in the suites), and anything that the code under test could share a
//! mistake with. Clocks are read in this file and nowhere else.

pub mod fault;
pub mod http;
pub mod launch;
pub mod leftovers;
pub mod load;
pub mod manifest;
pub mod master;
pub mod openmetrics;
pub mod outside;
pub mod probe;
pub mod punctuality;
pub mod puppet;
pub mod reports;
pub mod scan;
pub mod scenario;
pub mod seen;
pub mod stuck;
pub mod tally;
pub mod tcp;
pub mod udp;
mod waits;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The workspace's own folder.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let member = Path::new(env!("CARGO_MANIFEST_DIR"));
    member
        .parent()
        .expect("the tests member lies in the workspace's folder")
        .to_path_buf()
}

/// `base` times the factor of this machine: [`TEST_TIME_VAR`], else 4 where `CI=true`, else 1.
#[must_use]
pub fn limit(base: Duration) -> Duration {
    let own = std::env::var(TEST_TIME_VAR).ok();
    let ci = std::env::var("CI").ok();
    base.saturating_mul(time_factor(own.as_deref(), ci.as_deref()))
}

/// A whole factor from 1 to 100; what cannot be read counts as not given.
fn time_factor(own: Option<&str>, ci: Option<&str>) -> u32 {
    let by_machine = if ci == Some("true") { 4 } else { 1 };
    own.and_then(|text| text.trim().parse().ok())
        .unwrap_or(by_machine)
        .clamp(1, 100)
}

/// The instant by which something must have happened.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
}

impl Deadline {
    /// A deadline so far from now, taken as it is: stretch it with [`limit`] first where the machine may be slow.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        Self { at: now() + span }
    }

    /// What is left, or nothing when the time is over.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.at.checked_duration_since(now()).filter(|left| !left.is_zero())
    }

    /// Whether the time is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.remaining().is_none()
    }
}

/// Multiplies every time limit of the suites.
pub const TEST_TIME_VAR: &str = "ACTIX_CLUSTER_TEST_TIME";

#[expect(
    clippy::disallowed_methods,
    reason = "the suites look from outside and have no other clock"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_factor_prefers_the_variable_to_the_machine() {
        assert_eq!(time_factor(None, None), 1);
        assert_eq!(time_factor(None, Some("true")), 4);
        assert_eq!(time_factor(Some("2"), Some("true")), 2);
        assert_eq!(time_factor(Some("0"), None), 1);
        assert_eq!(time_factor(Some("1000"), None), 100);
        assert_eq!(time_factor(Some("soon"), Some("false")), 1);
    }

    #[test]
    fn a_deadline_ends() {
        assert!(Deadline::after(Duration::ZERO).is_over());
        assert!(Deadline::after(Duration::from_secs(60)).remaining().is_some());
    }
}
