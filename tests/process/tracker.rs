//! The state tracker over real processes: every row of the guide's tracker.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{ClusterHandle, ReadyWhen, Worker};
use actix_cluster_actors::{GetTable, SetMetadata, StateTracker, StateTrackerConfig};
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::outside::{let_pass, wait_for_file};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "guide_state_every_step_count_and_exit_of_every_worker_is_kept",
        app: tracked,
        check: steps_and_counts,
    },
    Scenario {
        name: "guide_state_is_healthy_means_listening_and_a_heartbeat_in_time",
        app: tracked,
        check: |master| {
            master.expect_ready();
            record(master, 1, |it| {
                it["healthy"] == true && it["last_heartbeat"].is_number()
            });
            let pid = master.once(1, "ready").pid();
            master.stop_process(pid);
            let silent = record(master, 1, |it| it["healthy"] == false);
            assert_eq!(silent["state"], "listening");
            send(pid, Signal::SIGCONT);
            record(master, 1, |it| it["healthy"] == true);
        },
    },
    Scenario {
        name: "guide_state_a_slow_start_is_told_while_it_lasts_and_once",
        app: || {
            let config = StateTrackerConfig::new().slow_start(Some(limit(SLOW)));
            let cluster = probe::cluster()
                .workers(2)
                .ready_when(ReadyWhen::Called)
                .worker(slow_if_first);
            StateTracker::new(config).attach(cluster).main()
        },
        check: |master| {
            let told = master.expect_of(1, "custom");
            assert_eq!(told.data()["name"], "slow_start");
            let data = &told.data()["data"];
            assert!(
                data["took_ms"].as_u64() >= data["limit_ms"].as_u64() && data["online_ms"].is_u64(),
                "{data}"
            );
            assert!(data["ready_ms"].is_null(), "it is not ready yet: {data}");
            fs::write(master.directory().join("seen"), "").expect("the directory is ours");
            let ready = master.once(2, "ready");
            master.once(1, "ready");
            master.ask(&Order::Ping, "pong");
            assert_eq!(slow_starts(master, 1), 1);
            // The other one was slow if it took its time, too: on a busy machine.
            let took = ready.0["at_ms"].as_f64().unwrap() - master.once(2, "fork").0["at_ms"].as_f64().unwrap();
            let is_quick = took < limit(SLOW).as_secs_f64() * 900.0;
            assert!(!is_quick || slow_starts(master, 2) == 0, "ready after {took} ms");
            let all = master.seen("custom").len();
            assert_eq!(master.log().matches("a worker is slow to start").count(), all);
        },
    },
    Scenario {
        name: "i_40_a_standby_that_gets_a_slot_and_is_not_ready_in_time_is_told",
        app: || {
            let config = StateTrackerConfig::new().slow_start(Some(limit(SLOW)));
            let cluster = probe::cluster().workers(1).standby(1).ready_when(ReadyWhen::Called);
            StateTracker::new(config)
                .attach(cluster.worker(slow_if_promoted))
                .main()
        },
        check: |master| {
            master.expect_ready();
            master.sees(2, "standby");
            // It stands by for longer than a start may take, and nobody minds.
            let_pass(limit(SLOW) * 2);
            assert_eq!(slow_starts(master, 2), 0);
            send(master.sees(1, "fork").pid(), Signal::SIGKILL);
            let told = master.expect_of(2, "custom");
            assert_eq!(told.data()["name"], "slow_start");
            let data = &told.data()["data"];
            assert!(data["took_ms"].as_u64() >= data["limit_ms"].as_u64(), "{data}");
            assert!(data["ready_ms"].is_null(), "it is not ready yet: {data}");
            fs::write(master.directory().join("seen"), "").expect("the directory is ours");
            master.sees(2, "ready");
            assert_eq!(slow_starts(master, 2), 1);
        },
    },
];

/// How often this worker was called slow.
fn slow_starts(master: &Master, worker: u64) -> usize {
    master.counts_of(worker, ["custom"])[0]
}

/// Two workers that beat; all records are said again and again.
fn tracked() -> ExitCode {
    let config = StateTrackerConfig::new().stale_after(limit(STALE));
    let tracker = StateTracker::new(config).report_with(Duration::from_millis(50), |records| {
        for record in records {
            let text = serde_json::to_string(record).expect("it has a JSON form");
            probe::say(&format!("record {text}"));
        }
    });
    let cluster = probe::cluster()
        .workers(2)
        .listen("tcp", "127.0.0.1:0")
        .heartbeat(limit(Duration::from_millis(100)))
        .worker(counts);
    let start = |cluster: ClusterHandle| {
        let tracker = tracker.watch(cluster.clone());
        let asked = tracker.clone();
        actix_rt::spawn(async move {
            cluster.all_ready().await.expect("the cluster runs");
            let worker = cluster.workers()[0].id();
            let note = SetMetadata {
                worker,
                key: "role".to_owned(),
                value: json!("leader"),
            };
            asked.send(note).await.expect("it runs").expect("it knows the worker");
            let table = asked.send(GetTable).await.expect("it runs");
            probe::say(&format!("table {table}"));
        });
        tracker
    };
    cluster
        .subscribe_with(StateTracker::new(StateTrackerConfig::new()).options(), start)
        .main()
}

