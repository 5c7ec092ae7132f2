//! One scrape: what is counted, together with what can be seen of the cluster at this instant.
//!
//! Nothing is asked of the supervising thread or of a worker, so a scrape is answered while either of them hangs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use actix::clock::Instant;
use actix_cluster::{
    ClusterEvent, ClusterHandle, ClusterSnapshot, EventKind, Message, Phase, Slot, SlotState, WorkerId, WorkerInfo,
    WorkerRef, WorkerSnapshot,
};

use super::answer::Answer;
use super::forwarded::Forwarded;
use super::ledger::Ledger;
use super::series::{Labels, Ours, Report, Series, Value, recognize};
use super::text::{Family, exposition, labels, slot_labels};
use crate::kernel::process;

/// What a [`Metrics`](super::Metrics) knows, readable from any thread of the master; clones tell the same.
#[derive(Clone, Debug)]
pub struct MetricsView {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    min_ready: usize,
    address: OnceLock<SocketAddr>,
    cluster: OnceLock<ClusterHandle>,
    books: Mutex<Books>,
    /// What workers are answered with.
    answer: Answer,
}

#[derive(Debug, Default)]
struct Books {
    ledger: Ledger,
    forwarded: Forwarded,
    /// Every worker whose exit was not booked yet. A reference tells the last numbers also after the worker's death.
    workers: BTreeMap<WorkerId, WorkerRef>,
    /// Booked without their event, which may still come.
    swept: BTreeSet<WorkerId>,
}

