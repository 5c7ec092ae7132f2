//! Sockets that travel with messages, calls and answers, taken by their kind; who owns them when something goes wrong.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use actix_cluster::descriptors::TakeError;
use actix_cluster::{
    CallError, ClusterBuilder, ClusterEvent, ClusterHandle, EventKind, Message, RestartType, WhenEmpty, Worker,
    WorkerRef,
};
use actix_cluster_tests::leftovers::open_fds;
use actix_cluster_tests::limit;
use actix_cluster_tests::master::SOON;
use actix_cluster_tests::probe::{self, Order, text_of, worker_of};
use actix_cluster_tests::scenario::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "every_kind_of_socket_comes_as_what_it_is_both_ways_with_messages_calls_and_answers",
        app: || {
            one()
                .on_event(at_online(send_every_kind))
                .worker(take_every_kind)
                .main()
        },
        check: |master| {
            master.hears("the worker took six kinds from a message");
            master.hears("the worker took six kinds from a call");
            master.hears("the master took six kinds from the answer");
            master.hears("the master took six kinds from a message");
        },
    },
    Scenario {
        name: "f_084_a_wrong_kind_is_told_by_name_and_given_back",
        app: || {
            one()
                .on_event(at_online(send_wrong_kinds))
                .worker(refuse_wrong_kinds)
                .main()
        },
        check: |master| {
            for found in [
                "a regular file",
                "a kernel object",
                "a UDP socket",
                "a listening TCP socket",
                "never connected",
                "a Unix stream",
            ] {
                master.hears(&format!("refused and sent back: {found}"));
            }
            master.hears(
                "the message has no descriptor (left), but a TCP stream is needed: send it along, and take it once",
            );
        },
    },
    Scenario {
        name: "n_217_a_udp_socket_that_is_passed_and_kept_receives_on_both_sides",
        app: || one().on_event(at_online(share_a_udp_socket)).worker(receive_one).main(),
        check: |master| {
            let address = master.expect_said("receives on ");
            let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
            // A stream of datagrams until each side has got one.
            while master.count_said("the worker received") == 0 || master.count_said("the master received") == 0 {
                client.send_to(b"x", &*address).expect("it is bound");
                master.ask(&Order::Ping, "pong");
            }
        },
    },
    Scenario {
        name: "a_thousand_rounds_of_descriptors_leave_none_behind_on_either_side",
        app: || one().on_event(at_online(go_round)).worker(answer_with_it).main(),
        check: |master| {
            let pids = [master.pid(), master.sees(1, "fork").pid()];
            let count = || pids.map(|pid| open_fds(pid).expect("it lives"));
            assert_eq!(master.expect_said("rounds done: "), "10");
            let before = count();
            master.open_gate("gate");
            let long = Duration::from_secs(60);
            assert_eq!(master.expect_said_within("rounds done: ", long), "1000");
            assert_eq!(count(), before);
        },
    },
    Scenario {
        name: "sixty_four_descriptors_travel_and_one_more_comes_back_at_once",
        app: || one().on_event(at_online(send_sixty_four)).worker(count_them).main(),
        check: |master| {
            master.hears("65 came back: more than 64 descriptors");
            master.hears("the worker counted 64");
        },
    },
    Scenario {
        name: "a_call_that_is_refused_or_cut_gives_its_descriptors_back",
        app: || {
            one()
                .on_event(at_online(call_and_get_back))
                .worker(refuse_then_die)
                .main()
        },
        check: |master| {
            master.hears("refused: not today; 2 came back and work");
            master.hears("no answer within 50ms; 2 came back and work");
            // The third question kills it, the fourth comes too late.
            master.until("two calls to the dead", |master| {
                master.count_said("the other side is gone; 2 came back and work") == 2
            });
        },
    },
    Scenario {
        name: "an_answer_that_nobody_waits_for_any_more_gives_its_descriptors_back",
        app: || one().on_event(at_online(call_once)).worker(answer_twice).main(),
        check: |master| {
            master.hears("the second answer: the call was answered before, 1 back");
            master.hears("answered with 1");
        },
    },
    Scenario {
        name: "a_receiver_without_descriptors_says_so_and_the_caller_keeps_its_own",
        app: || one().on_event(at_online(call_a_poor_worker)).worker(be_poor).main(),
        check: |master| {
            master.hears(
                "refused: a TCP stream was sent along, but this process had no free descriptor for it: raise \
                 RLIMIT_NOFILE; 1 came back and works",
            );
            master.hears("then it came");
        },
    },
];

