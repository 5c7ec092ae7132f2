//! `kill -9` of the only worker until its successor has answered.
//!
//! The client connects right after the kill, so its connection waits in the queue that the master keeps open. A second
//! series reads the master's events too, to see where the time goes. `ACTIX_CLUSTER_BENCH_SERVER=PATH` measures another
//! program with the options of the example `http_server`, for example one that was built differently.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use actix_cluster_benches::server::{self, Events, Role, Server};
use actix_cluster_benches::{Failure, load, micros, now, number, percentile, rest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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

/// One kill: when, how long until the answer, and how many attempts failed before it.
struct Sample {
    killed: SystemTime,
    latency: Duration,
    failures: u32,
}

fn measure() -> Result<(), Failure> {
    let kills = number("ACTIX_CLUSTER_BENCH_KILLS", 300);
    for role in [Role::PerWorker, Role::Shared] {
        let server = Server::start(role, 1, Events::Off)?;
        let mut latencies = Vec::new();
        let mut failures = 0;
        for _ in 0..kills {
            let sample = kill_and_ask(&server)?;
            latencies.push(sample.latency);
            failures += sample.failures;
        }
        println!(
            "{}: SIGKILL to first answer: p50 {} µs, p99 {} µs, {kills} kills, {failures} failed attempts",
            role.name(),
            micros(percentile(&mut latencies, 50)),
            micros(percentile(&mut latencies, 99)),
        );
    }
    phases(kills / 2)
}

fn kill_and_ask(server: &Server) -> Result<Sample, Failure> {
    let victim = load::ask(server.address)?;
    // Lets the worker get to rest, as it would be in life.
    rest(Duration::from_millis(10));
    let mut failures = 0;
    let (killed, begun) = (SystemTime::UNIX_EPOCH + wall(), now());
    kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL)?;
    loop {
        match load::ask(server.address) {
            Ok(pid) if pid != victim => {
                let latency = begun.elapsed();
                return Ok(Sample {
                    killed,
                    latency,
                    failures,
                });
            }
            Ok(_) | Err(_) => failures += 1,
        }
        if failures > 1000 {
            return Err("no successor answers".into());
        }
    }
}

/// Where the time goes: medians from the kill to each event.
fn phases(kills: usize) -> Result<(), Failure> {
    const STEPS: [&str; 4] = ["exit", "fork", "online", "ready"];
    let server = Server::start(Role::PerWorker, 1, Events::On)?;
    let mut steps: [Vec<Duration>; 4] = Default::default();
    let mut answers = Vec::new();
    for _ in 0..kills {
        while server.events.try_recv().is_ok() {}
        let sample = kill_and_ask(&server)?;
        answers.push(sample.latency);
        loop {
            let line = server.events.recv_timeout(Duration::from_secs(5))?;
            let event: serde_json::Value = serde_json::from_str(&line)?;
            let name = event["event"].as_str().unwrap_or_default();
            if let Some(step) = STEPS.iter().position(|step| *step == name) {
                steps[step].push(at(&event).duration_since(sample.killed).unwrap_or_default());
            }
            if name == "ready" {
                break;
            }
        }
    }
    print!("per-worker, medians from the SIGKILL (with events written):");
    for (name, samples) in STEPS.iter().zip(&mut steps) {
        print!(" {name} {},", micros(percentile(samples, 50)));
    }
    println!(" answer {} µs", micros(percentile(&mut answers, 50)));
    Ok(())
}

fn at(event: &serde_json::Value) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(event["time_ms"].as_f64().unwrap_or_default() / 1000.0)
}

/// The wall clock, which both processes share.
#[expect(clippy::disallowed_methods, reason = "measuring is reading the clock")]
fn wall() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}
