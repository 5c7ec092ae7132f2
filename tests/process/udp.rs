//! UDP: bound by the master for all workers, by a worker for itself, refused, given back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket as Client};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::process::ExitCode;

use actix_cluster::{ClusterBuilder, ListenError, RestartType, WhenEmpty, Worker};
use actix_cluster_tests::leftovers::open_fds;
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, SOON};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::puppet::tell;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::udp::{self, ask, bound, sockets_at};
use nix::errno::Errno;
use serde_json::json;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_201_four_workers_share_a_udp_port_and_each_datagram_comes_once",
        app: || puppets(4),
        check: |master| {
            master.expect_ready();
            let port = (1..=4).map(|worker| bound(&tell(master, worker, "bind 0.0.0.0:0")).port());
            let ports: BTreeSet<u16> = port.collect();
            let port = *ports.first().expect("they bind");
            let listening = master.expect_count("listening", 4);
            let payload = json!({"address": "0.0.0.0", "port": port, "address_type": "udp4", "fd": null});
            assert!(listening.iter().all(|seen| *seen.data() == payload), "{listening:?}");
            ten_for_each(master, port);
        },
    },
    Scenario {
        name: "n_203_a_descriptor_of_the_master_is_named_by_its_number",
        app: || {
            if !actix_cluster::is_worker() {
                let socket = Client::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
                let address = socket.local_addr().expect("it is bound");
                probe::say(&format!("holds {} {}", socket.as_raw_fd(), address.port()));
                // It stays open until the master ends, and only its number is known.
                let _number = socket.into_raw_fd();
            }
            puppets(4)
        },
        check: |master| {
            let held = master.expect_said("holds ");
            let (number, port) = held.split_once(' ').expect("it says both");
            master.expect_ready();
            for worker in 1..=4 {
                let answer = tell(master, worker, &format!("bind fd:{number}"));
                assert_eq!(bound(&answer).port().to_string(), port);
            }
            ten_for_each(master, port.parse().expect("it is a port"));
        },
    },
    Scenario {
        name: "n_204_ipv6_only_and_ipv4_sockets_have_one_port",
        app: || puppets(1),
        check: |master| {
            if Client::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
                return eprintln!("skipped: this machine has no IPv6");
            }
            master.expect_ready();
            let six = bound(&tell(master, 1, "bind [::]:0 v6only"));
            let four = bound(&tell(master, 1, &format!("bind 0.0.0.0:{}", six.port())));
            assert_eq!(four.port(), six.port());
            let types = master.expect_count("listening", 2);
            let types: Vec<_> = types.iter().map(|seen| seen.data()["address_type"].clone()).collect();
            assert_eq!(types, ["udp6", "udp4"]);
            close_both_and_end(master);
        },
    },
    Scenario {
        name: "n_205_two_sockets_that_both_say_so_have_one_address",
        app: || puppets(1),
        check: |master| {
            master.expect_ready();
            let first = bound(&tell(master, 1, "bind 0.0.0.0:0 reuse"));
            assert_eq!(bound(&tell(master, 1, &format!("bind {first} reuse"))), first);
            assert_eq!(sockets_at(first.port()), 2);
            close_both_and_end(master);
        },
    },
    Scenario {
        name: "n_206_sockets_that_share_their_port_by_themselves_ask_nobody",
        app: || puppets(1),
        check: |master| {
            master.expect_ready();
            let first = bound(&tell(master, 1, "own 127.0.0.1:0 per-worker"));
            assert_eq!(bound(&tell(master, 1, &format!("own {first} per-worker"))), first);
            assert_eq!(sockets_at(first.port()), 2);
            close_both_and_end(master);
            assert!(master.seen("listening").is_empty());
        },
    },
    Scenario {
        name: "n_208_bound_closed_and_bound_anew_twice_at_once",
        app: || temporary(1).worker(bind_close_bind_close).main(),
        check: |master| {
            master.hears("bound 4 times");
            assert_eq!(master.sees(1, "exit").code(), Some(0));
        },
    },
    Scenario {
        name: "n_209_n_211_a_request_that_nobody_waits_for_any_more_leaves_nothing",
        app: || puppets(1),
        check: |master| {
            let held = Client::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
            let taken = held.local_addr().expect("it is bound");
            master.expect_ready();
            // Both kinds once, so that whatever is opened lazily is open.
            let round = |master: &mut Master| {
                assert_eq!(
                    tell(master, 1, &format!("abandon {taken}")),
                    "abandoned: nothing came of it"
                );
                assert_eq!(tell(master, 1, "abandon 127.0.0.1:0"), "abandoned: nothing came of it");
            };
            let counts = |master: &mut Master| {
                let worker = master.sees(1, "fork").pid();
                // The first answer comes behind those to the abandoned requests, the second behind what was given back.
                for _ in 0..2 {
                    let answer = tell(master, 1, &format!("bind {taken}"));
                    assert!(
                        answer.starts_with(&format!("refused {} ", Errno::EADDRINUSE as i32)),
                        "{answer}"
                    );
                }
                [worker, master.pid()].map(|pid| open_fds(pid).expect("it lives"))
            };
            round(master);
            let before = counts(master);
            for _ in 0..20 {
                round(master);
            }
            assert_eq!(counts(master), before);
            assert!(master.seen("exit").is_empty());
        },
    },
    Scenario {
        name: "n_210_a_refused_bind_tells_why_and_can_be_tried_again",
        app: || puppets(1),
        check: |master| {
            // An address that nobody else uses, so that the port is still free when it is asked for again.
            let held = Client::bind("127.0.11.3:0").expect("a port is free");
            let taken = held.local_addr().expect("it is bound");
            master.expect_ready();
            let answer = tell(master, 1, &format!("bind {taken}"));
            let wanted = format!("refused {} udp:{taken} bind: EADDRINUSE", Errno::EADDRINUSE as i32);
            assert!(answer.starts_with(&wanted), "{answer}");
            assert!(master.seen("listening").is_empty());
            drop(held);
            assert_eq!(bound(&tell(master, 1, &format!("bind {taken}"))), taken);
        },
    },
    Scenario {
        name: "n_214_sockets_that_were_never_bound_are_nobodys_and_hold_nothing_back",
        app: || puppets(4),
        check: |master| {
            let ear = Client::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
            ear.set_read_timeout(Some(limit(SOON))).expect("a limit can be set");
            let ear_at = ear.local_addr().expect("it is bound");
            master.expect_ready();
            for (worker, how) in [(1, "own"), (2, "own"), (3, "bind"), (4, "bind")] {
                let answer = tell(master, worker, &format!("{how} 127.0.0.1:0"));
                assert!(answer.starts_with("bound 1 "), "{answer}");
                tell(master, worker, &format!("send 1 {ear_at}"));
            }
            let mut heard = BTreeMap::new();
            for _ in 0..4 {
                let mut buf = [0; 32];
                let (len, from) = ear.recv_from(&mut buf).expect("each sends one");
                heard.insert(String::from_utf8_lossy(&buf[..len]).into_owned(), from.port());
            }
            let ports: BTreeSet<u16> = heard.values().copied().collect();
            assert_eq!((heard.len(), ports.len()), (4, 3), "{heard:?}");
            master.expect_count("listening", 2);
            master.order(&Order::DisconnectAll);
            master.hears("all disconnected");
            for worker in 1..=4 {
                assert_eq!(master.sees(worker, "exit").code(), Some(0));
            }
            assert_eq!(master.seen("listening").len(), 2);
        },
    },
    Scenario {
        name: "n_215_shared_ports_are_shared_and_exclusive_ones_are_not",
        app: || puppets(2),
        check: |master| {
            master.expect_ready();
            let two = ["bind 127.0.11.1:0", "own 127.0.11.1:0"].map(|order| bound(&tell(master, 1, order)));
            assert_eq!(bound(&tell(master, 2, "bind 127.0.11.1:0")), two[0]);
            let answer = tell(master, 2, &format!("own {}", two[1]));
            assert!(
                answer.starts_with(&format!("refused {} ", Errno::EADDRINUSE as i32)),
                "{answer}"
            );
            // A fixed port, which was free a moment ago on an address that nobody else uses.
            let free = Client::bind("127.0.11.2:0")
                .and_then(|it| it.local_addr())
                .expect("a port is free");
            for worker in [1, 2] {
                assert_eq!(bound(&tell(master, worker, &format!("bind {free}"))), free);
            }
            assert_eq!(sockets_at(free.port()), 1);
            master.order(&Order::DisconnectAll);
            for worker in [1, 2] {
                assert_eq!(master.sees(worker, "exit").code(), Some(0));
            }
        },
    },
    Scenario {
        name: "n_216_a_port_that_was_chosen_for_one_can_be_named_by_another",
        app: || puppets(2),
        check: |master| {
            master.expect_ready();
            let chosen = bound(&tell(master, 1, "bind 127.0.0.1:0"));
            assert_eq!(bound(&tell(master, 2, &format!("bind {chosen}"))), chosen);
            assert_eq!(sockets_at(chosen.port()), 1);
            tell(master, 2, "echo 1");
            assert_eq!(ask(chosen), Some(2));
            master.order(&Order::DisconnectAll);
            for worker in [1, 2] {
                assert_eq!(master.sees(worker, "exit").code(), Some(0));
            }
        },
    },
];

