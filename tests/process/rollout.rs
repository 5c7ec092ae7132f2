//! The command `rollout` of the examples: a bad program never takes the service down, and the command says so.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{ServeError, Worker, is_worker};
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, leftovers, limit};
use nix::sys::signal::Signal;
use serde_json::Value;

#[path = "../../examples/rollout.rs"]
mod command;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_167_a_program_that_ends_at_boot_is_not_rolled_out",
        app,
        check: |usage| {
            let (mut master, load) = serving(usage, &["--to", "./ends_at_boot"]);
            let reason = refused(&mut master, load);
            assert!(reason.contains("it ended: exit code 1"), "{reason}");
        },
    },
    Scenario {
        name: "f_168_a_program_that_never_gets_ready_is_not_rolled_out",
        app,
        check: |usage| {
            let (mut master, load) = serving(usage, &["--to", "./never_ready", "--step-deadline-ms", "400"]);
            let reason = refused(&mut master, load);
            assert!(
                reason.contains("it was not ready within the limit of a step"),
                "{reason}"
            );
        },
    },
    Scenario {
        name: "f_169_a_program_that_crashes_200_ms_after_it_got_ready_is_not_rolled_out",
        app,
        check: |usage| {
            let (mut master, load) = serving(usage, &["--to", "./crashes_later"]);
            let reason = refused(&mut master, load);
            assert!(reason.contains("SIGABRT"), "{reason}");
        },
    },
    Scenario {
        name: "a_program_whose_canary_fails_too_often_is_rolled_back",
        app,
        check: |usage| {
            let bake = limit(Duration::from_secs(2)).as_millis().to_string();
            let canary = ["--canary", "1", "--bake-ms", &bake, "--max-errors", "5"];
            let (mut master, load) = serving(usage, &[&["--to", "./worse"][..], &canary].concat());
            let reason = rolled_back(&mut master, load);
            assert!(reason.contains("the verdict on the canary was bad: "), "{reason}");
            assert!(reason.ends_with("requests failed"), "{reason}");
        },
    },
    Scenario {
        name: "a_program_that_another_program_condemns_is_rolled_back",
        app,
        check: |usage| {
            let canary = [
                "--canary",
                "2",
                "--surge",
                "2",
                "--bake-ms",
                "300",
                "--verdict",
                "./condemns",
            ];
            let (mut master, load) = serving(usage, &[&["--to", "./good"][..], &canary].concat());
            let reason = rolled_back(&mut master, load);
            let pids = reason.split("condemned ").nth(1).unwrap_or_default();
            assert_eq!(
                pids.split(' ').filter(|pid| pid.parse::<u32>().is_ok()).count(),
                2,
                "{reason}"
            );
        },
    },
    Scenario {
        name: "a_good_program_is_rolled_out_and_runs_in_every_restart_from_then_on",
        app,
        check: rolled_out,
    },
    Scenario {
        name: "what_is_no_program_is_not_rolled_out_whatever_it_is",
        app,
        check: no_programs,
    },
    Scenario {
        name: "a_program_that_was_replaced_on_disk_runs_on_in_the_restarts_of_its_own_generation",
        app,
        check: replaced_on_disk,
    },
];

/// The command; in the workers the program that their name says.
fn app() -> ExitCode {
    if !is_worker() {
        return command::main();
    }
    let path = std::env::args().next().unwrap_or_default();
    match path.rsplit('/').next().unwrap_or_default() {
        "ends_at_boot" => ExitCode::from(1),
        "never_ready" => load::cluster().worker(idle).main(),
        "crashes_later" => load::cluster().worker(crashes_later).main(),
        "worse" => load::cluster().worker(worse).main(),
        _ => load::cluster().main(),
    }
}

async fn idle(worker: Worker) {
    probe::idle(&worker).await;
}

async fn crashes_later(worker: Worker) -> Result<(), ServeError> {
    actix_rt::spawn(async {
        load::busy(Duration::from_millis(200)).await;
        std::process::abort();
    });
    load::serve(worker).await
}