/// One worker that is not replaced; the cluster stays without it.
fn one() -> ClusterBuilder {
    let cluster = probe::cluster().workers(1).restart(RestartType::Temporary);
    cluster.when_empty(WhenEmpty::Wait)
}

/// Runs the master's part when the worker is online.
fn at_online<F>(part: impl Fn(WorkerRef, ClusterHandle) -> F) -> impl FnMut(&ClusterEvent, &ClusterHandle)
where
    F: Future<Output = ()> + 'static,
{
    move |event, handle| {
        if matches!(event.kind, EventKind::Online) {
            actix_rt::spawn(part(worker_of(event, handle), handle.clone()));
        }
    }
}

async fn next(messages: &mut actix_cluster::Messages) -> Message {
    messages.next().await.expect("the master lives")
}

fn messages(worker: &Worker) -> actix_cluster::Messages {
    worker.messages().expect("the messages have no owner yet")
}

/// A connected pair over TCP.
fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let client = TcpStream::connect(address).expect("it listens");
    (client, listener.accept().expect("it was connected to").0)
}

fn every_kind() -> Vec<OwnedFd> {
    let path = format!("{}.sock", std::process::id());
    let listener = UnixListener::bind(&path).expect("the directory is ours");
    std::fs::remove_file(&path).expect("it was made a moment ago");
    let local = (Ipv4Addr::LOCALHOST, 0);
    vec![
        connected().0.into(),
        TcpListener::bind(local).expect("a port is free").into(),
        UdpSocket::bind(local).expect("a port is free").into(),
        UnixStream::pair().expect("a pair can be made").0.into(),
        listener.into(),
        UnixDatagram::pair().expect("a pair can be made").0.into(),
    ]
}

fn take_six(message: &Message, what: &str) {
    assert_eq!(message.fd_count(), 6);
    let taken = message.take_tcp_stream().map(drop);
    let taken = taken.and_then(|()| message.take_tcp_listener().map(drop));
    let taken = taken.and_then(|()| message.take_udp_socket().map(drop));
    let taken = taken.and_then(|()| message.take_unix_stream().map(drop));
    let taken = taken.and_then(|()| message.take_unix_listener().map(drop));
    let taken = taken.and_then(|()| message.take_unix_datagram().map(drop));
    taken.expect("they come in their order");
    probe::say(&format!("the {what}"));
}

async fn send_every_kind(worker: WorkerRef, handle: ClusterHandle) {
    let mut events = handle.events();
    // From another thread, as from any.
    let sender = worker.clone();
    let sent = std::thread::spawn(move || sender.send_with_fds("six", every_kind()));
    sent.join().expect("it does not panic").expect("it reads");
    let answer = worker.call_with_fds("six", every_kind(), limit(SOON)).await;
    take_six(
        &answer.expect("the worker answers"),
        "master took six kinds from the answer",
    );
    let event = events
        .next_where(|event| matches!(event.kind, EventKind::Message(_)))
        .await;
    if let Some(EventKind::Message(message)) = event.map(|event| event.kind) {
        take_six(&message, "master took six kinds from a message");
    }
}

async fn take_every_kind(worker: Worker) {
    let mut messages = messages(&worker);
    take_six(&next(&mut messages).await, "worker took six kinds from a message");
    let call = next(&mut messages).await;
    take_six(&call, "worker took six kinds from a call");
    let reply = call.reply().expect("it is a call");
    reply.ok_with_fds("six", every_kind()).expect("the master waits");
    worker.send_with_fds("six", every_kind()).expect("the master reads");
    probe::idle(&worker).await;
}

async fn send_wrong_kinds(worker: WorkerRef, handle: ClusterHandle) {
    let mut events = handle.events();
    let unconnected = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    );
    let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::EPOLL_CLOEXEC);
    let wrong: [OwnedFd; 6] = [
        File::open("/proc/self/exe").expect("it is there").into(),
        epoll.expect("descriptors are left").0,
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .expect("a port is free")
            .into(),
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .expect("a port is free")
            .into(),
        unconnected.expect("descriptors are left"),
        UnixStream::pair().expect("a pair can be made").0.into(),
    ];
    for fd in wrong {
        worker.send_with_socket("a stream", fd).expect("it reads");
        let back = events
            .next_where(|event| matches!(event.kind, EventKind::Message(_)))
            .await;
        if let Some(EventKind::Message(message)) = back.map(|event| event.kind) {
            assert_eq!(message.take_fds().len(), 1);
            probe::say(&format!("refused and sent back: {}", text_of(&message)));
        }
    }
    worker.send("nothing").expect("it reads");
}

