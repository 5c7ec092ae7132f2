//! `Cluster`: am I the master or a worker? Running goes one way or the other.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;

use crate::builder::ClusterBuilder;
use crate::config::Config;
use crate::error::RunError;
use crate::guard;
use crate::handle::ClusterHandle;
use crate::master;
use crate::model::ShutdownReport;
use crate::nested;
use crate::plug_ins::PlugIn;
use crate::process::{self, Role};
use crate::worker::{self, Worker};

/// The body of a worker: its future's error, if any, as text.
pub(crate) type WorkerMain = Box<dyn FnOnce(Worker) -> Pin<Box<dyn Future<Output = Result<(), String>>>>>;

/// A described and validated cluster, not yet running.
#[must_use = "a cluster does nothing until `run` or `start`"]
pub struct Cluster {
    pub(crate) config: Config,
    pub(crate) main: Option<WorkerMain>,
    pub(crate) plug_ins: Vec<PlugIn>,
    pub(crate) before_start: Option<BeforeStartHook>,
}

/// Is the cluster to run? See [`ClusterBuilder::before_start`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BeforeStart {
    /// Yes.
    Proceed,
    /// No, there is nothing to do: [`RunError::Ignored`].
    Ignore,
}

pub(crate) type BeforeStartHook = Box<dyn FnOnce() -> Result<BeforeStart, String>>;

impl Cluster {
    /// A new description with the defaults.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::new()
    }

    /// Runs the cluster until it ends.
    ///
    /// In the master: binds the listeners, starts the workers and supervises them on this thread, until a signal or the
    /// handle stops it or nothing is left to supervise. In a worker: runs the worker's function and then *ends the
    /// process*, so code after this call runs in the master only.
    ///
    /// # Errors
    /// [`RunError`] tells why the cluster could not start or ended in another way than in order.
    pub fn run(self) -> Result<ShutdownReport, RunError> {
        match process::role() {
            Role::Master => {
                ask_whether_to_run(self.before_start)?;
                master::run(self.config, self.plug_ins)
            }
            Role::Nested(contract) => {
                ask_whether_to_run(self.before_start)?;
                nested::run(contract, self.config, self.plug_ins)
            }
            Role::Worker(contract) => worker::run(contract, &self.config, main_of(contract, &self.config, self.main)),
            Role::Broken(why) => Err(RunError::Contract(why.to_string())),
        }
    }

    /// [`run`](Self::run) as the whole `main` of a program: the error goes to standard error, the exit code is the
    /// error's (see [`RunError::exit_code`]).
    #[must_use]
    pub fn main(self) -> ExitCode {
        Self::exit_code(self.run())
    }

    pub(crate) fn exit_code(result: Result<ShutdownReport, RunError>) -> ExitCode {
        match result {
            Ok(_) | Err(RunError::Ignored) => ExitCode::SUCCESS,
            Err(error) => {
                // Standard error may be closed or full; the exit code says it all the same.
                std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("error: {error}\n")).ok();
                error.into()
            }
        }
    }

    /// Starts the cluster inside the actix `System` that this thread runs, for programs that own their `main`. In the
    /// master it returns as soon as the listeners are bound and the first workers are ordered. In a worker it runs the
    /// worker's function and then ends the process, so call it before doing anything only the master should do.
    ///
    /// Supervision shares this thread: what blocks it delays supervision.
    ///
    /// # Errors
    /// [`RunError`] if the cluster could not start.
    pub async fn start(self) -> Result<RunningCluster, RunError> {
        match process::role() {
            Role::Master => {
                ask_whether_to_run(self.before_start)?;
                master::start(self.config, self.plug_ins)
            }
            Role::Nested(contract) => {
                ask_whether_to_run(self.before_start)?;
                nested::start(contract, self.config, self.plug_ins)
            }
            Role::Worker(contract) => {
                let main = main_of(contract, &self.config, self.main);
                worker::run_here(contract, &self.config, main).await
            }
            Role::Broken(why) => Err(RunError::Contract(why.to_string())),
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A panic of the hook is its author's mistake and ends nothing else.
fn ask_whether_to_run(hook: Option<BeforeStartHook>) -> Result<(), RunError> {
    let Some(hook) = hook else { return Ok(()) };
    match catch_unwind(AssertUnwindSafe(hook)) {
        Ok(Ok(BeforeStart::Proceed)) => Ok(()),
        Ok(Ok(BeforeStart::Ignore)) => Err(RunError::Ignored),
        Ok(Err(text)) => Err(RunError::BeforeStart(text)),
        Err(panic) => Err(RunError::BeforeStart(format!(
            "`before_start` panicked: {}",
            guard::text_of(&*panic)
        ))),
    }
}

/// A cluster that was started inside a running `System`.
#[derive(Debug)]
#[must_use = "wait for the cluster's end with `wait`"]
pub struct RunningCluster {
    pub(crate) handle: ClusterHandle,
    pub(crate) finished: master::Finished,
    /// What this master is to the cluster it is nested in.
    pub(crate) above: Option<Worker>,
}

impl RunningCluster {
    /// The remote control.
    #[must_use]
    pub fn handle(&self) -> ClusterHandle {
        self.handle.clone()
    }

    /// Waits until the cluster has ended.
    ///
    /// # Errors
    /// As [`Cluster::run`].
    pub async fn wait(self) -> Result<ShutdownReport, RunError> {
        let result = self.finished.wait().await;
        if let Some(above) = &self.above {
            nested::tell_end(above, &result);
        }
        result
    }
}

/// What a worker runs: its spec's own function, or the builder's.
fn main_of(contract: &process::Contract, config: &Config, main: Option<WorkerMain>) -> Option<WorkerMain> {
    let of_spec = config
        .more_specs
        .iter()
        .find(|spec| spec.config.name == contract.slot.spec);
    let own = of_spec.and_then(|spec| spec.main.clone());
    own.map_or(main, |own| Some(Box::new(move |worker| own.start(worker))))
}

/// Is this process a worker of a cluster, and no master? Known from the first line of `main` on, before any runtime is started.
#[must_use]
pub fn is_worker() -> bool {
    matches!(process::role(), Role::Worker(_))
}

/// Is this process a master, nested or not, or no part of a cluster yet? A process that was started as a worker and cannot read its
/// contract is neither, and [`Cluster::run`] tells why.
#[must_use]
pub fn is_master() -> bool {
    matches!(process::role(), Role::Master | Role::Nested(_))
}

/// The id of the worker this process is; `None` in the master. A nested master is a worker of the cluster above it.
#[must_use]
pub fn worker_id() -> Option<crate::model::WorkerId> {
    match process::role() {
        Role::Worker(contract) | Role::Nested(contract) => Some(contract.id),
        Role::Master | Role::Broken(_) => None,
    }
}
