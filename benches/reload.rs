//! Reloads of four workers under load: failed requests, which must be none, the time of each, and what clients notice.
//!
//! Two closed loops ask all the time, one with new connections and one with keep-alive; first without a reload, then while
//! one reload follows the other. The master's events say where the time of a reload goes. 50 reloads, or
//! `ACTIX_CLUSTER_BENCH_RELOADS`; with one more process than wanted at a time, and with four.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use actix_cluster_benches::http::Connection;
use actix_cluster_benches::load::{self, Load, Outcome};
use actix_cluster_benches::server::{self, Events, Role, Server};
use actix_cluster_benches::{Failure, micros, now, number, percentile, rest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn main() -> ExitCode {
    if let Some(code) = server::play() {
        return code;
    }
    let measured = [1, 4].into_iter().try_for_each(measure);
    if let Err(error) = measured {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

const WORKERS: usize = 4;

fn measure(surge: u32) -> Result<(), Failure> {
    let reloads = number("ACTIX_CLUSTER_BENCH_RELOADS", 50);
    let server = Server::start_with(Role::PerWorker, WORKERS, Events::On, surge)?;
    let before = Clients::start(server.address);
    rest(BEFORE);
    let before = before.stop()?;
    while server.events.try_recv().is_ok() {}

    let clients = Clients::start(server.address);
    let (mut times, mut steps) = (Vec::new(), Steps::default());
    for _ in 0..reloads {
        let begun = now();
        kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGHUP)?;
        loop {
            let line = server.events.recv_timeout(Duration::from_secs(30))?;
            let event: Value = serde_json::from_str(&line)?;
            if event["event"] != "reload_finished" {
                steps.note(&event);
                continue;
            }
            if event["data"]["result"]["Err"].is_object() {
                return Err(format!("a reload failed: {line}").into());
            }
            break;
        }
        times.push(begun.elapsed());
    }
    let during = clients.stop()?;
    println!(
        "surge {surge}: {reloads} reloads of {WORKERS} workers: p50 {} µs, p99 {} µs",
        micros(percentile(&mut times, 50)),
        micros(percentile(&mut times, 99))
    );
    steps.tell();
    for (before, during) in before.iter().zip(&during) {
        println!(
            "  {}: {} failed; p99 {} µs before, {} µs during; {:.0} and {:.0} req/s",
            before.0.name(),
            before.1.errors + during.1.errors,
            micros(before.1.p99),
            micros(during.1.p99),
            before.1.rate,
            during.1.rate,
        );
    }
    let failed: u64 = before.iter().chain(&during).map(|(_, outcome)| outcome.errors).sum();
    if failed > 0 {
        return Err(format!("{failed} requests failed").into());
    }
    Ok(())
}

/// The two loops.
struct Clients {
    stop: Arc<AtomicBool>,
    loops: Vec<(Connection, JoinHandle<Result<Outcome, Failure>>)>,
}

impl Clients {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |connection| {
            let stop = Arc::clone(&stop);
            let load = Load {
                connections: CONNECTIONS,
                time: Duration::MAX,
                connection,
            };
            let asking = move || load::run_until(address, load, move |_| stop.load(Ordering::Relaxed));
            (connection, std::thread::spawn(asking))
        };
        let loops = [Connection::New, Connection::KeepAlive].map(start).into();
        Self { stop, loops }
    }

    fn stop(self) -> Result<Vec<(Connection, Outcome)>, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let mut outcomes = Vec::new();
        for (connection, asking) in self.loops {
            outcomes.push((connection, asking.join().map_err(|_| "a client panicked")??));
        }
        Ok(outcomes)
    }
}

/// What happened to each worker when, by the master's clock.
#[derive(Default)]
struct Steps {
    seen: HashMap<(u64, String), f64>,
}

impl Steps {
    fn note(&mut self, event: &Value) {
        if let (Some(worker), Some(name), Some(at)) = (
            event["worker"]["id"].as_u64(),
            event["event"].as_str(),
            event["at_ms"].as_f64(),
        ) {
            self.seen.insert((worker, name.to_owned()), at);
        }
    }

    fn tell(&self) {
        const STEPS: [(&str, &str); 4] = [
            ("fork", "ready"),
            ("exiting", "disconnect"),
            ("disconnect", "exit"),
            ("exiting", "exit"),
        ];
        print!("  medians of each worker, of which p99:");
        for (from, to) in STEPS {
            let mut times: Vec<Duration> = self
                .seen
                .iter()
                .filter(|((_, name), _)| name == from)
                .filter_map(|((worker, _), begun)| {
                    let ended = self.seen.get(&(*worker, to.to_owned()))?;
                    Duration::try_from_secs_f64((ended - begun) / 1_000.0).ok()
                })
                .collect();
            print!(
                " {from} to {to} {} ({}) µs,",
                micros(percentile(&mut times, 50)),
                micros(percentile(&mut times, 99))
            );
        }
        println!();
    }
}

/// Connections of each loop.
const CONNECTIONS: usize = 8;

/// How long the load runs without a reload.
const BEFORE: Duration = Duration::from_secs(3);
