//! Messages between a worker and the master, through the public API, beside the bare socket they travel on.
//!
//! One way: so many messages per second, by size. Round trips: a call and its answer. The bare socket is a stream pair
//! between two processes, blocking, without JSON: what no framework can beat.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix_cluster::{
    Cluster, ClusterHandle, EventKind, Message, RunError, SendError, SubscribeOptions, Worker, WorkerRef,
};
use actix_cluster_benches::{Failure, beside, code, median, micros, now, number, percentile, proc};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Sizes of a message's text, and how many go one way in a round.
const SIZES: [(&str, usize, usize); 3] = [
    ("64 B", 64, 1_000_000),
    ("1 KiB", 1024, 300_000),
    ("64 KiB", 65_536, 10_000),
];
const ROUND_TRIPS: usize = 20_000;
const DEADLINE: Duration = Duration::from_secs(60);

/// What the two sides say to each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// To the worker: send so many messages of this size.
    Flood { size: usize, count: usize },
    /// To the worker: so many messages follow; say when the last has come.
    Expect { count: usize },
    /// To the worker: make so many calls of this size, and say how long each took, in nanoseconds.
    Call { size: usize, count: usize },
}

/// A message as a service would send it.
#[derive(Debug, Serialize, Deserialize)]
struct Datum {
    id: u64,
    data: String,
}

fn main() -> ExitCode {
    if std::env::var_os(RAW).is_some() {
        return finish(raw_peer());
    }
    match actix_rt::System::new().block_on(run()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            error.into()
        }
    }
}

fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the handler in the master counts.
#[derive(Default)]
struct Inbox {
    count: AtomicUsize,
    /// How many are waited for.
    expected: AtomicUsize,
    complete: Notify,
}

impl Inbox {
    fn came(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == self.expected.load(Ordering::Relaxed) {
            self.complete.notify_one();
        }
    }
}

async fn run() -> Result<ExitCode, RunError> {
    let inbox = Arc::new(Inbox::default());
    let handler = Arc::clone(&inbox);
    // In a worker the first `start` runs the worker, whichever of the two clusters it belongs to.
    let cluster = Cluster::builder()
        .workers(1)
        .worker(work)
        .on_message(move |_, message| match message.reply() {
            // A caller that is gone needs no answer.
            Some(reply) => drop(reply.ok(message.payload())),
            None => handler.came(),
        })
        .build()?
        .start()
        .await?;
    let measuring = beside(cluster.handle(), move |handle| async move {
        println!("| what | size | messages/s | master ns each | µs p50 | µs p99 |\n|---|---|---|---|---|---|");
        raw()?;
        let worker = first_worker(&handle).await?;
        to_handler(&worker, &inbox).await?;
        to_worker(&worker, &handle).await?;
        calls_from_worker(&handle, &worker).await?;
        calls_to_worker("call master → worker, from a thread of its own", &worker).await?;
        Ok(())
    });
    cluster.wait().await?;
    if !measuring.join().unwrap_or(false) {
        return Ok(ExitCode::FAILURE);
    }

    let cluster = Cluster::builder().workers(1).worker(work).build()?.start().await?;
    let handle = cluster.handle();
    // On the supervising thread itself, as a program does that embeds the cluster.
    let worker = first_worker(&handle).await;
    let called = match &worker {
        Ok(worker) => calls_to_worker("call master → worker, from the supervising thread", worker).await,
        Err(_) => Err("the worker did not start".into()),
    };
    let measuring = beside(handle, move |handle| async move {
        called?;
        let worker = first_worker(&handle).await?;
        to_events("worker → master, `Events`", &worker, &handle, |_| true).await?;
        to_events("the same, each parsed into a struct", &worker, &handle, |message| {
            message.parse::<Datum>().is_ok()
        })
        .await?;
        Ok(())
    });
    cluster.wait().await?;
    Ok(code(measuring))
}

async fn first_worker(handle: &ClusterHandle) -> Result<WorkerRef, Failure> {
    handle.all_ready().await?;
    Ok(handle.workers().into_iter().next().ok_or("no worker")?)
}

// The master's side.

