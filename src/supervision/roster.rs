//! The slots in start order, and the sums over them.
//!
//! Every change of a slot goes through [`Roster::change`], which keeps the sums and the orders of waiting right, so that
//! no question costs a walk over all slots. Not here: what a slot is ([`super::seat`]) and why it changes (that is
//! [`super::Supervision`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Mono, SlotSnapshot, WorkerId};

use super::seat::{Beside, Content, Occupant, Role, Seat, SeatKey, SeatState, SpecKey, Turn};

/// How many slots or workers are what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Processes.
    pub(super) filled: usize,
    /// Workers between spawn and ready.
    pub(super) booting: usize,
    /// Slots with a worker that can serve and is to stay.
    pub(super) ready: usize,
    /// Slots that should hold a ready worker; failed ones too, they are what is missing.
    pub(super) target: usize,
    /// Slots that wait for their next restart.
    pub(super) waiting: usize,
    /// Slots that wait for the end of their group.
    pub(super) held: usize,
    /// Slots that were given up.
    pub(super) failed: usize,
    /// Stopped slots whose worker had nothing to do.
    pub(super) declined: usize,
    /// Workers that `SIGKILL` does not end.
    pub(super) unkillable: usize,
    /// Workers beside another in one slot, but for those that `SIGKILL` does not end.
    pub(super) beside: usize,
    /// Slots that later specs wait for.
    pub(super) awaited: usize,
}

impl Sums {
    /// Processes whose end may be waited for.
    pub(super) const fn living(&self) -> usize {
        self.filled - self.unkillable
    }

    /// Changes each sum that `content` is part of.
    fn count(&mut self, content: Content, change: impl Fn(&mut usize)) {
        match content.state {
            SeatState::Stopped if content.declined => change(&mut self.declined),
            SeatState::Queued(_) | SeatState::Filled(_) | SeatState::Stopped => {}
            SeatState::Waiting { .. } => change(&mut self.waiting),
            SeatState::Held => change(&mut self.held),
            SeatState::Failed => change(&mut self.failed),
        }
        if content.is_wanted() {
            change(&mut self.target);
        }
        if content.is_ready() {
            change(&mut self.ready);
        }
        if is_awaited(content) {
            change(&mut self.awaited);
        }
        if content.beside.is_some_and(|beside| !beside.worker().is_unkillable()) {
            change(&mut self.beside);
        }
        for worker in content.workers() {
            change(&mut self.filled);
            if worker.is_booting() {
                change(&mut self.booting);
            }
            if worker.is_unkillable() {
                change(&mut self.unkillable);
            }
        }
    }
}

fn is_awaited(content: Content) -> bool {
    match content.state {
        SeatState::Queued(_) => content.awaited,
        SeatState::Filled(worker) => content.awaited && worker.is_booting(),
        SeatState::Held => true,
        SeatState::Waiting { .. } | SeatState::Failed | SeatState::Stopped => false,
    }
}

/// All slots.
#[derive(Debug, Default)]
pub(super) struct Roster {
    seats: BTreeMap<SeatKey, Seat>,
    by_worker: BTreeMap<WorkerId, SeatKey>,
    queue: BTreeSet<(Turn, SeatKey)>,
    /// When slots wait no longer.
    timers: BTreeSet<(Mono, SeatKey)>,
    /// When workers are too old.
    expiries: BTreeSet<(Mono, WorkerId)>,
    sums: Sums,
    by_spec: BTreeMap<SpecKey, Sums>,
    /// Specs that later ones wait for.
    awaited: BTreeSet<SpecKey>,
    /// Slots that are not what they were when somebody last looked.
    changed: BTreeSet<SeatKey>,
}

impl Roster {
    pub(super) fn add(&mut self, key: SeatKey, seat: Seat) {
        let content = seat.content();
        self.seats.insert(key, seat);
        self.enter(key, content);
    }

    /// The one way in which a slot changes.
    pub(super) fn change(&mut self, key: SeatKey, change: impl FnOnce(&mut Content)) {
        let before = self.seat(key).content();
        let mut after = before;
        change(&mut after);
        self.leave(key, before);
        self.seat_mut(key).replace_content(after);
        self.enter(key, after);
    }

    pub(super) fn set(&mut self, key: SeatKey, state: SeatState) {
        self.change(key, |content| content.state = state);
    }

    /// Writes back what [`find`](Self::find) gave.
    pub(super) fn put(&mut self, key: SeatKey, role: Role, worker: Occupant) {
        self.change(key, |content| match role {
            Role::Main => content.state = SeatState::Filled(worker),
            Role::Coming => content.beside = Some(Beside::Coming(worker)),
            Role::Leaving => content.beside = Some(Beside::Leaving(worker)),
        });
    }

    /// Forgets a slot.
    pub(super) fn remove(&mut self, key: SeatKey) {
        if let Some(content) = self.seats.get(&key).map(Seat::content) {
            self.leave(key, content);
            self.seats.remove(&key);
        }
    }

    /// Forgets the sums of a spec whose slots are forgotten.
    pub(super) fn remove_spec(&mut self, spec: SpecKey) {
        self.by_spec.remove(&spec);
    }

    pub(super) fn seat(&self, key: SeatKey) -> &Seat {
        self.seats.get(&key).expect("a key is used only while its slot is kept")
    }

