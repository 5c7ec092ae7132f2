//! Signals of the operating system, as commands of the supervisor.

use std::fmt::Display;

use actix::Addr;
use nix::sys::signal::{SigSet, Signal as Name};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::sync::oneshot;

use crate::changes::ReloadOptions;
use crate::error::RunError;
use crate::master::{ClusterSupervisor, Command, Urgency};
use crate::model::Signal;
use crate::supervision::ScaleTarget;

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
    /// A terminal that went away sends it too; a service outlives that, and is reloaded.
    hangup: Stream,
    user2: Stream,
    /// One worker more, one less. By default these two would stop a master in the background of a terminal.
    terminal_in: Stream,
    terminal_out: Stream,
    /// A log file at its limit is an error of the write, not the end of the master.
    file_size: Stream,
}

impl Signals {
    /// Turns signals into commands until the supervisor is gone.
    pub(crate) async fn run(mut self, supervisor: Addr<ClusterSupervisor>) {
        let mut interrupted = false;
        loop {
            // The machine knows whether a stop has begun, and which order is still possible then.
            let command = tokio::select! {
                _ = self.terminate.recv() => stop(Urgency::Graceful),
                _ = self.interrupt.recv() => {
                    let urgency = if interrupted { Urgency::Immediate(Some(Signal::INT)) } else { Urgency::Graceful };
                    interrupted = true;
                    stop(urgency)
                }
                _ = self.quit.recv() => stop(Urgency::Immediate(Some(Signal::QUIT))),
                _ = self.hangup.recv() => reload(Name::SIGHUP),
                _ = self.user2.recv() => reload(Name::SIGUSR2),
                _ = self.terminal_in.recv() => scale(1, Name::SIGTTIN),
                _ = self.terminal_out.recv() => scale(-1, Name::SIGTTOU),
                _ = self.file_size.recv() => {
                    tracing::info!(signal = %Name::SIGXFSZ, "signal has no effect");
                    continue;
                }
            };
            if supervisor.send(command).await.is_err() {
                return;
            }
        }
    }
}

const fn stop(urgency: Urgency) -> Command {
    Command::Shutdown { urgency, reply: None }
}

fn reload(signal: Name) -> Command {
    Command::Reload {
        options: ReloadOptions::default(),
        reply: Some(tell_answer(signal, move |generation| {
            tracing::info!(%signal, %generation, "reloaded");
        })),
    }
}

fn scale(by: i64, signal: Name) -> Command {
    Command::Scale {
        spec: None,
        target: ScaleTarget::By(by),
        reply: Some(tell_answer(signal, move |workers| {
            tracing::info!(%signal, workers, "workers are wanted");
        })),
    }
}

/// Whoever sends a signal gets no answer, so the log has it: a refused order leaves everything as it was, and so does a
/// reload that failed.
fn tell_answer<T: 'static, E: Display + 'static>(
    signal: Name,
    tell: impl FnOnce(T) + 'static,
) -> oneshot::Sender<Result<T, E>> {
    let (reply, answer) = oneshot::channel();
    // The task ends with the answer, at the latest when the supervisor drops the question.
    drop(actix_rt::spawn(async move {
        match answer.await {
            Ok(Ok(done)) => tell(done),
            Ok(Err(why)) => tracing::info!(%signal, "signal has no effect: {why}"),
            Err(_) => {}
        }
    }));
    reply
}
