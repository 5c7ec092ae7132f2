//! Connections that were accepted in one process and are served in another.

use std::cell::Cell;
use std::net::{Ipv4Addr, TcpListener};
use std::rc::Rc;

use actix_cluster::{
    ClusterBuilder, ClusterEvent, ClusterHandle, Connection, EventKind, ListenError, Message, RestartType, ServeError,
    WhenEmpty, Worker, WorkerId, WorkerRef,
};
use actix_cluster_tests::http::Client;
use actix_cluster_tests::leftovers::open_fds;
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, SOON};
use actix_cluster_tests::probe::{self, Order, text_of, worker_of};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::tcp::Tcp;
use actix_web::{App, web};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_111_a_passed_connection_is_served_by_the_application_that_runs",
        app: || {
            let cluster = crowd(1).listen("http", "127.0.0.1:0");
            cluster
                .on_event(accept_and_pass(|kind| matches!(kind, EventKind::Listening(_))))
                .worker(serve_what_comes)
                .main()
        },
        check: |master| {
            master.expect_ready();
            let port = passing_port(master);
            let pid = master.sees(1, "fork").pid().to_string();
            let mut clients: Vec<_> = (0..3)
                .map(|_| Client::new((Ipv4Addr::LOCALHOST, port).into(), limit(SOON)))
                .collect();
            for client in &mut clients {
                // Kept alive: twice on one connection.
                for _ in 0..2 {
                    assert_eq!(client.get("/").expect("it is served").text(), pid);
                }
            }
            master.hears("without a server: nobody accepts on this listener in this worker");
            master.hears("no stream: the descriptor is a UDP socket, but a TCP or Unix stream is needed");
            // The idle connections are the server's, which closes them: they do not hold the stop up.
            master.order(&Order::Disconnect(1));
            assert_eq!(master.sees(1, "exit").code(), Some(0));
        },
    },
    Scenario {
        name: "n_118_n_119_connections_that_were_passed_on_are_counted_until_their_last_end",
        app: || crowd(3).on_event(accept_and_count).worker(hold_half).main(),
        check: |master| {
            master.expect_ready();
            let port = passing_port(master);
            let mut clients: Vec<_> = (0..12)
                .map(|_| Tcp::connect(port).expect("the master accepts"))
                .collect();
            // Half of them are ended at once.
            master.hears("6 are open");
            master.ask(&Order::Ping, "pong");
            assert_eq!(master.count_said("all are closed"), 0);
            for left in (0..6).rev() {
                master.order(&Order::Send(left % 3 + 1, "close one".to_owned()));
                master.hears(&format!("{left} are open"));
            }
            master.hears("all are closed");
            for client in &mut clients {
                assert_eq!(client.rest(), (String::new(), true));
            }
            assert!(master.seen("exit").is_empty());
        },
    },
    Scenario {
        name: "n_122_a_connection_that_is_passed_on_in_an_exchange_leaves_nothing_behind",
        app: || {
            let cluster = crowd(2).listen("http", "127.0.0.1:0");
            cluster.on_message(pass_to_the_second).worker(take_or_answer).main()
        },
        check: |master| {
            master.expect_ready();
            let port = master.port();
            let pid = master.sees(1, "fork").pid();
            let round = || {
                let mut client = Tcp::connect(port).expect("it listens");
                client.say("GET /who HTTP/1.1\r\nHost: here\r\n\r\n");
                let (answer, is_orderly) = client.rest();
                assert!(
                    is_orderly && answer.ends_with("2 answers GET /who HTTP/1.1"),
                    "{answer}"
                );
            };
            round();
            // The end that the client sees comes with the last copy, so that none is left by then.
            let before = open_fds(pid).expect("it lives");
            for _ in 0..20 {
                round();
            }
            assert_eq!(open_fds(pid).expect("it lives"), before);
            // Nothing of them is left to be waited for.
            master.order(&Order::Disconnect(1));
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.data()["requests_cut"].clone()), (Some(0), 0.into()));
        },
    },
    Scenario {
        name: "connections_in_a_call_that_dies_with_its_worker_are_served_by_another",
        app: || {
            crowd(2)
                .on_event(accept_and_call_until_served)
                .worker(first_dies)
                .main()
        },
        check: |master| {
            master.expect_ready();
            let port = passing_port(master);
            let mut clients: Vec<_> = (0..10)
                .map(|_| Tcp::connect(port).expect("the master accepts"))
                .collect();
            master.hears("10 are on their way");
            master.order(&Order::Kill(1, Signal::SIGKILL as i32));
            for client in &mut clients {
                assert_eq!(client.rest(), ("served by 2".to_owned(), true));
            }
        },
    },
    Scenario {
        name: "f_091_a_master_that_dies_with_connections_on_their_way_leaves_nothing",
        app: || {
            crowd(1)
                .on_message(answer)
                .on_event(accept_and_pass(|kind| matches!(kind, EventKind::Online)))
                .worker(never_reads)
                .main()
        },
        check: |master| {
            master.hears("reads nothing");
            let port = passing_port(master);
            let mut clients: Vec<_> = (0..10)
                .map(|_| Tcp::connect(port).expect("the master accepts"))
                .collect();
            master.hears("10 are on their way");
            let worker = master.sees(1, "fork").pid();
            master.signal(Signal::SIGKILL);
            for client in &mut clients {
                // The end or a reset, and soon.
                assert_eq!(client.rest().0, "");
            }
            master.expect_dead(worker, SOON);
            master.wait();
        },
    },
];