/// Counts three requests and an error for each text.
async fn counts(worker: Worker) {
    let counted = worker.clone();
    let is_first = worker.on_message(move |_| {
        counted.counters().add_requests(3);
        counted.counters().error();
    });
    assert!(is_first, "nobody else reads them");
    let _listener = worker.incoming("tcp").expect("it is declared");
    probe::idle(&worker).await;
}

/// The first worker is not ready before the scenario has seen that it is slow.
async fn slow_if_first(worker: Worker) {
    if worker.id().get() == 1 {
        let gate = actix_rt::task::spawn_blocking(|| wait_for_file("seen"));
        gate.await.expect("the wait is not cancelled");
    }
    worker.ready();
    probe::idle(&worker).await;
}

/// The first one is ready at once; one that had to wait for its slot, when the scenario has seen that it is slow.
async fn slow_if_promoted(worker: Worker) {
    let stood_by = worker.is_standby();
    worker.activated().await;
    if stood_by {
        let gate = actix_rt::task::spawn_blocking(|| wait_for_file("seen"));
        gate.await.expect("the wait is not cancelled");
    }
    worker.ready();
    probe::idle(&worker).await;
}

/// Waits for a record of this worker that is so.
pub(crate) fn record(master: &Master, id: u64, is_so: impl Fn(&Value) -> bool) -> Value {
    let read = |line: &Value| -> Option<Value> {
        let text = line["said"].as_str()?.strip_prefix("record ")?;
        Some(serde_json::from_str(text).expect("it is JSON"))
    };
    let is_it = |line: &Value| read(line).is_some_and(|it| it["id"] == id && is_so(&it));
    read(&master.expect_line("a record", limit(SOON), is_it)).expect("it was just read")
}

fn steps_and_counts(master: &mut Master) {
    master.expect_ready();
    // Another thread says it than tells the events, so it may have come before the last of them.
    master.until("the table", |master| !master.said("table ").is_empty());
    let table = master.said("table ").remove(0).0;
    assert!(
        table.contains("worker.0") && table.contains("worker.1") && table.contains("listening"),
        "{table}"
    );
    let first = record(master, 1, |it| {
        it["ready"] == true && it["uptime_ms"].as_u64() > Some(0)
    });
    assert_eq!((&first["state"], &first["restarts"]), (&json!("listening"), &json!(0)));
    let at = |record: &Value, step: &str| {
        record["times"][step]
            .as_f64()
            .unwrap_or_else(|| panic!("no {step}: {record}"))
    };
    assert!(at(&first, "created") < at(&first, "online"));
    assert!(at(&first, "online") <= at(&first, "listening") && at(&first, "listening") <= at(&first, "ready"));
    assert!(first["times"]["exited"].is_null() && first["exit"].is_null());
    let grown = record(master, 1, |it| it["uptime_ms"].as_u64() > first["uptime_ms"].as_u64());
    assert_eq!(grown["pid"], first["pid"]);
    record(master, 1, |it| it["metadata"]["role"] == "leader");
    for _ in 0..2 {
        master.order(&Order::Send(1, "work".to_owned()));
    }
    record(master, 1, |it| it["requests"] == 6 && it["errors"] == 2);
    record(master, 2, |it| it["requests"] == 0);
    send(master.once(1, "ready").pid(), Signal::SIGKILL);
    let dead = record(master, 1, |it| it["state"] == "dead");
    assert_eq!(dead["exit"]["status"]["signal"]["signal"], 9);
    assert!(at(&dead, "disconnected") <= at(&dead, "exited"));
    assert_eq!(
        (&dead["requests"], &dead["metadata"]["role"], &dead["healthy"]),
        (&json!(6), &json!("leader"), &json!(false))
    );
    let third = record(master, 3, |it| it["ready"] == true);
    assert_eq!((&third["restarts"], &third["slot"]), (&json!(1), &dead["slot"]));
    master.ask(&Order::Disconnect(2), "disconnect");
    let gone = record(master, 2, |it| it["state"] == "dead");
    assert_eq!(gone["exit"]["status"]["code"], 0);
    assert!(at(&gone, "exiting") <= at(&gone, "disconnected"));
}

/// Shortened from the guide's ten seconds.
const STALE: Duration = Duration::from_millis(800);
/// Shortened from the guide's five seconds.
const SLOW: Duration = Duration::from_millis(200);
