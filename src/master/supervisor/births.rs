//! The supervisor starts a worker: with the listeners, settings and terms of its spec.
//!
//! Not here: the steps of a birth ([`crate::master::birth`]), and when there is one (the machine orders it).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use actix::prelude::*;
use nix::errno::Errno;

use super::{ClusterSupervisor, Hand};
use crate::config::Terms;
use crate::ipc::Activation;
use crate::master::Link;
use crate::master::birth::Birth;
use crate::master::listening::Listening;
use crate::master::messages::{Wish, WorkerOrder};
use crate::master::worker_actor::{Newborn, WorkerActor, whole_millis};
use crate::model::{
    Exit, Generation, ListenError, ListenKey, Program, Signal, Slot, SpawnFailure, SpawnStep, SpecName, WorkerError,
    WorkerId, WorkerInfo, WorkerState,
};
use crate::process::Zygote;
use crate::supervision::Input;

impl ClusterSupervisor {
    /// Duplicates of the sockets that a successor of this program could go on with, by name.
    pub(crate) fn keepable_sockets(&self) -> Result<Vec<(String, OwnedFd)>, ListenError> {
        self.listening.keepable()
    }

    /// Starts a worker; the answer is what became of it.
    pub(super) fn spawn(
        &mut self,
        id: WorkerId,
        slot: Slot,
        generation: Generation,
        restarts: u32,
        ctx: &mut Context<Self>,
    ) -> Input {
        let program = self.program_of(generation, &slot.spec);
        let mut born = self.deliver(id, slot.clone(), generation, restarts);
        let reserve = Arc::clone(self.listening.reserve());
        // Lent until the end of this turn, so that what a newborn opens besides is had, too.
        let loan = if is_short(&born) { reserve.lend() } else { None };
        if loan.is_some() {
            born = self.deliver(id, slot.clone(), generation, restarts);
        }
        self.tend_zygotes(None, ctx);
        match born {
            Ok(mut newborn) => {
                let link = Arc::clone(&newborn.link);
                self.listening.born(&link, newborn.handover.take());
                self.directory.write().workers.insert(id, Arc::clone(&link));
                let actor = WorkerActor::new(newborn, ctx.address().recipient(), Arc::clone(&self.subscribers)).run();
                self.workers.insert(id, Hand { actor, link, program });
                Input::WorkerForked { id }
            }
            Err(failure) => {
                let info = WorkerInfo {
                    id,
                    slot,
                    generation,
                    pid: None,
                    state: WorkerState::Dead,
                    exited_after_disconnect: Some(false),
                };
                self.unborn.insert(id, (info, program));
                let exit = Exit::not_started(failure);
                Input::WorkerExited { id, exit }
            }
        }
    }

    /// Gives a standby the slot that it was promoted to, with the sockets of the slot. If they are not to be had it ends,
    /// and the slot is up to the rules of restarts, as if it could not have been started.
    pub(super) fn promote(&mut self, id: WorkerId, slot: Slot, restarts: u32, ctx: &mut Context<Self>) {
        let Some(hand) = self.workers.get(&id) else { return };
        hand.link.promote(slot.clone(), restarts);
        let probation = self.machine.probation_of(id);
        self.listening.promoted(id, slot.clone(), probation);
        let terms = self.config.terms(self.spec_settings.get(&slot.spec));
        match self.listening.hand_out_declared(&slot, |name| terms.include(name)) {
            Ok(handouts) => {
                let (listeners, fds) = handouts.into_iter().map(|(name, handout)| (name, handout.fd)).unzip();
                let activation = Activation {
                    slot,
                    restarts,
                    probation_ms: whole_millis(probation),
                    listeners,
                };
                self.order(id, WorkerOrder::Activate(activation, fds), ctx);
            }
            Err(error) => {
                let error = WorkerError::Listen {
                    address: error.address,
                    errno: error.errno,
                    detail: error.detail,
                };
                self.turns.add(Input::WorkerFailed { id, error });
                self.order(id, WorkerOrder::Kill(Signal::KILL, None), ctx);
            }
        }
    }

