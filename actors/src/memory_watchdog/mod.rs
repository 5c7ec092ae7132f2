//! `MemoryWatchdog`: reads how much memory each worker uses, and replaces or kills those that use too much.
//!
//! Five parts: the limits (`config`), the judgement without effects (`judge`, with `trend`), what is told (`report`), what the
//! kernel says (`crate::kernel`), and here the actor, which reads, asks the judge, and carries out.

mod config;
mod judge;
mod report;
mod trend;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, ContextFutureSpawner, Handler, WrapFuture};
use actix_cluster::{
    Announcement, ClusterBuilder, ClusterEvent, ClusterHandle, CommandError, CustomEvent, EndCause, EventFilter,
    EventKind, ExitReason, Kind, RecycleReason, Signal, Slot, SubscribeOptions, WorkerId, WorkerSnapshot, WorkerState,
};
use serde::Serialize;
use serde_json::json;

use crate::kernel::{group::Group, process};
pub use config::{MemoryConfig, MemoryConfigError, MemoryLimit};
use judge::{Facts, Finding, Judge, Stage};
pub use report::{GroupReport, MemoryReport, MemoryView, WorkerMemory};

/// Watches how much memory the workers use, by the kernel's numbers and not by theirs.
///
/// A worker above the soft limit is replaced, its successor first; one that reaches the hard limit is killed, and its exit says
/// `Memory`. Whoever is over the limit as soon as it is ready is replaced once; if its successor is over as well, the limit is
/// too low for this program, which is told, and nothing is done. What cannot be read is unknown, and nothing follows from it.
///
/// What it finds out is told in [`Custom`](EventKind::Custom) events of the source [`SOURCE`](Self::SOURCE):
///
/// | name | when | about |
/// |---|---|---|
/// | `report` | after each reading | all: a [`MemoryReport`] |
/// | `over` | before a worker is replaced or killed | the worker |
/// | `forecast` | it will reach its limit soon, if it goes on | the worker |
/// | `limit_too_low` | a worker needs more than the limit to begin with; once for each spec | the worker |
/// | `unreadable` | the memory of some workers could not be read twice in a row; once until it can | all |
/// | `oom` | the kernel killed a worker for want of memory: what it had used, and what to do | all: the worker is gone |
///
/// ```no_run
/// use actix_cluster::{Cluster, Worker};
/// use actix_cluster_actors::{MemoryConfig, MemoryLimit, MemoryWatchdog};
///
/// fn main() -> std::process::ExitCode {
///     let memory = MemoryWatchdog::new(MemoryConfig::new(MemoryLimit::mib(512))).expect("512 MiB is a limit");
///     let cluster = Cluster::builder().worker(|worker: Worker| async move { worker.shutdown().started().await });
///     memory.attach(cluster).main()
/// }
/// ```
#[derive(Debug)]
pub struct MemoryWatchdog {
    config: MemoryConfig,
    judge: Judge,
    view: MemoryView,
    cluster: Option<ClusterHandle>,
    /// When each worker's process began, as it was read first: tells it from another one with its number.
    begun: BTreeMap<WorkerId, u64>,
    /// What could not be read at the last reading, and whether that was told.
    unread: Vec<WorkerId>,
    unread_told: bool,
}

impl MemoryWatchdog {
    /// The source of its events.
    pub const SOURCE: &str = "memory";

    /// A watchdog with these limits.
    ///
    /// # Errors
    /// [`MemoryConfigError`] if they contradict each other.
    pub fn new(config: MemoryConfig) -> Result<Self, MemoryConfigError> {
        config.validate()?;
        // By chance, but the same as long as it lives.
        let seed = RandomState::new().hash_one(0);
        Ok(Self {
            judge: Judge::new(config.clone(), seed),
            config,
            view: MemoryView::default(),
            cluster: None,
            begun: BTreeMap::new(),
            unread: Vec::new(),
            unread_told: false,
        })
    }

    /// Adds it to a cluster: it is started in the master, on a thread of its own.
    pub fn attach(self, cluster: ClusterBuilder) -> ClusterBuilder {
        cluster.subscribe_with(Self::options(), |cluster| self.watch(cluster))
    }

    /// The subscription it wants.
    pub fn options() -> SubscribeOptions {
        SubscribeOptions::new()
            .name("memory-watchdog")
            .filter(EventFilter::kinds([Kind::Ready, Kind::Exit]))
    }

    /// Starts it on this thread. It must be subscribed by the caller, with [`options`](Self::options):
    /// [`attach`](Self::attach) does both. It reads files, so the thread should not be one that serves.
    #[must_use = "it learns who is ready from the events it is subscribed to"]
    pub fn watch(mut self, cluster: ClusterHandle) -> Addr<Self> {
        self.cluster = Some(cluster);
        self.start()
    }

    /// What it knows, readable from any thread while it runs.
    #[must_use]
    pub fn view(&self) -> MemoryView {
        self.view.clone()
    }

