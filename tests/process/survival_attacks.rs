//! What clients and circumstances do to connections while they move: everything that `survival` does not have.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::process::ExitCode;

use actix_cluster::{ListenOptions, RestartLimit, Scheduling, ServeError, SpawnMethod, Worker};
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{limit, probe};
use actix_web::{App, web};
use nix::libc::linger;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};

use crate::survival::{self, Client};
use crate::survival_standby::cluster;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "survival_successors_that_are_killed_in_the_midst_of_a_rescue_twice_in_a_row_lose_nothing_shared",
        app: || of(1, Scheduling::Shared),
        check: killed_in_the_rescue,
    },
    Scenario {
        name: "survival_successors_that_are_killed_in_the_midst_of_a_rescue_twice_in_a_row_lose_nothing_round_robin",
        app: || of(1, Scheduling::RoundRobin),
        check: killed_in_the_rescue,
    },
    Scenario {
        name: "survival_clients_that_reset_while_they_are_moved_cost_the_others_nothing",
        app: || of(1, Scheduling::RoundRobin),
        check: reset_while_moved,
    },
    Scenario {
        name: "survival_half_a_body_is_kept_for_the_next_worker",
        app: || of(1, Scheduling::Shared),
        check: |master| {
            let bodies = [
                ("content-length: 10", "hello", "world"),
                ("transfer-encoding: chunked", "5\r\nhel", "lo\r\n0\r\n\r\n"),
            ];
            fs::write(master.directory().join("gate"), "").expect("the directory is ours");
            for (how, first_half, second_half) in bodies {
                let mut client = Client::of(master);
                let first = client.pid();
                client.say(&format!("PUT /held HTTP/1.1\r\nhost: x\r\n{how}\r\n\r\n{first_half}"));
                let second = replaced(master, first);
                client.say(second_half);
                assert_eq!(client.finished(master), second.to_string(), "{how}");
                assert_eq!(client.pid(), second);
            }
        },
    },
    Scenario {
        name: "survival_a_slow_reader_of_a_whole_answer_gets_it_and_of_a_part_sees_the_break",
        app: || cluster(1, Scheduling::Shared, SpawnMethod::Exec).worker(large).main(),
        check: slow_readers,
    },
    Scenario {
        name: "survival_numbers_of_descriptors_that_are_used_again_and_again_mix_up_nothing",
        app: || of(1, Scheduling::Shared),
        check: numbers_again,
    },
    Scenario {
        name: "survival_a_survivor_without_a_free_descriptor_leaves_the_connections_to_another_one",
        app: || {
            let cluster = cluster(2, Scheduling::RoundRobin, SpawnMethod::Exec);
            cluster.worker(starved).main()
        },
        check: survivor_without_descriptors,
    },
    Scenario {
        name: "survival_all_workers_are_killed_at_once_and_no_request_fails",
        app: || {
            let cluster = cluster(4, Scheduling::PerWorker, SpawnMethod::Exec);
            cluster.worker(load::serve).main()
        },
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let load = Load::start(port, 6);
            for round in 0..6 {
                load.goes_on_for(100);
                let all: Vec<u32> = (1..=4).map(|at| master.sees(4 * round + at, "ready").pid()).collect();
                for pid in all {
                    send(pid, Signal::SIGKILL);
                }
            }
            master.expect_count("exit", 24);
            load.goes_on_for(100);
            load.stop().is_flawless();
        },
    },
    Scenario {
        name: "survival_of_clients_that_come_over_ipv6_shared",
        app: || over_ipv6(Scheduling::Shared),
        check: moved_over_ipv6,
    },
    Scenario {
        name: "survival_of_clients_that_come_over_ipv6_round_robin",
        app: || over_ipv6(Scheduling::RoundRobin),
        check: moved_over_ipv6,
    },
];

fn of(workers: u32, scheduling: Scheduling) -> ExitCode {
    cluster(workers, scheduling, SpawnMethod::Exec)
        .worker(survival::serve)
        .main()
}

const HELD: &str = "GET /held HTTP/1.1\r\nhost: x\r\n\r\n";

