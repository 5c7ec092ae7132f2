//! `StateTracker`: the present and the past of every worker, slow starts, and a report from time to time.
//!
//! Four parts: the records (`book`), what others read (`reader`), what others ask (`messages`), and here the actor.
//! Judging and ending workers is `HealthMonitor`'s affair.

mod book;
mod messages;
mod reader;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, ContextFutureSpawner, Handler, WrapFuture};
use actix_cluster::{
    Announcement, ClusterBuilder, ClusterEvent, ClusterHandle, CustomEvent, EventFilter, EventKind, Kind, Kinds,
    SubscribeOptions, WorkerId,
};
use serde::Serialize;

use book::Book;
use reader::Shared;

pub use book::{StartUp, WorkerRecord};
pub use messages::{Forget, GetAll, GetState, GetTable, IsHealthy, SetMetadata};
pub use reader::{MetadataError, StateReader};

/// Limits of a [`StateTracker`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a configuration does nothing until a tracker has it"]
pub struct StateTrackerConfig {
    history: usize,
    stale_after: Duration,
    slow_start: Option<Duration>,
}

impl StateTrackerConfig {
    /// The defaults: 1,000 dead workers, stale after 10 s, a start is slow after 5 s.
    pub const fn new() -> Self {
        Self {
            history: 1000,
            stale_after: Duration::from_secs(10),
            slow_start: Some(Duration::from_secs(5)),
        }
    }

    /// How many dead workers are remembered; the oldest death is forgotten first. Default 1,000; 0 for none.
    pub const fn history(mut self, workers: usize) -> Self {
        self.history = workers;
        self
    }

    /// How long after its last heartbeat a worker counts as healthy. Default 10 s.
    pub const fn stale_after(mut self, silence: Duration) -> Self {
        self.stale_after = silence;
        self
    }

    /// A start from fork (or from its slot, of one that stood by) to ready that takes so long is told: a warning in the log, and a `Custom` event `slow_start` of
    /// `state-tracker`, once for each worker, as soon as the time is over. Default 5 s; `None` for never.
    pub const fn slow_start(mut self, limit: Option<Duration>) -> Self {
        self.slow_start = limit;
        self
    }
}

impl Default for StateTrackerConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// Keeps a record of every worker: state and when it was entered, uptime, requests, errors, restarts, last heartbeat,
/// metadata, exit.
///
/// Read it with a [`StateReader`] from any thread, or with [`GetState`], [`GetAll`] and the other messages from actors.
///
/// ```no_run
/// use std::time::Duration;
/// use actix_cluster::{Cluster, Worker};
/// use actix_cluster_actors::{StateTracker, StateTrackerConfig};
///
/// fn main() -> std::process::ExitCode {
///     let tracker = StateTracker::new(StateTrackerConfig::new()).report_to(Duration::from_secs(10), std::io::stderr());
///     let states = tracker.reader(); // `states.all()`, `states.is_healthy(id)`
///     let cluster = Cluster::builder().worker(|worker: Worker| async move { worker.shutdown().started().await });
///     let _ = states;
///     tracker.attach(cluster).main()
/// }
/// ```
pub struct StateTracker {
    config: StateTrackerConfig,
    reader: StateReader,
    report: Option<(Duration, Report)>,
}

/// Where a report goes.
enum Report {
    Log,
    Writer(Box<dyn Write + Send>),
    With(Reporter),
}

type Reporter = Box<dyn FnMut(&[WorkerRecord]) + Send>;

impl StateTracker {
    /// A tracker that reports nothing by itself.
    #[must_use]
    pub fn new(config: StateTrackerConfig) -> Self {
        let shared = Shared {
            book: Mutex::new(Book::new(config.history)),
            cluster: OnceLock::new(),
            stale_after: config.stale_after,
        };
        Self {
            config,
            reader: StateReader {
                shared: Arc::new(shared),
            },
            report: None,
        }
    }

    /// Logs the table of all workers, through `tracing`, once in each `period` (10 s is usual).
    #[must_use]
    pub fn report_to_log(self, period: Duration) -> Self {
        self.reporting(period, Report::Log)
    }

    /// Writes the table of all workers once in each `period`. What `sink` refuses is lost, and one that blocks delays this
    /// tracker's warnings, and nobody else.
    #[must_use]
    pub fn report_to(self, period: Duration, sink: impl Write + Send + 'static) -> Self {
        self.reporting(period, Report::Writer(Box::new(sink)))
    }

    /// Gives the records, the last dead ones included, to `report` once in each `period`.
    #[must_use]
    pub fn report_with(self, period: Duration, report: impl FnMut(&[WorkerRecord]) + Send + 'static) -> Self {
        self.reporting(period, Report::With(Box::new(report)))
    }

    /// A period of zero would leave no time for anything else.
    fn reporting(mut self, period: Duration, report: Report) -> Self {
        self.report = Some((period.max(Duration::from_millis(10)), report));
        self
    }

