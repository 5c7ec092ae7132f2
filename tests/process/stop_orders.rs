//! Stopping: signals to the master, graces, drains, forced ends.

use actix_cluster_tests::scenario::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
