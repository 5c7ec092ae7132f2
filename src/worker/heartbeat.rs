//! The worker's signs of life: sent by a task of the main loop, with word of every other loop that is watched.
//!
//! A beat is made by the loop that serves requests and by no helper thread: while the loop is stuck, there is none. What
//! follows from silence is decided in the master.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_rt::Arbiter;
use nix::unistd::gettid;

use crate::clock;
use crate::ipc::ToMaster;
use crate::model::{Heartbeat, LoopBeat};
use crate::worker::context::Worker;

/// The loops of this worker, its main loop first.
#[derive(Debug, Default)]
pub(crate) struct Loops {
    list: Mutex<Vec<Arc<Watched>>>,
}

/// A loop that is watched.
#[derive(Debug)]
struct Watched {
    name: String,
    tid: u32,
    /// When it came round last, in microseconds of this process's clock.
    turned: AtomicU64,
    doing: Mutex<String>,
}

/// A loop could not be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoopError {
    /// This thread runs no loop of actix: call it on an arbiter, for example with `Arbiter::spawn_fn`.
    #[error("this thread runs no actix loop; call it on the arbiter that is to be watched")]
    NoLoop,
    /// There are 64 watched loops already.
    #[error("64 loops are watched already, as many as a heartbeat tells of")]
    TooMany,
}

/// A loop that is watched, for as long as it lives; dropping this changes nothing. Clones are the same loop.
#[derive(Clone, Debug)]
pub struct LoopWatch {
    watched: Arc<Watched>,
}

impl LoopWatch {
    /// Notes what the loop is about to do, at most 128 bytes (a request's id, a route): if it gets stuck, the report that
    /// follows says so, as far as a heartbeat could still tell. Costs a short lock and no message.
    pub fn doing(&self, what: &str) {
        lock(&self.watched.doing).replace_range(.., what);
    }
}

impl Worker {
    /// Watches the loop of this thread: called on an arbiter, also in the factory of an `HttpServer`, which runs on each of
    /// its threads. Every heartbeat of this worker then tells how late that loop is, so that one stuck loop out of several
    /// is seen and named. The main loop is watched from the start, as `main`. Ends by itself with the loop.
    ///
    /// Without heartbeats ([`ClusterBuilder::heartbeat`](crate::ClusterBuilder::heartbeat)) nothing is measured. Names need
    /// not differ; what is longer than 64 bytes is cut.
    ///
    /// # Errors
    /// [`LoopError`].
    pub fn watch_loop(&self, name: &str) -> Result<LoopWatch, LoopError> {
        if Arbiter::try_current().is_none() {
            return Err(LoopError::NoLoop);
        }
        let watched = self.inner.loops.add(name)?;
        let watch = LoopWatch {
            watched: Arc::clone(&watched),
        };
        let registered = Registered {
            worker: self.clone(),
            watched,
        };
        match self.inner.contract.heartbeat {
            // The task, and with it the registration, ends with its loop.
            Some(interval) => drop(actix_rt::spawn(turn(registered, interval / TURNS_PER_BEAT))),
            None => drop(registered),
        }
        Ok(watch)
    }

    /// Says that this worker may be silent for so long: before work that blocks its loop, or between its steps. May be
    /// called from any thread, also from the stuck loop itself, and reaches the master at once. It asks; what is granted
    /// has a cap ([`ClusterBuilder::boot_extension`](crate::ClusterBuilder::boot_extension) on the way to ready, the
    /// plug-in's own afterwards).
    pub fn more_time(&self, time: Duration) {
        self.tell(&ToMaster::MoreTime(time));
        // The task that writes is on the loop that is about to be stuck.
        self.flush(Duration::ZERO);
    }
}

/// The first beat goes out at once, before any user code: a worker that never beat is no worker of this library.
pub(crate) fn begin(worker: &Worker) {
    let Some(interval) = worker.inner.contract.heartbeat else {
        return;
    };
    // The first of at most 64.
    if let Ok(main) = worker.inner.loops.add(MAIN) {
        let n = beat(worker, &main, 0, interval, Duration::ZERO);
        actix_rt::spawn(run(worker.clone(), main, n, interval));
    }
}

/// Beats until the process ends, also while it drains: then the loops still serve, and can still get stuck.
async fn run(worker: Worker, main: Arc<Watched>, mut n: u64, interval: Duration) {
    loop {
        let due = clock::now() + interval;
        tokio::time::sleep(interval).await;
        let late = clock::now().since(due);
        main.turn();
        n = beat(&worker, &main, n, interval, late);
    }
}

