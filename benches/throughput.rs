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

/// A server and what it did, round by round.
struct Candidate {
    role: Role,
    server: Server,
    outcomes: Vec<Outcome>,
    /// Requests and processor time of all rounds.
    requests: f64,
    ticks: u64,
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
        let mut candidates = Vec::new();
        for role in ROLES {
            let server = Server::start(role, 2, Events::Off)?;
            // Warms caches and page tables; its figures are dropped.
            load(server.address, order)?;
            candidates.push(Candidate {
                role,
                server,
                outcomes: Vec::new(),
                requests: 0.0,
                ticks: 0,
            });
        }
        for _ in 0..rounds {
            for candidate in &mut candidates {
                let ticks = candidate.server.cpu_ticks();
                let outcome = load(candidate.server.address, order)?;
                candidate.ticks += candidate.server.cpu_ticks() - ticks;
                candidate.requests += outcome.rate * time.as_secs_f64();
                candidate.outcomes.push(outcome);
            }
        }
        for candidate in &candidates {
            print_row(candidate, &candidates[0], connection);
        }
    }
    Ok(())
}

fn print_row(candidate: &Candidate, base: &Candidate, connection: Connection) {
    let outcomes = &candidate.outcomes;
    let middle = |pick: fn(&Outcome) -> Duration| {
        let mut samples: Vec<Duration> = outcomes.iter().map(pick).collect();
        percentile(&mut samples, 50).as_micros()
    };
    let mut rates: Vec<f64> = outcomes.iter().map(|outcome| outcome.rate).collect();
    // Of neighbours in time, so that what else the machine does cancels out.
    let pairs = outcomes.iter().zip(&base.outcomes);
    let mut ratios: Vec<f64> = pairs.map(|(own, base)| own.rate / base.rate).collect();
    println!(
        "| {} | {} | {:.0} | {:.2} | {:.1} | {} | {} | {} | {} |",
        candidate.role.name(),
        connection.name(),
        median(&mut rates),
        median(&mut ratios),
        candidate.ticks as f64 * 1e4 / candidate.requests,
        middle(|outcome| outcome.p50),
        middle(|outcome| outcome.p99),
        outcomes.iter().map(|outcome| outcome.errors).sum::<u64>(),
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
