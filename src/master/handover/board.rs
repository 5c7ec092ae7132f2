//! The books of the dispatcher: who takes connections, which are on their way, which wait. No descriptor is touched here;
//! what a connection is, is the caller's business.

use std::collections::{BTreeMap, VecDeque};
use std::sync::PoisonError;
use std::time::Duration;

use crate::model::{Candidate, Client, ListenKey, Mono, Slot, WorkerId};
use crate::policy::{LeastConnections, ListenerPolicy, choose, for_listener};

/// A connection that waits for a worker, or is on its way to one.
#[derive(Debug)]
pub(super) struct Waiting<C> {
    pub(super) connection: C,
    pub(super) client: Client,
    /// How many workers its request may have killed.
    pub(super) strikes: u8,
    /// Its request is to be answered with this status.
    pub(super) fail: Option<u16>,
    /// Since when it waits for a worker.
    pub(super) since: Mono,
}

/// A connection that is to be sent now.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) worker: WorkerId,
    pub(super) id: u64,
    /// What the policy did wrong, if anything.
    pub(super) fault: Option<&'static str>,
}

/// All workers and all queues.
#[derive(Debug)]
pub(super) struct Board<C> {
    seats: BTreeMap<WorkerId, Seat<C>>,
    /// In the order of their opening.
    queues: Vec<Queue<C>>,
    last_id: u64,
    /// The whole cluster ends: what the kernel has queued is to be passed before the last worker stops.
    is_stopping: bool,
    /// Nothing is sent before: the machine is short of something.
    rest: Option<Mono>,
}

#[derive(Debug)]
struct Seat<C> {
    slot: Slot,
    stage: Stage,
    /// For so long after its `listening` it stands beside its predecessor, and gets nothing.
    probation: Duration,
    places: Vec<Place>,
    /// Handed over, acknowledged and not closed.
    open: u32,
    on_their_way: BTreeMap<u64, OnItsWay<C>>,
    /// How many may be on their way now.
    window: usize,
}

#[derive(Debug)]
pub(super) struct OnItsWay<C> {
    pub(super) key: ListenKey,
    pub(super) waiting: Waiting<C>,
    sent: Mono,
}

/// A listener on which a worker takes connections.
#[derive(Debug)]
struct Place {
    key: ListenKey,
    /// When its probation is over.
    from: Mono,
    /// It has refused one, and gets none before.
    aside: Mono,
}

/// Only ever moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Open,
    /// It is going to stop, and gets something only where nobody else does.
    LameDuck,
    /// It is about to stop accepting, and waits for our word that nothing follows.
    Ending,
    /// It gets nothing any more.
    Ended,
}

#[derive(Debug)]
struct Queue<C> {
    key: ListenKey,
    policy: ListenerPolicy,
    waiting: VecDeque<Waiting<C>>,
    /// Do we accept for it? Otherwise it only has what was rescued and given back.
    has_door: bool,
    /// The last pass over the kernel's queue is done.
    is_swept: bool,
}

impl<C> Default for Board<C> {
    fn default() -> Self {
        Self {
            seats: BTreeMap::new(),
            queues: Vec::new(),
            last_id: 0,
            is_stopping: false,
            rest: None,
        }
    }
}

impl<C> Board<C> {
    /// Connections of `key` are accepted here from now on, and spread by `policy`.
    pub(super) fn open(&mut self, key: &ListenKey, policy: ListenerPolicy) {
        let queue = self.queue(key);
        queue.policy = policy;
        queue.has_door = true;
    }

    /// The listener is closed; what waited for it.
    pub(super) fn close(&mut self, key: &ListenKey) -> Vec<Waiting<C>> {
        let at = self.queues.iter().position(|queue| queue.key == *key);
        at.map_or_else(Vec::new, |at| self.queues.remove(at).waiting.into())
    }

    /// A worker exists.
    pub(super) fn born(&mut self, worker: WorkerId, slot: Slot, probation: Duration) {
        let seat = Seat {
            slot,
            stage: Stage::Open,
            probation,
            places: Vec::new(),
            open: 0,
            on_their_way: BTreeMap::new(),
            window: 1,
        };
        self.seats.insert(worker, seat);
    }

    /// It has this slot now.
    pub(super) fn promoted(&mut self, worker: WorkerId, slot: Slot, probation: Duration) {
        if let Some(seat) = self.seats.get_mut(&worker) {
            seat.slot = slot;
            seat.probation = probation;
        }
    }

    /// It takes connections of `key`.
    pub(super) fn accepts(&mut self, worker: WorkerId, key: &ListenKey, now: Mono) {
        if let Some(seat) = self.seats.get_mut(&worker)
            && !seat.places.iter().any(|place| place.key == *key)
        {
            seat.places.push(Place {
                key: key.clone(),
                from: now + seat.probation,
                aside: now,
            });
        }
    }

