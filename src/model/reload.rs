//! What became of a reload, and why a worker is replaced on purpose.

use serde::{Deserialize, Serialize};

use super::{Exit, SpecName, WorkerId};

/// Why a reload did not bring the new generation.
///
/// Whatever the reason: the old generation serves on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}{reason}", worker.map(|id| format!("worker {id}: ")).unwrap_or_default())]
pub struct ReloadError {
    /// The worker that failed, if one did.
    pub worker: Option<WorkerId>,
    /// Why.
    pub reason: ReloadFailure,
}

impl ReloadError {
    /// A failure that no single worker is to blame for.
    #[must_use]
    pub const fn general(reason: ReloadFailure) -> Self {
        Self { worker: None, reason }
    }
}

/// The reason of a [`ReloadError`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReloadFailure {
    /// Another reload is running; wait for its end.
    #[error("another reload is running; wait for its end, or ask for this one to be queued")]
    Busy,
    /// The cluster is stopping.
    #[error("the cluster is stopping")]
    ShuttingDown,
    /// All workers of the spec, or of the cluster, were ordered to stop, or restarted as a group, meanwhile.
    #[error("its workers were stopped or restarted together meanwhile")]
    Overtaken,
    /// There is no such spec.
    #[error("there is no worker spec named `{0}`")]
    UnknownSpec(SpecName),
    /// With neither an additional nor a missing worker allowed, nothing can be replaced.
    #[error("`surge` and `max_unavailable` are both 0; allow at least one of them")]
    NoRoom,
    /// A worker of the new generation ended.
    #[error("it ended: {0}")]
    Exited(Box<Exit>),
    /// A worker of the new generation was not ready within the limit of a step.
    #[error("it was not ready within the limit of a step")]
    NotReadyInTime,
    /// The verdict on the canary was bad, with its reason.
    #[error("the verdict on the canary was bad: {0}")]
    Canary(String),
}

/// Why a worker is replaced on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecycleReason {
    /// It has reached the age limit of its spec.
    Age,
    /// It has begun as many requests as it may.
    Requests,
    /// It uses more memory than it may.
    Memory,
    /// Somebody asked for it, with this reason.
    Asked(String),
}