    /// Reads everybody, tells, and does what follows.
    fn read_all(&mut self, ctx: &mut Context<Self>) {
        let Some(cluster) = self.cluster.clone() else { return };
        let snapshot = cluster.snapshot();
        let is_there = |id| snapshot.workers.iter().any(|worker| worker.id == id);
        self.judge.keep(is_there);
        self.begun.retain(|id, _| is_there(*id));
        let mut report = MemoryReport {
            machine_bytes: process::of_the_machine(),
            group: Group::of(snapshot.master_pid)
                .map(|group| group.read().into())
                .unwrap_or_default(),
            ..MemoryReport::default()
        };
        let mut facts = Vec::new();
        for worker in &snapshot.workers {
            let told = self.read(worker, snapshot.master_pid, report.machine_bytes);
            report.used_bytes = report.used_bytes.saturating_add(told.rss_bytes.unwrap_or(0));
            facts.extend(self.facts(worker, &told));
            report.workers.push(told);
        }
        if self.config.report {
            self.tell(None, "report", &report.cut(), ctx);
        }
        self.view.set(report);
        self.note_unread(&facts, &cluster, ctx);
        for finding in self.judge.look(&facts, snapshot.now()) {
            self.act(finding, ctx);
        }
    }

    /// Reads one that is ready just now: this tells what a worker needs to begin with.
    fn read_first(&mut self, id: WorkerId, ctx: &mut Context<Self>) {
        let Some(cluster) = self.cluster.clone() else { return };
        let snapshot = cluster.snapshot();
        let Some(worker) = snapshot.workers.iter().find(|worker| worker.id == id) else {
            return;
        };
        let told = self.read(worker, snapshot.master_pid, process::of_the_machine());
        let facts: Vec<Facts> = self.facts(worker, &told).into_iter().collect();
        for finding in self.judge.look(&facts, snapshot.now()) {
            self.act(finding, ctx);
        }
    }

    /// Reads one worker. That it is in the view does not mean that it lives; that its process is our child, and the one that
    /// was read before, does.
    fn read(&mut self, worker: &WorkerSnapshot, master: u32, machine: Option<u64>) -> WorkerMemory {
        let limit = match self.config.limit {
            limit @ MemoryLimit::Bytes(_) => limit.bytes(None),
            limit @ MemoryLimit::Percent(_) => {
                let group = worker.pid.and_then(Group::of).and_then(|group| group.read().limit);
                limit.bytes(group.into_iter().chain(machine).min())
            }
        };
        let resident = worker.pid.and_then(|pid| process::resident(pid, master));
        let same = resident.filter(|it| *self.begun.entry(worker.id).or_insert(it.started) == it.started);
        let mut told = WorkerMemory {
            id: worker.id,
            slot: worker.slot.clone(),
            rss_bytes: same.map(|it| it.rss),
            pss_bytes: None,
            limit_bytes: limit,
        };
        // `None` where only the share would tell.
        if told.rss_bytes.is_some() && told.used(self.config.proportional, self.config.soft).is_none() {
            told.pss_bytes = worker.pid.and_then(process::proportional);
        }
        told
    }

    /// What the judge is to know; `None` of who is not judged.
    fn facts(&self, worker: &WorkerSnapshot, told: &WorkerMemory) -> Option<Facts> {
        let stage = match worker.state {
            WorkerState::Created | WorkerState::Online | WorkerState::Listening => {
                Stage::Serving(worker.times.ready.filter(|_| worker.ready)?)
            }
            WorkerState::Exiting => Stage::Leaving,
            WorkerState::Disconnected | WorkerState::Dead => return None,
        };
        Some(Facts {
            id: worker.id,
            slot: worker.slot.clone(),
            stage,
            used: told.used(self.config.proportional, self.config.soft),
            limit: told.limit_bytes,
        })
    }

    /// Tells once that it is blind. One that ends as it is read is unreadable too, so only what is so twice counts.
    fn note_unread(&mut self, facts: &[Facts], cluster: &ClusterHandle, ctx: &mut Context<Self>) {
        let unread: Vec<WorkerId> = facts
            .iter()
            .filter(|it| it.used.is_none() || it.limit.is_none())
            .map(|it| it.id)
            .filter(|id| cluster.worker(*id).is_some())
            .collect();
        let again: Vec<_> = unread.iter().filter(|id| self.unread.contains(id)).collect();
        if unread.is_empty() {
            self.unread_told = false;
        } else if !again.is_empty() && !self.unread_told {
            self.unread_told = true;
            let count = again.len();
            tracing::warn!(count, "the memory of workers cannot be read: nothing is done about it");
            let what =
                "their memory cannot be read, so nothing is done about it; the master needs to see them in /proc";
            self.tell(None, "unreadable", &json!({ "workers": again, "what": what }), ctx);
        }
        self.unread = unread;
    }

