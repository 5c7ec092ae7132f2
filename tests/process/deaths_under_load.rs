//! A worker dies while clients are served: which connections pay for it, and which must not.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_cluster::{ListenError, ListenOptions, Scheduling, Worker};
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe;
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_006_a_killed_worker_takes_its_own_connections_along_and_none_else_shared",
        app: || four_on(Scheduling::Shared),
        check: one_of_four_is_killed,
    },
    Scenario {
        name: "f_006_a_killed_worker_takes_its_own_connections_along_and_none_else_per_worker",
        app: || four_on(Scheduling::PerWorker),
        check: one_of_four_is_killed,
    },
];

/// Four workers that answer each line with their process id.
fn four_on(scheduling: Scheduling) -> ExitCode {
    let options = ListenOptions::new().scheduling(scheduling);
    let cluster = probe::cluster().workers(4);
    cluster
        .listen_with("tcp", "127.0.0.1:0", options)
        .worker(answer_lines)
        .main()
}

async fn answer_lines(worker: Worker) -> Result<(), ListenError> {
    let serve = |mut connection: actix_cluster::Connection| async move {
        let answer = format!("{:10}", std::process::id());
        while let Ok(byte) = connection.read_u8().await {
            if byte == b'\n' && connection.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    };
    worker.incoming("tcp")?.serve_with(serve).await;
    Ok(())
}

fn one_of_four_is_killed(master: &mut Master) {
    let port = master.expect_ready().expect("a listener is declared");
    let mut open: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| connect(port).expect("all are ready"))
        .collect();
    // All are open before the first is used, so that no worker is alone in taking them.
    for stream in &mut open {
        stream.write_all(b"\n").expect("it is served");
    }
    let mut by_worker: BTreeMap<u32, Vec<TcpStream>> = BTreeMap::new();
    for mut stream in open {
        let pid = answer(&mut stream).expect("it is served");
        // Half a request is in progress from here on.
        stream.write_all(b"x").expect("it is served");
        by_worker.entry(pid).or_default().push(stream);
    }
    let victim = by_worker
        .iter()
        .max_by_key(|(_, streams)| streams.len())
        .map(|(pid, _)| *pid);
    let victim = victim.expect("somebody served");
    let lost = by_worker.remove(&victim).expect("it served the most");

    // Somebody connects all the time: never refused, always answered, whoever has died.
    let over = Arc::new(AtomicBool::new(false));
    let passer_by = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            let mut served = 0;
            while !over.load(Ordering::Relaxed) {
                served += usize::from(may_die_in_progress(port));
            }
            served
        })
    };
    // A stopped worker accepts nothing, so what now comes to its own socket stays in the queue beyond its death.
    send(victim, Signal::SIGSTOP);
    let mut queued: Vec<TcpStream> = (0..QUEUED).map(|_| connect(port).expect("not refused")).collect();
    for stream in &mut queued {
        stream.write_all(b"\n").expect("it is queued");
    }
    send(victim, Signal::SIGKILL);
    for stream in &mut queued {
        let pid = answer(stream).expect("none queued is lost");
        assert_ne!(pid, victim);
    }
    for mut stream in lost {
        let end = stream.write_all(b"\n").and_then(|()| answer(&mut stream));
        assert!(end.is_err(), "the dead cannot answer");
    }
    for mut stream in by_worker.into_values().flatten() {
        stream.write_all(b"\n").expect("its worker lives");
        answer(&mut stream).expect("its worker lives");
    }
    assert_eq!(master.expect("exit").signal(), Some(9));
    master.expect("all_ready");
    over.store(true, Ordering::Relaxed);
    assert!(passer_by.join().expect("never refused") > 0);
}

/// True if it was answered; false if its worker was killed after it had accepted, which is the one excuse.
fn may_die_in_progress(port: u16) -> bool {
    let mut stream = connect(port).expect("never refused");
    let answered = stream.write_all(b"\n").and_then(|()| answer(&mut stream));
    match answered {
        Ok(_) => true,
        Err(error) => {
            let kind = error.kind();
            let cut = [
                io::ErrorKind::ConnectionReset,
                io::ErrorKind::UnexpectedEof,
                io::ErrorKind::BrokenPipe,
            ];
            assert!(cut.contains(&kind), "{error}");
            false
        }
    }
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(limit(SOON)))?;
    Ok(stream)
}

fn answer(stream: &mut TcpStream) -> io::Result<u32> {
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    let text = std::str::from_utf8(&answer).map_err(io::Error::other)?;
    text.trim().parse().map_err(io::Error::other)
}

const CONNECTIONS: usize = 200;
const QUEUED: usize = 40;
