//! What a cluster is made of: plain, already valid data.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use crate::error::CommandError;
use crate::model::{ListenAddr, ListenOptions, Program, Settings, SpecFault, SpecName};
use crate::policy::{
    AutoShutdown, ListenerPolicy, ReadyWhen, RestartDelay, RestartIntensity, RestartLimit, RestartStrategy,
    RestartType, RolloutOptions, ShutdownPolicy, WhenEmpty,
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
    /// 0 for never.
    pub(crate) max_requests: u64,
    /// How many of the builder's own workers stand by, and how long; `None` for ever.
    pub(crate) standby: u32,
    pub(crate) standby_age: Option<Duration>,
    pub(crate) listeners: Vec<DeclaredListener>,
    /// Which of them the builder's own workers get; `None` for all.
    pub(crate) own_listeners: Option<Vec<String>>,
    pub(crate) settings: Settings,
    /// The master's own arguments, the default for workers.
    pub(crate) args: Vec<OsString>,
    pub(crate) restart: RestartType,
    pub(crate) delay: RestartDelay,
    pub(crate) slot_limit: RestartLimit,
    pub(crate) intensity: Option<RestartIntensity>,
    pub(crate) stable_after: Duration,
    pub(crate) boot: Duration,
    pub(crate) boot_extension: Duration,
    /// How often workers give a sign of life; `None` for never.
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) ask: Duration,
    pub(crate) shutdown: ShutdownPolicy,
    pub(crate) orphan_grace: Duration,
    pub(crate) lame_duck: Duration,
    /// Bytes of each worker's flight recorder; 0 for none.
    pub(crate) flight_recorder: usize,
    /// As the builder was told; `None` leaves it to what a spec runs and listens on.
    pub(crate) ready_when: Option<ReadyWhen>,
    /// Was the builder given a worker function?
    pub(crate) has_main: bool,
    /// Does the cluster have the builder's own spec? Not if that has nothing to run.
    pub(crate) has_own_spec: bool,
    pub(crate) max_booting: usize,
    pub(crate) when_empty: WhenEmpty,
    /// Bytes that a worker may print a second on piped streams; `None` for as many as are read.
    pub(crate) output_limit: Option<u64>,
    pub(crate) event_history: usize,
    pub(crate) signals: bool,
    pub(crate) exit_on_panic: bool,
    pub(crate) seed: u64,
}

impl Config {
    /// Spells out what the settings leave to the master, so that `Setup` tells what is in force.
    pub(crate) fn fill_in(&self, settings: &mut Settings) {
        settings.args.get_or_insert_with(|| self.args.clone());
    }

    /// The terms for the workers of a spec; `None` for the builder's own.
    pub(crate) fn terms<'a>(&'a self, spec: Option<&'a WorkerSpec>) -> Terms<'a> {
        // A master within says that it is ready when its workers are, and binds for itself.
        let is_cluster = spec.is_some_and(|spec| spec.cluster);
        let listeners = if is_cluster {
            Some(&[][..])
        } else {
            spec.map_or(&self.own_listeners, |spec| &spec.listeners).as_deref()
        };
        let listens = listeners.map_or(!self.listeners.is_empty(), |names| !names.is_empty());
        let is_foreign = spec.is_none_or(|spec| spec.main.is_none())
            && (!self.has_main || spec.is_some_and(|spec| spec.exec.is_some()));
        let usual = if is_foreign {
            ReadyWhen::Spawned
        } else if listens {
            ReadyWhen::Listening
        } else {
            ReadyWhen::Online
        };
        Terms {
            listeners,
            ready_when: if is_cluster {
                ReadyWhen::Called
            } else {
                let chosen = spec.and_then(|spec| spec.ready_when).or(self.ready_when);
                chosen.unwrap_or(usual)
            },
            boot: spec.and_then(|spec| spec.boot).unwrap_or(self.boot),
            shutdown: spec.and_then(|spec| spec.shutdown).unwrap_or(self.shutdown),
            lame_duck: spec.and_then(|spec| spec.lame_duck).unwrap_or(self.lame_duck),
            flight_recorder: spec
                .and_then(|spec| spec.flight_recorder)
                .unwrap_or(self.flight_recorder),
        }
    }

    /// Takes over into a spec's configuration what it leaves to the builder.
    pub(crate) fn complete(&self, spec: &mut WorkerSpec) {
        spec.config.shutdown = self.terms(Some(spec)).shutdown;
    }

