//! The life of a zygote: it is used, replaced, never waited for in vain, and gone with its generation and its master.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use actix_cluster::{ClusterBuilder, RestartLimit, SpawnMethod, WhenEmpty, Worker, WorkerSpec, is_master};
use actix_cluster_tests::leftovers::{children_of, open_fds};
use actix_cluster_tests::master::{Master, SOON, ZYGOTE_PATIENCE_VAR, send};
use actix_cluster_tests::outside::{any_below, let_pass};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::puppet::{self, tell};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit, load};
use nix::sys::signal::Signal;

use crate::master_death::gone_in_time;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a_zygote_makes_every_worker_and_every_successor_and_keeps_nothing_of_them",
        app: || storming(3),
        check: makes_every_worker,
    },
    Scenario {
        name: "a_zygote_that_is_killed_is_replaced_and_nobody_waits_for_it",
        app: || storming(2),
        check: killed,
    },
    Scenario {
        name: "a_zygote_that_is_stopped_costs_one_wait_and_no_worker_twice",
        app: || storming(2),
        check: stopped,
    },
    Scenario {
        name: "a_zygote_that_dies_at_any_instant_costs_no_worker_and_makes_none_twice",
        app: || storming(2),
        check: killed_at_any_instant,
    },
    Scenario {
        name: "f_140_f_141_a_zygote_and_its_workers_die_with_their_master_at_any_instant",
        app: || storming(3),
        check: master_killed,
    },
    Scenario {
        name: "a_reload_brings_a_zygote_of_the_new_program_and_ends_the_old_one",
        app: || {
            if is_master() && std::env::current_exe().is_ok_and(|path| !path.ends_with("copy")) {
                fs::copy("/proc/self/exe", "copy").expect("the directory is writable");
                let error = Command::new("./copy").stdin(Stdio::inherit()).exec();
                panic!("cannot run the copy: {error}");
            }
            load::cluster().spawn(SpawnMethod::Zygote).workers(2).main()
        },
        check: reload,
    },
    Scenario {
        name: "what_no_zygote_can_make_is_executed",
        app: || {
            let shell = WorkerSpec::new("shell", 1)
                .exec("/bin/sh")
                .args(["-c", "exec sleep 600"]);
            let own = WorkerSpec::new("own", 1).spawn(SpawnMethod::Exec);
            forking()
                .spawn(SpawnMethod::Zygote)
                .workers(1)
                .spec(shell)
                .spec(own)
                .worker(puppet::run)
                .main()
        },
        check: executed,
    },
    Scenario {
        name: "kill_tree_output_and_flight_recorder_work_for_a_zygotes_worker",
        app: || {
            let cluster = probe::cluster().spawn(SpawnMethod::Zygote).silent();
            let cluster = cluster.kill_tree(true).flight_recorder(8 << 10);
            cluster.worker(with_a_helper).main()
        },
        check: means_of_a_worker,
    },
    Scenario {
        name: "a_cluster_that_has_ended_leaves_no_zygote_behind_in_a_program_that_goes_on",
        app: || {
            let ended = storm(1).run();
            if is_master() {
                let children = children_of(std::process::id()).expect("proc is mounted");
                probe::say(&format!("children {}", children.len()));
            }
            if ended.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        },
        check: |master| {
            master.expect_ready();
            assert!(zygote_of(master).is_some());
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
            assert_eq!(master.said("children ").len(), 1);
            assert_eq!(master.said("children ")[0].0, "0");
        },
    },
];

fn storm(workers: u32) -> ClusterBuilder {
    let cluster = probe::cluster().spawn(SpawnMethod::Zygote).workers(workers);
    cluster.restart_limit(RestartLimit::unlimited()).worker(puppet::run)
}

fn storming(workers: u32) -> ExitCode {
    storm(workers).main()
}

/// A cluster that starts empty, for forks.
pub(crate) fn forking() -> ClusterBuilder {
    probe::cluster().workers(0).when_empty(WhenEmpty::Wait)
}

/// Was this process copied from another one, and never executed a program (the kernel's `PF_FORKNOEXEC`)?
pub(crate) fn is_copy(pid: u32) -> bool {
    is_copy_if_it_lives(pid).expect("it lives")
}

fn is_copy_if_it_lives(pid: u32) -> Option<bool> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let flags: u64 = fields.split(' ').nth(6)?.parse().ok()?;
    Some(flags & 0x40 != 0)
}

fn zygotes_of(master: &Master) -> Vec<u32> {
    let children = children_of(master.pid()).expect("proc is mounted");
    let named = children
        .into_iter()
        .filter(|child| child.comm == "zygote" && child.state != 'Z');
    // A worker is called so, too, for a moment.
    let is_one = |pid: &u32| is_copy_if_it_lives(*pid) == Some(false);
    named.map(|child| child.pid).filter(is_one).collect()
}

fn zygote_of(master: &Master) -> Option<u32> {
    zygotes_of(master).first().copied()
}

