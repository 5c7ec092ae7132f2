//! Sockets that cannot be had, and queues that must not be lost.

use actix_cluster_tests::scenario::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