/// Kills the worker with this process id: the one of its successor.
fn replaced(master: &Master, pid: u32) -> u32 {
    let exits = master.seen("exit").len();
    send(pid, Signal::SIGKILL);
    let exits = master.expect_count("exit", exits + 1);
    let last = exits.last().expect("it was killed").worker();
    master.sees(last + 1, "ready").pid()
}

/// So many clients whose requests have begun in the one worker there is, and its process id.
fn begun(master: &mut Master, count: usize) -> (Vec<Client>, u32) {
    fs::remove_file(master.directory().join("gate")).ok();
    let mut clients: Vec<Client> = (0..count).map(|_| Client::of(master)).collect();
    let before = master.count_said("begun");
    let pid = clients[0].pid();
    for client in &mut clients {
        client.say(HELD);
    }
    master.until("all have begun", |master| master.count_said("begun") >= before + count);
    (clients, pid)
}

fn killed_in_the_rescue(master: &mut Master) {
    let (mut clients, first) = begun(master, 60);
    send(first, Signal::SIGKILL);
    for successor in [2, 3] {
        // From here on it takes what its predecessor left: some it has, others are on their way.
        let pid = master.sees(successor, "listening").pid();
        send(pid, Signal::SIGKILL);
        master.sees(successor, "exit");
    }
    let last = master.sees(4, "ready").pid();
    for client in &mut clients {
        assert_eq!(client.finished(master), last.to_string());
    }
    for client in &mut clients {
        assert_eq!(client.pid(), last);
    }
}

fn reset_while_moved(master: &mut Master) {
    for _ in 0..6 {
        let (mut clients, pid) = begun(master, 40);
        send(pid, Signal::SIGKILL);
        let stays = clients.split_off(20);
        let at_once = linger {
            l_onoff: 1,
            l_linger: 0,
        };
        for client in clients {
            // Closed like this, a connection is reset, whatever is in it.
            setsockopt(&client.0, sockopt::Linger, &at_once).expect("a flag can be set");
        }
        for mut client in stays {
            client.finished(master);
            client.pid();
        }
    }
    assert_eq!(master.expect_count("exit", 6).len(), 6, "nobody died of it");
}

async fn large(worker: Worker) -> Result<(), ServeError> {
    let kib = |kib: web::Path<usize>| {
        probe::say("answers");
        std::future::ready("x".repeat(kib.into_inner() << 10))
    };
    let app = move || {
        App::new()
            .route("/", web::get().to(|| async { std::process::id().to_string() }))
            .route("/kib/{kib}", web::get().to(kib))
    };
    worker.serve("http", app).await
}

