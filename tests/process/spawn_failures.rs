//! Starts that fail, and binaries that change under the master.

use actix_cluster_tests::scenario::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
