//! What may come in between a reload: code that dies at the wrong moment, stops, callers that go away.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use actix_cluster::{
    Backoff, ClusterEvent, ClusterHandle, EventKind, RestartDelay, ServeError, SpawnMethod, Worker, WorkerSpec,
    is_master,
};
use actix_cluster_tests::limit;
use actix_cluster_tests::load::{self, Load, held};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{self, Care, Change, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::reload::{generation, new_is_held, next_result, open, pids, runs};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a_reload_finds_its_program_though_a_low_number_was_free_when_it_was_opened",
        app: || {
            let executed = WorkerSpec::new("executed", 1).spawn(SpawnMethod::Exec);
            let cluster = probe::cluster().spawn(SpawnMethod::Zygote).spec(executed);
            let cluster = cluster.on_event(let_go_when_all_are_ready());
            cluster.worker(async |worker| probe::idle(&worker).await).main()
        },
        check: |master| {
            master.hears("low numbers are free");
            assert_eq!(master.ask(&Order::Reload(Care::default()), ""), "reloaded 1");
            runs(master, 2, 1);
            assert!(!master.log().contains("no zygote could be started"));
        },
    },
    Scenario {
        name: "all_are_ready_only_when_every_slot_is_and_not_while_one_has_two_workers",
        app: || {
            let hour = Backoff::new().first_at_once(false).base(Duration::from_secs(3_600));
            let cluster = probe::cluster().workers(2).restart_delay(RestartDelay::Backoff(hour));
            cluster.worker(async |worker| probe::idle(&worker).await).main()
        },
        check: |master| {
            master.expect_ready();
            assert_eq!(master.ask(&Order::AllReady, ""), "all ready");
            send(pids(master)[1], Signal::SIGKILL);
            master.expect("restart_scheduled");
            master.order(&Order::Reload(Care {
                probation_ms: 3_600_000,
                ..Care::default()
            }));
            master.once(3, "ready");
            let snapshot = master.snapshot();
            assert_eq!(
                (&snapshot["ready"], &snapshot["counts"]["ready"]),
                (&2.into(), &1.into())
            );
            let once = Order::Dropped(Box::new(Order::AllReady), 1);
            assert_eq!(master.ask(&once, ""), "dropped");
            // It would wait for an hour.
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
        },
    },
    Scenario {
        name: "f_015_new_code_that_dies_just_after_it_got_ready_fails_its_step",
        app: || load::cluster().workers(3).worker(new_dies_when_ready).main(),
        check: dies_when_ready,
    },
    Scenario {
        name: "f_169_new_code_that_serves_and_crashes_200_ms_after_ready_costs_no_request",
        app: || load::cluster().workers(4).worker(new_serves_and_crashes).main(),
        check: crashes_while_trusted_with_nothing,
    },
    Scenario {
        name: "f_174_a_worker_that_dies_after_the_new_generation_is_proven_is_replaced_by_the_new",
        app: || load::cluster().workers(3).main(),
        check: |master| {
            master.expect_ready();
            let old = pids(master);
            master.order(&Order::Reload(Care {
                pause_ms: 500,
                ..Care::default()
            }));
            // The first is replaced, the others wait for the end of the pause.
            master.once(1, "exit");
            send(old[2], Signal::SIGKILL);
            master.once(3, "exit");
            let ready = master.expect_line("a successor", SOON, |line| {
                line["event"] == "ready" && line["worker"]["slot"]["index"] == 2
            });
            assert_eq!(generation(&ready), 1);
            master.hears("reloaded 1");
            runs(master, 3, 1);
            assert!(master.seen("fork").iter().skip(3).all(|fork| generation(&fork.0) == 1));
        },
    },
    Scenario {
        name: "f_173_a_stop_in_any_phase_of_a_reload_ends_it_and_everybody",
        app: || load::cluster().workers(3).worker(may_be_held).main(),
        check: stops_in_every_phase,
    },
    Scenario {
        name: "f_189_a_caller_that_goes_away_at_any_await_point_leaves_the_cluster_whole",
        app: || load::cluster().workers(2).main(),
        check: callers_go_away,
    },
    Scenario {
        name: "f_189_a_caller_that_goes_away_does_not_take_its_stop_along",
        app: || load::cluster().workers(2).main(),
        check: |master| {
            master.expect_ready();
            // Never polled: never asked.
            master.ask(&Order::Dropped(Box::new(Order::Shutdown), 0), "dropped");
            master.post();
            assert!(master.seen("shutdown_started").is_empty());
            // Polled again: the supervisor has heard it.
            master.order(&Order::Dropped(Box::new(Order::Shutdown), 2));
            assert_eq!(master.wait().code(), Some(0));
            assert_eq!(master.seen("exit").len(), 2);
        },
    },
    Scenario {
        name: "f_189_a_caller_that_goes_away_while_a_reload_fails_gets_it_rolled_back_all_the_same",
        app: || load::cluster().workers(2).worker(new_is_held).main(),
        check: |master| {
            master.expect_ready();
            let old = pids(master);
            let doomed = Care {
                step_ms: Some(200),
                ..Care::default()
            };
            master.ask(&Order::Dropped(Box::new(Order::Reload(doomed)), 2), "dropped");
            assert_eq!(next_result(master)["Err"]["reason"], "not_ready_in_time");
            assert_eq!(pids(master), old);
            open(master, 2);
            assert_eq!(master.ask(&Order::Reload(Care::default()), "reloaded "), "2");
        },
    },
];

