//! Fan-out of events: one bounded queue for each subscriber, so that a slow one can only hurt itself.
//!
//! What is *not* here: who consumes a queue. A [`Queue`] is drained by an [`Events`](crate::Events) stream or by a pump
//! that feeds an actor; both live on the consumer's thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::Notify;

use crate::model::{ClusterEvent, EventKind, WorkerInfo};

/// What a subscriber wants to hear, and what happens when it is slow.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// Events kept for this subscriber before the oldest is dropped and `Lagged` tells of it. Default 4096, at least 1.
    pub capacity: usize,
    /// Which kinds, and what becomes of messages. Default: everything, and messages are dropped like other events.
    pub interest: Interest,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self {
            capacity: 4096,
            interest: Interest::All,
        }
    }
}

/// Which events a subscriber gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interest {
    /// Everything.
    #[default]
    All,
    /// Everything but `Message` and `Output`: what happens to workers, not what they say.
    Lifecycle,
    /// Messages only, and none is ever dropped: while the queue is half full the channels of workers that talk are not
    /// read, so that a flooding worker is slowed instead (its own sends become `Full`).
    Messages,
    /// Everything, and no message is ever dropped, as for `Messages`. Other events are: what does not fit is announced
    /// by `Lagged`, in its place among the messages.
    AllReliable,
}

impl Interest {
    const fn wants(self, kind: &EventKind) -> bool {
        match self {
            Self::All | Self::AllReliable => true,
            Self::Lifecycle => !matches!(kind, EventKind::Message(_) | EventKind::Output { .. }),
            Self::Messages => matches!(kind, EventKind::Message(_)),
        }
    }

    const fn waits(self) -> bool {
        matches!(self, Self::Messages | Self::AllReliable)
    }
}

/// Every queue of the cluster. One publisher (the supervisor), any number of consumers.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    list: Mutex<List>,
    /// Woken when a queue that messages wait for was drained below half.
    room: Notify,
}

#[derive(Debug, Default)]
struct List {
    queues: Vec<Arc<Queue>>,
    /// Somebody wants messages: without it, messages are counted by nobody and cost nothing.
    messages_wanted: bool,
    finished: bool,
}

impl Subscribers {
    /// A new queue; it gets every event published from now on.
    pub(crate) fn subscribe(&self, options: &SubscribeOptions) -> Arc<Queue> {
        let mut list = lock(&self.list);
        let queue = Arc::new(Queue {
            interest: options.interest,
            capacity: options.capacity.max(1),
            ring: Mutex::new(Ring {
                closed: list.finished,
                ..Ring::default()
            }),
            filled: Notify::new(),
        });
        list.queues.push(Arc::clone(&queue));
        list.messages_wanted |= !matches!(options.interest, Interest::Lifecycle);
        queue
    }

    /// Puts each of `events`, in their order, into every queue that wants it. Never waits.
    pub(crate) fn publish(&self, events: impl Iterator<Item = ClusterEvent>) {
        let mut list = lock(&self.list);
        // A queue nobody else holds has no consumer any more.
        list.queues.retain(|queue| Arc::strong_count(queue) > 1);
        // Most clusters have one consumer of messages: the last queue gets the events themselves, others get copies.
        let Some((last, others)) = list.queues.split_last() else {
            return;
        };
        if others.is_empty() {
            last.push(events.filter(|event| last.interest.wants(&event.kind)));
            return;
        }
        let events: Vec<ClusterEvent> = events.collect();
        for queue in others {
            queue.push(events.iter().filter(|event| queue.interest.wants(&event.kind)).cloned());
        }
        last.push(events.into_iter().filter(|event| last.interest.wants(&event.kind)));
    }

    pub(crate) fn wants_messages(&self) -> bool {
        lock(&self.list).messages_wanted
    }

    /// Resolves when every queue that messages wait for is at most half full.
    pub(crate) async fn room_for_messages(&self) {
        loop {
            let drained = self.room.notified();
            if lock(&self.list).queues.iter().all(|queue| queue.has_room()) {
                return;
            }
            drained.await;
        }
    }

    /// No event will follow: consumers get what is queued, then the end.
    pub(crate) fn finish(&self) {
        let mut list = lock(&self.list);
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
}

/// The events one subscriber has not seen yet.
#[derive(Debug)]
pub(crate) struct Queue {
    interest: Interest,
    capacity: usize,
    ring: Mutex<Ring>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<ClusterEvent>,
    /// The range of dropped sequence numbers that was not announced yet, with the event to build the notice from.
    lagged: Option<(u64, ClusterEvent)>,
    closed: bool,
}

impl Ring {
    fn drop_oldest(&mut self) {
        if let Some(dropped) = self.events.pop_front() {
            let from = self.lagged.as_ref().map_or(dropped.seq, |(from, _)| *from);
            self.lagged = Some((from, dropped));
        }
    }

