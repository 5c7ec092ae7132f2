//! The machine of one process: from its birth to exactly one exit, whatever the process does or says.
//!
//! Not here: its words ([`super::life`]), how it ends ([`super::ending`]), what follows from the end for its slot
//! ([`super::Supervision`]), the channel and the signals themselves.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::{EndCause, ExitReason, Mono, WorkerState, WorkerStats};
use crate::policy::{Ladder, ReadyWhen, ShutdownPolicy};

use super::drain::Drain;
use super::life::{Fact, LifeInput, LifecycleConfig, Note, Order, Output, Report};

/// One process, from its birth to exactly one exit.
///
/// ```text
///  birth ──► Up { heard: Silent → Online → Listening, boot: Pending → Ready }
///             │  │   │
///             │  │   └─ boot limit ──► Up { boot: Expired }    SIGKILL; nothing it says counts any more
///             │  │
///             │  └─ StopOrdered, Leaving ──► Exiting ──┐
///             │                                        │ ChannelClosed, ProtocolBroken
///             └─ ChannelClosed, ProtocolBroken ──► Disconnected
///
///  any ── Exited ──► Dead
/// ```
///
/// A standby is `boot: Standby` from its word that it has booted until it has a slot; then it is `Pending` anew.
///
///
/// A worker may lie: what is out of order changes nothing but a count.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    pub(super) config: LifecycleConfig,
    pub(super) state: State,
    /// When it must be ready, whatever it asks for.
    ready_by: Mono,
    /// It has no slot yet.
    is_held: bool,
    pub(super) ladder: Ladder,
    /// Why the master is ending it; the first reason stays.
    pub(super) cause: Option<ExitReason>,
    pub(super) exited_after_disconnect: Option<bool>,
    /// Signals sent through a handle, bit `number - 1` each.
    pub(super) signals: u64,
    /// How often in a row a limit was looked at too late.
    held_up: u32,
    /// The kernel's killer for want of memory was seen at work as it ended.
    pub(super) starved: bool,
    pub(super) stats: WorkerStats,
    /// Since it was told to stop, or announced it.
    pub(super) drain: Option<Drain>,
    ignored: u64,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Up { heard: Heard, boot: Boot },
    Exiting(Past),
    Disconnected(Past),
    Dead,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Silent,
    Online,
    Listening,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boot {
    /// Not ready; killed at this instant.
    Pending(Mono),
    /// It waits for a slot, for as long as it takes.
    Standby,
    Ready,
    /// Killed because it was not ready in time.
    Expired,
}

/// What the exit has to tell about the time before the end began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    pub(super) was_ready: bool,
    /// Did it announce its end?
    pub(super) left: bool,
}

impl Lifecycle {
    /// A limit that is looked at later than this is not late by chance: the master was stopped, or starved.
    const LATE: Duration = Duration::from_millis(10);
    /// How long the master reads, after that, before it acts on a limit.
    const CATCH_UP: Duration = Duration::from_millis(100);
    /// How often in a row: a master that is always late must kill in the end.
    const HELD_UP_MAX: u32 = 10;

    /// A process that was born just now.
    pub(crate) fn new(config: LifecycleConfig, now: Mono) -> Self {
        let mut this = Self {
            config,
            state: State::Up {
                heard: Heard::Silent,
                boot: Boot::Pending(now + config.boot),
            },
            ready_by: now + config.boot + config.more_time,
            is_held: config.is_standby,
            ladder: Ladder::default(),
            cause: None,
            exited_after_disconnect: None,
            signals: 0,
            starved: false,
            held_up: 0,
            stats: WorkerStats::default(),
            drain: None,
            ignored: 0,
            outputs: VecDeque::new(),
        };
        if config.ready_when == ReadyWhen::Spawned && !config.is_standby {
            this.become_ready(Heard::Silent);
        }
        this
    }