    fn deliver(
        &mut self,
        id: WorkerId,
        slot: Slot,
        generation: Generation,
        restarts: u32,
    ) -> Result<Newborn, SpawnFailure> {
        let spec = self.spec_settings.get(&slot.spec);
        let terms = self.config.terms(spec);
        let awaits = slot
            .is_standby()
            .then(|| self.listening.declared_places(|name| terms.include(name)));
        let listeners = if awaits.is_some() {
            // It has no slot, so there are no sockets for it.
            Vec::new()
        } else {
            let handouts = self.listening.hand_out_declared(&slot, |name| terms.include(name));
            handouts.map_err(|error| SpawnFailure {
                step: SpawnStep::Listeners,
                errno: error.errno,
                detail: error.to_string(),
            })?
        };
        let env = self.slot_env.get(&slot).map_or(&[][..], Vec::as_slice);
        let mut settings = spec.map_or_else(|| self.settings.clone(), |spec| spec.settings(&self.settings));
        if let Some(path) = self.images.exec_of(generation, &slot.spec) {
            settings.exec = Program::Path(path.to_owned());
        }
        let image = self.images.of(generation, &slot, &settings)?;
        let start = || Zygote::start(&settings, image, &self.config.args);
        let zygote = self.zygotes.offer(generation, &settings, env, start);
        let birth = Birth {
            config: &self.config,
            terms,
            probation: self.machine.probation_of(id),
            cluster: spec.is_some_and(|spec| spec.cluster),
            settings: &settings,
            image,
            env,
            id,
            slot,
            generation,
            restarts,
            listeners,
            uncounted: self.listening.uncounted(),
            zygote,
            awaits,
        };
        birth.deliver()
    }

    /// What the next workers of this spec are told, and held to.
    pub(in crate::master) fn terms_of(&self, spec: &SpecName) -> Terms<'_> {
        self.config.terms(self.spec_settings.get(spec))
    }

    /// Does a worker of this slot get this listener? What it asks for at run time, it does.
    pub(super) fn gets(&self, slot: &Slot, key: &ListenKey) -> bool {
        let terms = self.terms_of(&slot.spec);
        match key {
            ListenKey::Named(name) => terms.include(name) || !self.config.declares(name),
            ListenKey::Asked { .. } => true,
        }
    }

    /// What a worker's reports ask for is done in one turn.
    pub(in crate::master) fn begin_turn(&mut self) {
        self.listening.begin_turn();
    }

    /// A worker asked for a listener at run time: it gets it, or hears why not.
    pub(super) fn answer_wish(&mut self, link: &Link, wish: &Wish, ctx: &mut Context<Self>) {
        let answered = if link.slot().is_standby() {
            Listening::put_off(link, wish)
        } else if self.gets(link.slot(), &wish.key) {
            self.listening.answer(link, wish)
        } else {
            Listening::refuse(link, wish)
        };
        if let Err(error) = answered {
            let error = WorkerError::Listen {
                address: error.address,
                errno: error.errno,
                detail: error.detail,
            };
            self.step(Input::WorkerFailed { id: link.id, error }, ctx);
        }
    }

    pub(super) fn info(&self, id: WorkerId) -> Option<WorkerInfo> {
        let hand = self.workers.get(&id).map(|hand| hand.link.info());
        hand.or_else(|| self.unborn.get(&id).map(|(info, _)| info.clone()))
    }

    pub(super) fn program(&self, id: WorkerId) -> Option<&Program> {
        let hand = self.workers.get(&id).map(|hand| &hand.program);
        hand.or_else(|| self.unborn.get(&id).map(|(_, program)| program))
    }

    /// What the next workers of this spec run in this generation.
    fn program_of(&self, generation: Generation, spec: &SpecName) -> Program {
        if let Some(path) = self.images.exec_of(generation, spec) {
            return Program::Path(path.to_owned());
        }
        let own = self.spec_settings.get(spec).and_then(|spec| spec.exec.clone());
        own.map_or_else(|| self.settings.exec.clone(), Program::Path)
    }
}

/// Did it fail because this process has no descriptor left?
fn is_short(born: &Result<Newborn, SpawnFailure>) -> bool {
    let failure = born.as_ref().err();
    failure.is_some_and(|failure| failure.errno == Some(Errno::EMFILE as i32))
}
