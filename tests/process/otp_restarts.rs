//! Erlang's supervisor: ends that are wanted, and restarts that fail again and again.

use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use actix_cluster::{
    ClusterBuilder, OneForAll, ReadyWhen, RestForOne, RestartDelay, RestartIntensity, RestartLimit, RestartType,
    Worker, WorkerSpec, is_worker,
};
use actix_cluster_tests::leftovers::rss_kib;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "o_038_the_start_data_of_a_temporary_worker_that_crashed_is_not_kept",
        app: || {
            let cluster = probe::cluster().restart(RestartType::Temporary);
            cluster.worker(crash_with_data).main()
        },
        check: |master| {
            master.expect_ready();
            // What a master needs once, and what the allocator keeps for the next time, is there after some.
            crash_with_big_data(master, 10);
            let before = rss_kib(master.pid()).unwrap();
            crash_with_big_data(master, 60);
            let after = rss_kib(master.pid()).unwrap();
            // 60 times 480 KiB are 28 MiB.
            assert!(after < before + 8 * 1024, "{before} KiB, then {after} KiB");
            assert_eq!(master.snapshot()["slots"].as_array().unwrap().len(), 1);
        },
    },
    Scenario {
        name: "o_046_o_047_o_048_a_worker_that_is_done_comes_back_as_its_restart_type_says",
        app: || {
            let spec = |name: &str, restart| {
                WorkerSpec::new(name, 1)
                    .restart(restart)
                    .restart_delay(RestartDelay::AtOnce)
            };
            let cluster = probe::cluster().name("permanent");
            let cluster = cluster.spec(spec("transient", RestartType::Transient));
            cluster
                .spec(spec("temporary", RestartType::Temporary))
                .worker(done)
                .main()
        },
        check: |master| {
            master.expect_ready();
            let (mut permanent, mut transient, mut temporary) = (1, 2, 3);
            // Both ways to be done: it said so, or it just returned 0.
            for (how, reason) in [("disconnect", "voluntary"), ("return", "crash")] {
                for worker in [permanent, transient, temporary] {
                    master.order(&Order::Send(worker, how.to_owned()));
                    let exit = master.sees(worker, "exit");
                    assert_eq!((exit.code(), exit.reason()), (Some(0), &reason.into()));
                }
                permanent = ready_in(master, "permanent");
                let kept = slot(master, "transient");
                assert_eq!((&kept["state"], &kept["worker"]), (&"stopped".into(), &Value::Null));
                let slots = master.snapshot()["slots"].clone();
                let is_temporary = |slot: &Value| slot["slot"]["spec"] == "temporary";
                assert!(!slots.as_array().unwrap().iter().any(is_temporary), "{slots}");
                // By hand: the one is still there, the other's name is free.
                assert!(spec(master, "add", "transient").starts_with("error there is a stopped spec"));
                assert_eq!(spec(master, "restart", "transient"), "done");
                assert_eq!(spec(master, "add", "temporary"), "done");
                (transient, temporary) = (ready_in(master, "transient"), ready_in(master, "temporary"));
            }
            let restarted = master.seen("restart_scheduled");
            assert_eq!(restarted.len(), 2);
            assert!(
                restarted
                    .iter()
                    .all(|restart| restart.data()["slot"]["spec"] == "permanent")
            );
        },
    },
    Scenario {
        name: "o_041_a_later_spec_that_cannot_be_started_again_ends_the_cluster",
        app: || {
            let cluster = looping().strategy(RestForOne);
            let three = RestartIntensity::new(3, std::time::Duration::from_secs(3_600));
            cluster.restart_intensity(three).worker(obedient).main()
        },
        check: |master| {
            let pids = break_the_loop(master);
            send(pids[0], Signal::SIGKILL);
            assert_eq!(master.expect("gave_up").data()["cluster"]["limit"], 3);
            assert_eq!(master.wait().code(), Some(1));
            // The first came up again in vain, and everybody is stopped.
            assert_eq!(master.seen("exit").len(), master.seen("fork").len());
            let errors = master.seen("error");
            assert_eq!(errors.len(), 3, "{errors:?}");
            assert!(errors.iter().all(|error| error.0["worker"]["slot"]["spec"] == "loop"));
        },
    },
    Scenario {
        name: "o_078_a_restart_that_fails_for_ever_keeps_nobody_waiting",
        app: || looping().worker(obedient).main(),
        check: |master| {
            let pids = break_the_loop(master);
            send(pids[1], Signal::SIGKILL);
            master.sees(2, "exit");
            many_failures(master, 5);
            is_restarting(master, "loop");
            // The others serve and are listed; only those who live are counted as active.
            let counts = &master.snapshot()["counts"];
            assert_eq!(
                (&counts["specs"], &counts["workers"], &counts["ready"]),
                (&3.into(), &3.into(), &2.into())
            );
            // It is stopped at once; then nothing is tried any more, and it can be started by hand in vain.
            assert_eq!(spec(master, "stop", "loop"), "done");
            assert_eq!(slot(master, "loop")["state"], "stopped");
            assert!(spec(master, "restart", "loop").starts_with("error spec loop could not start: worker "));
            assert_eq!(slot(master, "loop")["state"], "stopped");
            // The cause goes away: it comes back.
            allow_program(&master.directory().join(PROGRAM), true);
            assert_eq!(spec(master, "restart", "loop"), "done");
            let pid = pid_of(master, "loop");
            allow_program(&master.directory().join(PROGRAM), false);
            send(pid, Signal::SIGKILL);
            many_failures(master, 5);
            // `finish` would wait until all are ready; the master is stopped while the loop goes on.
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
        },
    },
    Scenario {
        name: "o_079_a_group_that_cannot_be_restarted_keeps_nobody_waiting",
        app: || looping().strategy(RestForOne).worker(obedient).main(),
        check: |master| {
            let pids = break_the_loop(master);
            send(pids[1], Signal::SIGKILL);
            many_failures(master, 5);
            for name in ["loop", "last"] {
                is_restarting(master, name);
                assert_eq!(between_attempts(master, name)["worker"], Value::Null);
            }
            // The earlier one has kept its process.
            assert_eq!(pid_of(master, "first"), pids[0]);
            allow_program(&master.directory().join(PROGRAM), true);
            master.until("the group is up", |master| {
                let ready = master.seen("ready");
                ready
                    .iter()
                    .filter(|ready| ready.0["worker"]["slot"]["spec"] == "last")
                    .count()
                    == 2
            });
            assert_eq!(pid_of(master, "first"), pids[0]);
        },
    },
    Scenario {
        name: "o_079_a_group_of_all_that_cannot_be_restarted_is_stopped_at_once",
        app: || looping().strategy(OneForAll).worker(obedient).main(),
        check: |master| {
            let pids = break_the_loop(master);
            send(pids[1], Signal::SIGKILL);
            // The first is started and stopped again with each try.
            many_failures(master, 3);
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
            assert_eq!(master.seen("exit").len(), master.seen("fork").len());
        },
    },
    Scenario {
        name: "o_080_a_slot_among_many_that_cannot_be_restarted_keeps_nobody_waiting",
        app: || {
            if is_worker() && fs::exists("broken").unwrap_or_default() {
                return ExitCode::from(3);
            }
            let cluster = probe::cluster().name("many").workers(3);
            cluster.restart_limit(RestartLimit::unlimited()).worker(obedient).main()
        },
        check: |master| {
            master.expect_ready();
            let pids = crate::reload::pids(master);
            fs::write(master.directory().join("broken"), "").unwrap();
            send(pids[1], Signal::SIGKILL);
            // Here each try is a process, which ends at once.
            master.until("some failures", |master| master.seen("restart_scheduled").len() > 5);
            assert!(spec(master, "delete", "many").starts_with("error spec many is running"));
            let restart = spec(master, "restart", "many");
            assert!(restart.starts_with("error spec many is running"), "{restart}");
            // The neighbours keep their processes.
            let alive = crate::reload::pids(master);
            assert!(
                alive.contains(&pids[0]) && alive.contains(&pids[2]),
                "{pids:?} {alive:?}"
            );
            // Scaling down takes the one that is not there first.
            assert_eq!(master.ask(&Order::Scale(2), "scaled "), "2");
            master.until("its last try ends", |master| {
                master.seen("exit").len() == master.seen("fork").len() - 2
            });
            assert_eq!(crate::reload::pids(master), [pids[0], pids[2]]);
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
        },
    },
];

