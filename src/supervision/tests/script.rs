//! Simulated processes: what they do of their own, and how they take what is done to them.
//!
//! What a process says lies in its channel until the master reads it; a process that ends says nothing more, and what it
//! said comes before its end. Not here: the master's side ([`super::world`]).

use std::collections::VecDeque;

use super::plan::{Dice, Sort};
use super::settings::{BOOT, GRACE, MORE_TIME};
use super::world::{Happening, World};
use super::*;
use crate::model::{BoundAddress, ExitStatus, Generation, Signal, WorkerStats, exit_code};

/// How a process behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Ready in the last instant before its boot limit, at that instant, or in the first one after it.
    BootsAtTheLimit,
    /// Ends in the instant in which it is ready.
    EndsWhenReady,
    /// Ends by itself in the instant in which it is told to stop.
    EndsWhenAsked,
    /// Ends by itself in the instant in which it is killed, and ignores everything else.
    EndsWhenKilled,
    /// Ends because there is nothing to do for it: at once, or when it has served for a while.
    HasNothingToDo,
    /// Asks for more time to boot, and needs less than that, as much, or more.
    AsksForTime,
    /// A standby that ends in the instant in which it gets a slot.
    EndsWhenPromoted,
    /// A standby that does nothing with its slot.
    IgnoresPromotion,
}

pub(super) use Script as S;

impl Script {
    pub(super) const ALL: [Self; 22] = [
        Self::Good,
        Self::Deaf,
        Self::Stubborn,
        Self::CrashesAtBoot,
        Self::CrashesLater,
        Self::EndsWithZero,
        Self::Leaves,
        Self::Declines,
        Self::NeverReady,
        Self::ClosesChannel,
        Self::BreaksProtocol,
        Self::Lies,
        Self::SpawnFails,
        Self::Undead,
        Self::BootsAtTheLimit,
        Self::EndsWhenReady,
        Self::EndsWhenAsked,
        Self::EndsWhenKilled,
        Self::HasNothingToDo,
        Self::AsksForTime,
        Self::EndsWhenPromoted,
        Self::IgnoresPromotion,
    ];

    fn any(dice: &mut Dice) -> Self {
        // Some that boot and live make longer histories than only faulty ones.
        match dice.below(30) {
            0..=4 => Self::Good,
            5 => Self::CrashesAtBoot,
            6 => Self::CrashesLater,
            7 => Self::CrashesLater,
            other => Self::ALL[usize::try_from(other - 8).expect("it is an index")],
        }
    }

    /// Is it deaf to the request to stop?
    const fn ignores_the_request(self) -> bool {
        matches!(self, Self::Deaf | Self::Stubborn | Self::Undead | Self::EndsWhenKilled)
    }

    const fn ignores_signals(self) -> bool {
        matches!(self, Self::Stubborn | Self::Undead | Self::EndsWhenKilled)
    }
}

/// It has stopped accepting.
const DRAINING: WorkerStats = WorkerStats {
    requests: 0,
    errors: 0,
    active: 0,
    draining: true,
};

/// One process before it is born.
#[derive(Clone, Copy, Debug)]
pub(super) struct Birth {
    pub(super) script: Script,
    pub(super) ready_when: ReadyWhen,
    /// From birth to online.
    online: Duration,
    /// When it does what its script says.
    later: Duration,
    /// From the request to stop to its end.
    drain: Duration,
    /// How long its words lie in the channel before they are read.
    late: Duration,
    /// How long it goes on accepting when it is told to stop.
    lame_duck: Duration,
    is_standby: bool,
}

impl Birth {
    /// Nothing special.
    pub(super) const TAME: Self = Self {
        script: S::Good,
        ready_when: ReadyWhen::Listening,
        online: Duration::from_millis(10),
        later: Duration::from_secs(3),
        drain: Duration::from_millis(50),
        late: Duration::ZERO,
        lame_duck: Duration::ZERO,
        is_standby: false,
    };

    pub(super) const fn standing_by(self, is_standby: bool) -> Self {
        Self { is_standby, ..self }
    }

    /// The limits of its machine.
    pub(super) const fn config(&self) -> LifecycleConfig {
        LifecycleConfig {
            ready_when: self.ready_when,
            boot: BOOT,
            more_time: MORE_TIME,
            ask: Duration::from_millis(500),
            shutdown: ShutdownPolicy::Grace(GRACE),
            is_standby: self.is_standby,
            lame_duck: self.lame_duck,
        }
    }