    /// For everything but the content.
    pub(super) fn seat_mut(&mut self, key: SeatKey) -> &mut Seat {
        self.seats
            .get_mut(&key)
            .expect("a key is used only while its slot is kept")
    }

    pub(super) fn holds(&self, key: SeatKey) -> bool {
        self.seats.contains_key(&key)
    }

    /// The slot that this worker is in; `None` for unknown and dead ones.
    pub(super) fn find(&self, id: WorkerId) -> Option<(SeatKey, Role, Occupant)> {
        let key = *self.by_worker.get(&id)?;
        let content = self.seat(key).content();
        match (content.main(), content.beside) {
            (Some(main), _) if main.id == id => Some((key, Role::Main, main)),
            (_, Some(Beside::Coming(worker))) => Some((key, Role::Coming, worker)),
            (_, Some(Beside::Leaving(worker))) => Some((key, Role::Leaving, worker)),
            (_, None) => None,
        }
    }

    /// The slot whose turn it is to be started.
    pub(super) fn first_queued(&self) -> Option<SeatKey> {
        let (turn, key) = self.queue.first()?;
        let waits = *turn == Turn::First && self.awaited.first().is_some_and(|spec| *spec < key.spec);
        (!waits).then_some(*key)
    }

    /// The slot that waits no longer at `now`.
    pub(super) fn first_due(&self, now: Mono) -> Option<SeatKey> {
        self.timers.first().filter(|(at, _)| *at <= now).map(|(_, key)| *key)
    }

    /// The worker that is too old at `now`.
    pub(super) fn first_expired(&self, now: Mono) -> Option<WorkerId> {
        self.expiries.first().filter(|(at, _)| *at <= now).map(|(_, id)| *id)
    }

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let expiry = self.expiries.first().map(|(at, _)| *at);
        timer.into_iter().chain(expiry).min()
    }

    /// Every slot, in start order.
    pub(super) fn keys(&self) -> Vec<SeatKey> {
        self.seats.keys().copied().collect()
    }

    /// Every slot of one spec, in start order.
    pub(super) fn keys_of(&self, spec: SpecKey) -> Vec<SeatKey> {
        self.seats_of(spec).map(|(key, _)| key).collect()
    }

    pub(super) fn seats_of(&self, spec: SpecKey) -> impl DoubleEndedIterator<Item = (SeatKey, &Seat)> {
        let at = |index| SeatKey { spec, index };
        self.seats.range(at(0)..=at(u32::MAX)).map(|(key, seat)| (*key, seat))
    }

    /// This one and all after it.
    pub(super) fn seats_from(&self, from: SeatKey) -> impl Iterator<Item = (SeatKey, &Seat)> {
        self.seats.range(from..).map(|(key, seat)| (*key, seat))
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = (SeatKey, &Seat)> {
        self.seats.iter().map(|(key, seat)| (*key, seat))
    }

    /// Every process.
    pub(super) fn workers(&self) -> impl Iterator<Item = Occupant> {
        self.seats.values().flat_map(|seat| seat.content().workers())
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
            .map(|key| (key.place(), self.seats.get(&key).map(Seat::snapshot)))
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.seats.len()
    }

    pub(super) const fn sums(&self) -> Sums {
        self.sums
    }

    pub(super) fn sums_of(&self, spec: SpecKey) -> Sums {
        self.by_spec.get(&spec).copied().unwrap_or_default()
    }

    /// Does nobody live, and is nobody to come?
    pub(super) fn is_at_rest(&self) -> bool {
        self.sums.filled == 0 && self.queue.is_empty() && self.sums.waiting == 0 && self.sums.held == 0
    }

    fn enter(&mut self, key: SeatKey, content: Content) {
        match content.state {
            SeatState::Queued(turn) => {
                self.queue.insert((turn, key));
            }
            SeatState::Waiting { until } => {
                self.timers.insert((until, key));
            }
            SeatState::Filled(worker) => self.expiries.extend(worker.expires_at.map(|at| (at, worker.id))),
            SeatState::Held | SeatState::Failed | SeatState::Stopped => {}
        }
        self.by_worker.extend(content.workers().map(|worker| (worker.id, key)));
        self.count(key, content, |sum| *sum += 1);
    }

    fn leave(&mut self, key: SeatKey, content: Content) {
        match content.state {
            SeatState::Queued(turn) => {
                self.queue.remove(&(turn, key));
            }
            SeatState::Waiting { until } => {
                self.timers.remove(&(until, key));
            }
            SeatState::Filled(worker) => {
                if let Some(at) = worker.expires_at {
                    self.expiries.remove(&(at, worker.id));
                }
            }
            SeatState::Held | SeatState::Failed | SeatState::Stopped => {}
        }
        for worker in content.workers() {
            self.by_worker.remove(&worker.id);
        }
        self.count(key, content, |sum| *sum -= 1);
    }

    fn count(&mut self, key: SeatKey, content: Content, change: impl Fn(&mut usize)) {
        self.sums.count(content, &change);
        let sums = self.by_spec.entry(key.spec).or_default();
        sums.count(content, &change);
        if sums.awaited > 0 {
            self.awaited.insert(key.spec);
        } else {
            self.awaited.remove(&key.spec);
        }
        self.changed.insert(key);
    }
}
