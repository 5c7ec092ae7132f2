//! The keeper beside a worker: connections of servers that know nothing of it survive, and every promise that holds without
//! keepers holds with them. What the framework's own serving adds is in `survival`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use actix_cluster::{ClusterBuilder, ListenOptions, RestartDelay, RestartLimit, Scheduling, Worker};
use actix_cluster_tests::leftovers::{self, Process, open_fds};
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::outside::{any_below, let_pass};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit, probe};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::master_death::gone_in_time;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "keeper_what_an_unmodified_server_had_accepted_and_not_read_is_answered_by_its_successor_shared",
        app: || hoarding(Scheduling::Shared).main(),
        check: all_are_answered,
    },
    Scenario {
        name: "keeper_what_an_unmodified_server_had_accepted_and_not_read_is_answered_by_its_successor_per_worker",
        app: || hoarding(Scheduling::PerWorker).main(),
        check: all_are_answered,
    },
    Scenario {
        name: "keeper_locks_of_a_killed_worker_are_free_while_its_connections_live_on",
        app: || hoarding(Scheduling::Shared).env(LOCK_VAR, "1").main(),
        check: |master| {
            let mut client = ask(master);
            master.expect_said("holds");
            let path = master.directory().join("lock");
            let lock = || {
                let file = File::open(&path).expect("the worker has made it");
                Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
            };
            assert_eq!(lock().err(), Some(Errno::EWOULDBLOCK));
            send(master.once(1, "fork").pid(), Signal::SIGKILL);
            assert_eq!(answer(&mut client), "2");
            lock().expect("free before the connection went on its way");
        },
    },
    Scenario {
        name: "keeper_each_worker_has_one_and_it_goes_with_the_worker",
        app: || hoarding(Scheduling::Shared).workers(3).main(),
        check: |master| {
            expect_keepers(master, 3);
            let exits = |code: &Master| code.seen("exit").len();
            send(master.once(2, "fork").pid(), Signal::SIGKILL);
            let exit = master.expect_of(2, "exit");
            assert_eq!(
                (exit.signal(), exits(master)),
                (Some(9), 1),
                "a keeper is nobody's worker"
            );
            master.expect_of(4, "ready");
            expect_keepers(master, 3);
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
        },
    },
    Scenario {
        name: "keeper_a_killed_master_takes_workers_and_keepers_along_at_any_instant",
        app: || hoarding(Scheduling::PerWorker).workers(3).main(),
        check: |master| {
            master.expect_ready();
            let mut chance = 11;
            for round in 0..30 {
                let mut other = Master::start(master.name());
                if round % 3 > 0 {
                    other.expect_ready();
                    send(other.once(1, "fork").pid(), Signal::SIGKILL);
                    let_pass(Duration::from_micros(any_below(10_000, &mut chance)));
                } else {
                    let_pass(Duration::from_micros(any_below(60_000, &mut chance)));
                }
                other.signal(Signal::SIGKILL);
                gone_in_time(&mut other);
                other.finish();
            }
        },
    },
    Scenario {
        name: "keeper_one_that_is_killed_is_told_of_once_and_the_worker_serves_on",
        app: || hoarding(Scheduling::Shared).workers(2).main(),
        check: |master| {
            for keeper in expect_keepers(master, 2) {
                send(keeper.pid, Signal::SIGKILL);
            }
            let error = master.expect("error");
            let text = error.data()["no_keeper"].as_str().expect("a reason").to_owned();
            assert!(text.contains("killed"), "{text}");
            expect_keepers(master, 0);
            for worker in [1, 2] {
                send(master.once(worker, "fork").pid(), Signal::SIGKILL);
                assert_eq!(master.once(worker, "exit").signal(), Some(9));
            }
            master.once(3, "ready");
            master.once(4, "ready");
            expect_keepers(master, 2);
            assert_eq!(master.seen("error").len(), 1, "once");
        },
    },
    Scenario {
        name: "keeper_where_none_can_be_had_it_is_told_once_and_the_workers_serve",
        app: || {
            let cluster = hoarding(Scheduling::Shared).workers(3);
            cluster.env("ACTIX_CLUSTER_NO_KEEPER", "1").main()
        },
        check: |master| {
            master.expect_ready();
            let error = master.expect_count("error", 1).swap_remove(0);
            let text = error.data()["no_keeper"].as_str().expect("a reason").to_owned();
            assert!(text.contains("ACTIX_CLUSTER_NO_KEEPER=1 forbids it"), "{text}");
            expect_keepers(master, 0);
            send(master.once(1, "fork").pid(), Signal::SIGKILL);
            master.once(4, "ready");
            assert_eq!(answer(&mut ask(master)).parse::<u32>().map(|_| ()), Ok(()));
            assert_eq!(master.seen("error").len(), 1, "once");
        },
    },
    Scenario {
        name: "keeper_where_the_kernel_does_not_count_there_is_none_and_it_is_told_once",
        app: || hoarding(Scheduling::Shared).workers(3).main(),
        check: |master| {
            master.expect_ready();
            expect_keepers(master, 3);
            assert!(master.seen("error").is_empty());
            let mut other = Master::start_with(master.name(), |command| {
                command.env("ACTIX_CLUSTER_NO_COUNTING", "1");
            });
            other.expect_ready();
            let error = other.expect_count("error", 1).swap_remove(0);
            let text = error.data()["no_keeper"].as_str().expect("a reason").to_owned();
            assert!(text.contains("does not count the bytes"), "{text}");
            expect_keepers(&other, 0);
            send(other.once(1, "fork").pid(), Signal::SIGKILL);
            other.once(4, "ready");
            assert_eq!(answer(&mut ask(&other)).parse::<u32>().map(|_| ()), Ok(()));
            assert_eq!(other.seen("error").len(), 1, "once");
            assert!(other.log().contains("connections do not survive their workers"));
            other.finish();
        },
    },
    Scenario {
        name: "keeper_hundreds_of_kills_leave_neither_zombies_nor_descriptors",
        app: || {
            let cluster = hoarding(Scheduling::PerWorker).workers(2);
            cluster.restart_limit(RestartLimit::unlimited()).main()
        },
        check: |master| {
            master.expect_ready();
            let kills = if std::env::var_os("ACTIX_CLUSTER_SOAK").is_some() {
                5_000
            } else {
                200
            };
            let mut before = None;
            for next in 3..3 + kills {
                send(master.once(next - 2, "fork").pid(), Signal::SIGKILL);
                master.expect_of(next, "ready");
                if next == 20 {
                    expect_keepers(master, 2);
                    before = Some(open_fds(master.pid()).expect("it lives"));
                }
            }
            expect_keepers(master, 2);
            assert_eq!(leftovers::zombies_of(master.pid()).unwrap().len(), 0);
            let after = open_fds(master.pid()).expect("it lives");
            let before = before.expect("there were twenty");
            assert!(after <= before + 2, "{before} descriptors, then {after}");
        },
    },
    Scenario {
        name: "keeper_of_a_worker_under_another_user_runs_as_that_user_and_dies_with_the_master",
        app: || {
            let cluster = hoarding(Scheduling::Shared);
            if is_root() {
                cluster.uid(NOBODY).gid(NOBODY).main()
            } else {
                cluster.main()
            }
        },
        check: |master| {
            let keeper = expect_keepers(master, 1).swap_remove(0);
            if is_root() {
                let owner = std::fs::metadata(format!("/proc/{}", keeper.pid)).unwrap().uid();
                let status = std::fs::read_to_string(format!("/proc/{}/status", keeper.pid)).unwrap();
                assert!(
                    status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}")),
                    "{owner} {status}"
                );
            }
            master.signal(Signal::SIGKILL);
            gone_in_time(master);
            master.expect_dead(keeper.pid, Duration::from_secs(1));
        },
    },
    Scenario {
        name: "keeper_is_not_made_where_no_listener_asks_for_it",
        app: || {
            probe::cluster()
                .workers(2)
                .listen("http", "127.0.0.1:0")
                .worker(serve)
                .main()
        },
        check: |master| {
            master.expect_ready();
            expect_keepers(master, 0);
        },
    },
];

