//! Addresses that cannot be had, queues without a worker, and ports after the end.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use actix_cluster::{Backoff, ListenError, RestartDelay, Scheduling, Worker};
use actix_cluster_tests::fault::{self, served_by};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::outside::let_pass;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{Shutdown, SockaddrIn, SockaddrStorage, getpeername, getsockname, shutdown};
use serde_json::json;

use crate::handover::{cluster, living, reset, tell_pid, until_ready};
use crate::reload::{next_result, runs};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_122_i_23_without_a_ready_worker_connections_wait_and_none_is_refused",
        app: slow_restarts,
        check: nobody_ready,
    },
    Scenario {
        name: "i_23_no_connect_is_refused_through_deaths_of_all_reloads_and_scaling",
        app: || {
            let delay = Backoff::new().base(Duration::from_millis(200)).first_at_once(false);
            let cluster = cluster(2, Scheduling::PerWorker).restart_delay(RestartDelay::Backoff(delay));
            cluster.worker(tell_pid).main()
        },
        check: never_refused,
    },
    Scenario {
        name: "f_124_a_listening_socket_that_its_worker_breaks_is_told_and_spins_nowhere",
        app: || cluster(2, Scheduling::PerWorker).worker(breaks_its_socket).main(),
        check: broken_from_inside,
    },
    Scenario {
        name: "f_127_the_port_is_free_after_an_orderly_end",
        app: serving,
        check: |master| {
            let port = master.expect_ready().unwrap();
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
            is_free(port, Duration::ZERO);
        },
    },
    Scenario {
        name: "f_127_the_port_is_free_after_an_immediate_end",
        app: serving,
        check: |master| {
            let port = master.expect_ready().unwrap();
            master.signal(Signal::SIGQUIT);
            assert_eq!(master.wait().code(), Some(128 + 3));
            is_free(port, Duration::ZERO);
        },
    },
    Scenario {
        name: "f_127_the_port_is_free_soon_after_the_masters_death",
        app: serving,
        check: |master| {
            let port = master.expect_ready().unwrap();
            master.signal(Signal::SIGKILL);
            is_free(port, ORPHAN);
            master.wait();
        },
    },
    Scenario {
        name: PORT,
        app: given_port,
        check: port_taken_at_the_start,
    },
    Scenario {
        name: "f_115_a_port_taken_at_run_time_is_an_error_until_it_is_free",
        app: asks_for_a_port,
        check: port_taken_at_run_time,
    },
    Scenario {
        name: READ_ONLY,
        app: unix_path,
        check: |master| {
            // Of the file systems that are read-only everywhere, or nearly.
            let folders = ["/sys/fs/cgroup", "/sys/kernel", "/proc/self"];
            master.expect_ready();
            for folder in folders {
                let path = format!("{folder}/actix-cluster.sock");
                *master = Master::start_with(READ_ONLY, |command| {
                    command.env(PATH_VAR, &path);
                });
                assert_eq!(master.wait().code(), Some(1), "{path}");
                assert!(master.log().contains(&path), "{}", master.log());
                assert!(!std::path::Path::new(&path).exists());
            }
        },
    },
    Scenario {
        name: FILE,
        app: unix_path,
        check: |master| {
            master.expect_ready();
            *master = Master::start_with(FILE, |command| {
                fs::write(command.get_current_dir().unwrap().join("socket"), "precious").unwrap();
            });
            assert_eq!(master.wait().code(), Some(1));
            assert!(master.log().contains("a regular file"), "{}", master.log());
            assert_eq!(
                fs::read_to_string(master.directory().join("socket")).unwrap(),
                "precious"
            );
        },
    },
    Scenario {
        name: TWO,
        app: unix_path,
        check: two_clusters,
    },
];