/// Finds something wrong with what it does, again and again.
async fn worse(worker: Worker) -> Result<(), ServeError> {
    let own = worker.clone();
    actix_rt::spawn(async move {
        loop {
            own.counters().error();
            load::busy(Duration::from_millis(1)).await;
        }
    });
    load::serve(worker).await
}

/// The programs, by their names in the private directory; all but the scripts are this one.
fn lay_out(directory: &Path) {
    let this = std::env::current_exe().unwrap();
    for name in ["good", "ends_at_boot", "never_ready", "crashes_later", "worse"] {
        symlink(&this, directory.join(name)).unwrap();
    }
    script(directory, "condemns", "#!/bin/sh\necho condemned $*\nexit 1\n");
    script(directory, "by_script", "#!/bin/sh\nexec ./good\n");
    script(directory, "no_shebang", "exec ./good\n");
    script(directory, "failing_script", "#!/bin/sh\nexit 3\n");
    script(directory, "no_interpreter", "#!/no/such/shell\n");
    script(directory, "empty", "");
    fs::write(directory.join("not_executable"), "#!/bin/sh\n").unwrap();
    fs::create_dir(directory.join("directory")).unwrap();
    symlink("nowhere", directory.join("dangling")).unwrap();
    symlink("loop", directory.join("loop")).unwrap();
}

fn script(directory: &Path, name: &str, text: &str) {
    // A script that is open for writing in a fork of a neighbour cannot be run: written elsewhere, and renamed.
    let draft = directory.join(format!("{name}.new"));
    fs::write(&draft, text).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(draft, directory.join(name)).unwrap();
}

/// Starts the command: four workers that run `./good`, unless `more` says otherwise.
fn start(usage: &mut Master, more: &[&str]) -> (Master, u16) {
    // The one that the suite has started was given no arguments.
    assert_eq!(usage.wait().code(), Some(2));
    let master = Master::start_with(usage.name(), |command| {
        lay_out(command.get_current_dir().unwrap());
        command.args(["--listen", "127.0.0.1:0", "--workers", "4", "--grace-ms", "2000"]);
        if !more.contains(&"--from") {
            command.args(["--from", "./good"]);
        }
        command.args(more);
    });
    let line = master.expect_line("the command to serve", SOON, |line| line["serving"].is_string());
    let port = u16::try_from(line["listening"]["port"].as_u64().unwrap()).unwrap();
    (master, port)
}

fn serving(usage: &mut Master, more: &[&str]) -> (Master, Load) {
    let (master, port) = start(usage, more);
    let load = Load::start(port, 3);
    load.goes_on_for(100);
    (master, load)
}

/// Tells it to roll out, and returns what it says of it.
fn roll_out(master: &mut Master) -> Value {
    master.order(&Order::Ping);
    master.expect_line("the outcome", Duration::from_secs(20), |line| {
        line["outcome"].is_string()
    })
}

/// Rolls out what is bad: no request fails, no old worker is touched, the reason is told, and the command ends with 1.
fn refused(master: &mut Master, load: Load) -> String {
    let old = workers(master);
    let outcome = roll_out(master);
    assert_eq!(outcome["outcome"], "failed", "{outcome}");
    load.goes_on_for(100);
    assert_eq!(settled(master), old, "who served was touched");
    ends_with(master, load, &[0], 1);
    outcome["reason"].as_str().unwrap().to_owned()
}

/// Rolls out what its canary condemns: no request fails, and who was replaced is replaced back.
fn rolled_back(master: &mut Master, load: Load) -> String {
    let old = workers(master);
    let outcome = roll_out(master);
    assert_eq!(outcome["outcome"], "failed", "{outcome}");
    load.goes_on_for(100);
    let now = settled(master);
    assert!(
        now.iter().any(|pid| old.contains(pid)),
        "more than the canary was replaced"
    );
    assert_ne!(now, old);
    ends_with(master, load, &[0, 1], 1);
    outcome["reason"].as_str().unwrap().to_owned()
}

fn ends_with(master: &mut Master, load: Load, generations: &[u32], code: i32) {
    let outcome = load.stop();
    outcome.is_flawless();
    assert!(outcome.generations.iter().eq(generations), "{outcome:?}");
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(code));
    master.finish();
}

