//! Scenarios with real processes, sockets and signals. See `tests/README.md` for how they run.

mod channel_faults;
mod crash_loops;
mod deaths;
mod deaths_under_load;
mod descriptors;
mod disconnect;
mod errors;
mod exit_kill;
mod fork_env;
mod identity;
mod lifecycle;
mod listening;
mod listening_faults;
mod master_death;
mod master_faults;
mod messages;
mod panics;
mod setup;
mod signals;
mod spawn_failures;
mod stop_orders;

use std::process::ExitCode;

use actix_cluster_tests::scenario;

fn main() -> ExitCode {
    scenario::main(&[
        channel_faults::SCENARIOS,
        crash_loops::SCENARIOS,
        deaths::SCENARIOS,
        deaths_under_load::SCENARIOS,
        descriptors::SCENARIOS,
        disconnect::SCENARIOS,
        errors::SCENARIOS,
        exit_kill::SCENARIOS,
        fork_env::SCENARIOS,
        identity::SCENARIOS,
        lifecycle::SCENARIOS,
        listening::SCENARIOS,
        listening_faults::SCENARIOS,
        master_death::SCENARIOS,
        master_faults::SCENARIOS,
        messages::SCENARIOS,
        panics::SCENARIOS,
        setup::SCENARIOS,
        signals::SCENARIOS,
        spawn_failures::SCENARIOS,
        stop_orders::SCENARIOS,
    ])
}