    /// A listener that a spec wants and nobody declared.
    pub(crate) fn unknown_listener<'a>(&self, spec: &'a WorkerSpec) -> Option<&'a str> {
        let names = spec.listeners.iter().flatten().map(String::as_str);
        names.into_iter().find(|name| !self.declares(name))
    }

    /// What contradicts itself in a spec, beside its rules of restart.
    pub(crate) fn fault(&self, spec: &WorkerSpec) -> Option<SpecFault> {
        let terms = self.terms(Some(spec));
        let standby_fault = self.standby_fault(spec.config.standby, terms);
        let Terms {
            boot,
            lame_duck,
            flight_recorder,
            ..
        } = terms;
        if standby_fault.is_some() {
            standby_fault
        } else if spec.config.standby > 0 && spec.cluster {
            Some(SpecFault::StandbyUnheard)
        } else if boot.is_zero() {
            Some(SpecFault::NoBootTime)
        } else if lame_duck > LAME_DUCK_MAX {
            Some(SpecFault::LongLameDuck)
        } else if !is_flight_recorder(flight_recorder) {
            Some(SpecFault::FlightRecorder)
        } else {
            None
        }
    }

    /// Why workers with these terms cannot stand by, if so many are to.
    pub(crate) fn standby_fault(&self, standby: u32, terms: Terms<'_>) -> Option<SpecFault> {
        let listens = terms.listeners.map_or(self.listeners.len(), <[String]>::len);
        if standby == 0 {
            None
        } else if terms.ready_when == ReadyWhen::Spawned {
            Some(SpecFault::StandbyUnheard)
        } else if listens > STANDBY_LISTENERS_MAX {
            Some(SpecFault::StandbyListeners)
        } else {
            None
        }
    }

    /// Checks and completes a spec that is to be added at run time.
    ///
    /// # Errors
    /// What is wrong with it, beside its rules of restart.
    pub(crate) fn admit(&self, spec: &mut WorkerSpec) -> Result<(), CommandError> {
        let name = || spec.config.name.clone();
        if let Some(listener) = self.unknown_listener(spec) {
            return Err(CommandError::UnknownListener {
                spec: name(),
                listener: listener.to_owned(),
                declared: self.declared_names(),
            });
        }
        let built = || {
            self.more_specs
                .iter()
                .find(|built| built.config.name == spec.config.name)
        };
        let why = if spec.main.is_some() && built().is_none_or(|built| built.main.is_none()) {
            Some(SpecFault::UnknownFunction)
        } else if !self.has_main
            && self.settings.exec == Program::Same
            && spec.main.is_none()
            && spec.exec.is_none()
            && !spec.cluster
        {
            Some(SpecFault::NothingToRun)
        } else {
            self.fault(spec)
        };
        if let Some(why) = why {
            return Err(CommandError::InvalidSpec { spec: name(), why });
        }
        self.complete(spec);
        Ok(())
    }

    pub(crate) fn declares(&self, listener: &str) -> bool {
        self.listeners.iter().any(|declared| declared.name == listener)
    }

    /// The names of the declared listeners, for an error.
    pub(crate) fn declared_names(&self) -> String {
        let names: Vec<&str> = self.listeners.iter().map(|declared| declared.name.as_str()).collect();
        names.join(", ")
    }
}

/// What a worker is told, and held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    /// Names of the declared listeners it gets; `None` for all.
    pub(crate) listeners: Option<&'a [String]>,
    pub(crate) ready_when: ReadyWhen,
    pub(crate) boot: Duration,
    pub(crate) shutdown: ShutdownPolicy,
    pub(crate) lame_duck: Duration,
    /// Bytes of its flight recorder; 0 for none.
    pub(crate) flight_recorder: usize,
}

impl Terms<'_> {
    /// Does it get the declared listener of this name?
    pub(crate) fn include(&self, listener: &str) -> bool {
        self.listeners
            .is_none_or(|names| names.iter().any(|name| name == listener))
    }
}

/// A listener bound before the first worker is started.
#[derive(Clone, Debug)]
pub(crate) struct DeclaredListener {
    /// A policy of the user's own.
    pub(crate) policy: Option<ListenerPolicy>,
    pub(crate) name: String,
    pub(crate) address: ListenAddr,
    pub(crate) options: ListenOptions,
}

/// A balancer that needs longer to notice that a worker is not ready is no balancer.
pub(crate) const LAME_DUCK_MAX: Duration = Duration::from_secs(3600);

/// The sockets of a slot go to a standby in one frame, and one frame carries no more.
pub(crate) const STANDBY_LISTENERS_MAX: usize = 64;

/// May a flight recorder be so large? The master reads all of it at each end of a worker, on the thread that supervises.
pub(crate) const fn is_flight_recorder(bytes: usize) -> bool {
    bytes == 0 || (4 << 10 <= bytes && bytes <= 256 << 10)
}

#[cfg(test)]
mod tests {
    use crate::{Cluster, ReadyWhen, ShutdownPolicy, WorkerSpec};
    use std::time::Duration;