/// Holds the numbers that a worker and a zygote find their descriptors under, until all are ready for the first time.
fn let_go_when_all_are_ready() -> impl FnMut(&ClusterEvent, &ClusterHandle) + Send + 'static {
    let null = || fs::File::open("/dev/null").expect("there are descriptors");
    let mut held: Vec<_> = (0..8).filter(|_| is_master()).map(|_| null()).collect();
    assert!(!is_master() || held[0].as_raw_fd() == 3, "nothing was opened before");
    move |event, _| {
        if matches!(event.kind, EventKind::AllReady { .. }) && !held.is_empty() {
            held.clear();
            probe::say("low numbers are free");
        }
    }
}

/// Says that it is ready and ends a moment later, before anybody can have had anything to do with it.
async fn new_dies_when_ready(worker: Worker) -> Result<(), ServeError> {
    if worker.generation().0 > 0 {
        worker.ready();
        load::busy(Duration::from_millis(1)).await;
        worker.exit_now(7);
    }
    load::serve(worker).await
}

fn dies_when_ready(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let old = pids(master);
    let load = Load::start(port, 3);
    load.goes_on_for(50);
    for _ in 0..5 {
        let why = master.ask(&Order::Reload(Care::default()), "not reloaded: ");
        assert!(why.contains("it ended: exit code 7"), "{why}");
        master.post();
        runs(master, 3, 0);
    }
    // Without probation a newcomer was believed for a moment, and its predecessor went. On probation nobody does.
    assert_ne!(pids(master), old);
    let before = pids(master);
    let probation = Care {
        probation_ms: 200,
        ..Care::default()
    };
    let why = master.ask(&Order::Reload(probation), "not reloaded: ");
    assert!(why.contains("it ended: exit code 7"), "{why}");
    assert_eq!(pids(master), before);
    load.stop().is_flawless();
}

/// Serves like the others, and crashes a fifth of a second after it got ready.
async fn new_serves_and_crashes(worker: Worker) -> Result<(), ServeError> {
    if worker.generation().0 > 0 {
        actix_rt::spawn(async {
            load::busy(Duration::from_millis(200)).await;
            std::process::abort();
        });
    }
    load::serve(worker).await
}

fn crashes_while_trusted_with_nothing(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let old = pids(master);
    let load = Load::start(port, 4);
    load.goes_on_for(100);
    for surge in [1, 4] {
        let why = master.ask(
            &Order::Reload(Care {
                surge: Some(surge),
                probation_ms: 2_000,
                ..Care::default()
            }),
            "not reloaded: ",
        );
        assert!(why.contains("it ended: ") && why.contains("SIGABRT"), "{why}");
        load.goes_on_for(100);
        assert_eq!(pids(master), old, "who served was touched");
    }
    let outcome = load.stop();
    outcome.is_flawless();
    assert_eq!(
        outcome.generations,
        [0].into(),
        "a newcomer on probation was given requests"
    );
    for ready in master.seen("ready").iter().filter(|ready| generation(&ready.0) > 0) {
        master.once(ready.worker(), "exit");
    }
}

/// Waits, before it serves, for as long as there is a file of its generation's hold.
async fn may_be_held(worker: Worker) -> Result<(), ServeError> {
    if Path::new(&format!("hold{}", worker.generation())).exists() {
        held(&worker, "never").await;
    }
    load::serve(worker).await
}

/// A phase of a reload: how to get into it, and the event that tells of it.
struct Phase {
    name: &'static str,
    care: Care,
    hold: &'static [u32],
    begins: fn(&Master),
}

