//! Who is measured: one row of data each. What a row means is in `running`.

use std::time::Duration;

use nix::sys::signal::Signal;

/// A program that serves, and how it is treated. Words in braces are filled in: `{port}`, `{workers}`, `{scratch}` (a folder of
/// this start), `{prefix}` (where the peer is installed), `{folder}` (its folder here), `{self}` (this program), `{ours}`,
/// `{ours-static}` (the example, linked as usual and statically).
#[derive(Debug)]
pub(crate) struct Target {
    /// Its name in options and in the raw data.
    pub(crate) id: &'static str,
    /// Its name in tables.
    pub(crate) name: &'static str,
    /// The folder with its `install.sh`; empty if there is nothing to install.
    pub(crate) folder: &'static str,
    pub(crate) start: &'static [&'static str],
    pub(crate) env: &'static [(&'static str, &'static str)],
    pub(crate) master: Master,
    /// Part of the command line of its workers; they are found among the master's descendants.
    pub(crate) workers: &'static str,
    pub(crate) ready: Ready,
    pub(crate) reload: Reload,
    pub(crate) stop: Stop,
    /// What a worker must live at least before it is killed, lest the master gives up.
    pub(crate) min_life: Duration,
    /// Measures that make no sense for it, by letter.
    pub(crate) without: &'static str,
    /// What a reader of the table should know.
    pub(crate) note: &'static str,
}

/// Who supervises.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Master {
    /// The process that was started.
    Started,
    /// A daemon, which writes its process id into this file.
    Daemon(&'static str),
}

/// How all workers are known to be ready.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ready {
    /// Each appends a line to the file named by `PEERS_READY`.
    Lines,
    /// The route `/state` says how many are.
    State,
    /// There are as many processes as wanted, and one answers.
    Seen,
}

/// How all workers are replaced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reload {
    /// Not at all.
    Never,
    /// By a signal to the master.
    Signal(Signal),
    /// By a command.
    Command(&'static [&'static str]),
}

/// How it is ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// By `SIGTERM` to the master.
    Terminate,
    /// By a command.
    Command(&'static [&'static str]),
}

const SHORT: Duration = Duration::from_millis(300);

/// What rows differ from.
const PEER: Target = Target {
    id: "",
    name: "",
    folder: "",
    start: &[],
    env: &[],
    master: Master::Started,
    workers: "",
    ready: Ready::Lines,
    reload: Reload::Signal(Signal::SIGHUP),
    stop: Stop::Terminate,
    min_life: SHORT,
    without: "",
    note: "",
};

/// A variant of our own example: what its flags are is all that differs. A flag that it does not know yet is skipped with a note.
macro_rules! ours {
    ($id:literal, $name:literal, [$($flag:literal),*], $note:expr) => {
        ours!("{ours}", $id, $name, [$($flag),*], "", $note)
    };
    ($program:literal, $id:literal, $name:literal, [$($flag:literal),*], $without:literal, $note:expr) => {
        Target {
            id: $id,
            name: $name,
            start: &[$program, "--listen", "127.0.0.1:{port}", "--workers", "{workers}", $($flag),*],
            workers: "http_server",
            ready: Ready::State,
            without: $without,
            note: $note,
            ..PEER
        }
    };
}

/// What rows of ours that have no failures owe them to.
const SURVIVES: &str = "With `survive_kill`, which the library leaves off: a keeper beside each worker holds its connections, and whoever follows serves them on.";
const AS_THE_FIRST: &str = "With `survive_kill`, like the first row.";
const STATIC: &str = "With `survive_kill`, and linked statically, as benches/README.md recommends it; A and E only.";

const PM2: &str = "{prefix}/node_modules/pm2/bin/pm2";