/// Three specs: `first` and `last` are obedient, `loop` is a foreign program, restarted at once and without end.
fn looping() -> ClusterBuilder {
    let restarted = |name: &str| {
        let spec = WorkerSpec::new(name, 1).restart_limit(RestartLimit::unlimited());
        spec.restart_delay(RestartDelay::AtOnce)
    };
    let program = restarted("loop").exec(format!("./{PROGRAM}")).args(["3600"]);
    if !is_worker() {
        fs::write(PROGRAM, "#!/bin/sh\nexec sleep \"$@\"\n").expect("the private directory is writable");
        allow_program(Path::new(PROGRAM), true);
    }
    // An error is shown for each failure; that is enough.
    let shown = |event: &actix_cluster::ClusterEvent| event.kind.name() != "restart_scheduled";
    probe::cluster_showing(shown)
        .name("first")
        .restart_limit(RestartLimit::unlimited())
        .ready_when(ReadyWhen::Spawned)
        .spec(program)
        .spec(restarted("last"))
}

/// Waits until everybody is ready and takes the program away; the process ids in the order of the specs.
fn break_the_loop(master: &mut Master) -> Vec<u32> {
    master.expect_ready();
    allow_program(&master.directory().join(PROGRAM), false);
    crate::reload::pids(master)
}

