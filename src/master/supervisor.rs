//! `ClusterSupervisor`: the actor that owns the cluster's state machine and carries out what it decides.
//!
//! One door: [`ClusterSupervisor::step`] is the only caller of the machine. Handlers translate, and decide nothing.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actix::dev::SendError;
use actix::prelude::*;
use actix_rt::ArbiterHandle;
use tokio::sync::oneshot;

use crate::clock;
use crate::config::Config;
use crate::error::{CommandError, RunError};
use crate::master::birth::Birth;
use crate::master::images::Images;
use crate::master::listening::Listening;
use crate::master::messages::{News, Report, WorkerOrder};
use crate::master::replies::Replies;
use crate::master::worker_actor::{Newborn, WorkerActor};
use crate::master::{Directory, Link, Publisher, Subscribers, Urgency};
use crate::model::{
    EventKind, Exit, Generation, Mono, Phase, Program, Settings, ShutdownReport, Signal, Slot, SlotState, SpawnFailure,
    SpawnStep, SpecName, WorkerEnd, WorkerError, WorkerId, WorkerInfo, WorkerState,
};
use crate::process::failure;
use crate::spec::WorkerSpec;
use crate::supervision::{Action, Fact, Input, Outcome, Supervision};

/// The supervisor of the cluster.
pub(crate) struct ClusterSupervisor {
    machine: Supervision,
    /// Facts that came up while actions were being carried out; they wait for their turn.
    inputs: VecDeque<Input>,
    pub(super) config: Config,
    pub(super) settings: Settings,
    /// Environment of slots that were forked with one.
    slot_env: HashMap<Slot, Vec<(OsString, OsString)>>,
    /// Settings of specs that have some of their own.
    pub(super) spec_settings: HashMap<SpecName, WorkerSpec>,
    pub(super) images: Images,
    plug_ins: ArbiterHandle,
    listening: Listening,
    workers: HashMap<WorkerId, Hand>,
    /// The worker whose start is being carried out, for the event of a failed start.
    unborn: Option<WorkerInfo>,
    directory: Arc<Directory>,
    subscribers: Arc<Subscribers>,
    publisher: Publisher,
    replies: Replies,
    deadline: Option<(Mono, SpawnHandle)>,
    report: ShutdownReport,
    shutdown_began: Option<Mono>,
    interrupted_by: Option<Signal>,
    finished: Option<oneshot::Sender<Result<ShutdownReport, RunError>>>,
}

