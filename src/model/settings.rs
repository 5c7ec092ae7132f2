//! How workers are started: Node's `cluster.settings`.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::json;

/// Which program a worker runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// The image this master runs, even if the file was replaced or deleted since.
    #[default]
    Same,
    /// The program at this path. A bare name is searched in `PATH`.
    Path(#[serde(with = "json::path")] PathBuf),
}

/// How the process of a worker comes to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpawnMethod {
    /// The program is executed anew for each worker: its own address layout, no state shared with anybody.
    #[default]
    Exec,
    /// A *zygote*, one more process of the same program that stands still before `main`, copies itself for each worker.
    ///
    /// That is several times as fast as executing the program, and workers share the memory that loading it takes. The price: all
    /// workers of one zygote have the same address layout and stack canary, so what an attacker learns in one of them holds in
    /// the others; what constructors before `main` drew at random, they share (the seeds of `HashMap` are drawn later and are
    /// each worker's own); umask, nice value, processor affinity, capabilities, control group and namespaces are those that the
    /// master had when the zygote was started (limits, directory, environment and descriptors are those of the moment); and
    /// `/proc/PID/environ` shows the zygote's environment, which is the worker's without what a slot has of its own.
    ///
    /// There is one for each generation, arguments and environment, at most 16, started with the first worker that needs it; it ends
    /// with its generation and with the master. Executed all the same is whoever runs a foreign program, has more than 128 KiB
    /// of environment, or has variables in its slot's environment that the loader reads (`LD_…`, `MALLOC_…`,
    /// `GLIBC_TUNABLES`). A zygote that has died or does not answer within 200 ms is replaced, and workers are executed meanwhile, as they
    /// are if the program cannot be copied: with another libc than glibc, or threads started before `main`.
    Zygote,
}

/// What becomes of a standard stream of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdioMode {
    /// The master's own stream.
    #[default]
    Inherit,
    /// `/dev/null`.
    Null,
    /// A pipe the master reads; each line becomes an `Output` event. For standard input: `/dev/null`.
    Piped,
}

/// How the *next* workers are started. Running workers are never touched by a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Settings {
    /// The program. Default: this one.
    pub exec: Program,
    /// Its arguments, without the program's name. Default (`None`): the master's own, taken when `run` is called; the
    /// `Setup` event names them.
    #[serde(with = "json::texts")]
    pub args: Option<Vec<OsString>>,
    /// Variables laid over the master's environment.
    #[serde(with = "json::pairs")]
    pub env: Vec<(OsString, OsString)>,
    /// The working directory. Default: the master's.
    pub cwd: Option<PathBuf>,
    /// The user id to run under; needs privilege. Default: the master's.
    pub uid: Option<u32>,
    /// The group id to run under; needs privilege. Default: the master's.
    pub gid: Option<u32>,
    /// Standard input. Default: `/dev/null`. A worker is in a process group of its own, so the kernel would stop it
    /// (`SIGTTIN`) when it reads the master's terminal.
    pub stdin: StdioMode,
    /// Standard output. Default: inherit.
    pub stdout: StdioMode,
    /// Standard error. Default: inherit.
    pub stderr: StdioMode,
    /// When the worker ends, end what is left of its process group too. Default: no.
    pub kill_tree: bool,
    /// How its process comes to be. Default: executed.
    #[serde(default)]
    pub spawn: SpawnMethod,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            exec: Program::Same,
            args: None,
            env: Vec::new(),
            cwd: None,
            uid: None,
            gid: None,
            stdin: StdioMode::Null,
            stdout: StdioMode::Inherit,
            stderr: StdioMode::Inherit,
            kill_tree: false,
            spawn: SpawnMethod::Exec,
        }
    }
}