/// Sends the next beat; the number of the last one that is on its way. The master takes only the next number, so one that
/// was not sent is not counted.
fn beat(worker: &Worker, main: &Watched, n: u64, interval: Duration, late: Duration) -> u64 {
    let inner = &worker.inner;
    let loops = inner.loops.beats(main, interval, late);
    let heartbeat = Heartbeat::new(n + 1, inner.counters.snapshot().active, loops);
    match inner.outbox.push(&ToMaster::Heartbeat(heartbeat), Vec::new()) {
        Ok(()) => {
            worker.note_beat(n + 1);
            n + 1
        }
        Err(error) => {
            tracing::debug!(err = %error, "heartbeat not sent");
            n
        }
    }
}

async fn turn(registered: Registered, period: Duration) {
    loop {
        registered.watched.turn();
        tokio::time::sleep(period).await;
    }
}

/// Takes the loop off the list when its task is dropped.
struct Registered {
    worker: Worker,
    watched: Arc<Watched>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut list = lock(&self.worker.inner.loops.list);
        list.retain(|other| !Arc::ptr_eq(other, &self.watched));
    }
}

impl Watched {
    fn turn(&self) {
        self.turned.store(micros(clock::now().since_start()), Ordering::Relaxed);
    }
}

impl Loops {
    fn add(&self, name: &str) -> Result<Arc<Watched>, LoopError> {
        let watched = Arc::new(Watched {
            name: name.to_owned(),
            tid: u32::try_from(gettid().as_raw()).unwrap_or(0),
            turned: AtomicU64::new(0),
            doing: Mutex::default(),
        });
        watched.turn();
        let mut list = lock(&self.list);
        if list.len() >= Heartbeat::LOOPS_MAX {
            return Err(LoopError::TooMany);
        }
        list.push(Arc::clone(&watched));
        Ok(watched)
    }

    /// What each loop has to tell. A main loop that was late itself says nothing about the others for that time: the whole
    /// process may have been stopped.
    fn beats(&self, main: &Watched, interval: Duration, main_late: Duration) -> Vec<LoopBeat> {
        let now = micros(clock::now().since_start());
        let due = interval / TURNS_PER_BEAT + main_late;
        let told = |watched: &Arc<Watched>| {
            let late = if std::ptr::eq(&raw const **watched, main) {
                main_late
            } else {
                let since = now.saturating_sub(watched.turned.load(Ordering::Relaxed));
                Duration::from_micros(since).saturating_sub(due)
            };
            LoopBeat::new(&watched.name, watched.tid, late, &lock(&watched.doing))
        };
        lock(&self.list).iter().map(told).collect()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is put in or taken out whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of the loop that sends the beats.
const MAIN: &str = "main";
/// The other loops come round this often between two beats, so that a stuck one is late by most of an interval when the
/// next beat but one looks at it.
const TURNS_PER_BEAT: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_64_loops_are_watched() {
        let loops = Loops::default();
        let first = loops.add("a").unwrap();
        for _ in 1..Heartbeat::LOOPS_MAX {
            loops.add("b").unwrap();
        }
        assert_eq!(loops.add("c").unwrap_err(), LoopError::TooMany);
        let beats = loops.beats(&first, Duration::from_secs(1), Duration::ZERO);
        assert_eq!((beats.len(), beats[0].name.as_str()), (64, "a"));
    }

    #[test]
    fn f_032_a_loop_that_does_not_turn_is_late_and_a_late_main_loop_excuses_the_others() {
        let loops = Loops::default();
        let main = loops.add(MAIN).unwrap();
        let other = loops.add("http").unwrap();
        other.turned.store(0, Ordering::Relaxed);
        let interval = Duration::from_micros(4);
        while clock::now().since_start() < Duration::from_millis(2) {}
        let beats = loops.beats(&main, interval, Duration::ZERO);
        assert_eq!(beats[0].late, Duration::ZERO);
        assert!(beats[1].late >= Duration::from_millis(1));
        // Longer than this process can have run: the other loop has stood still since its start.
        let held_up = Duration::from_secs(100_000);
        let beats = loops.beats(&main, interval, held_up);
        assert_eq!((beats[0].late, beats[1].late), (held_up, Duration::ZERO));
    }
}
