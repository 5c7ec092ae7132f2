//! Scenarios: a cluster program and what a test sees of it from outside, as one value.
//!
//! The framework's own mechanism is re-execution of the running program, so a suite of scenarios is a program of its own
//! with three roles, chosen before anything else runs: *runner* (no variable set), *master* (the scenario's variable set)
//! and *worker* (besides, the framework's own variable, which `Cluster::run` finds by itself).

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use crate::master::Master;

/// A test with real processes.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// The test's name, with the ids of the rows it proves.
    pub name: &'static str,
    /// The program: runs in the master and in every worker.
    pub app: fn() -> ExitCode,
    /// What is done to it from outside, and what is seen.
    pub check: fn(&mut Master),
}

/// The `main` of a suite.
#[must_use]
pub fn main(suites: &[&'static [Scenario]]) -> ExitCode {
    let scenarios = || suites.iter().copied().flatten().copied();
    if let Ok(name) = std::env::var(SCENARIO_VAR) {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(log_level())
            .with_ansi(false)
            .init();
        let scenario = scenarios().find(|scenario| scenario.name == name);
        return scenario.map_or(ExitCode::from(2), |scenario| (scenario.app)());
    }
    let trial = |scenario: Scenario| {
        let trial = Trial::test(scenario.name, move || {
            let mut master = Master::start(scenario.name);
            (scenario.check)(&mut master);
            master.finish();
            Ok(())
        });
        trial.with_ignored_flag(is_about_keepers(scenario.name) && !has_keepers())
    };
    libtest_mimic::run(&Arguments::from_args(), scenarios().map(trial).collect()).exit_code()
}

/// Whether workers can have keepers: without pidfds, or where they are forbidden, none can be had.
#[must_use]
pub fn has_keepers() -> bool {
    let is_set = |name| std::env::var_os(name).is_some();
    !is_set("ACTIX_CLUSTER_NO_PIDFD") && !is_set("ACTIX_CLUSTER_NO_KEEPER")
}

/// Whether the scenario looks at what a keeper does. Those that hold without one as well run everywhere.
fn is_about_keepers(name: &str) -> bool {
    let families = ["keeper_", "survival_", "runs_", "the_example_of_chaos_"];
    let is_about = families.iter().any(|family| name.starts_with(family));
    is_about && !WITHOUT_KEEPERS.contains(&name)
}

const WITHOUT_KEEPERS: &[&str] = &[
    "keeper_a_killed_master_takes_workers_and_keepers_along_at_any_instant",
    "keeper_is_not_made_where_no_listener_asks_for_it",
    "keeper_where_none_can_be_had_it_is_told_once_and_the_workers_serve",
    "survival_a_client_that_is_gone_costs_nothing",
    "survival_another_protocol_ends_with_its_worker",
    "survival_half_an_answer_ends_the_connection",
];

fn log_level() -> tracing_subscriber::filter::LevelFilter {
    tracing_subscriber::filter::LevelFilter::DEBUG
}

/// Names the scenario whose program a process runs.
pub const SCENARIO_VAR: &str = "ACTIX_CLUSTER_SCENARIO";
