//! The slots in start order: what each should be, and the sums over them.
//!
//! Every change of a slot goes through [`Roster::set`], which keeps the sums and the orders of waiting right, so that no
//! question costs a walk over all slots. Not here: why a slot changes (that is [`super::Supervision`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Exit, Mono, Slot, SlotSnapshot, SlotState, WorkerId};
use crate::policy::Window;

use super::RequestId;

/// Where a slot stands in the start order, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SeatKey(u64);

/// One slot.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) slot: Slot,
    /// The position of its spec.
    pub(super) spec: usize,
    /// Who asked for it and has no answer yet.
    pub(super) request: Option<RequestId>,
    /// Was it added by a handle? Then it is forgotten when it is stopped.
    pub(super) is_extra: bool,
    /// Restarts since the cluster's start.
    pub(super) restarts: u32,
    /// Failures in a row.
    pub(super) streak: u32,
    pub(super) window: Window,
    pub(super) last_exit: Option<Exit>,
    state: SeatState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeatState {
    Queued(Turn),
    Filled(Occupant),
    Waiting { until: Mono },
    Failed,
    Stopped,
}

/// Restarts go before first starts: what was there comes back before more is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    Restart,
    First,
}

/// The worker in a slot, as far as the slot cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Occupant {
    pub(super) id: WorkerId,
    /// Does its process exist?
    pub(super) forked: bool,
    /// Since when it is ready.
    pub(super) ready_at: Option<Mono>,
    pub(super) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Coming up or serving.
    Wanted,
    /// Ending without an order.
    Ending,
    /// Ordered to stop.
    Stopping(Purpose),
    /// `SIGKILL` does not end it; and what it was ordered for, if it was ordered.
    Unkillable(Option<Purpose>),
}

/// What becomes of the slot when its worker has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The slot gets a new worker.
    Replace,
    /// The slot is stopped.
    Remove,
}

impl Seat {
    pub(super) const fn state(&self) -> SeatState {
        self.state
    }

    fn snapshot(&self) -> SlotSnapshot {
        let (state, worker) = match self.state {
            SeatState::Queued(_) => (SlotState::Queued, None),
            SeatState::Filled(occupant) => (SlotState::Filled, Some(occupant.id)),
            SeatState::Waiting { until } => (SlotState::Waiting { until }, None),
            SeatState::Failed => (SlotState::Failed, None),
            SeatState::Stopped => (SlotState::Stopped, None),
        };
        SlotSnapshot {
            slot: self.slot.clone(),
            state,
            worker,
            beside: None,
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
        }
    }
}

impl Occupant {
    /// What its slot is to become when it has ended; `None` if nobody ordered anything.
    pub(super) const fn purpose(&self) -> Option<Purpose> {
        match self.stage {
            Stage::Wanted | Stage::Ending => None,
            Stage::Stopping(purpose) => Some(purpose),
            Stage::Unkillable(purpose) => purpose,
        }
    }

    /// It ends, by itself as far as is known.
    pub(super) fn end(&mut self) {
        if self.stage == Stage::Wanted {
            self.stage = Stage::Ending;
        }
    }

    const fn is_booting(&self) -> bool {
        self.ready_at.is_none() && matches!(self.stage, Stage::Wanted)
    }

    const fn is_ready(&self) -> bool {
        self.ready_at.is_some() && matches!(self.stage, Stage::Wanted)
    }

    const fn is_leaving_for_good(&self) -> bool {
        matches!(
            self.stage,
            Stage::Stopping(Purpose::Remove) | Stage::Unkillable(Some(Purpose::Remove))
        )
    }
}

/// How many slots are what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Slots with a worker.
    pub(super) filled: usize,
    /// Workers between spawn and ready.
    pub(super) booting: usize,
    /// Workers that can serve and are to stay.
    pub(super) ready: usize,
    /// Slots that should hold a ready worker; failed ones too, they are what is missing.
    pub(super) target: usize,
    /// Slots that were given up.
    pub(super) failed: usize,
    /// Workers that `SIGKILL` does not end.
    pub(super) unkillable: usize,
}

/// All slots.
#[derive(Debug, Default)]
pub(super) struct Roster {
    seats: BTreeMap<SeatKey, Seat>,
    next_key: u64,
    by_worker: BTreeMap<WorkerId, SeatKey>,
    queue: BTreeSet<(Turn, SeatKey)>,
    timers: BTreeSet<(Mono, SeatKey)>,
    sums: Sums,
    /// Slots that are not what they were when somebody last looked.
    changed: BTreeSet<SeatKey>,
}

impl Roster {
    /// Adds a slot at the end of the start order, queued for its first start.
    pub(super) fn add(&mut self, slot: Slot, spec: usize, window: Window, request: Option<RequestId>) -> SeatKey {
        let key = SeatKey(self.next_key);
        self.next_key += 1;
        let state = SeatState::Queued(Turn::First);
        let is_extra = request.is_some();
        let seat = Seat {
            slot,
            spec,
            request,
            is_extra,
            restarts: 0,
            streak: 0,
            window,
            last_exit: None,
            state,
        };
        self.seats.insert(key, seat);
        self.enter(key, state);
        self.changed.insert(key);
        key
    }

