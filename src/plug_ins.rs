//! Consumers of events that are given to the builder: they run in the master, each on a thread of its own.

use std::pin::Pin;

use actix::{Actor, Addr, Handler};

use crate::builder::ClusterBuilder;
use crate::events::Events;
use crate::guard;
use crate::handle::ClusterHandle;
use crate::model::{ClusterEvent, EventKind, Message, SubscriberLoss};
use crate::subscription::SubscribeOptions;
use crate::worker_ref::WorkerRef;

/// A consumer of events that lives in the master, on its own thread or the plug-ins' shared one.
pub(crate) struct PlugIn {
    pub(crate) options: SubscribeOptions,
    pub(crate) start: PlugInStart,
}

/// Starts a consumer on its thread; the future ends with the last event, or with what became of the consumer.
pub(crate) type PlugInStart =
    Box<dyn FnOnce(ClusterHandle, Events) -> Pin<Box<dyn Future<Output = Option<SubscriberLoss>>>> + Send>;

impl ClusterBuilder {
    /// Starts an actor in the master and sends it every event from the first one on.
    ///
    /// `start` is called on a thread of the plug-in's own, and `Actor::start` in it lets the actor live there: one that
    /// blocks delays neither supervision nor other plug-ins. If it panics, or its actor ends, it is no longer fed and
    /// [`SubscriberLost`](EventKind::SubscriberLost) tells.
    pub fn subscribe<A, F>(self, start: F) -> Self
    where
        A: Actor<Context = actix::Context<A>> + Handler<ClusterEvent>,
        F: FnOnce(ClusterHandle) -> Addr<A> + Send + 'static,
    {
        self.subscribe_with(SubscribeOptions::default(), start)
    }

    /// [`subscribe`](Self::subscribe) with a filter, a queue or a name of one's own.
    pub fn subscribe_with<A, F>(mut self, options: SubscribeOptions, start: F) -> Self
    where
        A: Actor<Context = actix::Context<A>> + Handler<ClusterEvent>,
        F: FnOnce(ClusterHandle) -> Addr<A> + Send + 'static,
    {
        let start = |handle: ClusterHandle, events: Events| {
            let actor = start(handle).recipient();
            Box::pin(async move { events.send_to(&actor).await }) as _
        };
        self.add_plug_in(options, std::any::type_name::<A>(), Box::new(start));
        self
    }

    fn add_plug_in(&mut self, mut options: SubscribeOptions, name: &str, start: PlugInStart) {
        options.name.get_or_insert_with(|| name.to_owned());
        self.plug_ins.push(PlugIn { options, start });
    }

    /// How many of the last events are remembered for [`SubscribeOptions::replay`]. Messages and printed lines are not.
    /// Default 256, at most 65,536; 0 for none. An event takes about half a KiB, and texts in it together at most 1 MiB.
    pub const fn event_history(mut self, events: usize) -> Self {
        self.config.event_history = events;
        self
    }

    /// Calls `handler` with every event, in the master, on a thread of its own. A panic in it loses that call only.
    pub fn on_event<F>(self, handler: F) -> Self
    where
        F: FnMut(&ClusterEvent, &ClusterHandle) + Send + 'static,
    {
        self.on_event_with(SubscribeOptions::default(), handler)
    }

    /// [`on_event`](Self::on_event) with a filter, a queue or a name of one's own.
    pub fn on_event_with<F>(mut self, options: SubscribeOptions, mut handler: F) -> Self
    where
        F: FnMut(&ClusterEvent, &ClusterHandle) + Send + 'static,
    {
        let start = |handle: ClusterHandle, mut events: Events| {
            Box::pin(async move {
                while let Some(event) = events.next().await {
                    guard::call("on_event", || handler(&event, &handle));
                }
                None
            }) as _
        };
        self.add_plug_in(options, "on_event", Box::new(start));
        self
    }

    /// Calls `handler` with every message of every worker, in the master, on a thread of its own. None is dropped: a
    /// handler that is slower than the workers slows the workers. A panic in it loses that call only.
    pub fn on_message<F>(self, handler: F) -> Self
    where
        F: FnMut(WorkerRef, Message) + Send + 'static,
    {
        self.on_message_with(SubscribeOptions::messages(), handler)
    }

    /// [`on_message`](Self::on_message) with a filter, a queue or a name of one's own. Begin with
    /// [`SubscribeOptions::messages`] if none is to be lost.
    pub fn on_message_with<F>(mut self, options: SubscribeOptions, mut handler: F) -> Self
    where
        F: FnMut(WorkerRef, Message) + Send + 'static,
    {
        let start = |handle: ClusterHandle, mut events: Events| {
            Box::pin(async move {
                // Workers talk in rows: who spoke last is most likely who speaks next, and need not be looked up.
                let mut last: Option<WorkerRef> = None;
                while let Some(event) = events.next().await {
                    let ClusterEvent {
                        worker: Some(worker),
                        kind: EventKind::Message(message),
                        ..
                    } = event
                    else {
                        continue;
                    };
                    if last.as_ref().is_none_or(|last| last.id() != worker.id) {
                        last = handle.worker_dead_or_alive(worker.id);
                    }
                    if let Some(worker) = &last {
                        guard::call("on_message", || handler(worker.clone(), message));
                    }
                }
                None
            }) as _
        };
        self.add_plug_in(options, "on_message", Box::new(start));
        self
    }
}
