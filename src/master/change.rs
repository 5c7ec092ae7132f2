//! The supervisor's part in changes of the cluster: reloads, scaling, recycling, specs. Translations, like all of it.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::administration::{ClusterRules, SpecSnapshot};
use crate::changes::ReloadOptions;
use crate::error::CommandError;
use crate::master::command::SpecReply;
use crate::master::commands::answer;
use crate::master::images::NewProgram;
use crate::master::{ClusterSupervisor, Command, Link, SpecOrder};
use crate::model::{
    Generation, Phase, RecycleReason, ReloadError, Slot, SlotState, SpecName, WorkerId, WorkerSnapshot, bounded,
};
use crate::spec::WorkerSpec;
use crate::supervision::{Input, Reconfiguration, RequestId, ScaleTarget, SpecRefused};

impl ClusterSupervisor {
    pub(super) fn scale(
        &mut self,
        spec: Option<SpecName>,
        target: ScaleTarget,
        reply: Option<oneshot::Sender<Result<u32, CommandError>>>,
        ctx: &mut Context<Self>,
    ) {
        let spec = spec.unwrap_or_else(|| self.spec());
        let request = self.replies().await_scale(reply);
        let active = self.links().map(|link| (link.id, link.view().stats.active)).collect();
        let input = Input::ScaleRequested {
            request,
            spec,
            target,
            active,
        };
        self.step(input, ctx);
    }

    pub(super) fn reload(
        &mut self,
        options: ReloadOptions,
        reply: Option<oneshot::Sender<Result<Generation, ReloadError>>>,
        ctx: &mut Context<Self>,
    ) {
        let ReloadOptions {
            rollout,
            spec,
            exec,
            queue,
            verdict,
        } = options;
        let program = exec.map(|path| NewProgram {
            spec: spec.clone().unwrap_or_else(|| self.spec()),
            path,
        });
        let request = self.replies().await_reload(verdict, program, reply);
        let input = Input::ReloadRequested {
            request,
            spec,
            options: rollout.unwrap_or(self.config.reload),
            queue,
        };
        self.step(input, ctx);
    }

    /// Lets the verdict be found where plug-ins run: it is the user's code.
    pub(super) fn ask_verdict(&mut self, request: RequestId, workers: &[WorkerId], ctx: &mut Context<Self>) {
        let supervisor = ctx.address();
        let Some(judge) = self.replies().verdict(request) else {
            let verdict = Ok(());
            ctx.notify(Command::Judged { request, verdict });
            return;
        };
        let links = workers.iter().filter_map(|id| self.link(*id));
        let canary: Vec<WorkerSnapshot> = links.map(|link| link.snapshot()).collect();
        // Silence counts as a bad verdict, so a plug-ins' thread that is gone or a judge that panics does no harm.
        self.plug_ins().spawn(async move {
            let verdict = judge(canary);
            supervisor.send(Command::Judged { request, verdict }).await.ok();
        });
    }

    pub(super) fn judged(&mut self, request: RequestId, verdict: Result<(), String>, ctx: &mut Context<Self>) {
        let input = Input::CanaryJudged {
            request,
            good: verdict.is_ok(),
            why: bounded(verdict.err().unwrap_or_default()),
        };
        self.step(input, ctx);
    }

    pub(super) fn recycle(&mut self, id: WorkerId, why: RecycleReason, ctx: &mut Context<Self>) {
        let why = match why {
            RecycleReason::Asked(text) => RecycleReason::Asked(bounded(text)),
            RecycleReason::Age | RecycleReason::Requests | RecycleReason::Memory => why,
        };
        self.step(Input::RecycleRequested { id, why }, ctx);
    }

    pub(super) fn add_spec(&mut self, spec: WorkerSpec, reply: SpecReply, ctx: &mut Context<Self>) {
        let (name, config) = (spec.config.name.clone(), Box::new(spec.config.clone()));
        let request = self.replies().await_spec(Some(name), vec![spec], reply);
        self.step(Input::SpecAddRequested { request, config }, ctx);
    }

