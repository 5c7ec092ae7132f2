//! Open descriptors that travel with messages.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use actix_cluster::{
    ClusterBuilder, ClusterEvent, ClusterHandle, EventKind, Message, RestartType, SendError, Signal, SpawnMethod,
    WhenEmpty, Worker, WorkerRef, descriptors,
};
use actix_cluster_tests::leftovers::open_fds;
use actix_cluster_tests::master::SOON;
use actix_cluster_tests::outside::wait_at_gate;
use actix_cluster_tests::probe::{self, Order, text_of, worker_of};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::tcp::{self, Tcp};
use actix_cluster_tests::{Deadline, limit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_108_a_worker_passes_a_socket_and_the_master_reads_from_it",
        app: || one().on_message(answer_and_read).worker(pass_the_client_side).main(),
        check: |master| {
            master.hears("master read \"hello\" and the end");
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.signal()), (None, Some(9)));
        },
    },
    Scenario {
        name: "n_113_a_listener_passed_without_a_word_can_be_accepted_on",
        app: || one().on_event(at_online(pass_a_listener)).worker(accept_once).main(),
        check: |master| {
            let mut client = connect(&master.expect_said("listens on "));
            assert_eq!(client.rest(), ("accepted by the worker".to_owned(), true));
            assert_eq!(master.sees(1, "exit").code(), Some(0));
        },
    },
    Scenario {
        name: "n_114_descriptors_for_a_worker_that_dies_are_closed_and_later_sends_are_refused",
        app: || {
            // A zygote's own descriptors come with the first worker.
            let cluster = one().spawn(SpawnMethod::Exec).workers(0).on_event(send_until_its_end());
            cluster.worker(die_at_the_first_descriptor).main()
        },
        check: |master| {
            master.ask(&Order::Ping, "pong");
            let before = open_fds(master.pid()).expect("the master lives");
            master.order(&Order::Fork(Vec::new()));
            assert_eq!(master.sees(1, "exit").code(), Some(1));
            master.hears("closed, and the descriptor came back");
            // The channel itself goes right after the event.
            let deadline = Deadline::after(limit(SOON));
            while open_fds(master.pid()).expect("the master lives") != before {
                assert!(!deadline.is_over(), "descriptors were left open");
                std::thread::yield_now();
            }
        },
    },
    Scenario {
        name: "n_115_a_descriptor_comes_with_its_own_message_though_they_pile_up",
        app: || one().on_event(send_three_at_the_fork).worker(count_descriptors).main(),
        check: |master| {
            master.sees(1, "online");
            master.open_gate("gate");
            master.hears("one 0, two 1, three 0");
        },
    },
    Scenario {
        name: "n_116_a_passed_connection_is_answered_and_ended_by_the_worker",
        app: || one().on_event(at_online(pass_a_connection)).worker(echo_and_end).main(),
        check: |master| {
            let mut client = connect(&master.expect_said("listens on "));
            assert_eq!(client.rest(), ("echo".to_owned(), true));
            assert_eq!(master.sees(1, "exit").code(), Some(0));
        },
    },
    Scenario {
        name: "n_117_a_passed_listener_is_shared_and_each_side_closes_its_own",
        app: || one().on_event(at_online(share_a_listener)).worker(share).main(),
        check: |master| {
            let address = master.expect_said("listens on ");
            master.hears("the worker accepts");
            for _ in 0..4 {
                let (side, is_orderly) = connect(&address).rest();
                assert!(is_orderly && ["worker", "master"].contains(&side.as_str()), "{side}");
            }
            master.order(&Order::Send(1, "close yours".to_owned()));
            master.hears("the master has closed its own");
            for _ in 0..4 {
                assert_eq!(connect(&address).rest().0, "worker");
            }
            master.order(&Order::Send(1, "close".to_owned()));
            assert_eq!(master.sees(1, "exit").code(), Some(0));
            assert!(tcp::is_refused(port_of(&address)));
        },
    },
    Scenario {
        name: "n_120_a_sender_that_keeps_a_copy_goes_on_where_the_worker_stopped",
        app: || one().on_event(at_online(pass_and_keep)).worker(write_and_tell).main(),
        check: |master| {
            let mut client = connect(&master.expect_said("listens on "));
            assert_eq!(client.rest(), ("childparent".to_owned(), true));
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.signal()), (Some(0), None));
        },
    },
    Scenario {
        name: "n_121_eighty_workers_pass_a_socket_each_at_once",
        app: eighty_pass_a_socket,
        check: |master| {
            for worker in 1..=u64::from(MANY) {
                assert_eq!(master.sees(worker, "exit").code(), Some(0), "worker {worker}");
                master.hears(&format!("worker {worker} read hello"));
            }
        },
    },
    Scenario {
        name: "n_123_a_descriptor_moves_with_its_message_both_ways_unless_a_copy_is_kept",
        app: || one().on_event(at_online(send_and_get_back)).worker(send_back).main(),
        check: |master| {
            master.hears("nobody holds what was moved");
            master.hears("the kept copy works");
        },
    },
];