/// Workers that are not replaced; the cluster stays without them.
fn crowd(workers: u32) -> ClusterBuilder {
    let cluster = probe::cluster().workers(workers).restart(RestartType::Temporary);
    cluster.when_empty(WhenEmpty::Wait)
}

/// Where the master itself accepts.
fn passing_port(master: &Master) -> u16 {
    let said = || master.said("passes on what comes to ");
    master.until("the master to accept", |_| !said().is_empty());
    said()[0].0.parse().expect("it is a port")
}

fn listen() -> tokio::net::TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.set_nonblocking(true).expect("a socket can be made so");
    let port = listener.local_addr().expect("it is bound").port();
    probe::say(&format!("passes on what comes to {port}"));
    tokio::net::TcpListener::from_std(listener).expect("the runtime runs")
}

async fn accept(listener: &tokio::net::TcpListener) -> std::net::TcpStream {
    let (stream, _) = listener.accept().await.expect("the test connects");
    stream.into_std().expect("it was registered here")
}

fn stream_of(message: &Message) -> tokio::net::TcpStream {
    let stream = message.take_tcp_stream().expect("a connection was sent");
    stream.set_nonblocking(true).expect("a socket can be made so");
    tokio::net::TcpStream::from_std(stream).expect("the runtime runs")
}

fn messages(worker: &Worker) -> actix_cluster::Messages {
    worker.messages().expect("the messages have no owner yet")
}

/// Passes every connection to the first worker, from its `listening` or its `online` on.
fn accept_and_pass(begin: fn(&EventKind) -> bool) -> impl FnMut(&ClusterEvent, &ClusterHandle) {
    move |event, handle| {
        if begin(&event.kind) {
            let worker = worker_of(event, handle);
            actix_rt::spawn(async move {
                let listener = listen();
                for number in 1.. {
                    let stream = accept(&listener).await;
                    worker.send_with_socket("serve", stream).expect("there is room");
                    probe::say(&format!("{number} are on their way"));
                }
            });
        }
    }
}

async fn serve_what_comes(worker: Worker) -> Result<(), ServeError> {
    let injecting = worker.clone();
    let mut is_first = true;
    worker.on_message(move |message| {
        let mut stream = message.take_tcp_stream().expect("a connection was sent");
        if std::mem::take(&mut is_first) {
            let error = injecting.inject("htpp", stream).expect_err("nobody has this name");
            probe::say(&format!("without a server: {}", error.reason));
            stream = error.stream.into();
            let udp = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
            let error = injecting.inject("http", udp).expect_err("it is no stream");
            probe::say(&format!("no stream: {}", error.reason));
        }
        injecting.inject("http", stream).expect("the application runs");
    });
    let pid = || async { std::process::id().to_string() };
    worker
        .serve("http", move || App::new().route("/", web::get().to(pid)))
        .await
}

