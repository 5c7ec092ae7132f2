//! Starts that fail, limits that bind, odd launchers, and a program that is replaced on disk.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use actix_cluster::{Backoff, ClusterBuilder, RestartDelay, RestartLimit, SpawnMethod, Worker};
use actix_cluster_tests::fault::{self, Good};
use actix_cluster_tests::launch::by_way_of;
use actix_cluster_tests::leftovers::{children_of, open_fds};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::{SCENARIO_VAR, Scenario};
use actix_cluster_tests::{Deadline, limit};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Uid, setresgid, setresuid};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_101_no_process_to_be_had_is_told_and_over_when_it_is_over",
        app: ordinary_user,
        check: no_processes,
    },
    Scenario {
        name: "f_103_a_master_without_descriptors_refuses_and_recovers_at_every_step",
        app: patient_app,
        check: no_descriptors,
    },
    Scenario {
        name: "f_103_few_descriptors_are_enough_for_some_of_ten_workers",
        app: few_descriptors,
        check: some_of_ten,
    },
    Scenario {
        name: F_111,
        app: files_app,
        check: |master| detached(master, F_111, "exec \"$0\" <&- >&- 2>&-", "/dev/null"),
    },
    Scenario {
        name: FULL,
        app: files_app,
        check: |master| detached(master, FULL, "exec \"$0\" </dev/null >/dev/full 2>err", "/dev/full"),
    },
    Scenario {
        name: NOHUP,
        app: files_app,
        check: |master| {
            detached(
                master,
                NOHUP,
                "trap '' HUP; exec \"$0\" </dev/null >nohup.out 2>&1",
                "nohup.out",
            );
        },
    },
    Scenario {
        name: F_112,
        app: term_blocked,
        check: odd_launcher,
    },
    Scenario {
        name: "f_099_a_program_replaced_and_then_deleted_restarts_as_what_it_was",
        app: from_a_copy,
        check: replaced_on_disk,
    },
];

const F_111: &str = "f_111_a_master_whose_streams_are_closed_has_null_streams";
const FULL: &str = "f_111_a_master_whose_output_is_full_goes_on";
const NOHUP: &str = "f_111_a_master_without_a_terminal_outlives_a_hang_up";
const F_112: &str = "f_112_a_launcher_that_left_signals_and_directory_odd_changes_nothing";

/// Failed starts are repeated for ever, soon.
fn patient(cluster: ClusterBuilder) -> ClusterBuilder {
    let delay = Backoff::new()
        .base(Duration::from_millis(50))
        .cap(Duration::from_millis(100));
    cluster
        .restart_delay(RestartDelay::Backoff(delay))
        .restart_limit(RestartLimit::unlimited())
}

fn patient_app() -> ExitCode {
    patient(fault::cluster()).main()
}

/// The limit of processes does not bind root.
fn ordinary_user() -> ExitCode {
    if Uid::effective().is_root() && actix_cluster::is_master() {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setresgid(group, group, group).expect("root may become anybody");
        setresuid(user, user, user).expect("root may become anybody");
    }
    patient(fault::cluster().workers(2)).main()
}

fn no_processes(master: &mut Master) {
    let good = Good::ready(master);
    master.once(2, "ready");
    master.ask(&Order::Limit("nproc".to_owned(), Some(1)), "limited");
    master.order(&Order::Kill(2, Signal::SIGKILL as i32));
    master.once(2, "exit");
    for id in [3, 4] {
        let error = master.once(id, "error");
        assert_eq!(error.data()["spawn"]["errno"], Errno::EAGAIN as i32);
        let told = error.data()["spawn"]["detail"].as_str().unwrap_or("");
        assert!(told.contains("RLIMIT_NPROC"), "{told}");
        assert!(!master.life_of(id).contains(&"fork".to_owned()));
    }
    good.serves(master);
    master.ask(&Order::Limit("nproc".to_owned(), None), "limited");
    let fork = master.expect("fork");
    master.once(fork.worker(), "ready");
    assert_eq!(master.life_of(1), ["fork", "online", "listening", "ready"]);
}

