//! The master dies: nobody outlives it, at whatever instant it was.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use actix_cluster::{ClusterEvent, ClusterHandle, EventKind, ListenError, RestartLimit, Worker, is_worker};
use actix_cluster_tests::master::{Master, SOON, ended_by, send};
use actix_cluster_tests::outside::{any_below, let_pass, wait_at_gate};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_140_a_killed_master_takes_even_spinning_blocked_and_stopped_workers_along",
        app: || {
            let cluster = probe::cluster().workers(4).listen("tcp", "127.0.0.1:0");
            cluster.worker(listen_and_obey).main()
        },
        check: |master| {
            let port = master.expect_ready().expect("a listener is declared");
            for (worker, how) in [(1, "spin"), (2, "block")] {
                master.order(&Order::Send(worker, how.to_owned()));
                master.expect_said(how);
            }
            let forks = master.seen("fork");
            let stopped = forks
                .iter()
                .find(|fork| fork.worker() == 3)
                .expect("it was forked")
                .pid();
            master.stop_process(stopped);
            master.signal(Signal::SIGKILL);
            gone_in_time(master);
            TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        },
    },
    Scenario {
        name: "f_141_a_master_killed_at_any_instant_of_a_start_or_restart_leaves_nobody",
        app: || {
            let cluster = probe::cluster().workers(3).listen("tcp", "127.0.0.1:0");
            cluster
                .restart_limit(RestartLimit::unlimited())
                .worker(listen_and_obey)
                .main()
        },
        check: killed_at_any_instant,
    },
    Scenario {
        name: "f_141_a_worker_that_has_not_come_to_run_yet_dies_with_its_master",
        app: || {
            if is_worker() {
                probe::say("on my way");
                wait_at_gate("never");
            }
            probe::cluster().workers(2).worker(listen_and_obey).main()
        },
        check: |master| {
            master.expect_said("on my way");
            master.expect_said("on my way");
            master.signal(Signal::SIGKILL);
            gone_in_time(master);
        },
    },
    Scenario {
        name: "f_142_nobody_else_holds_the_masters_end_of_a_channel",
        app: || {
            let cluster = probe::cluster().workers(4).listen("tcp", "127.0.0.1:0");
            cluster
                .on_event(start_a_helper_at_each_fork)
                .worker(listen_and_obey)
                .main()
        },
        check: |master| {
            let said = master.expect_all_said(&["helper "; 4]);
            let helpers: Vec<u32> = said.iter().map(|pid| pid.parse().expect("a process id")).collect();
            while master.snapshot()["ready"] != 4 {}
            let (listeners, masters) = (listening_sockets(), sockets_of(master.pid()));
            let pids: Vec<u32> = master.seen("fork").iter().map(|fork| fork.pid()).collect();
            let of_workers: Vec<_> = pids.iter().map(|pid| sockets_of(*pid)).collect();
            for (at, own) in of_workers.iter().enumerate() {
                assert!(own.intersection(&masters).all(|socket| listeners.contains(socket)));
                for other in &of_workers[..at] {
                    assert!(own.intersection(other).all(|socket| listeners.contains(socket)));
                }
            }
            for helper in helpers {
                assert_eq!(sockets_of(helper), BTreeSet::new());
                send(helper, Signal::SIGKILL);
                master.expect_dead(helper, SOON);
            }
        },
    },
    Scenario {
        name: "f_143_a_worker_outlives_the_thread_that_asked_for_it",
        app: || {
            let cluster = probe::cluster().on_event(fork_from_a_passing_thread);
            cluster.worker(tell_the_death_signal).main()
        },
        check: |master| {
            master.expect_all_said(&["thread ended", "death signal None", "death signal None"]);
            while master.snapshot()["ready"] != 2 {}
            master.never("an exit", Duration::from_millis(300), |line| line["event"] == "exit");
        },
    },
];

/// D-orphan: all processes of the scenario gone.
pub(crate) fn gone_in_time(master: &mut Master) {
    let status = master.wait_within(Duration::from_secs(1));
    assert_eq!(ended_by(status), Some(Signal::SIGKILL as i32));
}

fn killed_at_any_instant(master: &mut Master) {
    master.expect_ready();
    let start = master.snapshot()["uptime_ms"].as_f64().expect("an uptime is a number");
    let span = ((start * 2_000.0) as u64).clamp(10_000, 200_000);
    let rounds = if std::env::var_os("ACTIX_CLUSTER_SOAK").is_some() {
        200
    } else {
        50
    };
    let mut chance = 7;
    for round in 0..rounds {
        let mut other = Master::start(master.name());
        if round % 2 == 0 {
            let_pass(Duration::from_micros(any_below(span, &mut chance)));
        } else {
            other.expect_ready();
            let victims = other.seen("fork");
            for victim in &victims[..1 + round % 3] {
                send(victim.pid(), Signal::SIGKILL);
            }
            let_pass(Duration::from_micros(any_below(10_000, &mut chance)));
        }
        other.signal(Signal::SIGKILL);
        gone_in_time(&mut other);
        other.finish();
    }
}

fn start_a_helper_at_each_fork(event: &ClusterEvent, _: &ClusterHandle) {
    if matches!(event.kind, EventKind::Fork) {
        let mut sleep = Command::new("sleep");
        sleep
            .arg("600")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut helper = sleep.spawn().expect("sleep can be started");
        probe::say(&format!("helper {}", helper.id()));
        std::thread::spawn(move || helper.wait());
    }
}

fn fork_from_a_passing_thread(event: &ClusterEvent, handle: &ClusterHandle) {
    if matches!(event.kind, EventKind::AllReady { workers: 1 }) {
        let handle = handle.clone();
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move { handle.fork(Vec::<(String, String)>::new()).await.is_ok() })
        });
        actix_rt::task::spawn_blocking(move || {
            assert!(thread.join().expect("the fork is answered"));
            probe::say("thread ended");
        });
    }
}

/// The inodes of a process's sockets.
pub(crate) fn sockets_of(pid: u32) -> BTreeSet<String> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let links = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()?.into_os_string().into_string().ok());
    let inode = |link: String| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    links.filter_map(inode).collect()
}

/// The inodes of all TCP sockets of this machine that listen.
pub(crate) fn listening_sockets() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/net/tcp").expect("proc is mounted");
    let rows = table
        .lines()
        .skip(1)
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[3] == "0A").map(|row| row[9].to_owned()).collect()
}

async fn listen_and_obey(worker: Worker) -> Result<(), ListenError> {
    let mut messages = worker.messages().expect("nobody took them before");
    actix_rt::spawn(async move {
        while let Some(message) = messages.next().await {
            let how: String = message.parse().expect("the test sends texts");
            probe::say(&how);
            match how.as_str() {
                "spin" => loop {
                    std::hint::spin_loop();
                },
                _ => wait_at_gate("never"),
            }
        }
    });
    worker.incoming("tcp")?.serve_with(|_| async {}).await;
    Ok(())
}

async fn tell_the_death_signal(worker: Worker) {
    probe::say(&format!(
        "death signal {:?}",
        nix::sys::prctl::get_pdeathsig().expect("it can be asked for")
    ));
    probe::idle(&worker).await;
}
