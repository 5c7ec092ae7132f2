//! Scenarios with real processes, sockets and signals. See `tests/README.md` for how they run.

mod channel_faults;
mod crash_loops;
mod deaths;
mod descriptors;
mod disconnect;
mod errors;
mod exit_kill;
mod fork_env;
mod hostile_ends;
mod identity;
mod lifecycle;
mod listening;
mod listening_faults;
mod master_death;
mod messages;
mod setup;
mod spawn_failures;
mod stop_orders;
mod syscall_faults;

use std::process::ExitCode;

use actix_cluster_tests::scenario;

fn main() -> ExitCode {
    scenario::main(&[
        channel_faults::SCENARIOS,
        crash_loops::SCENARIOS,
        deaths::SCENARIOS,
        descriptors::SCENARIOS,
        disconnect::SCENARIOS,
        errors::SCENARIOS,
        exit_kill::SCENARIOS,
        fork_env::SCENARIOS,
        hostile_ends::SCENARIOS,
        identity::SCENARIOS,
        lifecycle::SCENARIOS,
        listening::SCENARIOS,
        listening_faults::SCENARIOS,
        master_death::SCENARIOS,
        messages::SCENARIOS,
        setup::SCENARIOS,
        spawn_failures::SCENARIOS,
        stop_orders::SCENARIOS,
        syscall_faults::SCENARIOS,
    ])
}
