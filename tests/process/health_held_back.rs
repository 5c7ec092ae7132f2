//! A subscriber that must not lose messages is stuck, or slow: workers are slowed, and nobody is taken for one that hangs.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{EventKind, Message, ReadyWhen, RestartLimit, Worker, WorkerRef};
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::outside::{let_pass, wait_for_file};
use actix_cluster_tests::probe;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::stuck::{self, HANG, killed_in_time, tell};
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "i_26_a_stuck_handler_of_messages_gets_no_worker_killed_and_no_successor_either",
        app: || beside(|| wait_for_file(ENOUGH)),
        check: nobody_is_killed_for_a_stuck_handler,
    },
    Scenario {
        name: "i_26_a_slow_handler_of_messages_gets_no_worker_killed",
        app: || beside(take_time),
        check: nobody_is_killed_for_a_slow_handler,
    },
    Scenario {
        name: "i_26_a_worker_that_hangs_while_a_handler_is_stuck_is_found_once_nothing_of_it_lies_unread",
        app: || beside(|| wait_for_file(ENOUGH)),
        check: who_said_all_is_judged,
    },
];

fn nobody_is_killed_for_a_stuck_handler(master: &mut Master) {
    flooded(master);
    master.never("a word against who is not read", HANG * 4, is_against_somebody);
    // A successor that has nothing to say can serve.
    send(master.once(1, "ready").pid(), Signal::SIGKILL);
    master.expect_of(1, "exit");
    send(master.expect_of(3, "ready").pid(), Signal::SIGKILL);
    master.expect_of(3, "exit");
    // The next one says a word on its way: what follows lies unread for longer than its boot may take.
    master.expect_of(4, "listening");
    master.never("an end for what is not read", BOOT * 3, is_against_somebody);
    enough(master);
    master.expect_ever_of(4, "ready");
    tell(master, 2, "hang");
    killed_in_time(master, 2);
    master.expect_of(5, "ready");
}

fn nobody_is_killed_for_a_slow_handler(master: &mut Master) {
    flooded(master);
    master.never("a word against who is read slowly", HANG * 4, is_against_somebody);
    enough(master);
    tell(master, 2, "hang");
    killed_in_time(master, 2);
    master.expect_of(3, "ready");
}

fn who_said_all_is_judged(master: &mut Master) {
    master.expect_ready();
    tell(master, 1, "flood");
    master.expect_said("1 is full");
    // Its last word is read: that it says no more is all there is to know.
    tell(master, 2, "hang");
    killed_in_time(master, 2);
    assert_eq!(master.counts_of(1, ["exit", "unhealthy"]), [0, 0]);
}

/// Both workers say more than is read.
fn flooded(master: &mut Master) {
    master.expect_ready();
    tell(master, 1, "flood");
    tell(master, 2, "flood");
    master.expect_all_said(&["1 is full", "2 is full"]);
}

/// Ends floods, and the handler's trouble; returns when what waited of worker 2 was read.
fn enough(master: &mut Master) {
    fs::write(master.directory().join(ENOUGH), "").expect("the directory is private");
    master.expect_said("2 has said all");
}

fn is_against_somebody(line: &Value) -> bool {
    line["event"] == "unhealthy" || line["event"] == "exit" || line["event"] == "gave_up"
}

/// A monitor, two workers that talk, and this handler of their messages.
fn beside(trouble: fn()) -> ExitCode {
    let handler = move |worker: WorkerRef, message: Message| {
        trouble();
        if probe::text_of(&message) == LAST {
            probe::say(&format!("{} has said all", worker.id()));
        }
    };
    let cluster = probe::cluster_showing(|event| !matches!(event.kind, EventKind::Message(_)))
        .workers(2)
        .listen("tcp", "127.0.0.1:0")
        .boot_limit(limit(BOOT))
        .boot_extension(Duration::ZERO)
        .ready_when(ReadyWhen::Called)
        .restart_limit(RestartLimit::unlimited())
        .on_message(handler)
        .worker(talkative);
    stuck::monitored(stuck::config(), cluster).main()
}

/// Does as it is told: `flood` (until it is [`ENOUGH`]), `hang` (after one more word).
async fn talkative(worker: Worker) {
    let _listener = worker.incoming("tcp").expect("it is declared");
    if worker.restarts() > 0 {
        // When the news of the listener is read, the rest is not there yet.
        stuck::live_for(limit(stuck::INTERVAL)).await;
    }
    if worker.restarts() > 1 {
        worker.send("a word").expect("nothing waits yet");
        stuck::live_for(limit(stuck::INTERVAL)).await;
    }
    worker.ready();
    let mut messages = worker.messages().expect("nobody else reads them");
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = worker.shutdown().started() => None,
        };
        let Some(message) = message else { return };
        let text = probe::text_of(&message);
        probe::say(&format!("{} does {text}", worker.id()));
        match text.as_str() {
            "flood" => drop(actix_rt::spawn(flood(worker.clone()))),
            "hang" => {
                worker.send("a word").expect("there is room");
                wait_for_file("never");
            }
            other => panic!("cannot {other}"),
        }
    }
}

async fn flood(worker: Worker) {
    let (word, mut is_full) = ("x".repeat(1_000), false);
    while !Path::new(ENOUGH).exists() {
        match worker.send(&word) {
            Err(error) if error.is_full() => {
                if !std::mem::replace(&mut is_full, true) {
                    probe::say(&format!("{} is full", worker.id()));
                }
                stuck::live_for(Duration::from_millis(1)).await;
            }
            // Its channel may be closed, and so it is about to end.
            Ok(()) | Err(_) => actix_rt::task::yield_now().await,
        }
    }
    while worker.send(LAST).is_err_and(|error| error.is_full()) {
        stuck::live_for(Duration::from_millis(1)).await;
    }
}

/// Far slower than workers can talk, until it is enough.
fn take_time() {
    if !Path::new(ENOUGH).exists() {
        let_pass(Duration::from_millis(10));
    }
}

/// The file that ends all trouble.
const ENOUGH: &str = "enough";
/// What is said after a flood.
const LAST: &str = "that was all";
const BOOT: Duration = Duration::from_secs(1);