impl MetricsView {
    pub(super) fn new(min_ready: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                min_ready,
                address: OnceLock::new(),
                cluster: OnceLock::new(),
                books: Mutex::default(),
                answer: Answer::default(),
            }),
        }
    }

    /// The text of all metrics, in the OpenMetrics format: [`CONTENT_TYPE`](super::CONTENT_TYPE).
    #[must_use]
    pub fn render(&self) -> String {
        let cluster = self.shared.cluster.get();
        let snapshot = cluster.map(ClusterHandle::snapshot);
        // The kernel is asked before the lock is taken.
        let mut families = snapshot.as_ref().map(instant).unwrap_or_default();
        let mut books = self.books();
        if let Some(cluster) = cluster {
            families.push(books.look(cluster));
        }
        families.extend(books.ledger.families());
        families.push(by_slot(
            Family::counter(
                "actix_cluster_worker_series_refused",
                "Series of workers that were not taken",
            ),
            books
                .forwarded
                .refused()
                .iter()
                .map(|(slot, count)| (slot, Value::Counter(*count))),
        ));
        families.extend(books.forwarded.families());
        drop(books);
        exposition(families)
    }

    /// Where scrapers are served; `None` before, and where nobody is.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.shared.address.get().copied()
    }

    /// Are enough workers ready to send clients here? And the same in words.
    pub(super) fn readiness(&self) -> (bool, String) {
        let Some(snapshot) = self.shared.cluster.get().map(ClusterHandle::snapshot) else {
            return (false, "not started\n".to_owned());
        };
        let min = self.shared.min_ready;
        let is_ready = snapshot.ready >= min && snapshot.phase == Phase::Running;
        let ClusterSnapshot { ready, target, .. } = snapshot;
        (is_ready, format!("ready {ready} of {target}, at least {min}\n"))
    }

    pub(super) fn serves_at(&self, address: SocketAddr) {
        self.shared.address.get_or_init(|| address);
    }

    pub(super) fn begin(&self, cluster: ClusterHandle) {
        self.shared.cluster.get_or_init(|| cluster);
    }

    /// Something happened to a worker or to the cluster.
    pub(super) fn learn(&self, event: &ClusterEvent) {
        let Some(cluster) = self.shared.cluster.get() else {
            return;
        };
        let mut books = self.books();
        // The restart's cause is the exit before it, so the order of the two matters.
        match (&event.kind, &event.worker) {
            (EventKind::Fork, Some(worker)) => books.meet(cluster, worker.id),
            (EventKind::Exit(exit), Some(worker)) => books.exited(cluster, worker, exit),
            (EventKind::Recycling(why), Some(worker)) => books.ledger.recycling(&worker.slot, why),
            (EventKind::Lagged { .. }, _) => books.sweep(),
            _ => {}
        }
        books.ledger.happened(&event.kind);
    }

    /// A worker said something.
    pub(super) fn hear(&self, worker: &WorkerInfo, message: &Message) {
        match recognize(message) {
            Ours::No => {}
            Ours::Scrape => {
                if let Some(reply) = message.reply()
                    && let Err(error) = reply.ok(&*self.shared.answer.at(Instant::now(), || self.render()))
                {
                    reply.err(error.to_string());
                }
            }
            Ours::Report => match message.parse::<Report<Series>>() {
                Ok(report) => self.books().forwarded.told(worker.id, &worker.slot, report.series),
                Err(_) => self.books().forwarded.refuse(&worker.slot),
            },
        }
        self.books().ledger.spoke();
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // A number that a panic left half-way is still a number.
        self.shared.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn meet(&mut self, cluster: &ClusterHandle, id: WorkerId) {
        if let Some(worker) = cluster.worker_dead_or_alive(id) {
            self.workers.entry(id).or_insert(worker);
        }
    }

    fn exited(&mut self, cluster: &ClusterHandle, worker: &WorkerInfo, exit: &actix_cluster::Exit) {
        if self.swept.remove(&worker.id) {
            return;
        }
        self.meet(cluster, worker.id);
        if let Some(known) = self.workers.remove(&worker.id) {
            self.ledger.told(worker.id, &worker.slot, known.snapshot().stats);
        }
        self.ledger.ended(worker.id, &worker.slot, exit);
        self.forwarded.ended(worker.id, &worker.slot);
    }

    /// Events are missing, and exits may be among them: whoever is dead is booked now.
    fn sweep(&mut self) {
        let (dead, workers): (BTreeMap<_, _>, _) = std::mem::take(&mut self.workers)
            .into_iter()
            .partition(|(_, worker)| worker.is_dead());
        self.workers = workers;
        for (id, worker) in dead {
            let Some(exit) = worker.exit() else { continue };
            self.ledger.told(id, worker.slot(), worker.snapshot().stats);
            self.ledger.ended(id, worker.slot(), &exit);
            self.forwarded.ended(id, worker.slot());
            self.swept.insert(id);
            if self.swept.len() > SWEPT_MAX {
                self.swept.pop_first();
            }
        }
    }

    /// Takes the numbers of everybody as they are now. The view is changed before an event is delivered, so whoever is
    /// seen alive here has an exit that is yet to be learnt. Answers with what waits for each slot.
    fn look(&mut self, cluster: &ClusterHandle) -> Family {
        for worker in cluster.workers() {
            self.workers.entry(worker.id()).or_insert(worker);
        }
        let mut queued: BTreeMap<&Slot, f64> = BTreeMap::new();
        for (id, worker) in &self.workers {
            self.ledger.told(*id, worker.slot(), worker.snapshot().stats);
            *queued.entry(worker.slot()).or_default() += gauge(worker.queued_bytes());
        }
        let family = Family::gauge(
            "actix_cluster_worker_queue_bytes",
            "Bytes of messages that wait in the master for a worker to read",
        );
        by_slot(
            family,
            queued.into_iter().map(|(slot, bytes)| (slot, Value::Gauge(bytes))),
        )
    }
}