    /// It takes none of `key` any more.
    pub(super) fn gave_back(&mut self, worker: WorkerId, key: &ListenKey) {
        if let Some(seat) = self.seats.get_mut(&worker) {
            seat.places.retain(|place| place.key != *key);
        }
    }

    /// It was told to stop, or says that it will.
    pub(super) fn leaves(&mut self, worker: WorkerId) {
        self.advance(worker, Stage::LameDuck);
    }

    /// It waits for the word that nothing follows; see [`ready_to_end`](Self::ready_to_end).
    pub(super) fn ends(&mut self, worker: WorkerId) {
        self.advance(worker, Stage::Ending);
    }

    /// It cannot be reached.
    pub(super) fn unreachable(&mut self, worker: WorkerId) {
        self.advance(worker, Stage::Ended);
    }

    /// It is dead; what was on its way to it, in the order of sending.
    pub(super) fn died(&mut self, worker: WorkerId) -> Vec<(ListenKey, Waiting<C>)> {
        let seat = self.seats.remove(&worker);
        seat.map_or_else(Vec::new, |seat| {
            let lost = seat.on_their_way.into_values();
            lost.map(|lost| (lost.key, lost.waiting)).collect()
        })
    }

    /// It has these. Those that were on their way are returned: they are the worker's alone now.
    pub(super) fn took(&mut self, worker: WorkerId, ids: &[u64], now: Mono) -> Vec<C> {
        let Some(seat) = self.seats.get_mut(&worker) else {
            return Vec::new();
        };
        let taken = ids.iter().filter_map(|id| seat.on_their_way.remove(id));
        let mut window = seat.window;
        let taken = taken.map(|it| {
            window = if now.since(it.sent) > LATE {
                1
            } else {
                (window + 1).min(WINDOW)
            };
            it.waiting.connection
        });
        let taken: Vec<C> = taken.collect();
        seat.window = window;
        seat.open += u32::try_from(taken.len()).unwrap_or(u32::MAX);
        taken
    }

    /// So many that it had have ended.
    pub(super) fn closed(&mut self, worker: WorkerId, count: u32) {
        if let Some(seat) = self.seats.get_mut(&worker) {
            seat.open = seat.open.saturating_sub(count);
            // It has room again, whatever made it refuse.
            for place in &mut seat.places {
                place.aside = Mono::default();
            }
        }
    }

    /// It does not serve these: they wait again, before all others, and it gets none for a while. How many they were.
    pub(super) fn refused(&mut self, worker: WorkerId, ids: &[u64], now: Mono) -> usize {
        let mut count = 0;
        for id in ids.iter().rev() {
            count += usize::from(self.take_back(worker, *id, now + ASIDE));
        }
        count
    }

    /// It could not be sent: it waits again, and the worker gets none until `until`. False if it was not on its way.
    pub(super) fn take_back(&mut self, worker: WorkerId, id: u64, until: Mono) -> bool {
        let Some(seat) = self.seats.get_mut(&worker) else {
            return false;
        };
        let Some(OnItsWay { key, waiting, .. }) = seat.on_their_way.remove(&id) else {
            return false;
        };
        for place in seat.places.iter_mut().filter(|place| place.key == key) {
            place.aside = until;
        }
        self.again(&key, waiting);
        true
    }

    /// Nothing is sent until then.
    pub(super) fn rest(&mut self, until: Mono) {
        self.rest = Some(until);
    }

    /// A new connection waits.
    pub(super) fn arrive(&mut self, key: &ListenKey, waiting: Waiting<C>) {
        self.queue(key).waiting.push_back(waiting);
    }

    /// One that waited before waits again, before all others.
    pub(super) fn again(&mut self, key: &ListenKey, waiting: Waiting<C>) {
        self.queue(key).waiting.push_front(waiting);
    }

    /// The whole cluster ends.
    pub(super) fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// The last pass over the kernel's queue for `key` is done.
    pub(super) fn swept(&mut self, key: &ListenKey) {
        self.queue(key).is_swept = true;
    }

    /// Should another connection of `key` be accepted?
    pub(super) fn wants(&self, key: &ListenKey, now: Mono) -> bool {
        let Some(queue) = self.queues.iter().find(|queue| queue.key == *key && queue.has_door) else {
            return false;
        };
        let takers = self.takers(key, now);
        let is_served = takers.iter().any(|(_, seat)| seat.stage < Stage::Ending);
        (is_served && queue.waiting.len() < QUEUE_MAX && takers.iter().any(|(_, seat)| seat.may_get(key, now)))
            || self.is_sweeping(key, now)
    }

