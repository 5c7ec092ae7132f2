//! What `kill -9` costs clients: closed loops ask while a worker after the other is killed.
//!
//! Every combination of {new connections, keep-alive}, handlers of {0, 1, 5, 50} ms, {Shared, PerWorker, RoundRobin} and a
//! kill every {50, 200} ms; then other signals, POST, an unmodified `HttpServer`, and the same without keepers.
//! `ACTIX_CLUSTER_BENCH_SECONDS` is the time of one cell (default 2; 30 with `ACTIX_CLUSTER_SOAK=1`),
//! `ACTIX_CLUSTER_BENCH_PARTS` a list of `cells,twice,signals,post,unmodified,without,nobody` (default: all; `nobody` needs root).
//!
//! Ends with an error if a cell that is to lose nothing lost something, or a POST ran twice.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::Scheduling;
use actix_cluster_benches::load::Connection;
use actix_cluster_benches::storm::{self, Damage, Kind, Plan, Storm};
use actix_cluster_benches::{Failure, is_soak, micros, number};
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    if let Some(code) = storm::play() {
        return code;
    }
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Did every cell keep its promise?
fn measure() -> Result<bool, Failure> {
    let parts = std::env::var("ACTIX_CLUSTER_BENCH_PARTS")
        .unwrap_or_else(|_| "cells,twice,signals,post,unmodified,without,nobody".to_owned());
    let (mut kept, mut kills) = (true, 0);
    println!("{HEAD}");
    for part in parts.split(',') {
        for (promise, storm) in cells(part)? {
            let damage = storm.rage()?;
            let is_kept = promise.is_kept(&damage);
            kept &= is_kept;
            kills += damage.kills;
            tell(part, &storm, &damage, is_kept);
        }
    }
    println!(
        "{kills} kills in all; promises {}",
        if kept { "kept" } else { "BROKEN" }
    );
    Ok(kept)
}

/// What a storm may cost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Promise {
    /// No failure.
    Nothing,
    /// No failure, but requests that may not run twice may be refused; none ran twice.
    Refusals,
    /// No failure and nothing run more than twice, but requests may be refused.
    Twice,
    /// Whatever: it is measured.
    Any,
}

impl Promise {
    fn is_kept(self, damage: &Damage) -> bool {
        let Damage { asked, twice, more, .. } = damage;
        match self {
            Self::Nothing => asked.failures() == 0 && asked.refused == 0,
            Self::Refusals => asked.failures() == 0 && twice + more == 0,
            Self::Twice => asked.failures() == 0 && *more == 0,
            Self::Any => true,
        }
    }
}

fn cells(part: &str) -> Result<Vec<(Promise, Storm)>, Failure> {
    let usual = usual();
    let mut cells = Vec::new();
    match part {
        "cells" => {
            for connection in [Connection::New, Connection::KeepAlive] {
                for handler_ms in [0, 1, 5, 50] {
                    for scheduling in [Scheduling::Shared, Scheduling::PerWorker, Scheduling::RoundRobin] {
                        for every in [50, 200] {
                            let mut storm = usual.clone();
                            storm.connection = connection;
                            (storm.plan.handler_ms, storm.plan.scheduling) = (handler_ms, scheduling);
                            storm.every = Duration::from_millis(every);
                            cells.push((Promise::Nothing, storm));
                        }
                    }
                }
            }
        }
        "twice" => {
            for connection in [Connection::New, Connection::KeepAlive] {
                for scheduling in [Scheduling::Shared, Scheduling::PerWorker, Scheduling::RoundRobin] {
                    for every in [50, 200] {
                        let mut storm = usual.clone();
                        storm.connection = connection;
                        (storm.plan.handler_ms, storm.plan.scheduling) = (50, scheduling);
                        storm.plan.max_runs = Some(2);
                        storm.every = Duration::from_millis(every);
                        cells.push((Promise::Twice, storm));
                    }
                }
            }
        }
        "signals" => {
            for signal in [Signal::SIGABRT, Signal::SIGSEGV] {
                for connection in [Connection::New, Connection::KeepAlive] {
                    // A death by one of these counts against the requests in it.
                    cells.push((
                        Promise::Any,
                        Storm {
                            signal,
                            connection,
                            ..usual.clone()
                        },
                    ));
                }
            }
        }
        "post" => {
            for connection in [Connection::New, Connection::KeepAlive] {
                for handler_ms in [1, 50] {
                    let mut storm = Storm {
                        method: "POST",
                        connection,
                        ..usual.clone()
                    };
                    storm.plan.handler_ms = handler_ms;
                    cells.push((Promise::Refusals, storm));
                }
            }
        }
        "unmodified" | "without" => {
            for connection in [Connection::New, Connection::KeepAlive] {
                for handler_ms in [0, 5, 50] {
                    let mut storm = Storm {
                        connection,
                        ..usual.clone()
                    };
                    storm.plan.handler_ms = handler_ms;
                    if part == "without" {
                        storm.plan.survive = false;
                    } else {
                        storm.plan.kind = Kind::HttpServer;
                    }
                    cells.push((Promise::Any, storm));
                }
            }
        }
        "nobody" => {
            for connection in [Connection::New, Connection::KeepAlive] {
                let mut storm = Storm {
                    connection,
                    ..usual.clone()
                };
                storm.plan.user = Some(NOBODY);
                cells.push((Promise::Nothing, storm));
            }
        }
        other => return Err(format!("no part {other:?}").into()),
    }
    Ok(cells)
}

fn usual() -> Storm {
    let seconds = number("ACTIX_CLUSTER_BENCH_SECONDS", if is_soak() { 30 } else { 2 });
    Storm {
        plan: Plan {
            scheduling: Scheduling::PerWorker,
            survive: true,
            max_runs: None,
            handler_ms: 1,
            kind: Kind::Own,
            workers: 3,
            user: None,
            log: PathBuf::new(),
        },
        connection: Connection::New,
        method: "GET",
        every: Duration::from_millis(50),
        signal: Signal::SIGKILL,
        time: Duration::from_secs(seconds as u64),
    }
}

fn tell(part: &str, storm: &Storm, damage: &Damage, is_kept: bool) {
    let Damage {
        kills,
        asked,
        twice,
        more,
        ..
    } = damage;
    println!(
        "{part:10} | {:15} | {:2} ms | {:11} | {:7} | {:3} | {kills:5} | {:8} | {:6} | {:6.3} | {:5} | {twice:5} | {more:3} \
         | {:7} | {:8} | {:8} | {} {}",
        storm.connection.name(),
        storm.plan.handler_ms,
        format!("{:?}", storm.plan.scheduling),
        storm.signal.as_str(),
        storm.every.as_millis(),
        asked.requests,
        asked.failures(),
        asked.failures() as f64 / f64::from(*kills).max(1.0),
        asked.refused,
        asked.connections,
        micros(asked.p50),
        micros(asked.p99),
        if is_kept { "" } else { "BROKEN" },
        asked
            .failed
            .iter()
            .map(|(what, count)| format!("{count}× {what}; "))
            .collect::<String>(),
    );
}

const HEAD: &str = "part       | connections     | wait  | scheduling  | signal  | ms  | kills | requests | failed | /kill \
                    | 5xx   | twice | >2  | conns   | p50 µs   | p99 µs   |";
/// The ordinary user that every system has.
const NOBODY: u32 = 65_534;