    /// What it knows, readable from any thread while it runs and afterwards.
    #[must_use]
    pub fn reader(&self) -> StateReader {
        self.reader.clone()
    }

    /// Adds it to a cluster, from the first event on.
    pub fn attach(self, cluster: ClusterBuilder) -> ClusterBuilder {
        cluster.subscribe_with(self.options(), |cluster| self.watch(cluster))
    }

    /// How to subscribe it, beside [`watch`](Self::watch): [`attach`](Self::attach) does both.
    pub fn options(&self) -> SubscribeOptions {
        SubscribeOptions::new()
            .name("state tracker")
            .filter(EventFilter::kinds(Kinds::from(WANTED)))
    }

    /// Starts it on this thread. It must be subscribed by the caller; workers that live already are met at once.
    #[must_use = "it learns of changes from the events it is subscribed to"]
    pub fn watch(self, cluster: ClusterHandle) -> Addr<Self> {
        self.reader.shared.cluster.get_or_init(|| cluster);
        self.start()
    }

    fn cluster(&self) -> Option<&ClusterHandle> {
        self.reader.shared.cluster.get()
    }

    fn meet_all(&self) {
        let living = self.cluster().map(ClusterHandle::workers).unwrap_or_default();
        let rule = self.reader.shared.rule();
        self.reader.shared.book().meet_all(living, rule);
    }

    /// Tells of a slow start, if it is one and was not told.
    fn check_start(&self, id: WorkerId, ctx: &mut Context<Self>) {
        let rule = self.reader.shared.rule();
        let Some(limit) = self.config.slow_start else {
            return;
        };
        let slow = self.reader.shared.book().slow(id, limit, rule);
        let (Some((record, took)), Some(cluster)) = (slow, self.cluster().cloned()) else {
            return;
        };
        let start_up = record.start_up();
        let millis = |span: Option<Duration>| span.map(|span| span.as_millis() as u64);
        let told = SlowStart {
            took_ms: took.as_millis() as u64,
            limit_ms: limit.as_millis() as u64,
            online_ms: millis(start_up.online),
            listening_ms: millis(start_up.listening),
            ready_ms: millis(start_up.ready),
        };
        tracing::warn!(
            worker = id.get(),
            slot = %record.slot,
            delay_ms = told.took_ms,
            "a worker is slow to start"
        );
        let Ok(event) = CustomEvent::new(SOURCE, "slow_start", &told) else {
            return;
        };
        let tell = async move {
            // A worker that has gone meanwhile needs nothing any more.
            cluster.publish(Some(id), Announcement::Custom(event)).await.ok();
        };
        tell.into_actor(self).spawn(ctx);
    }

    fn write_report(&mut self) {
        let records = self.reader.all();
        match &mut self.report {
            None => {}
            Some((_, Report::Log)) => tracing::info!("workers:\n{}", reader::table(&records)),
            Some((_, Report::Writer(sink))) => {
                let text = format!("{}\n", reader::table(&records));
                // The next report tries again.
                sink.write_all(text.as_bytes()).and_then(|()| sink.flush()).ok();
            }
            Some((_, Report::With(report))) => report(&records),
        }
    }
}

impl fmt::Debug for StateTracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateTracker")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Actor for StateTracker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.meet_all();
        if let Some((period, _)) = self.report {
            ctx.run_interval(period, |tracker, _| tracker.write_report());
        }
    }
}

impl Handler<ClusterEvent> for StateTracker {
    type Result = ();

    fn handle(&mut self, event: ClusterEvent, ctx: &mut Self::Context) {
        if matches!(event.kind, EventKind::Lagged { .. }) {
            self.meet_all();
        }
        let Some(info) = &event.worker else {
            return;
        };
        let link = self.cluster().and_then(|cluster| cluster.worker(info.id));
        let rule = self.reader.shared.rule();
        self.reader.shared.book().learn(info, &event.kind, event.at, link, rule);
        let id = info.id;
        match (event.kind.kind(), self.config.slow_start) {
            // Who stands by is never late, and starts anew when it gets a slot.
            (Kind::Fork | Kind::Promoted, Some(limit)) => {
                ctx.run_later(limit, move |tracker, ctx| tracker.check_start(id, ctx));
            }
            (Kind::Ready, _) => self.check_start(id, ctx),
            _ => {}
        }
    }
}

/// What a `slow_start` event says.
#[derive(Serialize)]
struct SlowStart {
    took_ms: u64,
    limit_ms: u64,
    online_ms: Option<u64>,
    listening_ms: Option<u64>,
    ready_ms: Option<u64>,
}

/// Steps of a worker's life.
const WANTED: [Kind; 10] = [
    Kind::Fork,
    Kind::Online,
    Kind::Standby,
    Kind::Promoted,
    Kind::Listening,
    Kind::Ready,
    Kind::Exiting,
    Kind::Disconnect,
    Kind::Exit,
    Kind::Lagged,
];
/// The source of this plug-in's events.
const SOURCE: &str = "state-tracker";
