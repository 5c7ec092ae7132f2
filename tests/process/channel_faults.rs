//! Workers that abuse the channel: floods, garbage, silence, lies.

use actix_cluster_tests::scenario::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
