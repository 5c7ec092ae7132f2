//! Workers that abuse the channel: floods, garbage, silence, lies.
//!
//! Every scenario has a good worker, number 1; a bad one is started beside it. Whatever the bad one does, the good one
//! serves, the master's memory and descriptors stay, and the cluster stops in order.

use actix_cluster::{ClusterEvent, ClusterHandle, SubscribeOptions, WhenFull};
use actix_cluster_tests::fault::{self, Fault, Good, attack};
use actix_cluster_tests::leftovers::{open_fds, rss_kib};
use actix_cluster_tests::master::Master;
use actix_cluster_tests::probe::Order;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::Signal;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "an_announcement_longer_than_the_master_keeps_is_a_breach",
        app,
        check: |master| {
            let long = "x".repeat(20_000);
            let frame = format!("{{\"t\":\"announce\",\"m\":\"{long}\"}}\n");
            breach(master, Fault::raw(&frame), "announced more than 16384 bytes");
        },
    },
    Scenario {
        name: "f_063_garbage_ends_the_worker_that_wrote_it_and_nobody_else",
        app,
        check: |master| {
            breach(master, Fault::raw("GET / HTTP/1.1\r\n\r\n"), "no frame");
        },
    },
    Scenario {
        name: "f_065_a_hundred_thousand_brackets_are_a_breach_and_not_a_crash",
        app,
        check: |master| {
            let nested = format!("{{\"t\":\"msg\",\"m\":{}}}\n", "[".repeat(100_000));
            breach(master, Fault::raw(&nested), "nested deeper than 128");
        },
    },
    Scenario {
        name: "f_062_a_gigabyte_without_a_newline_is_cut_at_the_first_megabyte",
        app,
        check: |master| {
            let endless = Fault::Raw {
                bytes: "x".repeat(1 << 16),
                times: 1 << 14,
            };
            breach(master, endless, "longer than 1048576 bytes");
        },
    },
    Scenario {
        name: "f_098_a_worker_cannot_order_the_master_about",
        app,
        check: |master| {
            let good = Good::ready(master);
            for kind in ["exit", "shutdown", "scale", "kill", "exec", "stop", "bound"] {
                let order = format!("{{\"t\":\"{kind}\",\"id\":1,\"m\":{{\"worker\":1,\"n\":0,\"grace_ms\":0}}}}\n");
                breach_beside(
                    master,
                    good,
                    Fault::raw(&order),
                    &format!("unknown kind of frame \"{kind}\""),
                );
            }
        },
    },
    Scenario {
        name: "f_094_no_id_in_a_frame_is_believed",
        app,
        check: nothing_in_anothers_name,
    },
    Scenario {
        name: "f_082_descriptors_that_nobody_wants_are_closed_and_then_a_breach",
        app,
        check: |master| {
            let surplus = Fault::Surplus { each: 3, times: 10_000 };
            breach(master, surplus, "more than 64 descriptors");
        },
    },
    Scenario {
        name: "f_083_as_many_descriptors_as_one_message_holds_leak_nothing",
        app,
        check: |master| {
            breach(
                master,
                Fault::Surplus { each: 253, times: 1 },
                "more than 64 descriptors",
            );
        },
    },
    Scenario {
        name: "f_069_a_worker_that_never_reads_is_told_full_and_the_others_hear_everything",
        app,
        check: deaf,
    },
    Scenario {
        name: "f_069_what_a_dead_worker_did_not_read_is_forgotten",
        app,
        check: deaf_and_dead,
    },
    Scenario {
        name: "f_068_a_flood_of_messages_slows_its_sender_only",
        app: unheard,
        check: |master| {
            flood(master, "{\"t\":\"msg\",\"m\":{\"n\":{n}}}\n");
        },
    },
    Scenario {
        name: "f_068_a_flood_of_heartbeats_slows_its_sender_only",
        app: unheard,
        check: |master| flood(master, "{\"t\":\"heartbeat\",\"m\":{\"n\":{n}}}\n"),
    },
    Scenario {
        name: "f_095_a_flood_of_made_up_addresses_is_not_collected",
        app: unheard,
        check: |master| {
            let address = r#"{"address":"10.0.0.{n}","port":1,"address_type":"4","fd":null}"#;
            flood(
                master,
                &format!("{{\"t\":\"listening\",\"m\":{{\"key\":{{\"named\":\"{{n}}\"}},\"address\":{address}}}}}\n"),
            );
        },
    },
    Scenario {
        name: "f_097_a_flood_of_wishes_for_listeners_is_refused_at_the_limit",
        app: unheard,
        check: |master| {
            flood(master, &wish_for_a_listener());
        },
    },
    Scenario {
        name: "f_097_a_subscriber_that_loses_nothing_is_no_way_to_fill_the_master",
        app: slow_listener,
        check: |master| {
            let good = Good::ready(master);
            let (_, memory) = size_of(master, good);
            let bytes = wish_for_a_listener();
            let id = attack(
                master,
                Fault::Raw {
                    bytes,
                    times: 1_000_000,
                },
            );
            master.once(id, "ready");
            let enough = Deadline::after(limit(Duration::from_secs(3)));
            while !enough.is_over() {
                has_grown_by(master, usize::MAX / 2, memory, 0);
            }
        },
    },
    Scenario {
        name: "f_063_half_a_frame_and_then_silence_harms_nobody",
        app,
        check: |master| {
            let good = Good::ready(master);
            let id = attack(master, Fault::raw("{\"t\":\"msg\",\"m\":\"and th"));
            master.once(id, "ready");
            good.serves(master);
            // Its reader never comes back, so only the last rung ends it.
            master.order(&Order::Disconnect(id));
            let exit = master.once(id, "exit");
            assert_eq!((exit.signal(), exit.reason().as_str()), (Some(9), Some("ordered")));
            good.serves(master);
        },
    },
    Scenario {
        name: "f_073_a_worker_that_closes_its_channel_and_lives_on_is_replaced",
        app,
        check: closed_and_alive,
    },
];