/// Workers in [`eighty_pass_a_socket`].
const MANY: u32 = 80;

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

fn listen() -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.set_nonblocking(true).expect("a socket can be made so");
    listener
}

/// Tells the test where to connect to, and accepts there.
fn announce(listener: &TcpListener) {
    let address = listener.local_addr().expect("it is bound");
    probe::say(&format!("listens on {address}"));
}

async fn accept_one() -> std::net::TcpStream {
    let listener = listen();
    announce(&listener);
    let listener = tokio::net::TcpListener::from_std(listener).expect("the runtime runs");
    let (stream, _) = listener.accept().await.expect("the test connects");
    stream.into_std().expect("it was registered here")
}

fn port_of(address: &str) -> u16 {
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
    port.expect("it is an address")
}

fn connect(address: &str) -> Tcp {
    Tcp::connect(port_of(address)).expect("it listens")
}

/// The one descriptor of a message.
fn descriptor_of(message: &Message) -> OwnedFd {
    let mut fds = message.take_fds();
    assert_eq!((fds.len(), message.fds_lost()), (1, false));
    fds.remove(0)
}

fn stream_of(message: &Message) -> TcpStream {
    let stream = descriptors::into_tcp_stream(descriptor_of(message)).expect("a connection was sent");
    stream.set_nonblocking(true).expect("a socket can be made so");
    TcpStream::from_std(stream).expect("the runtime runs")
}

fn listener_of(message: &Message) -> tokio::net::TcpListener {
    let listener = descriptors::into_tcp_listener(descriptor_of(message)).expect("a listener was sent");
    tokio::net::TcpListener::from_std(listener).expect("the runtime runs")
}

async fn next(messages: &mut actix_cluster::Messages) -> Message {
    messages.next().await.expect("the master lives")
}

#[expect(clippy::needless_pass_by_value, reason = "the signature of a handler")]
fn answer_and_read(worker: WorkerRef, message: Message) {
    assert_eq!(text_of(&message), "handle");
    let mut stream = stream_of(&message);
    worker.send("got").expect("it reads");
    actix_rt::spawn(async move {
        let mut text = String::new();
        stream
            .read_to_string(&mut text)
            .await
            .expect("the worker writes and ends");
        probe::say(&format!("master read {text:?} and the end"));
        worker.kill(Signal::KILL).await.expect("it is ours");
    });
}

async fn pass_the_client_side(worker: Worker) {
    let (client, mut server) = connected_pair().await;
    worker.send_with_fds("handle", vec![client]).expect("the master reads");
    let mut messages = worker.messages().expect("the messages have no owner yet");
    assert_eq!(text_of(&next(&mut messages).await), "got");
    server.write_all(b"hello").await.expect("the master reads");
    drop(server);
    probe::idle(&worker).await;
}

async fn connected_pair() -> (OwnedFd, TcpStream) {
    let listener = tokio::net::TcpListener::from_std(listen()).expect("the runtime runs");
    let address = listener.local_addr().expect("it is bound");
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    let client = client.and_then(TcpStream::into_std).expect("it listens");
    (client.into(), server.expect("it was connected to").0)
}

