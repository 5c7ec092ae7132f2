//! What master and workers say to each other. Descriptors that go along are in `descriptors`.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{
    CallError, Cluster, ClusterBuilder, ClusterEvent, ClusterHandle, Connection, EventKind, ListenError, Message,
    RestartType, SendError, WhenEmpty, Worker, WorkerRef,
};
use actix_cluster_tests::outside::wait_at_gate;
use actix_cluster_tests::probe::{self, Order, text_of, worker_of};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::tcp::Tcp;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_124_n_125_n_126_messages_go_both_ways_beside_a_connection",
        app: || {
            one()
                .listen("tcp", "127.0.0.1:0")
                .on_message(repeat)
                .worker(greet)
                .main()
        },
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let mut client = Tcp::connect(port).expect("it listens");
            assert_eq!(master.sees(1, "message").data(), "message from worker");
            master.hears("1: message from worker, 0 descriptors");
            master.order(&Order::Send(1, "message from primary".to_owned()));
            client.hear("message from primary");
            drop(client);
            master.hears("client ended");
            master.order(&Order::Kill(1, Signal::SIGKILL as i32));
            master.sees(1, "exit");
            assert_eq!(master.counts_of(1, ["message", "exit"]), [1, 1]);
            assert_eq!(master.count_said("1: message from worker, 0 descriptors"), 1);
        },
    },
    Scenario {
        name: "n_128_answers_that_nobody_waits_for_are_dropped_quietly",
        app: answer_too_late,
        check: |master| {
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.signal()), (Some(0), None));
            assert_eq!(
                (exit.exited_after_disconnect(), exit.reason()),
                (Some(true), &"ordered".into())
            );
            assert_eq!(
                (
                    master.count_said("master timed out"),
                    master.count_said("worker timed out")
                ),
                (1, 1)
            );
            assert!(master.seen("error").is_empty());
        },
    },
    Scenario {
        name: "n_130_a_handler_that_panics_loses_no_later_message",
        app: panic_at_each_message,
        check: |master| {
            for side in ["worker", "master"] {
                master.hears(&format!("{side} got 9"));
                for number in 0..10 {
                    assert_eq!(master.count_said(&format!("{side} got {number}")), 1);
                }
            }
            assert_eq!(master.counts_of(1, ["exit"]), [0]);
            master.order(&Order::Disconnect(1));
            assert_eq!(master.sees(1, "exit").code(), Some(0));
        },
    },
    Scenario {
        name: "n_131_a_message_that_is_sent_is_no_error_and_arrives",
        app: || one().worker(send_and_end).main(),
        check: |master| {
            master.hears("sent: Ok(())");
            assert_eq!(master.sees(1, "message").data(), "last words");
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.signal()), (Some(0), None));
        },
    },
    Scenario {
        name: "n_133_a_sender_is_told_to_back_off_and_when_there_is_room_again",
        app: flood_until_full,
        check: |master| {
            let taken: u64 = master.expect_said("full after ").parse().expect("a number");
            assert!((1_000..20_000).contains(&taken), "{taken}");
            assert_eq!(master.count_said("room again"), 0);
            master.open_gate("gate");
            master.hears("room again");
            // Not one was lost or overtaken.
            master.hears(&format!("the last one is {taken}"));
        },
    },
    Scenario {
        name: "n_137_both_sides_hear_that_the_master_closed_the_channel",
        app: || {
            let long = Duration::from_secs(10);
            let cluster = one().on_event(say_connected()).orphan_grace(long).grace(long);
            cluster
                .listen("tcp", "127.0.0.1:0")
                .worker(serve_until_the_last_connection)
                .main()
        },
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let mut client = Tcp::connect(port).expect("it listens");
            client.say("up");
            client.hear("up");
            assert_eq!(master.ask(&Order::CloseChannel(1), "close"), "");
            assert_eq!(master.sees(1, "disconnect").state(), "disconnected");
            master.hears("master: connected false");
            master.hears("worker: connected false");
            // A second close does nothing.
            assert_eq!(master.ask(&Order::CloseChannel(1), "close"), "");
            client.say("still up");
            client.hear("still up");
            assert_eq!(master.counts_of(1, ["disconnect", "exit"]), [1, 0]);
            drop(client);
            assert_eq!(master.sees(1, "exit").code(), Some(0));
        },
    },
    Scenario {
        name: "n_138_a_worker_lives_for_its_timer_and_ends_in_its_own_words",
        app: close_at_the_second_message,
        check: |master| {
            master.hears("3");
            assert_eq!(master.sees(1, "exit").code(), Some(0));
            let words: Vec<_> = master.seen("message").iter().map(|seen| seen.data().clone()).collect();
            assert_eq!(words, ["1", "2"]);
        },
    },
    Scenario {
        name: "n_140_large_messages_arrive_whole_and_in_order_and_larger_ones_are_refused",
        app: exchange_large_messages,
        check: |master| {
            // Megabytes of JSON without optimisation take their time on a busy machine.
            let ended = master.wait_within(Duration::from_secs(30));
            assert_eq!(ended.code(), Some(0));
            for number in 0..4 {
                assert_eq!(
                    master.count_said(&format!("master got {number}")),
                    1,
                    "{}",
                    master.log()
                );
                assert_eq!(
                    master.count_said(&format!("worker got {number}")),
                    1,
                    "{}",
                    master.log()
                );
            }
            assert_eq!(master.count_said("too long is refused"), 1);
        },
    },
    Scenario {
        name: "n_142_a_message_comes_with_its_worker_and_its_descriptors",
        app: || one().on_message(repeat).worker(send_with_and_without).main(),
        check: |master| {
            master.hears("1: plain, 0 descriptors");
            master.hears("1: accompanied, 2 descriptors");
        },
    },
    Scenario {
        name: "n_144_messages_wait_for_a_worker_that_listens_late",
        app: || one().on_event(greet_at_the_fork).worker(listen_late).main(),
        check: |master| {
            master.sees(1, "online");
            master.order(&Order::Send(1, "second".to_owned()));
            master.hears("sent");
            master.open_gate("gate");
            master.hears("got first, second");
        },
    },
];

