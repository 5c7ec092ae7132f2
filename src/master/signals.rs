//! Signals of the operating system, as commands of the supervisor.

use actix::Addr;
use nix::sys::signal::{SigSet, Signal as Name};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::error::RunError;
use crate::master::{ClusterSupervisor, Command, Urgency};
use crate::model::Signal;

/// Installs the handlers. Called before the first worker is started, so that no signal can orphan one.
pub(crate) fn install() -> Result<Signals, RunError> {
    let stream = |name: Name| {
        signal(SignalKind::from_raw(name as i32)).map_err(|source| RunError::Io {
            what: "install a signal handler",
            source,
        })
    };
    let signals = Signals {
        terminate: stream(Name::SIGTERM)?,
        interrupt: stream(Name::SIGINT)?,
        quit: stream(Name::SIGQUIT)?,
        hangup: stream(Name::SIGHUP)?,
        user2: stream(Name::SIGUSR2)?,
        terminal_in: stream(Name::SIGTTIN)?,
        terminal_out: stream(Name::SIGTTOU)?,
        file_size: stream(Name::SIGXFSZ)?,
    };
    // A parent may leave them blocked; then nothing but SIGKILL would stop this master. Only now, so that one that waits
    // already is handled.
    let handled: SigSet = HANDLED.into_iter().collect();
    handled.thread_unblock().map_err(|errno| RunError::Io {
        what: "unblock the signals to handle",
        source: errno.into(),
    })?;
    Ok(signals)
}

const HANDLED: [Name; 8] = [
    Name::SIGTERM,
    Name::SIGINT,
    Name::SIGQUIT,
    Name::SIGHUP,
    Name::SIGUSR2,
    Name::SIGTTIN,
    Name::SIGTTOU,
    Name::SIGXFSZ,
];

/// The signals the master answers, and those it must survive.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Stream,
    interrupt: Stream,
    quit: Stream,
    /// A terminal that went away sends it; a service must outlive that.
    hangup: Stream,
    user2: Stream,
    /// These two would stop a master that runs in the background of a terminal, and nobody would supervise.
    terminal_in: Stream,
    terminal_out: Stream,
    /// A log file at its limit is an error of the write, not the end of the master.
    file_size: Stream,
}

impl Signals {
    /// Turns signals into commands until the supervisor is gone.
    pub(crate) async fn run(mut self, supervisor: Addr<ClusterSupervisor>) {
        let mut interrupted = false;
        let mut stopping = false;
        loop {
            let urgency = tokio::select! {
                _ = self.terminate.recv() => Ok(Urgency::Graceful),
                _ = self.interrupt.recv() => {
                    let urgency = if interrupted { Urgency::Immediate(Some(Signal::INT)) } else { Urgency::Graceful };
                    interrupted = true;
                    Ok(urgency)
                }
                _ = self.quit.recv() => Ok(Urgency::Immediate(Some(Signal::QUIT))),
                _ = self.hangup.recv() => Err(Name::SIGHUP),
                _ = self.user2.recv() => Err(Name::SIGUSR2),
                _ = self.terminal_in.recv() => Err(Name::SIGTTIN),
                _ = self.terminal_out.recv() => Err(Name::SIGTTOU),
                _ = self.file_size.recv() => Err(Name::SIGXFSZ),
            };
            match urgency {
                Ok(urgency) => {
                    stopping = true;
                    let order = Command::Shutdown { urgency, reply: None };
                    if supervisor.send(order).await.is_err() {
                        return;
                    }
                }
                Err(signal) if stopping => tracing::info!(%signal, "signal has no effect: shutting down"),
                Err(signal) => tracing::info!(%signal, "signal has no effect in this version"),
            }
        }
    }
}