async fn pass_a_listener(worker: WorkerRef, _: ClusterHandle) {
    let listener = listen();
    announce(&listener);
    worker.send_with_fds(&(), vec![listener.into()]).expect("it reads");
}

async fn accept_once(worker: Worker) {
    let message = next(&mut worker.messages().expect("the messages have no owner yet")).await;
    assert_eq!(message.payload().as_str(), "null");
    let (mut stream, _) = listener_of(&message).accept().await.expect("the test connects");
    stream
        .write_all(b"accepted by the worker")
        .await
        .expect("the test reads");
}

/// More descriptors at once than the worker can take before it dies of the first.
fn send_until_its_end() -> impl FnMut(&ClusterEvent, &ClusterHandle) {
    let mut kept: Option<WorkerRef> = None;
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("it is always there"));
    move |event, handle| match event.kind {
        EventKind::Online => {
            let worker = kept.insert(worker_of(event, handle));
            worker.send_with_fds("first", vec![null()]).expect("it is connected");
            for number in 0..300 {
                // It may have died meanwhile.
                let sent = worker.send_with_fds(&number, vec![null()]);
                assert!(matches!(&sent, Ok(()) | Err(SendError::Closed(_))), "{sent:?}");
            }
        }
        EventKind::Exit(_) => {
            let worker = kept.take().expect("it was online");
            let error = worker.send_with_fds("late", vec![null()]).expect_err("it is dead");
            assert!(error.is_closed() && !worker.is_connected());
            assert_eq!(error.into_fds().len(), 1);
            probe::say("closed, and the descriptor came back");
        }
        _ => {}
    }
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "user code that ends a worker behind the library's back"
)]
async fn die_at_the_first_descriptor(worker: Worker) {
    let message = next(&mut worker.messages().expect("the messages have no owner yet")).await;
    drop(descriptor_of(&message));
    std::process::exit(1)
}

fn send_three_at_the_fork(event: &ClusterEvent, handle: &ClusterHandle) {
    if matches!(event.kind, EventKind::Fork) {
        let worker = worker_of(event, handle);
        worker.send("one").expect("it is connected");
        worker
            .send_with_fds("two", vec![listen().into()])
            .expect("it is connected");
        worker.send("three").expect("it is connected");
    }
}

async fn count_descriptors(worker: Worker) {
    gate().await;
    let mut messages = worker.messages().expect("the messages have no owner yet");
    let mut counts = Vec::new();
    for _ in 0..3 {
        let message = next(&mut messages).await;
        counts.push(format!("{} {}", text_of(&message), message.take_fds().len()));
    }
    probe::say(&counts.join(", "));
    probe::idle(&worker).await;
}

async fn pass_a_connection(worker: WorkerRef, _: ClusterHandle) {
    let stream = accept_one().await;
    worker.send_with_fds("socket", vec![stream.into()]).expect("it reads");
}

async fn echo_and_end(worker: Worker) {
    let message = next(&mut worker.messages().expect("the messages have no owner yet")).await;
    stream_of(&message).write_all(b"echo").await.expect("the client reads");
}

async fn share_a_listener(worker: WorkerRef, handle: ClusterHandle) {
    let listener = listen();
    announce(&listener);
    let copy = listener.try_clone().expect("descriptors are left");
    worker.send_with_fds("server", vec![copy.into()]).expect("it reads");
    let mut events = handle.events();
    let accepting = serve(listener.into(), "master");
    let told = events.next_where(|event| matches!(event.kind, EventKind::Message(_)));
    tokio::select! {
        () = accepting => {}
        _ = told => {}
    }
    probe::say("the master has closed its own");
}

async fn serve(listener: OwnedFd, side: &str) {
    let listener = descriptors::into_tcp_listener(listener).expect("it is one");
    let listener = tokio::net::TcpListener::from_std(listener).expect("the runtime runs");
    while let Ok((mut stream, _)) = listener.accept().await {
        stream.write_all(side.as_bytes()).await.expect("the client reads");
    }
}

