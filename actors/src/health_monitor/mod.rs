//! `HealthMonitor`: notices workers whose loops no longer turn, tells everybody, and ends them if that is wanted.
//!
//! Three parts: the limits (`config`), the judgement without effects (`judge`), and here the actor, which reads the cluster's view,
//! asks the judge, and carries out; what the kernel tells of a thread is read in `crate::kernel`. Not here: the beats themselves.

mod config;
mod judge;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, ContextFutureSpawner, Handler, WrapFuture};
use actix_cluster::{
    Announcement, ClusterBuilder, ClusterEvent, ClusterHandle, ClusterSnapshot, CommandError, EndCause, EventFilter,
    EventKind, Evidence, HealthAction, Kind, Lag, Mono, Phase as ClusterPhase, RecycleReason, Signal, SubscribeOptions,
    Unhealthy, UnhealthyReason, WhenFull, WorkerId, WorkerSnapshot, WorkerState,
};

pub use config::{HealthConfig, HealthConfigError};
use judge::{Facts, Finding, Occasion, Phase, Ward};

use crate::kernel::thread;

/// Watches the heartbeats of all workers.
///
/// A worker that is silent for too long is counted a miss at every check, is told of in an `Unhealthy` event, and after
/// enough misses is replaced or killed, as the [`HealthConfig`] says; its exit then has the reason `Hang`, with the loop's
/// name. It is not blamed for silence that the master could not have heard: the master's pauses
/// are taken off it, and what came meanwhile is read first. Many pauses delay a verdict, and do not prevent it. Programs that never beat, because they do not use the library, are left alone.
///
/// ```no_run
/// use actix_cluster::{Cluster, Worker};
/// use actix_cluster_actors::{HealthConfig, HealthMonitor};
///
/// fn main() -> std::process::ExitCode {
///     let health = HealthMonitor::new(HealthConfig::new()).expect("the defaults are valid");
///     let cluster = Cluster::builder().worker(|worker: Worker| async move { worker.shutdown().started().await });
///     health.attach(cluster).main()
/// }
/// ```
#[derive(Debug)]
pub struct HealthMonitor {
    config: HealthConfig,
    ward: Ward,
    view: HealthView,
    /// That nobody beats was said.
    is_off: bool,
}

impl HealthMonitor {
    /// A monitor with these limits.
    ///
    /// # Errors
    /// [`HealthConfigError`] if they contradict each other.
    pub fn new(config: HealthConfig) -> Result<Self, HealthConfigError> {
        config.validate()?;
        let view = HealthView::new(config.min_ready, config.stale_after);
        Ok(Self {
            ward: Ward::new(config.clone()),
            config,
            view,
            is_off: false,
        })
    }

    /// Adds it to a cluster: turns its workers' heartbeats on and starts it in the master, on the plug-ins' thread.
    pub fn attach(self, cluster: ClusterBuilder) -> ClusterBuilder {
        // What it is told is read from the view, so of beats that wait only the last one matters.
        let options = SubscribeOptions::new()
            .filter(EventFilter::kinds([Kind::Heartbeat, Kind::Exit]))
            .when_full(WhenFull::Coalesce(Kind::Heartbeat.into()));
        cluster
            .heartbeat(self.config.interval)
            .subscribe_with(options, |cluster| self.watch(cluster))
    }

    /// Starts it on this thread, for a cluster whose builder was given the same `heartbeat` interval. It must be
    /// subscribed by the caller: [`attach`](Self::attach) does all of this.
    #[must_use = "it learns of late loops from the events it is subscribed to"]
    pub fn watch(self, cluster: ClusterHandle) -> Addr<Self> {
        self.view.shared.cluster.get_or_init(|| cluster);
        self.start()
    }

    /// What it knows, readable from any thread while it runs.
    #[must_use]
    pub fn view(&self) -> HealthView {
        self.view.clone()
    }

    /// Looks at all workers and does what follows. The view is read once and now: events may have waited in a queue, and
    /// what the judge is told must not be older than the time it is told.
    fn check(&mut self, ctx: &mut Context<Self>) {
        let Some(cluster) = self.view.shared.cluster.get() else {
            return;
        };
        let snapshot = cluster.snapshot();
        let (now, Some(lag)) = (snapshot.now(), snapshot.lag) else {
            let is_up = snapshot.workers.iter().any(|worker| worker.times.online.is_some());
            if is_up && !std::mem::replace(&mut self.is_off, true) {
                tracing::warn!(
                    "workers do not beat, because the cluster's `heartbeat` is off: `HealthMonitor` watches nobody"
                );
            }
            return;
        };
        self.heed(lag);
        self.ward
            .keep(|id| snapshot.workers.iter().any(|worker| worker.id == id));
        for worker in &snapshot.workers {
            self.look(worker, lag, Occasion::Check, now, ctx);
        }
        self.show();
    }