    /// Puts a notice in the place of `event`, one for each gap between two messages.
    fn skip(&mut self, event: &ClusterEvent) {
        if let Some(EventKind::Lagged { to, .. }) = self.events.back_mut().map(|last| &mut last.kind) {
            *to = event.seq;
            return;
        }
        let (from, to) = (event.seq, event.seq);
        self.events.push_back(ClusterEvent {
            seq: event.seq,
            at: event.at,
            time: event.time,
            worker: None,
            kind: EventKind::Lagged { from, to },
        });
    }
}

impl Queue {
    fn push(&self, events: impl Iterator<Item = ClusterEvent>) {
        let mut ring = lock(&self.ring);
        if ring.closed {
            return;
        }
        let was_empty = ring.events.is_empty();
        for event in events {
            self.admit(&mut ring, event);
        }
        let is_filled = was_empty && !ring.events.is_empty();
        drop(ring);
        if is_filled {
            self.filled.notify_one();
        }
    }

    fn admit(&self, ring: &mut Ring, event: ClusterEvent) {
        if ring.events.len() >= self.capacity {
            // Messages of a waiting subscriber are never dropped: their number is bounded by the readers, which stop at
            // half. Nothing holds back other events, so those are dropped, in their place among the messages.
            if !self.interest.waits() {
                ring.drop_oldest();
            } else if !matches!(event.kind, EventKind::Message(_)) {
                return ring.skip(&event);
            }
        }
        ring.events.push_back(event);
    }

    fn has_room(&self) -> bool {
        !self.interest.waits() || lock(&self.ring).events.len() <= self.capacity / 2
    }

    fn close(&self) {
        lock(&self.ring).closed = true;
        self.filled.notify_one();
    }

    /// The consumer is gone: what is queued is dropped, and nothing is queued any more.
    pub(crate) fn abandon(&self) {
        let mut ring = lock(&self.ring);
        ring.closed = true;
        ring.events.clear();
    }

    /// What is there now: `Ready(true)` with something in `taken`, `Ready(false)` for the end, or `Pending`.
    fn poll_take(&self, taken: &mut VecDeque<ClusterEvent>, subscribers: &Subscribers) -> Poll<bool> {
        let mut ring = lock(&self.ring);
        if let Some((from, last)) = ring.lagged.take() {
            let kind = EventKind::Lagged { from, to: last.seq };
            taken.push_back(ClusterEvent {
                kind,
                worker: None::<WorkerInfo>,
                ..last
            });
        }
        let (before, half) = (ring.events.len(), self.capacity / 2);
        let count = before.min(TAKE_MAX).min(self.capacity.div_ceil(4));
        taken.extend(ring.events.drain(..count));
        let is_drained = self.interest.waits() && before > half && before - count <= half;
        let is_closed = ring.closed;
        drop(ring);
        if is_drained {
            subscribers.drained();
        }
        match (taken.is_empty(), is_closed) {
            (false, _) => Poll::Ready(true),
            (true, true) => Poll::Ready(false),
            (true, false) => Poll::Pending,
        }
    }

    /// Waits for events and moves some of them to `taken`, which must be empty, so that the lock is not taken for each
    /// single one. False after the cluster's last event. Cancel-safe: what was taken is in `taken`.
    pub(crate) async fn take(&self, taken: &mut VecDeque<ClusterEvent>, subscribers: &Subscribers) -> bool {
        loop {
            let filled = self.filled.notified();
            if let Poll::Ready(is_taken) = self.poll_take(taken, subscribers) {
                return is_taken;
            }
            filled.await;
        }
    }
}

/// Events that a consumer takes at once; they no longer count as kept for it.
const TAKE_MAX: usize = 64;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of a consumer cannot leave a queue half-changed: every change is one push or pop.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use super::*;
    use crate::clock;

    fn event(seq: u64) -> ClusterEvent {
        ClusterEvent {
            seq,
            at: clock::now(),
            time: clock::wall(),
            worker: None,
            kind: EventKind::ShutdownStarted,
        }
    }

    fn message(seq: u64) -> ClusterEvent {
        let payload = crate::model::Payload::from_value(&seq).unwrap();
        let kind = EventKind::Message(crate::model::Message::new(payload, None, Vec::new()));
        ClusterEvent { kind, ..event(seq) }
    }