async fn refuse_wrong_kinds(worker: Worker) {
    let mut messages = messages(&worker);
    let short = [
        "a regular file",
        "a kernel object",
        "a UDP socket",
        "a listening TCP socket",
        "never connected",
        "a Unix stream",
    ];
    for short in short {
        let message = next(&mut messages).await;
        let error = message.take_tcp_stream().expect_err("it is something else");
        let text = error.to_string();
        assert!(
            text.contains(short) && text.contains("but a TCP stream is needed"),
            "{text}"
        );
        let fd = error.into_fd().expect("it is given back");
        worker.send_with_socket(short, fd).expect("the master reads");
    }
    let error = next(&mut messages).await.take_tcp_stream().expect_err("nothing came");
    assert!(matches!(error, TakeError::Nothing { .. }));
    probe::say(&error.to_string());
    probe::idle(&worker).await;
}

async fn receive(socket: UdpSocket, what: &str) {
    socket.set_nonblocking(true).expect("a socket can be made so");
    let socket = tokio::net::UdpSocket::from_std(socket).expect("the runtime runs");
    socket.recv(&mut [0; 8]).await.expect("datagrams come");
    probe::say(&format!("the {what} received"));
}

async fn share_a_udp_socket(worker: WorkerRef, _: ClusterHandle) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    worker.send_with_copy("receive", &socket).expect("it reads");
    let address = socket.local_addr().expect("it is bound");
    probe::say(&format!("receives on {address}"));
    receive(socket, "master").await;
}

async fn receive_one(worker: Worker) {
    let message = next(&mut messages(&worker)).await;
    receive(message.take_udp_socket().expect("one was sent"), "worker").await;
    probe::idle(&worker).await;
}

/// Each way of losing or keeping a descriptor in turn: moved and returned, copied, moved and never taken, refused as a
/// wrong kind, returned with a refusal.
async fn go_round(worker: WorkerRef, handle: ClusterHandle) {
    drop(handle);
    for round in 1..=1000_u32 {
        let (near, far) = UnixStream::pair().expect("a pair can be made");
        worker.send_with_copy("look", &near).expect("it reads");
        worker.send_with_socket("drop", far).expect("it reads");
        let answer = worker.call_with_fds("back", vec![near.into()], limit(SOON)).await;
        let answer = answer.expect("the worker answers");
        // Half of those that come back are never taken.
        if round % 2 == 0 {
            answer.take_unix_stream().expect("it comes back");
        }
        let file = File::open("/dev/null").expect("it is always there");
        let error = worker.call_with_fds("refuse", vec![file.into()], limit(SOON)).await;
        assert_eq!(error.expect_err("it refuses").fds.len(), 1);
        if round == 10 || round == 1000 {
            probe::say(&format!("rounds done: {round}"));
        }
        if round == 10 {
            let gate = actix_rt::task::spawn_blocking(|| actix_cluster_tests::outside::wait_at_gate("gate"));
            gate.await.expect("the gate can be waited at");
        }
    }
}

async fn answer_with_it(worker: Worker) {
    let mut messages = messages(&worker);
    while let Some(message) = messages.next().await {
        match (text_of(&message).as_str(), message.reply()) {
            ("back", Some(reply)) => {
                let stream = message.take_unix_stream().expect("one was sent");
                reply
                    .ok_with_fds("back", vec![stream.into()])
                    .expect("the master waits");
            }
            ("refuse", Some(reply)) => reply.err("no"),
            ("look", None) => drop(message.take_unix_stream().expect("one was sent")),
            (_, _) => drop(message),
        }
    }
}

async fn send_sixty_four(worker: WorkerRef, _: ClusterHandle) {
    let null = || OwnedFd::from(File::open("/dev/null").expect("it is always there"));
    let error = worker.send_with_fds("many", (0..65).map(|_| null()).collect());
    let error = error.expect_err("that is one too many");
    let text = error.to_string();
    assert_eq!(error.into_fds().len(), 65);
    assert!(text.contains("64"), "{text}");
    probe::say("65 came back: more than 64 descriptors");
    let fds = (0..64).map(|_| null()).collect();
    worker.send_with_fds("many", fds).expect("it reads");
}

