//! Specs at run time: add, start, stop, restart, delete, replace, and what is in force. OTP's `supervisor`, as a handle has it.
//!
//! Not here: what follows from it (that is supervision), reloads and scaling ([`crate::changes`]).

use std::time::Duration;

use serde::Serialize;

use crate::config::Terms;
use crate::error::CommandError;
use crate::handle::ClusterHandle;
use crate::master::{Command, SpecOrder, SpecReply};
use crate::model::{Counts, Generation, Settings, SpecFault, SpecName, WorkerId, json};
use crate::policy::{
    AutoShutdown, Escalation, OneForOne, ReadyWhen, RestartDelay, RestartIntensity, RestartLimit, RestartStrategy,
    RestartType, ShutdownPolicy, WhenEmpty,
};
use crate::spec::WorkerSpec;
use crate::supervision::{Reconfiguration, Rules, SpecStatus};
use crate::worker_ref::WorkerRef;

/// What is to be different from now on; see [`ClusterHandle::reconfigure`]. What is not named stays.
#[derive(Clone, Debug, Default)]
#[must_use = "changes do nothing until they are given to `reconfigure`"]
pub struct ClusterChanges {
    rules: Reconfiguration,
    specs: Vec<WorkerSpec>,
}

impl ClusterChanges {
    /// No change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Who is restarted together with a worker that failed.
    pub fn strategy(mut self, strategy: impl RestartStrategy + 'static) -> Self {
        self.rules.strategy = Some(std::sync::Arc::new(strategy));
        self
    }

    /// How often the whole cluster may restart workers; `None` for any number of times. What was counted stays counted.
    pub const fn restart_intensity(mut self, intensity: Option<RestartIntensity>) -> Self {
        self.rules.intensity = Some(intensity);
        self
    }

    /// Whether the end of a significant worker ends the cluster. With `Never`, significant workers that run stay, and their
    /// end means nothing; new ones are refused.
    pub const fn auto_shutdown(mut self, rule: AutoShutdown) -> Self {
        self.rules.auto_shutdown = Some(rule);
        self
    }

    /// What to do when no worker is left.
    pub const fn when_empty(mut self, rule: WhenEmpty) -> Self {
        self.rules.when_empty = Some(rule);
        self
    }

    /// The description of one spec, in place of that with its name; as in
    /// [`replace_spec`](ClusterHandle::replace_spec). One with a new name is taken in at the end of the order and *not*
    /// started (OTP's rule for a code change): [`start_spec`](ClusterHandle::start_spec) does that.
    pub fn spec(mut self, spec: WorkerSpec) -> Self {
        self.specs.push(spec);
        self
    }
}

impl ClusterHandle {
    /// Adds a spec at the end of the order and starts it (OTP's `start_child`). Answers with its workers when each of them
    /// is ready, or has ended as one that has nothing to do. If one of them ends otherwise before, the others are
    /// stopped, the spec is taken away again, and the error tells the reason. How long a worker may take is its boot limit.
    ///
    /// # Errors
    /// [`CommandError::AlreadyStarted`], [`CommandError::AlreadyPresent`], [`CommandError::InvalidSpec`],
    /// [`CommandError::NotStarted`], [`CommandError::TooManySlots`], [`CommandError::ShuttingDown`],
    /// [`CommandError::Gone`].
    pub async fn add_spec(&self, spec: WorkerSpec) -> Result<Vec<WorkerRef>, CommandError> {
        check(&spec)?;
        let spec = Box::new(spec);
        self.ask_spec(|reply| Command::AddSpec { spec, reply }).await
    }

    /// Stops every worker of a spec (OTP's `terminate_child`) and waits until they are gone. A temporary spec is then
    /// forgotten, as OTP does it; others are kept and can be started again.
    ///
    /// # Errors
    /// [`CommandError::UnknownSpec`], [`CommandError::Gone`].
    pub async fn stop_spec(&self, spec: impl Into<SpecName>) -> Result<(), CommandError> {
        self.spec_order(spec.into(), SpecOrder::Stop).await.map(drop)
    }

    /// Starts every slot of a stopped spec again (OTP's `restart_child`). Answers with its workers when each is ready; if
    /// one ends before, all are stopped again.
    ///
    /// # Errors
    /// [`CommandError::UnknownSpec`], [`CommandError::SpecRunning`], [`CommandError::SpecRestarting`],
    /// [`CommandError::NotStarted`], [`CommandError::ShuttingDown`], [`CommandError::Gone`].
    pub async fn restart_spec(&self, spec: impl Into<SpecName>) -> Result<Vec<WorkerRef>, CommandError> {
        self.spec_order(spec.into(), SpecOrder::Restart).await
    }

