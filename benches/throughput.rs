//! Answers per second: two workers against one process with two threads, and the two ways to spread connections.
//!
//! All servers are loaded in turn. `ACTIX_CLUSTER_BENCH_WRK=1` loads with `wrk` instead of the own client.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster_benches::http::Connection;
use actix_cluster_benches::load::{self, Load, Outcome};
use actix_cluster_benches::server::{self, Role};
use actix_cluster_benches::{Failure, number, rounds};

const ROLES: [Role; 3] = [Role::Threads, Role::PerWorker, Role::Shared];

fn main() -> ExitCode {
    if let Some(code) = server::play() {
        return code;
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<(), Failure> {
    let rounds = number("ACTIX_CLUSTER_BENCH_ROUNDS", 15);
    let time = Duration::from_secs(number("ACTIX_CLUSTER_BENCH_SECONDS", 1) as u64);
    let with_wrk = number("ACTIX_CLUSTER_BENCH_WRK", 0) == 1;
    let load = if with_wrk { load::run_wrk } else { load::run };
    let tool = if with_wrk { "wrk -t1" } else { "own client" };
    println!("2 workers or threads, 32 connections, {rounds} rounds of {time:?}, {tool}; medians");
    println!(
        "| server | connections | req/s | of threads | cpu µs/req | p50 µs | p99 µs | errors | answers by process, % |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for connection in [Connection::New, Connection::KeepAlive] {
        let order = Load {
            connections: 32,
            time,
            connection,
        };
        let candidates = rounds::run(&ROLES, order, rounds, load)?;
        for candidate in &candidates {
            println!(
                "| {} | {:.1} | {} | {} |",
                candidate.row(&candidates[0], connection),
                candidate.cpu_micros(),
                candidate.latencies_and_errors(),
                shares(&candidate.outcomes),
            );
        }
    }
    Ok(())
}

/// Of each round: who answered how much.
fn shares(outcomes: &[Outcome]) -> String {
    let round = |outcome: &Outcome| {
        let total: u64 = outcome.shares.values().sum();
        let parts = outcome
            .shares
            .values()
            .map(|part| (part * 100 / total.max(1)).to_string());
        parts.collect::<Vec<_>>().join("/")
    };
    outcomes.iter().map(round).collect::<Vec<_>>().join(" ")
}
