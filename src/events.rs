//! A stream of the cluster's events, for whoever is not an actor.

use std::collections::VecDeque;
use std::sync::Arc;

use actix::Recipient;

use crate::master::{self, Queue, Subscribers};
use crate::model::{ClusterEvent, SubscriberLoss};
use crate::subscription::{SubscribeOptions, Subscription};

/// The events of a cluster from the moment of subscription, in order.
///
/// Can be moved to any thread and any runtime. Dropping it ends the subscription.
#[derive(Debug)]
#[must_use = "events that nobody takes are dropped"]
pub struct Events {
    queue: Arc<Queue>,
    subscribers: Arc<Subscribers>,
    since: u64,
    /// Taken out of the queue and not given to the caller yet; shared with the queues of others.
    taken: VecDeque<Arc<ClusterEvent>>,
}

impl Events {
    pub(crate) fn new(subscribers: &Arc<Subscribers>, options: &SubscribeOptions) -> Self {
        let (queue, since) = subscribers.subscribe(options);
        Self {
            queue,
            subscribers: Arc::clone(subscribers),
            since,
            taken: VecDeque::new(),
        }
    }

    /// The number of the last event before the subscription: what is replayed has this number or a lower one, everything
    /// later a higher one.
    #[must_use]
    pub const fn since(&self) -> u64 {
        self.since
    }

    /// What the subscription is called; see [`SubscribeOptions::name`].
    #[must_use]
    pub fn name(&self) -> &str {
        self.queue.name()
    }

    pub(crate) fn subscription(&self) -> Subscription {
        Subscription::new(
            Arc::downgrade(&self.queue),
            Arc::downgrade(&self.subscribers),
            self.since,
        )
    }

    /// Hands every event to an actor, each when the one before was handled, until the cluster's last event or until the
    /// actor is gone; the answer is what became of it then. Runs on the thread that awaits it.
    ///
    /// With [`ClusterHandle::follow`](crate::ClusterHandle::follow) an actor can be given a snapshot first.
    pub async fn send_to(mut self, actor: &Recipient<ClusterEvent>) -> Option<SubscriberLoss> {
        master::forward(&mut self, actor).await
    }

    /// The next event; `None` after the cluster's last one. Cancel-safe: a dropped future has taken nothing.
    pub async fn next(&mut self) -> Option<ClusterEvent> {
        // A worker that floods keeps the queue filled: whoever takes from it in a loop must still let other tasks of its
        // thread have their turn, after so many events and not after so many batches of them.
        tokio::task::coop::consume_budget().await;
        if self.queue.is_abandoned() {
            self.taken.clear();
            return None;
        }
        if self.taken.is_empty() && !self.queue.take(&mut self.taken, &self.subscribers).await {
            return None;
        }
        self.taken.pop_front().map(Arc::unwrap_or_clone)
    }

    /// Events that can be had without waiting, as far as they were taken out of the queue: what came since is not among them.
    pub(crate) fn at_once(&self) -> usize {
        self.taken.len()
    }

    /// The next of those.
    pub(crate) fn next_at_once(&mut self) -> Option<ClusterEvent> {
        self.taken.pop_front().map(Arc::unwrap_or_clone)
    }

    /// Would nobody notice if several events were handed on before the first is done with? Whoever keeps a
    /// [`Subscription`] may end it with the event at hand, and what was taken from some queues is not replaced any more.
    pub(crate) fn may_run_ahead(&self) -> bool {
        Arc::weak_count(&self.queue) == 0 && self.queue.keeps_what_came()
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
        let subscribers = Arc::new(Subscribers::new(0));
        let mut events = Events::new(&subscribers, &SubscribeOptions::default());
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
