//! `WorkerSpec`: one kind of worker, when a cluster has several.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::{Program, Settings, SpecName};
use crate::policy::{Escalation, RestartDelay, RestartIntensity, RestartLimit, RestartType, ShutdownPolicy};
use crate::supervision::SpecConfig;

/// One kind of worker of a cluster: OTP's child specification, for N processes.
///
/// A cluster is an ordered list of specs. All of them run the worker function of the builder (or the program given here);
/// [`Worker::slot`](crate::Worker::slot) tells a worker which spec it belongs to. Defaults are those of the builder's own
/// setters, where nothing else is said.
#[derive(Clone, Debug)]
#[must_use = "a spec does nothing until it is given to a cluster"]
pub struct WorkerSpec {
    pub(crate) config: SpecConfig,
    pub(crate) exec: Option<PathBuf>,
    pub(crate) args: Option<Vec<OsString>>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) cluster: bool,
}

impl WorkerSpec {
    /// A spec of `workers` permanent workers.
    pub fn new(name: impl Into<SpecName>, workers: u32) -> Self {
        Self {
            config: SpecConfig::new(name, workers),
            exec: None,
            args: None,
            env: Vec::new(),
            cluster: false,
        }
    }

    /// Which ends deserve a restart.
    pub const fn restart(mut self, restart: RestartType) -> Self {
        self.config.restart = restart;
        self
    }

    /// How long to wait before a restart.
    pub const fn restart_delay(mut self, delay: RestartDelay) -> Self {
        self.config.delay = delay;
        self
    }

    /// How often each of its slots may be restarted.
    pub const fn restart_limit(mut self, limit: RestartLimit) -> Self {
        self.config.limit = limit;
        self
    }

    /// How often all its slots together may be restarted, and what follows when that was too often. Default: no limit.
    pub const fn restart_intensity(mut self, intensity: RestartIntensity, escalation: Escalation) -> Self {
        self.config.intensity = Some(intensity);
        self.config.escalation = escalation;
        self
    }

    /// How long a worker must have been ready for its failures before that to be forgiven. Default 60 s.
    pub const fn stable_after(mut self, time: Duration) -> Self {
        self.config.stable_after = time;
        self
    }

    /// How its workers are stopped.
    pub const fn shutdown_policy(mut self, policy: ShutdownPolicy) -> Self {
        self.config.shutdown = policy;
        self
    }

    /// Counts for [`AutoShutdown`](crate::AutoShutdown). Not allowed for permanent workers, whose end means nothing.
    pub const fn significant(mut self, yes: bool) -> Self {
        self.config.significant = yes;
        self
    }

    /// Replaces each worker when it has been ready for so long, more or less by a tenth, its successor first. Default: never.
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.config.max_age = Some(age);
        self
    }

    /// Runs another program in its workers; see [`ClusterBuilder::exec`](crate::ClusterBuilder::exec).
    pub fn exec(mut self, program: impl Into<PathBuf>) -> Self {
        self.exec = Some(program.into());
        self
    }

    /// Its program is a cluster itself: each of its processes is a *nested master* with workers of its own (OTP's
    /// supervisor under a supervisor).
    ///
    /// The program is any cluster program, given by [`exec`](Self::exec), or this one, told apart by an
    /// [`env`](Self::env) of its own, which its workers inherit. In it [`is_master`](crate::is_master) is true. Towards
    /// this cluster it is a worker: ready when all of its own workers are; stopped in order when it is told to stop; gone
    /// with this master, and its workers within the orphan grace after it. Its exit code tells how its cluster ended: 0 in
    /// order, by [`AutoShutdown`](crate::AutoShutdown) for instance, which counts as an end of its own will, and 1 when it
    /// gave up, which counts as a crash. What comes back then is what its program describes; workers that were added to it
    /// at run time do not.
    ///
    /// It gets none of this cluster's listeners, and binds its own. Give it more time to stop than it gives its workers.
    pub const fn cluster(mut self) -> Self {
        self.cluster = true;
        self
    }

    /// Its workers' arguments, without the program's name.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// Sets a variable in its workers' environment, over the cluster's.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// The cluster's settings with what this spec has of its own laid over.
    pub(crate) fn settings(&self, common: &Settings) -> Settings {
        let mut settings = common.clone();
        if let Some(program) = &self.exec {
            settings.exec = Program::Path(program.clone());
        }
        if let Some(args) = &self.args {
            settings.args = Some(args.clone());
        }
        settings.env.extend(self.env.iter().cloned());
        settings
    }
}
