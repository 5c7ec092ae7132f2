//! Connections of workers that end in order: who is waited for, who is served by whom, and what is cut.

use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{Connection, ListenError, ListenOptions, RestartType, Scheduling, WhenEmpty, Worker};
use actix_cluster_tests::probe::{self, Order, text_of};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::tcp::{self, Tcp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_145_every_listener_of_every_worker_serves_and_all_are_disconnected",
        app: || probe::cluster().workers(8).worker(two_servers).main(),
        check: |master| {
            let ports: Vec<u16> = (0..16).map(|_| port_of(&master.expect("listening").0)).collect();
            for &port in &ports {
                assert_eq!(
                    Tcp::connect(port).expect("it listens").rest(),
                    ("echo".to_owned(), true)
                );
            }
            master.order(&Order::DisconnectAll);
            assert_eq!(master.wait().code(), Some(0));
            let exits = master.seen("exit");
            assert_eq!(exits.iter().filter(|exit| exit.code() == Some(0)).count(), 8);
            assert!(ports.iter().all(|&port| tcp::is_refused(port)));
        },
    },
    Scenario {
        name: "n_163_the_channel_is_closed_after_the_last_connection",
        app: || lone(hold_open_and_clean_up),
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let mut client = Tcp::connect(port).expect("it listens");
            client.hear(".");
            master.order(&Order::Disconnect(1));
            master.sees(1, "exiting");
            master.ask(&Order::Ping, "pong");
            assert_eq!(
                (master.count_said("cleaning up"), master.counts_of(1, ["disconnect"])),
                (0, [0])
            );
            drop(client);
            master.hears("connection closed");
            master.hears("cleaning up");
            assert_eq!(master.sees(1, "disconnect").exited_after_disconnect(), Some(true));
            assert_eq!(master.sees(1, "exit").code(), Some(0));
        },
    },
    Scenario {
        name: "n_164_two_sharing_workers_leave_while_a_client_is_connected",
        app: || {
            let cluster = probe::cluster().workers(1).restart(RestartType::Temporary);
            cluster.when_empty(WhenEmpty::Wait).worker(say_bye).main()
        },
        check: |master| {
            let port = port_of(&master.expect_of(1, "listening").0);
            master.order(&Order::Fork(Vec::new()));
            master.expect_of(2, "online");
            let mut client = Tcp::connect(port).expect("the first worker listens");
            master.order(&Order::Disconnect(1));
            master.order(&Order::Disconnect(2));
            for worker in [1, 2] {
                let exit = master.sees(worker, "exit");
                assert_eq!((exit.code(), exit.signal()), (Some(0), None));
            }
            assert_eq!(master.seen("exit").len(), 2);
            assert!(master.snapshot()["workers"].as_array().is_some_and(Vec::is_empty));
            // Served, or reset: nothing else.
            let (text, is_orderly) = client.rest();
            assert!(text == "bye" || !is_orderly, "{text:?}");
        },
    },
    Scenario {
        name: "n_165_a_worker_waits_for_its_servers_connections_and_not_for_its_own",
        app: || lone(serve_and_connect),
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let mut served = Tcp::connect(port).expect("it listens");
            served.hear(".");
            let outer = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
            let address = outer.local_addr().expect("it is bound").to_string();
            master.order(&Order::Send(1, address));
            let mut own = Tcp::over(outer.accept().expect("the worker connects").0).expect("a fresh socket");
            master.order(&Order::Send(1, "disconnect".to_owned()));
            master.sees(1, "exiting");
            // Its own connection is not closed, and its server's is waited for.
            own.say("still there?");
            own.hear("still there?");
            assert_eq!(master.counts_of(1, ["disconnect"]), [0]);
            drop(served);
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(true)));
            // Nobody has closed it on this side: the worker did not wait for it.
            own.rest();
        },
    },
    Scenario {
        name: "n_166_n_167_a_draining_worker_gets_nothing_new_and_keeps_what_it_has",
        app: two_tell_their_number,
        check: |master| {
            let both = master.expect_all(&[(1, "listening"), (2, "listening")]);
            let ports: Vec<u16> = both.iter().map(|listening| port_of(&listening.0)).collect();
            assert_eq!(ports[0], ports[1]);
            let mut kept = loop {
                let mut client = Tcp::connect(ports[0]).expect("both listen");
                if client.line() == "1" {
                    break client;
                }
            };
            master.order(&Order::Disconnect(1));
            assert_eq!(master.sees(1, "exiting").exited_after_disconnect(), Some(true));
            master.hears("1 accepts no more");
            for _ in 0..30 {
                assert_eq!(Tcp::connect(ports[0]).expect("the other one listens").line(), "2");
            }
            kept.say("still served");
            kept.hear("still served");
            assert_eq!(master.counts_of(1, ["disconnect"]), [0]);
            drop(kept);
            assert_eq!(master.sees(1, "exit").code(), Some(0));
            // The last one out closes the socket.
            master.order(&Order::Disconnect(2));
            assert_eq!(master.sees(2, "exit").code(), Some(0));
            master.ask(&Order::Disconnect(2), "error");
            assert!(tcp::is_refused(ports[0]));
        },
    },
    Scenario {
        name: "n_168_a_connection_that_does_not_end_holds_the_disconnect_back_for_the_grace_only",
        app: || {
            let cluster = probe::cluster()
                .restart(RestartType::Temporary)
                .when_empty(WhenEmpty::Wait);
            let cluster = cluster.workers(1).grace(Duration::from_millis(300));
            cluster
                .listen("tcp", "127.0.0.1:0")
                .worker(hold_open_and_clean_up)
                .main()
        },
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let mut client = Tcp::connect(port).expect("it listens");
            client.hear(".");
            master.order(&Order::Disconnect(1));
            let exit = master.sees(1, "exit");
            assert_eq!((exit.signal(), exit.exited_after_disconnect()), (Some(9), Some(true)));
            assert_eq!(
                (&exit.data()["forced"], exit.reason()),
                (&true.into(), &"ordered".into())
            );
            assert_eq!(master.counts_of(1, ["exiting", "disconnect", "exit"]), [1, 1, 1]);
            client.rest();
            assert_eq!(master.count_said("cleaning up"), 0);
        },
    },
];

