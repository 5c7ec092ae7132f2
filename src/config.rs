//! What a cluster is made of: plain, already valid data.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{ListenAddr, ListenOptions, Settings, SpecName};
use crate::policy::{
    AutoShutdown, ReadyWhen, RestartDelay, RestartIntensity, RestartLimit, RestartStrategy, RestartType,
    RolloutOptions, ShutdownPolicy, WhenEmpty,
};
use crate::spec::WorkerSpec;

/// A valid configuration. Made by [`ClusterBuilder::build`](crate::ClusterBuilder::build).
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) spec: SpecName,
    pub(crate) workers: u32,
    /// Further specs, after the builder's own.
    pub(crate) more_specs: Vec<WorkerSpec>,
    pub(crate) strategy: Arc<dyn RestartStrategy>,
    pub(crate) auto_shutdown: AutoShutdown,
    pub(crate) recycle: RolloutOptions,
    /// For reloads that name no care of their own.
    pub(crate) reload: RolloutOptions,
    pub(crate) max_age: Option<Duration>,
    pub(crate) listeners: Vec<DeclaredListener>,
    pub(crate) settings: Settings,
    /// The master's own arguments, the default for workers.
    pub(crate) args: Vec<OsString>,
    pub(crate) restart: RestartType,
    pub(crate) delay: RestartDelay,
    pub(crate) slot_limit: RestartLimit,
    pub(crate) intensity: Option<RestartIntensity>,
    pub(crate) stable_after: Duration,
    pub(crate) boot: Duration,
    pub(crate) ask: Duration,
    pub(crate) shutdown: ShutdownPolicy,
    pub(crate) orphan_grace: Duration,
    pub(crate) ready_when: ReadyWhen,
    pub(crate) max_booting: usize,
    pub(crate) when_empty: WhenEmpty,
    pub(crate) signals: bool,
    pub(crate) exit_on_panic: bool,
    pub(crate) seed: u64,
}

impl Config {
    /// Spells out what the settings leave to the master, so that `Setup` tells what is in force.
    pub(crate) fn fill_in(&self, settings: &mut Settings) {
        settings.args.get_or_insert_with(|| self.args.clone());
    }

    /// How long a worker may drain, as it is told: for ever if there is no limit.
    pub(crate) const fn grace(&self) -> Duration {
        match self.shutdown {
            ShutdownPolicy::Grace(grace) => grace,
            ShutdownPolicy::Infinity => Duration::MAX,
            ShutdownPolicy::Brutal => Duration::ZERO,
        }
    }
}

/// A listener bound before the first worker is started.
#[derive(Clone, Debug)]
pub(crate) struct DeclaredListener {
    pub(crate) name: String,
    pub(crate) address: ListenAddr,
    pub(crate) options: ListenOptions,
}
