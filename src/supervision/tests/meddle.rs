//! How a deed is done to a simulated cluster.
//!
//! Not here: which deeds there are ([`super::deed`]).

use super::deed::{Deed, IfBusy, Rumour, Whom};
use super::script::Script;
use super::world::{Happening, World};
use super::*;
use crate::model::{EndCause, Exit, ExitStatus, RecycleReason, Signal, SpawnStep, WorkerError};

impl World {
    /// Does something.
    pub(super) fn meddle(&mut self, number: u32, deed: Deed) {
        self.met |= 1 << (deed.kind() + Script::ALL.len());
        let request = RequestId(u64::from(number) + 1);
        let input = match deed {
            Deed::Start => Input::Started,
            // Who stops one by one does not do it in order.
            Deed::StopWorker(_) | Deed::RestartWorker(_) if self.machine.phase() != Phase::Running => Input::Started,
            Deed::StopWorker(whom) => Input::WorkerStopRequested { id: self.id_of(whom) },
            Deed::RestartWorker(whom) => Input::RestartRequested { id: self.id_of(whom) },
            Deed::RecycleWorker(whom) => Input::RecycleRequested {
                id: self.id_of(whom),
                why: RecycleReason::Memory,
            },
            Deed::SignalWorker(whom, signal) => {
                let id = self.id_of(whom);
                return self.learn(id, &LifeInput::KillOrdered(signal));
            }
            Deed::Reconfigure(mut changes, altered) => {
                changes.specs.extend(altered.map(|(name, alteration)| {
                    let mut config = self.judge.config_of(&name).clone();
                    config.name = name;
                    alteration.alter(&mut config);
                    config
                }));
                let changes = Box::new(changes);
                Input::ReconfigureRequested { request, changes }
            }
            Deed::Serve(whom, requests) => Input::WorkerServed {
                id: self.id_of(whom),
                requests,
            },
            Deed::Blame(whom) => {
                let id = self.id_of(whom);
                self.learn(id, &LifeInput::Blamed(EndCause::Hang("main".to_owned())));
                return self.learn(id, &LifeInput::KillOrdered(Signal::KILL));
            }
            Deed::StartSlot(index) => match self.empty_slot(index) {
                Some(slot) => Input::SlotStartRequested { slot },
                None => return,
            },
            Deed::Fork(spec) => Input::SlotForkRequested { request, spec },
            Deed::Scale(spec, target, active) => Input::ScaleRequested {
                request,
                spec,
                target,
                active,
            },
            Deed::Reload(spec, options, if_busy) => Input::ReloadRequested {
                request,
                spec,
                options,
                queue: if_busy == IfBusy::Wait,
            },
            Deed::StopSpec(spec) => Input::SpecStopRequested { request, spec },
            Deed::StartSpec(spec) => Input::SpecStartRequested { request, spec },
            Deed::RestartSpec(spec) => Input::SpecRestartRequested { request, spec },
            Deed::DeleteSpec(spec) => Input::SpecDeleteRequested { request, spec },
            Deed::AddSpec(spec) => {
                let mut config = self.judge.config_of(&spec).clone();
                config.name = spec;
                let config = Box::new(config);
                Input::SpecAddRequested { request, config }
            }
            Deed::Disconnect => Input::ClusterDisconnectRequested,
            Deed::ShutDown { now } => Input::ShutdownRequested { now },
            Deed::Rumour(number, rumour) => {
                // Once: what it makes the machine do may be to start the one it is about.
                if let Some(input) = self.rumour(number, rumour) {
                    self.happen(Happening::Arrives(input));
                }
                return;
            }
            Deed::KillEverybody => return self.kill_everybody(),
            Deed::FailSpawns(step, time) => {
                self.spawns_fail = Some((step, self.now + time));
                return;
            }
            Deed::HoldUpMaster(time, first) => return self.hold_up_master(time, first),
        };
        // I-35: the same again changes nothing. A slot may be given up again before it is started by hand once more.
        let may_repeat = request_of(&input).is_none() && !matches!(input, Input::SlotStartRequested { .. });
        let again = (number.is_multiple_of(3) && may_repeat).then(|| input.clone());
        for input in std::iter::once(input).chain(again) {
            self.happen(Happening::Arrives(input));
        }
    }

    fn id_of(&self, whom: Whom) -> WorkerId {
        match whom {
            Whom::Number(number) => WorkerId::new(number),
            Whom::Living(index) => {
                let index = index % self.processes.len().max(1);
                let living = self.processes.keys().nth(index);
                living.copied().unwrap_or(WorkerId::FIRST)
            }
        }
    }

    fn empty_slot(&self, index: usize) -> Option<Slot> {
        let mut slots = self.machine.slots();
        slots.retain(|slot| slot.worker.is_none());
        if slots.is_empty() {
            return None;
        }
        Some(slots.swap_remove(index % slots.len()).slot)
    }

    /// News about somebody; none about who is there, since that would be no rumour.
    fn rumour(&self, number: u64, rumour: Rumour) -> Option<Input> {
        let id = WorkerId::new(number);
        let stands_by = self.machine.standbys.iter().any(|standby| standby.worker.id == id);
        let is_there = stands_by || self.machine.roster.find(id).is_some();
        (!is_there).then(|| match rumour {
            Rumour::Forked => Input::WorkerForked { id },
            Rumour::Online => Input::WorkerOnline { id },
            Rumour::Ready => Input::WorkerReady { id },
            Rumour::Exiting => Input::WorkerExiting { id },
            Rumour::Disconnected => Input::WorkerDisconnected { id },
            Rumour::Unkillable => Input::WorkerFailed {
                id,
                error: WorkerError::Unkillable,
            },
            Rumour::Exited => Input::WorkerExited {
                id,
                exit: Exit::not_started(failure(SpawnStep::Exec)),
            },
        })
    }

    fn kill_everybody(&mut self) {
        let ids: Vec<WorkerId> = self.processes.keys().copied().collect();
        for id in ids {
            let status = ExitStatus::Signal {
                signal: Signal::KILL,
                core: false,
            };
            self.said(id, LifeInput::Exited(status));
        }
    }
}

pub(super) fn failure(step: SpawnStep) -> crate::model::SpawnFailure {
    crate::model::SpawnFailure {
        step,
        errno: Some(11),
        detail: "EAGAIN".to_owned(),
    }
}

/// Which request an input is, if it must be answered.
pub(super) const fn request_of(input: &Input) -> Option<RequestId> {
    match input {
        Input::SlotForkRequested { request, .. }
        | Input::ScaleRequested { request, .. }
        | Input::ReloadRequested { request, .. }
        | Input::SpecAddRequested { request, .. }
        | Input::SpecStopRequested { request, .. }
        | Input::SpecStartRequested { request, .. }
        | Input::SpecRestartRequested { request, .. }
        | Input::SpecDeleteRequested { request, .. }
        | Input::ReconfigureRequested { request, .. } => Some(*request),
        _ => None,
    }
}
