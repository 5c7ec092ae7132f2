//! What a worker drops as it ends is not given back: the share is its slot's, and waits for the slot's next worker.
//!
//! A listener that the worker's future owns is dropped in the future's last turn, before anybody knows that it is the last
//! one. What is dropped in a turn is therefore given back after it, or not at all.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};

use crate::ipc::ToMaster;
use crate::model::ListenKey;
use crate::worker::context::Worker;

/// When listeners are given back.
#[derive(Debug, Default)]
pub(crate) struct Parting {
    stage: Mutex<Stage>,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    AtOnce,
    /// The worker's future has a turn on this thread; what was dropped there meanwhile.
    Turn(ThreadId, Vec<ListenKey>),
    Never,
}

impl Parting {
    fn begin_turn(&self) {
        *self.stage() = Stage::Turn(thread::current().id(), Vec::new());
    }

    /// What was dropped in this turn and is to be given back now; the turn goes on.
    fn take(&self) -> Vec<ListenKey> {
        match &mut *self.stage() {
            Stage::Turn(_, dropped) => std::mem::take(dropped),
            Stage::AtOnce | Stage::Never => Vec::new(),
        }
    }

    /// The turn was not the last one: what is to be given back.
    fn end_turn(&self) -> Vec<ListenKey> {
        let dropped = self.take();
        *self.stage() = Stage::AtOnce;
        dropped
    }

    /// The worker ends.
    pub(crate) fn end(&self) {
        *self.stage() = Stage::Never;
    }

    /// Is this one to be given back now?
    fn dropped(&self, key: &ListenKey) -> bool {
        match &mut *self.stage() {
            Stage::AtOnce => true,
            Stage::Turn(thread, dropped) if *thread == thread::current().id() => {
                dropped.push(key.clone());
                false
            }
            Stage::Turn(..) => true,
            Stage::Never => false,
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        // Each change is one assignment.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// Gives a share back that was dropped, unless that is because the worker ends.
    pub(super) fn give_back(&self, key: &ListenKey) {
        if self.inner.parting.dropped(key) {
            self.tell(&ToMaster::Release { key: key.clone() });
        }
    }

    /// Gives back what waits for the end of the turn: who asks for an address again must not lose it to an older release.
    pub(super) fn give_back_dropped(&self) {
        self.give_back_all(self.inner.parting.take());
    }

    fn give_back_all(&self, keys: Vec<ListenKey>) {
        for key in keys {
            self.tell(&ToMaster::Release { key });
        }
    }
}

/// The worker's future, whose last turn gives nothing back.
pub(crate) struct Main<F> {
    worker: Worker,
    future: F,
}

impl<F> Main<F> {
    pub(crate) const fn new(worker: Worker, future: F) -> Self {
        Self { worker, future }
    }
}

impl<F: Future + Unpin> Future for Main<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let parting = &self.worker.inner.parting;
        parting.begin_turn();
        // A panic leaves the turn open, so it gives nothing back either.
        let polled = Pin::new(&mut self.future).poll(cx);
        let parting = &self.worker.inner.parting;
        if polled.is_ready() {
            parting.end();
        } else {
            self.worker.give_back_all(parting.end_turn());
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ListenKey {
        ListenKey::Named(name.to_owned())
    }

    #[test]
    fn what_is_dropped_in_a_turn_is_given_back_after_it_and_in_the_last_one_never() {
        let parting = Parting::default();
        assert!(parting.dropped(&key("before")));
        parting.begin_turn();
        assert!(!parting.dropped(&key("a")));
        assert_eq!(parting.take(), [key("a")], "somebody asks for an address");
        assert!(!parting.dropped(&key("b")));
        // Another thread drops for reasons of its own.
        let elsewhere = thread::scope(|scope| scope.spawn(|| parting.dropped(&key("elsewhere"))).join());
        assert!(elsewhere.unwrap());
        assert_eq!(parting.end_turn(), [key("b")]);
        assert!(parting.dropped(&key("between")));
        parting.begin_turn();
        assert!(!parting.dropped(&key("c")));
        parting.end();
        assert!(!parting.dropped(&key("d")));
        assert_eq!(parting.take(), []);
    }
}