    /// How the processes of a new generation are, unless they are like any other.
    pub(super) fn script_of_generation(dice: &mut Dice) -> Option<Script> {
        dice.of([
            None,
            None,
            Some(S::CrashesAtBoot),
            Some(S::NeverReady),
            Some(S::CrashesLater),
            Some(S::SpawnFails),
        ])
    }

    pub(super) fn any(mut dice: Dice) -> Self {
        let script = Script::any(&mut dice);
        let online = match script {
            S::BootsAtTheLimit => dice.of([
                BOOT - 20 * MS - Duration::from_nanos(1),
                BOOT - 20 * MS,
                BOOT - 20 * MS + Duration::from_nanos(1),
            ]),
            _ => dice.millis(1, 901),
        };
        Self {
            script,
            online,
            ready_when: dice.of([
                ReadyWhen::Spawned,
                ReadyWhen::Online,
                ReadyWhen::Listening,
                ReadyWhen::Called,
            ]),
            later: dice.millis(2500, 6500),
            drain: dice.millis(0, 1500),
            late: if dice.once_in(4) {
                dice.millis(1, 400)
            } else {
                Duration::ZERO
            },
            lame_duck: dice.of([Duration::ZERO, 300 * MS, SECOND]),
            is_standby: false,
        }
    }
}

/// One process, the master's machine for it, and the channel between them.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) life: Lifecycle,
    birth: Birth,
    /// When its machine wants to be called; also in the world's list.
    pub(super) armed: Option<Mono>,
    /// It has ended; the master may not know.
    pub(super) is_over: bool,
    /// What it said, or that it ended, and the master has not read.
    pub(super) unread: VecDeque<LifeInput>,
}

impl Process {
    pub(super) const fn new(birth: Birth, life: Lifecycle) -> Self {
        Self {
            life,
            birth,
            armed: None,
            is_over: false,
            unread: VecDeque::new(),
        }
    }
}

impl World {
    /// Puts under way what a process that was born just now does of its own.
    pub(super) fn play(&mut self, id: WorkerId, birth: Birth) {
        let Birth {
            script, online, later, ..
        } = birth;
        // What it asks for is counted from when it asks.
        let listens = if script == S::AsksForTime {
            online + 5 * MS + MORE_TIME.min(later / 2) + birth.drain
        } else {
            online + 10 * MS
        };
        let address = || LifeInput::Listening(BoundAddress::tcp(([127, 0, 0, 1], 8080).into()));
        let code = |code| LifeInput::Exited(ExitStatus::Code(code));
        if script == S::CrashesAtBoot {
            self.says(id, online / 2, code(1));
        }
        if script != S::NeverReady && birth.is_standby {
            self.says(id, online, LifeInput::Online);
            self.says(id, listens, LifeInput::StandsBy);
        } else if script != S::NeverReady {
            self.says(id, online, LifeInput::Online);
            self.says(id, listens, address());
            self.says(id, listens + 10 * MS, LifeInput::Ready);
        }
        match script {
            S::Good | S::Deaf | S::Stubborn | S::CrashesAtBoot | S::NeverReady | S::Undead | S::SpawnFails => {}
            S::BootsAtTheLimit | S::EndsWhenAsked | S::EndsWhenKilled => {}
            S::EndsWhenPromoted | S::IgnoresPromotion => {}
            S::EndsWhenReady => self.says(id, online + 20 * MS, code(101)),
            S::CrashesLater => {
                self.says(id, later, LifeInput::ChannelClosed);
                self.says(id, later, code(101));
            }
            S::EndsWithZero => self.says(id, later, code(0)),
            S::Leaves => {
                self.says(id, later, LifeInput::Leaving);
                self.says(id, later + birth.drain / 2, LifeInput::Stats(DRAINING));
                self.says(id, later + birth.drain, code(0));
            }
            S::HasNothingToDo => {
                let when = if birth.drain < 750 * MS { online / 2 } else { later };
                self.says(id, when, code(exit_code::NOTHING_TO_DO));
            }
            S::AsksForTime => {
                self.says(id, online + MS, LifeInput::MoreTime(MS));
                self.says(id, online + 5 * MS, LifeInput::MoreTime(later / 2));
            }
            S::Declines => self.says(id, later, code(125)),
            S::ClosesChannel => self.says(id, later, LifeInput::ChannelClosed),
            S::BreaksProtocol => self.says(id, later, LifeInput::ProtocolBroken("not JSON".to_owned())),
            S::Lies => {
                for at in [Duration::ZERO, online + 5 * MS, later] {
                    for lie in [LifeInput::Ready, address(), LifeInput::Online, LifeInput::Online] {
                        self.says(id, at, lie);
                    }
                }
            }
        }
    }