fn app() -> ExitCode {
    fault::cluster().main()
}

fn unheard() -> ExitCode {
    fault::unheard().main()
}

/// Somebody wants every event and takes a millisecond for each.
fn slow_listener() -> ExitCode {
    let options = SubscribeOptions::new().when_full(WhenFull::HoldBack);
    let slow = |_: &ClusterEvent, _: &ClusterHandle| {
        poll(&mut [], PollTimeout::from(1_u8)).ok();
    };
    fault::unheard().on_event_with(options, slow).main()
}

fn wish_for_a_listener() -> String {
    let key = r#"{"asked":{"address":{"tcp":"127.0.0.1:0"},"index":{n}}}"#;
    format!("{{\"t\":\"bind\",\"id\":{{n}},\"m\":{{\"key\":{key}}}}}\n")
}

/// The worker is ended for a breach with these words, told once, and replaced; nothing of it stays in the master.
fn breach(master: &mut Master, fault: Fault, words: &str) {
    let good = Good::ready(master);
    breach_beside(master, good, fault, words);
}

fn breach_beside(master: &mut Master, good: Good, fault: Fault, words: &str) {
    let (fds, memory) = size_of(master, good);
    let id = attack(master, fault);
    let error = master.once(id, "error");
    let told = error.data()["protocol"].as_str().unwrap_or("").to_owned();
    assert!(told.contains(words), "{told}");
    good.serves(master);
    let exit = master.once(id, "exit");
    assert_eq!(exit.reason()["protocol"], told);
    assert_eq!(master.life_of(id).iter().filter(|kind| *kind == "error").count(), 1);
    master.once(id + 1, "ready");
    // The successor is one more worker, with its two sockets, its pidfd and its listener.
    has_grown_by(master, fds, memory, FDS_OF_A_WORKER);
    master.order(&Order::Disconnect(id + 1));
    master.once(id + 1, "exit");
    good.serves(master);
}

/// A flooding worker is slowed, and costs the master neither memory nor the others' time.
fn flood(master: &mut Master, bytes: &str) {
    let good = Good::ready(master);
    let (fds, memory) = size_of(master, good);
    let bytes = bytes.to_owned();
    let id = attack(
        master,
        Fault::Raw {
            bytes,
            times: 1_000_000,
        },
    );
    master.once(id, "ready");
    for _ in 0..20 {
        good.serves(master);
    }
    has_grown_by(master, usize::MAX / 2, memory, 0);
    master.order(&Order::Disconnect(id));
    let exit = master.once(id, "exit");
    assert_eq!(
        exit.reason().as_str(),
        Some("ordered"),
        "it flooded to the end, and broke no rule"
    );
    has_grown_by(master, fds, memory, FDS_OF_A_WORKER);
    good.serves(master);
}