/// Waits until there is a zygote that is not `old`.
fn next_zygote(master: &Master, old: u32) -> u32 {
    let deadline = Deadline::after(limit(SOON));
    loop {
        if let Some(new) = zygotes_of(master).into_iter().find(|pid| *pid != old) {
            return new;
        }
        assert!(!deadline.is_over(), "no new zygote");
        std::thread::yield_now();
    }
}

/// Ends the worker and waits for its successor, whose number is one more than the highest so far; its process.
fn replace(master: &Master, pid: u32, successor: u64) -> u32 {
    send(pid, Signal::SIGKILL);
    master.once(successor, "ready").pid()
}

/// As many children as there are slots, and one zygote: nobody was started twice.
fn nobody_twice(master: &mut Master, workers: usize) {
    master.post();
    let deadline = Deadline::after(limit(SOON));
    loop {
        let children = children_of(master.pid()).expect("proc is mounted");
        if children.len() == workers + 1 && zygotes_of(master).len() == 1 {
            return;
        }
        if deadline.is_over() {
            master.fail(&format!("{workers} workers and a zygote are not {children:?}"));
        }
        std::thread::yield_now();
    }
}

fn makes_every_worker(master: &mut Master) {
    master.expect_ready();
    let zygote = zygote_of(master).expect("there is one");
    let mut pids: Vec<u32> = (1..=3).map(|id| master.once(id, "ready").pid()).collect();
    assert!(pids.iter().all(|pid| is_copy(*pid)));
    let (of_master, of_zygote) = (open_fds(master.pid()).unwrap(), open_fds(zygote).unwrap());
    for round in 0..30 {
        let next = replace(master, pids.remove(0), 4 + round);
        assert!(is_copy(next));
        pids.push(next);
    }
    nobody_twice(master, 3);
    assert_eq!(zygote_of(master), Some(zygote));
    // A worker's channel is closed after its exit was told.
    let deadline = Deadline::after(limit(SOON));
    let now = || (open_fds(zygote).unwrap(), open_fds(master.pid()).unwrap());
    while now() != (of_zygote, of_master) {
        assert!(
            !deadline.is_over(),
            "{:?}, not {:?} descriptors",
            now(),
            (of_zygote, of_master)
        );
        std::thread::yield_now();
    }
    assert_eq!(tell(master, 33, "echo still there"), "still there");
}

fn killed(master: &mut Master) {
    master.expect_ready();
    let zygote = zygote_of(master).expect("there is one");
    send(zygote, Signal::SIGKILL);
    let second = next_zygote(master, zygote);
    master.expect_log("a zygote is lost", 1);
    // Killed and needed at once: the worker is executed, or made by the next one.
    send(second, Signal::SIGKILL);
    let pid = master.once(1, "ready").pid();
    replace(master, pid, 3);
    next_zygote(master, second);
    nobody_twice(master, 2);
    // And the new one is used.
    let deadline = Deadline::after(limit(SOON));
    let mut last = master.once(3, "ready").pid();
    for successor in 4.. {
        last = replace(master, last, successor);
        if is_copy(last) {
            break;
        }
        assert!(!deadline.is_over(), "the next zygote is not used");
    }
    nobody_twice(master, 2);
}

fn stopped(master: &mut Master) {
    // With the patience that masters have outside of tests.
    *master = Master::start_with(master.name(), |command| {
        command.env_remove(ZYGOTE_PATIENCE_VAR);
    });
    master.expect_ready();
    let zygote = zygote_of(master).expect("there is one");
    master.stop_process(zygote);
    let pid = master.once(1, "ready").pid();
    let next = replace(master, pid, 3);
    assert!(!is_copy(next));
    master.expect_log("a zygote is lost", 1);
    master.expect_dead(zygote, SOON);
    let second = next_zygote(master, zygote);
    assert_ne!(second, zygote);
    nobody_twice(master, 2);
}

fn killed_at_any_instant(master: &mut Master) {
    master.expect_ready();
    let mut chance = 11;
    let mut last = master.once(2, "ready").pid();
    let rounds = if std::env::var_os("ACTIX_CLUSTER_SOAK").is_some() {
        300
    } else {
        40
    };
    for round in 0..rounds {
        let zygote = zygote_of(master);
        send(last, Signal::SIGKILL);
        let_pass(Duration::from_micros(any_below(2_000, &mut chance)));
        if let Some(zygote) = zygote {
            let how = if round % 3 == 0 {
                Signal::SIGSTOP
            } else {
                Signal::SIGKILL
            };
            send(zygote, how);
        }
        last = master.once(3 + round, "ready").pid();
    }
    // A stopped one is noticed when it is needed.
    for zygote in zygotes_of(master) {
        send(zygote, Signal::SIGKILL);
    }
    let exits = master.seen("exit").len();
    assert_eq!(exits as u64, rounds);
    master.post();
    let children = children_of(master.pid()).unwrap();
    let zygotes = zygotes_of(master);
    let others: Vec<_> = children.iter().filter(|child| !zygotes.contains(&child.pid)).collect();
    assert!(others.len() <= 3, "{others:?}");
    let snapshot = master.snapshot();
    assert_eq!(snapshot["workers"].as_array().unwrap().len(), 2);
}

