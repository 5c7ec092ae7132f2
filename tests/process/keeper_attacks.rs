//! What is done to keepers on purpose: their master does not listen, they die together with their worker, there is no
//! `/proc`, and user code takes its table of descriptors away.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use actix_cluster::{ReadyWhen, Scheduling, ServeError, SpawnMethod, Worker, is_master};
use actix_cluster_tests::leftovers::{self, children_of};
use actix_cluster_tests::load;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::outside::{any_below, let_pass};
use actix_cluster_tests::probe;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use crate::keeper::{answer, ask, expect_keepers, hoarding};
use crate::survival::{self, Client};
use crate::survival_standby::cluster;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "keeper_waits_for_a_master_that_stands_still_and_nothing_is_lost",
        app: || hoarding(Scheduling::Shared).main(),
        check: |master| {
            let mut clients = hoarded(master);
            let worker = master.once(1, "fork").pid();
            master.stop_process(master.pid());
            send(worker, Signal::SIGKILL);
            master.expect_dead(worker, SOON);
            master.signal(Signal::SIGCONT);
            for client in &mut clients {
                assert_eq!(answer(client), "2");
            }
            assert_eq!(rescued(master), (MANY, 0));
        },
    },
    Scenario {
        name: "keeper_tells_what_it_lost_to_a_master_that_stood_still_for_too_long",
        app: || {
            let cluster = hoarding(Scheduling::Shared);
            cluster.env("ACTIX_CLUSTER_KEEPER_PATIENCE_MS", "100").main()
        },
        check: |master| {
            let mut clients = hoarded(master);
            let keeper = expect_keepers(master, 1).swap_remove(0).pid;
            master.stop_process(master.pid());
            send(master.once(1, "fork").pid(), Signal::SIGKILL);
            master.expect_dead(keeper, SOON);
            master.signal(Signal::SIGCONT);
            let (saved, lost) = rescued(master);
            assert!(saved > 0 && lost > 0, "{saved} saved, {lost} lost");
            assert_eq!(saved + lost, MANY);
            // Nobody hangs: each one is answered, or sees the end.
            let answers = clients.iter_mut().filter_map(end_of).filter(|answer| answer == "2");
            assert_eq!(answers.count() as u64, saved);
            assert!(master.seen("error").is_empty(), "nobody killed the keeper");
        },
    },
    Scenario {
        name: "keeper_and_worker_are_killed_in_the_same_instant_and_nobody_waits_for_them",
        app: || {
            cluster(1, Scheduling::Shared, SpawnMethod::Exec)
                .worker(survival::serve)
                .main()
        },
        check: |master| killed_together(master),
    },
    Scenario {
        name: "keeper_and_worker_are_killed_in_the_same_instant_where_workers_take_turns",
        app: || {
            let cluster = cluster(1, Scheduling::RoundRobin, SpawnMethod::Exec);
            cluster.worker(survival::serve).main()
        },
        check: |master| killed_together(master),
    },
    Scenario {
        name: "keeper_finds_the_connections_without_proc",
        app: || {
            let cluster = hoarding(Scheduling::Shared);
            let hides = "mount -t tmpfs none /proc && exec \"$0\"";
            let cluster = if is_master() && can_hide_proc() {
                let program = std::env::current_exe().expect("a running program has a path");
                let args = ["-m", "sh", "-c", hides, program.to_str().expect("its path is text")];
                cluster.exec("/usr/bin/unshare").args(args)
            } else {
                cluster
            };
            cluster.ready_when(ReadyWhen::Listening).main()
        },
        check: |master| {
            if !can_hide_proc() {
                eprintln!("skipped: nobody may unmount /proc here");
                return;
            }
            let mut clients: Vec<TcpStream> = (0..20).map(|_| ask(master)).collect();
            master.until("all are held", |master| master.count_said("holds") == clients.len());
            let worker = master.once(1, "fork").pid();
            // Its own one, as it sees it.
            assert!(!std::fs::exists(format!("/proc/{worker}/root/proc/self")).unwrap());
            send(worker, Signal::SIGKILL);
            for client in &mut clients {
                assert_eq!(answer(client), "2");
            }
            assert_eq!(rescued(master), (20, 0));
        },
    },
    Scenario {
        name: "keeper_whose_worker_takes_a_table_of_its_own_saves_what_was_there_before_and_nobody_hangs",
        app: || {
            let cluster = cluster(1, Scheduling::Shared, SpawnMethod::Exec);
            cluster.worker(unsharing).main()
        },
        check: unshared,
    },
];

/// More than a hand-over socket holds.
const MANY: u64 = 400;

/// So many clients, all of them accepted and not read by the first worker.
fn hoarded(master: &mut Master) -> Vec<TcpStream> {
    let clients: Vec<TcpStream> = (0..MANY).map(|_| ask(master)).collect();
    master.until("all are held", |master| master.count_said("holds") == clients.len());
    clients
}