/// One worker that is not replaced; the cluster stays without it.
fn one() -> ClusterBuilder {
    let cluster = probe::cluster().workers(1).restart(RestartType::Temporary);
    cluster.when_empty(WhenEmpty::Wait)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature of a handler")]
fn repeat(worker: WorkerRef, message: Message) {
    let (text, fds) = (text_of(&message), message.take_fds().len());
    probe::say(&format!("{}: {text}, {fds} descriptors", worker.id()));
}

async fn greet(worker: Worker) -> Result<(), ListenError> {
    let mut incoming = worker.incoming("tcp")?;
    let mut messages = worker.messages().expect("the messages have no owner yet");
    while let Some(mut connection) = incoming.accept().await {
        worker.send("message from worker").expect("the master reads");
        let message = messages.next().await.expect("the master answers");
        connection.write_all(text_of(&message).as_bytes()).await.ok();
        until_the_end_of(&mut connection).await;
        probe::say("client ended");
    }
    Ok(())
}

async fn until_the_end_of(connection: &mut Connection) {
    let mut bytes = [0; 64];
    while let Ok(count @ 1..) = connection.read(&mut bytes).await {
        connection.write_all(&bytes[..count]).await.ok();
    }
}

/// Each side asks, gives up, and only then is answered.
fn answer_too_late() -> ExitCode {
    let mut held = None;
    let on_message = move |worker: WorkerRef, message: Message| {
        if message.is_call() {
            held = message.reply();
            return;
        }
        assert_eq!(text_of(&message), "answer now");
        held.take().expect("the call came before").ok("late").expect("a text");
        actix_rt::spawn(async move { worker.disconnect().await.expect("it lives") });
    };
    let ask = |event: &ClusterEvent, handle: &ClusterHandle| {
        if matches!(event.kind, EventKind::Online) {
            let worker = worker_of(event, handle);
            actix_rt::spawn(async move {
                let answer: Result<String, _> = worker.call("?", Duration::from_millis(1)).await;
                assert!(matches!(answer, Err(CallError::TimedOut(_))), "{answer:?}");
                probe::say("master timed out");
                worker.send("answer now").expect("it reads");
            });
        }
    };
    one()
        .on_message(on_message)
        .on_event(ask)
        .worker(answer_late_and_ask)
        .main()
}

async fn answer_late_and_ask(worker: Worker) {
    let mut messages = worker.messages().expect("the messages have no owner yet");
    let call = messages
        .next()
        .await
        .expect("the master asks")
        .reply()
        .expect("it is a call");
    let word = messages.next().await.expect("the master gives up");
    assert_eq!(text_of(&word), "answer now");
    call.ok("late").expect("a text");
    let answer: Result<String, _> = worker.call("?", Duration::from_millis(1)).await;
    assert!(matches!(answer, Err(CallError::TimedOut(_))), "{answer:?}");
    probe::say("worker timed out");
    worker.send("answer now").expect("the master reads");
    probe::idle(&worker).await;
}

fn panic_at_each_message() -> ExitCode {
    let send_ten = |event: &ClusterEvent, handle: &ClusterHandle| {
        if matches!(event.kind, EventKind::Online) {
            let worker = worker_of(event, handle);
            (0..10).for_each(|number| worker.send(&number).expect("it reads"));
        }
    };
    let worker = |worker: Worker| async move {
        worker.on_message(|message| say_and_panic("worker", &message));
        (0..10).for_each(|number| worker.send(&number).expect("the master reads"));
        probe::idle(&worker).await;
    };
    let cluster = one().on_message(|_, message| say_and_panic("master", &message));
    cluster.on_event(send_ten).worker(worker).main()
}

fn say_and_panic(side: &str, message: &Message) {
    probe::say(&format!("{side} got {}", message.payload().as_str()));
    panic!("asked to");
}

async fn send_and_end(worker: Worker) {
    probe::say(&format!("sent: {:?}", worker.send("last words")));
}

/// Sends numbered texts until the channel takes no more, and one more when the worker has begun to read.
fn flood_until_full() -> ExitCode {
    let (full, mut is_full) = tokio::sync::watch::channel(None::<(WorkerRef, u64)>);
    let flood = move |event: &ClusterEvent, handle: &ClusterHandle| {
        if !matches!(event.kind, EventKind::Online) {
            return;
        }
        let worker = worker_of(event, handle);
        let filler = "x".repeat(1_000);
        let refused = (0..100_000).find_map(|number| match worker.send(&(number, &filler)) {
            Ok(()) => None,
            Err(error) => Some((number, error)),
        });
        let (number, error) = refused.expect("the channel is bounded");
        assert!(error.is_full(), "{error}");
        probe::say(&format!("full after {number}"));
        full.send_replace(Some((worker, number)));
    };
    let send_the_last = move |_: WorkerRef, _: Message| {
        if let Some((worker, number)) = is_full.borrow_and_update().clone()
            && worker.send(&(number, "last")).is_ok()
        {
            probe::say("room again");
        }
    };
    one()
        .on_event(flood)
        .on_message(send_the_last)
        .worker(count_behind_the_gate)
        .main()
}

async fn count_behind_the_gate(worker: Worker) {
    let mut messages = worker.messages().expect("the messages have no owner yet");
    gate().await;
    for expected in 0.. {
        let Some(message) = messages.next().await else { return };
        let (number, filler): (u64, String) = message.parse().expect("a number and a text");
        assert_eq!(number, expected);
        if filler == "last" {
            probe::say(&format!("the last one is {number}"));
            return probe::idle(&worker).await;
        }
        if number % 100 == 99 {
            worker.send("read some").expect("the master reads");
        }
    }
}

fn say_connected() -> impl FnMut(&ClusterEvent, &ClusterHandle) + Send + 'static {
    let mut kept: Option<WorkerRef> = None;
    move |event, handle| match event.kind {
        EventKind::Fork => kept = Some(worker_of(event, handle)),
        EventKind::Disconnect => {
            let worker = kept.take().expect("the fork came before");
            probe::say(&format!("master: connected {}", worker.is_connected()));
        }
        _ => {}
    }
}

