//! How one process ends: the orders and faults that end it, the rungs that are climbed meanwhile, and what its exit says.
//!
//! Not here: what may happen to it in which state ([`super::lifecycle`]), and when a rung is due ([`crate::policy`]).

use std::time::Duration;

use crate::model::{Exit, ExitReason, ExitStatus, Mono, Signal, WorkerError};
use crate::policy::{Rung, ShutdownPolicy};

use super::drain::Drain;
use super::life::{Fact, Note, Order};
use super::lifecycle::{Heard, Lifecycle, Past, State};

impl Lifecycle {
    /// How long after its channel the process may die before the master ends it. The kernel closes a dying process's
    /// descriptors just before it reports the death, so at first a closed channel looks the same in a crash and in a
    /// worker that lives on; signalling at once would blame every crash on the channel.
    const DEATH_AFTER_CLOSE: Duration = Duration::from_millis(100);

    /// It announced its end. `Brutal` and `Infinity` say nothing about an end it chose itself.
    pub(super) fn leave(&mut self, was_ready: bool, now: Mono) {
        // After a handle's signal it only obeys: the end is no less unasked than that of a worker that dies of it.
        let chosen = !self.ended_by_handle();
        self.exited_after_disconnect.get_or_insert(chosen);
        self.state = State::Exiting(Past { was_ready, left: true });
        self.tell(Fact::Exiting);
        // It decides by itself whether it was ready and goes on accepting: it has the time for it in any case.
        let lame_duck = self.config.lame_duck;
        self.drain = Some(Drain::new(lame_duck, self.stats.active, now));
        if let policy @ ShutdownPolicy::Grace(_) = self.config.shutdown {
            self.ladder.kill_by(policy, now + lame_duck);
        }
    }

    pub(super) fn stop(&mut self, heard: Heard, was_ready: bool, policy: ShutdownPolicy, now: Mono) {
        self.cause.get_or_insert(ExitReason::Ordered);
        self.exited_after_disconnect.get_or_insert(true);
        self.state = State::Exiting(Past { was_ready, left: false });
        self.tell(Fact::Exiting);
        // Whom no balancer knew, none has to forget; and who is killed at once accepts nothing.
        let lame_duck = if was_ready && policy != ShutdownPolicy::Brutal {
            self.config.lame_duck
        } else {
            Duration::ZERO
        };
        self.drain = Some(Drain::new(lame_duck, self.stats.active, now));
        self.ladder.kill_by(policy, now + lame_duck);
        if policy != ShutdownPolicy::Brutal {
            self.order(Order::SendStop);
            // Before it is online nobody reads the channel; its bootstrap leaves SIGTERM deadly until then.
            let patience = if heard == Heard::Silent {
                Duration::ZERO
            } else {
                self.config.ask
            };
            self.ladder.terminate_at(now + patience);
        }
        self.climb(now);
    }

    /// It is going already: one more order can only make it faster.
    pub(super) fn stop_again(&mut self, policy: ShutdownPolicy, now: Mono) {
        // A channel that closed unasked is the beginning of a crash, whose report may come after the order: then the order is
        // not the reason.
        let was_first = matches!(self.state, State::Disconnected(_)) && self.exited_after_disconnect == Some(false);
        if !was_first {
            self.cause.get_or_insert(ExitReason::Ordered);
        }
        self.exited_after_disconnect.get_or_insert(true);
        let from = match policy {
            ShutdownPolicy::Brutal => now,
            ShutdownPolicy::Grace(_) | ShutdownPolicy::Infinity => {
                self.drain.map_or(now, |drain| drain.counts_from(now))
            }
        };
        self.ladder.kill_by(policy, from);
        self.climb(now);
    }

    pub(super) fn signal(&mut self, signal: Signal, now: Mono) -> Note {
        if signal == Signal::KILL && self.ladder.is_killed() {
            return self.ignore();
        }
        self.signals |= bit(signal);
        self.order(Order::Signal(signal));
        if signal == Signal::KILL {
            self.ladder.killed(now);
        } else if signal.asks_to_end() {
            // A worker that spins never sees a polite signal; one that does is a lame duck first, like in any stop.
            self.ladder.kill_by(self.config.shutdown, now + self.config.lame_duck);
        }
        self.climb(now);
        Note::Taken
    }

