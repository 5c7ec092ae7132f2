//! Starting workers: identity, environment, arguments, working directory, user, standard streams.

use actix_cluster_tests::scenario::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[];