fn many_failures(master: &Master, more: usize) {
    let before = master.seen("error").len();
    master.until("more failures", |master| master.seen("error").len() > before + more);
}

/// What OTP calls restarting, said at once and not when it is over.
fn is_restarting(master: &mut Master, name: &str) {
    let state = between_attempts(master, name)["state"].clone();
    let is_to_come = state == "held" || state == "queued" || state["waiting"].is_object();
    assert!(is_to_come, "{state}");
    for word in ["restart", "delete"] {
        let restarting = format!("error spec {name} is being restarted: stop it first");
        let attempted = format!("error spec {name} is running: stop it first");
        let deadline = Deadline::after(limit(SOON));
        loop {
            let refused = spec(master, word, name);
            if refused == restarting {
                break;
            }
            assert_eq!(refused, attempted);
            assert!(!deadline.is_over(), "it was never asked between two attempts");
        }
    }
}

/// The slot while nobody is being started in it: in an attempt it is filled, until that has failed.
fn between_attempts(master: &mut Master, name: &str) -> Value {
    let deadline = Deadline::after(limit(SOON));
    loop {
        let found = slot(master, name);
        if found["state"] != "filled" {
            return found;
        }
        assert!(!deadline.is_over(), "{found}");
    }
}

fn spec(master: &mut Master, word: &str, name: &str) -> String {
    master.ask(&Order::Spec(word.to_owned(), name.to_owned()), &format!("{word} "))
}

fn slot(master: &mut Master, spec: &str) -> Value {
    let snapshot = master.snapshot();
    let mut slots = snapshot["slots"].as_array().unwrap().iter();
    slots.find(|slot| slot["slot"]["spec"] == spec).cloned().unwrap()
}

fn pid_of(master: &mut Master, spec: &str) -> u32 {
    let worker = slot(master, spec)["worker"].as_u64().expect("it runs");
    master.sees(worker, "fork").pid()
}

/// Waits until the spec's newest worker is ready; its id.
fn ready_in(master: &mut Master, spec: &str) -> u64 {
    loop {
        let worker = slot(master, spec)["worker"].clone();
        if let Some(worker) = worker.as_u64() {
            return master.sees(worker, "ready").worker();
        }
    }
}

fn crash_with_big_data(master: &mut Master, times: usize) {
    let big = "x".repeat(120 << 10);
    for _ in 0..times {
        let env = ["A", "B", "C", "D"].map(|name| (name.to_owned(), big.clone()));
        let worker: u64 = master.ask(&Order::Fork(env.into()), "forked ").parse().unwrap();
        assert_eq!(master.sees(worker, "exit").code(), Some(3));
    }
}

async fn crash_with_data(worker: Worker) {
    if std::env::var_os("A").is_some() {
        worker.exit_now(3);
    }
    probe::idle(&worker).await;
}

/// Ends as the message says: with a word, or without one.
async fn done(worker: Worker) {
    let mut messages = worker.messages().expect("nobody took them before");
    tokio::select! {
        message = messages.next() => match probe::text_of(&message.expect("the master lives")).as_str() {
            "return" => exit_without_a_word(0),
            _ => worker.disconnect(),
        },
        () = worker.shutdown().started() => {}
    }
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "user code that ends the process past the library"
)]
fn exit_without_a_word(code: i32) -> ! {
    std::process::exit(code)
}

async fn obedient(worker: Worker) {
    probe::do_as_told(&worker);
    probe::idle(&worker).await;
}

/// In the private directory.
const PROGRAM: &str = "program";

/// May it be executed? Removing it would not do: the master holds it open, and runs what it holds.
fn allow_program(program: &Path, yes: bool) {
    let mode = if yes { 0o755 } else { 0o644 };
    fs::set_permissions(program, Permissions::from_mode(mode)).expect("it is ours");
}
