//! What workers print, when nobody drains it and when there is far too much of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_cluster::{ClusterBuilder, EventFilter, EventKind, Kind, SubscribeOptions, Worker};
use actix_cluster_actors::{EventLog, EventLogConfig};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::outside::{let_pass, wait_for_file};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::punctuality::Punctuality;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::stuck::{self, live_for};
use actix_cluster_tests::{Deadline, limit};
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_226_a_log_sink_that_nobody_drains_hangs_no_worker_and_what_is_lost_is_told",
        app: || {
            let (theirs, ours) = std::io::pipe().expect("there are descriptors");
            if actix_cluster::is_master() {
                std::thread::spawn(move || account_for(BufReader::new(theirs)));
            }
            logged(ours).worker(prints_a_lot).main()
        },
        check: drained_late,
    },
    Scenario {
        name: "f_226_a_message_handler_that_is_stuck_hangs_no_worker_that_prints",
        app: || {
            quiet()
                .on_message(|_, _| wait_for_file("drain"))
                .worker(talks_and_prints)
                .main()
        },
        check: |master| {
            on_disk(master, "the worker has printed", |master| printed(master, 1));
            // Its channel waits meanwhile, as it should.
            fs::write(master.directory().join("drain"), "").expect("the directory is ours");
            master.ask(&Order::Restart(1), "restart");
            master.expect_of(2, "ready");
        },
    },
    Scenario {
        name: "f_226_a_grandchild_that_floods_the_output_for_ever_hides_no_death",
        app: || {
            let mut is_told = false;
            let first = EventFilter::kinds([Kind::Output]);
            quiet()
                .on_event_with(SubscribeOptions::new().filter(first), move |_, _| {
                    if !std::mem::replace(&mut is_told, true) {
                        probe::say("it floods");
                    }
                })
                .worker(leaves_a_flood)
                .main()
        },
        check: |master| {
            master.hears("it floods");
            send(master.once(1, "ready").pid(), Signal::SIGKILL);
            assert_eq!(master.once(1, "exit").signal(), Some(9));
            master.once(2, "ready");
        },
    },
    Scenario {
        name: "f_230_a_storm_of_output_of_all_workers_is_cut_at_the_rate_and_counted_and_beats_come_in_time",
        app: storm,
        check: stormed,
    },
];

/// A mebibyte, in lines of a kibibyte.
const MIB_LINES: u64 = 1_024;

/// Shows everything but lines; they would keep the test busy.
fn quiet() -> ClusterBuilder {
    let shown = |event: &actix_cluster::ClusterEvent| !matches!(event.kind, EventKind::Output { .. });
    probe::cluster_showing(shown).silent()
}

/// With a log of everything, also of lines, that is written into this pipe.
fn logged(sink: PipeWriter) -> ClusterBuilder {
    let log = EventLog::new(EventLogConfig::new().filter(EventFilter::all()), sink);
    log.attach(quiet())
}

/// Its child writes without end, and only the end of the pipe ends it.
async fn leaves_a_flood(worker: Worker) {
    if worker.id().get() == 1 {
        let mut flood = Command::new("yes").spawn().expect("there is such a program");
        probe::idle(&worker).await;
        flood.kill().and_then(|()| flood.wait()).expect("it is a child");
    } else {
        probe::idle(&worker).await;
    }
}

/// Prints so many lines, as fast as they are taken, and leaves a note when it is done.
fn print(mib: u64) {
    let line = format!("{}\n", "x".repeat(1_023));
    let mut out = std::io::stdout().lock();
    for _ in 0..mib * MIB_LINES {
        out.write_all(line.as_bytes()).expect("the master reads");
    }
    let note = format!("printed {}", std::process::id());
    fs::write(note, "").expect("the directory is ours");
}

fn printed(master: &Master, worker: u64) -> bool {
    let pid = master.sees(worker, "ready").pid();
    master.directory().join(format!("printed {pid}")).exists()
}

async fn prints_a_lot(worker: Worker) {
    // The readiness of the third ends the account, so nothing may come after it that it would give way to.
    if worker.id().get() < 3 {
        actix_rt::task::spawn_blocking(|| print(16)).await.expect("it prints");
    }
    probe::idle(&worker).await;
}

/// Fills the handler's queue, so that its channel is not read any more, and then prints.
async fn talks_and_prints(worker: Worker) {
    // Its successor is silent: what it said would push its own readiness out of the queue of whoever is shown the events.
    if worker.id().get() == 1 {
        for _ in 0..8_192 {
            // Full is what it is to become.
            worker.send(&"x".repeat(100)).ok();
        }
        actix_rt::task::spawn_blocking(|| print(4)).await.expect("it prints");
    }
    probe::idle(&worker).await;
}

/// Reads the log once it may, and says how many of the numbers it has seen, and how many it was told it misses.
fn account_for(log: impl BufRead) {
    wait_for_file("drain");
    let (mut next, mut lines, mut lost) = (1, 0_u64, 0);
    for line in log.lines() {
        let event: Value = serde_json::from_str(&line.expect("it is text")).expect("a line is whole");
        let seq = event["seq"].as_u64().expect("it has a number");
        if event["event"] == "lagged" {
            assert_eq!(event["data"]["from"], next, "no gap that is not told");
            lost += seq + 1 - next;
        } else {
            assert_eq!(seq, next, "no gap that is not told");
            lines += 1;
        }
        next = seq + 1;
        if event["event"] == "ready" && event["worker"]["id"] == 3 {
            probe::say(&format!("accounted {lines} {lost}"));
            return;
        }
    }
}

