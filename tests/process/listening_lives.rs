//! How long listening sockets live: as long as somebody may need them, and no longer.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{WhenEmpty, Worker};
use actix_cluster_tests::fault::{self, served_by};
use actix_cluster_tests::leftovers::{listening_sockets, open_fds};
use actix_cluster_tests::master::{Master, SOON};
use actix_cluster_tests::probe::{self, Care, Order};
use actix_cluster_tests::puppet::{self, bound, tell};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::tcp::Tcp;
use actix_cluster_tests::{Deadline, limit};
use actix_web::{App, HttpServer, web};
use tokio::io::AsyncWriteExt;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "of_two_workers_in_a_slot_one_gives_a_listener_back_and_the_other_serves_on",
        app: || {
            let cluster = probe::cluster().when_empty(WhenEmpty::Wait);
            cluster.worker(puppet::run).main()
        },
        check: given_back_beside,
    },
    Scenario {
        name: "f_118_what_a_failed_worker_listened_on_waits_for_its_successor",
        app: || probe::cluster().worker(puppet::run).main(),
        check: failed_and_succeeded,
    },
    Scenario {
        name: "f_121_a_worker_that_failed_leaves_its_queue_to_a_sibling_while_it_cleans_up",
        app: || serving(fails),
        check: |master| {
            let port = master.expect_ready().unwrap();
            master.order(&Order::Send(1, "fail".to_owned()));
            master.hears("cleans up");
            master.once(1, "error");
            only_worker_2_serves(port);
            master.order(&Order::Send(1, "enough".to_owned()));
            assert_eq!(master.sees(1, "exit").code(), Some(1));
        },
    },
    Scenario {
        name: "f_121_a_worker_told_to_stop_as_it_boots_takes_no_queue_with_it",
        app: || serving(late),
        check: |master| {
            master.once(2, "listening");
            let port = master.port();
            // Before it runs there is nobody to tell anything.
            master.hears("boots");
            master.order(&Order::Disconnect(1));
            master.hears("listens late");
            // What it said before was heard before this.
            assert_eq!(puppet_answer(master, 1), "here");
            only_worker_2_serves(port);
            master.order(&Order::Send(1, "enough".to_owned()));
            master.sees(1, "exit");
        },
    },
    Scenario {
        name: "i_10_forked_and_disconnected_workers_leave_no_socket_behind",
        app: || fault::cluster().main(),
        check: forked_and_gone,
    },
    Scenario {
        name: "f_121_scaled_down_http_servers_leave_no_queue_that_nobody_serves",
        app: || {
            // The test says when the last of them has drained.
            let cluster = probe::cluster().workers(3).grace(Duration::from_secs(600));
            cluster.listen("http", "127.0.0.1:0").worker(http).main()
        },
        check: scaled_down,
    },
    Scenario {
        name: "f_121_http_servers_that_come_back_serve_what_waited_for_all_of_them",
        app: || {
            // The test says when the last of them has drained.
            let cluster = probe::cluster().workers(3).grace(Duration::from_secs(600));
            cluster.listen("http", "127.0.0.1:0").worker(http).main()
        },
        check: scaled_to_nothing,
    },
];

fn serving<F: Future<Output = Result<(), String>> + 'static>(body: fn(Worker) -> F) -> ExitCode {
    let cluster = probe::cluster().workers(2).listen("http", "127.0.0.1:0");
    // Longer than any client waits: whoever is told to stop takes its time.
    cluster.grace(Duration::from_secs(600)).worker(body).main()
}

fn given_back_beside(master: &mut Master) {
    master.expect_ready();
    let path = master.directory().join("socket");
    tell(master, 1, "bind unix:socket");
    tell(master, 1, "serve 1");
    let address = bound(&tell(master, 1, "bind-per-worker 127.0.0.1:0"));
    tell(master, 1, "serve 3");
    let care = Care {
        // Longer than the test: its successor stands beside worker 1.
        probation_ms: 600_000,
        ..Care::default()
    };
    master.order(&Order::Reload(care));
    master.once(2, "ready");
    tell(master, 2, "bind unix:socket");
    tell(master, 2, "close 1");
    assert_eq!(bound(&tell(master, 2, "bind-per-worker 127.0.0.1:0")), address);
    tell(master, 2, "close 2");
    // It still holds the address, so there is nothing to bind anew.
    assert_eq!(bound(&tell(master, 2, "bind-per-worker 127.0.0.1:0")), address);
    assert_eq!(tell(master, 2, "echo done"), "done");
    let serves = || {
        let mut text = String::new();
        UnixStream::connect(&path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "1\n");
        let mut client = Tcp::connect(address.port()).unwrap();
        assert_eq!(client.rest(), ("1\n".to_owned(), true));
    };
    serves();
    // An end by error gives nothing back either.
    master.order(&Order::Send(2, "fail on purpose".to_owned()));
    assert_eq!(master.sees(2, "exit").code(), Some(1));
    serves();
}

fn failed_and_succeeded(master: &mut Master) {
    master.expect_ready();
    for (worker, end) in [(1, "fail on purpose"), (2, "panic on purpose")] {
        let shared = bound(&tell(master, worker, "bind-shared 127.0.0.1:0"));
        let own = bound(&tell(master, worker, "bind-per-worker 127.0.0.2:0"));
        let mut waiting = Tcp::connect(shared.port()).unwrap();
        master.order(&Order::Send(worker, end.to_owned()));
        assert_ne!(master.sees(worker, "exit").code(), Some(0));
        let next = worker + 1;
        master.sees(next, "ready");
        assert_eq!(bound(&tell(master, next, "bind-shared 127.0.0.1:0")), shared);
        assert_eq!(bound(&tell(master, next, "bind-per-worker 127.0.0.2:0")), own);
        tell(master, next, "serve 1");
        assert_eq!(waiting.rest(), (format!("{next}\n"), true));
        // Numbers begin anew in the next round.
        tell(master, next, "close 3");
        tell(master, next, "close 2");
        let is_closed = || listening_sockets(shared) + listening_sockets(own) == 0;
        becomes("what is given back is closed", is_closed);
    }
}

