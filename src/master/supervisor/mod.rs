//! `ClusterSupervisor`: the actor that owns the cluster's state machine and carries out what it decides.
//!
//! One door: `step` (in `turns`) is the only caller of the machine. Handlers translate, and decide nothing.

mod births;

use std::collections::HashMap;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actix::dev::SendError;
use actix::prelude::*;
use actix_rt::ArbiterHandle;
use tokio::sync::oneshot;

use crate::clock;
use crate::config::Config;
use crate::error::RunError;
use crate::master::images::Images;
use crate::master::last_failure::Failures;
use crate::master::listening::Listening;
use crate::master::messages::{News, Report, WorkerOrder};
use crate::master::publisher::Origin;
use crate::master::replies::Replies;
use crate::master::turns::Turns;
use crate::master::worker_actor::WorkerActor;
use crate::master::zygotes::Zygotes;
use crate::master::{Directory, Link, Publisher, Subscribers, Urgency};
use crate::model::{
    EventKind, Mono, Phase, Program, Settings, ShutdownReport, Signal, Slot, SpecName, WorkerEnd, WorkerError,
    WorkerId, WorkerInfo,
};
use crate::policy::{RestartType, is_suspect};
use crate::spec::WorkerSpec;
use crate::supervision::{Action, Fact, Input, Outcome, Scaled, Supervision};

/// The supervisor of the cluster.
pub(crate) struct ClusterSupervisor {
    machine: Supervision,
    pub(super) turns: Turns,
    pub(super) config: Config,
    pub(super) settings: Settings,
    /// Environment of slots that were forked with one.
    slot_env: HashMap<Slot, Vec<(OsString, OsString)>>,
    /// Settings of specs that have some of their own.
    pub(super) spec_settings: HashMap<SpecName, WorkerSpec>,
    pub(super) images: Images,
    pub(super) zygotes: Zygotes,
    plug_ins: ArbiterHandle,
    listening: Listening,
    workers: HashMap<WorkerId, Hand>,
    /// Workers whose start has failed, until that is told.
    unborn: HashMap<WorkerId, (WorkerInfo, Program)>,
    directory: Arc<Directory>,
    subscribers: Arc<Subscribers>,
    publisher: Publisher,
    replies: Replies,
    report: ShutdownReport,
    failures: Failures,
    shutdown_began: Option<Mono>,
    interrupted_by: Option<Signal>,
    finished: Option<oneshot::Sender<Result<ShutdownReport, RunError>>>,
}

/// What the supervisor holds of one worker.
struct Hand {
    actor: Addr<WorkerActor>,
    link: Arc<Link>,
    /// What it was started with, whatever the settings say now.
    program: Program,
}

/// What a supervisor is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) machine: Supervision,
    pub(crate) listening: Listening,
    pub(crate) plug_ins: ArbiterHandle,
    pub(crate) directory: Arc<Directory>,
    pub(crate) subscribers: Arc<Subscribers>,
    pub(crate) finished: oneshot::Sender<Result<ShutdownReport, RunError>>,
}

