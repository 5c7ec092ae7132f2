//! Handles that wait for an answer that cannot be given at once.

use std::collections::HashMap;
use std::ffi::OsString;

use tokio::sync::oneshot;

use crate::error::CommandError;
use crate::master::Verdict;
use crate::master::command::SpecReply;
use crate::master::commands::answer;
use crate::master::images::NewProgram;
use crate::model::{Generation, ReloadError, ShutdownReport, Slot, SpecName, WorkerId};
use crate::spec::WorkerSpec;
use crate::supervision::{ForkRefused, RequestId, ScaleRefused, Scaled, SpecRefused};

/// Everybody who waits.
#[derive(Default)]
pub(crate) struct Replies {
    forks: HashMap<RequestId, Fork>,
    scales: HashMap<RequestId, oneshot::Sender<Result<u32, CommandError>>>,
    reloads: HashMap<RequestId, Reload>,
    specs: HashMap<RequestId, SpecRequest>,
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

/// A reload that was asked for: who judges its canary, what it brings, and who asked (a signal waits for no answer).
struct Reload {
    verdict: Option<Verdict>,
    program: Option<NewProgram>,
    reply: Option<oneshot::Sender<Result<Generation, ReloadError>>>,
}

/// Something that was asked of a spec.
#[derive(Debug)]
struct SpecRequest {
    spec: Option<SpecName>,
    /// What came along, until it is in force.
    descriptions: Vec<WorkerSpec>,
    reply: SpecReply,
}

impl Replies {
    fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    pub(crate) fn await_scale(&mut self, reply: Option<oneshot::Sender<Result<u32, CommandError>>>) -> RequestId {
        let request = self.next_request();
        self.scales.extend(reply.map(|reply| (request, reply)));
        request
    }

    pub(crate) fn scaled(&mut self, request: RequestId, result: Result<Scaled, ScaleRefused>) {
        if let Some(reply) = self.scales.remove(&request) {
            let result = result.map(|scaled| scaled.to).map_err(|refused| match refused {
                ScaleRefused::UnknownSpec(spec) => CommandError::UnknownSpec(spec),
                ScaleRefused::Stopping => CommandError::ShuttingDown,
            });
            answer(reply, result);
        }
    }

    pub(crate) fn await_reload(
        &mut self,
        verdict: Option<Verdict>,
        program: Option<NewProgram>,
        reply: Option<oneshot::Sender<Result<Generation, ReloadError>>>,
    ) -> RequestId {
        let request = self.next_request();
        let reload = Reload {
            verdict,
            program,
            reply,
        };
        self.reloads.insert(request, reload);
        request
    }

    /// The program that this reload brings, if it brings one.
    pub(crate) fn program_of(&self, request: RequestId) -> Option<NewProgram> {
        self.reloads.get(&request)?.program.clone()
    }

    /// Who judges the canary of this reload; asked once.
    pub(crate) fn verdict(&mut self, request: RequestId) -> Option<Verdict> {
        self.reloads.get_mut(&request)?.verdict.take()
    }

    pub(crate) fn reloaded(&mut self, request: RequestId, result: Result<Generation, ReloadError>) {
        if let Some(reply) = self.reloads.remove(&request).and_then(|reload| reload.reply) {
            answer(reply, result);
        }
    }

    /// `spec` is the one whose workers the answer names.
    pub(crate) fn await_spec(
        &mut self,
        spec: Option<SpecName>,
        descriptions: Vec<WorkerSpec>,
        reply: SpecReply,
    ) -> RequestId {
        let request = self.next_request();
        let asked = SpecRequest {
            spec,
            descriptions,
            reply,
        };
        self.specs.insert(request, asked);
        request
    }

    /// The descriptions that came with a request, which are in force now.
    pub(crate) fn descriptions(&mut self, request: RequestId) -> Vec<WorkerSpec> {
        let asked = self.specs.get_mut(&request);
        asked
            .map(|asked| std::mem::take(&mut asked.descriptions))
            .unwrap_or_default()
    }

    pub(crate) fn spec_of(&self, request: RequestId) -> Option<&SpecName> {
        self.specs.get(&request)?.spec.as_ref()
    }

    pub(crate) fn spec_answered(&mut self, request: RequestId, result: Result<Vec<WorkerId>, SpecRefused>) {
        if let Some(asked) = self.specs.remove(&request) {
            answer(asked.reply, result.map_err(refused));
        }
    }

    pub(crate) fn await_fork(
        &mut self,
        env: Vec<(OsString, OsString)>,
        reply: oneshot::Sender<Result<WorkerId, CommandError>>,
    ) -> RequestId {
        let request = self.next_request();
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

/// OTP's answers, as a handle tells them.
fn refused(why: SpecRefused) -> CommandError {
    match why {
        SpecRefused::NotFound(spec) => CommandError::UnknownSpec(spec),
        SpecRefused::AlreadyStarted(spec, worker) => CommandError::AlreadyStarted { spec, worker },
        SpecRefused::AlreadyPresent(spec) => CommandError::AlreadyPresent(spec),
        SpecRefused::Running(spec) => CommandError::SpecRunning(spec),
        SpecRefused::Restarting(spec) => CommandError::SpecRestarting(spec),
        SpecRefused::Invalid(spec, why) => CommandError::InvalidSpec { spec, why },
        SpecRefused::TooManySlots(limit) => CommandError::TooManySlots(limit),
        SpecRefused::Stopping => CommandError::ShuttingDown,
        SpecRefused::InvalidRules(why) => CommandError::InvalidRules(why),
        SpecRefused::NotStarted(why) => CommandError::NotStarted(why),
    }
}