    pub(super) fn close_unasked(&mut self, was_ready: bool, now: Mono) {
        self.disconnect(Past { was_ready, left: false });
        let end_of_patience = now + Self::DEATH_AFTER_CLOSE;
        self.ladder.terminate_at(end_of_patience);
        self.ladder.kill_by(self.config.shutdown, end_of_patience);
    }

    pub(super) fn break_off(&mut self, past: Past, what: String, now: Mono) {
        self.tell(Fact::Error(WorkerError::Protocol(what.clone())));
        self.cause.get_or_insert(ExitReason::Protocol(what));
        self.order(Order::CloseChannel);
        self.disconnect(past);
        self.ladder.terminate_at(now);
        self.ladder.kill_by(self.config.shutdown, now);
        self.climb(now);
    }

    pub(super) fn disconnect(&mut self, past: Past) {
        self.exited_after_disconnect.get_or_insert(false);
        self.state = State::Disconnected(past);
        self.tell(Fact::Disconnected);
    }

    pub(super) fn exit(&mut self, past: Past, status: ExitStatus, now: Mono) {
        let reason = self.exit_reason(past, status);
        let orderly = matches!(reason, ExitReason::Ordered | ExitReason::Voluntary) && status.is_success();
        // A SIGKILL that was under way when it ended by itself was not needed.
        let forced = self.ladder.is_killed() && status.code().is_none();
        let lost = if orderly { 0 } else { self.stats.active };
        self.state = State::Dead;
        self.tell(Fact::Exited(Exit {
            status,
            reason,
            forced,
            requests_cut: lost,
            was_ready: past.was_ready,
            drain: self.drain.map(|drain| drain.report(lost, now)),
            // Added by who can read it.
            last_words: None,
        }));
    }

    fn exit_reason(&mut self, past: Past, status: ExitStatus) -> ExitReason {
        if let Some(cause) = self.cause.take() {
            return cause;
        }
        let obeyed = self.exited_after_disconnect == Some(false);
        if past.left && status.is_success() {
            return if obeyed {
                ExitReason::Killed
            } else {
                ExitReason::Voluntary
            };
        }
        let by_handle = status.signal().is_some_and(|signal| {
            let escalated = signal == Signal::KILL && self.ladder.is_killed();
            self.signals & bit(signal) != 0 || (self.ended_by_handle() && escalated)
        });
        if by_handle {
            ExitReason::Killed
        } else if self.starved && status.signal() == Some(Signal::KILL) && !self.ladder.is_killed() {
            ExitReason::Oom
        } else {
            ExitReason::Crash
        }
    }

    /// Did a handle send a signal that is meant to end it?
    fn ended_by_handle(&self) -> bool {
        [Signal::KILL, Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP]
            .into_iter()
            .any(|signal| self.signals & bit(signal) != 0)
    }

    /// Gives out the rungs that are due. Only after orders and when time passed: what the worker says must not make a late
    /// master act on a limit while the answer to it is the next thing it would read.
    pub(super) fn climb(&mut self, now: Mono) {
        if matches!(self.state, State::Dead) {
            return;
        }
        while let Some(rung) = self.ladder.due(now) {
            // Only now is it sure that the worker outlived its channel. After a signal through a handle that is the reason.
            if let State::Disconnected(Past { left: false, .. }) = self.state
                && !self.ended_by_handle()
            {
                self.cause.get_or_insert(ExitReason::ChannelClosed);
            }
            match rung {
                Rung::Terminate => self.order(Order::Signal(Signal::TERM)),
                Rung::Kill => self.order(Order::Signal(Signal::KILL)),
                Rung::Unkillable => self.tell(Fact::Error(WorkerError::Unkillable)),
            }
        }
    }
}

fn bit(signal: Signal) -> u64 {
    // A signal's number is 1 to 64.
    1 << (signal.number() - 1)
}