/// A cluster whose first worker accepts and never reads; all others answer with their id.
pub(crate) fn hoarding(scheduling: Scheduling) -> ClusterBuilder {
    let options = ListenOptions::new().survive_kill(true).scheduling(scheduling);
    let cluster = probe::cluster().workers(1).restart_delay(RestartDelay::AtOnce);
    cluster.listen_with("http", "127.0.0.1:0", options).worker(serve)
}

/// A server of the kind that knows nothing of keepers: a loop of tokio's.
async fn serve(worker: Worker) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let listener = worker.listener("http").map_err(|error| error.to_string())?;
    listener.set_nonblocking(true).map_err(text)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(text)?;
    let id = worker.id().get();
    let is_to_lock = id == 1 && std::env::var_os(LOCK_VAR).is_some();
    let lock = is_to_lock.then(|| {
        let file = File::create("lock").map_err(text)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.to_string())
    });
    let _lock = lock.transpose()?;
    let mut held = Vec::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.map_err(text)?.0,
            () = worker.shutdown().started() => return Ok(()),
        };
        if id == 1 {
            held.push(stream);
            probe::say("holds");
        } else {
            actix_rt::spawn(respond(stream, id));
        }
    }
}

async fn respond(mut stream: tokio::net::TcpStream, id: u64) {
    let mut line = [0; 9];
    // A client that is gone wants no answer.
    if stream.read_exact(&mut line).await.is_ok() && line == *b"question\n" {
        stream.write_all(id.to_string().as_bytes()).await.ok();
    }
}

