//! The master stopped, broken or started twice: what it does to its workers, and to a first master.

use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use actix_cluster::{
    ClusterEvent, ClusterHandle, EventKind, ListenError, ListenOptions, ReadyWhen, Scheduling, Worker,
};
use actix_cluster_tests::master::{Master, SOON, ended_by, send};
use actix_cluster_tests::outside::wait_at_gate;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, leftovers, limit};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use tracing_subscriber::util::SubscriberInitExt;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_145_a_master_that_was_stopped_for_long_kills_nobody",
        app: || {
            let cluster = probe::cluster()
                .workers(2)
                .boot_limit(limit(BOOT))
                .ready_when(ReadyWhen::Called);
            cluster.worker(ready_after_the_gate).main()
        },
        check: stopped_for_long,
    },
    Scenario {
        name: "f_148_a_panic_of_the_supervisor_ends_master_and_workers",
        app: || with_bomb("worker lost", |cluster| cluster.worker(idle).main()),
        check: |master| {
            master.expect_ready();
            send(master.seen("fork")[0].pid(), Signal::SIGKILL);
            aborted(master);
            assert!(master.log().contains("the supervisor panicked"));
        },
    },
    Scenario {
        name: "f_148_a_panic_of_a_workers_actor_ends_master_and_workers",
        app: || {
            with_bomb("left processes of its own behind", |cluster| {
                cluster.worker(leave_a_child).main()
            })
        },
        check: |master| {
            let child = |master: &Master| master.expect_said("child ").parse().expect("a process id");
            let children: [u32; 2] = [child(master), child(master)];
            while master.snapshot()["ready"] != 2 {}
            send(master.seen("fork")[0].pid(), Signal::SIGKILL);
            let deadline = Deadline::after(limit(SOON));
            while leftovers::process(master.pid()).is_some_and(|process| process.state != 'Z') {
                assert!(!deadline.is_over(), "a master that no longer supervises lives on");
            }
            children.into_iter().for_each(|child| send(child, Signal::SIGKILL));
            aborted(master);
            assert!(master.log().contains("the actor of a worker panicked"));
        },
    },
    Scenario {
        name: "f_148_a_panic_in_the_closure_of_setup_is_its_callers_and_changes_nothing",
        app: || probe::cluster().on_event(panic_in_setup).worker(idle).main(),
        check: |master| {
            master.expect_said("the caller panicked");
            let pid = master.once(1, "fork").pid();
            send(pid, Signal::SIGKILL);
            master.expect_of(2, "ready");
            assert_eq!(master.seen("setup").len(), 1);
        },
    },
    Scenario {
        name: "f_152_a_second_master_on_a_shared_port_refuses_and_leaves_the_first_alone",
        app: || on_the_same_address(Some(Scheduling::Shared), "127.0.0.1:0"),
        check: |master| second_master_on_a_port(master),
    },
    Scenario {
        name: "f_152_a_second_master_on_a_port_of_workers_own_sockets_refuses_and_leaves_the_first_alone",
        app: || on_the_same_address(Some(Scheduling::PerWorker), "127.0.0.1:0"),
        check: |master| second_master_on_a_port(master),
    },
    Scenario {
        name: "f_152_a_second_master_on_a_unix_path_refuses_and_leaves_the_first_alone",
        app: || on_the_same_address(None, "unix:socket"),
        check: |master| {
            master.expect_ready();
            let path = master.directory().join("socket");
            refused(master, &format!("unix:{}", path.display()));
            UnixStream::connect(path).expect("the first one serves");
        },
    },
];

fn stopped_for_long(master: &mut Master) {
    master.expect_all(&[(1, "online"), (2, "online"), (2, "ready")]);
    master.stop_process(master.pid());
    // In time, as far as the worker can tell; the master learns of it long after the boot limit.
    master.open_gate("0");
    master.expect_said("ready 0");
    master.never("an event of a stopped master", BOOT * 3, |line| {
        line["event"].is_string()
    });
    master.signal(Signal::SIGCONT);
    master.expect_of(1, "ready");
    master.never("an exit", Duration::from_secs(2), |line| line["event"] == "exit");
    assert_eq!(master.seen("fork").len(), 2);
    assert_eq!(master.snapshot()["ready"], 2);
}