fn drained_late(master: &mut Master) {
    on_disk(master, "the worker has printed", |master| printed(master, 1));
    master.ask(&Order::Restart(1), "restart");
    master.expect_of(2, "ready");
    on_disk(master, "its successor has printed", |master| printed(master, 2));
    fs::write(master.directory().join("drain"), "").expect("the directory is ours");
    // Once the log has room again.
    assert_eq!(master.ask(&Order::Fork(Vec::new()), "forked").trim(), "3");
    let accounted = master.expect_said("accounted ");
    let numbers: Vec<u64> = accounted.split(' ').filter_map(|number| number.parse().ok()).collect();
    assert!(numbers[1] > 16 * MIB_LINES, "little was lost: {accounted}");
    assert!(numbers[0] + numbers[1] > 32 * MIB_LINES, "{accounted}");
}

/// What the master passed on and what it dropped, by worker: lines.
type Sums = Arc<Mutex<BTreeMap<u64, (u64, u64)>>>;

const STORMING: u64 = 4;
const BEAT: Duration = Duration::from_millis(200);

fn storm() -> ExitCode {
    let sums = Sums::default();
    let told = Arc::clone(&sums);
    // Everything that is passed on fits.
    let options = SubscribeOptions::new()
        .capacity(1 << 20)
        .capacity_bytes(1 << 30)
        .filter(EventFilter::kinds([Kind::Output, Kind::OutputDropped, Kind::Exit]));
    let cluster = quiet()
        .workers(STORMING as u32)
        .output_limit(256 << 10)
        .on_event_with(options, move |event, _| {
            let Some(worker) = &event.worker else { return };
            let mut sums = told.lock().expect("nobody panics");
            let sum = sums.entry(worker.id.get()).or_default();
            match &event.kind {
                EventKind::Output { .. } => sum.0 += 1,
                EventKind::OutputDropped { lines, .. } => sum.1 += lines,
                EventKind::Exit(_) => probe::say(&format!("sum {} {} {}", worker.id, sum.0, sum.1)),
                _ => {}
            }
        });
    let config = stuck::config().interval(limit(BEAT)).stale_after(limit(4 * BEAT));
    stuck::monitored(config, cluster.worker(storms)).main()
}

/// Prints from a thread as fast as it is read, until there is the file `enough`; then notes how much that was.
async fn storms(worker: Worker) {
    let printing = actix_rt::task::spawn_blocking(|| {
        let (line, mut lines) = (format!("{}\n", "x".repeat(1_023)).repeat(64), 0_u64);
        let mut out = std::io::stdout().lock();
        while !Path::new("enough").exists() {
            out.write_all(line.as_bytes()).expect("the master reads");
            lines += 64;
        }
        fs::write(format!("lines {}", std::process::id()), lines.to_string()).expect("the directory is ours");
    });
    printing.await.expect("it prints");
    while !worker.shutdown().is_started() {
        live_for(BEAT / 10).await;
    }
}

fn stormed(master: &mut Master) {
    master.expect_ready();
    let pids: Vec<u32> = (1..=STORMING).map(|id| master.once(id, "ready").pid()).collect();
    let machine = Punctuality::of_this_machine();
    for _ in 0..3 {
        for id in 1..=STORMING {
            master.expect_line("a loss that is told", SOON, |line| {
                line["event"] == "output_dropped" && line["worker"]["id"] == id
            });
        }
    }
    fs::write(master.directory().join("enough"), "").expect("the directory is ours");
    let lines = |pid: u32| master.directory().join(format!("lines {pid}"));
    on_disk(master, "all have stopped", |_| {
        pids.iter().all(|pid| lines(*pid).exists())
    });
    let printed: Vec<u64> = pids
        .iter()
        .map(|pid| {
            fs::read_to_string(lines(*pid))
                .expect("it is there")
                .parse()
                .expect("a number")
        })
        .collect();
    // Beats: all came, and nobody was called silent. Those who print leave little time to others, this thread included.
    let late = machine.worst();
    assert!(master.seen("unhealthy").is_empty(), "{:?}", master.seen("unhealthy"));
    for id in 1..=STORMING {
        let beats = master.seen("heartbeat");
        let at = beats.iter().filter(|beat| beat.worker() == id);
        let at: Vec<f64> = at.filter_map(|beat| beat.0["at_ms"].as_f64()).collect();
        let mut gaps: Vec<f64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        gaps.sort_by(f64::total_cmp);
        let p99 = gaps
            .get((gaps.len() * 99) / 100)
            .or(gaps.last())
            .copied()
            .unwrap_or_default();
        let allowed = (2 * limit(BEAT) + late).as_secs_f64() * 1e3;
        assert!(
            p99 < allowed,
            "worker {id}: a beat {p99} ms after the one before: {gaps:?}"
        );
    }
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
    for (id, printed) in (1..=STORMING).zip(printed) {
        let sum = master.said(&format!("sum {id} ")).remove(0).0;
        let sums: Vec<u64> = sum.split(' ').filter_map(|number| number.parse().ok()).collect();
        let [passed, dropped] = sums[..] else { panic!("{sum}") };
        assert_eq!(passed + dropped, printed, "every line is passed on or counted");
        assert!(dropped > passed, "it was no storm: {passed} of {printed}");
    }
}

/// Waits until something outside the trace is so: files make no lines.
fn on_disk(master: &Master, what: &str, is_so: impl Fn(&Master) -> bool) {
    let deadline = Deadline::after(limit(SOON));
    while !is_so(master) {
        assert!(!deadline.is_over(), "not {what}: {}", master.log());
        let_pass(Duration::from_millis(10));
    }
}
