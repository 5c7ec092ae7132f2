//! The judge's rules for one process: what it is ordered, when it is killed, what is told of it.
//!
//! It keeps all limits for itself, from what went in, and so knows to the nanosecond when each order is due; also after a
//! master that was held up. Not here: the slots.

use super::life::Report;
use super::trace::Judge;
use super::*;
use crate::model::{Exit, ExitReason, Signal, WorkerError, WorkerState};

/// How long a process may outlive the end of its channel, and `SIGKILL`.
const AFTER_CLOSE: Duration = Duration::from_millis(100);
const AFTER_KILL: Duration = Duration::from_secs(5);
/// What is looked at later than this was looked at by a master that had been held up; how long it reads first; how often
/// in a row that counts.
const LATE: Duration = Duration::from_millis(10);
const CATCH_UP: Duration = Duration::from_millis(100);
const HELD_UP_MAX: u32 = 10;

/// How far a process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    /// Told to stop, or leaving.
    Going,
    /// Without a channel.
    CutOff,
}

/// Why it is ended, without the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Ordered,
    BootTimeout,
    Protocol,
    ChannelClosed,
    /// By a plug-in.
    Blamed,
    /// Nobody ended it: it left, crashed, or a handle's signal ended it.
    None,
}

impl Cause {
    const fn of(exit: &Exit) -> Self {
        match exit.reason {
            ExitReason::Ordered => Self::Ordered,
            ExitReason::BootTimeout => Self::BootTimeout,
            ExitReason::Protocol(_) => Self::Protocol,
            ExitReason::ChannelClosed => Self::ChannelClosed,
            ExitReason::Hang(_) | ExitReason::Memory(_) => Self::Blamed,
            ExitReason::Voluntary
            | ExitReason::Crash
            | ExitReason::Oom
            | ExitReason::Killed
            | ExitReason::SpawnFailed(_) => Self::None,
        }
    }
}

/// What was seen of one process.
#[derive(Debug)]
pub(super) struct Life {
    config: LifecycleConfig,
    way: Way,
    is_online: bool,
    /// It has no slot, which alone could make it ready.
    is_held: bool,
    is_ready: bool,
    /// Did it announce its end?
    has_left: bool,
    /// Killed because it was not ready in time.
    is_expired: bool,
    /// When it must be ready; and when, whatever it asks for.
    boot_limit: Option<Mono>,
    ready_by: Mono,
    terminate_at: Option<Mono>,
    kill_at: Option<Mono>,
    unkillable_at: Option<Mono>,
    is_killed: bool,
    /// Until when it may go on accepting, once it is told to stop.
    lame_until: Option<Mono>,
    /// It said that it accepts no more.
    is_draining: bool,
    held_up: u32,
    /// Signals through a handle that are still to be sent.
    signals: Vec<Signal>,
    /// Was there one that asks it to end?
    is_signalled: bool,
    is_asked: bool,
    was_told: bool,
    exited_after_disconnect: Option<bool>,
    cause: Option<Cause>,
    is_reaped: bool,
    exit_told: bool,
}

fn sooner(set: &mut Option<Mono>, at: Mono) {
    *set = Some(set.map_or(at, |set| set.min(at)));
}

impl Life {
    fn end_by(&mut self, policy: ShutdownPolicy, from: Mono) {
        match policy {
            _ if self.is_killed => {}
            ShutdownPolicy::Grace(grace) => sooner(&mut self.kill_at, from + grace),
            ShutdownPolicy::Infinity => {}
            ShutdownPolicy::Brutal => sooner(&mut self.kill_at, from),
        }
    }

    fn terminate_by(&mut self, at: Mono) {
        if !self.is_killed {
            sooner(&mut self.terminate_at, at);
        }
    }