/// The scenario's cluster of two; a line of the supervising thread's log with this text panics.
fn with_bomb(text: &'static str, run: fn(actix_cluster::ClusterBuilder) -> ExitCode) -> ExitCode {
    // No core file in the tests' folder.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).expect("a limit can be lowered");
    let _bomb = tracing_subscriber::fmt().with_writer(move || Bomb(text)).set_default();
    run(probe::cluster().workers(2))
}

struct Bomb(&'static str);

impl Write for Bomb {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        assert!(!String::from_utf8_lossy(line).contains(self.0), "the bomb goes off");
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The master has ended with SIGABRT, and everybody with it.
fn aborted(master: &mut Master) {
    let status = master.ends_within(Duration::from_secs(1));
    assert_eq!(ended_by(status), Some(Signal::SIGABRT as i32));
}

fn panic_in_setup(event: &ClusterEvent, handle: &ClusterHandle) {
    if matches!(event.kind, EventKind::AllReady { .. }) && event.worker.is_none() {
        let handle = handle.clone();
        actix_rt::spawn(async move {
            let change = actix_rt::spawn(async move {
                handle
                    .setup(|settings| {
                        settings.kill_tree = true;
                        panic!("a caller's mistake");
                    })
                    .await
            });
            assert!(change.await.is_err_and(|error| error.is_panic()));
            probe::say("the caller panicked");
        });
    }
}

fn on_the_same_address(scheduling: Option<Scheduling>, first: &str) -> ExitCode {
    let address = std::env::var(ADDRESS_VAR).unwrap_or_else(|_| first.to_owned());
    let mut options = ListenOptions::default();
    options.scheduling = scheduling;
    probe::cluster()
        .workers(2)
        .listen_with("main", address, options)
        .worker(listen)
        .main()
}

fn second_master_on_a_port(master: &mut Master) {
    let port = master.expect_ready().expect("a listener is declared");
    refused(master, &format!("127.0.0.1:{port}"));
    TcpStream::connect(("127.0.0.1", port)).expect("the first one serves");
}

fn refused(master: &mut Master, address: &str) {
    let mut second = Master::start_with(master.name(), |command| {
        command.env(ADDRESS_VAR, address);
    });
    assert_eq!(second.ends_within(Duration::from_secs(1)).code(), Some(1));
    let log = second.log();
    assert!(log.contains("EADDRINUSE") && log.contains("main"), "{log}");
    assert!(second.seen("fork").is_empty());
    second.finish();
    master.ask(&Order::Ping, "pong");
    assert!(master.seen("exit").is_empty());
    assert_eq!(master.snapshot()["ready"], 2);
}

async fn idle(worker: Worker) {
    probe::idle(&worker).await;
}

async fn listen(worker: Worker) -> Result<(), ListenError> {
    worker.incoming("main")?.serve_with(|_| async {}).await;
    Ok(())
}

async fn leave_a_child(worker: Worker) {
    let mut sleep = Command::new("sleep");
    sleep
        .arg("600")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = sleep.spawn().expect("sleep can be started");
    probe::say(&format!("child {}", child.id()));
    probe::idle(&worker).await;
    child.try_wait().expect("it is our child");
}

async fn ready_after_the_gate(worker: Worker) {
    if worker.slot().index == 0 {
        let waiting = actix_rt::task::spawn_blocking(|| wait_at_gate("0"));
        waiting.await.expect("the gate opens");
    }
    worker.ready();
    // Written by another task of this thread.
    tokio::task::yield_now().await;
    probe::say(&format!("ready {}", worker.slot().index));
    probe::idle(&worker).await;
}

const BOOT: Duration = Duration::from_secs(2);
const ADDRESS_VAR: &str = "TEST_ADDRESS";
