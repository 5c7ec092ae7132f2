//! Connections that outlive a killed worker, with servers that are not the framework's: one by hand on `Incoming::http1`,
//! and the same without it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;

use actix_cluster::{Connection, ListenError, ListenOptions, Worker};
use actix_cluster_tests::load::Load;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{Care, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{limit, probe};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "survival_kills_and_reloads_cost_clients_of_a_tokio_server_nothing",
        app: || of(2, serve_http1),
        check: |master| {
            master.expect_count("all_ready", 1);
            let load = Load::start(port(master), 4);
            let mut idle = connect(master);
            ask(&mut idle);
            for kills in 1..=10 {
                load.goes_on_for(50);
                let pid = ask(&mut idle);
                send(pid, Signal::SIGKILL);
                master.expect_count("exit", kills);
            }
            for generation in 1..=2 {
                master.ask(&Order::Reload(Care::default()), &format!("reloaded {generation}"));
                ask(&mut idle);
            }
            load.stop().is_flawless();
        },
    },
    Scenario {
        name: "survival_without_http1_only_what_was_not_read_is_saved",
        app: || of(1, serve_plain),
        check: |master| {
            master.expect_count("all_ready", 1);
            let mut used = connect(master);
            let first = ask(&mut used);
            // It accepts no more, so these are in its table or in the queue; none was read.
            send(first, Signal::SIGSTOP);
            let mut unread: Vec<TcpStream> = (0..5).map(|_| connect(master)).collect();
            for client in &mut unread {
                client.write_all(GET).expect("it is queued");
            }
            send(first, Signal::SIGKILL);
            for client in &mut unread {
                assert_ne!(answer(client), first);
            }
            assert!(matches!(used.read(&mut [0]), Ok(0) | Err(_)), "it was read from before");
        },
    },
];

fn of<Fut>(workers: u32, serve: fn(Worker) -> Fut) -> ExitCode
where
    Fut: Future<Output = Result<(), ListenError>> + 'static,
{
    let options = ListenOptions::new().survive_kill(true);
    let cluster = probe::cluster().workers(workers);
    cluster.listen_with("http", "127.0.0.1:0", options).worker(serve).main()
}

async fn serve_http1(worker: Worker) -> Result<(), ListenError> {
    worker.incoming("http")?.http1().serve_with(answer_all).await;
    Ok(())
}

async fn serve_plain(worker: Worker) -> Result<(), ListenError> {
    worker.incoming("http")?.serve_with(answer_all).await;
    Ok(())
}

/// As little HTTP as will do: requests without a body.
async fn answer_all(mut connection: Connection) {
    let mut head = Vec::new();
    while let Ok(byte) = connection.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            let body = std::process::id().to_string();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if connection.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
    // The client is gone, or this connection is somebody else's by now.
    connection.shutdown().await.ok();
}

fn port(master: &Master) -> u16 {
    master.port()
}

fn connect(master: &Master) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port(master))).expect("it listens");
    stream
        .set_read_timeout(Some(limit(SOON)))
        .expect("a time limit can be set");
    stream
}

/// The process id of whoever answers.
fn ask(client: &mut TcpStream) -> u32 {
    client.write_all(GET).expect("it is served");
    answer(client)
}

fn answer(client: &mut TcpStream) -> u32 {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).expect("it is answered");
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).expect("heads are text");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.expect("it tells its length").parse().expect("a number")];
    client.read_exact(&mut body).expect("the body comes whole");
    String::from_utf8(body).expect("text").parse().expect("a process id")
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
