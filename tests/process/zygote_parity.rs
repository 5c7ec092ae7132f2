//! A worker that a zygote makes finds what one finds that is executed, and ends as one.
//!
//! Each scenario runs the same program twice, once for each method, and compares what it saw.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use actix_cluster::{ClusterBuilder, RestartLimit, SpawnMethod, StdioMode, Worker};
use actix_cluster_tests::leftovers::TOKEN_VAR;
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::outside::inherit_through_env;
use actix_cluster_tests::probe::{self, METHOD_VAR, Order, text_of};
use actix_cluster_tests::scenario::Scenario;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, raise};
use nix::unistd::{Uid, getpgrp, getpid, getsid, gettid};
use serde_json::Value;

use crate::zygote::is_copy;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a_zygotes_worker_finds_what_an_executed_one_finds",
        app: || described(|cluster| cluster),
        check: |master| same_reports(master.name()),
    },
    Scenario {
        name: "a_zygotes_worker_finds_the_streams_directory_and_variables_of_its_settings",
        app: || {
            described(|cluster| {
                let cluster = cluster.stdio(StdioMode::Inherit, StdioMode::Piped, StdioMode::Null);
                let cluster = cluster.cwd("sub").env("OWN", "one").env("PATH", "/bin");
                cluster.args(["a", "b c", ""]).flight_recorder(8 << 10)
            })
        },
        check: |master| same_reports(master.name()),
    },
    Scenario {
        name: "a_zygotes_worker_runs_under_the_user_of_its_settings",
        app: || {
            described(|cluster| {
                let user = if Uid::effective().is_root() || std::env::var_os(ROOT_VAR).is_some() {
                    NOBODY
                } else {
                    Uid::effective().as_raw()
                };
                cluster.uid(user).gid(user)
            })
        },
        check: |master| same_reports(master.name()),
    },
    Scenario {
        name: "a_zygotes_worker_finds_what_the_master_has_at_that_moment",
        app: || {
            if actix_cluster::is_worker() {
                report("main");
            }
            crate::zygote::forking().worker(idle_after_report).main()
        },
        check: |master| same_after_changes(master.name()),
    },
    Scenario {
        name: "a_zygotes_worker_finds_nothing_of_those_made_before_it",
        app: || {
            crate::zygote::forking()
                .spawn(SpawnMethod::Zygote)
                .worker(async |worker: Worker| {
                    probe::say(&format!("{} finds {}", worker.id(), found_in_memory()));
                    probe::idle(&worker).await;
                })
                .main()
        },
        check: |master| {
            let secret = vec![("KEY".to_owned(), "top-secret".repeat(500))];
            master.ask(&Order::Fork(secret), "forked ");
            master.expect_at_least(1, |line| line["said"] == "1 finds true");
            master.ask(&Order::Fork(Vec::new()), "forked ");
            master.expect_at_least(1, |line| line["said"] == "2 finds false");
            assert!(is_copy(master.once(2, "fork").pid()));
        },
    },
    Scenario {
        name: "a_zygotes_worker_ends_as_an_executed_one",
        app: || {
            let cluster = probe::cluster().restart_limit(RestartLimit::unlimited());
            cluster.worker(die_as_told).main()
        },
        check: |master| same_deaths(master.name()),
    },
];

/// A cluster whose workers write down what they find, in a master that got and left a mess.
fn described(change: fn(ClusterBuilder) -> ClusterBuilder) -> ExitCode {
    if actix_cluster::is_worker() {
        report("main");
    } else {
        inherit_through_env(&["--ignore-signal=HUP,USR1", "--block-signal=TERM,USR2"]);
        // A descriptor that leaks into children.
        let leak = File::open("/etc/passwd").expect("everybody can read it");
        fcntl(&leak, FcntlArg::F_SETFD(FdFlag::empty())).expect("a flag can be cleared");
        Box::leak(Box::new(leak));
        setrlimit(Resource::RLIMIT_CORE, 0, 1 << 20).expect("a limit can be lowered");
        fs::create_dir_all("sub").expect("the directory is writable");
    }
    let cluster = probe::cluster().workers(2);
    let cluster = cluster.listen("one", "127.0.0.1:0").listen("two", "127.0.0.1:0");
    change(cluster).worker(listen_after_report).main()
}

async fn listen_after_report(worker: Worker) {
    report("worker");
    let _listener = worker.listener("one").expect("it was declared");
    worker.ready();
    probe::idle(&worker).await;
}

async fn idle_after_report(worker: Worker) {
    report("worker");
    probe::idle(&worker).await;
}

