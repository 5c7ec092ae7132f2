//! `WorkerSpec`: one kind of worker, when a cluster has several.
//!
//! Not here: what a spec leaves open and the cluster decides ([`crate::config`]).

use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Program, Settings, SpawnMethod, SpecFault, SpecName};
use crate::policy::{
    AutoShutdown, Escalation, ReadyWhen, RestartDelay, RestartIntensity, RestartLimit, RestartType, ShutdownPolicy,
};
use crate::supervision::SpecConfig;
use crate::worker::{Worker, WorkerOutput};

/// One kind of worker of a cluster: OTP's child specification, for N processes.
///
/// A cluster is an ordered list of specs. A spec's workers run its own [`worker`](Self::worker) function or program, else
/// what the builder was given; [`Worker::slot`](crate::Worker::slot) tells a worker which spec it belongs to. The rules of
/// restarts have defaults of their own, the same as the builder's setters; everything else that is not said here is as the
/// builder says.
#[derive(Clone, Debug)]
#[must_use = "a spec does nothing until it is given to a cluster"]
pub struct WorkerSpec {
    /// Complete, but for what `complete` takes over from the builder.
    pub(crate) config: SpecConfig,
    pub(crate) main: Option<SpecMain>,
    pub(crate) exec: Option<PathBuf>,
    pub(crate) args: Option<Vec<OsString>>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Is its program a cluster itself?
    pub(crate) cluster: bool,
    pub(crate) listeners: Option<Vec<String>>,
    pub(crate) ready_when: Option<ReadyWhen>,
    pub(crate) boot: Option<Duration>,
    pub(crate) shutdown: Option<ShutdownPolicy>,
    pub(crate) lame_duck: Option<Duration>,
    pub(crate) flight_recorder: Option<usize>,
    pub(crate) spawn: Option<SpawnMethod>,
}

/// The function that a spec's workers run.
#[derive(Clone)]
pub(crate) struct SpecMain {
    start: Arc<dyn Fn(Worker) -> Running + Send + Sync>,
}

/// A worker's future; its error, if any, as text.
type Running = Pin<Box<dyn Future<Output = Result<(), String>>>>;

impl SpecMain {
    pub(crate) fn start(&self, worker: Worker) -> Running {
        (self.start)(worker)
    }
}

impl fmt::Debug for SpecMain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpecMain").finish_non_exhaustive()
    }
}

impl WorkerSpec {
    /// A spec of `workers` permanent workers.
    pub fn new(name: impl Into<SpecName>, workers: u32) -> Self {
        Self {
            config: SpecConfig::new(name, workers),
            main: None,
            exec: None,
            args: None,
            cwd: None,
            env: Vec::new(),
            listeners: None,
            ready_when: None,
            boot: None,
            shutdown: None,
            lame_duck: None,
            cluster: false,
            flight_recorder: None,
            spawn: None,
        }
    }

    /// What its workers do, instead of the builder's [`worker`](crate::ClusterBuilder::worker) function, by the same rules.
    ///
    /// The function runs in another process than the one in which this is called: each worker executes the program anew,
    /// comes to the builder again, and runs what that is given for its spec. So a spec that is added at run time through a
    /// handle cannot bring a function that the builder does not know.
    pub fn worker<F, Fut>(mut self, main: F) -> Self
    where
        F: Fn(Worker) -> Fut + Send + Sync + 'static,
        Fut: Future + 'static,
        Fut::Output: WorkerOutput,
    {
        self.main = Some(SpecMain {
            start: Arc::new(move |worker| {
                let future = main(worker);
                Box::pin(async move { future.await.into_result() })
            }),
        });
        self
    }

    /// Which of the declared listeners its workers get, by name. Default: all. The others are neither inherited by its
    /// workers nor given to them when asked for, and of a [`PerWorker`](crate::Scheduling::PerWorker) listener its slots
    /// have no socket.
    pub fn listeners<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.listeners = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// When its workers count as ready. Default: as the builder says; if it does not say, by the builder's rule for what
    /// this spec runs and listens on.
    pub const fn ready_when(mut self, rule: ReadyWhen) -> Self {
        self.ready_when = Some(rule);
        self
    }

    /// How long its workers may take from their start until they are ready. Default: as the builder says; not zero.
    pub const fn boot_limit(mut self, limit: Duration) -> Self {
        self.boot = Some(limit);
        self
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

    /// How long its workers may take to end when they are told to stop. Default: as the builder says.
    pub const fn grace(self, grace: Duration) -> Self {
        self.shutdown_policy(ShutdownPolicy::Grace(grace))
    }

    /// [`grace`](Self::grace) with the choice of no limit or no grace at all.
    pub const fn shutdown_policy(mut self, policy: ShutdownPolicy) -> Self {
        self.shutdown = Some(policy);
        self
    }

    /// How long its workers go on accepting after they were told to stop; see
    /// [`ClusterBuilder::lame_duck`](crate::ClusterBuilder::lame_duck). Default: as the builder says; at most one hour.
    pub const fn lame_duck(mut self, time: Duration) -> Self {
        self.lame_duck = Some(time);
        self
    }

    /// The size of its workers' flight recorders in bytes, 0 for none; see
    /// [`ClusterBuilder::flight_recorder`](crate::ClusterBuilder::flight_recorder). Default: as the builder says.
    pub const fn flight_recorder(mut self, bytes: usize) -> Self {
        self.flight_recorder = Some(bytes);
        self
    }

    /// Counts for [`AutoShutdown`](crate::AutoShutdown). Not allowed for permanent workers, whose end means nothing.
    pub const fn significant(mut self, yes: bool) -> Self {
        self.config.significant = yes;
        self
    }

    /// Replaces each worker when it has been ready for so long, more or less by a tenth, its successor first. Default, and
    /// for `None`: never. Not zero.
    pub fn max_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.config.max_age = age.into();
        self
    }

