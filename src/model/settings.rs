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
        }
    }
}