    /// Tells, then does, in this order.
    fn act(&self, finding: Finding, ctx: &mut Context<Self>) {
        match finding {
            Finding::Recycle { id, used, limit } => {
                let over = Over::new(used, limit, "replace");
                self.command(id, over, ctx, move |cluster| async move {
                    cluster.recycle(id, RecycleReason::Memory).await
                });
            }
            Finding::Kill { id, used, limit } => {
                let cause = EndCause::Memory(format!("{} of {}", mib(used), mib(limit)));
                let over = Over::new(used, limit, "kill");
                self.command(id, over, ctx, move |cluster| async move {
                    cluster.kill_for(id, Signal::KILL, cause).await
                });
            }
            Finding::LimitTooLow { id, used, limit } => {
                let what = format!(
                    "a worker uses {} as soon as it is ready, and its limit is {}: raise the limit of the MemoryWatchdog, \
                     or make the program smaller; nothing is done about it",
                    mib(used),
                    mib(limit)
                );
                tracing::error!(worker = id.get(), "{what}");
                let data = json!({ "used_bytes": used, "limit_bytes": limit, "what": what });
                self.tell(Some(id), "limit_too_low", &data, ctx);
            }
            Finding::Forecast {
                id,
                used,
                limit,
                within,
            } => {
                let what = format!("reaches the limit in {} min", within.as_secs().div_ceil(60));
                let data = json!({
                    "used_bytes": used,
                    "limit_bytes": limit,
                    "within_s": within.as_secs(),
                    "what": what,
                });
                self.tell(Some(id), "forecast", &data, ctx);
            }
        }
    }

    fn command<F>(
        &self,
        id: WorkerId,
        over: Over,
        ctx: &mut Context<Self>,
        order: impl FnOnce(ClusterHandle) -> F + 'static,
    ) where
        F: Future<Output = Result<(), CommandError>>,
    {
        let Some(cluster) = self.cluster.clone() else { return };
        let done = async move {
            publish(&cluster, Some(id), "over", &over).await;
            order(cluster).await
        };
        let tell = move |result, _: &mut Self, _: &mut Context<Self>| match result {
            // One that has gone meanwhile uses no memory.
            Ok(()) | Err(CommandError::UnknownWorker(_) | CommandError::Gone) => {}
            Err(error) => {
                tracing::warn!(worker = id.get(), err = %error, "a worker that uses too much memory could not be ended");
            }
        };
        done.into_actor(self).map(tell).spawn(ctx);
    }

    fn tell<T: Serialize>(&self, worker: Option<WorkerId>, name: &'static str, data: &T, ctx: &mut Context<Self>) {
        let Some(cluster) = self.cluster.clone() else { return };
        let Ok(data) = serde_json::to_value(data) else { return };
        async move { publish(&cluster, worker, name, &data).await }
            .into_actor(self)
            .spawn(ctx);
    }

    /// The kernel has killed a worker: says what was known of it, and what to do.
    fn advise(&self, id: WorkerId, slot: &Slot, ctx: &mut Context<Self>) {
        let report = self.view.report();
        let known = report.workers.iter().find(|worker| worker.id == id);
        let limit = known.and_then(|worker| worker.limit_bytes);
        let data = json!({
            "worker": id,
            "slot": slot,
            "last_rss_bytes": known.and_then(|worker| worker.rss_bytes),
            "limit_bytes": limit,
            "group": report.group,
            "what": "the kernel killed a worker for want of memory before the watchdog replaced it: set a lower limit for each \
                     worker, read more often, or give the control group more",
        });
        self.tell(None, "oom", &data, ctx);
    }
}

impl Actor for MemoryWatchdog {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let group = Group::of(std::process::id()).and_then(|group| group.read().usage);
        if group.is_none() {
            tracing::warn!(
                "no control group tells its memory: only /proc is read, a percentage is of the machine's memory"
            );
        }
        ctx.run_interval(self.config.period, |watchdog, ctx| watchdog.read_all(ctx));
    }
}

impl Handler<ClusterEvent> for MemoryWatchdog {
    type Result = ();

    fn handle(&mut self, event: ClusterEvent, ctx: &mut Self::Context) {
        let Some(worker) = event.worker else { return };
        match event.kind {
            EventKind::Ready => self.read_first(worker.id, ctx),
            EventKind::Exit(exit) if exit.reason == ExitReason::Oom => self.advise(worker.id, &worker.slot, ctx),
            _ => {}
        }
    }
}

/// The data of the event `over`.
#[derive(Debug, Serialize)]
struct Over {
    used_bytes: u64,
    limit_bytes: u64,
    action: &'static str,
}

impl Over {
    const fn new(used_bytes: u64, limit_bytes: u64, action: &'static str) -> Self {
        Self {
            used_bytes,
            limit_bytes,
            action,
        }
    }
}

async fn publish<T: Serialize>(cluster: &ClusterHandle, worker: Option<WorkerId>, name: &str, data: &T) {
    match CustomEvent::new(MemoryWatchdog::SOURCE, name, data) {
        // Nobody needs to know about a worker that has gone meanwhile, or in a cluster that has ended.
        Ok(event) => drop(cluster.publish(worker, Announcement::Custom(event)).await),
        Err(error) => tracing::warn!(name, err = %error, "an event about memory has no JSON form"),
    }
}

/// For people.
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
