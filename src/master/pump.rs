//! Feeding actors: takes events out of a queue and hands them to an actor, one by one, until either ends.
//!
//! Not here: where a pump runs. It is a task of its own, and holds up nobody while its actor is busy.

use actix::Recipient;

use crate::events::Events;
use crate::handle::ClusterHandle;
use crate::model::{ClusterEvent, SubscriberLoss};

/// Feeds an actor; tells everybody if the actor is gone.
pub(crate) async fn pump(mut events: Events, actor: Recipient<ClusterEvent>, cluster: ClusterHandle) {
    if let Some(why) = forward(&mut events, &actor).await {
        let name = events.name().to_owned();
        // The queue goes first, so that the news is not for it.
        drop(events);
        cluster.tell_lost(name, why).await;
    }
}

/// Feeds an actor until the subscription ends, or until the actor is gone: then with what became of it.
pub(crate) async fn forward(events: &mut Events, actor: &Recipient<ClusterEvent>) -> Option<SubscriberLoss> {
    while let Some(event) = events.next().await {
        if !actor.connected() {
            return Some(SubscriberLoss::Stopped);
        }
        let seq = event.seq;
        // The next event is for an actor that is done with this one, so its mailbox may be small and a subscription that
        // it ends in its handler is ended.
        if actor.send(event).await.is_err() {
            return Some(SubscriberLoss::Broken { seq });
        }
    }
    None
}