/// Everything that a process can see of itself and that its maker decides.
fn report(stage: &str) {
    // The scenario's own master is not looked at.
    let Some(directory) = std::env::var_os(REPORTS_VAR) else {
        return;
    };
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Debug| {
        writeln!(text, "{name} {value:?}").expect("a string can be written to");
    };
    for (name, value) in std::env::vars_os().collect::<BTreeMap<_, _>>() {
        if name != METHOD_VAR && name != TOKEN_VAR && name != REPORTS_VAR {
            line("env", &(name, value));
        }
    }
    for (fd, what) in descriptors() {
        line("fd", &(fd, what));
    }
    let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let fields = [
        "Name",
        "Umask",
        "Uid",
        "Gid",
        "Groups",
        "SigPnd",
        "ShdPnd",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Threads",
        "CoreDumping",
        "THP_enabled",
    ];
    for row in status.lines() {
        // Threads come and go once the runtime runs.
        if row
            .split_once(':')
            .is_some_and(|(name, _)| fields.contains(&name) && (stage == "main" || name != "Threads"))
        {
            line("status", &row);
        }
    }
    for file in ["limits", "oom_score_adj", "timerslack_ns", "personality", "cgroup"] {
        line(
            file,
            &fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default(),
        );
    }
    let cmdline = fs::read_to_string("/proc/self/cmdline").expect("arguments are texts here");
    line("cmdline", &cmdline);
    line("args", &std::env::args().collect::<Vec<_>>());
    line("exe", &std::env::current_exe().ok());
    // Everything after the master's own directory.
    let own = std::env::current_dir().expect("there is one");
    line("directory", &own.ends_with("sub"));
    line("leads its group", &(getpgrp() == getpid()));
    line("one thread number", &(gettid() == getpid()));
    line(
        "session",
        &(getsid(None).ok() == getsid(Some(nix::unistd::getppid())).ok()),
    );
    line("death signal", &nix::sys::prctl::get_pdeathsig());
    line("dumpable", &nix::sys::prctl::get_dumpable());
    // A mutex that knows its owner, and a hash: nothing of libc or std is confused by the copying.
    line("raise", &std::thread::spawn(|| raise(Signal::SIGCONT)).join().is_ok());
    let id = actix_cluster::worker_id().map_or(0, actix_cluster::WorkerId::get);
    let path = PathBuf::from(directory).join(format!("{stage}.{id}"));
    fs::write(path, text).expect("the directory is writable for everybody");
}

/// Number, kind and close-on-exec of every open descriptor.
fn descriptors() -> Vec<(i32, String)> {
    let open = fs::read_dir("/proc/self/fd").expect("proc is mounted");
    let links = open.filter_map(|entry| {
        let entry = entry.ok()?;
        let link = fs::read_link(entry.path()).ok()?.display().to_string();
        Some((entry.file_name().to_str()?.parse::<i32>().ok()?, link))
    });
    let mut found: Vec<_> = links.filter(|(_, link)| !link.ends_with("/fd")).collect();
    found.sort();
    let described = found.into_iter().map(|(fd, link)| {
        // Without the numbers of inodes, and without the test's own names.
        let kind = link.split_once('[').map_or(link.as_str(), |(kind, _)| kind);
        let kind = if kind.contains("actix-cluster-test") {
            "file"
        } else {
            kind
        };
        let flags = flags_of(fd);
        (fd, format!("{kind} {flags}"))
    });
    described.collect()
}

/// As `/proc` shows them, in octal: those of the file, and close-on-exec among them.
fn flags_of(fd: i32) -> String {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.unwrap_or_default().trim().to_owned()
}

/// Runs the scenario by both methods and compares all reports of its two workers.
fn same_reports(name: &str) {
    let [executed, copied] = ["exec", "zygote"].map(|method| {
        let (mut master, directory) = start(name, method);
        master.expect_ready();
        for pid in master.seen("fork").iter().map(actix_cluster_tests::seen::Seen::pid) {
            assert_eq!(is_copy(pid), method == "zygote");
        }
        let reports = ["main.1", "main.2", "worker.1", "worker.2"];
        let reports = reports.map(|file| fs::read_to_string(directory.join(file)).unwrap());
        assert!(!reports[0].contains("passwd"), "{}", reports[0]);
        assert!(!reports[0].contains("ACTIX_CLUSTER_WORKER"), "{}", reports[0]);
        assert!(!reports[0].contains("LISTEN_FDS"), "{}", reports[0]);
        master.finish();
        reports
    });
    for (executed, copied) in executed.iter().zip(&copied) {
        assert_same(executed, copied);
    }
}

fn assert_same(executed: &str, copied: &str) {
    let lacks = |text: &str, line: &str| !text.lines().any(|other| other == line);
    let missing: Vec<_> = executed.lines().filter(|line| lacks(copied, line)).collect();
    let surplus: Vec<_> = copied.lines().filter(|line| lacks(executed, line)).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "only executed: {missing:#?}\nonly copied: {surplus:#?}"
    );
    assert!(executed.lines().count() > 30, "{executed}");
}