fn rolled_out(usage: &mut Master) {
    let (mut master, load) = serving(usage, &["--to", "./by_script", "--probation-ms", "50"]);
    let old = workers(&master);
    assert_eq!(roll_out(&mut master)["outcome"], "good");
    let new = settled(&master);
    assert!(new.iter().all(|pid| !old.contains(pid)));
    load.goes_on_for(100);
    let outcome = load.stop();
    outcome.is_flawless();
    assert_eq!(outcome.generations, [0, 1].into());
    // What was rolled out is held, by script or not: nobody sees what is on disk now.
    script(master.directory(), "by_script", "#!/bin/sh\nexit 1\n");
    restarts(&master, &new);
    // A reload takes what is on disk now, of the program that was rolled out.
    let held = settled(&master);
    master.signal(Signal::SIGHUP);
    let deadline = Deadline::after(limit(SOON));
    while !master.log().contains("signal has no effect: worker") {
        assert!(!deadline.is_over(), "the reload did not fail: {}", master.log());
        std::thread::yield_now();
    }
    assert_eq!(settled(&master), held);
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
    // Told to end after the first one, it does.
    let (mut master, _) = start(
        usage,
        &["--to", "./by_script", "--probation-ms", "0", "--now", "--once"],
    );
    assert_eq!(master.wait_within(LONG).code(), Some(0));
    let (mut master, _) = start(usage, &["--to", "./ends_at_boot", "--now", "--once"]);
    assert_eq!(master.wait_within(LONG).code(), Some(1));
}

fn no_programs(usage: &mut Master) {
    for (program, why) in [
        ("./directory", "EACCES"),
        ("./no_shebang", "a script needs \"#!\""),
        ("./failing_script", "it ended: exit code 3"),
        ("./no_interpreter", "the interpreter or loader it names does not"),
        ("./empty", "ENOEXEC"),
        ("./not_executable", "is it executable"),
        ("./dangling", "ENOENT"),
        ("./loop", "ELOOP"),
        ("./missing", "ENOENT"),
        ("no-such-program-in-the-path", "no directory in PATH has it"),
    ] {
        let (mut master, load) = serving(usage, &["--to", program]);
        let reason = refused(&mut master, load);
        assert!(reason.contains(why), "{program}: {reason}");
        assert!(
            program.ends_with("script") || reason.contains(program),
            "{program}: {reason}"
        );
    }
}

fn replaced_on_disk(usage: &mut Master) {
    let (mut master, load) = serving(usage, &["--from", "./by_script", "--to", "./by_script"]);
    let old = workers(&master);
    script(master.directory(), "by_script", "#!/bin/sh\nexit 4\n");
    // Before the roll-out, ...
    restarts(&master, &old[..1]);
    let reason = roll_out(&mut master)["reason"].to_string();
    assert!(reason.contains("exit code 4"), "{reason}");
    // ... and after it has failed.
    let old = settled(&master);
    restarts(&master, &old[..1]);
    // Who is killed takes what it is doing along, which is not the point here.
    drop(load);
    script(master.directory(), "by_script", "#!/bin/sh\nexec ./good\n");
    assert_eq!(roll_out(&mut master)["outcome"], "good");
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
}

/// Kills these and waits for their successors.
fn restarts(master: &Master, pids: &[u32]) {
    for pid in pids {
        send(*pid, Signal::SIGKILL);
        master.expect_dead(*pid, SOON);
        assert!(!settled(master).contains(pid));
    }
}

/// The processes that it runs.
fn workers(master: &Master) -> Vec<u32> {
    let children = leftovers::children_of(master.pid()).unwrap();
    let live = children.into_iter().filter(|child| child.state != 'Z');
    live.map(|child| child.pid).collect()
}

/// The four workers, when they are four.
fn settled(master: &Master) -> Vec<u32> {
    let deadline = Deadline::after(limit(SOON));
    loop {
        let now = workers(master);
        if now.len() == 4 {
            return now;
        }
        assert!(!deadline.is_over(), "not four: {now:?}\n{}", master.log());
        std::thread::yield_now();
    }
}

const SOON: Duration = actix_cluster_tests::master::SOON;

const LONG: Duration = Duration::from_secs(20);
