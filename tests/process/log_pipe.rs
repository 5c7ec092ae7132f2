//! An event log that goes to another program: when that dies, and when it cannot be started.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use actix_cluster::Worker;
use actix_cluster_actors::{EventLog, EventLogConfig, LogPipe};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::outside::let_pass;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_231_a_log_program_that_dies_is_started_again_and_its_lines_go_to_standard_error_meanwhile",
        app: || piped("echo $$ > logger; exec cat >> events"),
        check: killed,
    },
    Scenario {
        name: "f_231_a_log_program_that_cannot_be_had_costs_nobody_anything",
        app: || piped("exit 1"),
        check: |master| {
            master.expect_ready();
            master.ask(&Order::Restart(1), "restart");
            master.expect_of(2, "ready");
            master.expect_log("\"event\":\"ready\"", 1);
        },
    },
];

/// A cluster that logs into this script.
fn piped(script: &'static str) -> ExitCode {
    let pipe = LogPipe::new(move || {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    });
    let log = EventLog::new(EventLogConfig::new(), pipe.retry(limit(RETRY)).or_stderr(true));
    let cluster = probe::cluster().worker(|worker: Worker| async move { probe::idle(&worker).await });
    log.attach(cluster).main()
}

/// How long after a death it is started again.
const RETRY: Duration = Duration::from_millis(100);

/// The program that is fed at the moment.
fn logger(master: &Master) -> Option<u32> {
    let text = fs::read_to_string(master.directory().join("logger")).ok()?;
    text.trim().parse().ok()
}

/// The events in the file; each line must be whole.
fn lines(master: &Master) -> Vec<Value> {
    let text = fs::read_to_string(master.directory().join("events")).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap_or_default()
}

/// Has the file this event of this worker?
fn has(master: &Master, worker: u64, event: &str) -> bool {
    lines(master)
        .iter()
        .any(|line| line["worker"]["id"] == worker && line["event"] == event)
}

fn killed(master: &mut Master) {
    master.expect_ready();
    on_disk(master, "the log", |master| has(master, 1, "ready"));
    let first = logger(master).expect("it runs");
    send(first, Signal::SIGKILL);
    master.expect_dead(first, SOON);
    let mut worker = 1;
    // Each restart is some lines; soon they are written by another program.
    while logger(master) == Some(first) || !has(master, worker, "ready") {
        master.ask(&Order::Restart(worker), "restart");
        worker += 1;
        master.expect_of(worker, "ready");
        assert!(worker < 1_000, "nobody writes: {}", master.log());
    }
    // What nobody took is not lost: every number is in the file or on standard error, once.
    let log = master.log();
    let fallen_back = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let number = |line: &Value| line["seq"].as_u64();
    let mut numbers: Vec<u64> = lines(master).iter().filter_map(number).collect();
    let in_file = numbers.len();
    numbers.extend(fallen_back.filter_map(|line| number(&line)));
    assert!(numbers.len() > in_file, "nothing went to standard error");
    let last = *numbers.iter().max().expect("there are some") as usize;
    numbers.sort_unstable();
    numbers.dedup();
    // The first write after its death may still have gone into the pipe.
    assert!(numbers.len() + 2 >= last, "{} of {last}", numbers.len());
}

/// Waits until something outside the trace is so: files make no lines.
fn on_disk(master: &Master, what: &str, is_so: impl Fn(&Master) -> bool) {
    let deadline = Deadline::after(limit(SOON));
    while !is_so(master) {
        assert!(!deadline.is_over(), "not {what}: {}", master.log());
        let_pass(Duration::from_millis(10));
    }
}
