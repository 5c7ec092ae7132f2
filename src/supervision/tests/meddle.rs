//! What the simulated handles ask for: anything, at any time, of anybody.

use super::world::{Happening, World};
use super::*;
use crate::model::{RecycleReason, Signal, WorkerError};
use crate::policy::{Canary, RolloutOptions};

impl World {
    /// A handle, or a late message, does something.
    pub(super) fn meddle(&mut self) {
        let id = WorkerId::new(self.pick(16));
        let (a, b, c) = self.answered_before();
        let input = match self.pick(30) {
            // Who stops one by one does not do it in order.
            0..=2 if self.machine.phase() != Phase::Running => Input::Started,
            0 => Input::WorkerStopRequested { id },
            1 | 2 => Input::RestartRequested { id },
            3 => Input::SlotForkRequested {
                request: a,
                spec: self.some_spec(),
            },
            4..=6 => {
                let Some(slot) = self.machine.slots().into_iter().find(|slot| slot.worker.is_none()) else {
                    return self.later(100 * MS, Happening::Meddles);
                };
                Input::SlotStartRequested { slot: slot.slot }
            }
            7 if self.pick(8) == 0 => Input::ClusterDisconnectRequested,
            8 if self.pick(8) == 0 => {
                let now = self.pick(3) == 0;
                Input::ShutdownRequested { now }
            }
            9 => Input::WorkerFailed {
                id: WorkerId::new(9_999),
                error: WorkerError::Unkillable,
            },
            10 | 11 => {
                let signal = [Signal::TERM, Signal::KILL, Signal::USR1][self.pick(3) as usize];
                self.happen(Happening::Does(id, LifeInput::KillOrdered(signal)));
                Input::WorkerReady {
                    id: WorkerId::new(9_999),
                }
            }
            12..=14 => self.some_scaling(a),
            15..=19 => self.some_reload(a),
            20..=22 => Input::RecycleRequested {
                id,
                why: RecycleReason::Memory,
            },
            23 | 24 => Input::SpecStopRequested {
                request: a,
                spec: self.some_spec(),
            },
            25 | 26 => Input::SpecStartRequested {
                request: b,
                spec: self.some_spec(),
            },
            27 => Input::SpecDeleteRequested {
                request: c,
                spec: self.some_spec(),
            },
            28 => {
                let spec = self.some_spec();
                let mut config = self.judge.config_of(&spec).clone();
                config.name = spec;
                Input::SpecAddRequested {
                    request: a,
                    config: Box::new(config),
                }
            }
            _ => Input::Started,
        };
        self.happen(Happening::Arrives(input.clone()));
        if self.pick(3) == 0 && request_of(&input).is_none() {
            self.happen(Happening::Arrives(input));
        }
        if self.now < self.faults_until {
            let pause = MS * (50 + self.pick(900) as u32);
            self.later(pause, Happening::Meddles);
        }
    }

    fn answered_before(&mut self) -> (RequestId, RequestId, RequestId) {
        self.last_request += 3;
        let last = self.last_request;
        (RequestId(last), RequestId(last - 1), RequestId(last - 2))
    }

    fn some_spec(&mut self) -> SpecName {
        ["web", "jobs", "cache", "unknown"][self.pick(4) as usize].into()
    }

    /// I-35: the same again changes nothing.
    fn some_scaling(&mut self, request: RequestId) -> Input {
        let spec = self.some_spec();
        let count = [-1, 0, 1, 2, 3, 5, 7][self.pick(7) as usize];
        let active = (0..12).map(|id| (WorkerId::new(id), self.pick(5))).collect();
        let target = match self.pick(3) {
            0 => ScaleTarget::By(count - 2),
            _ => ScaleTarget::To(count),
        };
        Input::ScaleRequested {
            request,
            spec,
            target,
            active,
        }
    }

    fn some_reload(&mut self, request: RequestId) -> Input {
        let spec = (self.pick(3) == 0).then(|| self.some_spec());
        let mut options = RolloutOptions::new()
            .surge(self.pick(3) as u32)
            .max_unavailable(self.pick(2) as u32)
            .pause(MS * (self.pick(3) * 300) as u32)
            .probation(MS * (self.pick(3) * 500) as u32)
            .step_deadline(MS * (1000 + self.pick(3) * 1000) as u32);
        if self.pick(3) == 0 {
            options = options.canary(Canary {
                count: self.pick(3) as u32,
                bake: SECOND,
            });
        }
        let queue = self.pick(2) == 0;
        Input::ReloadRequested {
            request,
            spec,
            options,
            queue,
        }
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
        | Input::SpecDeleteRequested { request, .. } => Some(*request),
        _ => None,
    }
}
