//! `ClusterBuilder`: setters are prose with defaults; `build` validates, and nothing has an effect before `run`.

mod checks;
mod debug;
mod listening;
mod standby;

use std::ffi::OsString;
use std::future::Future;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{BeforeStart, BeforeStartHook, Cluster, WorkerMain};
use crate::config::{Config, DeclaredListener};
use crate::error::{BuildError, RunError};
use crate::model::{
    ListenAddr, ListenOptions, Program, Scheduling, Settings, ShutdownReport, SpawnMethod, SpecName, StdioMode,
};
use crate::plug_ins::PlugIn;
use crate::policy::{
    AutoShutdown, ListenerPolicy, OneForOne, ReadyWhen, RestartDelay, RestartIntensity, RestartLimit, RestartStrategy,
    RestartType, RolloutOptions, ShutdownPolicy, WhenEmpty,
};
use crate::spec::WorkerSpec;
use crate::supervision::SpecConfig;
use crate::worker::{Worker, WorkerOutput};

/// Describes a cluster.
///
/// `main` runs in every process, master and workers alike, so the builder binds nothing, spawns nothing and starts no
/// actor: all of that happens in [`run`](Self::run), and in the master only.
#[must_use = "a builder does nothing until `run`, `main` or `start`"]
pub struct ClusterBuilder {
    pub(crate) config: Config,
    workers: Option<u32>,
    max_booting: Option<usize>,
    listeners: Vec<(String, Result<ListenAddr, BuildError>, ListenOptions)>,
    /// By the names of the listeners they are for.
    policies: Vec<(String, ListenerPolicy)>,
    main: Option<WorkerMain>,
    pub(crate) plug_ins: Vec<PlugIn>,
    before_start: Option<BeforeStartHook>,
}

impl ClusterBuilder {
    pub(crate) fn new() -> Self {
        let config = Config {
            spec: SpecName::from("worker"),
            workers: 0,
            more_specs: Vec::new(),
            strategy: Arc::new(OneForOne),
            auto_shutdown: AutoShutdown::default(),
            recycle: RolloutOptions::default(),
            reload: RolloutOptions::default(),
            max_age: None,
            max_requests: 0,
            standby: 0,
            standby_age: SpecConfig::new("", 0).standby_age,
            listeners: Vec::new(),
            own_listeners: None,
            settings: Settings::default(),
            args: Vec::new(),
            restart: RestartType::default(),
            delay: RestartDelay::default(),
            slot_limit: RestartLimit::default(),
            intensity: None,
            stable_after: Duration::from_secs(60),
            boot: Duration::from_secs(30),
            boot_extension: Duration::from_secs(60),
            heartbeat: None,
            ask: Duration::from_secs(1),
            shutdown: ShutdownPolicy::default(),
            orphan_grace: Duration::from_millis(500),
            lame_duck: Duration::ZERO,
            flight_recorder: 0,
            ready_when: None,
            has_main: false,
            has_own_spec: true,
            max_booting: 0,
            when_empty: WhenEmpty::default(),
            output_limit: None,
            event_history: 256,
            signals: true,
            exit_on_panic: false,
            seed: 0,
        };
        Self {
            config,
            workers: None,
            max_booting: None,
            listeners: Vec::new(),
            policies: Vec::new(),
            main: None,
            plug_ins: Vec::new(),
            before_start: None,
        }
    }

    /// How many workers to keep, at most 10,000. Default: one for each CPU this process may use (a container's quota
    /// counts). With 0 the cluster starts empty and waits for [`ClusterHandle::fork`](crate::ClusterHandle::fork).
    /// With 0, and without a [`worker`](Self::worker) function or program, the cluster has only the specs given to
    /// [`spec`](Self::spec).
    pub const fn workers(mut self, count: u32) -> Self {
        self.workers = Some(count);
        self
    }

    /// The name of the workers' spec, as it appears in slots, events and logs. Default `worker`.
    pub fn name(mut self, name: impl Into<SpecName>) -> Self {
        self.config.spec = name.into();
        self
    }