fn temporary(workers: u32) -> ClusterBuilder {
    let cluster = probe::cluster().workers(workers).restart(RestartType::Temporary);
    cluster.when_empty(WhenEmpty::Wait)
}

fn puppets(workers: u32) -> ExitCode {
    temporary(workers).worker(udp::run).main()
}

/// Forty datagrams for four workers, of which each leaves after ten.
fn ten_for_each(master: &mut Master, port: u16) {
    for worker in 1..=4 {
        tell(master, worker, "count 1 10");
    }
    let client = Client::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    for _ in 0..40 {
        client.send_to(b"x", (Ipv4Addr::LOCALHOST, port)).expect("it is bound");
    }
    for worker in 1..=4 {
        master.hears(&format!("worker {worker} has its 10"));
        master.order(&Order::Disconnect(worker));
        assert_eq!(master.sees(worker, "exit").code(), Some(0));
    }
    assert!(master.said("worker").len() == 4);
}

fn close_both_and_end(master: &mut Master) {
    for held in [1, 2] {
        assert_eq!(tell(master, 1, &format!("close {held}")), format!("closed {held}"));
    }
    master.order(&Order::Disconnect(1));
    assert_eq!(master.sees(1, "exit").code(), Some(0));
}

async fn bind_close_bind_close(worker: Worker) -> Result<(), ListenError> {
    let one = |worker: Worker| async move {
        for _ in 0..2 {
            let socket = worker.bind_udp("0.0.0.0:0").await?;
            actix_rt::task::yield_now().await;
            drop(socket);
        }
        Ok::<_, ListenError>(())
    };
    let (first, second) = tokio::join!(one(worker.clone()), one(worker.clone()));
    first.and(second)?;
    probe::say("bound 4 times");
    Ok(())
}