fn master_killed(master: &mut Master) {
    master.expect_ready();
    let start = master.snapshot()["uptime_ms"].as_f64().expect("an uptime is a number");
    let span = ((start * 2_000.0) as u64).clamp(10_000, 200_000);
    let mut chance = 5;
    for round in 0..30 {
        let mut other = Master::start(master.name());
        if round % 2 == 0 {
            let_pass(Duration::from_micros(any_below(span, &mut chance)));
        } else {
            other.expect_ready();
            for victim in &other.seen("fork")[..1 + round % 3] {
                send(victim.pid(), Signal::SIGKILL);
            }
            if round % 5 == 0
                && let Some(zygote) = zygote_of(&other)
            {
                send(zygote, Signal::SIGSTOP);
            }
            let_pass(Duration::from_micros(any_below(5_000, &mut chance)));
        }
        other.signal(Signal::SIGKILL);
        gone_in_time(&mut other);
        other.finish();
    }
}

fn reload(master: &mut Master) {
    master.expect_ready();
    let old = zygote_of(master).expect("there is one");
    let (copy, other) = (master.directory().join("copy"), master.directory().join("other"));
    fs::copy(&copy, &other).unwrap();
    fs::rename(&other, &copy).unwrap();
    let inode = fs::metadata(&copy).unwrap().ino();
    master.signal(Signal::SIGHUP);
    master.expect("reload_finished");
    master.expect_dead(old, SOON);
    let new = next_zygote(master, old);
    nobody_twice(master, 2);
    let runs = |pid: u32| fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino();
    assert_eq!(runs(new), inode);
    for child in children_of(master.pid()).unwrap() {
        assert_eq!(runs(child.pid), inode);
        assert!(child.pid == new || is_copy(child.pid));
    }
}

fn executed(master: &mut Master) {
    // The three specs.
    master.expect_ready();
    let is_made = |master: &Master, id: u64| is_copy(master.once(id, "fork").pid());
    assert_eq!([1, 2, 3].map(|id| is_made(master, id)), [true, false, false]);
    let fork = |master: &mut Master, name: &str, value: &str| {
        let env = vec![(name.to_owned(), value.to_owned())];
        let id: u64 = master.ask(&Order::Fork(env), "forked ").parse().unwrap();
        master.once(id, "ready");
        assert_eq!(tell(master, id, &format!("env-bytes {name}")), value.len().to_string());
        is_made(master, id)
    };
    assert!(fork(master, "plain", "x"));
    assert!(!fork(master, "MALLOC_ARENA_MAX", "1"));
    assert!(!fork(master, "LD_BIND_NOW", "1"));
    let large = "x".repeat(100_000);
    assert!(fork(master, "large", &large));
    let two = vec![("one".to_owned(), large.clone()), ("two".to_owned(), large)];
    let id: u64 = master.ask(&Order::Fork(two), "forked ").parse().unwrap();
    master.once(id, "ready");
    assert!(!is_made(master, id));
    assert!(!master.log().contains("a zygote is lost"));
}

/// Starts a process of its own, says who it is, and waits.
async fn with_a_helper(worker: Worker) {
    let mut sleep = Command::new("sleep");
    let sleep = sleep.arg("600").stdout(Stdio::null()).stderr(Stdio::null());
    let mut helper = sleep.spawn().expect("sleep can be started");
    worker.mark("about to be killed");
    println!("helper {}", helper.id());
    eprintln!("complaint");
    probe::idle(&worker).await;
    helper.wait().expect("it is a child");
}

fn means_of_a_worker(master: &mut Master) {
    let pid = master.once(1, "ready").pid();
    assert!(is_copy(pid));
    let line_of = |stream: &str, begins: &str| {
        let is_it = |line: &serde_json::Value| {
            let data = &line["data"];
            let begins_so = data["line"].as_str().is_some_and(|text| text.starts_with(begins));
            line["event"] == "output" && data["stream"] == stream && begins_so
        };
        let line = master.expect_at_least(1, is_it).swap_remove(0);
        line.data()["line"].as_str().unwrap_or_default().to_owned()
    };
    line_of("stderr", "complaint");
    let helper = line_of("stdout", "helper ");
    let helper: u32 = helper.trim_start_matches("helper ").parse().unwrap();
    send(pid, Signal::SIGKILL);
    let exit = master.once(1, "exit");
    assert!(
        exit.data()["last_words"].to_string().contains("about to be killed"),
        "{:?}",
        exit.0
    );
    master.expect_dead(helper, SOON);
    assert!(is_copy(master.once(2, "ready").pid()));
}
