//! What a worker counts about its own work. Sending the numbers to the master is not here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::model::WorkerStats;

/// The worker's counters: requests begun, requests in progress, errors.
///
/// Applications served by the worker are counted by themselves. Servers of your own count with [`active_request`]
/// (or [`add_requests`] for work that has no duration) and [`error`]. Counting costs an atomic addition.
///
/// [`active_request`]: Self::active_request
/// [`add_requests`]: Self::add_requests
/// [`error`]: Self::error
#[derive(Clone, Debug, Default)]
pub struct Counters {
    shared: Arc<Shared>,
}

/// A request in progress; it ends when this is dropped.
#[derive(Debug)]
#[must_use = "the request ends when this is dropped"]
pub struct ActiveRequest {
    counters: Counters,
}

#[derive(Debug, Default)]
struct Shared {
    started: AtomicU64,
    finished: AtomicU64,
    errors: AtomicU64,
    draining: AtomicBool,
    dirty: AtomicBool,
    changed: Notify,
}

impl Counters {
    /// Counts a request from now until the returned value is dropped.
    pub fn active_request(&self) -> ActiveRequest {
        self.request_started();
        ActiveRequest { counters: self.clone() }
    }

    /// Counts a request as begun. Each must be matched by one [`request_finished`](Self::request_finished);
    /// [`active_request`](Self::active_request) cannot forget it.
    pub fn request_started(&self) {
        self.add(&self.shared.started, 1);
    }

    /// Counts a begun request as finished.
    pub fn request_finished(&self) {
        self.add(&self.shared.finished, 1);
    }

    /// Counts `n` requests that were begun and finished.
    pub fn add_requests(&self, n: u64) {
        // Started first: a reader in between sees too many active, never fewer than none.
        self.add(&self.shared.started, n);
        self.add(&self.shared.finished, n);
    }

    /// Counts an error.
    pub fn error(&self) {
        self.add(&self.shared.errors, 1);
    }

    /// The numbers now.
    #[must_use]
    pub fn snapshot(&self) -> WorkerStats {
        // Finished is read first, so that a request which ends between the two reads is active and not negative.
        let finished = self.shared.finished.load(Ordering::SeqCst);
        let requests = self.shared.started.load(Ordering::SeqCst);
        WorkerStats {
            requests,
            errors: self.shared.errors.load(Ordering::SeqCst),
            active: requests.saturating_sub(finished),
            draining: self.shared.draining.load(Ordering::SeqCst),
        }
    }

    /// The worker accepts nothing any more.
    pub(crate) fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
    }

    /// Resolves when something was counted since this resolved last; for the one task that reports the numbers.
    pub(crate) async fn changed(&self) {
        while !self.shared.dirty.swap(false, Ordering::SeqCst) {
            self.shared.changed.notified().await;
        }
    }

    /// The reporter clears `dirty` and then reads the numbers; here the number is raised and then `dirty` is read. With
    /// `SeqCst` one of the two sees the other, so no change goes unreported, and the usual case (already dirty) costs
    /// the addition and a load.
    fn add(&self, counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::SeqCst);
        let shared = &*self.shared;
        if !shared.dirty.load(Ordering::SeqCst) && !shared.dirty.swap(true, Ordering::SeqCst) {
            shared.changed.notify_one();
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.counters.request_finished();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn numbers_add_up() {
        let counters = Counters::default();
        let request = counters.active_request();
        counters.add_requests(3);
        counters.error();
        let stats = counters.snapshot();
        assert_eq!((stats.requests, stats.active, stats.errors), (4, 1, 1));
        drop(request);
        assert_eq!(counters.snapshot().active, 0);
    }

    #[test]
    fn a_change_is_reported_once_and_silence_never() {
        let counters = Counters::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut first = pin!(counters.changed());
        assert!(first.as_mut().poll(&mut cx).is_pending());
        counters.add_requests(2);
        counters.error();
        assert!(first.as_mut().poll(&mut cx).is_ready());
        let mut second = pin!(counters.changed());
        assert!(second.as_mut().poll(&mut cx).is_pending(), "nothing since");
        counters.error();
        assert!(second.as_mut().poll(&mut cx).is_ready());
    }
}
