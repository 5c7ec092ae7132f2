//! The master's start and end: listeners, signals, supervisor, plug-ins, in this order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Context, Recipient};
use actix_rt::{Arbiter, System};
use tokio::sync::{mpsc, oneshot};

use crate::cluster::RunningCluster;
use crate::config::Config;
use crate::error::RunError;
use crate::events::Events;
use crate::handle::{ClusterHandle, Shared};
use crate::master::listening::{Listening, POLICY_VARIABLE};
use crate::master::supervisor::Parts;
use crate::master::{ClusterSupervisor, Directory, Subscribers, signals, vital};
use crate::model::{ClusterEvent, ShutdownReport};
use crate::plug_ins::PlugIn;
use crate::supervision::{SpecConfig, Supervision, SupervisionConfig};

/// Runs the cluster on a `System` of its own until it ends.
pub(crate) fn run(config: Config, plug_ins: Vec<PlugIn>) -> Result<ShutdownReport, RunError> {
    System::new().block_on(async move { start(config, plug_ins)?.wait().await })
}

/// Starts the cluster on the `System` of this thread.
pub(crate) fn start(mut config: Config, plug_ins: Vec<PlugIn>) -> Result<RunningCluster, RunError> {
    crate::process::remember_image();
    config.args = std::env::args_os().skip(1).collect();
    let mut listening = Listening::new(std::env::var_os(POLICY_VARIABLE).as_deref());
    let mut addresses = BTreeMap::new();
    for listener in &config.listeners {
        let bound = listening
            .declare(&listener.name, &listener.address, &listener.options)
            .map_err(|source| RunError::Listen {
                name: listener.name.clone(),
                source,
            })?;
        addresses.insert(listener.name.clone(), bound);
    }
    crate::process::heed_children();
    // Before the first worker: a signal from here on is answered, not fatal.
    let signals = if config.signals {
        Some(signals::install()?)
    } else {
        None
    };
    let directory = Arc::new(Directory::new(addresses));
    let subscribers = Arc::new(Subscribers::default());
    let (finished, end) = oneshot::channel();
    let arbiter = Arbiter::new();
    // Subscribed before the first event, started once the handle exists.
    let plug_ins: Vec<_> = plug_ins
        .into_iter()
        .map(|plug_in| (subscribers.subscribe(&plug_in.options), plug_in.start))
        .collect();
    let parts = Parts {
        machine: Supervision::new(machine_config(&config)),
        config,
        listening,
        plug_ins: arbiter.handle(),
        directory: Arc::clone(&directory),
        subscribers: Arc::clone(&subscribers),
        finished,
    };
    let context = Context::new();
    let supervisor = actix::AsyncContext::address(&context);
    let shared = Shared {
        supervisor: supervisor.clone(),
        directory,
        subscribers: Arc::clone(&subscribers),
        plug_ins: arbiter.handle(),
    };
    let handle = ClusterHandle::new(shared);
    let (alive, consumers) = mpsc::channel::<()>(1);
    for (queue, start) in plug_ins {
        let events = Events::new(queue, Arc::clone(&subscribers));
        let (handle, alive) = (handle.clone(), alive.clone());
        arbiter.spawn_fn(move || {
            let consumer = start(handle, events);
            actix_rt::spawn(async move {
                consumer.await;
                drop(alive);
            });
        });
    }
    vital::run("the supervisor", context, ClusterSupervisor::new(parts));
    if let Some(signals) = signals {
        actix_rt::spawn(vital::vital("the ear for signals", signals.run(supervisor)));
    }
    Ok(RunningCluster {
        handle,
        finished: Finished {
            end,
            consumers,
            arbiter,
        },
        above: None,
    })
}

fn machine_config(config: &Config) -> SupervisionConfig {
    let spec = SpecConfig {
        restart: config.restart,
        delay: config.delay,
        limit: config.slot_limit,
        stable_after: config.stable_after,
        shutdown: config.shutdown,
        max_age: config.max_age,
        ..SpecConfig::new(config.spec.clone(), config.workers)
    };
    let specs = std::iter::once(spec).chain(config.more_specs.iter().map(|spec| spec.config.clone()));
    SupervisionConfig {
        specs: specs.collect(),
        strategy: Arc::clone(&config.strategy),
        auto_shutdown: config.auto_shutdown,
        recycle: config.recycle,
        intensity: config.intensity,
        max_booting: config.max_booting,
        when_empty: config.when_empty,
        seed: config.seed,
    }
}

/// The end of a running cluster.
#[derive(Debug)]
pub(crate) struct Finished {
    end: oneshot::Receiver<Result<ShutdownReport, RunError>>,
    /// Closed when every plug-in that was given to the builder has seen the last event.
    consumers: mpsc::Receiver<()>,
    arbiter: Arbiter,
}

impl Finished {
    /// Waits for the end, then a moment for the plug-ins to see the last events.
    pub(crate) async fn wait(mut self) -> Result<ShutdownReport, RunError> {
        let result = self.end.await.unwrap_or(Err(RunError::SupervisorLost));
        if tokio::time::timeout(LAST_EVENTS, self.consumers.recv()).await.is_err() {
            tracing::warn!("a plug-in did not finish with the last events in time");
        }
        self.arbiter.stop();
        result
    }
}

/// Feeds an actor from a queue until either ends.
pub(crate) async fn pump(mut events: Events, actor: Recipient<ClusterEvent>) {
    while let Some(event) = events.next().await {
        if actor.send(event).await.is_err() {
            return;
        }
    }
}

/// How long the plug-ins may take for the events that are still queued when the cluster has ended.
const LAST_EVENTS: Duration = Duration::from_secs(1);