fn no_descriptors(master: &mut Master) {
    let good = Good::ready(master);
    good.serves(master);
    let before = open_fds(master.pid()).unwrap() as u64;
    let mut refused = 0;
    for free in 0..12 {
        master.ask(&Order::Limit("nofile".to_owned(), Some(before + free)), "limited");
        master.order(&Order::Fork(Vec::new()));
        let said = master.expect_line("the fork's answer", SOON, |line| {
            line["said"]
                .as_str()
                .is_some_and(|said| said.starts_with("forked") || said.starts_with("error"))
        });
        let said = said["said"].as_str().unwrap_or("");
        if said.starts_with("forked ") {
            // The new one is good, too, and may serve by now.
            good.is_up(master);
        } else {
            good.serves(master);
        }
        master.ask(&Order::Limit("nofile".to_owned(), None), "limited");
        match said.strip_prefix("forked ") {
            Some(id) => {
                let id = id.parse().unwrap();
                master.once(id, "ready");
                master.order(&Order::Disconnect(id));
                master.once(id, "exit");
            }
            None => {
                refused += 1;
                assert!(said.contains("RLIMIT_NOFILE"), "{said}");
            }
        }
        good.serves(master);
    }
    assert!(refused >= 4, "refused {refused} times of 12");
}

/// Of these the master's own threads take 23. A birth takes nine for a moment, two of them for the hand-over socket.
const FEW: u64 = 36;

fn few_descriptors() -> ExitCode {
    if actix_cluster::is_master() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
        setrlimit(Resource::RLIMIT_NOFILE, FEW, hard).expect("a soft limit can be lowered");
    }
    // A zygote would need three of them for itself.
    patient(fault::cluster()).spawn(SpawnMethod::Exec).workers(10).main()
}

fn some_of_ten(master: &mut Master) {
    let error = master.expect("error");
    let told = error.data()["spawn"]["detail"].as_str().unwrap_or("").to_owned();
    assert!(told.contains("RLIMIT_NOFILE"), "{told}");
    let ready = master.once(1, "ready");
    let port = master.port();
    for _ in 0..10 {
        fault::served_by(port).unwrap();
    }
    assert_ne!(ready.pid(), 0);
    master.ask(&Order::Limit("nofile".to_owned(), None), "limited");
    master.expect("all_ready");
    assert_eq!(master.snapshot()["ready"], 10);
}

/// A cluster that says nothing and writes a file for each worker.
fn files_app() -> ExitCode {
    probe::cluster()
        .worker(|worker: Worker| async move {
            fs::write(format!("up.{}", worker.id()), worker.pid().to_string()).expect("the directory is writable");
            probe::idle(&worker).await;
        })
        .main()
}

/// Starts the program once more, by way of `script`: its streams lead to `stream`, it restarts workers, outlives a
/// hang-up and stops in order.
fn detached(master: &mut Master, name: &str, script: &str, stream: &str) {
    master.once(1, "ready");
    let directory = master.directory().join("detached");
    fs::create_dir(&directory).unwrap();
    let mut second = Command::new("/bin/sh");
    second
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(SCENARIO_VAR, name)
        .current_dir(&directory)
        .process_group(0);
    let mut second = second.spawn().unwrap();
    let pid = second.id();
    let first = appeared(&directory.join("up.1"));
    for process in [pid, first] {
        let link = fs::read_link(format!("/proc/{process}/fd/1")).unwrap();
        assert!(link.ends_with(stream) || link == Path::new(stream), "{link:?}");
        for fd in 0..3 {
            let link = fs::read_link(format!("/proc/{process}/fd/{fd}")).unwrap();
            assert!(!link.to_string_lossy().contains(':'), "{fd} is {link:?}");
        }
    }
    send(first, Signal::SIGKILL);
    let next = appeared(&directory.join("up.2"));
    send(next, Signal::SIGKILL);
    appeared(&directory.join("up.3"));
    // A hang-up is a reload, and no end.
    send(pid, Signal::SIGHUP);
    appeared(&directory.join("up.4"));
    send(pid, Signal::SIGTERM);
    let deadline = Deadline::after(limit(SOON));
    let status = loop {
        if let Some(status) = second.try_wait().unwrap() {
            break status;
        }
        if deadline.is_over() {
            second.kill().unwrap();
        }
        assert!(!deadline.is_over(), "it did not stop");
    };
    assert_eq!(status.code(), Some(0), "{status}");
}

