//! Descriptors from workers that break the protocol, and for workers that are gone: nothing stays open in the master.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};

use actix_cluster::{Message, RestartType, SendError, WhenEmpty, Worker, WorkerRef};
use actix_cluster_tests::leftovers::open_fds;
use actix_cluster_tests::master::{Master, SOON};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "descriptors_with_half_a_frame_are_closed_with_the_channel",
        app: || crowd(end_in_half_a_frame),
        check: |master| {
            let before = after_one(master);
            for worker in 2..=20 {
                master.order(&Order::Fork(Vec::new()));
                master.sees(worker, "exit");
            }
            comes_down_to(master, before);
            master.ask(&Order::Ping, "pong");
            assert!(master.seen("message").is_empty());
        },
    },
    Scenario {
        name: "descriptors_that_nobody_takes_out_of_a_message_are_closed_with_it",
        app: || crowd(send_what_nobody_takes),
        check: |master| {
            let before = after_one(master);
            for worker in 2..=20 {
                master.order(&Order::Fork(Vec::new()));
                assert_eq!(master.sees(worker, "exit").code(), Some(0));
            }
            comes_down_to(master, before);
            assert_eq!(master.seen("message").len(), 20 * 4);
        },
    },
    Scenario {
        name: "descriptors_for_a_worker_that_does_not_read_come_back_when_it_is_full_and_are_closed_when_it_dies",
        app: || {
            let cluster = probe::cluster().workers(0).restart(RestartType::Temporary);
            let cluster = cluster.when_empty(WhenEmpty::Wait).on_message(fill);
            cluster.worker(be_deaf).main()
        },
        check: |master| {
            let before = after_one(master);
            for worker in 2..=3 {
                master.order(&Order::Fork(Vec::new()));
                master.sees(worker, "exit");
            }
            comes_down_to(master, before);
        },
    },
];

fn crowd<F: Future<Output = ()> + 'static>(work: fn(Worker) -> F) -> std::process::ExitCode {
    let cluster = probe::cluster().workers(0).restart(RestartType::Temporary);
    cluster.when_empty(WhenEmpty::Wait).worker(work).main()
}

/// Descriptors that the master has open once the first worker has come and gone.
fn after_one(master: &mut Master) -> usize {
    master.ask(&Order::Ping, "pong");
    let before = open_fds(master.pid()).expect("the master lives");
    master.order(&Order::Fork(Vec::new()));
    master.sees(1, "exit");
    comes_down_to(master, before);
    before
}

fn comes_down_to(master: &Master, count: usize) {
    let deadline = Deadline::after(limit(SOON));
    // The channel itself goes right after the event.
    while open_fds(master.pid()).expect("the master lives") > count {
        assert!(!deadline.is_over(), "descriptors were left open");
        std::thread::yield_now();
    }
}

fn null() -> OwnedFd {
    File::open("/dev/null").expect("it is always there").into()
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "user code that ends a worker behind the library's back"
)]
async fn end_in_half_a_frame(_: Worker) {
    let fds: Vec<OwnedFd> = (0..8).map(|_| null()).collect();
    let numbers: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let half = [IoSlice::new(br#"{"t":"msg","fds":8,"m":"#)];
    // The number that every worker's channel has.
    sendmsg::<()>(3, &half, &rights, MsgFlags::MSG_NOSIGNAL, None).expect("there is room");
    std::process::exit(0)
}

async fn send_what_nobody_takes(worker: Worker) {
    for _ in 0..4 {
        let fds = (0..16).map(|_| null()).collect();
        worker.send_with_fds("take them", fds).expect("the master reads");
    }
}

/// Answers, whereupon the worker stands still; then more than the channel takes, and the end of the worker.
#[expect(clippy::needless_pass_by_value, reason = "the signature of a handler")]
fn fill(worker: WorkerRef, message: Message) {
    let reply = message.reply().expect("it is a call");
    reply.ok(&1).expect("a number has a JSON form");
    let long = "x".repeat(10_000);
    let refused = loop {
        match worker.send_with_fds(&long, vec![null(), null()]) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, SendError::Full(_)), "{refused}");
    assert_eq!(refused.into_fds().len(), 2);
    actix_rt::spawn(async move { worker.kill(actix_cluster::Signal::KILL).await.ok() });
}

async fn be_deaf(worker: Worker) {
    let _: u64 = worker.call("?", limit(SOON)).await.expect("the master answers");
    loop {
        std::thread::park();
    }
}
