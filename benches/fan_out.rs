//! Events from the sequencer to its subscribers: how many a second reach one, two and five, and the others when one of them is
//! stuck; next to plain actix recipients in the same run. What the workers' channels cost is in `ipc`.
//!
//! Rounds with everybody following and rounds with one of them stuck take turns, so that a slow minute is one for both.
//!
//! `cargo bench -p actix-cluster-benches --bench fan_out`.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::prelude::*;
use actix_cluster::testing::{Recorder, RecordingHandle};
use actix_cluster::{
    ClusterEvent, ClusterHandle, ClusterSnapshot, EventKind, Message, Mono, Slot, SubscribeOptions, WorkerSnapshot,
    WorkerState,
};
use actix_cluster_benches::{Failure, median, now, number, proc};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// Events in a round.
const EVENTS: u64 = 300_000;
/// How far the publisher runs ahead of the slowest that is not stuck: half of what may wait.
const AHEAD: u64 = 2_048;

fn main() -> Result<ExitCode, Failure> {
    System::new().block_on(async {
        // First of all: later the allocator has kept something of everything.
        let (events, held) = (10 * EVENTS, stuck_kib()?);
        println!("a subscriber that takes nothing holds {held} KiB after {events} events");
        println!("| subscribers | fed as | events/s | of those with nobody stuck | processor of each consumer for each event, ns |");
        println!("|---|---|---|---|---|");
        let consumers = Arbiter::new();
        for count in [1, 2, 5] {
            for fed in [Fed::Plain, Fed::Streams, Fed::Actors, Fed::ActorsFromElsewhere] {
                if is_wanted(fed) {
                    measure(&consumers.handle(), fed, count)?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Was this way named as an argument, or none at all? For profiles of one way alone.
fn is_wanted(fed: Fed) -> bool {
    let mut named = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let fed = format!("{fed:?}");
    named
        .next()
        .is_none_or(|first| first == fed || named.any(|name| name == fed))
}

/// How the consumers, all on one thread beside the publisher's, get their events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fed {
    /// No bus: `try_send` to each mailbox in turn.
    Plain,
    /// `Events::next`.
    Streams,
    /// The bus, and a pump on the actors' thread: what a plug-in of the builder has.
    Actors,
    /// The bus, and a pump on another thread: `ClusterHandle::subscribe`.
    ActorsFromElsewhere,
}

/// What came of the rounds of one kind.
#[derive(Default)]
struct Rounds {
    rates: Vec<f64>,
    costs: Vec<f64>,
}

impl Rounds {
    fn tell(&mut self, who: &str, fed: Fed, of: &str) {
        let (rate, cost) = (median(&mut self.rates), median(&mut self.costs));
        println!("| {who} | {fed:?} | {rate:.0} | {of} | {cost:.0} |");
    }
}

fn measure(thread: &ArbiterHandle, fed: Fed, count: usize) -> Result<(), Failure> {
    let (mut all, mut others, mut ratios) = (Rounds::default(), Rounds::default(), Vec::new());
    for _ in 0..number("ACTIX_CLUSTER_BENCH_ROUNDS", 5) {
        round(thread, fed, (count, 0), &mut all)?;
        // Plain mailboxes have nobody who could be passed over.
        if fed != Fed::Plain && count > 1 {
            round(thread, fed, (count - 1, 1), &mut others)?;
            ratios.extend(
                others
                    .rates
                    .last()
                    .zip(all.rates.last())
                    .map(|(with, without)| with / without),
            );
        }
    }
    all.tell(&count.to_string(), fed, "");
    if !ratios.is_empty() {
        let of = format!("{:.2}", median(&mut ratios));
        others.tell(&format!("{count}, one of them stuck"), fed, &of);
    }
    Ok(())
}

/// Messages of one worker, each with a payload of its own, as they come from its channel.
fn messages(worker: &WorkerSnapshot, numbers: Range<u64>) -> Result<Vec<ClusterEvent>, Failure> {
    let text = "x".repeat(100);
    let said = |seq| {
        let said = EventKind::Message(Message::for_test(&text)?);
        Ok(ClusterEvent::for_test(seq, Mono::default(), Some(worker.info()), said))
    };
    numbers.map(said).collect()
}

fn one_worker() -> WorkerSnapshot {
    WorkerSnapshot::for_test(1, Slot::new("worker", 0), WorkerState::Online)
}

/// How much memory a stuck subscriber costs, however much is published.
fn stuck_kib() -> Result<u64, Failure> {
    let worker = one_worker();
    let (cluster, recorder) = RecordingHandle::new(ClusterSnapshot::for_test([worker.clone()]));
    let before = proc::rss_kib();
    let _stuck = cluster.events();
    for first in (1..10 * EVENTS).step_by(1_000) {
        for event in messages(&worker, first..first + 1_000)? {
            recorder.emit(event);
        }
    }
    Ok(proc::rss_kib().saturating_sub(before))
}

/// One round: `following` consumers get every event, and `stuck` ones take none.
fn round(
    thread: &ArbiterHandle,
    fed: Fed,
    (following, stuck): (usize, usize),
    rounds: &mut Rounds,
) -> Result<(), Failure> {
    let worker = one_worker();
    let said = messages(&worker, 1..EVENTS + 1)?;
    let (cluster, recorder) = RecordingHandle::new(ClusterSnapshot::for_test([worker]));
    let _stuck: Vec<_> = (0..stuck).map(|_| cluster.events()).collect();
    let counters: Vec<_> = (0..following).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let pumps = Arbiter::new();
    let mailboxes = counters
        .iter()
        .map(|counter| begin(thread, &pumps.handle(), fed, counter, &cluster));
    let mailboxes: Vec<_> = mailboxes.collect();
    let (begun, used) = (now(), consumers_cpu());
    publish(
        said,
        &recorder,
        &counters,
        (fed == Fed::Plain).then_some(&mailboxes[..]),
    );
    rounds.rates.push(EVENTS as f64 / begun.elapsed().as_secs_f64());
    let cost = (consumers_cpu() - used).as_nanos() as f64;
    rounds.costs.push(cost / (EVENTS * following as u64) as f64);
    recorder.end();
    pumps.stop();
    Ok(())
}

/// What all threads but this one, the publisher's, have used of the processor: it waits for the others by looking again and
/// again, and they rest when they have nothing to do.
fn consumers_cpu() -> Duration {
    let used = |who| {
        let usage = getrusage(who).expect("it is our own");
        Duration::from_micros(
            (usage.user_time() + usage.system_time())
                .num_microseconds()
                .unsigned_abs(),
        )
    };
    used(UsageWho::RUSAGE_SELF).saturating_sub(used(UsageWho::RUSAGE_THREAD))
}

/// Starts one consumer.
fn begin(
    thread: &ArbiterHandle,
    pumps: &ArbiterHandle,
    fed: Fed,
    counter: &Arc<AtomicU64>,
    cluster: &ClusterHandle,
) -> Recipient<ClusterEvent> {
    let own = Arc::clone(counter);
    let actor = Counts::start_in_arbiter(thread, move |ctx| {
        ctx.set_mailbox_capacity(4_096);
        Counts(own)
    });
    let (actor, options) = (actor.recipient(), SubscribeOptions::new());
    match fed {
        Fed::Plain => {}
        Fed::Actors => drop(cluster.subscribe_on(thread, actor.clone(), &options)),
        Fed::ActorsFromElsewhere => drop(cluster.subscribe_on(pumps, actor.clone(), &options)),
        Fed::Streams => {
            let (mut events, counter) = (cluster.events(), Arc::clone(counter));
            thread.spawn(async move {
                while events.next().await.is_some() {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    actor
}

/// Publishes as fast as the consumers can follow, and waits for the last of them.
fn publish(
    said: Vec<ClusterEvent>,
    recorder: &Recorder,
    counters: &[Arc<AtomicU64>],
    mailboxes: Option<&[Recipient<ClusterEvent>]>,
) {
    let slowest = || counters.iter().map(|counter| counter.load(Ordering::Relaxed)).min();
    let wait_for = |wanted: u64| {
        while slowest().unwrap_or(wanted) < wanted {
            std::thread::yield_now();
        }
    };
    for event in said {
        let seq = event.seq;
        match mailboxes {
            None => recorder.emit(event),
            Some(mailboxes) => {
                for mailbox in mailboxes {
                    // Full only until the actor has made its mailbox larger.
                    while mailbox.try_send(event.clone()).is_err() {
                        std::thread::yield_now();
                    }
                }
            }
        }
        if seq.is_multiple_of(64) {
            wait_for(seq.saturating_sub(AHEAD));
        }
    }
    wait_for(EVENTS);
}

/// Counts what it gets.
struct Counts(Arc<AtomicU64>);

impl Actor for Counts {
    type Context = Context<Self>;
}

impl Handler<ClusterEvent> for Counts {
    type Result = ();

    fn handle(&mut self, _: ClusterEvent, _: &mut Self::Context) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
