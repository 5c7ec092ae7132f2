//! What a silent worker is granted, what else the monitor sees, and the rungs of its ladder.

use std::time::Duration;

use actix_cluster::{Announcement, CustomEvent, EventKind, ReadyWhen, WhenEmpty, Worker, WorkerId};
use actix_cluster_tests::leftovers;
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, SOON, Seen, send};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::punctuality::Punctuality;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::stuck::{self, HANG, SLACK, STALE, killed_in_time, obedient, tell};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_035_who_asks_for_more_time_gets_it_up_to_the_cap_and_is_killed_then",
        app: || {
            let config = stuck::config().extension(limit(EXTENSION));
            stuck::monitored(config, probe::cluster().worker(obedient)).main()
        },
        check: |master| {
            master.expect_ready();
            tell(master, 1, &format!("more-time {}", limit(STALE).as_millis()));
            let first = master.expect_of(1, "unhealthy");
            let lasted = Duration::from_secs_f64(first.data()["for_ms"].as_f64().expect("a time") / 1000.0);
            assert!(lasted >= limit(STALE + EXTENSION), "{lasted:?}");
            assert!(lasted <= limit(STALE + EXTENSION + stuck::CHECK + SLACK), "{lasted:?}");
            killed_in_time(master, 1);
            master.expect_of(2, "ready");
        },
    },
    Scenario {
        name: "f_035_more_time_on_the_way_to_ready_moves_the_boot_limit_up_to_its_cap",
        app: || {
            let cluster = probe::cluster()
                .boot_limit(limit(BOOT))
                .boot_extension(limit(BOOT))
                .ready_when(ReadyWhen::Called)
                .when_empty(WhenEmpty::Wait);
            cluster
                .worker(async |worker: Worker| {
                    if worker.restarts() > 0 {
                        worker.ready();
                        return probe::idle(&worker).await;
                    }
                    loop {
                        worker.more_time(limit(BOOT));
                        std::thread::park_timeout(BOOT / 10);
                    }
                })
                .main()
        },
        check: |master| {
            let machine = Punctuality::of_this_machine();
            let born = master.expect_of(1, "fork");
            let exit = master.expect_line("its end", BOOT * 4, |line| line["event"] == "exit");
            let exit = Seen(exit);
            assert_eq!((exit.reason(), exit.signal()), (&json!("boot_timeout"), Some(9)));
            // The limit begins a little before the fork is told, and after the setup. A master that was held up gives as much more
            // and 100 ms, up to ten times; one that was not gives nothing.
            let late = machine.worst();
            let forgiven = if late > Duration::from_millis(10) {
                10 * (late + Duration::from_millis(100))
            } else {
                Duration::ZERO
            };
            let (whole, took) = (at(&exit.0) - at(&master.seen("setup")[0].0), at(&exit.0) - at(&born.0));
            let most = limit(BOOT * 2 + SLACK) + forgiven;
            assert!(whole >= limit(BOOT) * 2 && took < most, "{whole:?} {took:?}");
            master.expect_of(2, "ready");
        },
    },
    Scenario {
        name: "f_036_a_worker_that_beats_and_never_listens_is_killed_at_the_boot_limit",
        app: || {
            let cluster = probe::cluster()
                .boot_limit(limit(BOOT))
                .listen("tcp", "127.0.0.1:0")
                .ready_when(ReadyWhen::Listening)
                .worker(async |worker: Worker| {
                    if worker.restarts() > 0 {
                        return obedient(worker).await;
                    }
                    probe::idle(&worker).await;
                });
            stuck::monitored(stuck::config(), cluster).main()
        },
        check: |master| {
            let exit = master.expect_of(1, "exit");
            assert_eq!((exit.reason(), exit.signal()), (&json!("boot_timeout"), Some(9)));
            assert!(master.counts_of(1, ["heartbeat"])[0] >= 5, "it lived");
            assert!(master.seen("unhealthy").is_empty());
            master.expect_of(2, "ready");
        },
    },
    Scenario {
        name: "f_037_a_worker_that_closed_its_listener_is_told_and_not_counted_as_ready",
        app: || deaf(false),
        check: |master| {
            master.expect_ready();
            assert_eq!(health(master, 1)["ready"], 2);
            tell(master, 1, "close");
            let within = limit(stuck::INTERVAL * 2 + SLACK);
            let line = master.expect_line("it to be told", within, |line| line["event"] == "unhealthy");
            assert_eq!(
                (&line["worker"]["id"], &line["data"]["reason"]),
                (&json!(1), &json!("not_listening"))
            );
            let health = health(master, 2);
            assert_eq!(
                (&health["ready"], &health["target"], &health["live"]),
                (&json!(1), &json!(2), &json!(true))
            );
            master.never("an end", limit(HANG), |line| line["event"] == "exit");
        },
    },
    Scenario {
        name: "f_037_a_worker_that_closed_its_listener_is_replaced_if_that_is_wanted",
        app: || deaf(true),
        check: |master| {
            master.expect_ready();
            tell(master, 1, "close");
            master.expect_of(1, "exit");
            master.expect_of(3, "listening");
            assert_eq!(master.counts_of(2, ["unhealthy"]), [0]);
        },
    },
    Scenario {
        name: "f_043_a_debugger_pauses_the_watch_if_that_is_wanted",
        app: || stuck::monitored(stuck::config().pause_for_debugger(true), one()).main(),
        check: |master| {
            master.expect_ready();
            let Some(pid) = seize(master) else { return };
            master.never("a word against it", limit(HANG) * 3, |line| {
                line["event"] == "unhealthy" || line["event"] == "exit"
            });
            ptrace::detach(pid, None).expect("it is ours");
            master.never("a word against it", limit(HANG), |line| line["event"] == "exit");
            master.snapshot();
        },
    },
    Scenario {
        name: "f_043_without_that_a_worker_held_by_a_debugger_hangs_like_any_other",
        app: || stuck::monitored(stuck::config(), one()).main(),
        check: |master| {
            master.expect_ready();
            if seize(master).is_none() {
                return;
            }
            let last = |line: &Value| line["event"] == "unhealthy" && line["data"]["missed"] == 3;
            let told = master.expect_line("the last miss", limit(HANG + SOON), last);
            assert_eq!(
                told["data"]["evidence"]["tracer"],
                json!(nix::unistd::gettid().as_raw())
            );
            // The tracer has to take notice, or the kernel keeps the process for it.
            nix::sys::wait::waitpid(pid_of(master), None).ok();
            let exit = master.expect_of(1, "exit");
            assert_eq!(exit.reason(), &json!({"hang": "main"}));
            master.expect_of(2, "ready");
        },
    },
    Scenario {
        name: "guide_heartbeat_replacing_comes_before_killing_if_that_is_wanted",
        app: || {
            let config = stuck::config().replace_after(Some(2)).kill_after(None);
            stuck::monitored(config, probe::cluster().worker(obedient)).main()
        },
        check: |master| {
            master.expect_ready();
            tell(master, 1, "block");
            let why = master.expect_of(1, "recycling").data().clone();
            assert_eq!(why, json!({"asked": "loop `main` does not turn"}));
            // The successor is ready before the other one goes, which ignores every polite word.
            master.expect_of(2, "ready");
            let exit = master.expect_of(1, "exit");
            assert_eq!((exit.signal(), exit.reason()), (Some(9), &json!("ordered")));
        },
    },
    Scenario {
        name: "a_core_file_is_asked_for_first_and_the_kill_comes_if_that_does_not_help",
        app: || {
            // The file itself is not wanted.
            setrlimit(Resource::RLIMIT_CORE, 0, 0).expect("a limit can be lowered");
            let config = stuck::config().core_dump(true);
            stuck::monitored(config, probe::cluster().workers(2).worker(obedient)).main()
        },
        check: |master| {
            master.expect_ready();
            tell(master, 1, "spin");
            let exit = master.expect_of(1, "exit");
            assert_eq!((exit.signal(), exit.reason()), (Some(6), &json!({"hang": "main"})));
            // A stopped process does not see SIGABRT.
            let pid = master.once(2, "ready").pid();
            master.stop_process(pid);
            let exit = master.expect_of(2, "exit");
            assert_eq!((exit.signal(), exit.reason()), (Some(9), &json!({"hang": "main"})));
        },
    },
    Scenario {
        name: "boot_and_drain_have_limits_and_reasons_of_their_own",
        app: || {
            let config = stuck::config().boot(Some(limit(STALE))).drain(Some(limit(STALE)));
            let cluster = probe::cluster()
                .grace(Duration::from_secs(600))
                .boot_limit(Duration::from_secs(600))
                .ready_when(ReadyWhen::Called)
                .worker(stuck_at_boot_and_then_in_the_drain);
            stuck::monitored(config, cluster.when_empty(WhenEmpty::Wait)).main()
        },
        check: |master| {
            assert_eq!(master.expect_of(1, "unhealthy").data()["reason"], "boot");
            let exit = master.expect_of(1, "exit");
            assert_eq!((exit.signal(), exit.reason()), (Some(9), &json!({"hang": "main"})));
            master.expect_of(2, "ready");
            master.order(&Order::Disconnect(2));
            assert_eq!(master.expect_of(2, "unhealthy").data()["reason"], "drain");
            let exit = master.expect_of(2, "exit");
            assert_eq!((exit.signal(), exit.reason()), (Some(9), &json!("ordered")));
        },
    },
    Scenario {
        name: "i_40_a_standby_that_hangs_is_killed_within_the_limit_and_another_stands_by",
        app: || {
            let cluster = probe::cluster().standby(1).ready_when(ReadyWhen::Called);
            let cluster = cluster.worker(async |worker: Worker| {
                worker.ready();
                obedient(worker).await;
            });
            stuck::monitored(stuck::config().replace_after(Some(1)), cluster).main()
        },
        check: |master| {
            master.expect_all(&[(1, "ready"), (2, "standby")]);
            send(master.once(2, "standby").pid(), Signal::SIGSTOP);
            killed_in_time(master, 2);
            master.expect_of(3, "standby");
            assert_eq!(master.counts_of(1, ["unhealthy", "exit"]), [0, 0]);
            assert!(master.seen("recycling").is_empty(), "it has nothing to hand over");
        },
    },
    Scenario {
        name: "a_plug_in_publishes_what_it_finds_and_cannot_claim_what_is_the_masters",
        app: || {
            let publish = |event: &actix_cluster::ClusterEvent, handle: &actix_cluster::ClusterHandle| {
                if matches!(event.kind, EventKind::AllReady { .. }) {
                    let handle = handle.clone();
                    actix_rt::spawn(async move {
                        let event = CustomEvent::new("weather", "rain", &[1, 2]).expect("it has a JSON form");
                        let announcement = Announcement::Custom(event);
                        let known = handle.publish(Some(WorkerId::new(1)), announcement.clone()).await;
                        let unknown = handle.publish(Some(WorkerId::new(99)), announcement).await;
                        probe::say(&format!("published {known:?} {unknown:?}"));
                    });
                }
            };
            one().on_event(publish).main()
        },
        check: |master| {
            assert_eq!(
                master.expect_said("published "),
                "Ok(()) Err(UnknownWorker(WorkerId(99)))"
            );
            let custom = master.expect_count("custom", 1).swap_remove(0);
            assert_eq!(custom.worker(), 1);
            assert_eq!(
                custom.data(),
                &json!({"source": "weather", "name": "rain", "data": [1, 2]})
            );
        },
    },
];

