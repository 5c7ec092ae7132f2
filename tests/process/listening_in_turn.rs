//! Listening at run time where the master accepts and hands connections over in turn: what listening itself promises is
//! the same as with sockets of the workers' own.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::process::ExitCode;

use actix_cluster::{RestartType, WhenEmpty};
use actix_cluster_tests::master::{Master, SOON};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::puppet::{self, bound, tell};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::tcp::{self, Tcp};
use actix_cluster_tests::{Deadline, limit};
use serde_json::json;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_064_with_ipv6_only_the_ipv4_port_is_free_for_others_in_turn_too",
        app: || puppets(3),
        check: |master| {
            if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
                return eprintln!("skipped: this machine has no IPv6");
            }
            master.expect_ready();
            let addresses = [1, 2, 3].map(|worker| serves(master, worker, "bind-rr-v6only [::]:0"));
            let payload = json!({"address": "::", "port": addresses[0].port(), "address_type": "6", "fd": null});
            let listening = master.expect_count("listening", 3);
            assert!(listening.iter().all(|seen| *seen.data() == payload), "{listening:?}");
            // An address of its own, which nobody else's port is on; a listener for both families would be in its way.
            drop(TcpListener::bind((master.own_host(), addresses[0].port())).expect("it is free for IPv4"));
            for worker in 1..=3 {
                master.order(&Order::Disconnect(worker));
                assert_eq!(master.sees(worker, "exit").code(), Some(0));
            }
        },
    },
    Scenario {
        name: "n_080_a_worker_listens_closes_and_listens_again_beside_one_that_stays",
        app: || puppets(2),
        check: |master| {
            master.expect_ready();
            let address = serves(master, 1, "bind-rr 127.0.0.1:0");
            for _ in 0..2 {
                // The listener has one number, its serving the next.
                let answer = tell(master, 2, "bind-rr 127.0.0.1:0");
                assert_eq!(bound(&answer), address);
                let number = number_of(&answer);
                let serving = tell(master, 2, &format!("serve {number}"));
                // The master counts it in when it has heard of it.
                let deadline = Deadline::after(limit(SOON));
                while served_by(address) != BTreeSet::from([1, 2]) {
                    assert!(!deadline.is_over(), "it is left out");
                }
                let serving = serving.strip_prefix("serves ").expect("it serves").to_owned();
                assert_eq!(
                    tell(master, 2, &format!("close {serving}")),
                    format!("closed {serving}")
                );
                assert_eq!(served_by(address), BTreeSet::from([1]));
            }
            tell(master, 2, "close-channel");
            assert_eq!(master.sees(2, "exit").code(), Some(0));
            assert_eq!(served_by(address), BTreeSet::from([1]));
            master.order(&Order::Disconnect(1));
            assert_eq!(master.sees(1, "exit").code(), Some(0));
            // Who accepts for them hears of it a moment later.
            let deadline = Deadline::after(limit(SOON));
            while !tcp::is_refused(address.port()) {
                assert!(!deadline.is_over(), "the listener outlives its last worker");
            }
        },
    },
];

fn puppets(workers: u32) -> ExitCode {
    let cluster = probe::cluster().workers(workers).restart(RestartType::Temporary);
    cluster.when_empty(WhenEmpty::Wait).worker(puppet::run).main()
}

/// The number in an answer to `bind`.
fn number_of(answer: &str) -> &str {
    answer.split(' ').nth(1).expect("it is bound")
}

/// Binds and serves; where.
fn serves(master: &mut Master, worker: u64, bind: &str) -> SocketAddr {
    let answer = tell(master, worker, bind);
    let address = bound(&answer);
    let answer = tell(master, worker, &format!("serve {}", number_of(&answer)));
    assert!(answer.starts_with("serves "), "{answer}");
    address
}

/// Who serves the next connections, one after the other: each tells its id.
fn served_by(address: SocketAddr) -> BTreeSet<u64> {
    let ask = |_| {
        let mut client = Tcp::connect(address.port()).expect("it listens");
        client.rest().0.trim().parse().expect("a worker's id")
    };
    (0..8).map(ask).collect()
}
