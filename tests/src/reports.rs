//! The report of a cluster's end: said by the program when everything else has ended, read by the scenario's check.
//!
//! Not here: what ends it.

use std::process::ExitCode;

use actix_cluster::ClusterBuilder;
use serde_json::Value;

use crate::master::Master;
use crate::probe::say;

/// The whole `main` of a program that says what its cluster's end was like; see [`Master::report`].
#[must_use]
pub fn reporting(cluster: ClusterBuilder) -> ExitCode {
    match cluster.run() {
        Ok(report) => {
            let report = serde_json::to_string(&report).expect("a report has a JSON form");
            say(&format!("ended {report}"));
            ExitCode::SUCCESS
        }
        Err(error) => error.into(),
    }
}

impl Master {
    /// Waits for the orderly end of a program that is [`reporting`], and gives its report.
    pub fn report(&mut self) -> Value {
        assert_eq!(self.wait().code(), Some(0));
        let told = self.said("ended ");
        serde_json::from_str(&told[0].0).expect("a report is JSON")
    }
}