    /// The one way in which a slot changes.
    pub(super) fn set(&mut self, key: SeatKey, state: SeatState) {
        let before = std::mem::replace(&mut self.seat_mut(key).state, state);
        self.leave(key, before);
        self.enter(key, state);
        self.changed.insert(key);
    }

    /// Forgets a slot.
    pub(super) fn remove(&mut self, key: SeatKey) {
        if let Some(seat) = self.seats.remove(&key) {
            self.leave(key, seat.state);
            self.changed.insert(key);
        }
    }

    pub(super) fn seat(&self, key: SeatKey) -> &Seat {
        self.seats.get(&key).expect("a key is used only while its slot is kept")
    }

    /// For everything but the state.
    pub(super) fn seat_mut(&mut self, key: SeatKey) -> &mut Seat {
        self.seats
            .get_mut(&key)
            .expect("a key is used only while its slot is kept")
    }

    /// The slot that this worker fills; `None` for unknown and dead ones.
    pub(super) fn find(&self, id: WorkerId) -> Option<(SeatKey, Occupant)> {
        let key = *self.by_worker.get(&id)?;
        match self.seat(key).state {
            SeatState::Filled(occupant) => Some((key, occupant)),
            SeatState::Queued(_) | SeatState::Waiting { .. } | SeatState::Failed | SeatState::Stopped => None,
        }
    }

    /// The slot with this name. Walks over all: handles ask rarely.
    pub(super) fn find_slot(&self, slot: &Slot) -> Option<SeatKey> {
        self.seats
            .iter()
            .find(|(_, seat)| seat.slot == *slot)
            .map(|(key, _)| *key)
    }

    /// The slot whose turn it is to be started.
    pub(super) fn first_queued(&self) -> Option<SeatKey> {
        self.queue.first().map(|(_, key)| *key)
    }

    /// The slot that waits no longer at `now`.
    pub(super) fn first_due(&self, now: Mono) -> Option<SeatKey> {
        self.timers.first().filter(|(at, _)| *at <= now).map(|(_, key)| *key)
    }

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Every slot, last started first: the order of a shutdown.
    pub(super) fn keys_in_reverse(&self) -> Vec<SeatKey> {
        self.seats.keys().rev().copied().collect()
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = Occupant> {
        self.seats.values().filter_map(|seat| match seat.state {
            SeatState::Filled(occupant) => Some(occupant),
            SeatState::Queued(_) | SeatState::Waiting { .. } | SeatState::Failed | SeatState::Stopped => None,
        })
    }

    pub(super) fn state_of(&self, slot: &Slot) -> Option<SlotState> {
        self.find_slot(slot).map(|key| self.seat(key).snapshot().state)
    }

    #[cfg(test)]
    pub(super) fn snapshots(&self) -> Vec<SlotSnapshot> {
        self.seats.values().map(Seat::snapshot).collect()
    }

    /// What has changed since the last call: the place in the start order, and the slot unless it was forgotten.
    pub(super) fn take_changes(&mut self) -> Vec<(u64, Option<SlotSnapshot>)> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .map(|key| (key.0, self.seats.get(&key).map(Seat::snapshot)))
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.seats.len()
    }

    pub(super) const fn sums(&self) -> Sums {
        self.sums
    }

    /// Does nobody live, and is nobody to come?
    pub(super) fn is_at_rest(&self) -> bool {
        self.sums.filled == 0 && self.queue.is_empty() && self.timers.is_empty()
    }

    fn enter(&mut self, key: SeatKey, state: SeatState) {
        match state {
            SeatState::Queued(turn) => {
                self.queue.insert((turn, key));
            }
            SeatState::Waiting { until } => {
                self.timers.insert((until, key));
            }
            SeatState::Filled(occupant) => {
                self.by_worker.insert(occupant.id, key);
            }
            SeatState::Failed | SeatState::Stopped => {}
        }
        self.count(state, |sum| *sum += 1);
    }

    fn leave(&mut self, key: SeatKey, state: SeatState) {
        match state {
            SeatState::Queued(turn) => {
                self.queue.remove(&(turn, key));
            }
            SeatState::Waiting { until } => {
                self.timers.remove(&(until, key));
            }
            SeatState::Filled(occupant) => {
                self.by_worker.remove(&occupant.id);
            }
            SeatState::Failed | SeatState::Stopped => {}
        }
        self.count(state, |sum| *sum -= 1);
    }

    /// Changes each sum that `state` is part of.
    fn count(&mut self, state: SeatState, change: impl Fn(&mut usize)) {
        let sums = &mut self.sums;
        match state {
            SeatState::Queued(_) | SeatState::Waiting { .. } => change(&mut sums.target),
            SeatState::Failed => {
                change(&mut sums.target);
                change(&mut sums.failed);
            }
            SeatState::Stopped => {}
            SeatState::Filled(occupant) => {
                change(&mut sums.filled);
                if occupant.is_booting() {
                    change(&mut sums.booting);
                }
                if occupant.is_ready() {
                    change(&mut sums.ready);
                }
                if !occupant.is_leaving_for_good() {
                    change(&mut sums.target);
                }
                if matches!(occupant.stage, Stage::Unkillable(_)) {
                    change(&mut sums.unkillable);
                }
            }
        }
    }
}
