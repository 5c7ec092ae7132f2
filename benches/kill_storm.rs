//! What `kill -9` costs clients: closed loops ask while a worker after the other is killed.
//!
//! Of the parts,
//!
//! - `cells` (every combination of {new connections, keep-alive}, handlers of {0, 1, 5, 50} ms, {Shared, PerWorker, RoundRobin}
//!   and a kill every {50, 200} ms) and `nobody` (as an ordinary user; needs root) promise that every request is answered by a handler
//!   and that no handler comes to its end for one more than twice. One that is killed in the midst is begun again, however often: where kills
//!   are as close as a handler takes long, the choice is between a third run and an error, and `max_runs` chooses the error;
//! - `twice` (at most two runs of a request) and `signals` (SIGABRT and SIGSEGV, which count against the requests in the worker)
//!   that none fails and none is begun more than twice: it may be refused;
//! - `post` that none fails and none is begun more than once: it may be refused;
//! - `unmodified` (an `HttpServer` as it is) and `without` (no keepers) promise nothing and are measured.
//!
//! `ACTIX_CLUSTER_BENCH_SECONDS` is the time of one cell (default 2; 30 with `ACTIX_CLUSTER_SOAK=1`),
//! `ACTIX_CLUSTER_BENCH_PARTS` a list of parts (default: all).
//!
//! Ends with an error if a promise is broken, if in some cell nobody was killed, or if a run with `cells` of 2 s or more had fewer than
//! 1,000 kills in the cells that promise something.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::Scheduling;
use actix_cluster_benches::http::Connection;
use actix_cluster_benches::storm::{self, Damage, Kind, Plan, Promise, Storm};
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

/// Did every cell keep its promise, and were there enough of them?
fn measure() -> Result<bool, Failure> {
    let parts = std::env::var("ACTIX_CLUSTER_BENCH_PARTS")
        .unwrap_or_else(|_| "cells,twice,signals,post,unmodified,without,nobody".to_owned());
    let (mut promised, mut measured) = (Sum::default(), Sum::default());
    let mut broken = 0;
    println!("{HEAD}");
    for part in parts.split(',') {
        for (promise, storm) in cells(part)? {
            let damage = storm.rage()?;
            let wrong = promise.broken_by(&damage);
            broken += u32::from(!wrong.is_empty());
            tell(part, &storm, &damage, &wrong);
            let sum = match promise {
                Promise::Any => &mut measured,
                Promise::Nothing | Promise::Once | Promise::Twice => &mut promised,
            };
            sum.add(&damage);
        }
    }
    let is_whole = parts.split(',').any(|part| part == "cells") && usual().time >= Duration::from_secs(2);
    let is_enough = promised.kills >= KILLS_MIN || !is_whole;
    println!("where something is promised: {promised}");
    println!("where nothing is promised: {measured}");
    if !is_enough {
        println!("fewer than {KILLS_MIN} kills show too little");
    }
    match broken {
        0 => println!("promises kept"),
        cells => println!("promises BROKEN in {cells} cells"),
    }
    Ok(broken == 0 && is_enough)
}

/// Of many cells.
#[derive(Default)]
struct Sum {
    cells: u32,
    kills: u32,
    missed: u32,
    requests: u64,
    failed: u64,
    refused: u64,
    begun_more: usize,
    ended_more: usize,
}

impl Sum {
    fn add(&mut self, damage: &Damage) {
        self.cells += 1;
        self.kills += damage.kills;
        self.missed += damage.missed;
        self.requests += damage.asked.requests;
        self.failed += damage.asked.failures();
        self.refused += damage.asked.refused;
        self.begun_more += damage.more;
        self.ended_more += damage.ended_more;
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cells,
            kills,
            missed,
            requests,
            failed,
            refused,
            begun_more,
            ended_more,
        } = self;
        write!(
            f,
            "{cells} cells, {kills} kills ({missed} missed), {requests} requests: {failed} failed, {refused} refused, \
             {begun_more} begun more than twice, {ended_more} run to the end more than twice"
        )
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
                    // A death by one of these counts against the requests in it, and the second one is the last.
                    cells.push((
                        Promise::Twice,
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
                    cells.push((Promise::Once, storm));
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

fn tell(part: &str, storm: &Storm, damage: &Damage, wrong: &[String]) {
    let Damage {
        kills,
        asked,
        twice,
        more,
        ended_more,
        missed,
    } = damage;
    println!(
        "{part:10} | {:15} | {:2} ms | {:11} | {:7} | {:3} | {kills:5} | {missed:6} | {:8} | {:6} | {:6.3} | {:5} | {twice:5} \
         | {more:3} | {ended_more:5} | {:7} | {:8} | {:8} | {:8} | {} {}",
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
        asked.worst.as_millis(),
        if wrong.is_empty() {
            String::new()
        } else {
            format!("BROKEN: {};", wrong.join(", "))
        },
        asked
            .failed
            .iter()
            .map(|(what, count)| format!("{count}× {what}; "))
            .collect::<String>(),
    );
}

const HEAD: &str = "part       | connections     | wait  | scheduling  | signal  | ms  | kills | missed | requests | failed | /kill \
                    | 5xx   | twice | >2  | ended | conns   | p50 µs   | p99 µs   | worst ms |";
/// What a run has to show.
const KILLS_MIN: u32 = 1000;
/// The ordinary user that every system has.
const NOBODY: u32 = 65_534;
