//! Listening: declared and asked for, shared, refused, given back.

use actix_cluster_tests::scenario::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