async fn to_handler(worker: &WorkerRef, inbox: &Inbox) -> Result<(), Failure> {
    for (name, size, count) in SIZES {
        let (mut rates, ticks) = (Vec::new(), proc::cpu_ticks());
        for _ in 0..rounds() {
            inbox.expected.store(count, Ordering::Relaxed);
            inbox.count.store(0, Ordering::Relaxed);
            let begun = now();
            worker.send(&Order::Flood { size, count })?;
            tokio::time::timeout(DEADLINE, inbox.complete.notified()).await?;
            rates.push(rate(count, begun));
        }
        print_rate("worker → master, `on_message`", name, count, ticks, &mut rates);
    }
    Ok(())
}

async fn to_events(
    what: &str,
    worker: &WorkerRef,
    handle: &ClusterHandle,
    accept: impl Fn(&Message) -> bool,
) -> Result<(), Failure> {
    for (name, size, count) in SIZES {
        let (mut rates, ticks) = (Vec::new(), proc::cpu_ticks());
        let options = SubscribeOptions::messages();
        let mut events = handle.events_with(&options);
        for _ in 0..rounds() {
            let begun = now();
            worker.send(&Order::Flood { size, count })?;
            let mut came = 0;
            while came < count {
                let event = events.next().await.ok_or("the cluster ended")?;
                if let EventKind::Message(message) = &event.kind
                    && accept(message)
                {
                    came += 1;
                }
            }
            rates.push(rate(count, begun));
        }
        print_rate(what, name, count, ticks, &mut rates);
    }
    Ok(())
}

async fn to_worker(worker: &WorkerRef, handle: &ClusterHandle) -> Result<(), Failure> {
    let options = SubscribeOptions::messages();
    for (name, size, count) in SIZES {
        let (mut rates, ticks) = (Vec::new(), proc::cpu_ticks());
        let mut events = handle.events_with(&options);
        let datum = datum(size);
        for _ in 0..rounds() {
            let begun = now();
            worker.send(&Order::Expect { count })?;
            for _ in 0..count {
                send(|| worker.send(&datum)).await?;
            }
            let done = events.next_where(|event| matches!(event.kind, EventKind::Message(_)));
            tokio::time::timeout(DEADLINE, done).await?.ok_or("the cluster ended")?;
            rates.push(rate(count, begun));
        }
        print_rate("master → worker", name, count, ticks, &mut rates);
    }
    Ok(())
}

async fn calls_to_worker(what: &str, worker: &WorkerRef) -> Result<(), Failure> {
    for (name, size, _) in SIZES {
        let datum = datum(size);
        let mut samples = Vec::new();
        for _ in 0..round_trips(size) {
            let begun = now();
            let _: Datum = worker.call(&datum, DEADLINE).await?;
            samples.push(begun.elapsed());
        }
        print_trips(what, name, &mut samples);
    }
    Ok(())
}

async fn calls_from_worker(handle: &ClusterHandle, worker: &WorkerRef) -> Result<(), Failure> {
    let options = SubscribeOptions::messages();
    for (name, size, _) in SIZES {
        let count = round_trips(size);
        // Subscribed late, and the calls themselves are dropped unread: the handler answers them.
        let mut events = handle.events_with(&options);
        worker.send(&Order::Call { size, count })?;
        let report = loop {
            let event = events.next().await.ok_or("the cluster ended")?;
            if let EventKind::Message(message) = &event.kind
                && !message.is_call()
            {
                break message.parse::<Vec<u64>>()?;
            }
        };
        let mut samples: Vec<Duration> = report.into_iter().map(Duration::from_nanos).collect();
        print_trips("call worker → master, answered by `on_message`", name, &mut samples);
    }
    Ok(())
}

// The worker's side.

async fn work(worker: Worker) -> Result<(), Failure> {
    let mut messages = worker.messages().ok_or("the messages are taken")?;
    while let Some(message) = messages.next().await {
        if let Some(reply) = message.reply() {
            reply.ok(message.payload())?;
            continue;
        }
        match message.parse()? {
            Order::Flood { size, count } => {
                let datum = datum(size);
                for _ in 0..count {
                    send(|| worker.send(&datum)).await?;
                }
            }
            Order::Expect { count } => {
                for _ in 0..count {
                    messages.next().await.ok_or("the master is gone")?;
                }
                worker.send("done")?;
            }
            Order::Call { size, count } => {
                let datum = datum(size);
                let mut samples = Vec::new();
                for _ in 0..count {
                    let begun = now();
                    let _: Datum = worker.call(&datum, DEADLINE).await?;
                    samples.push(u64::try_from(begun.elapsed().as_nanos())?);
                }
                worker.send(&samples)?;
            }
        }
    }
    Ok(())
}

