//! Starts of specs that are under way: all of their workers get ready, or none stays.
//!
//! OTP starts one child and knows at once; here a spec has several workers, and a worker has started when it is ready. Not
//! here: who may be started ([`super::children`]).

use crate::model::{Exit, StartError, WorkerError, WorkerId};

use super::children::FailedStart;
use super::rules::Down;
use super::seat::{Asked, Purpose, Role, SeatKey, SeatState, SpecKey};
use super::{RequestId, SpecRefused, Supervision};

/// A start that is under way.
#[derive(Debug)]
pub(super) struct Start {
    spec: SpecKey,
    /// Did the spec come with it? Then it goes with it.
    is_new: bool,
    /// Slots without a ready worker.
    left: usize,
    /// Was one of them stopped by somebody else?
    was_overtaken: bool,
    /// What a worker said about its failure; the last one counts.
    said: Option<(WorkerId, String)>,
}

impl Supervision {
    /// Waits for every slot of a spec.
    pub(super) fn await_start(&mut self, request: RequestId, spec: SpecKey, is_new: bool) {
        let seats = self.roster.keys_of(spec);
        if seats.is_empty() {
            return self.answer_spec(request, Ok(()));
        }
        for seat in &seats {
            self.roster.seat_mut(*seat).request = Some(Asked::Start(request));
        }
        let start = Start {
            spec,
            is_new,
            left: seats.len(),
            was_overtaken: false,
            said: None,
        };
        self.starts.insert(request, start);
    }

    /// A slot has a ready worker, or one that had nothing to do, which is as good.
    pub(super) fn start_succeeded(&mut self, key: SeatKey) {
        if let Some(request) = self.take_start(key) {
            self.start_step(request, false);
        }
    }

    /// A slot of a started spec was stopped before it had a ready worker.
    pub(super) fn start_overtaken(&mut self, request: RequestId) {
        self.start_step(request, true);
    }

    /// A worker has ended unasked. Says whether that was the failure of a start, which is told to who asked for it and
    /// judged by nobody else.
    pub(super) fn start_failed(&mut self, key: SeatKey, worker: WorkerId, exit: &Exit) -> bool {
        let Some(request) = self.take_start(key) else {
            return false;
        };
        let slot = self.roster.seat(key).slot.clone();
        self.retire(key, Down::Stopped);
        let Some(start) = self.starts.remove(&request) else {
            return true;
        };
        let why = StartError {
            spec: slot.spec.clone(),
            slot,
            worker,
            exit: exit.clone(),
            said: start.said.filter(|(id, _)| *id == worker).map(|(_, text)| text),
        };
        for seat in self.roster.keys_of(start.spec).into_iter().rev() {
            self.take_start(seat);
            match self.roster.seat(seat).state() {
                SeatState::Failed => self.retire(seat, Down::Stopped),
                SeatState::Queued(_)
                | SeatState::Filled(_)
                | SeatState::Waiting { .. }
                | SeatState::Held
                | SeatState::Stopped => self.stop_slot(seat, Purpose::Remove, None),
            }
        }
        if let Some(spec) = self.specs.get_mut(&start.spec) {
            // It is stopped, as if by hand: that nobody is left is no reason to end.
            spec.is_open = true;
        }
        let failed = FailedStart {
            is_new: start.is_new,
            why: SpecRefused::NotStarted(Box::new(why)),
        };
        self.await_end(request, start.spec, Some(failed));
        true
    }

    /// What goes wrong with a worker, for whoever waits for its start: its own words are kept.
    pub(super) fn note_words(&mut self, id: WorkerId, error: &WorkerError) {
        let Some((key, Role::Main, _)) = self.roster.find(id) else {
            return;
        };
        match (error, self.roster.seat(key).request) {
            (WorkerError::Failed(text), Some(Asked::Start(request))) => {
                if let Some(start) = self.starts.get_mut(&request) {
                    start.said = Some((id, text.clone()));
                }
            }
            // Whom SIGKILL does not end is not waited for.
            (WorkerError::Unkillable, Some(Asked::Start(request))) => {
                self.take_start(key);
                self.start_overtaken(request);
            }
            (
                WorkerError::Spawn(_)
                | WorkerError::Protocol(_)
                | WorkerError::Listen { .. }
                | WorkerError::Strategy(_)
                | WorkerError::NoKeeper(_),
                _,
            )
            | (WorkerError::Failed(_) | WorkerError::Unkillable, Some(Asked::Fork(_)) | None) => {}
        }
    }

    /// At the end of the cluster everybody has an answer.
    pub(super) fn end_starts(&mut self) {
        for request in std::mem::take(&mut self.starts).into_keys() {
            self.answer_spec(request, Err(SpecRefused::Stopping));
        }
    }

    fn start_step(&mut self, request: RequestId, is_overtaken: bool) {
        let Some(start) = self.starts.get_mut(&request) else {
            return;
        };
        start.left -= 1;
        start.was_overtaken |= is_overtaken;
        if start.left == 0
            && let Some(start) = self.starts.remove(&request)
        {
            let result = if start.was_overtaken {
                Err(SpecRefused::Stopping)
            } else {
                Ok(())
            };
            self.answer_spec(request, result);
        }
    }

    /// A fork waits for a process only, and keeps waiting.
    fn take_start(&mut self, key: SeatKey) -> Option<RequestId> {
        let seat = self.roster.seat_mut(key);
        let Some(Asked::Start(request)) = seat.request else {
            return None;
        };
        seat.request = None;
        Some(request)
    }
}