    /// [`restart_spec`](Self::restart_spec), but a spec that runs is told by [`CommandError::AlreadyStarted`].
    ///
    /// # Errors
    /// [`CommandError::UnknownSpec`], [`CommandError::AlreadyStarted`], [`CommandError::SpecRestarting`],
    /// [`CommandError::NotStarted`], [`CommandError::ShuttingDown`], [`CommandError::Gone`].
    pub async fn start_spec(&self, spec: impl Into<SpecName>) -> Result<Vec<WorkerRef>, CommandError> {
        self.spec_order(spec.into(), SpecOrder::Start).await
    }

    /// Removes a stopped spec (OTP's `delete_child`), and what was kept for it.
    ///
    /// # Errors
    /// [`CommandError::UnknownSpec`], [`CommandError::SpecRunning`], [`CommandError::SpecRestarting`],
    /// [`CommandError::ShuttingDown`], [`CommandError::Gone`].
    pub async fn delete_spec(&self, spec: impl Into<SpecName>) -> Result<(), CommandError> {
        self.spec_order(spec.into(), SpecOrder::Delete).await.map(drop)
    }

    /// Puts this description in place of that with its name. Workers that run go on, under the new restart rules and
    /// time-out for their stop at once; whoever is started from now on, by a restart too, gets the new program, arguments
    /// and environment. To replace those that run, [`reload_with`](Self::reload_with) this spec. The number of workers
    /// counts when the spec is started the next time; to change it now, [`scale_spec`](Self::scale_spec).
    ///
    /// # Errors
    /// [`CommandError::UnknownSpec`], [`CommandError::InvalidSpec`], [`CommandError::ShuttingDown`],
    /// [`CommandError::Gone`]; then nothing has changed.
    pub async fn replace_spec(&self, spec: WorkerSpec) -> Result<(), CommandError> {
        self.change(ClusterChanges::new().spec(spec), true).await
    }

    /// Other rules and descriptions, all of them or none: OTP's code change of a supervisor. Nobody is started or stopped by
    /// it; specs that are not named stay as they are.
    ///
    /// # Errors
    /// [`CommandError::InvalidSpec`], [`CommandError::InvalidRules`], [`CommandError::ShuttingDown`],
    /// [`CommandError::Gone`]; then nothing has changed.
    pub async fn reconfigure(&self, changes: ClusterChanges) -> Result<(), CommandError> {
        self.change(changes, false).await
    }

    /// A spec's description in force (OTP's `get_childspec`), and how many of its workers are what.
    ///
    /// # Errors
    /// [`CommandError::UnknownSpec`], [`CommandError::Gone`].
    pub async fn spec(&self, spec: impl Into<SpecName>) -> Result<SpecSnapshot, CommandError> {
        let name = spec.into();
        let spec = Some(name.clone());
        let mut found = self.ask(|reply| Command::Specs { spec, reply }).await?;
        found.pop().ok_or(CommandError::UnknownSpec(name))
    }

    /// Every spec, in start order (OTP's `which_children`).
    ///
    /// # Errors
    /// [`CommandError::Gone`].
    pub async fn specs(&self) -> Result<Vec<SpecSnapshot>, CommandError> {
        self.ask(|reply| Command::Specs { spec: None, reply }).await
    }

    /// What holds for all specs now.
    ///
    /// # Errors
    /// [`CommandError::Gone`].
    pub async fn rules(&self) -> Result<ClusterRules, CommandError> {
        self.ask(|reply| Command::Rules { reply }).await
    }

    /// How many of what, over all specs (OTP's `count_children`).
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.directory().read().counts
    }

    async fn change(&self, changes: ClusterChanges, only_known: bool) -> Result<(), CommandError> {
        let ClusterChanges { mut rules, specs } = changes;
        specs.iter().try_for_each(check)?;
        rules.only_known = only_known;
        let changes = Box::new(rules);
        let change = |reply| Command::Reconfigure { changes, specs, reply };
        self.ask_spec(change).await.map(drop)
    }

    async fn spec_order(&self, spec: SpecName, order: SpecOrder) -> Result<Vec<WorkerRef>, CommandError> {
        self.ask_spec(|reply| Command::Spec { spec, order, reply }).await
    }

    async fn ask_spec(&self, command: impl FnOnce(SpecReply) -> Command) -> Result<Vec<WorkerRef>, CommandError> {
        let workers: Vec<WorkerId> = self.ask(command).await??;
        // One may be dead already; its record is kept for a while.
        Ok(workers
            .into_iter()
            .filter_map(|id| self.worker_dead_or_alive(id))
            .collect())
    }
}

