//! The view of a `StateTracker`, for any thread and any time: records, metadata, the table.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use actix_cluster::{ClusterHandle, WorkerId};
use comfy_table::{Table, presets};
use serde_json::Value;

use super::book::{Book, HealthRule, WorkerRecord};

/// What a [`StateTracker`](super::StateTracker) knows; clones read the same. Reading never waits for the tracker.
#[derive(Clone, Debug)]
pub struct StateReader {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) book: Mutex<Book>,
    pub(super) cluster: OnceLock<ClusterHandle>,
    pub(super) stale_after: Duration,
}

impl Shared {
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        // Every change of the book leaves it whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where no worker beats, silence says nothing. The master measures its own lag exactly where heartbeats are on.
    pub(super) fn rule(&self) -> HealthRule {
        HealthRule {
            stale_after: self.stale_after,
            needs_heartbeat: self.cluster.get().is_some_and(|cluster| cluster.lag().is_some()),
        }
    }
}

impl StateReader {
    /// One worker, living or among the last that died.
    #[must_use]
    pub fn get(&self, id: WorkerId) -> Option<WorkerRecord> {
        self.shared.book().get(id, self.shared.rule())
    }

    /// Every worker, the last dead ones included, by id.
    #[must_use]
    pub fn all(&self) -> Vec<WorkerRecord> {
        self.shared.book().all(self.shared.rule())
    }

    /// Does the worker serve (it listens, or is ready if it has nothing to listen on), and was it heard of in time? Its birth
    /// counts as heard; where the cluster's heartbeats are off, serving is enough. False for a worker nobody knows.
    #[must_use]
    pub fn is_healthy(&self, id: WorkerId) -> bool {
        self.get(id).is_some_and(|record| record.healthy)
    }

    /// Puts something down about a worker, dead or alive; `Null` takes it away again.
    ///
    /// # Errors
    /// [`MetadataError`] if the worker is not known, or it would be too much.
    pub fn set_metadata(&self, id: WorkerId, key: &str, value: Value) -> Result<(), MetadataError> {
        let mut book = self.shared.book();
        let record = book.record_mut(id).ok_or(MetadataError::UnknownWorker(id))?;
        if value.is_null() {
            record.metadata.remove(key);
            return Ok(());
        }
        let bytes = key.len() + value.to_string().len();
        let is_new = !record.metadata.contains_key(key);
        if bytes > METADATA_BYTES_MAX || (is_new && record.metadata.len() >= METADATA_KEYS_MAX) {
            return Err(MetadataError::TooMuch { bytes });
        }
        record.metadata.insert(key.to_owned(), value);
        Ok(())
    }

    /// Drops the record of a worker; true if there was one. One that lives is in the book again with its next event.
    #[must_use = "whether there was one"]
    pub fn forget(&self, id: WorkerId) -> bool {
        self.shared.book().forget(id)
    }

    /// The workers that live, and how the one before each of them ended, as a table for people.
    #[must_use]
    pub fn table(&self) -> String {
        table(&self.all())
    }
}

/// Why something was not put down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// There is no record of this worker.
    #[error("there is no record of worker {0}: its fork was not heard of yet, or it died too long ago")]
    UnknownWorker(WorkerId),
    /// Over the limit.
    #[error("an entry of {bytes} bytes: a worker has at most 64 entries of 4 KiB; remove one, or store it elsewhere")]
    TooMuch {
        /// Key and value together.
        bytes: usize,
    },
}

pub(super) fn table(records: &[WorkerRecord]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "worker",
        "slot",
        "gen",
        "pid",
        "state",
        "healthy",
        "uptime",
        "requests",
        "errors",
        "restarts",
        "start",
        "last exit",
    ]);
    for record in records.iter().filter(|record| !record.state.is_dead()) {
        let before = records
            .iter()
            .filter(|other| other.slot == record.slot && other.exit.is_some())
            .max_by_key(|other| other.times.exited);
        table.add_row([
            record.id.to_string(),
            record.slot.to_string(),
            record.generation.to_string(),
            record.pid.map_or_else(String::new, |pid| pid.to_string()),
            record.state.to_string(),
            if record.healthy { "yes" } else { "no" }.to_owned(),
            format!("{:.1} s", record.uptime.as_secs_f64()),
            record.requests.to_string(),
            record.errors.to_string(),
            record.restarts.to_string(),
            record
                .start_up()
                .total
                .map_or_else(String::new, |took| format!("{} ms", took.as_millis())),
            before
                .and_then(|before| before.exit.as_ref())
                .map_or_else(String::new, ToString::to_string),
        ]);
    }
    table.trim_fmt()
}

const METADATA_KEYS_MAX: usize = 64;
const METADATA_BYTES_MAX: usize = 4 << 10;