fn nothing_in_anothers_name(master: &mut Master) {
    let good = Good::ready(master);
    master.order(&Order::Call(1, "hold".to_owned()));
    let forged = format!(
        "{}{}{}{}",
        "{\"t\":\"reply\",\"id\":{n},\"worker\":1,\"m\":{\"ok\":\"forged\"}}\n",
        format_args!("{{\"t\":\"leaving\",\"worker\":1,\"pid\":{}}}\n", good.pid()),
        format_args!("{{\"t\":\"online\",\"m\":{{\"protocol\":1,\"pid\":{}}}}}\n", good.pid()),
        "{\"t\":\"release\",\"m\":{\"key\":{\"named\":\"tcp\"}}}\n{\"t\":\"msg\",\"m\":\"forged {n}\"}\n",
    );
    let id = attack(
        master,
        Fault::Raw {
            bytes: forged,
            times: 100,
        },
    );
    let last = master.expect_line("the last forged frame", limit(Duration::from_secs(5)), |line| {
        line["data"] == "forged 99" || line["data"]["payload"] == "forged 99"
    });
    assert_eq!(last["worker"]["id"], id, "the channel tells who speaks");
    // It said only of itself that it leaves.
    assert!(master.life_of(id).contains(&"exiting".to_owned()));
    assert_eq!(master.life_of(1), ["fork", "online", "listening", "ready"]);
    assert_eq!(master.ask(&Order::Send(1, "release".to_owned()), "answer "), "\"held\"");
    good.serves(master);
    let exit = master.once(id, "exit");
    assert_eq!(exit.signal(), Some(9), "who leaves and stays is ended");
}

fn deaf(master: &mut Master) {
    let good = Good::ready(master);
    let (_, memory) = size_of(master, good);
    let id = attack(master, Fault::Deaf);
    master.once(id, "ready");
    let before = heard(master);
    let text = "x".repeat(50_000);
    let mut told = 0;
    // 1 MiB in the outbox and what a socket holds: full after some thirty, and it stays so.
    for _ in 0..60 {
        if master.ask(&Order::Broadcast(text.clone()), "sent ") == "1" {
            told += 1;
        }
        // The good one has its own outbox, and reads it.
        heard(master);
    }
    assert!(told >= 20, "full {told} times");
    assert_eq!(
        heard(master),
        before + 2 * 60 + 1,
        "every message came, and every question"
    );
    good.serves(master);
    let grown = rss_kib(master.pid()).unwrap().saturating_sub(memory);
    assert!(grown < MEMORY_KIB, "the master has grown by {grown} KiB");
    master.order(&Order::Disconnect(id));
    assert_eq!(master.once(id, "exit").signal(), Some(9));
}

fn deaf_and_dead(master: &mut Master) {
    let good = Good::ready(master);
    let text = "x".repeat(500_000);
    let (fds, memory) = size_of(master, good);
    for _ in 0..20 {
        let id = attack(master, Fault::Deaf);
        master.once(id, "ready");
        for _ in 0..4 {
            master.ask(&Order::Send(id, text.clone()), "");
        }
        master.order(&Order::Kill(id, Signal::SIGKILL as i32));
        master.once(id, "exit");
        master.once(id + 1, "ready");
        master.order(&Order::Disconnect(id + 1));
        master.once(id + 1, "exit");
    }
    has_grown_by(master, fds, memory, 20);
}

/// How many messages and questions the good worker has heard.
fn heard(master: &mut Master) -> u64 {
    let count = master.ask(&Order::Call(1, "ping".to_owned()), "answer ");
    count.parse().expect("the good worker counts")
}

fn closed_and_alive(master: &mut Master) {
    let good = Good::ready(master);
    let script = format!(
        "{}trap '' TERM; exec 3>&-; {}",
        fault::SHELL_READY,
        fault::SHELL_LIVES_ON
    );
    let id = attack(master, Fault::Shell(script));
    let disconnect = master.once(id, "disconnect");
    assert_eq!(disconnect.exited_after_disconnect(), Some(false));
    good.serves(master);
    let exit = master.once(id, "exit");
    assert_eq!(
        (exit.signal(), exit.reason().as_str()),
        (Some(9), Some("channel_closed"))
    );
    master.once(id + 1, "ready");
}

/// Descriptors and memory of the master, once it has done everything it does the first time only.
fn size_of(master: &mut Master, good: Good) -> (usize, u64) {
    good.serves(master);
    (open_fds(master.pid()).unwrap(), rss_kib(master.pid()).unwrap())
}

/// Waits until the master holds no more than `more` descriptors above `fds`; its memory is as bounded.
fn has_grown_by(master: &Master, fds: usize, memory: u64, more: usize) {
    let deadline = Deadline::after(limit(Duration::from_secs(5)));
    while open_fds(master.pid()).unwrap() > fds + more {
        assert!(
            !deadline.is_over(),
            "{} descriptors, {fds} before",
            open_fds(master.pid()).unwrap()
        );
    }
    let grown = rss_kib(master.pid()).unwrap().saturating_sub(memory);
    assert!(grown < MEMORY_KIB, "the master has grown by {grown} KiB");
}

/// What the master may hold of one worker: its channel, its hand-over socket, its pidfd and its slot's socket.
const FDS_OF_A_WORKER: usize = 4;

/// What an attack may cost the master.
const MEMORY_KIB: u64 = 8 * 1024;
