//! The event log in a file: rotation, and a disk that takes nothing for a while.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{EventFilter, Worker};
use actix_cluster_actors::{EventLog, EventLogConfig, EventLogCounts, RotatingFile, Rotation};
use actix_cluster_tests::master::Master;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "event_log_rotates_and_keeps_the_newest_lines_whole_and_in_order",
        app: || logged("events", Rotation::new().max_bytes(Some(4096)).keep(3)),
        check: rotates,
    },
    Scenario {
        name: "f_227_a_disk_that_is_full_costs_lines_and_recovers_alone",
        app: || logged("events", Rotation::new().max_bytes(None)),
        check: is_full_for_a_while,
    },
    Scenario {
        name: "f_227_without_a_free_descriptor_lines_are_lost_and_no_old_files",
        app: || logged("events", Rotation::new().max_bytes(Some(4096)).keep(3)),
        check: keeps_old_files,
    },
    Scenario {
        name: "f_227_a_path_that_cannot_be_written_costs_lines_and_recovers_alone",
        app: || logged("missing/events", Rotation::new()),
        check: |master| {
            master.expect_ready();
            counts(master, |_, dropped| dropped > 0);
            fs::create_dir(master.directory().join("missing")).expect("the directory is ours");
            master.ask(&Order::Restart(1), "restart");
            master.expect_of(2, "ready");
            counts(master, |written, _| written > 0);
            assert!(!lines(&master.directory().join("missing/events")).is_empty());
        },
    },
];

/// A cluster of one worker whose every event, messages included, is logged into `path`.
fn logged(path: &str, rotation: Rotation) -> ExitCode {
    let config = EventLogConfig::new().filter(EventFilter::all());
    let log = EventLog::new(config, RotatingFile::new(path, rotation));
    let counts = log.counts();
    if actix_cluster::is_master() {
        std::thread::spawn(move || tell(&counts));
    }
    log.attach(probe::cluster().worker(talks)).main()
}

/// Says the numbers whenever they change.
fn tell(counts: &EventLogCounts) {
    let mut told = (0, 0);
    loop {
        let now = (counts.written(), counts.dropped());
        if now != told {
            probe::say(&format!("counts {} {}", now.0, now.1));
            told = now;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Answers each text with a hundred messages of one KiB.
async fn talks(worker: Worker) {
    let told = worker.clone();
    let is_first = worker.on_message(move |_| {
        for n in 0..100 {
            told.send(&format!("{n} {}", "x".repeat(1024))).expect("there is room");
        }
    });
    assert!(is_first, "nobody else reads them");
    probe::idle(&worker).await;
}

/// Waits until the log's numbers, written and dropped, are or were as wanted: they are said when they change, by a thread
/// that knows nothing of what the probe shows.
fn counts(master: &Master, is_so: fn(u64, u64) -> bool) {
    master.expect_at_least(1, |line| {
        let said = line["said"].as_str().and_then(|said| said.strip_prefix("counts "));
        let numbers = said.and_then(|said| said.split_once(' '));
        numbers.is_some_and(|(written, dropped)| is_so(written.parse().unwrap(), dropped.parse().unwrap()))
    });
}

/// The events in a file; each line must be whole.
fn lines(path: &Path) -> Vec<Value> {
    read_lines(path).expect("it was written")
}

fn read_lines(path: &Path) -> Option<Vec<Value>> {
    let text = fs::read_to_string(path).ok()?;
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    Some(lines.collect())
}

/// All that is kept, oldest first.
fn kept(master: &Master) -> Vec<Value> {
    let path = |n: usize| match n {
        0 => master.directory().join("events"),
        n => master.directory().join(format!("events.{n}")),
    };
    // The newest may be moved on at any moment, and not be there for one.
    let mut files: Vec<_> = (0..100).filter_map(|n| read_lines(&path(n))).collect();
    files.reverse();
    files.concat()
}

fn rotates(master: &mut Master) {
    master.expect_ready();
    master.order(&Order::Broadcast("talk".to_owned()));
    counts(master, |written, _| written >= 100);
    master.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(master.wait().success());
    let events = kept(master);
    let numbers: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "no gap: {numbers:?}"
    );
    assert_eq!(events.last().unwrap()["event"], "exit");
    assert!(!master.directory().join("events.4").exists(), "three are kept");
    let old = fs::metadata(master.directory().join("events.1")).unwrap().len();
    assert!((4096..8192).contains(&old), "{old} bytes");
}

/// The new file cannot be opened: the old ones are moved on by one, however many lines come meanwhile.
fn keeps_old_files(master: &mut Master) {
    master.expect_ready();
    master.order(&Order::Broadcast("talk".to_owned()));
    counts(master, |written, _| written >= 100);
    // Less than the number of the log's file.
    master.ask(&Order::Limit("nofile".to_owned(), Some(4)), "limited");
    master.order(&Order::Broadcast("talk".to_owned()));
    counts(master, |_, dropped| dropped > 50);
    for old in ["events.1", "events.2", "events.3"] {
        assert!(!lines(&master.directory().join(old)).is_empty(), "{old}");
    }
    let newest = lines(&master.directory().join("events.1"));
    let until = newest.last().expect("there are some")["seq"].as_u64();
    master.ask(&Order::Limit("nofile".to_owned(), None), "limited");
    master.order(&Order::Broadcast("talk".to_owned()));
    master.until("the log goes on", |master| {
        kept(master).last().is_some_and(|event| event["seq"].as_u64() > until)
    });
}

fn is_full_for_a_while(master: &mut Master) {
    master.expect_ready();
    // The log of the scenario is a file, too, and smaller than this.
    for _ in 0..3 {
        master.order(&Order::Broadcast("talk".to_owned()));
    }
    counts(master, |written, _| written >= 300);
    master.ask(&Order::Limit("fsize".to_owned(), Some(300 << 10)), "limited");
    // The kernel takes nothing, and what fits into memory is soon used up.
    master.order(&Order::Broadcast("talk".to_owned()));
    counts(master, |_, dropped| dropped > 10);
    // The cluster does not mind.
    master.ask(&Order::Restart(1), "restart");
    master.expect_of(2, "ready");
    master.ask(&Order::Limit("fsize".to_owned(), None), "limited");
    let third = master.ask(&Order::Fork(Vec::new()), "forked");
    assert_eq!(third.trim(), "3");
    master.expect_of(3, "ready");
    let is_there = |event: &Value| event["event"] == "ready" && event["worker"]["id"] == 3;
    master.until("the log goes on", |master| kept(master).iter().any(is_there));
    let numbers: Vec<u64> = kept(master)
        .iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "in order: {numbers:?}"
    );
    assert!(
        numbers.windows(2).any(|pair| pair[0] + 1 < pair[1]),
        "a gap shows what was lost"
    );
}
