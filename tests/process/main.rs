//! Scenarios with real processes, sockets and signals. See `tests/README.md` for how they run.
#![allow(
    clippy::unwrap_used,
    reason = "a scenario that panics is a test that fails, with its trace"
)]

mod administration;
mod autoscale;
mod bus;
mod bus_attacks;
mod bus_order;
mod channel_faults;
mod crash_loops;
mod deaths;
mod deaths_under_load;
mod descriptors;
mod disconnect;
mod draining;
mod errors;
mod event_log;
mod examples;
mod exit_kill;
mod flight;
mod fork_env;
mod frozen;
mod groups;
mod handles;
mod handles_hostile;
mod handover;
mod handover_limits;
mod handover_shares;
mod health;
mod health_held_back;
mod health_limits;
mod health_pauses;
mod hostile_ends;
mod identity;
mod keeper;
mod keeper_attacks;
mod keeper_filters;
mod lame_duck;
mod lifecycle;
mod listening;
mod listening_faults;
mod listening_in_turn;
mod listening_lives;
mod log_pipe;
mod master_death;
mod master_faults;
mod memory;
mod memory_oom;
mod messages;
mod metrics;
mod metrics_workers;
mod nested;
mod otp_races;
mod otp_records;
mod otp_restarts;
mod otp_stops;
mod output_storms;
mod panics;
mod passed_connections;
mod plug_ins_together;
mod promises;
mod reconfiguration;
mod recycling;
mod reload;
mod reload_faults;
mod reload_http_server;
mod rollout;
mod runs;
mod scaling;
mod scheduling;
mod secrets;
mod setup;
mod shortage;
mod signals;
mod spawn_failures;
mod specs;
mod standby;
mod stop_orders;
mod storms;
mod survival;
mod survival_attacks;
mod survival_axum;
mod survival_master;
mod survival_standby;
mod survival_tokio;
mod syscall_faults;
mod systemd;
mod systemd_store;
mod tracker;
mod udp;
mod udp_lives;
mod zygote;
mod zygote_parity;

use std::process::ExitCode;

use actix_cluster_tests::scenario;

fn main() -> ExitCode {
    scenario::main(&[
        administration::SCENARIOS,
        autoscale::SCENARIOS,
        bus::SCENARIOS,
        bus_attacks::SCENARIOS,
        bus_order::SCENARIOS,
        channel_faults::SCENARIOS,
        crash_loops::SCENARIOS,
        deaths::SCENARIOS,
        deaths_under_load::SCENARIOS,
        descriptors::SCENARIOS,
        disconnect::SCENARIOS,
        draining::SCENARIOS,
        errors::SCENARIOS,
        event_log::SCENARIOS,
        examples::SCENARIOS,
        exit_kill::SCENARIOS,
        flight::SCENARIOS,
        fork_env::SCENARIOS,
        frozen::SCENARIOS,
        groups::SCENARIOS,
        handles::SCENARIOS,
        handles_hostile::SCENARIOS,
        handover::SCENARIOS,
        handover_limits::SCENARIOS,
        handover_shares::SCENARIOS,
        health::SCENARIOS,
        health_held_back::SCENARIOS,
        health_limits::SCENARIOS,
        health_pauses::SCENARIOS,
        hostile_ends::SCENARIOS,
        identity::SCENARIOS,
        keeper::SCENARIOS,
        keeper_attacks::SCENARIOS,
        keeper_filters::SCENARIOS,
        lame_duck::SCENARIOS,
        lifecycle::SCENARIOS,
        listening::SCENARIOS,
        listening_faults::SCENARIOS,
        listening_in_turn::SCENARIOS,
        listening_lives::SCENARIOS,
        log_pipe::SCENARIOS,
        master_death::SCENARIOS,
        master_faults::SCENARIOS,
        memory::SCENARIOS,
        memory_oom::SCENARIOS,
        messages::SCENARIOS,
        metrics::SCENARIOS,
        metrics_workers::SCENARIOS,
        nested::SCENARIOS,
        otp_races::SCENARIOS,
        otp_records::SCENARIOS,
        otp_restarts::SCENARIOS,
        otp_stops::SCENARIOS,
        output_storms::SCENARIOS,
        panics::SCENARIOS,
        passed_connections::SCENARIOS,
        plug_ins_together::SCENARIOS,
        promises::SCENARIOS,
        reconfiguration::SCENARIOS,
        recycling::SCENARIOS,
        reload::SCENARIOS,
        reload_faults::SCENARIOS,
        reload_http_server::SCENARIOS,
        rollout::SCENARIOS,
        runs::SCENARIOS,
        scaling::SCENARIOS,
        scheduling::SCENARIOS,
        secrets::SCENARIOS,
        setup::SCENARIOS,
        shortage::SCENARIOS,
        signals::SCENARIOS,
        spawn_failures::SCENARIOS,
        specs::SCENARIOS,
        standby::SCENARIOS,
        stop_orders::SCENARIOS,
        storms::SCENARIOS,
        survival::SCENARIOS,
        survival_attacks::SCENARIOS,
        survival_axum::SCENARIOS,
        survival_master::SCENARIOS,
        survival_standby::SCENARIOS,
        survival_tokio::SCENARIOS,
        syscall_faults::SCENARIOS,
        systemd::SCENARIOS,
        systemd_store::SCENARIOS,
        tracker::SCENARIOS,
        zygote::SCENARIOS,
        zygote_parity::SCENARIOS,
        udp::SCENARIOS,
        udp_lives::SCENARIOS,
    ])
}