/// What the supervisor holds of one worker.
struct Hand {
    actor: Addr<WorkerActor>,
    link: Arc<Link>,
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
            inputs: VecDeque::new(),
            settings,
            config,
            slot_env: HashMap::new(),
            spec_settings,
            images: Images::default(),
            plug_ins,
            listening,
            workers: HashMap::new(),
            unborn: None,
            publisher: Publisher::new(Arc::clone(&directory), Arc::clone(&subscribers)),
            directory,
            subscribers,
            replies: Replies::default(),
            deadline: None,
            report: ShutdownReport::default(),
            shutdown_began: None,
            interrupted_by: None,
            finished: Some(finished),
        }
    }

    /// The one door: passes the fact and the clock to the machine, carries out what it decides, re-arms its timer.
    pub(super) fn step(&mut self, input: Input, ctx: &mut Context<Self>) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            self.machine.handle(input, clock::now());
            self.carry_out_all(ctx);
        }
        self.arm(ctx);
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
                self.inputs.push_back(input);
            }
            Action::Stop { id, policy } => self.order(id, WorkerOrder::Stop(policy), ctx),
            Action::Publish { worker, kind } => self.publish(worker, kind),
            Action::SlotAdded { request, slot } => {
                if let Some(env) = self.replies.env_of(request) {
                    self.slot_env.insert(slot, env);
                }
            }
            Action::Scaled { request, result } => self.replies.scaled(request, result),
            Action::GenerationAdded { request, generation } => {
                self.generation_added(request, generation);
            }
            Action::GenerationGone { generation } => self.images.remove(generation),
            Action::CanaryVerdict { request, workers } => self.ask_verdict(request, &workers, ctx),
            Action::ReloadFinished { request, result } => {
                if result.is_ok() {
                    self.program_is_good(request);
                }
                self.replies.reloaded(request, result);
            }
            Action::SpecAnswered { request, result } => self.replies.spec_answered(request, result),
            Action::Forked { request, result } => self.replies.forked(request, result),
            Action::SlotGone { slot } => {
                self.slot_env.remove(&slot);
                self.listening.slot_gone(&slot);
            }
            Action::Finished(outcome) => self.finish(outcome, ctx),
        }
    }

    /// Starts a worker; the answer is what became of it.
    fn spawn(
        &mut self,
        id: WorkerId,
        slot: Slot,
        generation: Generation,
        restarts: u32,
        ctx: &mut Context<Self>,
    ) -> Input {
        let info = WorkerInfo {
            id,
            slot: slot.clone(),
            generation,
            pid: None,
            state: WorkerState::Dead,
            exited_after_disconnect: Some(false),
        };
        self.unborn = Some(info);
        match self.deliver(id, slot, generation, restarts) {
            Ok(newborn) => {
                let link = Arc::clone(&newborn.link);
                self.listening.born(&link);
                self.directory.write().workers.insert(id, Arc::clone(&link));
                let actor = WorkerActor::new(newborn, ctx.address(), Arc::clone(&self.subscribers)).run();
                self.workers.insert(id, Hand { actor, link });
                Input::WorkerForked { id }
            }
            Err(failure) => Input::WorkerExited {
                id,
                exit: Exit::not_started(failure),
            },
        }
    }

    fn deliver(
        &mut self,
        id: WorkerId,
        slot: Slot,
        generation: Generation,
        restarts: u32,
    ) -> Result<Newborn, SpawnFailure> {
        let own = self.spec_settings.get(&slot.spec);
        let cluster = own.is_some_and(|spec| spec.cluster);
        let listeners = if cluster {
            Vec::new()
        } else {
            let handed_out = self.listening.hand_out_declared(&slot);
            handed_out.map_err(|error| failure(SpawnStep::Listeners, error.errno, &error.to_string()))?
        };
        let env = self.slot_env.get(&slot).map_or(&[][..], Vec::as_slice);
        let mut settings = own.map_or_else(|| self.settings.clone(), |spec| spec.settings(&self.settings));
        if let Some(path) = self.images.exec_of(generation, &slot.spec) {
            settings.exec = Program::Path(path.to_owned());
        }
        self.images.keep_specs(|spec| self.machine.has_spec(spec));
        let birth = Birth {
            config: &self.config,
            settings: &settings,
            image: self.images.of(generation, &slot, &settings)?,
            env,
            id,
            slot,
            generation,
            restarts,
            probation: self.machine.probation_of(id),
            cluster,
            listeners,
        };
        birth.deliver()
    }

    pub(super) fn publish(&mut self, worker: Option<WorkerId>, kind: EventKind) {
        if matches!(kind, EventKind::ShutdownStarted) {
            self.shutdown_began = Some(clock::now());
        }
        let info = worker.and_then(|id| self.info(id));
        self.publisher.publish(info, kind);
    }

    fn info(&self, id: WorkerId) -> Option<WorkerInfo> {
        let unborn = || self.unborn.clone().filter(|unborn| unborn.id == id);
        self.workers.get(&id).map(|hand| hand.link.info()).or_else(unborn)
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
                    .publish(Some(link.info()), EventKind::Output { stream, line });
            }
            Report::Stats(stats) => link.change().stats = stats,
            Report::Failed(text) => {
                self.step(
                    Input::WorkerFailed {
                        id,
                        error: WorkerError::Failed(text),
                    },
                    ctx,
                );
            }
            Report::WantsListener {
                request,
                key,
                cwd,
                options,
            } => {
                if let Err(error) = self.listening.answer(&link, request, &key, cwd.as_deref(), &options) {
                    let error = WorkerError::Listen {
                        address: error.address,
                        errno: error.errno,
                        detail: error.detail,
                    };
                    self.step(Input::WorkerFailed { id, error }, ctx);
                }
            }
            Report::Accepts { key, adopts } => self.listening.accepts(&link, &key, adopts),
            Report::GaveBack(key) => self.listening.gave_back(&link, &key),
        }
    }

    /// A step of a worker's life: first the view, then the machine, whose events must find the view changed.
    fn learn_fact(&mut self, link: &Arc<Link>, news: News, ctx: &mut Context<Self>) {
        link.learn(&news);
        let id = link.id;
        match news.fact {
            Fact::Online => self.step(Input::WorkerOnline { id }, ctx),
            Fact::Listening(address) => self.step(Input::WorkerListening { id, address }, ctx),
            Fact::Ready => self.step(Input::WorkerReady { id }, ctx),
            Fact::Exiting => {
                self.listening.leaves(id);
                self.step(Input::WorkerExiting { id }, ctx);
            }
            Fact::Disconnected => self.step(Input::WorkerDisconnected { id }, ctx),
            Fact::Error(error) => self.step(Input::WorkerFailed { id, error }, ctx),
            Fact::Exited(exit) => {
                self.listening.died(id);
                self.directory.depart(id);
                if self.shutdown_began.is_some() {
                    let slot = link.slot.clone();
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

    fn arm(&mut self, ctx: &mut Context<Self>) {
        let next = self.machine.next_deadline();
        if self.deadline.as_ref().map(|(at, _)| *at) == next {
            return;
        }
        if let Some((_, handle)) = self.deadline.take() {
            ctx.cancel_future(handle);
        }
        if let Some(at) = next {
            let handle = ctx.run_later(clock::now().until(at), |supervisor, ctx| {
                supervisor.deadline = None;
                supervisor.machine.handle_deadline(clock::now());
                supervisor.carry_out_all(ctx);
                if let Some(input) = supervisor.inputs.pop_front() {
                    supervisor.step(input, ctx);
                } else {
                    supervisor.arm(ctx);
                }
            });
            self.deadline = Some((at, handle));
        }
    }

    fn finish(&mut self, outcome: Outcome, ctx: &mut Context<Self>) {
        self.listening.close_all();
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
            Outcome::GaveUp(gave_up) => Err(RunError::GaveUp(gave_up)),
            Outcome::AllFailed => Err(RunError::AllFailed),
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

    pub(super) fn spec(&self) -> SpecName {
        self.config.spec.clone()
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.workers.values().map(|hand| &hand.link)
    }

    pub(super) fn link(&self, worker: WorkerId) -> Option<&Arc<Link>> {
        self.workers.get(&worker).map(|hand| &hand.link)
    }

    pub(super) const fn plug_ins(&self) -> &ArbiterHandle {
        &self.plug_ins
    }

    /// Remembers how the workers of a spec are started, unless there is one of its name: then the addition is going to be
    /// refused, and must change nothing.
    pub(super) fn keep_settings_of_new(&mut self, spec: &WorkerSpec) {
        if !self.machine.has_spec(&spec.config.name) {
            self.spec_settings.insert(spec.config.name.clone(), spec.clone());
        }
    }

    pub(super) fn actor(&self, worker: WorkerId) -> Option<Addr<WorkerActor>> {
        self.workers.get(&worker).map(|hand| hand.actor.clone())
    }

    pub(super) fn check(&self, worker: WorkerId) -> Result<(), CommandError> {
        self.workers
            .get(&worker)
            .map(|_| ())
            .ok_or(CommandError::UnknownWorker(worker))
    }

    pub(super) fn may_start(&self, slot: &Slot) -> Result<(), CommandError> {
        match (self.machine.phase(), self.machine.slot_state(slot)) {
            (_, None) => Err(CommandError::UnknownSlot(slot.clone())),
            (Phase::ShuttingDown | Phase::Stopped, Some(_)) => Err(CommandError::ShuttingDown),
            (Phase::Running, Some(SlotState::Failed | SlotState::Stopped)) => Ok(()),
            (
                Phase::Running,
                Some(SlotState::Queued | SlotState::Filled | SlotState::Waiting { .. } | SlotState::Held),
            ) => Err(CommandError::AlreadyRunning(slot.clone())),
        }
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
