//! Orders to stop one worker, and workers that do not obey.

use std::fs;
use std::time::Duration;

use actix_cluster::{ClusterHandle, EventKind, ListenError, ReadyWhen, WhenEmpty, Worker, is_worker};
use actix_cluster_tests::master::SOON;
use actix_cluster_tests::outside::{inherit_through_env, wait_at_gate};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_038_a_worker_that_hangs_in_its_drain_is_killed_and_its_requests_are_counted",
        app: || {
            probe::cluster()
                .when_empty(WhenEmpty::Wait)
                .grace(GRACE)
                .worker(never_done)
                .main()
        },
        check: |master| {
            master.expect_of(1, "ready");
            // The counters travel with the channel.
            while master.snapshot()["workers"][0]["stats"]["active"] != 3 {}
            // The grace begins a little before the event that tells of it.
            let hour = Duration::from_secs(3_600);
            let begun = Deadline::after(hour);
            master.order(&Order::Disconnect(1));
            let exiting = master.expect_of(1, "exiting");
            let exit = master.expect_of(1, "exit");
            let since_the_order = hour - begun.remaining().unwrap_or_default();
            assert_eq!((exit.signal(), exit.reason()), (Some(9), &"ordered".into()));
            assert_eq!(
                (&exit.data()["forced"], &exit.data()["requests_cut"]),
                (&true.into(), &3.into())
            );
            let took = at(&exit.0) - at(&exiting.0);
            assert!(
                since_the_order >= GRACE && took < GRACE + limit(LATE),
                "{since_the_order:?} {took:?}"
            );
        },
    },
    Scenario {
        name: "f_047_whatever_signals_the_master_has_inherited_its_workers_begin_without",
        app: || {
            inherit_through_env(&[
                "--ignore-signal=HUP,INT,QUIT,TERM,USR1,USR2",
                "--block-signal=HUP,INT,TERM,USR1,CHLD",
            ]);
            if is_worker() {
                let status = fs::read_to_string("/proc/thread-self/status").expect("proc is mounted");
                let line = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                probe::say(&format!("masks {:?} {:?}", line("SigBlk:"), line("SigIgn:")));
            }
            probe::cluster().worker(idle).main()
        },
        check: |master| {
            // Blocked nothing, ignored SIGPIPE, which is Rust's own doing.
            let masks = master.expect_said("masks ");
            assert_eq!(masks, "Some(\"0000000000000000\") Some(\"0000000000001000\")");
            master.expect_of(1, "ready");
            master.order(&Order::Restart(1));
            let exit = master.expect_of(1, "exit");
            assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
            master.expect_of(2, "ready");
            // `finish` stops the master itself with a signal that it had inherited blocked and ignored.
        },
    },
    Scenario {
        name: "f_049_a_stop_right_after_the_fork_ends_a_worker_that_has_no_ear_yet",
        app: || {
            if is_worker() {
                wait_at_gate("never");
            }
            let cluster = probe::cluster().when_empty(WhenEmpty::Wait).on_event(stop_at_fork);
            cluster.worker(idle).main()
        },
        check: |master| {
            let exit = master.expect_of(1, "exit");
            assert_eq!((exit.signal(), exit.reason()), (Some(15), &"ordered".into()));
            assert_eq!(
                (exit.exited_after_disconnect(), &exit.data()["forced"]),
                (Some(true), &false.into())
            );
            assert_eq!(master.life_of(1), ["fork", "exiting", "disconnect", "exit"]);
        },
    },
    Scenario {
        name: "f_049_a_stop_at_any_moment_of_the_boot_is_an_ordered_end_and_never_ready_after_it",
        app: || {
            let cluster = probe::cluster()
                .workers(0)
                .when_empty(WhenEmpty::Wait)
                .on_event(stop_at_fork);
            cluster.worker(idle).main()
        },
        check: |master| {
            for _ in 0..30 {
                let worker: u64 = master.ask(&Order::Fork(Vec::new()), "forked ").parse().expect("an id");
                let exit = master.expect_of(worker, "exit");
                assert_eq!(exit.reason(), "ordered", "{:?}", exit.0);
                let life = master.life_of(worker);
                let exiting = life
                    .iter()
                    .position(|kind| kind == "exiting")
                    .expect("it was told to stop");
                assert_eq!(life[exiting..], ["exiting", "disconnect", "exit"], "{life:?}");
            }
            assert!(master.seen("restart_scheduled").is_empty());
        },
    },
    Scenario {
        name: "f_050_many_orders_to_stop_are_one_stop",
        app: || {
            let cluster = probe::cluster().workers(2).grace(Duration::from_secs(60));
            cluster.worker(end_after_the_gate).main()
        },
        check: |master| {
            master.expect_ready();
            for _ in 0..3 {
                master.ask(&Order::Restart(1), "restart");
                master.ask(&Order::Disconnect(1), "disconnect");
                master.ask(&Order::Kill(1, 15), "kill");
            }
            master.open_gate("1");
            assert_eq!(master.expect_of(1, "exit").code(), Some(0));
            master.ask(&Order::Ping, "pong");
            let life = master.life_of(1);
            assert_eq!(life[life.len() - 3..], ["exiting", "disconnect", "exit"]);
            assert_eq!(life.iter().filter(|kind| *kind == "exiting").count(), 1);
            // "Not again" outweighs "again", whichever came first.
            assert_eq!(master.seen("fork").len(), 2);
            master.signal(Signal::SIGTERM);
            master.open_gate("2");
            assert_eq!(master.wait().code(), Some(0));
        },
    },
    Scenario {
        name: "f_051_a_worker_that_closes_its_channel_is_ended_and_replaced",
        app: || probe::cluster().worker(close_the_channel).main(),
        check: |master| {
            master.expect_of(1, "ready");
            master.order(&Order::Send(1, "close".to_owned()));
            let disconnect = master.expect_of(1, "disconnect");
            assert_eq!(
                (disconnect.state(), disconnect.exited_after_disconnect()),
                ("disconnected", Some(false))
            );
            let exit = master.expect_of(1, "exit");
            assert_eq!(exit.reason(), "channel_closed");
            master.expect_of(2, "ready");
            assert_eq!(master.life_of(1), ["fork", "online", "ready", "disconnect", "exit"]);
            assert_eq!(master.seen("fork").len(), 2);
        },
    },
    Scenario {
        name: "f_051_a_worker_without_a_channel_that_will_not_end_is_killed_after_its_grace",
        app: || {
            let cluster = probe::cluster().grace(GRACE).ready_when(ReadyWhen::Spawned);
            let cluster = cluster
                .restart(actix_cluster::RestartType::Temporary)
                .when_empty(WhenEmpty::Wait);
            let script = "trap '' TERM; exec 3>&-; while :; do read line || sleep 1; done";
            cluster.exec("/bin/sh").args(["-c", script]).main()
        },
        check: |master| {
            let disconnect = master.expect_of(1, "disconnect");
            let exit = master.expect_of(1, "exit");
            assert_eq!((exit.signal(), exit.reason()), (Some(9), &"channel_closed".into()));
            assert_eq!(exit.data()["forced"], true);
            // The grace begins a little before the event that tells of it, and after the fork.
            let (lived, took) = (
                at(&exit.0) - at(&master.once(1, "fork").0),
                at(&exit.0) - at(&disconnect.0),
            );
            assert!(lived >= GRACE && took < GRACE + limit(SOON), "{lived:?} {took:?}");
            assert_eq!(master.life_of(1), ["fork", "ready", "disconnect", "exit"]);
        },
    },
];

