//! A stream of the cluster's events, for whoever is not an actor.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::master::{Queue, Subscribers};
use crate::model::ClusterEvent;

/// The events of a cluster from the moment of subscription, in order.
///
/// Can be moved to any thread and any runtime. Dropping it ends the subscription.
#[derive(Debug)]
#[must_use = "events that nobody takes are dropped"]
pub struct Events {
    queue: Arc<Queue>,
    subscribers: Arc<Subscribers>,
    /// Taken out of the queue and not given to the caller yet.
    taken: VecDeque<ClusterEvent>,
}

impl Events {
    pub(crate) const fn new(queue: Arc<Queue>, subscribers: Arc<Subscribers>) -> Self {
        Self {
            queue,
            subscribers,
            taken: VecDeque::new(),
        }
    }

    /// The next event; `None` after the cluster's last one. Cancel-safe: a dropped future has taken nothing.
    pub async fn next(&mut self) -> Option<ClusterEvent> {
        // A worker that floods keeps the queue filled: whoever takes from it in a loop must still let other tasks of its
        // thread have their turn, after so many events and not after so many batches of them.
        tokio::task::coop::consume_budget().await;
        if self.taken.is_empty() && !self.queue.take(&mut self.taken, &self.subscribers).await {
            return None;
        }
        self.taken.pop_front()
    }

    /// The next event for which `wanted` says yes; the others are dropped.
    pub async fn next_where(&mut self, mut wanted: impl FnMut(&ClusterEvent) -> bool) -> Option<ClusterEvent> {
        loop {
            let event = self.next().await?;
            if wanted(&event) {
                return Some(event);
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.queue.abandon();
        self.subscribers.drained();
    }
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use super::*;
    use crate::clock;
    use crate::master::SubscribeOptions;
    use crate::model::EventKind;

    fn event(seq: u64) -> ClusterEvent {
        ClusterEvent {
            seq,
            at: clock::now(),
            time: clock::wall(),
            worker: None,
            kind: EventKind::ShutdownStarted,
        }
    }

    #[actix_rt::test]
    async fn i_26_a_queue_that_is_never_empty_leaves_its_thread_to_others() {
        let subscribers = Arc::new(Subscribers::default());
        let queue = subscribers.subscribe(&SubscribeOptions::default());
        let mut events = Events::new(queue, Arc::clone(&subscribers));
        let other = actix_rt::spawn(async {});
        for seq in 1..=1_000 {
            subscribers.publish(once(event(seq)));
            assert!(events.next().await.is_some());
            if other.is_finished() {
                return;
            }
        }
        panic!("nobody else had a turn");
    }
}
