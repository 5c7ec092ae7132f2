//! Many requests at once: a closed loop, in which each client asks again when it is answered, or an open one, in which
//! requests come at a rate whatever becomes of them.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix_cluster_benches::{Failure, now};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

use super::{Connection, Failed, Outcome, ask};

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// So many clients, each of which asks as soon as it is answered. A stalled server is asked less, which flatters it.
    Closed(usize),
    /// So many requests a second, evenly spread; latencies count from when a request was due, whenever it was sent.
    Open(u32),
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
    let mut paced = None;
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
            paced = Some(clients.spawn_local(open(load, per_second, Rc::clone(&tally))));
        }
    }
    runtime.block_on(clients);
    if let Some(paced) = paced {
        runtime.block_on(paced)??;
    }
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

    /// A request was sent so long after it was due.
    fn sent(&self, late: Duration) {
        self.phases
            .borrow_mut()
            .last_mut()
            .expect("there is always one")
            .sent(late);
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

/// Requests come when the kernel's timer says so: the runtime's own has steps of a millisecond, so it would be the timer that is measured.
async fn open(load: Load, per_second: u32, tally: Rc<Tally>) -> Result<(), Failure> {
    let pool: Rc<RefCell<Vec<TcpStream>>> = Rc::default();
    let waiting = Rc::new(Cell::new(0_usize));
    let every = Duration::from_secs(1) / per_second.max(1);
    let mut due = now();
    let ticks = ticks(every)?;
    while tally.turn() {
        for _ in 0..passed(&ticks).await? {
            due += every;
            tally.sent(now().saturating_duration_since(due));
            if waiting.get() >= WAITING_MAX {
                tally.note(due, Err(Failed::Unsent));
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
                tally.note(due, answer);
            });
        }
    }
    while waiting.get() > 0 {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// A timer that becomes readable every so often, first after that time.
#[expect(
    deprecated,
    reason = "its successor is unsafe; an `OwnedFd` keeps the promise which that asks for"
)]
fn ticks(every: Duration) -> Result<AsyncFd<OwnedFd>, Failure> {
    let timer = TimerFd::new(
        ClockId::CLOCK_MONOTONIC,
        TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
    )?;
    let every = TimeSpec::from_duration(every);
    timer.set(Expiration::IntervalDelayed(every, every), TimerSetTimeFlags::empty())?;
    Ok(AsyncFd::with_interest(OwnedFd::from(timer), Interest::READABLE)?)
}

/// How often it has expired since the last time this was asked; waits until it has.
async fn passed(ticks: &AsyncFd<OwnedFd>) -> io::Result<u64> {
    loop {
        let mut ready = ticks.readable().await?;
        let mut count = [0; 8];
        // Else it was not readable after all.
        if let Ok(read) = ready.try_io(|timer| Ok(nix::unistd::read(timer, &mut count)?)) {
            return read.map(|_| u64::from_ne_bytes(count));
        }
    }
}

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(2);
/// How long a client rests after a failure.
const PAUSE: Duration = Duration::from_millis(5);
/// Requests of an open loop that may wait at once.
const WAITING_MAX: usize = 512;
const STOP: usize = usize::MAX;