    /// A fact happened.
    pub(crate) fn handle(&mut self, input: LifeInput, now: Mono) -> Note {
        use LifeInput as In;
        // These act on what is due, and what the worker said before may not have been read yet.
        if matches!(input, In::StopOrdered(_) | In::KillOrdered(_) | In::ProtocolBroken(_)) {
            self.forgive_hold_up(now);
        }
        match (self.state, input) {
            // Without a slot there is nothing to listen on, and nothing to be ready for.
            (State::Up { .. }, In::Listening(_) | In::Ready) if self.is_held => return self.ignore(),
            (State::Up { heard: heard @ (Heard::Online | Heard::Listening), boot: Boot::Pending(_) }, In::StandsBy) if self.is_held => {
                self.state = State::Up { heard, boot: Boot::Standby };
                self.tell(Fact::StandsBy);
            }
            (State::Up { heard, boot: Boot::Standby }, In::Activated) => self.activate(heard, now),

            // It comes up. Silent → Online → Listening, in this order only.
            (State::Up { heard: Heard::Silent, boot: boot @ (Boot::Pending(_) | Boot::Ready) }, In::Online) => {
                self.progress(Heard::Online, boot, Fact::Online);
            }
            (
                State::Up { heard: Heard::Online | Heard::Listening, boot: boot @ (Boot::Pending(_) | Boot::Ready) },
                In::Listening(address),
            ) => self.progress(Heard::Listening, boot, Fact::Listening(address)),
            (State::Up { heard: heard @ (Heard::Online | Heard::Listening), boot: Boot::Pending(_) }, In::Ready) => {
                self.become_ready(heard);
            }

            // It goes, or is told to.
            (State::Up { heard: heard @ (Heard::Online | Heard::Listening), boot: Boot::Pending(at) }, In::MoreTime(time)) => {
                // Asking never makes it sooner, and never later than the cap.
                let at = at.max((now + time).min(self.ready_by));
                self.state = State::Up { heard, boot: Boot::Pending(at) };
            }

            (State::Up { heard, boot: Boot::Pending(at) }, In::Unread(time)) => {
                let delay = time.saturating_add(Self::CATCH_UP);
                self.state = State::Up { heard, boot: Boot::Pending(at + delay) };
                self.ready_by = self.ready_by + delay;
            }

            (State::Up { heard: Heard::Online | Heard::Listening, boot: boot @ (Boot::Pending(_) | Boot::Standby | Boot::Ready) }, In::Leaving) => {
                self.leave(boot == Boot::Ready, now);
            }
            (State::Exiting(past @ Past { left: false, .. }), In::Leaving) => {
                self.ladder.answered();
                self.state = State::Exiting(Past { left: true, ..past });
            }
            (State::Up { heard, boot: boot @ (Boot::Pending(_) | Boot::Standby | Boot::Ready) }, In::StopOrdered(policy)) => {
                self.stop(heard, boot == Boot::Ready, policy, now);
            }
            (State::Up { boot: Boot::Expired, .. } | State::Exiting(_) | State::Disconnected(_), In::StopOrdered(policy)) => {
                self.stop_again(policy, now);
            }
            (State::Up { .. } | State::Exiting(_) | State::Disconnected(_), In::Blamed(cause)) => {
                // An order to stop, or a kill that is under way already, stays the reason.
                if !self.ladder.is_killed() {
                    self.cause.get_or_insert(match cause {
                        EndCause::Hang(name) => ExitReason::Hang(name),
                        EndCause::Memory(what) => ExitReason::Memory(what),
                    });
                }
            }
            (State::Up { .. } | State::Exiting(_) | State::Disconnected(_), In::OutOfMemory) => self.starved = true,
            (State::Up { .. } | State::Exiting(_) | State::Disconnected(_), In::KillOrdered(signal)) => {
                return self.signal(signal, now);
            }

            // Its channel is gone.
            (State::Up { boot, .. }, In::ChannelClosed) => self.close_unasked(boot == Boot::Ready, now),
            (State::Exiting(past), In::ChannelClosed) => self.disconnect(past),
            (State::Up { boot, .. }, In::ProtocolBroken(what)) => {
                let past = Past { was_ready: boot == Boot::Ready, left: false };
                self.break_off(past, what, now);
            }
            (State::Exiting(past), In::ProtocolBroken(what)) => self.break_off(past, what, now),

            (State::Up { .. } | State::Exiting(_) | State::Disconnected(_), In::Stats(stats)) => {
                self.stats = stats;
                if let Some(drain) = &mut self.drain {
                    drain.heard(stats, now);
                }
            }

            // It is gone.
            (State::Up { boot, .. }, In::Exited(status)) => {
                let past = Past { was_ready: boot == Boot::Ready, left: false };
                self.disconnect(past);
                self.exit(past, status, now);
            }
            (State::Exiting(past), In::Exited(status)) => {
                self.disconnect(past);
                self.exit(past, status, now);
            }
            (State::Disconnected(past), In::Exited(status)) => self.exit(past, status, now),

            // Out of order or said twice: a lie or a mistake of the worker.
            (State::Up { heard: Heard::Online | Heard::Listening, boot: Boot::Pending(_) | Boot::Standby | Boot::Ready }, In::Online)
            // Nobody stands by who has a slot or is not online, and nobody is promoted who does not stand by.
            | (State::Up { .. } | State::Exiting(_) | State::Disconnected(_), In::StandsBy | In::Activated)
            // Who stands by is online, and is held until it is told that it has a slot.
            | (State::Up { heard: Heard::Silent, boot: Boot::Standby }, In::Online | In::Leaving)
            | (State::Up { boot: Boot::Standby, .. }, In::Listening(_) | In::Ready)
            | (State::Up { heard: Heard::Silent, boot: Boot::Pending(_) | Boot::Ready }, In::Listening(_) | In::Ready | In::Leaving)
            | (State::Up { heard: Heard::Online | Heard::Listening, boot: Boot::Ready }, In::Ready)
            | (State::Exiting(Past { left: true, .. }), In::Leaving)
            // Only the way to ready has a limit that this machine keeps.
            | (State::Up { heard: Heard::Silent, boot: Boot::Pending(_) }, In::MoreTime(_))
            | (
                State::Up { boot: Boot::Standby | Boot::Ready | Boot::Expired, .. } | State::Exiting(_) | State::Disconnected(_),
                In::MoreTime(_) | In::Unread(_),
            )
            // Sent before it learned of its end, or the end was decided.
            | (State::Up { boot: Boot::Expired, .. }, In::Online | In::Listening(_) | In::Ready | In::Leaving)
            | (State::Exiting(_), In::Online | In::Listening(_) | In::Ready)
            | (
                State::Disconnected(_),
                In::Online | In::Listening(_) | In::Ready | In::Leaving | In::ChannelClosed | In::ProtocolBroken(_),
            )
            | (
                State::Dead,
                In::Online
                | In::Listening(_)
                | In::Ready
                | In::StandsBy
                | In::Activated
                | In::Leaving
                | In::MoreTime(_)
                | In::Unread(_)
                | In::Stats(_)
                | In::ChannelClosed
                | In::ProtocolBroken(_)
                | In::StopOrdered(_)
                | In::Blamed(_)
                | In::OutOfMemory
                | In::KillOrdered(_)
                | In::Exited(_),
            ) => return self.ignore(),
        }
        Note::Taken
    }