fn stop_at_fork(event: &actix_cluster::ClusterEvent, handle: &ClusterHandle) {
    if let (EventKind::Fork, Some(worker)) = (&event.kind, &event.worker) {
        let (handle, id) = (handle.clone(), worker.id);
        actix_rt::spawn(async move { handle.disconnect(id).await });
    }
}

/// The instant of an event.
fn at(event: &Value) -> Duration {
    Duration::from_secs_f64(event["at_ms"].as_f64().expect("an event has an instant") / 1000.0)
}

async fn idle(worker: Worker) {
    probe::idle(&worker).await;
}

async fn end_after_the_gate(worker: Worker) {
    worker.shutdown().started().await;
    let gate = worker.id().to_string();
    let waiting = actix_rt::task::spawn_blocking(move || wait_at_gate(&gate));
    waiting.await.expect("the gate opens");
}

async fn never_done(worker: Worker) -> Result<(), ListenError> {
    let _requests = [(); 3].map(|()| worker.counters().active_request());
    std::future::pending().await
}

async fn close_the_channel(worker: Worker) {
    let mut messages = worker.messages().expect("nobody took them before");
    if messages.next().await.is_some() {
        worker.close_channel();
    }
    // It would live on for ever.
    std::future::pending().await
}

const GRACE: Duration = Duration::from_millis(500);
/// The row allows 250 ms; the rest is for a machine with other work.
const LATE: Duration = Duration::from_secs(1);
