//! The master's table of descriptors is full while connections come back to it: they wait, and none is lost.

use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::probe::Order;
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;

use crate::survival::{Client, kill, of};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "survival_f_103_a_master_without_a_free_descriptor_passes_connections_on_and_starts_a_worker",
        app: || of(1),
        check: |master| {
            let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::of(master)).collect();
            let first = clients.iter_mut().map(Client::pid).max().expect("there are some");
            for client in &mut clients[..CLIENTS / 4] {
                client.say("GET / HTTP/1.1\r\nho");
            }
            fill_the_table(master);
            let second = kill(master, first);
            for client in &mut clients[..CLIENTS / 4] {
                client.say("st: x\r\n\r\n");
                assert_eq!(client.answer().body, second.to_string());
            }
            for client in &mut clients {
                assert_eq!(client.pid(), second);
            }
            nothing_is_lost(master);
        },
    },
    Scenario {
        name: "survival_f_103_connections_wait_while_the_master_can_have_no_descriptor_at_all",
        app: || of(2),
        check: |master| {
            let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::of(master)).collect();
            let first = clients[0].pid();
            for client in &mut clients {
                client.pid();
                client.say("GET / HTTP/1.1\r\nho");
            }
            // Less than the numbers of those that the master has: what it closes makes no room.
            master.ask(&Order::Limit("nofile".to_owned(), Some(4)), "limited");
            send(first, Signal::SIGKILL);
            master.expect_log(SHORT, 1);
            master.expect_count("exit", 1);
            master.ask(&Order::Limit("nofile".to_owned(), None), "limited");
            for client in &mut clients {
                client.say("st: x\r\n\r\n");
                assert_ne!(client.answer().body, first.to_string());
                assert_ne!(client.pid(), first);
            }
            nothing_is_lost(master);
        },
    },
    Scenario {
        name: "survival_f_103_connections_that_are_given_away_reach_others_by_a_master_without_a_free_descriptor",
        app: || of(2),
        check: |master| {
            let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::of(master)).collect();
            let before: Vec<u32> = clients.iter_mut().map(Client::pid).collect();
            fill_the_table(master);
            for worker in [1, 2] {
                master.order(&Order::Restart(worker));
                master.expect_of(worker, "exit");
                master.expect_ever_of(worker + 2, "ready");
            }
            for client in &mut clients {
                assert!(!before.contains(&client.pid()));
            }
            nothing_is_lost(master);
        },
    },
];

/// From here on the master gets no descriptor but for those that it closes.
fn fill_the_table(master: &mut Master) {
    let open = std::fs::read_dir(format!("/proc/{}/fd", master.pid())).expect("it lives");
    let open = open.count() as u64;
    master.ask(&Order::Limit("nofile".to_owned(), Some(open)), "limited");
}

fn nothing_is_lost(master: &mut Master) {
    master.expect_log(SHORT, 1);
    let handed = &master.snapshot()["handover"];
    assert_eq!(handed["lost"], 0, "{handed}");
}

/// More than may use the master's reserve, with what a death leaves free; and not too many for one worker, which has the limit
/// of the master that starts it.
const CLIENTS: usize = 32;
/// What the master says when it has to use its reserve.
const SHORT: &str = "the master has no free descriptor";
