//! Consumers of events that are given to the builder: they run in the master, on a thread of their own.

use std::pin::Pin;

use actix::{Actor, Addr, Handler};

use crate::builder::ClusterBuilder;
use crate::events::Events;
use crate::guard;
use crate::handle::{ClusterHandle, WorkerRef};
use crate::master::{Interest, SubscribeOptions};
use crate::model::{ClusterEvent, EventKind, Message};

/// A consumer of events that lives on the plug-ins' thread.
pub(crate) struct PlugIn {
    pub(crate) options: SubscribeOptions,
    pub(crate) start: PlugInStart,
}

/// Starts a consumer on the plug-ins' thread; the future ends with the last event.
pub(crate) type PlugInStart = Box<dyn FnOnce(ClusterHandle, Events) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

impl ClusterBuilder {
    /// Starts an actor in the master, on the plug-ins' own thread, and sends it every event from the first one on.
    pub fn subscribe<A, F>(self, start: F) -> Self
    where
        A: Actor<Context = actix::Context<A>> + Handler<ClusterEvent>,
        F: FnOnce(ClusterHandle) -> Addr<A> + Send + 'static,
    {
        self.subscribe_with(SubscribeOptions::default(), start)
    }

    /// [`subscribe`](Self::subscribe) with a queue and an interest of one's own.
    pub fn subscribe_with<A, F>(mut self, options: SubscribeOptions, start: F) -> Self
    where
        A: Actor<Context = actix::Context<A>> + Handler<ClusterEvent>,
        F: FnOnce(ClusterHandle) -> Addr<A> + Send + 'static,
    {
        let start = |handle: ClusterHandle, events| {
            let actor = start(handle).recipient();
            Box::pin(crate::master::pump(events, actor)) as _
        };
        self.plug_ins.push(PlugIn {
            options,
            start: Box::new(start),
        });
        self
    }

    /// Calls `handler` with every event, in the master, on the plug-ins' thread. A panic in it loses that call only.
    pub fn on_event<F>(self, handler: F) -> Self
    where
        F: FnMut(&ClusterEvent, &ClusterHandle) + Send + 'static,
    {
        self.on_event_with(SubscribeOptions::default(), handler)
    }

    /// [`on_event`](Self::on_event) with a queue and an interest of one's own.
    pub fn on_event_with<F>(mut self, options: SubscribeOptions, mut handler: F) -> Self
    where
        F: FnMut(&ClusterEvent, &ClusterHandle) + Send + 'static,
    {
        let start = |handle: ClusterHandle, mut events: Events| {
            Box::pin(async move {
                while let Some(event) = events.next().await {
                    guard::call("on_event", || handler(&event, &handle));
                }
            }) as _
        };
        self.plug_ins.push(PlugIn {
            options,
            start: Box::new(start),
        });
        self
    }

    /// Calls `handler` with every message of every worker, in the master, on the plug-ins' thread. None is dropped: a
    /// handler that is slower than the workers slows the workers. A panic in it loses that call only.
    pub fn on_message<F>(mut self, mut handler: F) -> Self
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
            }) as _
        };
        let options = SubscribeOptions {
            interest: Interest::Messages,
            ..SubscribeOptions::default()
        };
        self.plug_ins.push(PlugIn {
            options,
            start: Box::new(start),
        });
        self
    }
}