    #[test]
    fn what_a_spec_does_not_say_is_as_the_builder_says() {
        let minute = Duration::from_secs(60);
        let own = WorkerSpec::new("own", 1)
            .listeners(["b"])
            .ready_when(ReadyWhen::Called)
            .boot_limit(minute)
            .shutdown_policy(ShutdownPolicy::Infinity)
            .lame_duck(minute)
            .flight_recorder(0);
        let cluster = Cluster::builder()
            .listen("a", "127.0.0.1:0")
            .listen("b", "127.0.0.1:0")
            .worker(async |_| ())
            .grace(Duration::ZERO)
            .lame_duck(2 * minute)
            .boot_limit(3 * minute)
            .flight_recorder(8 << 10)
            .spec(own)
            .spec(WorkerSpec::new("plain", 1))
            .spec(WorkerSpec::new("deaf", 1).listeners(Vec::<String>::new()))
            .spec(WorkerSpec::new("foreign", 1).exec("/bin/true"));
        let config = cluster.build().unwrap().config;
        let terms: Vec<_> = config.more_specs.iter().map(|spec| config.terms(Some(spec))).collect();
        let [own, plain, deaf, foreign] = &terms[..] else {
            panic!("four specs");
        };
        assert_eq!(
            (own.ready_when, own.boot, own.lame_duck),
            (ReadyWhen::Called, minute, minute)
        );
        assert_eq!(
            (own.shutdown.longest(), own.include("a"), own.include("b")),
            (Duration::MAX, false, true)
        );
        assert_eq!(
            (plain.ready_when, plain.boot, plain.lame_duck),
            (ReadyWhen::Listening, 3 * minute, 2 * minute)
        );
        assert_eq!((plain.shutdown.longest(), plain.include("a")), (Duration::ZERO, true));
        assert_eq!((deaf.ready_when, deaf.include("a")), (ReadyWhen::Online, false));
        assert_eq!(foreign.ready_when, ReadyWhen::Spawned);
        assert_eq!((own.flight_recorder, plain.flight_recorder), (0, 8 << 10));
        let stops: Vec<_> = config.more_specs.iter().map(|spec| spec.config.shutdown).collect();
        assert_eq!(
            stops[..2],
            [ShutdownPolicy::Infinity, ShutdownPolicy::Grace(Duration::ZERO)]
        );
    }

    fn http() -> crate::ClusterBuilder {
        Cluster::builder().listen("http", "127.0.0.1:0").worker(async |_| ())
    }

    #[test]
    fn a_spec_that_contradicts_the_cluster_is_refused_by_name() {
        let spec = || WorkerSpec::new("odd", 1);
        let table = [
            (
                http().spec(spec().listeners(["http", "htpp"])),
                "odd wants the listener \"htpp\"",
            ),
            (
                http().own_listeners(["no"]),
                "spec worker wants the listener \"no\", but none of this name is declared; declared: http",
            ),
            (
                http().spec(spec().boot_limit(Duration::ZERO)),
                "spec odd: its boot limit is 0",
            ),
            (
                http().spec(spec().lame_duck(Duration::MAX)),
                "spec odd: its lame-duck time",
            ),
            (
                http().spec(spec().flight_recorder(4095)),
                "spec odd: its flight recorder",
            ),
            (http().flight_recorder((256 << 10) + 1), "flight_recorder is"),
            (http().lame_duck(Duration::MAX), "lame_duck is"),
            (http().spec(spec()).spec(spec()), "two specs are named odd"),
            (
                Cluster::builder().workers(0).spec(spec()),
                "spec odd has no worker function",
            ),
            (
                Cluster::builder().spec(spec().worker(async |_| ())),
                "no worker function",
            ),
            (Cluster::builder().workers(0), "no worker function"),
        ];
        for (builder, expected) in table {
            let error = builder.build().unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} is not {expected:?}");
        }
        let alone = Cluster::builder()
            .workers(0)
            .spec(spec().worker(async |_| ()))
            .build()
            .unwrap();
        assert!(!alone.config.has_own_spec, "the builder's own has nothing to run");
    }

    #[test]
    fn a_spec_at_run_time_may_not_bring_what_its_workers_cannot_find() {
        let known = || WorkerSpec::new("known", 1).worker(async |_| ());
        let config = http().grace(Duration::ZERO).spec(known()).build().unwrap().config;
        let mut again = known();
        config.admit(&mut again).unwrap();
        assert_eq!(again.config.shutdown, ShutdownPolicy::Grace(Duration::ZERO));
        let mut plain = WorkerSpec::new("plain", 1);
        config.admit(&mut plain).unwrap();
        let refused = |mut spec: WorkerSpec| config.admit(&mut spec).unwrap_err().to_string();
        let new = WorkerSpec::new("new", 1);
        assert!(refused(new.clone().worker(async |_| ())).contains("not known to the builder"));
        assert!(
            refused(new.clone().listeners(["x"])).contains("\"x\", but none of this name is declared; declared: http")
        );
        assert!(refused(new.boot_limit(Duration::ZERO)).contains("boot limit"));
        let bare = Cluster::builder().workers(0).spec(known()).build().unwrap().config;
        assert!(
            bare.admit(&mut plain)
                .unwrap_err()
                .to_string()
                .contains("nothing to run")
        );
    }
}