    /// What is due first.
    fn due(&self) -> Option<Mono> {
        [self.boot_limit, self.terminate_at, self.kill_at, self.unkillable_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// I-17: the lag of the master is not the worker's. All limits move by it, and by the time to read.
    fn forgive(&mut self, now: Mono) -> bool {
        let lag = self.due().map_or(Duration::ZERO, |due| now.since(due));
        if lag <= LATE || self.held_up >= HELD_UP_MAX {
            return false;
        }
        self.held_up += 1;
        for at in [
            &mut self.boot_limit,
            &mut self.terminate_at,
            &mut self.kill_at,
            &mut self.unkillable_at,
        ] {
            *at = at.map(|at| at + lag + CATCH_UP);
        }
        self.ready_by = self.ready_by + lag + CATCH_UP;
        true
    }

    fn is_ready_now(&mut self) {
        self.is_ready = true;
        self.boot_limit = None;
    }

    fn goes(&mut self, way: Way) {
        self.way = way;
        self.boot_limit = None;
        if way == Way::CutOff {
            self.exited_after_disconnect.get_or_insert(false);
        }
    }

    fn stop(&mut self, policy: ShutdownPolicy, now: Mono) {
        self.was_told = true;
        if self.way == Way::Up && !self.is_expired {
            self.cause.get_or_insert(Cause::Ordered);
            self.exited_after_disconnect.get_or_insert(true);
            // Whom no balancer knew, none has to forget.
            let is_lame = self.is_ready && policy != ShutdownPolicy::Brutal;
            let lame_until = now + if is_lame { self.config.lame_duck } else { Duration::ZERO };
            self.lame_until = Some(lame_until);
            self.end_by(policy, lame_until);
            if policy != ShutdownPolicy::Brutal {
                let patience = if self.is_online {
                    self.config.ask
                } else {
                    Duration::ZERO
                };
                self.terminate_by(now + patience);
            }
            return self.goes(Way::Going);
        }
        let is_crashing = self.way == Way::CutOff && self.exited_after_disconnect == Some(false);
        if !is_crashing {
            self.cause.get_or_insert(Cause::Ordered);
        }
        self.exited_after_disconnect.get_or_insert(true);
        let is_lame = policy != ShutdownPolicy::Brutal && !self.is_draining;
        let from = self.lame_until.filter(|_| is_lame).map_or(now, |until| until.max(now));
        self.end_by(policy, from);
    }

    fn leave(&mut self, now: Mono) {
        if self.way == Way::Going {
            self.terminate_at = None;
        } else {
            self.exited_after_disconnect.get_or_insert(!self.is_signalled);
            let lame_until = now + self.config.lame_duck;
            self.lame_until = Some(lame_until);
            if let ShutdownPolicy::Grace(_) = self.config.shutdown {
                self.end_by(self.config.shutdown, lame_until);
            }
            self.goes(Way::Going);
        }
        self.has_left = true;
    }

    fn feed(&mut self, input: &LifeInput, now: Mono) {
        let rule = self.config.ready_when;
        match input {
            LifeInput::Online => self.is_online = true,
            LifeInput::Listening(_) | LifeInput::Ready => {}
            // From here on it has all the time there is; with its slot it has another.
            LifeInput::StandsBy => self.boot_limit = None,
            LifeInput::Activated => {
                self.is_held = false;
                self.boot_limit = Some(now + self.config.boot);
                self.ready_by = now + self.config.boot + self.config.more_time;
            }
            LifeInput::MoreTime(time) => {
                let asked = (now + *time).min(self.ready_by);
                self.boot_limit = self.boot_limit.map(|at| at.max(asked));
            }
            // Beside what the master needs to catch up.
            LifeInput::Unread(time) => {
                self.boot_limit = self.boot_limit.map(|at| at + *time);
                self.ready_by = self.ready_by + *time;
            }
            LifeInput::Stats(stats) => self.is_draining |= stats.draining && self.lame_until.is_some(),
            LifeInput::StopOrdered(policy) => self.stop(*policy, now),
            LifeInput::Leaving => self.leave(now),
            LifeInput::ChannelClosed => {
                if self.way == Way::Up {
                    self.terminate_by(now + AFTER_CLOSE);
                    self.end_by(self.config.shutdown, now + AFTER_CLOSE);
                }
                self.goes(Way::CutOff);
            }
            LifeInput::ProtocolBroken(_) => {
                self.cause.get_or_insert(Cause::Protocol);
                self.terminate_by(now);
                self.end_by(self.config.shutdown, now);
                // A worker that broke it while it came up has not left, whatever it says.
                self.has_left &= self.way == Way::Going;
                self.goes(Way::CutOff);
            }
            LifeInput::Blamed(_) => {
                if !self.is_killed {
                    self.cause.get_or_insert(Cause::Blamed);
                }
            }
            LifeInput::KillOrdered(signal) => {
                self.signals.push(*signal);
                self.is_signalled |= signal.asks_to_end() || *signal == Signal::KILL;
                if signal.asks_to_end() && *signal != Signal::KILL {
                    self.end_by(self.config.shutdown, now + self.config.lame_duck);
                }
            }
            // Names a crash, and changes no rule.
            LifeInput::OutOfMemory => {}
            LifeInput::Exited(_) => self.is_reaped = true,
        }
        let is_ready = match input {
            LifeInput::Online => rule == ReadyWhen::Online && !self.is_held,
            LifeInput::Activated => matches!(rule, ReadyWhen::Spawned | ReadyWhen::Online),
            LifeInput::Listening(_) => rule == ReadyWhen::Listening,
            LifeInput::Ready => true,
            _ => false,
        };
        if is_ready && self.boot_limit.is_some() {
            self.is_ready_now();
        }
    }

    /// A rung of the ladder: only now is it sure that it outlived its channel.
    fn climbs(&mut self) {
        if self.way == Way::CutOff && !self.has_left && !self.is_signalled {
            self.cause.get_or_insert(Cause::ChannelClosed);
        }
    }

    fn killed(&mut self, now: Mono) {
        self.is_killed = true;
        self.terminate_at = None;
        self.kill_at = None;
        self.unkillable_at = Some(now + AFTER_KILL);
    }

    fn is_due(at: Option<Mono>, now: Mono) -> bool {
        at.is_some_and(|at| at <= now)
    }
}

impl Judge {
    pub(super) fn born(&mut self, id: WorkerId, config: LifecycleConfig, now: Mono) {
        let is_ready = config.ready_when == ReadyWhen::Spawned && !config.is_standby;
        let life = Life {
            config,
            way: Way::Up,
            is_online: false,
            is_held: config.is_standby,
            is_ready,
            has_left: false,
            is_expired: false,
            boot_limit: (!is_ready).then_some(now + config.boot),
            ready_by: now + config.boot + config.more_time,
            terminate_at: None,
            kill_at: None,
            unkillable_at: None,
            is_killed: false,
            lame_until: None,
            is_draining: false,
            held_up: 0,
            signals: Vec::new(),
            is_signalled: false,
            is_asked: false,
            was_told: false,
            exited_after_disconnect: None,
            cause: None,
            is_reaped: false,
            exit_told: false,
        };
        self.lives.insert(id, life);
    }

    /// The process's machine was told this.
    pub(super) fn fed(&mut self, id: WorkerId, input: &LifeInput, note: Note, now: Mono) {
        let Some(life) = self.lives.get_mut(&id) else { return };
        if matches!(
            input,
            LifeInput::StopOrdered(_) | LifeInput::KillOrdered(_) | LifeInput::ProtocolBroken(_)
        ) {
            life.forgive(now);
        }
        if note == Note::Taken {
            life.feed(input, now);
        }
    }

    /// The process's machine is about to be told that time passed.
    pub(super) fn looked_at(&mut self, id: WorkerId, now: Mono) {
        let Some(life) = self.lives.get_mut(&id) else { return };
        if life.forgive(now) {
            return;
        }
        life.held_up = 0;
        if Life::is_due(life.boot_limit, now) {
            life.boot_limit = None;
            life.is_expired = true;
            if !life.is_killed {
                life.cause.get_or_insert(Cause::BootTimeout);
                sooner(&mut life.kill_at, now);
            }
        }
    }

    pub(super) fn ordered(&mut self, id: WorkerId, order: Order, now: Mono) {
        let life = self
            .lives
            .get_mut(&id)
            .expect("I-09: an order to a process that is gone");
        assert!(!life.is_reaped, "I-09: {order:?} to worker {id}, which is reaped");
        match order {
            Order::SendStop => {
                let was_asked = std::mem::replace(&mut life.is_asked, true);
                assert!(!was_asked, "I-35: worker {id} is asked twice");
                assert!(life.was_told, "I-15: worker {id} is asked to stop for nothing");
            }
            Order::Signal(signal) => {
                let by_handle = life.signals.iter().position(|known| *known == signal);
                if let Some(place) = by_handle {
                    life.signals.remove(place);
                } else {
                    let due = match signal {
                        Signal::KILL => life.kill_at,
                        _ => life.terminate_at.filter(|_| signal == Signal::TERM),
                    };
                    assert!(!life.is_killed, "I-10: worker {id} gets {signal} after SIGKILL");
                    assert!(
                        Life::is_due(due, now),
                        "I-10: worker {id} gets {signal} at {now}, due {due:?}"
                    );
                    life.climbs();
                    life.terminate_at = None;
                }
                if signal == Signal::KILL {
                    life.killed(now);
                }
            }
            Order::CloseChannel => {}
        }
    }

    /// I-02, I-15, I-27: a fact is told with the state right after it, the exit once and with its reason.
    pub(super) fn said(&mut self, id: WorkerId, report: &Report, now: Mono) {
        use WorkerState as State;
        let life = self
            .lives
            .get_mut(&id)
            .expect("I-02: a fact about a process that is gone");
        assert!(!life.exit_told, "I-02: {:?} of worker {id} after its exit", report.fact);
        let state = report.state;
        let is_true = match &report.fact {
            Fact::Online => state == State::Online,
            Fact::StandsBy => state == State::Online,
            Fact::Listening(_) => state == State::Listening,
            Fact::Ready => matches!(state, State::Created | State::Online | State::Listening),
            Fact::Exiting => state == State::Exiting,
            Fact::Disconnected => state == State::Disconnected,
            Fact::Error(_) => state != State::Dead,
            Fact::Exited(_) => state == State::Dead,
        };
        assert!(is_true, "I-27: worker {id} is {state} at {:?}", report.fact);
        if let Fact::Error(WorkerError::Unkillable) = report.fact {
            let due = life.unkillable_at.take();
            assert!(
                Life::is_due(due, now),
                "I-10: worker {id} is called unkillable at {now}, due {due:?}"
            );
            life.climbs();
        }
        if let Fact::Exited(exit) = &report.fact {
            assert!(life.is_reaped, "I-02: the exit of worker {id}, which was not reaped");
            life.exit_told = true;
            let cause = life.cause.unwrap_or(Cause::None);
            same!(
                Cause::of(exit),
                cause,
                "I-15: why worker {id} ended: {exit:?}, {life:?}"
            );
            let after = life.exited_after_disconnect.or(Some(false));
            same!(
                report.exited_after_disconnect,
                after,
                "I-15: did worker {id} end unasked"
            );
            same!(exit.was_ready, life.is_ready, "I-15: was worker {id} ready");
            let was_stopped = life.lame_until.is_some();
            same!(exit.drain.is_some(), was_stopped, "I-15: had worker {id} time to drain");
        }
    }

    /// A process's machine has said everything.
    pub(super) fn heard_out(&mut self, id: WorkerId) {
        let Some(life) = self.lives.get(&id) else { return };
        same!(life.signals, Vec::new(), "I-10: signals that worker {id} did not get");
        let is_lost = life.is_reaped && !life.exit_told;
        assert!(!is_lost, "I-02: the exit of worker {id} is lost");
        if life.exit_told {
            self.lives.remove(&id);
        }
    }

    /// I-10: whatever was due by then was done.
    pub(super) fn time_passed(&self, by: Mono) {
        for (id, life) in &self.lives {
            assert!(
                !Life::is_due(life.unkillable_at, by),
                "I-10: worker {id} outlives SIGKILL, and nobody is told"
            );
            assert!(
                !Life::is_due(life.due(), by),
                "I-10: worker {id} is spared at {by}: {life:?}"
            );
        }
    }
}
