//! The judge's rules for one process: what it is ordered, when it is killed, what is told of it.
//!
//! It counts limits from what went in. Not here: the slots.

use super::life::Report;
use super::trace::Judge;
use super::*;
use crate::model::{ExitReason, Signal, WorkerError, WorkerState};

/// How long a process may outlive the end of its channel, and `SIGKILL`.
const AFTER_CLOSE: Duration = Duration::from_millis(100);
const AFTER_KILL: Duration = Duration::from_secs(5);

/// What was seen of one process.
#[derive(Debug)]
pub(super) struct Life {
    config: LifecycleConfig,
    boot_limit: Option<Mono>,
    /// When it is to be killed, for each reason; the first counts.
    kill_at: Vec<Mono>,
    killed_at: Option<Mono>,
    signals: Vec<Signal>,
    is_asked: bool,
    /// It is going, or its channel is closed.
    is_down: bool,
    /// Was it told to stop, and was that the first thing that ended it?
    ordered: Option<bool>,
    is_reaped: bool,
    exit_told: bool,
    unkillable_told: bool,
}

impl Life {
    fn end_by(&mut self, policy: ShutdownPolicy, from: Mono) {
        match policy {
            ShutdownPolicy::Grace(grace) => self.kill_at.push(from + grace),
            ShutdownPolicy::Infinity => {}
            ShutdownPolicy::Brutal => self.kill_at.push(from),
        }
    }

    fn kill_due(&self) -> Option<Mono> {
        self.kill_at.iter().chain(&self.boot_limit).min().copied()
    }

    fn feed(&mut self, input: &LifeInput, now: Mono) {
        let grace = self.config.shutdown;
        match input {
            LifeInput::StopOrdered(policy) => {
                let is_first = !self.is_down && self.killed_at.is_none() || self.is_down && self.kill_at.is_empty();
                self.ordered.get_or_insert(is_first);
                self.end_by(*policy, now);
            }
            LifeInput::Leaving if !self.is_down => self.end_by(grace, now),
            LifeInput::ChannelClosed if !self.is_down => self.end_by(grace, now + AFTER_CLOSE),
            LifeInput::ProtocolBroken(_) => self.end_by(grace, now),
            LifeInput::KillOrdered(signal) => {
                self.signals.push(*signal);
                if *signal == Signal::KILL {
                    self.kill_at.push(now);
                } else if signal.asks_to_end() {
                    self.end_by(grace, now);
                }
                return;
            }
            LifeInput::Exited(_) => self.is_reaped = true,
            LifeInput::Online if self.config.ready_when == ReadyWhen::Online => self.boot_limit = None,
            LifeInput::Listening(_) if self.config.ready_when == ReadyWhen::Listening => self.boot_limit = None,
            LifeInput::Ready => self.boot_limit = None,
            LifeInput::Online | LifeInput::Listening(_) | LifeInput::Stats(_) => {}
            LifeInput::Leaving | LifeInput::ChannelClosed => {}
        }
        if !matches!(
            input,
            LifeInput::Online | LifeInput::Listening(_) | LifeInput::Ready | LifeInput::Stats(_)
        ) {
            self.is_down = true;
            // It is killed for not being ready only while it comes up.
            self.boot_limit = self.boot_limit.filter(|_| self.killed_at.is_some());
        }
    }
}

impl Judge {
    pub(super) fn born(&mut self, id: WorkerId, config: LifecycleConfig, now: Mono) {
        let life = Life {
            config,
            boot_limit: (config.ready_when != ReadyWhen::Spawned).then_some(now + config.boot),
            kill_at: Vec::new(),
            killed_at: None,
            signals: Vec::new(),
            is_asked: false,
            is_down: false,
            ordered: None,
            is_reaped: false,
            exit_told: false,
            unkillable_told: false,
        };
        self.lives.insert(id, life);
    }

    /// The process's machine was told this.
    pub(super) fn fed(&mut self, id: WorkerId, input: &LifeInput, note: Note, now: Mono) {
        if let Some(life) = self.lives.get_mut(&id).filter(|_| note == Note::Taken) {
            life.feed(input, now);
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
                assert!(
                    !std::mem::replace(&mut life.is_asked, true),
                    "I-35: worker {id} is asked twice"
                );
                assert!(life.ordered.is_some(), "I-15: worker {id} is asked to stop for nothing");
            }
            Order::Signal(Signal::KILL) => {
                same!(life.killed_at.replace(now), None, "I-10: worker {id} is killed twice");
                let due = life.kill_due();
                assert!(
                    due.is_some_and(|at| at <= now),
                    "I-10: worker {id} is killed at {now}, due {due:?}"
                );
            }
            Order::Signal(signal) => {
                let is_wanted = life.signals.contains(&signal);
                let is_ending = signal == Signal::TERM && life.kill_due().is_some();
                assert!(is_wanted || is_ending, "I-10: worker {id} gets {signal} for nothing");
            }
            Order::CloseChannel => {}
        }
    }

    /// I-02, I-15, I-27: a fact is told with the state right after it, the exit once and with its reason.
    pub(super) fn said(&mut self, id: WorkerId, report: &Report) {
        use WorkerState as State;
        let life = self
            .lives
            .get_mut(&id)
            .expect("I-02: a fact about a process that is gone");
        assert!(!life.exit_told, "I-02: {:?} of worker {id} after its exit", report.fact);
        let state = report.state;
        let is_true = match &report.fact {
            Fact::Online => state == State::Online,
            Fact::Listening(_) => state == State::Listening,
            Fact::Ready => matches!(state, State::Created | State::Online | State::Listening),
            Fact::Exiting => state == State::Exiting,
            Fact::Disconnected => state == State::Disconnected,
            Fact::Error(_) => state != State::Dead,
            Fact::Exited(_) => state == State::Dead,
        };
        assert!(is_true, "I-27: worker {id} is {state} at {:?}", report.fact);
        if let Fact::Error(WorkerError::Unkillable) = report.fact {
            let was_told = std::mem::replace(&mut life.unkillable_told, true);
            assert!(
                life.killed_at.is_some() && !was_told,
                "I-10: worker {id} is called unkillable"
            );
        }
        if let Fact::Exited(exit) = &report.fact {
            assert!(life.is_reaped, "I-02: the exit of worker {id}, which was not reaped");
            life.exit_told = true;
            let is_ordered = exit.reason == ExitReason::Ordered;
            match life.ordered {
                None => assert!(!is_ordered, "I-15: worker {id} ended unasked: {exit:?}"),
                Some(true) => assert!(is_ordered, "I-15: worker {id} ended as it was told: {exit:?}"),
                Some(false) => {}
            }
        }
    }

    /// A process's machine has said everything.
    pub(super) fn heard_out(&mut self, id: WorkerId) {
        let is_over = self.lives.get(&id).is_some_and(|life| {
            assert!(
                life.exit_told || !life.is_reaped,
                "I-02: the exit of worker {id} is lost"
            );
            life.exit_told
        });
        if is_over {
            self.lives.remove(&id);
        }
    }

    /// I-10: nobody lives on whose time is over.
    pub(super) fn time_passed(&self, now: Mono) {
        for (id, life) in &self.lives {
            let is_late = life.killed_at.is_none() && life.kill_due().is_some_and(|at| at <= now);
            assert!(!is_late, "I-10: worker {id} is not killed at {now}: {life:?}");
            let is_silent = !life.unkillable_told && life.killed_at.is_some_and(|at| at + AFTER_KILL <= now);
            assert!(!is_silent, "I-10: worker {id} outlives SIGKILL, and nobody is told");
        }
    }
}