const PORT: &str = "f_115_a_port_taken_at_the_start_is_told_and_nothing_is_started";
const FILE: &str = "f_117_a_file_in_the_way_is_told_and_stays";
const READ_ONLY: &str = "f_236_a_runtime_directory_that_is_read_only_is_told_at_the_start_and_the_log_goes_on_without";
const TWO: &str = "f_117_of_two_clusters_on_one_path_the_second_is_refused";

fn serving() -> ExitCode {
    fault::cluster().workers(2).main()
}

/// Nobody serves for a while after a death.
fn slow_restarts() -> ExitCode {
    let delay = Backoff::new()
        .base(limit(Duration::from_millis(1_500)))
        .first_at_once(false);
    fault::cluster()
        .workers(2)
        .restart_delay(RestartDelay::Backoff(delay))
        .main()
}

fn nobody_ready(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    for id in [1, 2] {
        master.order(&Order::Kill(id, Signal::SIGKILL as i32));
    }
    for id in [1, 2] {
        master.once(id, "exit");
    }
    let clients: Vec<_> = (0..40).map(|_| std::thread::spawn(move || served_by(port))).collect();
    assert!(master.seen("fork").len() < 4, "the clients came while nobody was there");
    let served: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(served.iter().all(Result::is_ok), "{served:?}");
}

/// Connects all the time, and is never refused.
fn never_refused(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let connected = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = channel::<()>();
    let count = Arc::clone(&connected);
    let connecting = std::thread::spawn(move || {
        // One each millisecond: what comes while nobody is there has to fit the queue.
        while stopped.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
            reset(port);
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let some_more = || {
        let (wanted, deadline) = (connected.load(Ordering::SeqCst) + 50, Deadline::after(limit(SOON)));
        while connected.load(Ordering::SeqCst) < wanted && !connecting.is_finished() {
            assert!(!deadline.is_over(), "{connected:?} of {wanted} connected");
            std::thread::yield_now();
        }
    };
    for generation in 1..=3 {
        for (worker, pid) in living(master) {
            send(pid, Signal::SIGKILL);
            master.expect_of(worker, "exit");
        }
        some_more();
        until_ready(master, 2);
        master.signal(Signal::SIGHUP);
        assert_eq!(next_result(master), json!({"Ok": null}));
        for workers in [3, 1, 2] {
            assert_eq!(master.ask(&Order::Scale(workers), "scaled "), workers.to_string());
            some_more();
        }
        until_ready(master, 2);
        runs(master, 2, generation);
    }
    drop(stop);
    connecting.join().expect("nobody was refused");
}

/// Binds the port as anybody would, within `time`.
fn is_free(port: u16, time: Duration) {
    let deadline = Deadline::after(limit(time));
    while let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        assert!(!deadline.is_over(), "port {port}: {error}");
    }
}

fn given_port() -> ExitCode {
    let port: u16 = std::env::var(PORT_VAR)
        .ok()
        .and_then(|port| port.parse().ok())
        .unwrap_or(0);
    fault::good(probe::cluster()).listen("more", ("127.0.0.1", port)).main()
}

fn port_taken_at_the_start(master: &mut Master) {
    master.once(1, "ready");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    *master = Master::start_with(PORT, |command| {
        command.env(PORT_VAR, port.to_string());
    });
    assert_eq!(master.wait().code(), Some(1));
    let log = master.log();
    assert!(log.contains("EADDRINUSE") && log.contains(&port.to_string()), "{log}");
    assert!(master.seen("fork").is_empty());
}

/// A worker that asks for the port in each message, and tells what came of it.
fn asks_for_a_port() -> ExitCode {
    probe::cluster()
        .worker(|worker: Worker| async move {
            let mut messages = worker.messages().expect("nobody else asks");
            let mut bound = Vec::new();
            while let Some(message) = messages.next().await {
                let port: String = message.parse().expect("the test sends ports");
                match worker.bind(("127.0.0.1", port.parse::<u16>().expect("a port"))).await {
                    Ok(listener) => {
                        bound.push(listener.into_tcp());
                        probe::say("bound");
                    }
                    Err(error) => probe::say(&format!("refused {:?}", error.errno)),
                }
            }
        })
        .workers(2)
        .main()
}

fn port_taken_at_run_time(master: &mut Master) {
    master.expect_ready();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    for id in [1, 2] {
        let order = Order::Send(id, port.to_string());
        assert_eq!(
            master.ask(&order, "refused "),
            format!("Some({})", Errno::EADDRINUSE as i32)
        );
        assert_eq!(
            master.once(id, "error").data()["listen"]["errno"],
            Errno::EADDRINUSE as i32
        );
    }
    drop(taken);
    for id in [1, 2] {
        master.ask(&Order::Send(id, port.to_string()), "bound");
        master.once(id, "listening");
    }
    assert_eq!(master.seen("exit").len(), 0, "no worker died of it");
}

fn unix_path() -> ExitCode {
    let path = std::env::var(PATH_VAR).unwrap_or_else(|_| "socket".to_owned());
    fault::good(probe::cluster())
        .listen("path", format!("unix:{path}"))
        .main()
}

fn two_clusters(master: &mut Master) {
    master.expect_ready();
    let path = master.directory().join("socket");
    let mut second = Master::start_with(TWO, |command| {
        command.env(PATH_VAR, &path);
    });
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.log().contains("a living process listens"), "{}", second.log());
    assert!(second.seen("fork").is_empty());
    UnixStream::connect(&path).unwrap();
    // The path is the first cluster's to the end, and free afterwards.
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait_within(SOON).code(), Some(0));
    UnixListener::bind(&path).unwrap();
}

