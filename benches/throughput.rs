//! Answers per second: two workers against one process with two threads, and the two ways to spread connections.
//!
//! All servers run at the same time and are loaded one after the other, round by round, so that a slow minute of the
//! machine is a slow minute for each of them. `ACTIX_CLUSTER_BENCH_WRK=1` loads with `wrk` instead of the own client.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster_benches::load::{self, Connection, Load, Outcome};
use actix_cluster_benches::server::{self, Events, Role, Server};
use actix_cluster_benches::{Failure, median, number, percentile};

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
    let rounds = number("ACTIX_CLUSTER_BENCH_ROUNDS", 5);
    let time = Duration::from_secs(number("ACTIX_CLUSTER_BENCH_SECONDS", 3) as u64);
    let with_wrk = number("ACTIX_CLUSTER_BENCH_WRK", 0) == 1;
    let load = if with_wrk { load::run_wrk } else { load::run };
    let tool = if with_wrk { "wrk -t1" } else { "own client" };
    println!("2 workers or threads, 32 connections, {rounds} rounds of {time:?}, {tool}; medians");
    println!("| server | connections | req/s | of threads | p50 µs | p99 µs | errors | answers by process, % |");
    println!("|---|---|---|---|---|---|---|---|");
    for connection in [Connection::New, Connection::KeepAlive] {
        let order = Load {
            connections: 32,
            time,
            connection,
        };
        let mut servers = Vec::new();
        for role in ROLES {
            servers.push((role, Server::start(role, 2, Events::Off)?, Vec::new()));
        }
        // Warms caches and page tables; its figures are dropped.
        let warm = Load {
            time: Duration::from_secs(1),
            ..order
        };
        for (_, server, _) in &servers {
            load(server.address, warm)?;
        }
        for _ in 0..rounds {
            for (_, server, outcomes) in &mut servers {
                outcomes.push(load(server.address, order)?);
            }
        }
        let mut base = 0.0;
        for (role, _, outcomes) in &servers {
            let rate = rate_of(outcomes);
            if *role == Role::Threads {
                base = rate;
            }
            print_row(*role, connection, outcomes, rate, rate / base);
        }
    }
    Ok(())
}

fn rate_of(outcomes: &[Outcome]) -> f64 {
    let mut rates: Vec<f64> = outcomes.iter().map(|outcome| outcome.rate).collect();
    median(&mut rates)
}

fn print_row(role: Role, connection: Connection, outcomes: &[Outcome], rate: f64, ratio: f64) {
    let middle = |pick: fn(&Outcome) -> Duration| {
        let mut samples: Vec<Duration> = outcomes.iter().map(pick).collect();
        percentile(&mut samples, 50).as_micros()
    };
    let errors: u64 = outcomes.iter().map(|outcome| outcome.errors).sum();
    println!(
        "| {} | {} | {rate:.0} | {ratio:.2} | {} | {} | {errors} | {} |",
        role.name(),
        connection.name(),
        middle(|outcome| outcome.p50),
        middle(|outcome| outcome.p99),
        shares(outcomes),
    );
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