    fn take(queue: &Queue, subscribers: &Subscribers) -> Vec<ClusterEvent> {
        let mut taken = VecDeque::new();
        while let Poll::Ready(true) = queue.poll_take(&mut taken, subscribers) {
            let all_of_it = lock(&queue.ring).events.is_empty();
            if all_of_it {
                break;
            }
        }
        taken.into()
    }

    #[test]
    fn f_160_a_slow_subscriber_loses_the_oldest_and_is_told_which() {
        let subscribers = Subscribers::default();
        let queue = subscribers.subscribe(&SubscribeOptions {
            capacity: 2,
            ..SubscribeOptions::default()
        });
        for seq in 1..=5 {
            subscribers.publish(once(event(seq)));
        }
        let taken = take(&queue, &subscribers);
        assert!(matches!(taken[0].kind, EventKind::Lagged { from: 1, to: 3 }));
        assert_eq!(taken[1..].iter().map(|event| event.seq).collect::<Vec<_>>(), [4, 5]);
        assert!(take(&queue, &subscribers).is_empty());
    }

    #[test]
    fn f_161_a_subscriber_that_is_gone_is_forgotten_at_the_next_event() {
        let subscribers = Subscribers::default();
        drop(subscribers.subscribe(&SubscribeOptions::default()));
        subscribers.publish(once(event(1)));
        assert!(lock(&subscribers.list).queues.is_empty());
    }

    #[actix_rt::test]
    async fn messages_wait_for_a_reliable_subscriber_and_are_not_dropped() {
        let subscribers = Subscribers::default();
        let queue = subscribers.subscribe(&SubscribeOptions {
            capacity: 4,
            interest: Interest::Messages,
        });
        for seq in 1..=6 {
            subscribers.publish(once(message(seq)));
        }
        let mut room = std::pin::pin!(subscribers.room_for_messages());
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, room.as_mut())
                .await
                .is_err()
        );
        for seq in 1..=4 {
            let mut taken = VecDeque::new();
            assert!(queue.take(&mut taken, &subscribers).await);
            assert_eq!(taken[0].seq, seq);
        }
        room.await;
        let mut taken = VecDeque::new();
        assert!(queue.take(&mut taken, &subscribers).await);
        assert_eq!(taken[0].seq, 5);
    }

    #[test]
    fn f_160_a_reliable_subscriber_that_is_stuck_costs_bounded_memory_and_no_message() {
        let subscribers = Subscribers::default();
        let queue = subscribers.subscribe(&SubscribeOptions {
            capacity: 2,
            interest: Interest::AllReliable,
        });
        subscribers.publish((1..=1000).map(event));
        subscribers.publish(once(message(1001)));
        subscribers.publish(once(event(1002)));
        assert!(lock(&queue.ring).events.len() < 10);
        let taken = take(&queue, &subscribers);
        assert_eq!((taken[0].seq, taken[1].seq), (1, 2));
        assert!(
            matches!(taken[2].kind, EventKind::Lagged { from: 3, to: 1000 }),
            "{:?}",
            taken[2]
        );
        assert!(matches!(taken[3].kind, EventKind::Message(_)));
        assert!(
            matches!(taken[4].kind, EventKind::Lagged { from: 1002, to: 1002 }),
            "{:?}",
            taken[4]
        );
        assert_eq!(taken.len(), 5);
    }

    #[actix_rt::test]
    async fn i_26_a_queue_that_is_never_empty_leaves_its_thread_to_others() {
        let subscribers = Arc::new(Subscribers::default());
        let queue = subscribers.subscribe(&SubscribeOptions::default());
        let mut events = crate::Events::new(queue, Arc::clone(&subscribers));
        subscribers.publish((1..=4_000).map(event));
        let other = actix_rt::spawn(async {});
        // A task has some hundred turns before the runtime asks it to wait.
        for _ in 0..500 {
            events.next().await.unwrap();
        }
        assert!(other.is_finished(), "nobody else had a turn");
    }

    #[actix_rt::test]
    async fn the_end_comes_after_what_is_queued() {
        let subscribers = Subscribers::default();
        let queue = subscribers.subscribe(&SubscribeOptions::default());
        subscribers.publish(once(event(1)));
        subscribers.finish();
        let mut taken = VecDeque::new();
        assert!(queue.take(&mut taken, &subscribers).await);
        assert_eq!(taken.pop_front().unwrap().seq, 1);
        assert!(!queue.take(&mut taken, &subscribers).await);
    }
}
