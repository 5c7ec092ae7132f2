//! Crash loops, odd exits, and workers that never become ready.

use std::fs;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{Backoff, ListenError, ReadyWhen, RestartDelay, RestartLimit, WhenEmpty, Worker, is_worker};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::outside::wait_at_gate;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::reports::reporting;
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_016_a_worker_that_ends_at_once_is_restarted_later_and_later_and_then_no_more",
        app: || {
            if is_worker() {
                return ExitCode::from(1);
            }
            looping().when_empty(WhenEmpty::Wait).worker(idle).main()
        },
        check: crash_loop,
    },
    Scenario {
        name: "f_019_one_slot_in_a_crash_loop_leaves_the_others_alone",
        app: || looping().workers(3).worker(second_slot_fails).main(),
        check: |master| {
            // Two failed, two ready: who loops is visible.
            assert_eq!(slot_of(&master.expect("gave_up").0["data"]["slot"]), 1);
            for other in [1, 3] {
                master.expect_ever_of(other, "ready");
            }
            let forks: Vec<u64> = master
                .seen("fork")
                .iter()
                .map(|seen| slot_of(&seen.0["worker"]))
                .collect();
            let of = |slot| forks.iter().filter(|forked| **forked == slot).count();
            assert_eq!((of(0), of(1), of(2)), (1, 4, 1));
            let snapshot = master.snapshot();
            assert_eq!((&snapshot["ready"], &snapshot["target"]), (&2.into(), &3.into()));
            let states: Vec<&Value> = (0..3).map(|slot| &snapshot["slots"][slot]["state"]).collect();
            assert_eq!(states, ["filled", "failed", "filled"]);
        },
    },
    Scenario {
        name: "f_022_exit_code_125_takes_only_that_slot_down",
        app: || probe::cluster().workers(2).worker(second_slot_declines).main(),
        check: |master| {
            master.expect_all(&[(1, "ready"), (2, "exit")]);
            assert_eq!(master.seen("exit")[0].code(), Some(125));
            master.ask(&Order::Ping, "pong");
            let slot = master.snapshot()["slots"][1].clone();
            assert_eq!((&slot["state"], &slot["restarts"]), (&"failed".into(), &0.into()));
            assert!(master.seen("restart_scheduled").is_empty());
        },
    },
    Scenario {
        name: "f_024_a_failed_slot_that_is_started_by_hand_has_a_new_budget",
        app: || looping().workers(3).worker(second_slot_fails).main(),
        check: |master| {
            master.expect("gave_up");
            let before = master.seen("restart_scheduled").len();
            master.ask(&Order::StartSlot(1), "start");
            master.expect("gave_up");
            assert_eq!((before, master.seen("restart_scheduled").len()), (3, 6));
            // A slot that runs is left alone.
            master.ask(&Order::StartSlot(0), "error slot worker.0 is running");
        },
    },
    Scenario {
        name: "o_049_a_cluster_that_cannot_run_ends_with_the_chain_down_to_the_workers_own_words",
        app: || {
            let limit = RestartLimit::new(1, Duration::from_secs(60));
            let cluster = probe::cluster().workers(1).restart_limit(limit);
            match cluster.worker(async |_| Err::<(), _>("no database")).run() {
                Ok(_) => ExitCode::SUCCESS,
                Err(error) => {
                    probe::say(&format!("ended {error}"));
                    error.into()
                }
            }
        },
        check: |master| {
            assert_eq!(master.wait().code(), Some(1));
            let told = &master.said("ended ")[0].0;
            let expected =
                "every slot has failed; the last failure: worker 2 in worker.0: exit code 1 (crash): no database";
            assert_eq!(told, expected);
        },
    },
    Scenario {
        name: "f_182_a_stop_waits_for_no_slot_in_its_back_off",
        app: || {
            let hour = Backoff::new().first_at_once(false).base(Duration::from_secs(3_600));
            let cluster = probe::cluster().restart_delay(RestartDelay::Backoff(hour));
            reporting(cluster.workers(3).worker(idle))
        },
        check: |master| {
            master.expect_ready();
            for pid in [1, 3].map(|worker| master.once(worker, "fork").pid()) {
                send(pid, Signal::SIGKILL);
            }
            master.expect_count("restart_scheduled", 2);
            master.order(&Order::Shutdown);
            let report = master.report();
            assert_eq!(report["workers"].as_array().unwrap().len(), 1);
            assert_eq!(master.seen("fork").len(), 3);
        },
    },
    Scenario {
        name: "f_033_a_worker_that_is_stuck_before_it_says_hello_is_killed_at_the_boot_limit",
        app: || {
            if is_worker() {
                wait_at_gate("never");
            }
            once_more().ready_when(ReadyWhen::Online).worker(idle).main()
        },
        check: |master| not_ready_in_time(master, &["fork", "disconnect", "exit"]),
    },
    Scenario {
        name: "f_034_ready_just_in_time_is_not_killed_and_too_late_is_killed_once",
        app: || {
            once_more()
                .ready_when(ReadyWhen::Called)
                .workers(2)
                .worker(ready_after_the_gate)
                .main()
        },
        check: |master| {
            master.expect_all(&[(1, "online"), (2, "online")]);
            master.never("an exit", BOOT * 6 / 10, |line| line["event"] == "exit");
            master.open_gate("0");
            master.expect_of(1, "ready");
            boot_timeout(master, 2);
            master.expect_of(3, "online");
            master.open_gate("1");
            master.expect_of(3, "ready");
            master.never("a second kill", BOOT + BOOT / 2, |line| line["event"] == "exit");
        },
    },
    Scenario {
        name: "f_036_a_worker_that_lives_but_never_listens_is_killed_at_the_boot_limit",
        app: || once_more().listen("tcp", "127.0.0.1:0").worker(idle).main(),
        check: |master| not_ready_in_time(master, &["fork", "online", "disconnect", "exit"]),
    },
];

