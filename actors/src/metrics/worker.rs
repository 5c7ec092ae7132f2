//! The worker's side: metrics that your code defines and changes, told to the master when they have changed.
//!
//! Changing one costs an atomic operation (a histogram: a short lock). Not here: adding up over workers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_cluster::{CallError, SendError, Worker};
use tokio::sync::Notify;

use super::series::{Buckets, Labels, MetricError, Report, SCRAPE, Series, Value};

/// The metrics of this worker. Clones share them.
///
/// What they hold is told to the master at most once a second, when it has changed, every 30 s also when it has not, and once
/// more when the worker ends in order; a worker that is killed takes along what it counted since it told last.
///
/// ```no_run
/// use actix_cluster::Worker;
/// use actix_cluster_actors::metrics::worker::WorkerMetrics;
///
/// # async fn serve(worker: Worker) -> Result<(), actix_cluster_actors::metrics::MetricError> {
/// let metrics = WorkerMetrics::new(&worker);
/// let jobs = metrics.counter("jobs_total", "Jobs done", &[("queue", "mail")])?;
/// jobs.inc();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct WorkerMetrics {
    shared: Arc<Shared>,
    per_slot: bool,
}

struct Shared {
    worker: Worker,
    series: Mutex<BTreeMap<Key, Entry>>,
    signal: Arc<Signal>,
}

type Key = (String, Labels, bool);

struct Entry {
    help: String,
    cell: Cell,
}

/// Where the value of a series is kept.
#[derive(Clone)]
enum Cell {
    Counter(Arc<AtomicU64>),
    /// The bits of a floating-point number.
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Mutex<Buckets>>),
}

/// Tells the reporter that something has changed.
#[derive(Debug, Default)]
struct Signal {
    dirty: AtomicBool,
    changed: Notify,
}

impl WorkerMetrics {
    /// The metrics of this worker, and the task that tells them. To be called once, on the worker's main thread, as its
    /// own function is; what two of them register under the same name is told as one by turns, so keep to one.
    #[must_use]
    pub fn new(worker: &Worker) -> Self {
        let shared = Arc::new(Shared {
            worker: worker.clone(),
            series: Mutex::default(),
            signal: Arc::default(),
        });
        actix::spawn(report(Arc::clone(&shared)));
        let last = Arc::clone(&shared);
        // If the channel is closed or full, there is nobody left to tell.
        worker.on_shutdown(move || async move { drop(last.tell()) });
        Self {
            shared,
            per_slot: false,
        }
    }

    /// The same metrics; what is registered through this is shown for each slot, with the labels `spec` and `slot`,
    /// instead of as a sum over the cluster.
    #[must_use]
    pub fn per_slot(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            per_slot: true,
        }
    }

    /// A number that only grows; in the master the sum over all workers that ever were. A name that ends in `_total` and
    /// one without it are the same. Registering the same again gives the same counter.
    ///
    /// # Errors
    /// [`MetricError`].
    pub fn counter(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Result<Counter, MetricError> {
        let cell = self.register(name, help, labels, Value::Counter(0), &Cell::Counter(Arc::default()))?;
        let Cell::Counter(value) = cell else {
            return Err(MetricError::Differs(name.to_owned()));
        };
        Ok(Counter {
            value,
            signal: Arc::clone(&self.shared.signal),
        })
    }

    /// A number that goes up and down; in the master the sum over the workers that live.
    ///
    /// # Errors
    /// [`MetricError`].
    pub fn gauge(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Result<Gauge, MetricError> {
        let cell = self.register(name, help, labels, Value::Gauge(0.0), &Cell::Gauge(Arc::default()))?;
        let Cell::Gauge(bits) = cell else {
            return Err(MetricError::Differs(name.to_owned()));
        };
        Ok(Gauge {
            bits,
            signal: Arc::clone(&self.shared.signal),
        })
    }

    /// Observations, counted in buckets by these upper bounds; in the master the sum over all workers that ever were.
    /// A slot whose new worker has other bounds than its last one keeps the old ones; take another name then.
    ///
    /// # Errors
    /// [`MetricError`].
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        bounds: &[f64],
    ) -> Result<Histogram, MetricError> {
        let value = Buckets::new(bounds);
        let cell = Cell::Histogram(Arc::new(Mutex::new(value.clone())));
        let Cell::Histogram(buckets) = self.register(name, help, labels, Value::Histogram(value), &cell)? else {
            return Err(MetricError::Differs(name.to_owned()));
        };
        Ok(Histogram {
            buckets,
            signal: Arc::clone(&self.shared.signal),
        })
    }

    fn register(
        &self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        value: Value,
        cell: &Cell,
    ) -> Result<Cell, MetricError> {
        let by_name: Labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        if by_name.len() != labels.len() {
            return Err(MetricError::Labels(name.to_owned()));
        }
        let wanted = Series {
            name: name.to_owned(),
            help: help.to_owned(),
            labels: by_name,
            per_slot: self.per_slot,
            value,
        }
        .checked()?;
        let mut series = lock(&self.shared.series);
        let differs = series.iter().any(|((name, ..), entry)| {
            *name == wanted.name && !(entry.help == wanted.help && entry.cell.is_like(&wanted.value))
        });
        if differs {
            return Err(MetricError::Differs(wanted.name));
        }
        let key = (wanted.name, wanted.labels, wanted.per_slot);
        if let Some(entry) = series.get(&key) {
            return Ok(entry.cell.clone());
        }
        if series.len() >= Series::MAX {
            return Err(MetricError::TooMany);
        }
        let entry = Entry {
            help: wanted.help,
            cell: cell.clone(),
        };
        series.insert(key, entry);
        drop(series);
        // A series is shown from its registration on: `rate` wants to see the zero.
        self.shared.signal.raise();
        Ok(cell.clone())
    }
}