    /// Looks at the worker that beat, and at nobody else: the larger the cluster, the more beats there are.
    fn hear(&mut self, id: WorkerId, ctx: &mut Context<Self>) {
        let Some(cluster) = self.view.shared.cluster.get() else {
            return;
        };
        // The instant first: what is read after it is no older.
        let (Some((now, lag)), Some(worker)) = (cluster.punctuality(), cluster.worker(id)) else {
            return;
        };
        if self.look(&worker.snapshot(), lag, Occasion::Beat, now, ctx) {
            self.show();
        }
    }

    /// Looks at one worker and does what follows; is there anything new?
    fn look(
        &mut self,
        worker: &WorkerSnapshot,
        lag: Lag,
        occasion: Occasion,
        now: Mono,
        ctx: &mut Context<Self>,
    ) -> bool {
        let silent = now.since(worker.last_heartbeat.unwrap_or(now));
        let Some(facts) = facts(worker, &self.config, silent) else {
            return false;
        };
        let finding = self.ward.look(worker.id, &facts, lag, occasion, now);
        let is_news = finding != Finding::Nothing;
        self.act(worker, finding, ctx);
        is_news
    }

    /// Lets the view have what is known.
    fn show(&self) {
        let unwell = self.ward.unwell().map(|(id, reason)| (id, reason.clone())).collect();
        *lock(&self.view.shared.unwell) = unwell;
    }

    /// Workers may be told another interval than this monitor asked for: the builder was given one afterwards, or the monitor was
    /// not attached by it.
    fn heed(&mut self, lag: Lag) {
        // The master's loop comes round three times in each.
        let real = lag.period.saturating_mul(3);
        if real > self.config.interval {
            tracing::warn!(
                asked_ms = self.config.interval.as_millis(),
                real_ms = real.as_millis(),
                "workers beat less often than `HealthMonitor` asked for: its limits are lengthened to what they can keep"
            );
            self.config = self.config.clone().for_interval(real);
            self.ward.heed(self.config.clone());
        }
    }

    /// Tells, then does, in this order.
    fn act(&self, worker: &WorkerSnapshot, finding: Finding, ctx: &mut Context<Self>) {
        let (announcement, action, name) = match finding {
            Finding::Nothing => return,
            Finding::Recovered => (Announcement::Recovered, HealthAction::Tell, String::new()),
            Finding::Unwell {
                reason,
                lasted,
                missed,
                action,
            } => {
                let name = match &reason {
                    UnhealthyReason::Loop(name) => name.clone(),
                    _ => MAIN.to_owned(),
                };
                let mut told = Unhealthy::new(reason, lasted);
                told.missed = missed;
                told.action = action;
                if self.config.evidence {
                    told.evidence = evidence_of(worker, &name);
                    let cluster = self.view.shared.cluster.get();
                    told.evidence.flight = cluster.and_then(|cluster| cluster.flight_record(worker.id));
                }
                (Announcement::Unhealthy(Box::new(told)), action, name)
            }
        };
        let Some(cluster) = self.view.shared.cluster.get().cloned() else {
            return;
        };
        let id = worker.id;
        let done = async move {
            // A worker that has gone meanwhile needs nothing any more.
            cluster.publish(Some(id), announcement).await.ok();
            carry_out(&cluster, id, action, name).await
        };
        let tell = move |result: Result<(), CommandError>, _: &mut Self, _: &mut Context<Self>| {
            if let Err(error) = result {
                log_refusal(id, &error);
            }
        };
        done.into_actor(self).map(tell).spawn(ctx);
    }
}

impl Actor for HealthMonitor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(self.config.check, |monitor, ctx| {
            monitor.check(ctx);
        });
    }
}

impl Handler<ClusterEvent> for HealthMonitor {
    type Result = ();

    fn handle(&mut self, event: ClusterEvent, ctx: &mut Self::Context) {
        let Some(worker) = event.worker else { return };
        match event.kind {
            EventKind::Heartbeat(_) => self.hear(worker.id, ctx),
            EventKind::Exit(_) => {
                self.ward.forget(worker.id);
                lock(&self.view.shared.unwell).remove(&worker.id);
            }
            _ => {}
        }
    }
}

/// What a [`HealthMonitor`] knows; clones tell the same.
#[derive(Clone, Debug)]
pub struct HealthView {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    min_ready: usize,
    stale_after: Duration,
    cluster: OnceLock<ClusterHandle>,
    unwell: Mutex<BTreeMap<WorkerId, UnhealthyReason>>,
}