/// Three restarts in a minute, 50, 100 and 200 ms after the exit.
fn looping() -> actix_cluster::ClusterBuilder {
    let backoff = Backoff::new()
        .first_at_once(false)
        .base(Duration::from_millis(50))
        .jitter(0.0);
    let cluster = probe::cluster().restart_delay(RestartDelay::Backoff(backoff));
    cluster.restart_limit(RestartLimit::new(3, Duration::from_secs(60)))
}

/// The boot limit of the test profile; one restart.
fn once_more() -> actix_cluster::ClusterBuilder {
    let one = NonZeroUsize::new(8).expect("8 is not 0");
    let cluster = probe::cluster()
        .boot_limit(actix_cluster_tests::limit(BOOT))
        .max_booting(one);
    cluster
        .restart_limit(RestartLimit::new(1, Duration::from_secs(60)))
        .when_empty(WhenEmpty::Wait)
}

fn crash_loop(master: &mut Master) {
    master.expect("gave_up");
    let delays: Vec<u64> = master
        .seen("restart_scheduled")
        .iter()
        .map(|seen| seen.data()["delay_ms"].as_f64().expect("a delay is a number") as u64)
        .collect();
    assert_eq!(delays, [50, 100, 200]);
    let (exits, forks) = (master.seen("exit"), master.seen("fork"));
    assert_eq!((exits.len(), forks.len()), (4, 4));
    for (restart, delay) in delays.iter().enumerate() {
        let waited = at_ms(&forks[restart + 1].0).saturating_sub(at_ms(&exits[restart].0));
        assert!(
            waited >= *delay,
            "restart {restart} after {waited} ms instead of {delay}"
        );
    }
    assert_eq!(master.snapshot()["slots"][0]["state"], "failed");
    // A failed slot costs nothing: no further start, no log line a moment.
    let before = cpu_ticks(master.pid());
    master.never("a restart after giving up", Duration::from_secs(1), |line| {
        line["event"] == "fork"
    });
    assert!(cpu_ticks(master.pid()) - before <= 5, "5 % of a second");
    assert_eq!(master.seen("gave_up").len(), 1);
    let lines = master.log().lines().count();
    assert!(lines < 100, "{lines} lines");
}

/// The boot limit passes twice, for the worker and its one restart.
fn not_ready_in_time(master: &mut Master, life: &[&str]) {
    boot_timeout(master, 1);
    assert_eq!(master.life_of(1), life);
    boot_timeout(master, 2);
    master.expect("gave_up");
}

fn boot_timeout(master: &Master, worker: u64) {
    let exit = master.expect_of(worker, "exit");
    assert_eq!((exit.signal(), exit.reason()), (Some(9), &"boot_timeout".into()));
    assert_eq!(
        (&exit.data()["forced"], &exit.data()["was_ready"]),
        (&true.into(), &false.into())
    );
    let forks = master.seen("fork");
    let fork = forks
        .iter()
        .find(|fork| fork.worker() == worker)
        .expect("it was forked");
    let lived = Duration::from_millis(at_ms(&exit.0) - at_ms(&fork.0));
    let boot = actix_cluster_tests::limit(BOOT);
    // The limit counts from the birth, and the event is told a moment later.
    assert!(lived > boot * 9 / 10 && lived < boot + SOON, "killed after {lived:?}");
}

fn slot_of(value: &Value) -> u64 {
    value["slot"]["index"].as_u64().expect("a slot has an index")
}

fn at_ms(event: &Value) -> u64 {
    event["at_ms"].as_f64().expect("an event has an instant") as u64
}

/// The processor time a process has used, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("the name is in parentheses");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    [11, 12]
        .into_iter()
        .map(|field| fields[field].parse::<u64>().expect("a number"))
        .sum()
}

async fn idle(worker: Worker) {
    probe::idle(&worker).await;
}

async fn second_slot_fails(worker: Worker) -> Result<(), &'static str> {
    if worker.slot().index == 1 {
        return Err("this slot does not work");
    }
    probe::idle(&worker).await;
    Ok(())
}

async fn second_slot_declines(worker: Worker) {
    if worker.slot().index == 1 {
        worker.exit_now(125);
    }
    probe::idle(&worker).await;
}

async fn ready_after_the_gate(worker: Worker) -> Result<(), ListenError> {
    let gate = worker.slot().index.to_string();
    // A thread of its own: a worker that waits for something slow can still be asked to stop.
    let waiting = actix_rt::task::spawn_blocking(move || wait_at_gate(&gate));
    tokio::select! {
        _ = waiting => worker.ready(),
        () = worker.shutdown().started() => {}
    }
    probe::idle(&worker).await;
    Ok(())
}

const BOOT: Duration = Duration::from_secs(1);