impl ClusterSupervisor {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            config,
            machine,
            listening,
            plug_ins,
            directory,
            subscribers,
            finished,
        } = parts;
        let mut settings = config.settings.clone();
        config.fill_in(&mut settings);
        let specs = config.more_specs.iter();
        let spec_settings = specs.map(|spec| (spec.config.name.clone(), spec.clone())).collect();
        Self {
            machine,
            turns: Turns::default(),
            settings,
            config,
            slot_env: HashMap::new(),
            spec_settings,
            images: Images::default(),
            zygotes: Zygotes::default(),
            plug_ins,
            listening,
            workers: HashMap::new(),
            unborn: HashMap::new(),
            publisher: Publisher::new(Arc::clone(&directory), Arc::clone(&subscribers)),
            directory,
            subscribers,
            replies: Replies::default(),
            report: ShutdownReport::default(),
            failures: Failures::default(),
            shutdown_began: None,
            interrupted_by: None,
            finished: Some(finished),
        }
    }

    /// What follows from one fact.
    pub(super) fn take(&mut self, input: Input, ctx: &mut Context<Self>) {
        let ended = if let Input::WorkerExited { id, .. } = &input {
            Some(*id)
        } else {
            None
        };
        self.machine.handle(input, clock::now());
        self.carry_out_all(ctx);
        if let Some(id) = ended {
            self.unborn.remove(&id);
        }
    }

    pub(super) fn time_passed(&mut self, ctx: &mut Context<Self>) {
        self.machine.handle_deadline(clock::now());
        self.carry_out_all(ctx);
    }

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        self.machine.next_deadline()
    }

    /// The view first: whoever learns of an event must find the state after it.
    fn carry_out_all(&mut self, ctx: &mut Context<Self>) {
        self.refresh_view();
        while let Some(action) = self.machine.poll_action() {
            self.carry_out(action, ctx);
        }
    }

    fn carry_out(&mut self, action: Action, ctx: &mut Context<Self>) {
        match action {
            Action::Spawn {
                id,
                slot,
                generation,
                restarts,
            } => {
                let input = self.spawn(id, slot, generation, restarts, ctx);
                self.turns.add(input);
            }
            Action::SpawnStandby { id, spec, generation } => {
                let input = self.spawn(id, Slot::standby(spec), generation, 0, ctx);
                self.turns.add(input);
            }
            Action::Promote { id, slot, restarts } => self.promote(id, slot, restarts, ctx),
            Action::Stop { id, policy } => self.order(id, WorkerOrder::Stop(policy), ctx),
            Action::Publish { worker, kind } => self.publish(worker, kind),
            Action::SlotAdded { request, slot } => {
                if let Some(env) = self.replies.env_of(request) {
                    self.slot_env.insert(slot, env);
                }
            }
            Action::Scaled { request, result } => {
                if let Ok(Scaled { to, clamped: true, .. }) = result {
                    tracing::warn!(
                        workers = to,
                        "another number of workers was asked for than there can be"
                    );
                }
                self.replies.scaled(request, result);
            }
            Action::GenerationAdded { request, generation } => {
                self.generation_added(request, generation);
            }
            Action::GenerationGone { generation } => {
                self.images.remove(generation);
                self.zygotes.remove(generation);
            }
            Action::CanaryVerdict { request, workers } => self.ask_verdict(request, &workers, ctx),
            Action::ReloadFinished { request, result } => {
                if result.is_ok() {
                    self.program_is_good(request);
                }
                self.replies.reloaded(request, result);
            }
            Action::SpecAnswered { request, result } => self.spec_answered(request, result),
            Action::SpecsTaken { request } => self.specs_taken(request),
            Action::SpecGone { spec } => {
                self.images.forget(&spec);
                self.slot_env.retain(|slot, _| slot.spec != spec);
                self.spec_settings.remove(&spec);
            }
            Action::Forked { request, result } => self.replies.forked(request, result),
            Action::SlotGone { slot } => {
                // One that was given up may be started by hand, and is what it was.
                if self.machine.slot_state(&slot).is_none() {
                    self.slot_env.remove(&slot);
                }
                self.listening.slot_gone(&slot);
            }
            Action::Finished(outcome) => self.finish(outcome, ctx),
        }
    }

    pub(super) fn publish(&mut self, worker: Option<WorkerId>, kind: EventKind) {
        if matches!(kind, EventKind::ShutdownStarted) {
            self.shutdown_began = Some(clock::now());
            // Before the first worker is told to stop: what the kernel has queued is to be served by the last one.
            self.listening.stopping();
        }
        let info = worker.and_then(|id| self.info(id));
        if let Some(info) = &info {
            self.failures.see(info, &kind);
        }
        let program = worker.and_then(|id| self.program(id)).cloned();
        let restart = info.as_ref().and_then(|info| self.restart_type(&info.slot.spec));
        let origin = program
            .zip(restart)
            .map(|(program, restart)| Origin { program, restart });
        self.publisher.publish(info, origin.as_ref(), kind);
    }

    /// Publishes what happened to a worker that may be dead and forgotten.
    pub(super) fn publish_of(&mut self, worker: &Link, kind: EventKind) {
        self.publisher.publish(Some(worker.info()), None, kind);
    }

    /// Passes an order to a worker's actor. A full mailbox is asked again in a moment; a closed one means that the
    /// worker's exit is on its way here.
    pub(super) fn order(&mut self, id: WorkerId, order: WorkerOrder, ctx: &mut Context<Self>) {
        let Some(hand) = self.workers.get(&id) else { return };
        match hand.actor.try_send(order) {
            Ok(()) | Err(SendError::Closed(_)) => {}
            Err(SendError::Full(order)) => {
                ctx.run_later(RETRY, move |supervisor, ctx| supervisor.order(id, order, ctx));
            }
        }
    }

    /// Takes over what a worker's actor reports, in order.
    pub(super) fn learn(&mut self, id: WorkerId, report: Report, ctx: &mut Context<Self>) {
        let Some(hand) = self.workers.get(&id) else { return };
        let link = Arc::clone(&hand.link);
        match report {
            Report::Fact(news) => self.learn_fact(&link, news, ctx),
            Report::Said(messages) => {
                if self.publisher.wants_messages() {
                    self.publisher.publish_messages(&link.info(), messages);
                }
            }
            Report::Line(stream, line) => {
                self.publisher
                    .publish(Some(link.info()), None, EventKind::Output { stream, line });
            }
            Report::LinesDropped(stream, lines, bytes) => {
                let dropped = EventKind::OutputDropped { stream, lines, bytes };
                self.publisher.publish(Some(link.info()), None, dropped);
            }
            Report::Stats(stats) => {
                link.change().stats = stats;
                let requests = stats.requests;
                if self.machine.has_served_out(id, requests) {
                    self.step(Input::WorkerServed { id, requests }, ctx);
                }
            }
            Report::Beat { heartbeat, tell } => {
                link.alive(&heartbeat);
                if tell {
                    self.publisher
                        .publish(Some(link.info()), None, EventKind::Heartbeat(heartbeat));
                }
            }
            Report::MoreTime(time) => link.more_time(time),
            Report::Announced(payload) => link.change().announced = Some(payload),
            Report::Failed(text) => {
                // Its future is over, and what accepted with it; the process may go on with its cleanup.
                self.listening.leaves(id);
                self.step(
                    Input::WorkerFailed {
                        id,
                        error: WorkerError::Failed(text),
                    },
                    ctx,
                );
            }
            Report::WantsListener(wish) => self.answer_wish(&link, &wish, ctx),
            Report::OffersSecret { request, key, offered } => {
                let may_know = self.gets(link.slot(), &key);
                self.listening.share_secret(&link, request, key, offered, may_know);
            }
            // Who has no slot has nothing to accept on; who may not have the socket may not adopt its siblings either.
            Report::Accepts { .. } | Report::GaveBack(_) if link.slot().is_standby() => {}
            Report::Accepts { key, adopts } if self.gets(link.slot(), &key) => {
                if link.accepts(&key) {
                    self.listening.takes(link.id, &key);
                }
                self.listening.accepts(&link, &key, adopts);
            }
            Report::Accepts { .. } => {}
            Report::GaveBack(key) => {
                link.gave_back(&key);
                self.listening.gave_back(&link, &key);
            }
        }
    }

    /// A step of a worker's life: first the view, then the machine, whose events must find the view changed.
    fn learn_fact(&mut self, link: &Arc<Link>, news: News, ctx: &mut Context<Self>) {
        link.learn(&news);
        let id = link.id;
        match news.fact {
            Fact::Online => self.step(Input::WorkerOnline { id }, ctx),
            Fact::Listening(address) => self.step(Input::WorkerListening { id, address }, ctx),
            Fact::StandsBy => self.step(Input::WorkerStandsBy { id }, ctx),
            Fact::Ready => self.step(Input::WorkerReady { id }, ctx),
            Fact::Exiting => {
                self.listening.leaves(id);
                self.step(Input::WorkerExiting { id }, ctx);
            }
            Fact::Disconnected => self.step(Input::WorkerDisconnected { id }, ctx),
            Fact::Error(error) => self.step(Input::WorkerFailed { id, error }, ctx),
            Fact::Exited(exit) => {
                self.listening.died(id, is_suspect(&exit));
                self.directory.depart(id);
                if self.shutdown_began.is_some() {
                    let slot = link.slot().clone();
                    self.report.workers.push(WorkerEnd {
                        id,
                        slot,
                        exit: exit.clone(),
                    });
                }
                self.step(Input::WorkerExited { id, exit }, ctx);
                self.workers.remove(&id);
                self.tell_if_empty();
            }
        }
    }

    /// Publishes what the machine knows about slots and phase.
    fn refresh_view(&mut self) {
        let changes = self.machine.take_changes();
        let mut table = self.directory.write();
        table.phase = self.machine.phase();
        table.target = self.machine.target();
        table.counts = self.machine.counts();
        table.reloading = self.machine.reloading();
        for (place, slot) in changes {
            match slot {
                Some(slot) => table.slots.insert(place, slot),
                None => table.slots.remove(&place),
            };
        }
    }

    fn finish(&mut self, outcome: Outcome, ctx: &mut Context<Self>) {
        self.listening.close_all();
        self.zygotes.end();
        self.directory.write().phase = Phase::Stopped;
        self.report.took = self
            .shutdown_began
            .map_or_else(Default::default, |began| clock::now().since(began));
        self.publisher.finish();
        let result = match outcome {
            Outcome::Clean => Ok(self.report.clone()),
            Outcome::Killed => match self.interrupted_by {
                Some(signal) => Err(RunError::Interrupted(signal)),
                None => Ok(self.report.clone()),
            },
            Outcome::GaveUp(what) => Err(RunError::GaveUp {
                what,
                last: self.failures.take(),
            }),
            Outcome::AllFailed => Err(RunError::AllFailed {
                last: self.failures.take(),
            }),
            Outcome::Unkillable(workers) => Err(RunError::Unkillable(workers)),
        };
        self.replies.finished(&self.report);
        if let Some(finished) = self.finished.take() {
            // Nobody waits for the end of a cluster started with `start` and not waited for.
            finished.send(result).ok();
        }
        ctx.stop();
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) const fn replies(&mut self) -> &mut Replies {
        &mut self.replies
    }

    pub(super) const fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn spec(&self) -> SpecName {
        self.config.spec.clone()
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.workers.values().map(|hand| &hand.link)
    }

    pub(super) fn link(&self, worker: WorkerId) -> Option<&Arc<Link>> {
        self.workers.get(&worker).map(|hand| &hand.link)
    }

    pub(super) const fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    pub(super) const fn plug_ins(&self) -> &ArbiterHandle {
        &self.plug_ins
    }

    pub(super) const fn machine(&self) -> &Supervision {
        &self.machine
    }

    /// Remembers how the workers of a spec are started.
    pub(super) fn keep_settings(&mut self, spec: WorkerSpec) {
        self.spec_settings.insert(spec.config.name.clone(), spec);
    }

    /// Of one that the machine has forgotten too, until `SpecGone`: what happened before that is told with it.
    fn restart_type(&self, spec: &SpecName) -> Option<RestartType> {
        let own = (*spec == self.config.spec).then_some(self.config.restart);
        self.spec_settings.get(spec).map(|spec| spec.config.restart).or(own)
    }

    /// How the next workers of a spec are started.
    pub(super) fn settings_of(&self, spec: &SpecName) -> Settings {
        let own = self.spec_settings.get(spec);
        own.map_or_else(|| self.settings.clone(), |spec| spec.settings(&self.settings))
    }

    pub(super) fn actor(&self, worker: WorkerId) -> Option<Addr<WorkerActor>> {
        self.workers.get(&worker).map(|hand| hand.actor.clone())
    }

    /// Changes the settings for the next workers, and tells everybody.
    ///
    /// # Errors
    /// The panic of `change`, which is its caller's; nothing has changed then.
    pub(super) fn set_up(&mut self, change: impl FnOnce(&mut Settings)) -> std::thread::Result<Settings> {
        let mut settings = self.settings.clone();
        // A half-changed copy is thrown away, so a panic leaves nothing behind.
        catch_unwind(AssertUnwindSafe(|| change(&mut settings)))?;
        self.config.fill_in(&mut settings);
        self.settings = settings.clone();
        self.publish(None, EventKind::Setup(Box::new(settings.clone())));
        Ok(settings)
    }

    /// Remembers which signal asked for an immediate stop: it becomes the exit code.
    pub(super) fn note_urgency(&mut self, urgency: Urgency) {
        if let Urgency::Immediate(Some(signal)) = urgency {
            self.interrupted_by = Some(signal);
        }
    }

    pub(super) fn tell_if_empty(&mut self) {
        if self.workers.is_empty() {
            self.replies.empty();
        }
    }
}

/// How soon a full mailbox is asked again.
const RETRY: std::time::Duration = std::time::Duration::from_millis(1);
