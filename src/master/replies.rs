//! Handles that wait for an answer that cannot be given at once.

use std::collections::HashMap;
use std::ffi::OsString;

use tokio::sync::oneshot;

use crate::error::CommandError;
use crate::master::commands::answer;
use crate::model::{ShutdownReport, Slot, WorkerId};
use crate::supervision::{ForkRefused, RequestId};

/// Everybody who waits.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    forks: HashMap<RequestId, Fork>,
    last_request: u64,
    empty: Vec<oneshot::Sender<()>>,
    end: Vec<oneshot::Sender<ShutdownReport>>,
}

/// A fork that was asked for: its environment until the slot exists, and who asked.
#[derive(Debug)]
struct Fork {
    env: Vec<(OsString, OsString)>,
    reply: oneshot::Sender<Result<WorkerId, CommandError>>,
}

impl Replies {
    pub(crate) fn await_fork(
        &mut self,
        env: Vec<(OsString, OsString)>,
        reply: oneshot::Sender<Result<WorkerId, CommandError>>,
    ) -> RequestId {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        self.forks.insert(request, Fork { env, reply });
        request
    }

    /// The environment that was asked for, for the slot that now exists.
    pub(crate) fn env_of(&mut self, request: RequestId) -> Option<Vec<(OsString, OsString)>> {
        self.forks
            .get_mut(&request)
            .map(|fork| std::mem::take(&mut fork.env))
            .filter(|env| !env.is_empty())
    }

    pub(crate) fn forked(&mut self, request: RequestId, result: Result<(Slot, WorkerId), ForkRefused>) {
        let Some(fork) = self.forks.remove(&request) else {
            return;
        };
        let result = result.map(|(_, id)| id).map_err(|refused| match refused {
            ForkRefused::UnknownSpec(spec) => CommandError::UnknownSpec(spec),
            ForkRefused::Stopping => CommandError::ShuttingDown,
            ForkRefused::TooManySlots(limit) => CommandError::TooManySlots(limit),
            ForkRefused::Spawn(failure) => CommandError::Spawn(failure),
        });
        answer(fork.reply, result);
    }

    pub(crate) fn await_empty(&mut self, reply: oneshot::Sender<()>) {
        self.empty.push(reply);
    }

    /// No worker is left.
    pub(crate) fn empty(&mut self) {
        for reply in self.empty.drain(..) {
            answer(reply, ());
        }
    }

    pub(crate) fn await_end(&mut self, reply: Option<oneshot::Sender<ShutdownReport>>) {
        self.end.extend(reply);
    }

    /// The cluster has ended.
    pub(crate) fn finished(&mut self, report: &ShutdownReport) {
        self.empty();
        for reply in self.end.drain(..) {
            answer(reply, report.clone());
        }
    }
}
