//! Signals of the operating system, as commands of the supervisor.

use actix::Addr;
use nix::sys::signal::{SigSet, Signal as SigSignal};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::error::RunError;
use crate::master::{ClusterSupervisor, Command, Urgency};
use crate::model::Signal;

/// Installs the handlers. Called before the first worker is started, so that no signal can orphan one.
pub(crate) fn install() -> Result<Signals, RunError> {
    heed(&[
        SigSignal::SIGTERM,
        SigSignal::SIGINT,
        SigSignal::SIGQUIT,
        SigSignal::SIGHUP,
        SigSignal::SIGUSR2,
    ]);
    let stream = |kind| {
        signal(kind).map_err(|source| RunError::Io {
            what: "install a signal handler",
            source,
        })
    };
    Ok(Signals {
        terminate: stream(SignalKind::terminate())?,
        interrupt: stream(SignalKind::interrupt())?,
        quit: stream(SignalKind::quit())?,
        hangup: stream(SignalKind::hangup())?,
        user2: stream(SignalKind::user_defined2())?,
    })
}

/// A launcher may have left signals blocked: a handler for them would never run.
fn heed(signals: &[SigSignal]) {
    let set: SigSet = signals.iter().copied().collect();
    if let Err(err) = set.thread_unblock() {
        tracing::warn!(%err, "signals could not be unblocked");
    }
}

/// The signals the master answers.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Stream,
    interrupt: Stream,
    quit: Stream,
    hangup: Stream,
    user2: Stream,
}

impl Signals {
    /// Turns signals into commands until the supervisor is gone.
    pub(crate) async fn run(mut self, supervisor: Addr<ClusterSupervisor>) {
        let mut interrupted = false;
        loop {
            let urgency = tokio::select! {
                _ = self.terminate.recv() => Urgency::Graceful,
                _ = self.interrupt.recv() => {
                    let urgency = if interrupted { Urgency::Immediate(Some(Signal::INT)) } else { Urgency::Graceful };
                    interrupted = true;
                    urgency
                }
                _ = self.quit.recv() => Urgency::Immediate(Some(Signal::QUIT)),
                // A terminal that went away sends SIGHUP; a service must outlive it.
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP has no effect in this version");
                    continue;
                }
                _ = self.user2.recv() => {
                    tracing::info!("SIGUSR2 has no effect in this version");
                    continue;
                }
            };
            if supervisor
                .send(Command::Shutdown { urgency, reply: None })
                .await
                .is_err()
            {
                return;
            }
        }
    }
}