    /// Is this the last chance for what the kernel has queued for `key`? The workers that are left wait for it.
    pub(super) fn is_sweeping(&self, key: &ListenKey, now: Mono) -> bool {
        let takers = self.takers(key, now);
        let is_last = !takers.is_empty() && takers.iter().all(|(_, seat)| seat.stage == Stage::Ending);
        let mut doors = self.queues.iter().filter(|queue| queue.key == *key && queue.has_door);
        self.is_stopping && is_last && doors.any(|queue| !queue.is_swept && queue.waiting.len() < SWEEP_MAX)
    }

    /// The next connection that can be passed to somebody; from here on it is on its way.
    pub(super) fn choose(&mut self, now: Mono) -> Option<Pass> {
        if self.rest.is_some_and(|until| now < until) {
            return None;
        }
        self.rest = None;
        for at in 0..self.queues.len() {
            if self.queues[at].waiting.is_empty() {
                continue;
            }
            let candidates = self.candidates(&self.queues[at].key, now);
            if !candidates.iter().any(|candidate| candidate.has_room) {
                continue;
            }
            let queue = &mut self.queues[at];
            let mut policy = queue.policy.lock().unwrap_or_else(PoisonError::into_inner);
            for place in 0..queue.waiting.len() {
                let (chosen, fault) = choose(policy.as_mut(), &queue.waiting[place].client, &candidates);
                let Some(chosen) = chosen.map(|at| &candidates[at]).filter(|chosen| chosen.has_room) else {
                    continue;
                };
                self.last_id += 1;
                let (worker, id) = (chosen.worker, self.last_id);
                let (waiting, seat) = (queue.waiting.remove(place)?, self.seats.get_mut(&worker)?);
                let key = queue.key.clone();
                seat.on_their_way.insert(
                    id,
                    OnItsWay {
                        key,
                        waiting,
                        sent: now,
                    },
                );
                return Some(Pass { worker, id, fault });
            }
        }
        None
    }

    /// One that is on its way.
    pub(super) fn on_its_way(&self, pass: &Pass) -> Option<&OnItsWay<C>> {
        self.seats.get(&pass.worker)?.on_their_way.get(&pass.id)
    }

    /// Workers whose acknowledgements may be in their sockets and would make room: those that have none.
    pub(super) fn without_room(&self, now: Mono) -> Vec<WorkerId> {
        let full = self.seats.iter().filter(|(_, seat)| !seat.is_prompt(now));
        full.map(|(worker, _)| *worker).collect()
    }

    /// Those that can be told that nothing follows, and whether somebody else accepts.
    pub(super) fn ready_to_end(&mut self, now: Mono) -> Vec<(WorkerId, bool)> {
        let ending = self.seats.iter().filter(|(_, seat)| seat.stage == Stage::Ending);
        let ending: Vec<WorkerId> = ending.map(|(worker, _)| *worker).collect();
        let mut ready = Vec::new();
        for worker in ending {
            let seat = &self.seats[&worker];
            let has_others = seat
                .places
                .iter()
                .all(|place| self.is_taken_by_others(&place.key, worker));
            let is_done = |place: &Place| {
                let queue = self.queues.iter().find(|queue| queue.key == place.key);
                queue.is_none_or(|queue| queue.waiting.is_empty()) && !self.is_sweeping(&place.key, now)
            };
            if has_others || (seat.on_their_way.is_empty() && seat.places.iter().all(is_done)) {
                ready.push((worker, has_others));
                self.advance(worker, Stage::Ended);
            }
        }
        ready
    }

    /// Takes out those that have waited for too long.
    pub(super) fn expire(&mut self, now: Mono) -> Vec<Waiting<C>> {
        let mut expired = Vec::new();
        let is_old = |waiting: &Waiting<C>| now.since(waiting.since) >= PATIENCE;
        for queue in &mut self.queues {
            if !queue.waiting.iter().any(is_old) {
                continue;
            }
            let (old, rest) = std::mem::take(&mut queue.waiting)
                .into_iter()
                .partition::<Vec<_>, _>(is_old);
            expired.extend(old);
            queue.waiting = rest.into();
        }
        expired
    }

    /// When to look again although nothing happens.
    pub(super) fn next_deadline(&self, now: Mono) -> Option<Mono> {
        let places = self.seats.values().flat_map(|seat| &seat.places);
        let places = places.map(|place| place.from.max(place.aside));
        let waiting = self.queues.iter().flat_map(|queue| &queue.waiting);
        let expiry = waiting.map(|waiting| waiting.since).min().map(|since| since + PATIENCE);
        let soon = places.filter(|from| *from > now).min();
        [expiry, soon, self.rest].into_iter().flatten().min()
    }

