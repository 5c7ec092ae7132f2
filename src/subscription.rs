//! How somebody subscribes: what is wanted, how much may wait, and what gives way when too much waits.
//!
//! Not here: the queues themselves (`master/queue.rs`) and who feeds them.

use std::sync::Weak;

use actix::Recipient;
use actix_rt::ArbiterHandle;

use crate::error::CommandError;
use crate::events::Events;
use crate::handle::ClusterHandle;
use crate::master::{Command, Queue, Subscribers};
use crate::model::{ClusterEvent, ClusterSnapshot, EventFilter, Kind, Kinds, SubscriberLoss};

/// What a subscriber wants to hear, and what happens when it is slow.
///
/// ```
/// use actix_cluster::{EventFilter, Kind, SubscribeOptions, WhenFull};
///
/// let options = SubscribeOptions::new()
///     .name("mailer")
///     .filter(EventFilter::kinds([Kind::Exit, Kind::GaveUp]))
///     .capacity(100);
/// # let _ = (options, WhenFull::Latest);
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until somebody subscribes with them"]
pub struct SubscribeOptions {
    pub(crate) name: Option<String>,
    pub(crate) filter: EventFilter,
    pub(crate) capacity: usize,
    pub(crate) capacity_bytes: usize,
    pub(crate) when_full: WhenFull,
    pub(crate) replay: usize,
    pub(crate) thread: PlugInThread,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl SubscribeOptions {
    /// Everything, 4,096 events may wait, then the oldest is dropped and [`Lagged`](crate::EventKind::Lagged) tells.
    pub const fn new() -> Self {
        Self {
            name: None,
            filter: EventFilter::all(),
            capacity: 4096,
            capacity_bytes: 16 << 20,
            when_full: WhenFull::DropOldest,
            replay: 0,
            thread: PlugInThread::Own,
        }
    }

    /// All but messages and printed lines: what happens to workers, not what they say.
    pub fn lifecycle() -> Self {
        Self::new().filter(EventFilter::lifecycle())
    }

    /// Messages only, and none is ever dropped: with [`WhenFull::HoldBack`].
    pub fn messages() -> Self {
        let messages = EventFilter::kinds(Kind::Message);
        Self::new().filter(messages).when_full(WhenFull::HoldBack)
    }

    /// What it is called in logs and in [`SubscriberLost`](crate::EventKind::SubscriberLost). Default: the type of the
    /// actor where the builder knows it, else `subscriber` and a number. Need not be unique.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Which events. Asked in the master before an event is queued, so what is not wanted costs next to nothing.
    /// Default: all.
    pub fn filter(mut self, filter: EventFilter) -> Self {
        self.filter = filter;
        self
    }

    /// Events that may wait for this subscriber. Default 4,096, at least 1.
    pub const fn capacity(mut self, events: usize) -> Self {
        self.capacity = events;
        self
    }

    /// Bytes of messages and printed lines that may wait for this subscriber, besides the number of events; a single
    /// event is taken whatever its size. Default 16 MiB.
    pub const fn capacity_bytes(mut self, bytes: usize) -> Self {
        self.capacity_bytes = bytes;
        self
    }

    /// What gives way when as much waits as may. Default: [`WhenFull::DropOldest`].
    pub const fn when_full(mut self, policy: WhenFull) -> Self {
        self.when_full = policy;
        self
    }

    /// Begins with the last `events` events that were published before the subscription, as far as they pass the filter
    /// and the master remembers them (see [`ClusterBuilder::event_history`](crate::ClusterBuilder::event_history)). Then
    /// comes every later one. Default 0.
    pub const fn replay(mut self, events: usize) -> Self {
        self.replay = events;
        self
    }

    /// For plug-ins given to the builder: which thread it runs on. Default: one of its own.
    pub const fn thread(mut self, thread: PlugInThread) -> Self {
        self.thread = thread;
        self
    }
}

/// What gives way when a subscriber is slower than the events.
///
/// Whatever it is: supervision does not wait and other subscribers notice nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// The oldest event is dropped, and one `Lagged` tells the range that is missing. Every number is accounted for:
    /// the subscriber gets the event, or it lies in exactly one `Lagged`, or the filter did not want it.
    #[default]
    DropOldest,
    /// For what is worth knowing only in its newest form. An event of these kinds replaces the one of the same kind and
    /// worker that still waits, at all times and not only when the queue is full; replaced ones are *not* announced. All
    /// else is as with `DropOldest`: a number that is missing and lies in no `Lagged` was replaced by a later event of
    /// its kind and worker, which the subscriber gets.
    Coalesce(Kinds),
    /// Only the newest event waits; earlier ones are replaced and *not* announced.
    Latest,
    /// No message is ever dropped: while the queue is half full the channels of workers that talk are not read, so that
    /// a flooding worker is slowed instead (its own sends become `Full`). Of other events what does not fit is dropped
    /// and announced by `Lagged`, in its place among the messages.
    HoldBack,
}

