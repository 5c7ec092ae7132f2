//! The handle's commands that change what the cluster is: reload, scale, recycle, and the administration of specs.

use std::path::PathBuf;

use crate::error::CommandError;
use crate::handle::ClusterHandle;
use crate::master::{Command, SpecOrder, Verdict};
use crate::model::{Generation, RecycleReason, ReloadError, ReloadFailure, SpecName, WorkerId, WorkerSnapshot};
use crate::policy::RolloutOptions;
use crate::spec::WorkerSpec;
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

    /// Adds a spec at the end of the order and starts it (OTP's `start_child`).
    ///
    /// # Errors
    /// [`CommandError::AlreadyStarted`], [`CommandError::AlreadyPresent`], [`CommandError::InvalidSpec`],
    /// [`CommandError::TooManySlots`], [`CommandError::ShuttingDown`], [`CommandError::Gone`].
    pub async fn add_spec(&self, spec: WorkerSpec) -> Result<(), CommandError> {
        let spec = Box::new(spec);
        self.ask(|reply| Command::AddSpec { spec, reply }).await?
    }

    /// Stops every worker of a spec (OTP's `terminate_child`) and waits until they are gone.
    ///
    /// # Errors
    /// [`CommandError::UnknownSpec`], [`CommandError::Gone`].
    pub async fn stop_spec(&self, spec: impl Into<SpecName>) -> Result<(), CommandError> {
        self.spec_order(spec.into(), SpecOrder::Stop).await
    }

    /// Starts every slot of a stopped spec again (OTP's `restart_child`) and waits until each has a process.
    ///
    /// # Errors
    /// [`CommandError::UnknownSpec`], [`CommandError::SpecRunning`], [`CommandError::SpecRestarting`],
    /// [`CommandError::Spawn`], [`CommandError::ShuttingDown`], [`CommandError::Gone`].
    pub async fn restart_spec(&self, spec: impl Into<SpecName>) -> Result<(), CommandError> {
        self.spec_order(spec.into(), SpecOrder::Restart).await
    }

    /// Starts every slot of a stopped spec and waits until each has a process; one that runs is told by
    /// [`CommandError::AlreadyStarted`].
    ///
    /// # Errors
    /// [`CommandError::UnknownSpec`], [`CommandError::AlreadyStarted`], [`CommandError::Spawn`],
    /// [`CommandError::ShuttingDown`], [`CommandError::Gone`].
    pub async fn start_spec(&self, spec: impl Into<SpecName>) -> Result<(), CommandError> {
        self.spec_order(spec.into(), SpecOrder::Start).await
    }

    /// Removes a stopped spec (OTP's `delete_child`).
    ///
    /// # Errors
    /// [`CommandError::UnknownSpec`], [`CommandError::SpecRunning`], [`CommandError::SpecRestarting`],
    /// [`CommandError::Gone`].
    pub async fn delete_spec(&self, spec: impl Into<SpecName>) -> Result<(), CommandError> {
        self.spec_order(spec.into(), SpecOrder::Delete).await
    }

    async fn spec_order(&self, spec: SpecName, order: SpecOrder) -> Result<(), CommandError> {
        self.ask(|reply| Command::Spec { spec, order, reply }).await?
    }
}