    /// What a worker does. Runs in each worker process on a single-threaded actix `System`; when its future ends, the
    /// worker ends: with code 0, or with code 1 if the output is an error.
    pub fn worker<F, Fut>(mut self, main: F) -> Self
    where
        F: FnOnce(Worker) -> Fut + 'static,
        Fut: Future + 'static,
        Fut::Output: WorkerOutput,
    {
        self.main = Some(Box::new(|worker| {
            let future = main(worker);
            Box::pin(async move { future.await.into_result() })
        }));
        self
    }

    /// Which of the declared listeners the builder's own workers get, by name; see [`WorkerSpec::listeners`]. Default: all.
    pub fn own_listeners<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.config.own_listeners = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Runs another program in the workers instead of this one. Without a [`worker`](Self::worker) function it counts as
    /// ready when it is started. If it speaks the channel's protocol (it uses this crate, or reads
    /// `ACTIX_CLUSTER_WORKER`), choose a stricter [`ready_when`](Self::ready_when).
    pub fn exec(mut self, program: impl Into<PathBuf>) -> Self {
        self.config.settings.exec = Program::Path(program.into());
        self
    }

    /// The workers' arguments, without the program's name. Default: the master's own.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.config.settings.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// Sets a variable in the workers' environment, which otherwise is the master's. Of several values for one key the
    /// last counts.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.config.settings.env.push((key.into(), value.into()));
        self
    }

    /// The workers' working directory. Default: the master's.
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.config.settings.cwd = Some(directory.into());
        self
    }

    /// The user the workers run under. Needs root, or `CAP_SETUID` and `CAP_SETGID`, and `CAP_KILL` for workers that do not stop by
    /// themselves; the workers have no capabilities then. Supplementary groups are dropped. Default: the master's.
    pub const fn uid(mut self, uid: u32) -> Self {
        self.config.settings.uid = Some(uid);
        self
    }

    /// The group the workers run under. Needs privilege. Default: the master's.
    pub const fn gid(mut self, gid: u32) -> Self {
        self.config.settings.gid = Some(gid);
        self
    }

    /// What becomes of the workers' standard streams: input, output, error. Default: null, inherited, inherited.
    pub const fn stdio(mut self, stdin: StdioMode, stdout: StdioMode, stderr: StdioMode) -> Self {
        self.config.settings.stdin = stdin;
        self.config.settings.stdout = stdout;
        self.config.settings.stderr = stderr;
        self
    }

    /// Nothing the workers print reaches the master's streams: every line becomes an `Output` event (Node's `silent`).
    pub const fn silent(self) -> Self {
        self.stdio(StdioMode::Null, StdioMode::Piped, StdioMode::Piped)
    }

    /// How many bytes a worker may print a second on its piped streams together, and as many at once after a quiet second. What it
    /// prints above that is read and dropped, so that it never waits, and [`OutputDropped`](crate::EventKind::OutputDropped)
    /// tells how much that was. Default `None`: every line becomes an event, and a worker that prints faster than the master
    /// reads waits in `write`.
    pub const fn output_limit(mut self, bytes_per_second: Option<u64>) -> Self {
        self.config.output_limit = bytes_per_second;
        self
    }

    /// When a worker ends, ends what is left of its process group too. Default: no; processes it leaves behind live on.
    pub const fn kill_tree(mut self, yes: bool) -> Self {
        self.config.settings.kill_tree = yes;
        self
    }

    /// How the workers' processes come to be: executed, or copied from a zygote, which is faster and has its price; see
    /// [`SpawnMethod`]. Default [`SpawnMethod::Exec`].
    pub const fn spawn(mut self, method: SpawnMethod) -> Self {
        self.config.settings.spawn = method;
        self
    }

    /// Which ends deserve a restart. Default [`RestartType::Permanent`]: every end that nobody ordered.
    pub const fn restart(mut self, restart: RestartType) -> Self {
        self.config.restart = restart;
        self
    }

    /// How long to wait before a restart. Default: the first at once, then 1 s, doubling with every further failure.
    pub const fn restart_delay(mut self, delay: RestartDelay) -> Self {
        self.config.delay = delay;
        self
    }

    /// How often one slot may be restarted. Default: 5 times in 60 s; then the slot is failed and the others go on.
    pub const fn restart_limit(mut self, limit: RestartLimit) -> Self {
        self.config.slot_limit = limit;
        self
    }

    /// How often the whole cluster may restart workers before it gives up and ends with an error (OTP's intensity).
    /// Default: no limit, because with N processes N restarts at once are normal.
    pub const fn restart_intensity(mut self, intensity: RestartIntensity) -> Self {
        self.config.intensity = Some(intensity);
        self
    }

    /// How long a worker must have been ready for its failures before that to be forgiven. Default 60 s.
    pub const fn stable_after(mut self, time: Duration) -> Self {
        self.config.stable_after = time;
        self
    }

    /// How long a worker may take from its start until it is ready, before it is killed and counted as a failure.
    /// Default 30 s; `Duration::MAX` for no limit.
    pub const fn boot_limit(mut self, limit: Duration) -> Self {
        self.config.boot = limit;
        self
    }

    /// How much later than its boot limit a worker may be ready if it asks for more time ([`Worker::more_time`]).
    /// Default 60 s; zero grants none.
    pub const fn boot_extension(mut self, most: Duration) -> Self {
        self.config.boot_extension = most;
        self
    }

    /// Lets every worker give a sign of life so often, from the loop that serves requests: a worker whose main loop is
    /// stuck is silent. Each becomes a [`Heartbeat`](crate::EventKind::Heartbeat) event and a time in the worker's
    /// [`snapshot`](crate::WorkerSnapshot::last_heartbeat); judging them is a plug-in's affair (`HealthMonitor` of the crate
    /// `actix-cluster-actors`, which sets this by itself). The master then measures its own loop too
    /// ([`ClusterHandle::lag`](crate::ClusterHandle::lag)).
    ///
    /// Default: off, so that an idle cluster does not wake up; zero turns it off again. At least 10 ms, at most an hour.
    /// The last call counts. Programs that do not use this library send none.
    pub const fn heartbeat(mut self, interval: Duration) -> Self {
        self.config.heartbeat = if interval.is_zero() { None } else { Some(interval) };
        self
    }

    /// How long a worker that was told to stop may take before it is killed, its [`lame_duck`](Self::lame_duck) time not
    /// counted. Default 30 s; zero kills it in the moment in which it is told (or that time is over).
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.config.shutdown = ShutdownPolicy::Grace(grace);
        self
    }

    /// [`grace`](Self::grace) with the choice of no limit or no grace at all.
    pub const fn shutdown_policy(mut self, policy: ShutdownPolicy) -> Self {
        self.config.shutdown = policy;
        self
    }

    /// How long a worker that was told to stop goes on accepting, before it stops accepting and drains. From the first
    /// moment on it is not ready any more ([`Worker::is_ready`], [`Shutdown::announced`](crate::Shutdown::announced), the
    /// event `Exiting`), so that a load balancer that asks it can send its clients elsewhere: what others do with a `sleep`
    /// in Kubernetes' `preStop`. Default: zero; at most one hour.
    ///
    /// It comes on top of the [`grace`](Self::grace), which counts from its end, and in every ordered stop: shutdown, scaling
    /// down, reload, recycling, disconnect, `SIGTERM` to the worker. A worker that was not ready has none, a
    /// second signal to it ends it early, an immediate stop and the death of the master know no such time.
    pub const fn lame_duck(mut self, time: Duration) -> Self {
        self.config.lame_duck = time;
        self
    }

    /// Gives every worker a flight recorder of so many bytes: a memory in which it notes, without a system call, what it is
    /// doing, and which the master reads when it has ended, above all when it could not speak any more (`SIGKILL`, out of
    /// memory, a crash). It holds the requests in progress with method and path (served by [`Worker`], or noted with
    /// [`Worker::note_request`]), which of them a thread was in the middle of, the last markers ([`Worker::mark`]), and how
    /// far the worker had come: [`Exit::last_words`](crate::Exit::last_words). Of a worker that hangs it is
    /// [`ClusterHandle::flight_record`](crate::ClusterHandle::flight_record).
    ///
    /// Default, and for 0: none, because paths may tell of people and would show up in events; the query never does. From
    /// 4 KiB (room for 7 requests and 8 markers) to 256 KiB; 32 KiB is a good size (63 and 64, of which a record shows as much as fits
    /// into 4 KiB each). Costs memory of that size at most, one
    /// descriptor on each side, and some tens of nanoseconds for each request.
    pub const fn flight_recorder(mut self, bytes: usize) -> Self {
        self.config.flight_recorder = bytes;
        self
    }

    /// How long a worker drains when the master is dead. Default 500 ms; at most 30 s.
    pub const fn orphan_grace(mut self, grace: Duration) -> Self {
        self.config.orphan_grace = grace;
        self
    }

    /// When a worker counts as ready. Default: when its first listener is up if listeners are declared, else when it is
    /// online; when it is started if there is no [`worker`](Self::worker) function, only [`exec`](Self::exec). An explicit
    /// [`Worker::ready`] always counts.
    pub const fn ready_when(mut self, rule: ReadyWhen) -> Self {
        self.config.ready_when = Some(rule);
        self
    }

    /// How many workers may be between their start and ready at the same time. Default: twice the CPUs, at least 4.
    pub const fn max_booting(mut self, count: NonZeroUsize) -> Self {
        self.max_booting = Some(count.get());
        self
    }

    /// Adds one more kind of worker after the builder's own, which is the first of the list. Specs are started in this
    /// order and stopped in the reverse one.
    pub fn spec(mut self, spec: WorkerSpec) -> Self {
        self.config.more_specs.push(spec);
        self
    }

    /// Who is restarted together with a worker that failed. Default [`OneForOne`]: nobody.
    pub fn strategy(mut self, strategy: impl RestartStrategy + 'static) -> Self {
        self.config.strategy = Arc::new(strategy);
        self
    }

    /// Whether the end of a significant worker ends the cluster. Default: no.
    pub const fn auto_shutdown(mut self, rule: AutoShutdown) -> Self {
        self.config.auto_shutdown = rule;
        self
    }

    /// Replaces each worker when it has been ready for so long, more or less by a tenth, its successor first.
    /// Default: never.
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.config.max_age = Some(age);
        self
    }

    /// Replaces each worker when it has begun so many requests, more or less by a tenth, its successor first (gunicorn's
    /// `max_requests`). The worker's own [`Counters`](crate::Counters) count, which the master hears of at most once a
    /// second; a worker that lies about them recycles itself only. Default, and for 0: never.
    pub const fn max_requests(mut self, requests: u64) -> Self {
        self.config.max_requests = requests;
        self
    }

    /// How careful workers are recycled. Default: one at a time, each successor ready first.
    pub const fn recycle_options(mut self, options: RolloutOptions) -> Self {
        self.config.recycle = options;
        self
    }

    /// How careful a reload is that names no care of its own: one by `HUP` or `USR2`, and
    /// [`ClusterHandle::reload`](crate::ClusterHandle::reload). Default: one at a time, each successor ready first.
    pub const fn reload_options(mut self, options: RolloutOptions) -> Self {
        self.config.reload = options;
        self
    }

    /// What to do when no worker is left and none will come by itself. Default: end.
    pub const fn when_empty(mut self, rule: WhenEmpty) -> Self {
        self.config.when_empty = rule;
        self
    }

    /// Ends a worker with code 101 when any of its threads or tasks panics. Default: no; a panic in a task ends that
    /// task only, and only a panic of the worker's own future ends the worker.
    pub const fn exit_on_panic(mut self, yes: bool) -> Self {
        self.config.exit_on_panic = yes;
        self
    }

    /// Leaves the master's signals alone: no handler is installed, and stopping is up to the handle. Default: `TERM` and
    /// `INT` stop in order, a second `INT` and `QUIT` stop at once, `HUP` and `USR2` reload, `TTIN` and `TTOU` mean one
    /// worker more and one less. `XFSZ` is caught and has no effect: a full log file must not end a master.
    pub const fn disable_signals(mut self) -> Self {
        self.config.signals = false;
        self
    }

    /// The seed of the back-off's jitter. Default, and for 0: the master's process id.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.config.seed = seed;
        self
    }

    /// Decides in the master whether the cluster is to run, before anything is bound or started: OTP's `init`, which may
    /// say `ignore`. A hook that fails or panics is [`RunError::BeforeStart`]. Never called in a worker. Default: it runs.
    pub fn before_start<E: std::fmt::Display>(
        mut self,
        hook: impl FnOnce() -> Result<BeforeStart, E> + 'static,
    ) -> Self {
        self.before_start = Some(Box::new(|| hook().map_err(|error| error.to_string())));
        self
    }

    /// Validates the description.
    ///
    /// # Errors
    /// [`BuildError`] names the first contradiction.
    pub fn build(self) -> Result<Cluster, BuildError> {
        let Self {
            mut config,
            workers,
            max_booting,
            listeners,
            mut policies,
            main,
            plug_ins,
            before_start,
        } = self;
        config.has_main = main.is_some();
        let has_worker = config.has_main || config.settings.exec != Program::Same;
        config.has_own_spec = has_worker || workers != Some(0) || config.more_specs.is_empty();
        if config.has_own_spec && !has_worker {
            return Err(BuildError::NoWorker);
        }
        for (name, address, options) in listeners {
            if config.listeners.iter().any(|declared| declared.name == name) {
                return Err(BuildError::DuplicateListener(name));
            }
            let address = address?;
            let own = policies.iter().rposition(|(of, _)| *of == name);
            let policy = own.map(|at| policies.swap_remove(at).1);
            policies.retain(|(of, _)| *of != name);
            let mut options = options;
            if policy.is_some() {
                options.scheduling = Some(Scheduling::Custom);
            } else if options.scheduling == Some(Scheduling::Custom) {
                return Err(BuildError::NoPolicy(name));
            }
            config.listeners.push(DeclaredListener {
                name,
                address,
                options,
                policy,
            });
        }
        if let Some((name, _)) = policies.pop() {
            let declared = config.declared_names();
            return Err(BuildError::PolicyForNothing { name, declared });
        }
        // A worker runs this too, on its way to the first answer, and has no use for the number, which takes some 30
        // system calls to find out (affinity, and the container's quota in files).
        let cpus = if crate::is_worker() {
            1
        } else {
            std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
        };
        config.workers = workers.unwrap_or_else(|| u32::try_from(cpus).unwrap_or(u32::MAX));
        checks::check_ranges(&config)?;
        checks::check_specs(&config, has_worker)?;
        let mut specs = std::mem::take(&mut config.more_specs);
        specs.iter_mut().for_each(|spec| config.complete(spec));
        config.more_specs = specs;
        config.max_booting = max_booting.unwrap_or_else(|| (2 * cpus).max(4));
        if config.seed == 0 {
            config.seed = u64::from(std::process::id());
        }
        Ok(Cluster {
            config,
            main,
            plug_ins,
            before_start,
        })
    }

    /// [`build`](Self::build) and [`Cluster::run`].
    ///
    /// # Errors
    /// As [`Cluster::run`].
    pub fn run(self) -> Result<ShutdownReport, RunError> {
        self.build()?.run()
    }

    /// [`build`](Self::build) and [`Cluster::main`]: the whole `main` of a program.
    #[must_use]
    pub fn main(self) -> std::process::ExitCode {
        Cluster::exit_code(self.build().map_err(RunError::from).and_then(Cluster::run))
    }
}
