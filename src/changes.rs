//! The handle's commands that change what the cluster is: reload, scale, recycle.
//!
//! Not here: the administration of specs ([`crate::administration`]).

use std::path::PathBuf;

use crate::error::CommandError;
use crate::handle::ClusterHandle;
use crate::master::{Command, Verdict};
use crate::model::{
    Announcement, EndCause, Generation, RecycleReason, ReloadError, ReloadFailure, Signal, SpecName, WorkerId,
    WorkerSnapshot,
};
use crate::policy::RolloutOptions;
use crate::supervision::ScaleTarget;

/// How a reload is done; see [`ClusterHandle::reload_with`]. The default is all specs, with the care that the cluster was
/// built with ([`ClusterBuilder::reload_options`](crate::ClusterBuilder::reload_options)), refused while another reload
/// runs.
#[must_use = "options do nothing until they are given to `reload_with`"]
#[derive(Default)]
pub struct ReloadOptions {
    /// `None` for the cluster's own.
    pub(crate) rollout: Option<RolloutOptions>,
    pub(crate) spec: Option<SpecName>,
    pub(crate) exec: Option<PathBuf>,
    pub(crate) queue: bool,
    pub(crate) verdict: Option<Verdict>,
}

impl ReloadOptions {
    /// All specs, with the given care, refused while another reload runs.
    pub fn new(rollout: RolloutOptions) -> Self {
        Self {
            rollout: Some(rollout),
            ..Self::default()
        }
    }

    /// Only this spec.
    pub fn spec(mut self, spec: impl Into<SpecName>) -> Self {
        self.spec = Some(spec.into());
        self
    }

    /// The new generation of the spec (of the builder's own, if none is named) runs this program, with the arguments and
    /// the environment of before. When the reload has succeeded, the settings say so; until then, and after a failure,
    /// every restart of the old generation runs the old program.
    pub fn exec(mut self, program: impl Into<PathBuf>) -> Self {
        self.exec = Some(program.into());
        self
    }

    /// Waits for the end of a running reload instead of being refused. One reload can wait.
    pub const fn queue(mut self) -> Self {
        self.queue = true;
        self
    }

    /// Judges the canary when it has baked: an error rolls back, with its text as the reason. Runs in the master, on the
    /// plug-ins' thread. Default: a canary that lives is good. Without [`RolloutOptions::canary`] it is not asked.
    pub fn verdict(mut self, judge: impl FnOnce(Vec<WorkerSnapshot>) -> Result<(), String> + Send + 'static) -> Self {
        self.verdict = Some(Box::new(judge));
        self
    }
}

impl std::fmt::Debug for ReloadOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadOptions")
            .field("rollout", &self.rollout)
            .field("spec", &self.spec)
            .field("exec", &self.exec)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl ClusterHandle {
    /// Replaces every worker by one of a new generation, which runs the program that is on disk *now*, with the care that
    /// the cluster was built with, by default one at a time, each successor ready before its predecessor is stopped.
    /// Answers when all are replaced.
    ///
    /// # Errors
    /// [`ReloadError`] with the reason; the old generation serves on then, whatever the reason.
    pub async fn reload(&self) -> Result<Generation, ReloadError> {
        self.reload_with(ReloadOptions::default()).await
    }

    /// [`reload`](Self::reload) with a care of one's own.
    ///
    /// # Errors
    /// As `reload`.
    pub async fn reload_with(&self, options: ReloadOptions) -> Result<Generation, ReloadError> {
        let reload = |reply| Command::Reload {
            options,
            reply: Some(reply),
        };
        let gone = |_| ReloadError::general(ReloadFailure::ShuttingDown);
        self.ask(reload).await.map_err(gone)?
    }

    /// Sets the number of workers of the builder's own spec; answers with the number that is wanted now. Too few or too
    /// many are brought to the nearest that can be. Scaling down drains, the least busy first.
    ///
    /// # Errors
    /// [`CommandError::ShuttingDown`], [`CommandError::Gone`].
    pub async fn scale(&self, workers: u32) -> Result<u32, CommandError> {
        let target = ScaleTarget::To(i64::from(workers));
        self.ask(|reply| Command::Scale {
            spec: None,
            target,
            reply: Some(reply),
        })
        .await?
    }

    /// [`scale`](Self::scale) for another spec.
    ///
    /// # Errors
    /// Besides those of `scale`: [`CommandError::UnknownSpec`].
    pub async fn scale_spec(&self, spec: impl Into<SpecName>, workers: u32) -> Result<u32, CommandError> {
        let (spec, target) = (Some(spec.into()), ScaleTarget::To(i64::from(workers)));
        self.ask(|reply| Command::Scale {
            spec,
            target,
            reply: Some(reply),
        })
        .await?
    }

    /// Replaces one worker on purpose, its successor first; counts as no failure. Answers when the order is given.
    ///
    /// # Errors
    /// [`CommandError::UnknownWorker`] if it has exited, [`CommandError::Gone`].
    pub async fn recycle(&self, worker: WorkerId, why: RecycleReason) -> Result<(), CommandError> {
        self.ask(|reply| Command::Recycle { worker, why, reply }).await?
    }

    /// [`kill`](Self::kill) for a reason, which the worker's exit tells: for plug-ins that end a worker. It counts as a
    /// failure. A stop that was ordered before stays the reason.
    ///
    /// # Errors
    /// As `kill`.
    pub async fn kill_for(&self, worker: WorkerId, signal: Signal, cause: EndCause) -> Result<(), CommandError> {
        let cause = Some(cause);
        self.ask(|reply| Command::Kill {
            worker,
            signal,
            cause,
            reply,
        })
        .await?
    }

    /// Makes something known to every subscriber, in its place among the events; about a worker, if one is named. For
    /// plug-ins: what follows from it is up to who hears it.
    ///
    /// # Errors
    /// [`CommandError::UnknownWorker`] if the worker has exited, [`CommandError::Gone`].
    pub async fn publish(&self, worker: Option<WorkerId>, announcement: Announcement) -> Result<(), CommandError> {
        self.ask(|reply| Command::Publish {
            worker,
            announcement,
            reply,
        })
        .await?
    }
}
