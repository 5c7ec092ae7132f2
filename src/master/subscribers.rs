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
    /// Everything, and no message is ever dropped, as for `Messages`.
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

    /// Puts `event` into every queue that wants it. Never waits.
    pub(crate) fn publish(&self, event: &ClusterEvent) {
        let mut list = lock(&self.list);
        // A queue nobody else holds has no consumer any more.
        list.queues.retain(|queue| Arc::strong_count(queue) > 1);
        for queue in &list.queues {
            if queue.interest.wants(&event.kind) {
                queue.push(event.clone());
            }
        }
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

impl Queue {
    fn push(&self, event: ClusterEvent) {
        let mut ring = lock(&self.ring);
        if ring.closed {
            return;
        }
        // Messages of a waiting subscriber are never dropped: their number is bounded by the readers, which stop at half.
        let exempt = self.interest.waits();
        if ring.events.len() >= self.capacity
            && !exempt
            && let Some(dropped) = ring.events.pop_front()
        {
            let from = ring.lagged.as_ref().map_or(dropped.seq, |(from, _)| *from);
            ring.lagged = Some((from, dropped));
        }
        let was_empty = ring.events.is_empty();
        ring.events.push_back(event);
        drop(ring);
        if was_empty {
            self.filled.notify_one();
        }
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

    /// What is there now: an event, the end, or `Pending`.
    fn poll_pop(&self) -> Poll<Option<ClusterEvent>> {
        let mut ring = lock(&self.ring);
        if let Some((from, last)) = ring.lagged.take() {
            let kind = EventKind::Lagged { from, to: last.seq };
            return Poll::Ready(Some(ClusterEvent {
                kind,
                worker: None::<WorkerInfo>,
                ..last
            }));
        }
        match ring.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if ring.closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    /// The next event; `None` after the cluster's last one.
    pub(crate) async fn next(&self, subscribers: &Subscribers) -> Option<ClusterEvent> {
        // A worker that floods keeps the queue filled: whoever takes from it in a loop must still let other tasks of its
        // thread have their turn.
        tokio::task::coop::consume_budget().await;
        loop {
            let filled = self.filled.notified();
            if let Poll::Ready(event) = self.poll_pop() {
                if self.interest.waits() && lock(&self.ring).events.len() == self.capacity / 2 {
                    subscribers.drained();
                }
                return event;
            }
            filled.await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of a consumer cannot leave a queue half-changed: every change is one push or pop.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
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

    fn take(queue: &Queue) -> Option<ClusterEvent> {
        match queue.poll_pop() {
            Poll::Ready(event) => event,
            Poll::Pending => None,
        }
    }

    #[test]
    fn f_160_a_slow_subscriber_loses_the_oldest_and_is_told_which() {
        let subscribers = Subscribers::default();
        let queue = subscribers.subscribe(&SubscribeOptions {
            capacity: 2,
            ..SubscribeOptions::default()
        });
        for seq in 1..=5 {
            subscribers.publish(&event(seq));
        }
        assert!(matches!(
            take(&queue).unwrap().kind,
            EventKind::Lagged { from: 1, to: 3 }
        ));
        assert_eq!(take(&queue).unwrap().seq, 4);
        assert_eq!(take(&queue).unwrap().seq, 5);
        assert!(take(&queue).is_none());
    }

    #[test]
    fn f_161_a_subscriber_that_is_gone_is_forgotten_at_the_next_event() {
        let subscribers = Subscribers::default();
        drop(subscribers.subscribe(&SubscribeOptions::default()));
        subscribers.publish(&event(1));
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
            subscribers.publish(&message(seq));
        }
        let mut room = std::pin::pin!(subscribers.room_for_messages());
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, room.as_mut())
                .await
                .is_err()
        );
        for seq in 1..=4 {
            assert_eq!(queue.next(&subscribers).await.unwrap().seq, seq);
        }
        room.await;
        assert_eq!(queue.next(&subscribers).await.unwrap().seq, 5);
    }

    #[actix_rt::test]
    async fn i_26_a_queue_that_is_never_empty_leaves_its_thread_to_others() {
        let subscribers = Subscribers::default();
        let queue = subscribers.subscribe(&SubscribeOptions::default());
        subscribers.publish(&event(0));
        let other = actix_rt::spawn(async {});
        let mut taken = 0_u64;
        while !other.is_finished() {
            assert!(taken < 1_000, "nobody else had a turn");
            taken += 1;
            subscribers.publish(&event(taken));
            assert!(queue.next(&subscribers).await.is_some());
        }
    }

    #[actix_rt::test]
    async fn the_end_comes_after_what_is_queued() {
        let subscribers = Subscribers::default();
        let queue = subscribers.subscribe(&SubscribeOptions::default());
        subscribers.publish(&event(1));
        subscribers.finish();
        assert_eq!(queue.next(&subscribers).await.unwrap().seq, 1);
        assert!(queue.next(&subscribers).await.is_none());
    }
}
