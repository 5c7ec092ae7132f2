//! The master's start and end: listeners, signals, supervisor, plug-ins, in this order.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Context};
use actix_rt::{Arbiter, System};
use tokio::sync::{mpsc, oneshot};

use crate::cluster::RunningCluster;
use crate::config::Config;
use crate::error::RunError;
use crate::events::Events;
use crate::handle::{ClusterHandle, Shared};
use crate::master::handover::Means;
use crate::master::listening::{Listening, POLICY_VARIABLE};
use crate::master::supervisor::Parts;
use crate::master::{ClusterSupervisor, Directory, Subscribers, lag, signals, vital};
use crate::model::{ShutdownReport, SubscriberLoss};
use crate::plug_ins::{PlugIn, PlugInStart};
use crate::subscription::PlugInThread;
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
            .declare(
                &listener.name,
                &listener.address,
                &listener.options,
                listener.policy.as_ref(),
            )
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
    let subscribers = Arc::new(Subscribers::new(config.event_history));
    let (finished, end) = oneshot::channel();
    let (pumps, shared) = (new_thread()?, new_thread()?);
    // Subscribed before the first event, started once the handle exists.
    let subscribe = |plug_in: PlugIn| (Events::new(&subscribers, &plug_in.options), plug_in);
    let plug_ins: Vec<_> = plug_ins.into_iter().map(subscribe).collect();
    let context = Context::new();
    let supervisor: Addr<ClusterSupervisor> = actix::AsyncContext::address(&context);
    let (ended, dispatcher) = oneshot::channel();
    let means = Means {
        news: supervisor.clone().recipient(),
        tally: Arc::clone(&directory.handover),
        ended,
    };
    listening.begin(means, config.seed).map_err(|source| RunError::Listen {
        name: source.address.clone(),
        source,
    })?;
    let parts = Parts {
        machine: Supervision::new(machine_config(&config)),
        config,
        listening,
        plug_ins: shared.handle(),
        directory: Arc::clone(&directory),
        subscribers: Arc::clone(&subscribers),
        finished,
    };
    if let Some(interval) = parts.config.heartbeat {
        let measure = lag::measure(interval, Arc::clone(&directory));
        actix_rt::spawn(vital::vital("the measuring of the loop", measure));
    }
    let (alive, consumers) = mpsc::channel::<()>(1);
    let handle = ClusterHandle::new(Shared {
        commands: supervisor.clone().recipient(),
        directory,
        subscribers,
        pumps: pumps.handle(),
        consumers: alive.downgrade(),
    });
    let mut threads = vec![pumps];
    for (events, PlugIn { options, start }) in plug_ins {
        let (handle, alive) = (handle.clone(), alive.clone());
        let run = move || start_plug_in(start, handle, events, alive);
        match options.thread {
            PlugInThread::Shared => {
                shared.spawn_fn(run);
            }
            PlugInThread::Own => {
                let own = new_thread()?;
                own.spawn_fn(run);
                threads.push(own);
            }
        }
    }
    threads.push(shared);
    vital::run("the supervisor", context, ClusterSupervisor::new(parts));
    if let Some(signals) = signals {
        actix_rt::spawn(vital::vital("the ear for signals", signals.run(supervisor)));
    }
    Ok(RunningCluster {
        handle,
        finished: Finished {
            end,
            alive,
            consumers,
            threads,
            dispatcher,
        },
        above: None,
    })
}

/// A thread for plug-ins.
fn new_thread() -> Result<Arbiter, RunError> {
    Arbiter::try_new().map_err(|source| RunError::Io {
        what: "start a thread for plug-ins",
        source,
    })
}

/// Starts a plug-in on this thread; `alive` is dropped when it has seen the last event, or is gone.
fn start_plug_in(start: PlugInStart, cluster: ClusterHandle, events: Events, alive: mpsc::Sender<()>) {
    let name = events.name().to_owned();
    let consumer = catch_unwind(AssertUnwindSafe(|| start(cluster.clone(), events)));
    actix_rt::spawn(async move {
        let loss = match consumer {
            Ok(consumer) => consumer.await,
            Err(_) => Some(SubscriberLoss::NotStarted),
        };
        if let Some(why) = loss {
            cluster.tell_lost(name, why).await;
        }
        drop(alive);
    });
}

fn machine_config(config: &Config) -> SupervisionConfig {
    let spec = SpecConfig {
        restart: config.restart,
        delay: config.delay,
        limit: config.slot_limit,
        stable_after: config.stable_after,
        shutdown: config.shutdown,
        max_age: config.max_age,
        max_requests: config.max_requests,
        standby: config.standby,
        standby_age: config.standby_age,
        ..SpecConfig::new(config.spec.clone(), config.workers)
    };
    let own = config.has_own_spec.then_some(spec);
    let specs = own
        .into_iter()
        .chain(config.more_specs.iter().map(|spec| spec.config.clone()));
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
    /// Of this one those are made that subscribe while the cluster runs.
    alive: mpsc::Sender<()>,
    /// Closed when every plug-in, and every actor that subscribed through a handle, has seen the last event.
    consumers: mpsc::Receiver<()>,
    threads: Vec<Arbiter>,
    /// Resolves when the dispatcher of connections has ended, or was never started.
    dispatcher: oneshot::Receiver<()>,
}

impl Finished {
    /// Waits for the end, then a moment for the plug-ins to see the last events.
    pub(crate) async fn wait(mut self) -> Result<ShutdownReport, RunError> {
        let result = self.end.await.unwrap_or(Err(RunError::SupervisorLost));
        drop(self.alive);
        if tokio::time::timeout(LAST_EVENTS, self.consumers.recv()).await.is_err() {
            tracing::warn!("a plug-in did not finish with the last events in time");
        }
        if tokio::time::timeout(LAST_KEEPERS, self.dispatcher).await.is_err() {
            tracing::warn!("the dispatcher of connections did not end in time");
        }
        for thread in self.threads {
            thread.stop();
        }
        result
    }
}

/// How long the dispatcher may take to bury the keepers of the last workers.
const LAST_KEEPERS: Duration = Duration::from_secs(3);
/// How long the plug-ins may take for the events that are still queued when the cluster has ended.
const LAST_EVENTS: Duration = Duration::from_secs(1);