/// Takes twelve connections and calls the three workers with them, at the `all_ready`.
fn accept_and_count(event: &ClusterEvent, handle: &ClusterHandle) {
    if !matches!(event.kind, EventKind::AllReady { .. }) {
        return;
    }
    let handle = handle.clone();
    actix_rt::spawn(async move {
        let listener = listen();
        let mut streams = Vec::new();
        for _ in 0..12 {
            streams.push(accept(&listener).await);
        }
        drop(listener);
        let open = Rc::new(Cell::new(streams.len()));
        let calls = streams.into_iter().enumerate().map(|(number, stream)| {
            let worker = handle.worker(WorkerId::new(number as u64 % 3 + 1)).expect("it lives");
            let (what, open) = (if number < 6 { "end" } else { "hold" }, Rc::clone(&open));
            actix_rt::spawn(async move {
                let answer = worker.call_with_fds(what, vec![stream.into()], limit(SOON)).await;
                answer.expect("the worker is done with it");
                open.set(open.get() - 1);
                probe::say(&format!("{} are open", open.get()));
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("it does not panic");
        }
        probe::say("all are closed");
    });
}

async fn hold_half(worker: Worker) {
    let mut messages = messages(&worker);
    let mut held = Vec::new();
    while let Some(message) = messages.next().await {
        match text_of(&message).as_str() {
            "hold" => held.push((stream_of(&message), message.reply().expect("it is a call"))),
            "end" => {
                drop(stream_of(&message));
                let reply = message.reply().expect("it is a call");
                reply.ok(&()).expect("a unit has a JSON form");
            }
            _ => {
                let (stream, reply) = held.pop().expect("the test counts");
                drop(stream);
                reply.ok(&()).expect("a unit has a JSON form");
            }
        }
    }
}

/// What worker 1 sends goes to worker 2.
#[expect(clippy::needless_pass_by_value, reason = "the signature of a handler")]
fn pass_to_the_second(worker: WorkerRef, message: Message) {
    let stream = message.take_tcp_stream().expect("a connection was sent");
    let second = worker.cluster().worker(WorkerId::new(2)).expect("it lives");
    let text = text_of(&message);
    second.send_with_socket(&text, stream).expect("it reads");
}

/// Worker 1 reads the requests, worker 2 answers them.
async fn take_or_answer(worker: Worker) -> Result<(), ListenError> {
    if worker.id().get() == 1 {
        let mut incoming = worker.incoming("http")?;
        while let Some(connection) = incoming.accept().await {
            take_out(&worker, connection).await;
        }
        return Ok(());
    }
    worker.ready();
    let mut messages = messages(&worker);
    while let Some(message) = messages.next().await {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{} answers {}",
            worker.id(),
            text_of(&message)
        );
        let mut stream = stream_of(&message);
        stream.write_all(answer.as_bytes()).await.expect("the client reads");
    }
    Ok(())
}

/// Reads the head of a request, and sends the connection away with its first line.
async fn take_out(worker: &Worker, mut connection: Connection) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.expect("the client says it all"));
    }
    let head = String::from_utf8(head).expect("the client speaks ASCII");
    let line = head.lines().next().expect("it has a line");
    let (stream, _, guard) = connection.into_parts();
    let stream = stream.into_tcp().expect("it is a TCP address");
    let stream = stream.into_std().expect("it was registered here");
    worker.send_with_socket(line, stream).expect("the master reads");
    drop(guard);
}

/// Calls the first worker with every connection, and the second one if nothing comes of it.
fn accept_and_call_until_served(event: &ClusterEvent, handle: &ClusterHandle) {
    if !matches!(event.kind, EventKind::AllReady { .. }) {
        return;
    }
    let handle = handle.clone();
    actix_rt::spawn(async move {
        let listener = listen();
        let [first, second] = [1, 2].map(|id| handle.worker(WorkerId::new(id)).expect("it lives"));
        loop {
            let stream = accept(&listener).await;
            let (first, second) = (first.clone(), second.clone());
            actix_rt::spawn(async move {
                let called = first.call_with_fds("serve", vec![stream.into()], limit(SOON)).await;
                let fds = called.expect_err("it dies").fds;
                let called = second.call_with_fds("serve", fds, limit(SOON)).await;
                called.expect("the second one serves");
            });
        }
    });
}

async fn first_dies(worker: Worker) {
    let mut messages = messages(&worker);
    let mut kept = Vec::new();
    while let Some(message) = messages.next().await {
        if worker.id().get() == 1 {
            kept.push(message);
            probe::say(&format!("{} are on their way", kept.len()));
            continue;
        }
        let mut stream = stream_of(&message);
        let answer = format!("served by {}", worker.id());
        stream.write_all(answer.as_bytes()).await.expect("the client reads");
        drop(stream);
        let reply = message.reply().expect("it is a call");
        reply.ok(&()).expect("a unit has a JSON form");
    }
}

async fn never_reads(worker: Worker) {
    worker.ready();
    // Once this is answered, everything the library had to say is with the kernel.
    let _: u64 = worker.call("ping", limit(SOON)).await.expect("the master answers");
    probe::say("reads nothing");
    loop {
        std::thread::park();
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature of a handler")]
fn answer(_: WorkerRef, message: Message) {
    let reply = message.reply().expect("it is a call");
    reply.ok(&1).expect("a number has a JSON form");
}