    /// Does this worker take connections of `key`?
    pub(super) fn knows(&self, worker: WorkerId, key: &ListenKey) -> bool {
        let seat = self.seats.get(&worker);
        seat.is_some_and(|seat| seat.places.iter().any(|place| place.key == *key))
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.waiting.len()).sum()
    }

    fn queue(&mut self, key: &ListenKey) -> &mut Queue<C> {
        let known = self.queues.iter().position(|queue| queue.key == *key);
        let at = known.unwrap_or_else(|| {
            self.queues.push(Queue {
                key: key.clone(),
                policy: for_listener(LeastConnections::default()),
                waiting: VecDeque::new(),
                has_door: false,
                is_swept: false,
            });
            self.queues.len() - 1
        });
        &mut self.queues[at]
    }

    fn advance(&mut self, worker: WorkerId, stage: Stage) {
        if let Some(seat) = self.seats.get_mut(&worker) {
            seat.stage = seat.stage.max(stage);
        }
    }

    /// Who gets connections of `key`: those that stay, or if there are none, those that leave.
    fn takers(&self, key: &ListenKey, now: Mono) -> Vec<(WorkerId, &Seat<C>)> {
        let of = |is_leaving: bool| {
            let takes = move |seat: &Seat<C>| {
                let stage = if is_leaving {
                    seat.stage < Stage::Ended
                } else {
                    seat.stage == Stage::Open
                };
                stage && seat.has_come(key, now)
            };
            let seats = self.seats.iter().filter(move |(_, seat)| takes(seat));
            seats.map(|(worker, seat)| (*worker, seat)).collect::<Vec<_>>()
        };
        let staying = of(false);
        if staying.is_empty() { of(true) } else { staying }
    }

    fn candidates(&self, key: &ListenKey, now: Mono) -> Vec<Candidate> {
        let takers = self.takers(key, now);
        let mut candidates: Vec<Candidate> = takers
            .into_iter()
            .map(|(worker, seat)| seat.candidate(worker, key, now))
            .collect();
        candidates.sort_unstable_by(|a, b| (&a.slot, a.worker).cmp(&(&b.slot, b.worker)));
        candidates
    }

    fn is_taken_by_others(&self, key: &ListenKey, than: WorkerId) -> bool {
        self.seats.iter().any(|(worker, seat)| {
            *worker != than && seat.stage < Stage::Ending && seat.places.iter().any(|place| place.key == *key)
        })
    }
}

impl<C> Seat<C> {
    /// Set aside or not, it is one of those that take connections of `key`. On probation it is not.
    fn has_come(&self, key: &ListenKey, now: Mono) -> bool {
        let mut places = self.places.iter().filter(|place| place.key == *key);
        places.any(|place| place.from <= now)
    }

    fn may_get(&self, key: &ListenKey, now: Mono) -> bool {
        let mut places = self.places.iter().filter(|place| place.key == *key);
        places.any(|place| place.from <= now && place.aside <= now)
    }

    /// Does it take up what it is sent, so that it may be sent more?
    fn is_prompt(&self, now: Mono) -> bool {
        let is_late = |oldest: &OnItsWay<C>| now.since(oldest.sent) > LATE;
        self.on_their_way.len() < self.window && !self.on_their_way.values().next().is_some_and(is_late)
    }

    fn candidate(&self, worker: WorkerId, key: &ListenKey, now: Mono) -> Candidate {
        let on_their_way = u32::try_from(self.on_their_way.len()).unwrap_or(u32::MAX);
        let mut candidate = Candidate::new(self.slot.clone(), worker);
        candidate.open = self.open + on_their_way;
        candidate.unacknowledged = on_their_way;
        candidate.has_room = self.is_prompt(now) && self.may_get(key, now);
        candidate
    }
}

/// Connections on their way to a worker that takes them up promptly: sending and acknowledging many at once costs the master 7
/// microseconds for each, where one at a time costs 18. A worker begins with one, gets one more for each that it acknowledges, and
/// begins anew when it was late: one that is busy is not buried under what others could serve.
pub(super) const WINDOW: usize = 64;
/// An acknowledgement that takes longer is late.
const LATE: Duration = Duration::from_millis(10);
/// Accepted connections that wait for a worker; the rest is left to the kernel's queue.
const QUEUE_MAX: usize = 64;
/// The same for the last pass, before the last worker stops: as many as the longest usual queue (`somaxconn`) holds.
const SWEEP_MAX: usize = 4096;
/// How long a connection waits when there is no worker.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a worker that refused gets no connection, unless one of its own ends before.
const ASIDE: Duration = Duration::from_millis(100);