/// What can be seen at this instant.
fn instant(snapshot: &ClusterSnapshot) -> Vec<Family> {
    let mut families = vec![
        single(
            "actix_cluster_ready_workers",
            "Workers that can serve",
            gauge(snapshot.ready),
        ),
        single(
            "actix_cluster_target_workers",
            "Workers that should be ready",
            gauge(snapshot.target),
        ),
        single(
            "actix_cluster_live_workers",
            "Processes that live",
            gauge(snapshot.counts.active),
        ),
        single(
            "actix_cluster_reloading",
            "1 while a reload runs",
            gauge(usize::from(snapshot.reloading.is_some())),
        ),
        single(
            "actix_cluster_uptime_seconds",
            "Time since the master's start",
            snapshot.uptime.as_secs_f64(),
        ),
        workers_by_state(snapshot),
        slots_by_state(snapshot),
        loops(snapshot),
    ];
    if let Some(lag) = snapshot.lag {
        let late = lag.at(snapshot.now()).as_secs_f64();
        families.push(single(
            "actix_cluster_master_lag_seconds",
            "How late the supervising loop is",
            late,
        ));
        let pauses = Family::counter("actix_cluster_master_pauses", "Times that the master was held up");
        families.push(pauses.row(Labels::new(), Value::Counter(lag.pauses)));
    }
    if let Some(rss) = process::rss(snapshot.master_pid) {
        families.push(single(
            "actix_cluster_master_resident_memory_bytes",
            "Memory of the master",
            bytes(rss),
        ));
    }
    let heard = |worker: &WorkerSnapshot| {
        let at = worker.last_heartbeat?;
        Some(snapshot.now().since(at).as_secs_f64())
    };
    let generation = |worker: &WorkerSnapshot| Some(f64::from(worker.generation.0));
    families.extend([
        worst(
            "actix_cluster_worker_heartbeat_age_seconds",
            "Time since the last heartbeat",
            snapshot,
            heard,
            f64::max,
        ),
        worst(
            "actix_cluster_worker_resident_memory_bytes",
            "Memory of the worker, as the kernel tells it",
            snapshot,
            |worker| Some(bytes(process::resident(worker.pid?, snapshot.master_pid)?.rss)),
            |sum, more| sum + more,
        ),
        worst(
            "actix_cluster_worker_generation",
            "Generation of the worker, the newer of two",
            snapshot,
            generation,
            f64::max,
        ),
    ]);
    families
}

/// A gauge for each slot, of which two workers may have a part: one that comes and one that leaves.
fn worst(
    name: &str,
    help: &str,
    snapshot: &ClusterSnapshot,
    value: impl Fn(&WorkerSnapshot) -> Option<f64>,
    both: impl Fn(f64, f64) -> f64,
) -> Family {
    let mut slots: BTreeMap<&Slot, f64> = BTreeMap::new();
    for worker in &snapshot.workers {
        if let Some(value) = value(worker) {
            let joined = slots.get(&worker.slot).map_or(value, |other| both(*other, value));
            slots.insert(&worker.slot, joined);
        }
    }
    by_slot(
        Family::gauge(name, help),
        slots.into_iter().map(|(slot, value)| (slot, Value::Gauge(value))),
    )
}

fn workers_by_state(snapshot: &ClusterSnapshot) -> Family {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for state in ["created", "online", "listening", "exiting", "disconnected"] {
        counts.insert(state, 0);
    }
    for worker in &snapshot.workers {
        *counts.entry(worker.state.as_str()).or_default() += 1;
    }
    let family = Family::gauge("actix_cluster_workers", "Workers, by state");
    counts.into_iter().fold(family, |family, (state, count)| {
        family.row(labels([("state", state)]), Value::Gauge(gauge(count)))
    })
}

fn slots_by_state(snapshot: &ClusterSnapshot) -> Family {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for state in ["queued", "filled", "waiting", "failed", "stopped", "declined", "held"] {
        counts.insert(state, 0);
    }
    for slot in &snapshot.slots {
        let state = match slot.state {
            SlotState::Queued => "queued",
            SlotState::Filled => "filled",
            SlotState::Waiting { .. } => "waiting",
            SlotState::Failed => "failed",
            SlotState::Stopped => "stopped",
            SlotState::Declined => "declined",
            SlotState::Held => "held",
            _ => "other",
        };
        *counts.entry(state).or_default() += 1;
    }
    let family = Family::gauge("actix_cluster_slots", "Slots, by state");
    counts.into_iter().fold(family, |family, (state, count)| {
        family.row(labels([("state", state)]), Value::Gauge(gauge(count)))
    })
}

/// How late each loop of each slot's worker was at its last heartbeat.
fn loops(snapshot: &ClusterSnapshot) -> Family {
    let mut late: BTreeMap<Labels, f64> = BTreeMap::new();
    for worker in &snapshot.workers {
        for it in &worker.loops {
            let mut key = slot_labels(&worker.slot);
            key.insert("loop".to_owned(), it.name.clone());
            let worst = late.entry(key).or_default();
            *worst = worst.max(it.late.as_secs_f64());
        }
    }
    let family = Family::gauge(
        "actix_cluster_worker_loop_lag_seconds",
        "How late a loop was, at the last heartbeat",
    );
    late.into_iter()
        .fold(family, |family, (labels, late)| family.row(labels, Value::Gauge(late)))
}