    /// Replaces each worker when it has begun so many requests, more or less by a tenth; see
    /// [`ClusterBuilder::max_requests`](crate::ClusterBuilder::max_requests). Default, and for 0: never.
    pub const fn max_requests(mut self, requests: u64) -> Self {
        self.config.max_requests = requests;
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

    /// Its workers' working directory. Default: as the builder says.
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cwd = Some(directory.into());
        self
    }

    /// Sets a variable in its workers' environment, over the cluster's.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// How its workers' processes come to be; see [`SpawnMethod`]. Default: as the builder says.
    pub const fn spawn(mut self, method: SpawnMethod) -> Self {
        self.spawn = Some(method);
        self
    }

    /// Is it a description that can be, in a cluster with this rule?
    pub(crate) fn check(&self, auto_shutdown: AutoShutdown) -> Result<(), SpecFault> {
        self.config.check(auto_shutdown)?;
        self.check_program()
    }

    /// The part of it that supervision never sees.
    pub(crate) fn check_program(&self) -> Result<(), SpecFault> {
        let has_zero = |text: &OsString| text.as_bytes().contains(&0);
        let is_bad_key = |key: &OsString| key.is_empty() || has_zero(key) || key.as_bytes().contains(&b'=');
        if self.exec.as_ref().is_some_and(|program| program.as_os_str().is_empty()) {
            Err(SpecFault::NoProgram)
        } else if self.args.iter().flatten().any(has_zero) {
            Err(SpecFault::BadArgument)
        } else if self.env.iter().any(|(key, value)| is_bad_key(key) || has_zero(value)) {
            Err(SpecFault::BadVariable)
        } else {
            Ok(())
        }
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
        if let Some(directory) = &self.cwd {
            settings.cwd = Some(directory.clone());
        }
        if let Some(method) = self.spawn {
            settings.spawn = method;
        }
        settings.env.extend(self.env.iter().cloned());
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o_015_o_026_what_the_kernel_would_refuse_is_refused_before_with_a_name() {
        let spec = || WorkerSpec::new("web", 1);
        for (bad, fault) in [
            (spec().exec(""), SpecFault::NoProgram),
            (spec().args(["fine", "a\0b"]), SpecFault::BadArgument),
            (spec().env("", "value"), SpecFault::BadVariable),
            (spec().env("A=B", "value"), SpecFault::BadVariable),
            (spec().env("A\0", "value"), SpecFault::BadVariable),
            (spec().env("A", "b\0"), SpecFault::BadVariable),
            (WorkerSpec::new("", 1), SpecFault::NoName),
        ] {
            assert_eq!(bad.check(AutoShutdown::Never), Err(fault), "{bad:?}");
        }
        let good = spec().exec("program").args(["", "a=b"]).env("A", "").env("B", "c=d");
        assert_eq!(good.check(AutoShutdown::Never), Ok(()));
    }

    #[test]
    fn o_015_o_026_o_028_a_builder_refuses_each_by_its_name() {
        use crate::error::BuildError;
        let build = |spec: WorkerSpec| {
            let cluster = crate::Cluster::builder().worker(|_| async {}).spec(spec);
            cluster.build().map(drop).map_err(|error| error.to_string())
        };
        let build_error = |name: &str, fault: SpecFault| Err(BuildError::Spec(name.into(), fault).to_string());
        assert_eq!(build(WorkerSpec::new("b", 1)), Ok(()));
        assert_eq!(build(WorkerSpec::new("", 1)), build_error("", SpecFault::NoName));
        assert_eq!(
            build(WorkerSpec::new("b", 1).exec("")),
            build_error("b", SpecFault::NoProgram)
        );
        assert_eq!(
            build(WorkerSpec::new("b", 1).significant(true)),
            build_error("b", SpecFault::SignificantPermanent)
        );
        assert!(build(WorkerSpec::new("worker", 1)).is_err_and(|text| text.contains("two specs are named worker")));
        let never = RestartIntensity::new(1, Duration::ZERO);
        assert_eq!(
            build(WorkerSpec::new("b", 1).restart_intensity(never, Escalation::FailSpec)),
            build_error("b", SpecFault::NoPeriod)
        );
        let cluster = crate::Cluster::builder().worker(|_| async {}).restart_intensity(never);
        let text = cluster.build().map(drop).map_err(|error| error.to_string());
        assert!(text.is_err_and(|text| text.contains("restart_intensity")));
    }

    #[test]
    fn a_limit_of_zero_is_refused_for_the_builders_own_spec_too_and_none_turns_it_off() {
        let own = || crate::Cluster::builder().worker(|_| async {});
        let never = RestartIntensity::new(1, Duration::ZERO);
        for wrong in [own().max_age(Duration::ZERO), own().standby_age(Duration::ZERO)] {
            assert!(
                wrong
                    .build()
                    .is_err_and(|error| error.to_string().contains("age` is zero"))
            );
        }
        let limited = own().max_age(Duration::ZERO).standby_age(Duration::ZERO);
        let limited = limited.restart_intensity(never).output_limit(1);
        let off = limited.max_age(None).standby_age(None).restart_intensity(None);
        let off = off.output_limit(None).spec(WorkerSpec::new("b", 1).max_age(None));
        assert!(off.build().is_ok());
    }
}