/// Sends as soon as there is room. Asks again and again, because a timer rests for too long (2 ms and more, in which the
/// receiver has long emptied the channel); the price is the sender's processor.
async fn send(mut attempt: impl FnMut() -> Result<(), SendError>) -> Result<(), SendError> {
    loop {
        match attempt() {
            Err(error) if error.is_full() => tokio::task::yield_now().await,
            result => return result,
        }
    }
}

// The bare socket.

/// Measures a stream pair between this process and another one.
fn raw() -> Result<(), Failure> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut peer = Command::new(std::env::current_exe()?)
        .env(RAW, "1")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    for (name, size, count) in SIZES {
        for (what, batch) in [
            ("raw socket, one write each", 1),
            ("raw socket, 64 KiB a write", (65_536 / size).max(1)),
        ] {
            let bytes = vec![b'x'; size * batch];
            let (mut rates, ticks) = (Vec::new(), proc::cpu_ticks());
            for _ in 0..rounds() {
                let begun = now();
                tell_peer(&mut ours, Peer::Swallow, size * batch, count / batch)?;
                for _ in 0..count / batch {
                    ours.write_all(&bytes)?;
                }
                ours.read_exact(&mut [0])?;
                rates.push(rate(count / batch * batch, begun));
            }
            print_rate(what, name, count, ticks, &mut rates);
        }
        let mut bytes = vec![b'x'; size];
        let mut samples = Vec::new();
        tell_peer(&mut ours, Peer::Echo, size, round_trips(size))?;
        for _ in 0..round_trips(size) {
            let begun = now();
            ours.write_all(&bytes)?;
            ours.read_exact(&mut bytes)?;
            samples.push(begun.elapsed());
        }
        print_trips("raw socket, round trip", name, &mut samples);
    }
    drop(ours);
    peer.wait()?;
    Ok(())
}

/// What the other end of the bare socket does with the next bytes.
#[derive(Clone, Copy)]
enum Peer {
    Swallow,
    Echo,
}

/// The head that precedes `count` times `len` bytes: what to do with them.
fn tell_peer(socket: &mut UnixStream, what: Peer, len: usize, count: usize) -> Result<(), Failure> {
    let mut head = [0; 17];
    head[0] = u8::from(matches!(what, Peer::Echo));
    head[1..9].copy_from_slice(&(len as u64).to_le_bytes());
    head[9..].copy_from_slice(&(count as u64).to_le_bytes());
    Ok(socket.write_all(&head)?)
}

fn raw_peer() -> Result<(), Failure> {
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut head = [0; 17];
    let mut bytes = vec![0; 1 << 18];
    while socket.read_exact(&mut head).is_ok() {
        let len = usize::try_from(u64::from_le_bytes(head[1..9].try_into()?))?;
        let count = usize::try_from(u64::from_le_bytes(head[9..].try_into()?))?;
        if head[0] == 1 {
            for _ in 0..count {
                socket.read_exact(&mut bytes[..len])?;
                socket.write_all(&bytes[..len])?;
            }
            continue;
        }
        let mut left = len * count;
        while left > 0 {
            let room = left.min(bytes.len());
            left -= socket.read(&mut bytes[..room])?;
        }
        socket.write_all(b"!")?;
    }
    Ok(())
}

// What both sides use.

fn datum(size: usize) -> Datum {
    Datum {
        id: 1,
        data: "x".repeat(size),
    }
}

fn rounds() -> usize {
    number("ACTIX_CLUSTER_BENCH_ROUNDS", 5)
}

const fn round_trips(size: usize) -> usize {
    if size > 4096 { ROUND_TRIPS / 10 } else { ROUND_TRIPS }
}

fn rate(count: usize, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}

/// With the processor time of this process for each message, which says more than the rate where others share the machine.
fn print_rate(what: &str, size: &str, count: usize, ticks: u64, rates: &mut [f64]) {
    const TICK_NS: u64 = 10_000_000;
    let spent = (proc::cpu_ticks() - ticks) * TICK_NS / (count * rates.len()).max(1) as u64;
    println!("| {what} | {size} | {:.0} | {spent} | | |", median(rates));
}

fn print_trips(what: &str, size: &str, samples: &mut [Duration]) {
    let (p50, p99) = (percentile(samples, 50), percentile(samples, 99));
    println!("| {what} | {size} | | | {} | {} |", micros(p50), micros(p99));
}

const RAW: &str = "ACTIX_CLUSTER_BENCH_RAW";