/// What its keeper saved and lost, as it was told.
fn rescued(master: &Master) -> (u64, u64) {
    let rescued = master.expect_ever_of(1, "rescued");
    let number = |what: &str| rescued.data()[what].as_u64().expect("a number");
    (number("saved"), number("lost"))
}

/// The whole answer; `None` if the connection broke.
fn end_of(client: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    match client.read_to_string(&mut text) {
        Ok(_) => Some(text),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("neither an answer nor an end: {error}"),
    }
}

/// Which of the master's children is the keeper of this worker.
fn keeper_of(master: &Master, worker: u32) -> u32 {
    let name = format!("keeper of worker {worker}");
    let deadline = Deadline::after(limit(SOON));
    loop {
        let children = children_of(master.pid()).expect("a list of processes");
        let is_it = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let end = line.iter().position(|byte| *byte == 0).unwrap_or(line.len());
            line[..end] == *name.as_bytes()
        };
        if let Some(found) = children.iter().map(|child| child.pid).find(is_it) {
            return found;
        }
        assert!(!deadline.is_over(), "no {name}");
        std::thread::yield_now();
    }
}

fn killed_together(master: &mut Master) {
    let mut chance = 5;
    let mut worker = Client::of(master).pid();
    for round in 1..=24 {
        let mut clients: Vec<Client> = (0..4).map(|_| Client::of(master)).collect();
        for client in &mut clients[..3] {
            assert_eq!(client.pid(), worker);
        }
        std::fs::remove_file(master.directory().join("gate")).ok();
        let begun = master.count_said("begun");
        clients[0].say("GET /held HTTP/1.1\r\nhost: x\r\n\r\n");
        master.until("the request has begun", |master| master.count_said("begun") > begun);
        clients[1].say("GET / HTTP/1.1\r\nho");
        let keeper = keeper_of(master, worker);
        let (first, second) = if round % 2 == 0 {
            (keeper, worker)
        } else {
            (worker, keeper)
        };
        send(first, Signal::SIGKILL);
        if round % 3 == 0 {
            let_pass(Duration::from_micros(any_below(600, &mut chance)));
        }
        send(second, Signal::SIGKILL);
        let exits = master.expect_count("exit", round);
        let next = exits[round - 1].worker() + 1;
        worker = master.sees(next, "ready").pid();
        std::fs::write(master.directory().join("gate"), "").expect("the directory is ours");
        // Each one is answered, or sees the end at once.
        let rests = [
            "",
            "st: x\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        ];
        for (client, rest) in clients.iter_mut().zip(rests) {
            match client.0.write_all(rest.as_bytes()) {
                Ok(()) => {}
                Err(error) => assert!(matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                )),
            }
            let mut byte = [0];
            match client.0.read(&mut byte) {
                Ok(0) => {}
                Ok(_) => assert_eq!(byte, *b"H"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
            }
        }
        assert_eq!(Client::of(master).pid(), worker);
    }
    assert_eq!(master.seen("exit").len(), 24);
    expect_keepers(master, 1);
    assert_eq!(leftovers::zombies_of(master.pid()).unwrap().len(), 0);
}

/// Who may not have a mount namespace of its own cannot be without `/proc`.
fn can_hide_proc() -> bool {
    let mut command = Command::new("/usr/bin/unshare");
    let command = command.args(["-m", "mount", "-t", "tmpfs", "none", "/proc"]);
    let status = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

async fn unsharing(worker: Worker) -> Result<(), ServeError> {
    if worker.id().get() == 1 {
        let told = worker.clone();
        actix_rt::spawn(async move {
            load::held(&told, "unshare").await;
            unshare(CloneFlags::CLONE_FILES).expect("everybody may");
            probe::say("unshared");
        });
    }
    survival::serve(worker).await
}

fn unshared(master: &mut Master) {
    let mut idle = Client::of(master);
    let mut waits = Client::of(master);
    let mut closes = Client::of(master);
    let first = idle.pid();
    assert_eq!((waits.pid(), closes.pid()), (first, first));
    std::fs::write(master.directory().join("unshare"), "").expect("the directory is ours");
    master.hears("unshared");
    // From before: the end that the server makes is one for the client, although the keeper has the socket still.
    assert_eq!(
        closes
            .answer_to("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .status,
        200
    );
    assert!(closes.ends_in_order());
    waits.say("GET /held HTTP/1.1\r\nhost: x\r\n\r\n");
    master.hears("begun");
    let mut late = Client::of(master);
    assert_eq!(late.pid(), first);
    send(first, Signal::SIGKILL);
    let second = master.sees(2, "ready").pid();
    assert_eq!(late.rest().0, "", "it was in nobody else's table");
    assert_eq!(idle.pid(), second);
    assert_eq!(waits.finished(master), second.to_string());
    assert_eq!(waits.pid(), second);
}