async fn serve_until_the_last_connection(worker: Worker) -> Result<(), ListenError> {
    let (own, mut messages) = (
        worker.clone(),
        worker.messages().expect("the messages have no owner yet"),
    );
    actix_rt::spawn(async move {
        while messages.next().await.is_some() {}
        probe::say(&format!("worker: connected {}", own.is_connected()));
    });
    let serve = |mut connection| async move { until_the_end_of(&mut connection).await };
    worker.incoming("tcp")?.serve_with(serve).await;
    Ok(())
}

fn close_at_the_second_message() -> ExitCode {
    let on_message = |worker: WorkerRef, message: Message| {
        if text_of(&message) == "2" {
            actix_rt::spawn(async move { worker.close_channel().await.expect("it lives") });
        }
    };
    let worker = |worker: Worker| async move {
        worker.send("1").expect("the master reads");
        let mut timer = tokio::time::interval(Duration::from_millis(20));
        timer.tick().await;
        timer.tick().await;
        worker.send("2").expect("the master reads");
        let mut messages = worker.messages().expect("the messages have no owner yet");
        while messages.next().await.is_some() {}
        probe::say("3");
    };
    one().on_message(on_message).worker(worker).main()
}

/// Not in front of the probe: it would show every message on the pipe that all processes share.
fn exchange_large_messages() -> ExitCode {
    let mut expected = 0;
    let on_message = move |_: WorkerRef, message: Message| {
        let (number, text): (u64, String) = message.parse().expect("a number and a text");
        assert!((number, &text) == (expected, &large(number)));
        probe::say(&format!("master got {number}"));
        expected += 1;
        let reply = message.reply().expect("it is a call");
        reply.ok(&large(number + 10)).expect("a text");
    };
    let worker = |worker: Worker| async move {
        let asked = (0..4).map(|number| (number, large(number)));
        for (number, text) in asked {
            let answer: String = worker
                .call(&(number, text), probe::BOOT)
                .await
                .expect("the master answers");
            assert!(answer == large(number + 10));
            probe::say(&format!("worker got {number}"));
        }
        let error = worker
            .send(&"x".repeat(2 << 20))
            .expect_err("longer than a message may be");
        assert!(matches!(error, SendError::Unfit { .. }), "{error}");
        probe::say("too long is refused");
    };
    let cluster = Cluster::builder().workers(1).restart(RestartType::Temporary);
    cluster.on_message(on_message).worker(worker).main()
}

