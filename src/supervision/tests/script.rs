//! What a simulated process does of its own.

use super::world::{Happening, World};
use super::*;
use crate::model::{BoundAddress, ExitStatus};

/// How a process behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Good,
    /// Obeys `SIGTERM` but not the request.
    Deaf,
    /// Obeys nothing but `SIGKILL`.
    Stubborn,
    CrashesAtBoot,
    CrashesLater,
    EndsWithZero,
    Leaves,
    Declines,
    NeverReady,
    ClosesChannel,
    BreaksProtocol,
    Lies,
    SpawnFails,
    /// Dies 8 s after `SIGKILL`.
    Undead,
}

pub(super) use Script as S;

pub(super) const SCRIPTS: [Script; 20] = [
    S::Good,
    S::Good,
    S::Good,
    S::Good,
    S::Good,
    S::Deaf,
    S::Stubborn,
    S::CrashesAtBoot,
    S::CrashesAtBoot,
    S::CrashesLater,
    S::CrashesLater,
    S::EndsWithZero,
    S::Leaves,
    S::Declines,
    S::NeverReady,
    S::ClosesChannel,
    S::BreaksProtocol,
    S::Lies,
    S::SpawnFails,
    S::Undead,
];

impl World {
    /// Puts under way what the process does of its own.
    pub(super) fn play(&mut self, id: WorkerId, script: Script) {
        let address = BoundAddress::tcp(([127, 0, 0, 1], 8080).into());
        let (online, later) = (MS * (1 + self.pick(900) as u32), MS * (2500 + self.pick(4000) as u32));
        let code = |code| LifeInput::Exited(ExitStatus::Code(code));
        let mut acts: Vec<(Duration, LifeInput)> = Vec::new();
        if script != S::NeverReady {
            acts.push((online, LifeInput::Online));
            acts.push((online + 10 * MS, LifeInput::Listening(address.clone())));
            acts.push((online + 20 * MS, LifeInput::Ready));
        }
        match script {
            S::Good | S::Deaf | S::Stubborn | S::NeverReady | S::Undead | S::SpawnFails => {}
            S::CrashesAtBoot => acts.insert(0, (online / 2, code(1))),
            S::CrashesLater => {
                acts.push((later, LifeInput::ChannelClosed));
                acts.push((later, code(101)));
            }
            S::EndsWithZero => acts.push((later, code(0))),
            S::Leaves => {
                acts.push((later, LifeInput::Leaving));
                acts.push((later + 50 * MS, code(0)));
            }
            S::Declines => acts.push((later, code(125))),
            S::ClosesChannel => acts.push((later, LifeInput::ChannelClosed)),
            S::BreaksProtocol => acts.push((later, LifeInput::ProtocolBroken("not JSON".to_owned()))),
            S::Lies => {
                for at in [Duration::ZERO, online + 5 * MS, later] {
                    acts.extend([
                        (at, LifeInput::Ready),
                        (at, LifeInput::Listening(address.clone())),
                        (at, LifeInput::Online),
                        (at, LifeInput::Online),
                    ]);
                }
            }
        }
        for (at, act) in acts {
            self.later(at, Happening::Does(id, act));
        }
    }
}