fn by_slot<'a>(family: Family, rows: impl Iterator<Item = (&'a Slot, Value)>) -> Family {
    rows.fold(family, |family, (slot, value)| family.row(slot_labels(slot), value))
}

fn single(name: &str, help: &str, value: f64) -> Family {
    Family::gauge(name, help).row(Labels::new(), Value::Gauge(value))
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a floating-point number")]
const fn gauge(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a floating-point number")]
const fn bytes(count: u64) -> f64 {
    count as f64
}

/// Exits that were booked before their event.
const SWEPT_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use actix_cluster::testing::RecordingHandle;
    use actix_cluster::{Exit, ExitReason, ExitStatus, Message, Payload, WorkerState};

    use super::*;

    fn worker(id: u64, requests: u64) -> WorkerSnapshot {
        let mut worker = WorkerSnapshot::for_test(id, Slot::new("web", 0), WorkerState::Listening);
        worker.stats.requests = requests;
        worker
    }

    fn crash() -> Exit {
        Exit {
            status: ExitStatus::Code(1),
            reason: ExitReason::Crash,
            forced: false,
            requests_cut: 0,
            was_ready: true,
            drain: None,
            last_words: None,
        }
    }

    fn has(view: &MetricsView, line: &str) {
        let text = view.render();
        assert!(text.lines().any(|it| it == line), "no {line:?} in\n{text}");
    }

    #[actix_rt::test]
    async fn exits_that_were_missed_are_booked_once_and_the_gap_is_told() {
        let (cluster, recorder) = RecordingHandle::new(ClusterSnapshot::for_test([worker(1, 5)]));
        let view = MetricsView::new(1);
        view.begin(cluster.clone());
        has(&view, "actix_cluster_requests_total{slot=\"0\",spec=\"web\"} 5");
        let mut events = cluster.events();
        recorder.publish(Some(WorkerId::new(1)), EventKind::Exit(crash()));
        let exit = events.next().await.unwrap();
        let info = exit.worker.clone().unwrap();
        recorder.show(|snapshot| snapshot.workers = vec![worker(2, 3)]);
        view.learn(&exit);
        assert_eq!(info.id, WorkerId::new(1));
        has(&view, "actix_cluster_requests_total{slot=\"0\",spec=\"web\"} 8");
        has(
            &view,
            "actix_cluster_exits_total{reason=\"crash\",slot=\"0\",spec=\"web\"} 1",
        );
        recorder.publish(None, EventKind::Lagged { from: 7, to: 9 });
        view.learn(&events.next().await.unwrap());
        has(&view, "actix_cluster_metrics_events_missed_total 3");
    }

    #[actix_rt::test]
    async fn what_is_no_report_is_refused_and_harms_nobody() {
        let (cluster, _recorder) = RecordingHandle::new(ClusterSnapshot::for_test([worker(1, 0)]));
        let view = MetricsView::new(1);
        view.begin(cluster);
        let info = worker(1, 0).info();
        let lies = [
            serde_json::json!({"actix_cluster_metrics": 1}),
            serde_json::json!({"actix_cluster_metrics": [{"name": "a", "help": "", "value": {"counter": -1}}]}),
            serde_json::json!({"actix_cluster_metrics": [{"name": "a\nb 1", "help": "", "value": {"counter": 1}}]}),
            serde_json::json!({"actix_cluster_metrics": [{"name": "a", "help": "x\n# EOF", "value": {"counter": 1}}]}),
            serde_json::json!({"other": [1]}),
        ];
        for lie in &lies {
            view.hear(&info, &Message::for_test(lie).unwrap());
        }
        has(
            &view,
            "actix_cluster_worker_series_refused_total{slot=\"0\",spec=\"web\"} 4",
        );
        let good = serde_json::json!({"actix_cluster_metrics": [{"name": "a", "help": "", "value": {"counter": 2}}]});
        view.hear(&info, &Message::for_test(&good).unwrap());
        has(&view, "a_total 2");
        assert_eq!(view.render().matches("# EOF").count(), 1);
        assert!(Payload::from_value(&view.render()).is_ok());
    }
}