/// Serves; told to, it makes its own listening socket one that never accepts again.
async fn breaks_its_socket(worker: Worker) -> Result<(), ListenError> {
    let mut messages = worker.messages().expect("nobody took them before");
    actix_rt::spawn(async move {
        while messages.next().await.is_some() {
            // Of all that is open only a listening socket has an address and nobody at its other end.
            let listens = |number: &i32| {
                getsockname::<SockaddrIn>(*number).is_ok()
                    && getpeername::<SockaddrStorage>(*number) == Err(Errno::ENOTCONN)
            };
            let number = (3..64).find(listens).expect("it listens");
            shutdown(number, Shutdown::Both).expect("it is a socket");
            probe::say("broken");
        }
    });
    tell_pid(worker).await
}

fn broken_from_inside(master: &mut Master) {
    until_ready(master, 2);
    let port = master.port();
    let [broken, whole] = [1, 2].map(|id| master.once(id, "ready").pid());
    let before = ticks_of(broken);
    master.order(&Order::Send(1, "now".to_owned()));
    master.hears("broken");
    let told = |master: &Master| master.log().matches("listening socket failed").count();
    let deadline = Deadline::after(limit(SOON));
    while told(master) < 2 {
        assert!(!deadline.is_over(), "{}", master.log());
        // Nothing but the log tells of an attempt.
        let_pass(Duration::from_millis(20));
    }
    for _ in 0..20 {
        assert_eq!(served_by(port), Ok(whole));
    }
    // It rests between its attempts, half a second each. Without that it would take all the time that it is given.
    let processor = ticks_of(broken) - before;
    assert!(processor < 20, "{processor} ticks in little more than half a second");
    let attempts = told(master);
    assert!(attempts < 20, "{attempts}");
}

/// Processor time so far, in hundredths of a second.
fn ticks_of(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let (_, fields) = stat.rsplit_once(") ").expect("the name ends so");
    let fields = fields.split(' ').skip(11).take(2);
    fields.map(|field| field.parse::<u64>().expect("a number")).sum()
}

/// How long after the master's death the last worker may hold the port.
const ORPHAN: Duration = Duration::from_secs(1);

/// Which port the cluster asks for.
const PORT_VAR: &str = "ACTIX_CLUSTER_TEST_PORT";

/// Which path the cluster asks for.
const PATH_VAR: &str = "ACTIX_CLUSTER_TEST_PATH";