/// Everybody, in the order of the tables.
pub(crate) const TARGETS: &[Target] = &[
    ours!("ours", "actix-cluster", ["--scheduling", "per-worker"], SURVIVES),
    ours!(
        "ours-default",
        "actix-cluster, the library's default",
        ["--scheduling", "per-worker", "--no-survive-kill"],
        "Without `survive_kill`: what a killed worker was answering is lost, as with everybody else."
    ),
    ours!(
        "ours-shared",
        "actix-cluster, shared socket",
        ["--scheduling", "shared"],
        AS_THE_FIRST
    ),
    ours!(
        "ours-http-server",
        "actix-cluster, unmodified HttpServer",
        ["--scheduling", "per-worker", "--server", "http-server"],
        "With `survive_kill`, which saves of a server that accepts for itself only connections it has not read from. Before its stop it \
         accepts nothing for up to 250 ms, and then closes kept connections under requests that cross."
    ),
    ours!(
        "ours-round-robin",
        "actix-cluster, round robin",
        ["--scheduling", "round-robin"],
        AS_THE_FIRST
    ),
    ours!(
        "ours-standby",
        "actix-cluster, one standby",
        ["--scheduling", "per-worker", "--standby", "1"],
        AS_THE_FIRST
    ),
    ours!(
        "ours-zygote",
        "actix-cluster, zygote",
        ["--scheduling", "per-worker", "--spawn", "zygote"],
        AS_THE_FIRST
    ),
    ours!(
        "{ours-static}",
        "ours-static",
        "actix-cluster, static",
        ["--scheduling", "per-worker"],
        "BCDF",
        STATIC
    ),
    ours!(
        "{ours-static}",
        "ours-static-standby",
        "actix-cluster, static, one standby",
        ["--scheduling", "per-worker", "--standby", "1"],
        "BCDF",
        STATIC
    ),
    Target {
        id: "actix-web",
        name: "actix-web alone, as many threads",
        start: &["{self}", "serve-actix", "--port", "{port}", "--threads", "{workers}"],
        ready: Ready::Seen,
        reload: Reload::Never,
        without: "ABCEF",
        note: "One process without a supervisor: what a cluster costs or gains is seen beside it.",
        ..PEER
    },
    Target {
        id: "node-rr",
        name: "Node cluster, SCHED_RR",
        folder: "node",
        start: &["node", "{folder}/server.js", "{port}", "{workers}", "rr"],
        workers: "server.js",
        reload: Reload::Signal(Signal::SIGUSR2),
        note: "Node has no reload of its own; the program does what its manual suggests.",
        ..PEER
    },
    Target {
        id: "node-none",
        name: "Node cluster, SCHED_NONE",
        folder: "node",
        start: &["node", "{folder}/server.js", "{port}", "{workers}", "none"],
        workers: "server.js",
        reload: Reload::Signal(Signal::SIGUSR2),
        ..PEER
    },
    Target {
        id: "pm2",
        name: "PM2, cluster mode",
        folder: "pm2",
        start: &[
            "node",
            PM2,
            "start",
            "{folder}/server.js",
            "--name",
            "peer",
            "-i",
            "{workers}",
            "--max-restarts",
            "1000000",
        ],
        env: &[("PM2_HOME", "{scratch}/pm2"), ("PM2_DISCRETE_MODE", "true")],
        master: Master::Daemon("{scratch}/pm2/pm2.pid"),
        workers: "server.js",
        reload: Reload::Command(&["node", PM2, "reload", "peer"]),
        stop: Stop::Command(&["node", PM2, "kill"]),
        note: "Its limit of restarts is lifted. Times that begin with a command contain the start of Node.",
        ..PEER
    },
    Target {
        id: "gunicorn-sync",
        name: "gunicorn, sync",
        folder: "gunicorn",
        start: &[
            "{prefix}/venv/bin/gunicorn",
            "--chdir",
            "{folder}",
            "--config",
            "{folder}/config.py",
            "--bind",
            "127.0.0.1:{port}",
            "--workers",
            "{workers}",
            "app:app",
        ],
        workers: "gunicorn",
        note: "A worker serves one connection at a time and closes it: no keep-alive.",
        ..PEER
    },
    Target {
        id: "gunicorn-gthread",
        name: "gunicorn, gthread (4 threads)",
        folder: "gunicorn",
        start: &[
            "{prefix}/venv/bin/gunicorn",
            "--chdir",
            "{folder}",
            "--config",
            "{folder}/config.py",
            "--bind",
            "127.0.0.1:{port}",
            "--workers",
            "{workers}",
            "--worker-class",
            "gthread",
            "--threads",
            "4",
            "app:app",
        ],
        workers: "gunicorn",
        ..PEER
    },
    Target {
        id: "puma",
        name: "Puma, cluster mode (5 threads)",
        folder: "puma",
        start: &["sh", "{folder}/start.sh"],
        workers: "cluster worker",
        reload: Reload::Signal(Signal::SIGUSR1),
        note: "Debian's Ruby and Puma; phased restart.",
        ..PEER
    },
    Target {
        id: "nginx",
        name: "nginx",
        folder: "nginx",
        start: &[
            "{prefix}/root/usr/sbin/nginx",
            "-p",
            "{scratch}",
            "-e",
            "{scratch}/error.log",
            "-c",
            "{scratch}/nginx.conf",
        ],
        workers: "worker process",
        ready: Ready::Seen,
        note: "Debian's; it forks without exec and answers a constant, so it is the bar and not a place for applications.",
        ..PEER
    },
    Target {
        id: "granian",
        name: "granian, RSGI",
        folder: "granian",
        start: &[
            "{prefix}/venv/bin/granian",
            "--interface",
            "rsgi",
            "--host",
            "127.0.0.1",
            "--port",
            "{port}",
            "--workers",
            "{workers}",
            "--respawn-failed-workers",
            "--no-ws",
            "--log-level",
            "error",
            "--working-dir",
            "{folder}",
            "app:app",
        ],
        workers: "granian",
        min_life: Duration::from_secs(6),
        note: "Ends itself when a worker dies twice within 5.5 s, so under a kill storm it is gone; waits 3.5 s between replacements.",
        ..PEER
    },
    Target {
        id: "erlang",
        name: "Erlang/OTP supervisor over ports",
        folder: "erlang",
        start: &["sh", "{folder}/start.sh"],
        env: &[
            ("PEERS_TINY", "{self}"),
            // Whoever kills it while it starts gets a dump of megabytes into the folder where it was started.
            ("ERL_CRASH_DUMP", "/dev/null"),
        ],
        workers: "serve-tiny",
        reload: Reload::Never,
        without: "CD",
        note: "Its workers are a small server of this driver with SO_REUSEPORT, so the figures are the supervisor's. No canonical reload for ports.",
        ..PEER
    },
];

impl Target {
    /// Is it this project?
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.start.first(), Some(&("{ours}" | STATICALLY)))
    }

    /// Does it need the example that is linked statically?
    pub(crate) fn is_static(&self) -> bool {
        self.start.first() == Some(&STATICALLY)
    }
}

const STATICALLY: &str = "{ours-static}";

/// The folder that a peer is installed from, once each.
pub(crate) fn folders() -> Vec<&'static str> {
    let mut folders: Vec<&str> = TARGETS.iter().map(|target| target.folder).collect();
    folders.retain(|folder| !folder.is_empty());
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_targets_have_one_name_and_every_folder_is_here() {
        for (at, target) in TARGETS.iter().enumerate() {
            assert!(TARGETS[..at].iter().all(|other| other.id != target.id), "{}", target.id);
            let installer = crate::place::here().join(target.folder).join("install.sh");
            assert!(
                target.folder.is_empty() || installer.exists(),
                "{}",
                installer.display()
            );
        }
        assert_eq!(folders().len(), 7);
    }
}