/// One worker that is not replaced, with a declared listener and time enough.
fn lone<F, Fut>(worker: F) -> ExitCode
where
    F: FnOnce(Worker) -> Fut + 'static,
    Fut: Future<Output = Result<(), ListenError>> + 'static,
{
    let cluster = probe::cluster().workers(1).restart(RestartType::Temporary);
    let cluster = cluster.when_empty(WhenEmpty::Wait).grace(Duration::from_secs(10));
    cluster.listen("tcp", "127.0.0.1:0").worker(worker).main()
}

fn port_of(listening: &serde_json::Value) -> u16 {
    let port = listening["data"]["port"].as_u64().expect("it is a TCP address");
    u16::try_from(port).expect("ports are small")
}

async fn two_servers(worker: Worker) -> Result<(), ListenError> {
    let echo = |mut connection: Connection| async move {
        connection.write_all(b"echo").await.ok();
    };
    let first = worker.bind("127.0.0.1:0").await?.incoming()?;
    let second = worker.bind("127.0.0.1:0").await?.incoming()?;
    tokio::join!(first.serve_with(echo), second.serve_with(echo));
    Ok(())
}

async fn hold_open_and_clean_up(worker: Worker) -> Result<(), ListenError> {
    worker.on_shutdown(|| async { probe::say("cleaning up") });
    worker.incoming("tcp")?.serve_with(hold_open).await;
    Ok(())
}

/// Says that it is there, then echoes until the client ends.
async fn hold_open(mut connection: Connection) {
    connection.write_all(b".").await.ok();
    echo(&mut connection).await;
    probe::say("connection closed");
}

async fn echo(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    let mut bytes = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        stream.write_all(&bytes[..count]).await.ok();
    }
}

/// Node's policy `none`: one socket, accepted on by both.
async fn say_bye(worker: Worker) -> Result<(), ListenError> {
    let options = ListenOptions::new().scheduling(Scheduling::Shared);
    let incoming = worker.bind_with("127.0.0.1:0", options).await?.incoming()?;
    let bye = |mut connection: Connection| async move {
        connection.write_all(b"bye").await.ok();
    };
    incoming.serve_with(bye).await;
    Ok(())
}

async fn serve_and_connect(worker: Worker) -> Result<(), ListenError> {
    let told = worker.clone();
    worker.on_message(move |message| match text_of(&message).as_str() {
        "disconnect" => told.disconnect(),
        address => {
            let address = address.to_owned();
            actix_rt::spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("the test listens");
                echo(&mut stream).await;
            });
        }
    });
    worker.incoming("tcp")?.serve_with(hold_open).await;
    Ok(())
}

fn two_tell_their_number() -> ExitCode {
    let cluster = probe::cluster().workers(2).restart(RestartType::Temporary);
    let cluster = cluster.when_empty(WhenEmpty::Wait).grace(Duration::from_secs(10));
    cluster.worker(tell_number).main()
}

async fn tell_number(worker: Worker) -> Result<(), ListenError> {
    let id = worker.id();
    let mut incoming = worker.bind("127.0.0.1:0").await?.incoming()?;
    while let Some(mut connection) = incoming.accept().await {
        actix_rt::spawn(async move {
            connection.write_all(format!("{id}\n").as_bytes()).await.ok();
            echo(&mut connection).await;
        });
    }
    probe::say(&format!("{id} accepts no more"));
    Ok(())
}