    pub(super) fn reconfigure(
        &mut self,
        mut changes: Box<Reconfiguration>,
        mut specs: Vec<WorkerSpec>,
        reply: SpecReply,
        ctx: &mut Context<Self>,
    ) {
        if let Err(error) = specs.iter_mut().try_for_each(|spec| self.config().admit(spec)) {
            return answer(reply, Err(error));
        }
        changes.specs = specs.iter().map(|spec| spec.config.clone()).collect();
        let request = self.replies().await_spec(None, specs, reply);
        self.step(Input::ReconfigureRequested { request, changes }, ctx);
    }

    pub(super) fn spec_order(&mut self, spec: SpecName, order: SpecOrder, reply: SpecReply, ctx: &mut Context<Self>) {
        let request = self.replies().await_spec(Some(spec.clone()), Vec::new(), reply);
        let input = match order {
            SpecOrder::Stop => Input::SpecStopRequested { request, spec },
            SpecOrder::Start => Input::SpecStartRequested { request, spec },
            SpecOrder::Restart => Input::SpecRestartRequested { request, spec },
            SpecOrder::Delete => Input::SpecDeleteRequested { request, spec },
        };
        self.step(input, ctx);
    }

    /// Answers with the workers that the spec has at this moment.
    pub(super) fn spec_answered(&mut self, request: RequestId, result: Result<(), SpecRefused>) {
        let asked = self.replies().spec_of(request).cloned();
        let workers = |spec: &SpecName| {
            // The answer may come with the exit of one that had nothing to do.
            let is_meant = |link: &&Arc<Link>| link.slot().spec == *spec && !link.view().state.is_dead();
            let mut workers: Vec<_> = self.links().filter(is_meant).collect();
            workers.sort_by_key(|link| link.slot().index);
            workers.into_iter().map(|link| link.id).collect()
        };
        let workers = asked.as_ref().map(workers).unwrap_or_default();
        self.replies().spec_answered(request, result.map(|()| workers));
    }

    /// How the workers of these specs are started from here on.
    pub(super) fn specs_taken(&mut self, request: RequestId) {
        for spec in self.replies().descriptions(request) {
            self.keep_settings(spec);
        }
    }

    /// One spec as it is, or all of them in start order.
    pub(super) fn specs(&self, spec: Option<&SpecName>) -> Vec<SpecSnapshot> {
        let names = spec.map_or_else(|| self.machine().spec_names(), |name| vec![name.clone()]);
        let snapshot = |name: &SpecName| {
            let status = self.machine().spec(name)?;
            let terms = self.terms_of(name);
            let declared = self.config().listeners.iter().map(|declared| &declared.name);
            let listeners = declared.filter(|name| terms.include(name)).cloned().collect();
            Some(SpecSnapshot::new(status, self.settings_of(name), terms, listeners))
        };
        names.iter().filter_map(snapshot).collect()
    }

    pub(super) fn check(&self, worker: WorkerId) -> Result<(), CommandError> {
        self.link(worker).map(|_| ()).ok_or(CommandError::UnknownWorker(worker))
    }

    pub(super) fn may_start(&self, slot: &Slot) -> Result<(), CommandError> {
        match (self.machine().phase(), self.machine().slot_state(slot)) {
            (_, None) => Err(CommandError::UnknownSlot(slot.clone())),
            (Phase::ShuttingDown | Phase::Stopped, Some(_)) => Err(CommandError::ShuttingDown),
            (Phase::Running, Some(SlotState::Failed | SlotState::Stopped | SlotState::Declined)) => Ok(()),
            (
                Phase::Running,
                Some(SlotState::Queued | SlotState::Filled | SlotState::Waiting { .. } | SlotState::Held),
            ) => Err(CommandError::AlreadyRunning(slot.clone())),
        }
    }

    pub(super) fn rules(&self) -> ClusterRules {
        self.machine().rules().into()
    }
}