async fn share(worker: Worker) {
    let mut messages = worker.messages().expect("the messages have no owner yet");
    let listener = descriptor_of(&next(&mut messages).await);
    let accepting = actix_rt::spawn(serve(listener, "worker"));
    probe::say("the worker accepts");
    assert_eq!(text_of(&next(&mut messages).await), "close yours");
    worker.send("close yours").expect("the master reads");
    assert_eq!(text_of(&next(&mut messages).await), "close");
    accepting.abort();
}

async fn pass_and_keep(worker: WorkerRef, handle: ClusterHandle) {
    let mut stream = accept_one().await;
    let mut events = handle.events();
    let copy = stream.try_clone().expect("descriptors are left");
    worker.send_with_fds("socket", vec![copy.into()]).expect("it reads");
    events
        .next_where(|event| matches!(event.kind, EventKind::Message(_)))
        .await
        .expect("the worker tells");
    stream.write_all(b"parent").expect("a few bytes always fit");
}

async fn write_and_tell(worker: Worker) {
    let message = next(&mut worker.messages().expect("the messages have no owner yet")).await;
    stream_of(&message).write_all(b"child").await.expect("the client reads");
    worker.send("written").expect("the master reads");
}

fn eighty_pass_a_socket() -> ExitCode {
    let say_hello = |_: WorkerRef, message: Message| {
        let mut stream = stream_of(&message);
        actix_rt::spawn(async move { stream.write_all(b"hello").await.expect("the worker reads") });
    };
    let worker = |worker: Worker| async move {
        let (passed, mut kept) = connected_pair().await;
        worker.send_with_fds("socket", vec![passed]).expect("the master reads");
        let mut text = String::new();
        kept.read_to_string(&mut text)
            .await
            .expect("the master writes and ends");
        probe::say(&format!("worker {} read {text}", worker.id()));
    };
    let at_once = NonZeroUsize::new(MANY as usize).expect("many");
    one()
        .workers(MANY)
        .max_booting(at_once)
        .on_message(say_hello)
        .worker(worker)
        .main()
}

/// A pair of which one end travels to the worker and back: the other one sees whether a copy was left on the way.
async fn send_and_get_back(worker: WorkerRef, handle: ClusterHandle) {
    let mut events = handle.events();
    for keep in [false, true] {
        let (stays, travels) = UnixStream::pair().expect("a pair can be made");
        stays.set_nonblocking(true).expect("a socket can be made so");
        let mut stays = tokio::net::UnixStream::from_std(stays).expect("the runtime runs");
        let mut kept = keep.then(|| travels.try_clone().expect("descriptors are left"));
        worker.send_with_fds("there", vec![travels.into()]).expect("it reads");
        let back = events
            .next_where(|event| matches!(event.kind, EventKind::Message(_)))
            .await;
        let Some(EventKind::Message(message)) = back.map(|event| event.kind) else {
            return;
        };
        assert_eq!(text_of(&message), "and back");
        let came = descriptors::into_unix_stream(descriptor_of(&message)).expect("a stream was sent");
        drop(came);
        let mut bytes = [0; 8];
        match &mut kept {
            None => {
                assert_eq!(stays.read(&mut bytes).await.expect("it can be read"), 0);
                probe::say("nobody holds what was moved");
            }
            Some(kept) => {
                kept.write_all(b"copy").expect("a few bytes always fit");
                assert_eq!(stays.read(&mut bytes).await.expect("they are there"), 4);
                probe::say("the kept copy works");
            }
        }
    }
}

async fn send_back(worker: Worker) {
    let mut messages = worker.messages().expect("the messages have no owner yet");
    while let Some(message) = messages.next().await {
        let fd = descriptor_of(&message);
        worker.send_with_fds("and back", vec![fd]).expect("the master reads");
    }
}

/// Holds the worker's own part up until the test opens the gate; the library in it goes on.
async fn gate() {
    let waiting = actix_rt::task::spawn_blocking(|| wait_at_gate("gate"));
    waiting.await.expect("the gate can be waited at");
}