fn phases() -> [Phase; 6] {
    let minute = 60_000;
    [
        Phase {
            name: "a newcomer boots",
            care: Care::default(),
            hold: &[1],
            begins: |master| new_one(master, 1, "online"),
        },
        Phase {
            name: "a newcomer is on probation",
            care: Care {
                probation_ms: minute,
                ..Care::default()
            },
            hold: &[],
            begins: |master| new_one(master, 1, "ready"),
        },
        Phase {
            name: "a predecessor leaves",
            care: Care::default(),
            hold: &[],
            begins: |master| drop(master.expect("exiting")),
        },
        Phase {
            name: "a pause",
            care: Care {
                pause_ms: minute,
                ..Care::default()
            },
            hold: &[],
            begins: |master| drop(master.expect("exit")),
        },
        Phase {
            name: "a canary bakes",
            care: Care {
                canary: Some((1, minute)),
                ..Care::default()
            },
            hold: &[],
            begins: |master| drop(master.expect("exit")),
        },
        Phase {
            name: "the way back",
            care: Care {
                canary: Some((1, limit(Duration::from_secs(1)).as_millis() as u64)),
                verdict: Some(Err("no".to_owned())),
                ..Care::default()
            },
            hold: &[],
            begins: |master| {
                new_one(master, 1, "ready");
                fs::write(master.directory().join("hold0"), "").unwrap();
                new_one(master, 0, "online");
            },
        },
    ]
}

fn new_one(master: &Master, of: u64, event: &str) {
    master.expect_line(event, SOON, |line| line["event"] == event && generation(line) == of);
}

fn stops_in_every_phase(first: &mut Master) {
    first.expect_ready();
    for phase in phases() {
        for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
            let mut master = Master::start(first.name());
            master.expect_ready();
            for generation in phase.hold {
                fs::write(master.directory().join(format!("hold{generation}")), "").unwrap();
            }
            master.order(&Order::Reload(phase.care.clone()));
            (phase.begins)(&master);
            master.signal(signal);
            let wanted = if signal == Signal::SIGTERM { 0 } else { 131 };
            assert_eq!(master.wait().code(), Some(wanted), "{}", phase.name);
            let finished = master.seen("reload_finished");
            let results: Vec<&Value> = finished.iter().map(|seen| &seen.data()["result"]).collect();
            let stopped = json!({"Err": {"worker": null, "reason": "shutting_down"}});
            assert_eq!(results, [&stopped], "{}", phase.name);
            assert_eq!(master.seen("exit").len(), master.seen("fork").len(), "{}", phase.name);
            // Answered, too: no caller is left alone.
            assert_eq!(
                master.count_said("not reloaded: the cluster is stopping"),
                1,
                "{}",
                phase.name
            );
            master.finish();
        }
    }
}

fn callers_go_away(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let load = Load::start(port, 2);
    let mut answers = 0;
    // A command has three await points: its way there, its way back, and its end.
    for polls in 0..=4 {
        let spec = || format!("more{polls}");
        let orders = [
            Order::Reload(Care::default()),
            Order::Scale(2 + polls % 2),
            Order::Fork(Vec::new()),
            Order::AddSpec(spec(), 1),
            Order::Spec("stop".to_owned(), spec()),
            Order::Spec("delete".to_owned(), spec()),
            Order::Recycle(1, "a whim".to_owned()),
            Order::Restart(2),
            Order::Spec("stop".to_owned(), "no such spec".to_owned()),
            Order::Reload(Care {
                queue: true,
                ..Care::default()
            }),
        ];
        answers += orders.len();
        for order in orders {
            master.order(&Order::Dropped(Box::new(order), polls));
        }
        let answered = |master: &Master| master.count_said("dropped") + master.count_said("not dropped");
        master.until("all to be dropped or done", |master| answered(master) == answers);
        // Whatever became of them: nothing is stuck, and whoever asks now is answered.
        // One that is answered first: the orders are taken in the order in which they came.
        master.ask(&Order::Setup(Change::default()), "settings ");
        while !master.snapshot()["reloading"].is_null() {}
        master.ask(&Order::Reload(Care::default()), "reloaded ");
        for (order, done) in [
            (Order::Spec("stop".to_owned(), spec()), "stop done"),
            (Order::Spec("delete".to_owned(), spec()), "delete done"),
        ] {
            let answer = master.ask(&order, "");
            assert!(answer == done || answer.contains("error no spec named"), "{answer}");
        }
        assert_eq!(master.ask(&Order::Scale(2), "scaled "), "2");
        master.post();
        let gone = |master: &Master| master.seen("fork").len() - master.seen("exit").len() == 2;
        master.until("those who leave to be gone", gone);
        let snapshot = master.snapshot();
        assert_eq!(
            (&snapshot["ready"], &snapshot["target"]),
            (&2.into(), &2.into()),
            "{polls}: {snapshot}"
        );
    }
    load.stop().is_flawless();
}