impl fmt::Debug for WorkerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerMetrics")
            .field("per_slot", &self.per_slot)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn tell(&self) -> Result<(), SendError> {
        let series = lock(&self.series);
        let told = series.iter().map(|((name, labels, per_slot), entry)| Series {
            name: name.clone(),
            help: entry.help.clone(),
            labels: labels.clone(),
            per_slot: *per_slot,
            value: entry.cell.value(),
        });
        let report = Report { series: told.collect() };
        drop(series);
        self.worker.send(&report)
    }
}

impl Cell {
    fn value(&self) -> Value {
        match self {
            Self::Counter(value) => Value::Counter(value.load(Ordering::SeqCst)),
            Self::Gauge(bits) => Value::Gauge(f64::from_bits(bits.load(Ordering::SeqCst))),
            Self::Histogram(buckets) => Value::Histogram(lock(buckets).clone()),
        }
    }

    fn is_like(&self, value: &Value) -> bool {
        match (self.value(), value) {
            (Value::Histogram(ours), Value::Histogram(theirs)) => ours.bounds == theirs.bounds,
            (ours, theirs) => ours.kind() == theirs.kind(),
        }
    }
}

impl Signal {
    /// The reporter clears `dirty` and then reads the values; here the value was changed before `dirty` is raised. With
    /// `SeqCst` one of the two sees the other, so no change goes untold.
    fn raise(&self) {
        if !self.dirty.load(Ordering::SeqCst) && !self.dirty.swap(true, Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }

    async fn changed(&self) {
        while !self.dirty.swap(false, Ordering::SeqCst) {
            self.changed.notified().await;
        }
    }

    /// Resolves when the values are to be told: they have changed, or nothing was told for so long. A report can get lost in
    /// the master's queue, and the worker does not learn of it.
    async fn due(&self, repeat: Duration) {
        // Too late is as good as a change, and clears nothing that was raised meanwhile.
        drop(tokio::time::timeout(repeat, self.changed()).await);
    }
}

/// Tells the series when they have changed, at most once in a while, and else from time to time. Ends with the channel.
async fn report(shared: Arc<Shared>) {
    // Before the first one is registered there is nothing to repeat.
    shared.signal.changed().await;
    shared.signal.raise();
    loop {
        shared.signal.due(REPEAT).await;
        match shared.tell() {
            Ok(()) => {}
            // The master does not read fast enough: the next report says it all.
            Err(SendError::Full(_)) => shared.signal.raise(),
            Err(SendError::Closed(_)) => return,
            Err(error) => tracing::warn!(err = %error, "the metrics of this worker could not be told"),
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// A number that only grows. Clones are the same.
#[derive(Clone, Debug)]
pub struct Counter {
    value: Arc<AtomicU64>,
    signal: Arc<Signal>,
}

impl Counter {
    /// Adds 1.
    pub fn inc(&self) {
        self.inc_by(1);
    }

    /// Adds `n`.
    pub fn inc_by(&self, n: u64) {
        self.value.fetch_add(n, Ordering::SeqCst);
        self.signal.raise();
    }

    /// The value since this process's start.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::SeqCst)
    }
}

/// A number that goes up and down. Clones are the same.
#[derive(Clone, Debug)]
pub struct Gauge {
    bits: Arc<AtomicU64>,
    signal: Arc<Signal>,
}

impl Gauge {
    /// Sets it; what is no finite number is ignored.
    pub fn set(&self, value: f64) {
        self.change(|_| value);
    }

    /// Adds `value`, which may be negative. A result that is no finite number is ignored.
    pub fn add(&self, value: f64) {
        self.change(|now| now + value);
    }

    /// The value in this process.
    #[must_use]
    pub fn get(&self) -> f64 {
        f64::from_bits(self.bits.load(Ordering::SeqCst))
    }

    fn change(&self, change: impl Fn(f64) -> f64) {
        let update = |bits| {
            let value = change(f64::from_bits(bits));
            value.is_finite().then_some(value.to_bits())
        };
        if self
            .bits
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, update)
            .is_ok()
        {
            self.signal.raise();
        }
    }
}

/// Observations in buckets. Clones are the same.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Arc<Mutex<Buckets>>,
    signal: Arc<Signal>,
}

impl Histogram {
    /// Counts an observation; what is no finite number is ignored.
    pub fn observe(&self, value: f64) {
        if value.is_finite() {
            lock(&self.buckets).observe(value);
            self.signal.raise();
        }
    }
}

/// The whole cluster's text, for a route in the worker's own application: asks the master.
///
/// # Errors
/// [`CallError`]; nobody answers where the master has no [`Metrics`](super::Metrics), and a text longer than a message
/// may be (1 MiB) is refused.
pub async fn scrape(worker: &Worker, deadline: Duration) -> Result<String, CallError> {
    worker.call(SCRAPE, deadline).await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic between two changes leaves a whole value behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Values are told at most this often.
const PERIOD: Duration = Duration::from_secs(1);
/// Values that do not change are told this often.
const REPEAT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn what_does_not_change_is_told_again_and_a_change_at_once() {
        let signal = Signal::default();
        let ever = Duration::from_secs(3600);
        signal.raise();
        signal.due(ever).await;
        // Nothing has changed since; this ends by itself.
        let again = signal.due(Duration::from_millis(1));
        tokio::time::timeout(Duration::from_secs(60), again).await.unwrap();
        // What changes while nobody waits is not lost by a repetition that came before it.
        signal.raise();
        signal.due(ever).await;
        let waits = signal.due(ever);
        let changes = async { signal.raise() };
        tokio::join!(waits, changes);
    }
}
