//! Fan-out of events: one bounded queue for each subscriber, so that a slow one can only hurt itself; and the memory of
//! the last events, for whoever subscribes late.
//!
//! What is *not* here: what a queue does when it is full (`queue.rs`), and who numbers events (`publisher.rs`).

use std::collections::VecDeque;
use std::iter::once;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::master::Queue;
use crate::model::{ClusterEvent, Kind, Kinds};
use crate::subscription::SubscribeOptions;

/// Every queue of the cluster. One publisher (the supervisor), any number of consumers.
#[derive(Debug)]
pub(crate) struct Subscribers {
    list: Mutex<List>,
    /// Woken when a queue that messages wait for was drained below half.
    room: Notify,
}

#[derive(Debug)]
struct List {
    queues: Vec<Arc<Queue>>,
    /// Somebody wants messages: without it, messages are counted by nobody and cost nothing.
    messages_wanted: bool,
    history: History,
    /// The number of the last event.
    seq: u64,
    /// Subscribers so far, for their names.
    count: u64,
    finished: bool,
}

impl Subscribers {
    /// Nobody yet; the last `history` events are remembered.
    pub(crate) fn new(history: usize) -> Self {
        let list = List {
            queues: Vec::new(),
            messages_wanted: false,
            history: History::new(history),
            seq: 0,
            count: 0,
            finished: false,
        };
        Self {
            list: Mutex::new(list),
            room: Notify::new(),
        }
    }

    /// A new queue. It holds what is to be replayed and gets every event published from now on; the number is that of the
    /// last event before it.
    pub(crate) fn subscribe(&self, options: &SubscribeOptions) -> (Arc<Queue>, u64) {
        let mut list = self.list();
        list.count += 1;
        let name = options.name.clone();
        let name = name.unwrap_or_else(|| format!("subscriber {}", list.count));
        let earlier = list.history.last(options.replay, |event| options.filter.wants(event));
        let queue = Arc::new(Queue::new(options, name, earlier, list.finished));
        list.queues.push(Arc::clone(&queue));
        list.messages_wanted |= queue.filter.wants_any(Kind::Message.into());
        (queue, list.seq)
    }

    /// Puts each of `events`, in their order, into every queue that wants it. Never waits, and copies no event: the queues
    /// share it. Each queue's lock is taken once, and its consumer woken at most once, for all of them.
    pub(crate) fn publish(&self, events: impl Iterator<Item = ClusterEvent>) {
        let mut list = self.list();
        list.forget_the_gone();
        let List {
            queues, history, seq, ..
        } = &mut *list;
        let mut events = events.map(|event| {
            *seq = event.seq;
            let event = Arc::new(event);
            history.note(&event);
            event
        });
        let (Some(first), second) = (events.next(), events.next()) else {
            return;
        };
        // Most events come alone, so they get by without a list of them.
        let row: Vec<Arc<ClusterEvent>>;
        let rest = match second {
            None => &[][..],
            Some(second) => {
                row = once(second).chain(events).collect();
                &row
            }
        };
        for queue in queues {
            let wanted = once(&first).chain(rest).filter(|event| queue.filter.wants(event));
            queue.push(wanted.cloned());
        }
    }

    pub(crate) fn wants_messages(&self) -> bool {
        self.list().messages_wanted
    }

    /// Resolves when every queue that messages wait for is at most half full.
    pub(crate) async fn room_for_messages(&self) {
        loop {
            let drained = self.room.notified();
            if self.list().queues.iter().all(|queue| queue.has_room()) {
                return;
            }
            drained.await;
        }
    }

    /// No event will follow: consumers get what is queued, then the end.
    pub(crate) fn finish(&self) {
        let mut list = self.list();
        list.finished = true;
        for queue in list.queues.drain(..) {
            queue.close();
        }
        self.room.notify_waiters();
    }

    /// A consumer took something or left; called by the consumer's side.
    pub(crate) fn drained(&self) {
        self.room.notify_waiters();
    }

    fn list(&self) -> MutexGuard<'_, List> {
        // No user code runs under the lock, so a panic cannot leave the list half-changed.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    /// A queue nobody else holds has no consumer any more.
    fn forget_the_gone(&mut self) {
        let before = self.queues.len();
        self.queues.retain(|queue| Arc::strong_count(queue) > 1);
        if self.queues.len() < before {
            let wants = |queue: &Arc<Queue>| queue.filter.wants_any(Kind::Message.into());
            self.messages_wanted = self.queues.iter().any(wants);
        }
    }
}

/// The last events, oldest first. Messages and printed lines are not among them: they are large, may carry descriptors,
/// and workers can make as many as they like.
#[derive(Debug)]
struct History {
    events: VecDeque<Arc<ClusterEvent>>,
    max: usize,
    bytes: usize,
}

impl History {
    const fn new(max: usize) -> Self {
        Self {
            events: VecDeque::new(),
            max,
            bytes: 0,
        }
    }

    fn note(&mut self, event: &Arc<ClusterEvent>) {
        if self.max == 0 || !Kinds::LIFECYCLE.contains(event.kind.kind()) {
            return;
        }
        self.bytes += event.held_bytes();
        self.events.push_back(Arc::clone(event));
        while self.events.len() > self.max || self.bytes > HISTORY_BYTES {
            let Some(oldest) = self.events.pop_front() else { return };
            self.bytes -= oldest.held_bytes();
        }
    }

    /// The last `count` for which `wanted` says yes.
    fn last(&self, count: usize, wanted: impl Fn(&ClusterEvent) -> bool) -> impl Iterator<Item = Arc<ClusterEvent>> {
        let newest = self.events.iter().rev().filter(|event| wanted(event)).take(count);
        let newest: Vec<Arc<ClusterEvent>> = newest.cloned().collect();
        newest.into_iter().rev()
    }
}

/// Texts of errors that the history holds, in bytes; one that is longer alone is not remembered.
const HISTORY_BYTES: usize = 1 << 20;

#[cfg(test)]
#[path = "subscribers_tests.rs"]
mod tests;