/// Says who it is to each client, until it is told to fail; cleans up until it is told that it is enough.
async fn fails(worker: Worker) -> Result<(), String> {
    let incoming = worker.incoming("http").map_err(|error| error.to_string())?;
    let mut messages = worker.messages().expect("nobody else reads them");
    let id = worker.id().get();
    let first = tokio::select! {
        () = incoming.serve_with(|client| greet(client, id)) => return Ok(()),
        message = messages.next() => message,
    };
    worker.on_shutdown(move || async move {
        probe::say("cleans up");
        messages.next().await;
    });
    first.map_or(Ok(()), |_| Err("on purpose".to_owned()))
}

/// The first worker begins to listen when it was told to stop, and then takes its time.
async fn late(worker: Worker) -> Result<(), String> {
    if worker.id().get() == 1 {
        probe::say("boots");
        worker.shutdown().started().await;
    }
    let incoming = worker.incoming("http").map_err(|error| error.to_string())?;
    if worker.id().get() != 1 {
        incoming.serve_with(|client| greet(client, worker.id().get())).await;
        return Ok(());
    }
    probe::say("listens late");
    let mut messages = worker.messages().expect("nobody else reads them");
    while let Some(message) = messages.next().await {
        if probe::text_of(&message) == "enough" {
            break;
        }
        worker.send("here").map_err(|error| error.to_string())?;
    }
    drop(incoming);
    Ok(())
}

async fn greet(mut client: actix_cluster::Connection, id: u64) {
    // A client may have gone away.
    client.write_all(format!("{id}\n").as_bytes()).await.ok();
}

fn puppet_answer(master: &mut Master, worker: u64) -> String {
    master.order(&Order::Send(worker, "where are you?".to_owned()));
    let said = master.sees(worker, "message");
    said.data().as_str().unwrap().to_owned()
}

fn only_worker_2_serves(port: u16) {
    for _ in 0..40 {
        let mut client = Tcp::connect(port).unwrap();
        assert_eq!(client.rest(), ("2\n".to_owned(), true));
    }
}

fn forked_and_gone(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut first = None;
    for _ in 0..50 {
        let id = master.ask(&Order::Fork(Vec::new()), "forked ").parse().unwrap();
        master.once(id, "listening");
        master.order(&Order::Disconnect(id));
        assert_eq!(master.once(id, "exit").code(), Some(0));
        // Its descriptors are closed after it was told of.
        let kept = *first.get_or_insert_with(|| open_fds(master.pid()).unwrap());
        becomes("as many descriptors as after the first", || {
            open_fds(master.pid()).unwrap() <= kept
        });
        assert!(
            listening_sockets(address) <= 2,
            "{} sockets",
            listening_sockets(address)
        );
    }
    assert!((0..40).all(|_| served_by(port).is_ok()));
}

/// An unmodified server. The third worker takes its time when it no longer accepts.
async fn http(worker: Worker) -> io::Result<()> {
    if worker.id().get() == 3 {
        let mut messages = worker.messages().expect("nobody else reads them");
        worker.on_shutdown(move || async move {
            probe::say("drained");
            messages.next().await;
        });
    }
    let app = || App::new().route("/", web::get().to(async || "hello"));
    let listener = worker.listener("http").map_err(io::Error::other)?;
    let server = HttpServer::new(app).workers(1).disable_signals().listen(listener)?;
    worker.run_server(server.run()).await
}

fn scaled_down(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    assert_eq!(master.ask(&Order::Scale(2), "scaled "), "2");
    master.hears("drained");
    // Some of them come to the one that accepts no more.
    let mut clients: Vec<Tcp> = (0..40).map(|_| get(port)).collect();
    master.order(&Order::Send(3, "enough".to_owned()));
    assert_eq!(master.sees(3, "exit").code(), Some(0));
    clients.iter_mut().for_each(is_answered);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    becomes("two sockets for two workers", || listening_sockets(address) == 2);
    (0..40).for_each(|_| is_answered(&mut get(port)));
    // And the slot can be filled again.
    assert_eq!(master.ask(&Order::Scale(3), "scaled "), "3");
    master.sees(4, "listening");
    assert_eq!(listening_sockets(address), 3);
    (0..40).for_each(|_| is_answered(&mut get(port)));
}

fn scaled_to_nothing(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    assert_eq!(master.ask(&Order::Scale(0), "scaled "), "0");
    master.hears("drained");
    master.order(&Order::Send(3, "enough".to_owned()));
    for worker in 1..=3 {
        assert_eq!(master.sees(worker, "exit").code(), Some(0));
    }
    let mut clients: Vec<Tcp> = (0..40).map(|_| get(port)).collect();
    assert_eq!(master.ask(&Order::Scale(1), "scaled "), "1");
    clients.iter_mut().for_each(is_answered);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    becomes("one socket for one worker", || listening_sockets(address) == 1);
    (0..40).for_each(|_| is_answered(&mut get(port)));
}

fn get(port: u16) -> Tcp {
    let mut client = Tcp::connect(port).unwrap();
    client.say("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    client
}

fn is_answered(client: &mut Tcp) {
    let (text, _) = client.rest();
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("hello"), "{text:?}");
}

fn becomes(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Deadline::after(limit(SOON));
    while !is_so() {
        assert!(!deadline.is_over(), "{what}: not within {SOON:?}");
        std::thread::yield_now();
    }
}
