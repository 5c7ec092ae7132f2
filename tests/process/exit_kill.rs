//! Exits and signals, and what the events say of them.

use actix_cluster_tests::scenario::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