async fn count_them(worker: Worker) {
    let message = next(&mut messages(&worker)).await;
    probe::say(&format!("the worker counted {}", message.fd_count()));
    probe::idle(&worker).await;
}

/// Two ends of one pair: what is written to the one can be read from the other, if both are open.
fn work(fds: &[OwnedFd]) -> bool {
    let copy = |fd: &OwnedFd| UnixStream::from(fd.try_clone().expect("descriptors are left"));
    let (mut near, mut far) = (copy(&fds[0]), copy(&fds[1]));
    let mut byte = [0];
    std::io::Write::write_all(&mut near, b"x").is_ok() && std::io::Read::read_exact(&mut far, &mut byte).is_ok()
}

async fn call_and_get_back(worker: WorkerRef, _: ClusterHandle) {
    let (near, far) = UnixStream::pair().expect("a pair can be made");
    let mut fds: Vec<OwnedFd> = vec![near.into(), far.into()];
    let long = limit(SOON);
    let short = Duration::from_millis(50);
    for (question, deadline) in [
        ("refuse", long),
        ("be silent", short),
        ("die", long),
        ("anybody there?", long),
    ] {
        let error = worker
            .call_with_fds(question, fds, deadline)
            .await
            .expect_err("it is of no use");
        let works = if work(&error.fds) { "and work" } else { "broken" };
        probe::say(&format!("{}; {} came back {works}", error.error, error.fds.len()));
        fds = error.fds;
    }
    assert!(matches!(
        worker.call::<()>("?", long).await,
        Err(CallError::Send(_) | CallError::Gone)
    ));
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "user code that ends a worker behind the library's back"
)]
async fn refuse_then_die(worker: Worker) {
    let mut messages = messages(&worker);
    let mut silent = Vec::new();
    while let Some(message) = messages.next().await {
        assert_eq!(message.fd_count(), 2);
        let reply = message.reply().expect("it is a call");
        match text_of(&message).as_str() {
            "refuse" => reply.err("not today"),
            "die" => std::process::exit(1),
            _ => silent.push((message, reply)),
        }
    }
}

async fn call_once(worker: WorkerRef, _: ClusterHandle) {
    let answer = worker.call_with_fds("?", Vec::new(), limit(SOON)).await;
    probe::say(&format!(
        "answered with {}",
        answer.expect("the worker answers").fd_count()
    ));
}

async fn answer_twice(worker: Worker) {
    let message = next(&mut messages(&worker)).await;
    let reply = message.reply().expect("it is a call");
    let null = || vec![OwnedFd::from(File::open("/dev/null").expect("it is always there"))];
    reply.ok_with_fds(&(), null()).expect("the master waits");
    let error = reply.ok_with_fds(&(), null()).expect_err("it was answered");
    probe::say(&format!(
        "the second answer: {}, {} back",
        error.reason,
        error.fds.len()
    ));
    probe::idle(&worker).await;
}

async fn call_a_poor_worker(worker: WorkerRef, _: ClusterHandle) {
    let poor: Result<(), CallError> = worker.call("be poor", limit(SOON)).await;
    poor.expect("it says when it is");
    let mut stream: OwnedFd = connected().0.into();
    let Err(error) = worker.call_with_fds("take it", vec![stream], limit(SOON)).await else {
        return probe::say("it had room");
    };
    stream = error.fds.into_iter().next().expect("it comes back");
    let kind = actix_cluster::descriptors::into_tcp_stream(stream.as_fd().try_clone_to_owned().expect("room here"));
    assert!(kind.is_ok());
    probe::say(&format!("{}; 1 came back and works", error.error));
    let answer = worker.call_with_fds("take it", vec![stream], limit(SOON)).await;
    answer.expect("there is room now");
    probe::say("then it came");
}

async fn be_poor(worker: Worker) {
    let mut messages = messages(&worker);
    let order = next(&mut messages).await;
    // Nothing more can be opened from now on: every descriptor up to the limit is in use.
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).expect("it can be read");
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 64, hard).expect("it may be lowered");
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let reply = order.reply().expect("it is a call");
    reply.ok(&()).expect("a unit has a JSON form");
    let message = next(&mut messages).await;
    let error = message.take_tcp_stream().expect_err("there was no room");
    hoard.clear();
    message.reply().expect("it is a call").err(error.to_string());
    let message = next(&mut messages).await;
    message.take_tcp_stream().expect("there is room");
    let reply = message.reply().expect("it is a call");
    reply.ok(&()).expect("a unit has a JSON form");
    probe::idle(&worker).await;
}