impl HealthView {
    fn new(min_ready: usize, stale_after: Duration) -> Self {
        let shared = Shared {
            min_ready,
            stale_after,
            cluster: OnceLock::new(),
            unwell: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Who is unwell, and why.
    #[must_use]
    pub fn unhealthy(&self) -> BTreeMap<WorkerId, UnhealthyReason> {
        lock(&self.shared.unwell).clone()
    }

    /// How the cluster is, for probes. Nothing is asked of the supervising thread, so it answers even if that one is stuck.
    #[must_use]
    pub fn cluster(&self) -> ClusterHealth {
        let snapshot = self.shared.cluster.get().map(ClusterHandle::snapshot);
        let unwell = lock(&self.shared.unwell);
        let health = |snapshot: ClusterSnapshot| {
            let is_well = |worker: &&WorkerSnapshot| worker.ready && !unwell.contains_key(&worker.id);
            let late = snapshot.lag.map_or(Duration::ZERO, |lag| lag.at(snapshot.now()));
            ClusterHealth {
                ready: snapshot.workers.iter().filter(is_well).count(),
                target: snapshot.target,
                min: self.shared.min_ready,
                live: snapshot.phase != ClusterPhase::Stopped && late < self.shared.stale_after,
            }
        };
        // Not started yet.
        let nothing = ClusterHealth {
            min: self.shared.min_ready,
            ..ClusterHealth::default()
        };
        snapshot.map_or(nothing, health)
    }
}

/// Readiness and liveness of the whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct ClusterHealth {
    /// Workers that can serve and are not known to be unwell.
    pub ready: usize,
    /// How many there should be.
    pub target: usize,
    /// How many are enough.
    pub min: usize,
    /// The supervising loop comes round, and the cluster has not ended.
    pub live: bool,
}

impl ClusterHealth {
    /// Should clients be sent here? Enough workers are ready.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.live && self.ready >= self.min
    }
}

/// What the judge is to know about a worker; `None` if it is beyond judgement. `silent` saves the look for a debugger at
/// those who speak.
fn facts(worker: &WorkerSnapshot, config: &HealthConfig, silent: Duration) -> Option<Facts> {
    let times = &worker.times;
    let phase = match worker.state {
        WorkerState::Created | WorkerState::Online | WorkerState::Listening if worker.ready => {
            Phase::Serving(times.ready?)
        }
        WorkerState::Created | WorkerState::Online | WorkerState::Listening => match times.standby {
            Some(at) if worker.standby => Phase::Standby(at),
            // With its slot it begins anew.
            _ => Phase::Boot(times.promoted.or(times.created)?),
        },
        WorkerState::Exiting => Phase::Draining(times.exiting?),
        WorkerState::Disconnected | WorkerState::Dead => return None,
    };
    // The first one is the loop that beats: it is judged by its silence.
    let latest = worker.loops.iter().skip(1).max_by_key(|it| it.late);
    Some(Facts {
        phase,
        last_beat: worker.last_heartbeat,
        more_time_until: worker.more_time_until,
        unread_until: worker.unread_until,
        late: latest.map(|it| (it.name.clone(), it.late)),
        is_deaf: worker.state == WorkerState::Listening && worker.accepting == 0,
        is_traced: config.pause_for_debugger && silent > config.interval && worker.pid.is_some_and(thread::is_traced),
    })
}

fn evidence_of(worker: &WorkerSnapshot, name: &str) -> Evidence {
    let Some(pid) = worker.pid else {
        return Evidence::default();
    };
    match worker
        .loops
        .iter()
        .filter(|it| it.name == name)
        .max_by_key(|it| it.late)
    {
        Some(it) => thread::collect(pid, it.tid, &it.doing),
        None => thread::collect(pid, pid, ""),
    }
}

async fn carry_out(
    cluster: &ClusterHandle,
    id: WorkerId,
    action: HealthAction,
    name: String,
) -> Result<(), CommandError> {
    match action {
        HealthAction::Replace => {
            let why = RecycleReason::Asked(format!("loop `{name}` does not turn"));
            cluster.recycle(id, why).await
        }
        HealthAction::Abort => cluster.kill_for(id, Signal::ABRT, EndCause::Hang(name)).await,
        HealthAction::Kill => cluster.kill_for(id, Signal::KILL, EndCause::Hang(name)).await,
        _ => Ok(()),
    }
}

/// Says that an order was refused: a worker under another user, in all probability. One that has exited is none.
fn log_refusal(id: WorkerId, error: &CommandError) {
    if !matches!(error, CommandError::UnknownWorker(_) | CommandError::Gone) {
        tracing::warn!(worker = id.get(), err = %error, "an unhealthy worker could not be ended");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The map is replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The loop that beats.
const MAIN: &str = "main";
