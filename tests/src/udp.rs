//! A worker on strings for UDP, beside the one of [`crate::puppet`] for connections, and a client that asks who is there.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket as Client};
use std::rc::Rc;
use std::task::Poll;

use actix_cluster::{ListenError, ListenOptions, Scheduling, UdpSocket, Worker};

use crate::limit;
use crate::master::SOON;
use crate::probe;

/// Sockets bound to this UDP port, as the kernel lists them.
#[must_use]
pub fn sockets_at(port: u16) -> usize {
    let rows = |table| std::fs::read_to_string(table).unwrap_or_default();
    let all = rows("/proc/net/udp") + &rows("/proc/net/udp6");
    let local = |line: &&str| {
        let local = line.split_whitespace().nth(1)?;
        u16::from_str_radix(local.rsplit(':').next()?, 16).ok()
    };
    all.lines().filter(|line| local(line) == Some(port)).count()
}

/// The address in an answer to `bind` or `own`.
///
/// # Panics
/// If it was refused.
#[must_use]
pub fn bound(answer: &str) -> SocketAddr {
    match answer.split(' ').collect::<Vec<_>>()[..] {
        ["bound", _, address] => address.parse().expect("an address is bound"),
        _ => panic!("not bound: {answer}"),
    }
}

/// Who answers a datagram.
///
/// # Panics
/// If it cannot be sent.
#[must_use]
pub fn ask(address: SocketAddr) -> Option<u64> {
    let client = Client::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    client.set_read_timeout(Some(limit(SOON))).expect("a limit can be set");
    client.send_to(b"who", address).expect("it is bound");
    let mut buf = [0; 32];
    let len = client.recv(&mut buf).ok()?;
    String::from_utf8_lossy(&buf[..len]).parse().ok()
}

/// Answers every datagram with `id`, until the worker is told to stop.
///
/// # Panics
/// If the kernel refuses to receive or to send.
pub async fn echo(socket: &UdpSocket, id: u64) {
    let mut buf = [0; 64];
    while let Some(received) = socket.next(&mut buf).await {
        let (_, from) = received.expect("nothing went wrong before");
        socket
            .send_to(id.to_string().as_bytes(), from)
            .await
            .expect("a few bytes always fit");
    }
}

/// The worker's function. Its texts are read below.
///
/// # Panics
/// If the test tells it something that makes no sense.
pub async fn run(worker: Worker) {
    let mut messages = worker.messages().expect("a puppet alone reads its messages");
    let mut held = Vec::new();
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = worker.shutdown().started() => None,
        };
        let Some(message) = message else { return };
        let text = probe::text_of(&message);
        let words: Vec<&str> = text.split(' ').collect();
        let answer = obey(&worker, &words, &mut held).await;
        probe::say(&format!("{} {answer}", worker.id()));
    }
}

async fn obey(worker: &Worker, words: &[&str], held: &mut Vec<Option<Rc<UdpSocket>>>) -> String {
    let number = |held: &Vec<Option<Rc<UdpSocket>>>| {
        let at = words[1].parse::<usize>().expect("sockets have numbers") - 1;
        (at, held[at].clone().expect("it is held"))
    };
    let id = worker.id().get();
    match words[0] {
        "bind" | "own" => {
            let options = options(words.get(2).copied());
            let socket = if words[0] == "own" {
                worker.own_udp_socket(words[1], &options)
            } else {
                worker.bind_udp_with(words[1], options).await
            };
            match socket {
                Ok(socket) => {
                    let address = socket.address().to_string();
                    held.push(Some(Rc::new(socket)));
                    format!("bound {} {address}", held.len())
                }
                Err(ListenError { errno, address, detail }) => {
                    format!("refused {} {address} {detail}", errno.unwrap_or(0))
                }
            }
        }
        "abandon" => {
            let mut bind = Box::pin(worker.bind_udp(words[1]));
            // Polled once, so that the request is under way.
            let came = std::future::poll_fn(|cx| Poll::Ready(bind.as_mut().poll(cx).is_ready())).await;
            assert!(!came, "the answer takes a while");
            "abandoned: nothing came of it".to_owned()
        }
        "echo" => {
            let (_, socket) = number(held);
            actix_rt::spawn(async move { echo(&socket, id).await });
            "echoes".to_owned()
        }
        "count" => {
            let (at, socket) = number(held);
            held[at] = None;
            let count: usize = words[2].parse().expect("a number");
            actix_rt::spawn(async move {
                for _ in 0..count {
                    let received = socket.recv_from(&mut [0; 8]).await;
                    received.expect("nothing went wrong before");
                }
                drop(socket);
                probe::say(&format!("worker {id} has its {count}"));
            });
            "counts".to_owned()
        }
        "send" => {
            let (_, socket) = number(held);
            let sent = socket.send_to(id.to_string().as_bytes(), words[2]).await;
            format!("sent {}", sent.is_ok())
        }
        "close" => {
            let (at, _) = number(held);
            held[at] = None;
            format!("closed {}", at + 1)
        }
        unknown => format!("does not know how to {unknown}"),
    }
}

fn options(word: Option<&str>) -> ListenOptions {
    let mut options = ListenOptions::default();
    match word {
        Some("v6only") => options.ipv6_only = true,
        Some("reuse") => options.reuse_address = true,
        Some("per-worker") => options.scheduling = Some(Scheduling::PerWorker),
        Some(_) | None => {}
    }
    options
}