/// The thread of a plug-in that was given to the builder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlugInThread {
    /// One of its own: whatever it does to it, it does to itself. Costs some 44 KiB of memory and 4 descriptors.
    #[default]
    Own,
    /// One for all plug-ins that say so, and for verdicts on canaries: cheaper, and one that blocks blocks the others.
    Shared,
}

/// A running subscription of an actor. Dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Subscription {
    queue: Weak<Queue>,
    subscribers: Weak<Subscribers>,
    since: u64,
}

impl Subscription {
    pub(crate) const fn new(queue: Weak<Queue>, subscribers: Weak<Subscribers>, since: u64) -> Self {
        Self {
            queue,
            subscribers,
            since,
        }
    }

    /// The number of the last event before the subscription: what is replayed has this number or a lower one, everything
    /// later a higher one.
    #[must_use]
    pub const fn since(&self) -> u64 {
        self.since
    }

    /// Ends it. The event that is being handled is the last one, if this is called by its handler; called from elsewhere,
    /// one more may be on its way. Workers that were held back for it are read again at once, whatever its handler is at.
    pub fn end(&self) {
        if let Some(queue) = self.queue.upgrade() {
            queue.abandon();
        }
        if let Some(subscribers) = self.subscribers.upgrade() {
            subscribers.drained();
        }
    }

    /// Does it still run? No after [`end`](Self::end), when its actor is gone, and after the cluster's last event.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.queue.upgrade().is_some_and(|queue| !queue.is_abandoned())
    }
}

#[expect(
    clippy::must_use_candidate,
    reason = "a subscription runs on whether somebody keeps its handle or not"
)]
impl ClusterHandle {
    /// Every event from now on, with the default options.
    pub fn events(&self) -> Events {
        self.events_with(&SubscribeOptions::default())
    }

    /// [`events`](Self::events) with a filter, a queue or a name of one's own.
    pub fn events_with(&self, options: &SubscribeOptions) -> Events {
        Events::new(&self.shared.subscribers, options)
    }

    /// The state of the cluster after event number [`ClusterSnapshot::seq`], and every event after that one: nothing is
    /// missing between the two and nothing is in both, also in the middle of a storm. What is
    /// [replayed](SubscribeOptions::replay) comes first and has numbers up to the snapshot's.
    ///
    /// # Errors
    /// [`CommandError::Gone`].
    pub async fn follow(&self, options: &SubscribeOptions) -> Result<(ClusterSnapshot, Events), CommandError> {
        let options = Box::new(options.clone());
        self.ask(|reply| Command::Follow { options, reply }).await
    }

    /// Sends every event from now on to an actor. Its mailbox may be small and the actor slow: events wait in a bounded
    /// queue, and what does not fit is announced by `Lagged`. In its mailbox is one, and in a flood up to eight, as long as it
    /// is done with them within 10 ms and nobody keeps the `Subscription`.
    /// An actor that panics or is stopped is no longer fed, and [`SubscriberLost`](crate::EventKind::SubscriberLost) tells.
    /// When the cluster has ended, it has one more second for what is still queued, as plug-ins have.
    pub fn subscribe(&self, actor: Recipient<ClusterEvent>) -> Subscription {
        self.subscribe_with(actor, &SubscribeOptions::default())
    }

    /// [`subscribe`](Self::subscribe) with a filter, a queue or a name of one's own. The actor runs where it was started.
    pub fn subscribe_with(&self, actor: Recipient<ClusterEvent>, options: &SubscribeOptions) -> Subscription {
        self.subscribe_on(&self.shared.pumps, actor, options)
    }

    /// [`subscribe_with`](Self::subscribe_with), fed from this thread: the actor's own, if it is to be fed fast and
    /// without a step from thread to thread.
    pub fn subscribe_on(
        &self,
        thread: &ArbiterHandle,
        actor: Recipient<ClusterEvent>,
        options: &SubscribeOptions,
    ) -> Subscription {
        let events = self.events_with(options);
        let subscription = events.subscription();
        let (cluster, alive) = (self.clone(), self.shared.consumers.upgrade());
        // If the thread is gone, so are the events: the subscription has ended.
        thread.spawn(async move {
            crate::master::pump(events, actor, cluster).await;
            drop(alive);
        });
        subscription
    }

    /// Lets everybody know that a subscriber is gone.
    pub(crate) async fn tell_lost(&self, name: String, why: SubscriberLoss) {
        // A cluster that has ended has nobody to tell.
        self.shared
            .commands
            .send(Command::SubscriberLost { name, why })
            .await
            .ok();
    }
}