/// Nearly as long as a message may be, and another one for each number.
fn large(number: u64) -> String {
    format!("<{number:08}>").repeat(100_000)
}

async fn send_with_and_without(worker: Worker) {
    worker.send("plain").expect("the master reads");
    let (one, other) = std::io::pipe().expect("a pipe can be made");
    let fds = vec![one.into(), other.into()];
    worker.send_with_fds("accompanied", fds).expect("the master reads");
    probe::idle(&worker).await;
}

/// Before the worker has run at all.
fn greet_at_the_fork(event: &ClusterEvent, handle: &ClusterHandle) {
    if matches!(event.kind, EventKind::Fork) {
        worker_of(event, handle).send("first").expect("it is connected");
    }
}

async fn listen_late(worker: Worker) {
    gate().await;
    let mut messages = worker.messages().expect("the messages have no owner yet");
    let first = text_of(&messages.next().await.expect("it was kept"));
    let second = text_of(&messages.next().await.expect("it was kept"));
    probe::say(&format!("got {first}, {second}"));
    probe::idle(&worker).await;
}

/// Holds the worker's own part up until the test opens the gate; the library in it goes on.
async fn gate() {
    let waiting = actix_rt::task::spawn_blocking(|| wait_at_gate("gate"));
    waiting.await.expect("the gate can be waited at");
}