    /// Time passed.
    pub(crate) fn handle_deadline(&mut self, now: Mono) {
        if self.forgive_hold_up(now) {
            return;
        }
        self.held_up = 0;
        if let State::Up {
            heard,
            boot: Boot::Pending(at),
        } = self.state
            && at <= now
        {
            self.state = State::Up {
                heard,
                boot: Boot::Expired,
            };
            // Somebody's `SIGKILL` may be under way already; then that is the reason.
            if !self.ladder.is_killed() {
                self.cause.get_or_insert(ExitReason::BootTimeout);
                self.ladder.kill_by(ShutdownPolicy::Brutal, now);
            }
        }
        self.climb(now);
    }

    /// What must be done or told next.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_deadline`](Self::handle_deadline).
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        let boot = match self.state {
            State::Up {
                boot: Boot::Pending(at),
                ..
            } => Some(at),
            State::Up {
                boot: Boot::Standby | Boot::Ready | Boot::Expired,
                ..
            }
            | State::Exiting(_)
            | State::Disconnected(_) => None,
            State::Dead => return None,
        };
        boot.into_iter().chain(self.ladder.next_deadline()).min()
    }

    /// For how long it goes on accepting after the order to stop it.
    pub(crate) fn lame_duck(&self) -> Duration {
        self.drain.map_or(Duration::ZERO, |drain| drain.lame_duck)
    }

    /// The public word for where it is.
    pub(crate) const fn state(&self) -> WorkerState {
        match self.state {
            State::Up {
                heard: Heard::Silent, ..
            } => WorkerState::Created,
            State::Up {
                heard: Heard::Online, ..
            } => WorkerState::Online,
            State::Up {
                heard: Heard::Listening,
                ..
            } => WorkerState::Listening,
            State::Exiting(_) => WorkerState::Exiting,
            State::Disconnected(_) => WorkerState::Disconnected,
            State::Dead => WorkerState::Dead,
        }
    }

    /// Is its end decided, or has it come?
    pub(crate) const fn is_leaving(&self) -> bool {
        match self.state {
            State::Up { .. } => false,
            State::Exiting(_) | State::Disconnected(_) | State::Dead => true,
        }
    }

    /// Can it serve?
    #[cfg(test)]
    pub(crate) const fn is_ready(&self) -> bool {
        matches!(self.state, State::Up { boot: Boot::Ready, .. })
    }

    /// Node's `exitedAfterDisconnect`: the first of "asked or announced" (true) and "ended unasked" (false).
    #[cfg(test)]
    pub(crate) const fn exited_after_disconnect(&self) -> Option<bool> {
        self.exited_after_disconnect
    }

    /// Inputs that were out of order, repeated or too late.
    #[cfg(test)]
    pub(crate) const fn ignored(&self) -> u64 {
        self.ignored
    }

    /// If what is due first is looked at much too late, the master did not run since then: all limits move by as much,
    /// and by the time to read what the worker said meanwhile. So its answer counts however long the master was held up,
    /// and between `SIGTERM` and `SIGKILL` it has the time that it was promised. A worker that stood still together with
    /// the master gets the time to catch up and no more: nothing tells the master since when it stood still itself.
    fn forgive_hold_up(&mut self, now: Mono) -> bool {
        let lag = self.next_deadline().map_or(Duration::ZERO, |due| now.since(due));
        if lag <= Self::LATE || self.held_up >= Self::HELD_UP_MAX {
            return false;
        }
        self.held_up += 1;
        let delay = lag.saturating_add(Self::CATCH_UP);
        if let State::Up {
            boot: Boot::Pending(at),
            ..
        } = &mut self.state
        {
            *at = *at + delay;
        }
        self.ready_by = self.ready_by + delay;
        self.ladder.postpone(delay);
        true
    }

    fn progress(&mut self, heard: Heard, boot: Boot, fact: Fact) {
        self.state = State::Up { heard, boot };
        self.tell(fact);
        let rule_met = match self.config.ready_when {
            ReadyWhen::Online => heard == Heard::Online,
            ReadyWhen::Listening => heard == Heard::Listening,
            ReadyWhen::Spawned | ReadyWhen::Called => false,
        };
        if rule_met && boot != Boot::Ready && !self.is_held {
            self.become_ready(heard);
        }
    }

    /// It has a slot: from here on it is a worker that boots, and may be ready by what it was heard of already.
    fn activate(&mut self, heard: Heard, now: Mono) {
        self.is_held = false;
        self.state = State::Up {
            heard,
            boot: Boot::Pending(now + self.config.boot),
        };
        self.ready_by = now + self.config.boot + self.config.more_time;
        match self.config.ready_when {
            ReadyWhen::Spawned | ReadyWhen::Online => self.become_ready(heard),
            ReadyWhen::Listening | ReadyWhen::Called => {}
        }
    }

    fn become_ready(&mut self, heard: Heard) {
        self.state = State::Up {
            heard,
            boot: Boot::Ready,
        };
        self.tell(Fact::Ready);
    }

    pub(super) fn ignore(&mut self) -> Note {
        self.ignored = self.ignored.saturating_add(1);
        Note::Ignored
    }

    pub(super) fn order(&mut self, order: Order) {
        self.outputs.push_back(Output::Order(order));
    }

    pub(super) fn tell(&mut self, fact: Fact) {
        self.outputs.push_back(Output::Fact(Report {
            fact,
            state: self.state(),
            exited_after_disconnect: self.exited_after_disconnect,
        }));
    }
}