    /// A standby has a slot.
    pub(super) fn serve_slot(&mut self, id: WorkerId) {
        let Some(process) = self.processes.get(&id) else { return };
        let address = LifeInput::Listening(BoundAddress::tcp(([127, 0, 0, 1], 8080).into()));
        match process.birth.script {
            S::EndsWhenPromoted => self.says(id, Duration::ZERO, LifeInput::Exited(ExitStatus::Code(1))),
            S::IgnoresPromotion => {}
            _ => {
                self.says(id, MS, address);
                self.says(id, 2 * MS, LifeInput::Ready);
            }
        }
    }

    fn says(&mut self, id: WorkerId, after: Duration, what: LifeInput) {
        self.later(after, Happening::Says(id, what));
    }

    /// A process says something, or ends.
    pub(super) fn said(&mut self, id: WorkerId, what: LifeInput) {
        let Some(process) = self.processes.get_mut(&id).filter(|process| !process.is_over) else {
            return;
        };
        // The end of a process is no word in its channel: it is learned at once, and its last words before it.
        let late = match what {
            LifeInput::Exited(_) => {
                process.is_over = true;
                Duration::ZERO
            }
            _ => process.birth.late,
        };
        process.unread.push_back(what);
        if late.is_zero() && !self.is_master_held_up() {
            self.read(id);
        } else {
            self.later(late, Happening::IsRead(id));
        }
    }

    /// The master reads what a process has said.
    pub(super) fn read(&mut self, id: WorkerId) {
        while let Some(process) = self.processes.get_mut(&id)
            && let Some(what) = process.unread.pop_front()
        {
            self.learn(id, &what);
        }
    }

    /// Does an order of its machine to a process.
    pub(super) fn obey(&mut self, id: WorkerId, order: Order) {
        self.judge.ordered(id, order, self.now);
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let (script, drain, lame_duck) = (process.birth.script, process.birth.drain, process.life.lame_duck());
        let dies = |status| LifeInput::Exited(status);
        match order {
            Order::SendStop => {
                if script == S::EndsWhenAsked {
                    self.says(id, Duration::ZERO, dies(ExitStatus::Code(3)));
                } else if !script.ignores_the_request() {
                    let drain = lame_duck + drain;
                    self.says(id, MS, LifeInput::Leaving);
                    self.says(id, lame_duck + MS, LifeInput::Stats(DRAINING));
                    self.says(id, drain + MS, LifeInput::ChannelClosed);
                    self.says(id, drain + 2 * MS, dies(ExitStatus::Code(0)));
                }
            }
            Order::Signal(signal @ Signal::KILL) => {
                self.kills += 1;
                let (takes, status) = match script {
                    S::Undead => (8 * SECOND, ExitStatus::Signal { signal, core: false }),
                    S::EndsWhenKilled => (Duration::ZERO, ExitStatus::Code(0)),
                    _ => (MS, ExitStatus::Signal { signal, core: false }),
                };
                self.says(id, takes, dies(status));
            }
            Order::Signal(signal) => {
                if !script.ignores_signals() {
                    self.says(id, MS, dies(ExitStatus::Signal { signal, core: false }));
                }
            }
            Order::CloseChannel => self.says(id, MS, LifeInput::ChannelClosed),
        }
    }

    /// How the next process is.
    pub(super) fn next_birth(&mut self, generation: Generation) -> Birth {
        self.births += 1;
        let mut birth = self.plan.dice(Sort::Birth, self.births).map_or(Birth::TAME, Birth::any);
        if !self.is_faulty() {
            birth.script = S::Good;
            // Whoever boots at the limit may come too late for it, which is a fault.
            birth.online = birth.online.min(900 * MS);
        } else if let Some(Some(script)) = self.generations.get(&generation) {
            birth.script = *script;
        }
        birth
    }
}