/// The scenario's program once more, its workers made by `method`; and where they report.
fn start(name: &str, method: &str) -> (Master, PathBuf) {
    let mut reports = PathBuf::new();
    let master = Master::start_with(name, |command| {
        reports = command
            .get_current_dir()
            .expect("a master has a directory")
            .join("reports");
        fs::create_dir(&reports).unwrap();
        for directory in [reports.as_path(), reports.parent().unwrap_or(Path::new("/"))] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        }
        command.env(METHOD_VAR, method).env(REPORTS_VAR, &reports);
        command
            .env("LISTEN_PID", "1")
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", "x");
        if Uid::effective().is_root() {
            command.env(ROOT_VAR, "1");
        }
    });
    (master, reports)
}

/// What has changed in the master since its zygote was started: limits, directory by `setup`, variables of a fork.
fn same_after_changes(name: &str) {
    let [executed, copied] = ["exec", "zygote"].map(|method| {
        let (mut master, directory) = start(name, method);
        assert_eq!(master.ask(&Order::Fork(Vec::new()), "forked "), "1");
        master.ask(&Order::Limit("nofile".to_owned(), Some(200)), "limited");
        master.ask(&Order::Limit("fsize".to_owned(), Some(1 << 20)), "limited");
        let there = master.directory().join("sub");
        fs::create_dir(&there).unwrap();
        let change = probe::Change {
            cwd: Some("sub".into()),
            ..probe::Change::default()
        };
        master.ask(&Order::Setup(change), "settings ");
        let env = vec![
            ("slot".to_owned(), "own".to_owned()),
            ("HOME".to_owned(), "/x".to_owned()),
        ];
        assert_eq!(master.ask(&Order::Fork(env), "forked "), "2");
        let pid = master.once(2, "online").pid();
        assert_eq!(is_copy(pid), method == "zygote");
        master.once(1, "online");
        let report = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
        let reports = [report("main.1"), report("main.2")];
        assert!(
            reports[1].contains("directory true") && reports[1].contains("\"own\""),
            "{}",
            reports[1]
        );
        master.finish();
        reports
    });
    for (executed, copied) in executed.iter().zip(&copied) {
        assert_same(executed, copied);
    }
}

/// Is the secret anywhere in this process's memory? It is spelt backwards here, or it would always be.
fn found_in_memory() -> bool {
    const BACKWARDS: &[u8] = b"tercespot-terces-pot";
    let pattern = &BACKWARDS[10..];
    let maps = fs::read_to_string("/proc/self/maps").expect("proc is mounted");
    let memory = File::open("/proc/self/mem").expect("it is our own");
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let (from, to) = range.expect("each line begins with a range");
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).expect("addresses are numbers"));
        let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(0).min(1 << 22)];
        // Some pages are nobody's to read.
        if memory.read_at(&mut bytes, from).is_err() {
            return false;
        }
        bytes
            .windows(pattern.len())
            .any(|window| window.iter().rev().eq(pattern.iter()))
    })
}

async fn die_as_told(worker: Worker) {
    let mut messages = worker.messages().expect("nobody took them before");
    let Some(message) = messages.next().await else {
        return;
    };
    match text_of(&message).as_str() {
        "seven" => worker.exit_now(7),
        "abort" => std::process::abort(),
        "return" => {}
        _ => panic!("as told"),
    }
}

fn same_deaths(name: &str) {
    let [executed, copied] = ["exec", "zygote"].map(|method| {
        let (mut master, _) = start(name, method);
        let mut ends = Vec::new();
        let mut id = 1;
        for how in ["seven", "abort", "panic", "return"] {
            let pid = master.once(id, "ready").pid();
            assert_eq!(is_copy(pid), method == "zygote");
            master.order(&Order::Send(id, how.to_owned()));
            ends.push(status_of(&mut master, id));
            id += 1;
        }
        for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGQUIT] {
            let pid = master.once(id, "ready").pid();
            send(pid, signal);
            ends.push(status_of(&mut master, id));
            id += 1;
        }
        master.finish();
        ends
    });
    assert_eq!(executed, copied);
    assert_eq!(executed[0].0["code"], 7);
}

fn status_of(master: &mut Master, id: u64) -> (Value, Value) {
    let exit = master.once(id, "exit");
    (exit.data()["status"].clone(), exit.reason().clone())
}

const NOBODY: u32 = 65_534;
/// Where the workers write.
const REPORTS_VAR: &str = "ACTIX_CLUSTER_TEST_REPORTS";
/// Workers under another user must choose the same user again.
const ROOT_VAR: &str = "ACTIX_CLUSTER_TEST_ROOT";