/// Waits for the file and reads the number in it.
fn appeared(file: &Path) -> u32 {
    let deadline = Deadline::after(limit(SOON));
    loop {
        if let Some(number) = fs::read_to_string(file).ok().and_then(|text| text.parse().ok()) {
            return number;
        }
        assert!(!deadline.is_over(), "no {}", file.display());
    }
}

/// What a launcher that blocked `SIGTERM` leaves behind.
fn term_blocked() -> ExitCode {
    if actix_cluster::is_master() {
        SigSet::all().thread_block().expect("signals can be blocked");
    }
    probe::cluster()
        .worker(|worker: Worker| async move {
            let ends = worker.clone();
            worker.on_message(move |_| ends.exit_now(7));
            probe::idle(&worker).await;
        })
        .main()
}

fn odd_launcher(master: &mut Master) {
    // Not every shell leaves SIGCHLD ignored, and not every `env` can.
    let script = "mkdir gone; cd gone; rmdir ../gone; umask 777; ulimit -s 1024; trap '' HUP PIPE; \
                  env --ignore-signal=CHLD true 2>&- && exec env --ignore-signal=CHLD \"$0\"; exec \"$0\"";
    *master = Master::start_with(F_112, |command| by_way_of(script, command));
    master.once(1, "ready");
    master.order(&Order::Send(1, "end".to_owned()));
    let exit = master.once(1, "exit");
    assert_eq!((exit.code(), exit.signal()), (Some(7), None), "the status is known");
    master.once(2, "ready");
    master.order(&Order::Kill(2, Signal::SIGTERM as i32));
    master.once(2, "exit");
    master.once(3, "ready");
    let worker = children_of(master.pid())
        .unwrap()
        .first()
        .map(|child| child.pid)
        .unwrap();
    let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    for nothing in ["SigBlk:\t0000000000000000", "ShdPnd:\t0000000000000000"] {
        assert!(status.contains(nothing), "{status}");
    }
    // The orderly stop by SIGTERM is the scenario's last check, as always.
}

/// Runs from a copy of the program in the private directory.
fn from_a_copy() -> ExitCode {
    if actix_cluster::is_master() && std::env::current_exe().is_ok_and(|path| !path.ends_with("copy")) {
        fs::copy("/proc/self/exe", "copy").expect("the directory is writable");
        let error = Command::new("./copy").stdin(Stdio::inherit()).exec();
        panic!("cannot run the copy: {error}");
    }
    fault::cluster().main()
}

fn replaced_on_disk(master: &mut Master) {
    Good::ready(master);
    let copy = master.directory().join("copy");
    let other = master.directory().join("other");
    fs::copy("/bin/false", &other).unwrap();
    fs::rename(&other, &copy).unwrap();
    master.order(&Order::Kill(1, Signal::SIGKILL as i32));
    master.once(2, "ready");
    fs::remove_file(&copy).unwrap();
    master.order(&Order::Kill(2, Signal::SIGKILL as i32));
    let ready = master.once(3, "ready");
    assert_eq!(fault::served_by(master.port()), Ok(ready.pid()));
}

const NOBODY: u32 = 65_534;
