//! How the workers' processes are started: program, surroundings, identity, output.
//!
//! Not here: the same for one of several specs ([`WorkerSpec`](crate::WorkerSpec)).

use std::ffi::OsString;
use std::path::PathBuf;

use super::ClusterBuilder;
use crate::model::{Program, SpawnMethod, StdioMode};

impl ClusterBuilder {
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
    /// tells how much that was. Default, and for `None`: every line becomes an event, and a worker that prints faster than the
    /// master reads waits in `write`.
    pub fn output_limit(mut self, bytes_per_second: impl Into<Option<u64>>) -> Self {
        self.config.output_limit = bytes_per_second.into();
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
}