fn all_are_answered(master: &mut Master) {
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| ask(master)).collect();
    for _ in &clients {
        master.expect_said("holds");
    }
    send(master.once(1, "fork").pid(), Signal::SIGKILL);
    for client in &mut clients {
        assert_eq!(answer(client), "2");
    }
    let rescued = master.expect_ever_of(1, "rescued");
    assert_eq!(
        (&rescued.data()["saved"], &rescued.data()["lost"]),
        (&CLIENTS.into(), &0.into())
    );
}

pub(crate) fn ask(master: &Master) -> TcpStream {
    master.once(1, "listening");
    let port = master.port();
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("the master listens");
    client
        .set_read_timeout(Some(limit(Duration::from_secs(10))))
        .expect("a time limit");
    client.write_all(b"question\n").expect("there is room");
    client
}

pub(crate) fn answer(client: &mut TcpStream) -> String {
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer, and then the end");
    answer
}

/// Waits until the master has so many children that are keepers, none of them dead; all of different processes.
pub(crate) fn expect_keepers(master: &Master, count: usize) -> Vec<Process> {
    master.once(1, "ready");
    let deadline = Deadline::after(limit(Duration::from_secs(10)));
    loop {
        let children = leftovers::children_of(master.pid()).expect("a list of processes");
        let keepers: Vec<_> = children.into_iter().filter(|child| child.comm == "keeper").collect();
        if keepers.len() == count && keepers.iter().all(|keeper| keeper.state != 'Z') {
            let pids: BTreeSet<_> = keepers.iter().map(|keeper| keeper.pid).collect();
            assert_eq!(pids.len(), count);
            return keepers;
        }
        assert!(!deadline.is_over(), "{count} keepers wanted: {keepers:?}");
        std::thread::yield_now();
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

const CLIENTS: usize = 20;
/// The ordinary user that every system has.
const NOBODY: u32 = 65_534;
/// The first worker is to lock a file.
const LOCK_VAR: &str = "ACTIX_CLUSTER_TEST_LOCK";
