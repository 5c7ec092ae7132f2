//! The supervisor's part in changes of the cluster: reloads, scaling, recycling, specs. Translations, like all of it.

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::changes::ReloadOptions;
use crate::error::CommandError;
use crate::master::images::NewProgram;
use crate::master::{ClusterSupervisor, Command, SpecOrder};
use crate::model::{Generation, RecycleReason, ReloadError, SpecName, WorkerId, WorkerSnapshot};
use crate::spec::WorkerSpec;
use crate::supervision::{Input, RequestId, ScaleTarget};

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
            why: verdict.err().unwrap_or_default(),
        };
        self.step(input, ctx);
    }

    pub(super) fn recycle(&mut self, id: WorkerId, why: RecycleReason, ctx: &mut Context<Self>) {
        self.step(Input::RecycleRequested { id, why }, ctx);
    }

    pub(super) fn add_spec(
        &mut self,
        spec: &WorkerSpec,
        reply: oneshot::Sender<Result<(), CommandError>>,
        ctx: &mut Context<Self>,
    ) {
        self.keep_settings_of_new(spec);
        let request = self.replies().await_spec(reply);
        let config = Box::new(spec.config.clone());
        self.step(Input::SpecAddRequested { request, config }, ctx);
    }

    pub(super) fn spec_order(
        &mut self,
        spec: SpecName,
        order: SpecOrder,
        reply: oneshot::Sender<Result<(), CommandError>>,
        ctx: &mut Context<Self>,
    ) {
        let request = self.replies().await_spec(reply);
        let input = match order {
            SpecOrder::Stop => Input::SpecStopRequested { request, spec },
            SpecOrder::Start => Input::SpecStartRequested { request, spec },
            SpecOrder::Restart => Input::SpecRestartRequested { request, spec },
            SpecOrder::Delete => Input::SpecDeleteRequested { request, spec },
        };
        self.step(input, ctx);
    }
}