fn slow_readers(master: &mut Master) {
    let mut whole = Client::of(master);
    let first = whole.pid();
    whole.say("GET /kib/64 HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(whole.head().starts_with("HTTP/1.1 200"));
    // 32 MiB are more than two sockets hold.
    let mut part = Client::of(master);
    part.say(&format!("GET /kib/{} HTTP/1.1\r\nhost: x\r\n\r\n", 32 << 10));
    assert!(part.head().contains("content-length: 33554432"));
    let second = replaced(master, first);
    let mut body = vec![0; 64 << 10];
    for piece in body.chunks_mut(1 << 10) {
        whole.0.read_exact(piece).expect("all of it is there");
    }
    assert!(body.iter().all(|byte| *byte == b'x'));
    assert_eq!(whole.pid(), second);
    let (rest, _) = part.rest();
    assert!(rest.len() < 32 << 20, "half of it must not look whole");
    assert!(rest.bytes().all(|byte| byte == b'x'), "nobody answers a second time");
}

fn numbers_again(master: &mut Master) {
    let mut pid = Client::of(master).pid();
    for round in 0..8 {
        // Each of these leaves its number, and what was noted under it, to the next one: after an answer, in the midst of a
        // request, after half of one.
        for turn in 0..12 {
            let mut before = Client::of(master);
            match turn % 4 {
                0 => drop(before.pid()),
                1 => before.say("GET / HTTP/1.1\r\nho"),
                2 => {
                    let answer = before.answer_to("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
                    assert_eq!(answer.status, 200);
                }
                _ => before.say(HELD),
            }
        }
        let (mut clients, was) = begun(master, 3);
        assert_eq!(was, pid);
        let mut fresh = Client::of(master);
        let mut half = Client::of(master);
        half.say("GET / HTTP/1.1\r\nho");
        pid = replaced(master, was);
        for client in &mut clients {
            assert_eq!(client.finished(master), pid.to_string(), "round {round}");
            assert_eq!(client.pid(), pid);
        }
        half.say("st: x\r\n\r\n");
        assert_eq!(half.answer().body, pid.to_string());
        assert_eq!(fresh.pid(), pid);
    }
}

/// Serves; the second worker has no free descriptor from when the test wants it on.
pub(crate) async fn starved(worker: Worker) -> Result<(), ServeError> {
    if worker.id().get() == 2 {
        let told = worker.clone();
        actix_rt::spawn(async move {
            load::held(&told, "starve").await;
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
            setrlimit(Resource::RLIMIT_NOFILE, 256, hard).expect("less is always allowed");
            let all: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
            Box::leak(Box::new(all));
            probe::say("starved");
        });
    }
    survival::serve(worker).await
}

fn survivor_without_descriptors(master: &mut Master) {
    let first = master.sees(1, "ready").pid();
    // One after the other, so that nobody is passed over for having no room.
    let clients = (0..20).map(|_| {
        let mut client = Client::of(master);
        (client.pid(), client)
    });
    let (mut own, mut others): (Vec<_>, Vec<_>) = clients.partition(|(pid, _)| *pid == first);
    assert_eq!(own.len(), 10, "they take turns");
    fs::write(master.directory().join("starve"), "").expect("the directory is ours");
    master.hears("starved");
    for (_, client) in &mut own {
        client.say(HELD);
    }
    master.until("all have begun", |master| master.count_said("begun") == 10);
    send(first, Signal::SIGKILL);
    let third = master.sees(3, "ready").pid();
    let second = master.sees(2, "ready").pid();
    let answers = own.iter_mut().map(|(_, client)| client.finished(master));
    let answers: BTreeSet<u32> = answers.map(|answer| answer.parse().expect("a process id")).collect();
    // Who had no number left said so, or all of them would be its: its predecessor's death made nobody else ready.
    assert!(
        answers.contains(&third) && answers.is_subset(&BTreeSet::from([second, third])),
        "{answers:?}"
    );
    for (_, client) in &mut own {
        assert!(answers.contains(&client.pid()));
    }
    // It lives, and serves those that it has.
    assert_eq!(master.seen("exit").len(), 1);
    assert!(others.iter_mut().all(|(_, client)| client.pid() == second));
}

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn over_ipv6(scheduling: Scheduling) -> ExitCode {
    let options = ListenOptions::new().survive_kill(true).scheduling(scheduling);
    let address = if has_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
    let cluster = probe::cluster().restart_limit(RestartLimit::unlimited());
    cluster
        .listen_with("http", address, options)
        .worker(survival::serve)
        .main()
}

fn moved_over_ipv6(master: &mut Master) {
    if !has_ipv6() {
        eprintln!("skipped: there is no IPv6 here");
        return;
    }
    master.expect_ready();
    let port = master.port();
    let connect = || {
        let stream = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).expect("it listens");
        stream.set_read_timeout(Some(limit(SOON))).expect("a limit can be set");
        Client(stream)
    };
    assert_eq!(
        TcpStream::connect(("127.0.0.1", port))
            .expect_err("it is bound to the other")
            .kind(),
        ErrorKind::ConnectionRefused
    );
    let (mut idle, mut waits, mut half) = (connect(), connect(), connect());
    let mut pid = idle.pid();
    for round in 1..=3 {
        fs::remove_file(master.directory().join("gate")).ok();
        waits.say(HELD);
        master.until("it has begun", |master| master.count_said("begun") == 2 * round - 1);
        half.say("GET / HTTP/1.1\r\nho");
        pid = replaced(master, pid);
        master.until("it has begun again", |master| master.count_said("begun") == 2 * round);
        assert_eq!(idle.pid(), pid);
        half.say("st: x\r\n\r\n");
        assert_eq!(half.answer().body, pid.to_string());
        assert_eq!(waits.finished(master), pid.to_string());
        assert_eq!(waits.pid(), pid);
    }
    // Their counts and their addresses are those of the new family: nothing was told of as lost.
    assert!(master.seen("rescued").iter().all(|seen| seen.data()["lost"] == 0));
}