/// What supervision does not look at.
fn check(spec: &WorkerSpec) -> Result<(), CommandError> {
    spec.check_program()
        .map_err(|why: SpecFault| CommandError::InvalidSpec {
            spec: spec.config.name.clone(),
            why,
        })
}

/// One spec's description in force, every default spelled out, and how its workers are.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SpecSnapshot {
    /// Its name.
    pub name: SpecName,
    /// How many workers it has when it is started.
    pub workers: u32,
    /// Which ends deserve a restart.
    pub restart: RestartType,
    /// How long to wait before a restart.
    pub restart_delay: RestartDelay,
    /// How often each of its slots may be restarted.
    pub restart_limit: RestartLimit,
    /// How often all its slots together may be restarted.
    pub restart_intensity: Option<RestartIntensity>,
    /// What follows when that was too often.
    pub escalation: Escalation,
    /// How long a worker must have been ready for its failures before that to be forgiven.
    #[serde(rename = "stable_after_ms", with = "json::millis")]
    pub stable_after: Duration,
    /// How its workers are stopped.
    pub shutdown: ShutdownPolicy,
    /// Does the end of its workers count for [`AutoShutdown`]?
    pub significant: bool,
    /// How old its workers get.
    #[serde(rename = "max_age_ms", with = "json::maybe_millis")]
    pub max_age: Option<Duration>,
    /// After how many requests its workers are replaced; 0 for never.
    pub max_requests: u64,
    /// How long its workers may take from their start until they are ready.
    #[serde(rename = "boot_limit_ms", with = "json::millis")]
    pub boot_limit: Duration,
    /// What makes its workers ready.
    pub ready_when: ReadyWhen,
    /// How long its workers go on accepting when they are told to stop.
    #[serde(rename = "lame_duck_ms", with = "json::millis")]
    pub lame_duck: Duration,
    /// The declared listeners its workers get.
    pub listeners: Vec<String>,
    /// How its next workers are started.
    pub settings: Settings,
    /// What its next worker runs, as long as no reload has got further.
    pub generation: Generation,
    /// How many of its slots and workers are what; `specs` is 1.
    pub counts: Counts,
}

impl SpecSnapshot {
    pub(crate) fn new(status: SpecStatus, settings: Settings, terms: Terms<'_>, listeners: Vec<String>) -> Self {
        let SpecStatus {
            config,
            generation,
            counts,
        } = status;
        Self {
            name: config.name,
            workers: config.count,
            restart: config.restart,
            restart_delay: config.delay,
            restart_limit: config.limit,
            restart_intensity: config.intensity,
            escalation: config.escalation,
            stable_after: config.stable_after,
            shutdown: config.shutdown,
            significant: config.significant,
            max_age: config.max_age,
            max_requests: config.max_requests,
            boot_limit: terms.boot,
            ready_when: terms.ready_when,
            lame_duck: terms.lame_duck,
            listeners,
            settings,
            generation,
            counts,
        }
    }
}

/// What holds for all specs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClusterRules {
    /// The restart strategy, by the name its `Debug` gives.
    pub strategy: String,
    /// How often the whole cluster may restart workers.
    pub restart_intensity: Option<RestartIntensity>,
    /// Whether the end of a significant worker ends the cluster.
    pub auto_shutdown: AutoShutdown,
    /// What happens when no worker is left.
    pub when_empty: WhenEmpty,
}

impl Default for ClusterRules {
    fn default() -> Self {
        Self {
            strategy: format!("{OneForOne:?}"),
            restart_intensity: None,
            auto_shutdown: AutoShutdown::default(),
            when_empty: WhenEmpty::default(),
        }
    }
}

impl From<Rules> for ClusterRules {
    fn from(rules: Rules) -> Self {
        Self {
            strategy: format!("{:?}", rules.strategy),
            restart_intensity: rules.intensity,
            auto_shutdown: rules.auto_shutdown,
            when_empty: rules.when_empty,
        }
    }
}
