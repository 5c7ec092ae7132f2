//! Whose process is whose: signals, reaping, helpers left behind.

use actix_cluster_tests::scenario::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
