//! Many requests at once: a closed loop, in which each client asks again when it is answered, or an open one, in which
//! requests come at a rate whatever becomes of them.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix_cluster_benches::{Failure, now};
use tokio::net::TcpStream;

use super::{Connection, Failed, Outcome, ask};

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// So many clients, each of which asks as soon as it is answered. A stalled server is asked less, which flatters it.
    Closed(usize),
    /// So many requests a second, in a group each millisecond; latencies count from when a request was due.
    Open(usize),
}

/// What to do to a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// New connections, or kept ones.
    pub(crate) connection: Connection,
    /// When requests are sent.
    pub(crate) pace: Pace,
}

/// A load in progress, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Loader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Vec<Outcome>, Failure>>>,
}

#[derive(Debug, Default)]
struct Shared {
    phase: AtomicUsize,
    seen: Mutex<HashSet<u32>>,
}

impl Loader {
    /// Begins with phase 0.
    pub(crate) fn start(load: Load) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || run(load, theirs));
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// From now on answers count for the next phase.
    pub(crate) fn next_phase(&self) {
        self.shared.phase.fetch_add(1, Ordering::Relaxed);
    }

    /// Who answered since the last time this was asked.
    pub(crate) fn take_seen(&self) -> HashSet<u32> {
        std::mem::take(&mut self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends it, after what is under way: the outcome of each phase.
    pub(crate) fn stop(mut self) -> Result<Vec<Outcome>, Failure> {
        self.shared.phase.store(STOP, Ordering::Relaxed);
        let thread = self.thread.take().ok_or("stopped before")?;
        thread.join().map_err(|_| "the load panicked")?
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.phase.store(STOP, Ordering::Relaxed);
    }
}

fn run(load: Load, shared: Arc<Shared>) -> Result<Vec<Outcome>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clients = tokio::task::LocalSet::new();
    let tally = Rc::new(Tally {
        phases: RefCell::new(vec![Outcome::new(now())]),
        shared,
    });
    match load.pace {
        Pace::Closed(count) => {
            for _ in 0..count {
                clients.spawn_local(closed(load, Rc::clone(&tally)));
            }
        }
        Pace::Open(per_second) => {
            clients.spawn_local(open(load, per_second, Rc::clone(&tally)));
        }
    }
    runtime.block_on(clients);
    tally.turn();
    let mut phases = tally.phases.take();
    if let Some(last) = phases.last_mut() {
        last.end(now());
    }
    Ok(phases)
}

struct Tally {
    phases: RefCell<Vec<Outcome>>,
    shared: Arc<Shared>,
}

impl Tally {
    /// Begins the phases that were ordered meanwhile. False when all is over.
    fn turn(&self) -> bool {
        let phase = self.shared.phase.load(Ordering::Relaxed);
        if phase == STOP {
            return false;
        }
        let mut phases = self.phases.borrow_mut();
        while phases.len() <= phase {
            let now = now();
            if let Some(last) = phases.last_mut() {
                last.end(now);
            }
            phases.push(Outcome::new(now));
        }
        true
    }

    fn note(&self, begun: Instant, answer: Result<u32, Failed>) {
        self.turn();
        let mut phases = self.phases.borrow_mut();
        let phase = phases.last_mut().expect("there is always one");
        match answer {
            Ok(pid) => {
                phase.answered(begun, now());
                self.shared
                    .seen
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(pid);
            }
            Err(class) => phase.failed(class),
        }
    }
}

async fn closed(load: Load, tally: Rc<Tally>) {
    let mut kept = None;
    while tally.turn() {
        let begun = now();
        match ask(load.address, load.connection, kept.take(), LIMIT).await {
            Ok(answer) => {
                kept = answer.kept;
                tally.note(begun, Ok(answer.pid));
            }
            Err(class) => {
                tally.note(begun, Err(class));
                // Whoever is refused would ask thousands of times in a moment, which says nothing.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn open(load: Load, per_second: usize, tally: Rc<Tally>) {
    let pool: Rc<RefCell<Vec<TcpStream>>> = Rc::default();
    let waiting = Rc::new(Cell::new(0_usize));
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut due_total = 0;
    let mut ticked = 0;
    while tally.turn() {
        let due = ticks.tick().await.into_std();
        let now = now();
        // A timer is late by up to two ticks on a healthy machine; later than that, somebody waited.
        let begun = if now.saturating_duration_since(due) > 2 * TICK {
            due
        } else {
            now
        };
        ticked += 1;
        let until = per_second * ticked / 1000;
        for _ in due_total..until {
            if waiting.get() >= WAITING_MAX {
                tally.note(begun, Err(Failed::Unsent));
                continue;
            }
            waiting.set(waiting.get() + 1);
            let (pool, waiting, tally) = (Rc::clone(&pool), Rc::clone(&waiting), Rc::clone(&tally));
            tokio::task::spawn_local(async move {
                let kept = pool.borrow_mut().pop();
                let answer = ask(load.address, load.connection, kept, LIMIT).await;
                let answer = answer.map(|answer| {
                    pool.borrow_mut().extend(answer.kept);
                    answer.pid
                });
                waiting.set(waiting.get() - 1);
                tally.note(begun, answer);
            });
        }
        due_total = until;
    }
    while waiting.get() > 0 {
        tokio::time::sleep(TICK).await;
    }
}

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(2);
/// How long a client rests after a failure.
const PAUSE: Duration = Duration::from_millis(5);
const TICK: Duration = Duration::from_millis(1);
/// Requests of an open loop that may wait at once.
const WAITING_MAX: usize = 512;
const STOP: usize = usize::MAX;