fn one() -> actix_cluster::ClusterBuilder {
    probe::cluster().worker(obedient)
}

fn deaf(act: bool) -> std::process::ExitCode {
    let cluster = probe::cluster()
        .workers(2)
        .listen("tcp", "127.0.0.1:0")
        .worker(obedient);
    stuck::monitored(stuck::config().act_on_deaf(act), cluster).main()
}

/// What a probe was told, the `n`-th time: it comes beside the event that is its reason.
fn health(master: &Master, n: usize) -> Value {
    let is_health = |line: &Value| line["said"].as_str().is_some_and(|said| said.starts_with("health "));
    master.expect_at_least(n, is_health);
    serde_json::from_str(&master.said("health ")[n - 1].0).expect("it is JSON")
}

fn pid_of(master: &Master) -> Pid {
    Pid::from_raw(i32::try_from(master.once(1, "ready").pid()).expect("process ids are small"))
}

/// Attaches to worker 1 as a debugger does and stops it; `None` where that is not allowed.
fn seize(master: &Master) -> Option<Pid> {
    let pid = pid_of(master);
    match ptrace::seize(pid, ptrace::Options::empty()) {
        Ok(()) => {}
        Err(Errno::EPERM) => {
            eprintln!("not allowed to trace a process here: nothing is shown");
            return None;
        }
        Err(error) => panic!("cannot attach: {error}"),
    }
    ptrace::interrupt(pid).expect("it is attached");
    nix::sys::wait::waitpid(pid, None).expect("it stops");
    let traced = leftovers::process(pid.as_raw().unsigned_abs()).expect("it is there");
    assert_eq!(traced.state, 't', "{traced:?}");
    Some(pid)
}

async fn stuck_at_boot_and_then_in_the_drain(worker: Worker) {
    if worker.restarts() == 0 {
        // Some turns, so that its loop was seen alive.
        stuck::live_for(limit(stuck::INTERVAL) * 2).await;
        park();
    }
    worker.ready();
    worker.shutdown().started().await;
    park();
}

fn at(line: &Value) -> Duration {
    Duration::from_secs_f64(line["at_ms"].as_f64().expect("a time") / 1000.0)
}

fn park() -> ! {
    loop {
        std::thread::park();
    }
}

const EXTENSION: Duration = Duration::from_millis(1500);
const BOOT: Duration = Duration::from_secs(1);
