//! The events one subscriber has not seen yet: bounded, and honest about what gave way.
//!
//! What is *not* here: who fills it (`subscribers.rs`) and who consumes it: an [`Events`](crate::Events) stream or a pump
//! that feeds an actor, both on the consumer's thread.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::master::Subscribers;
use crate::model::{ClusterEvent, EventFilter, EventKind, Kind, Kinds, Mono, WorkerId};
use crate::subscription::{SubscribeOptions, WhenFull};

/// The queue of one subscriber.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) filter: EventFilter,
    name: String,
    capacity: usize,
    capacity_bytes: usize,
    when_full: WhenFull,
    ring: Mutex<Ring>,
    filled: Notify,
    /// The consumer is gone or ended its subscription; set once.
    abandoned: AtomicBool,
}

#[derive(Debug)]
struct Ring {
    backlog: Backlog,
    /// Of the events in the backlog.
    bytes: usize,
    /// The dropped events that were not announced yet.
    lagged: Option<Gap>,
    closed: bool,
}

impl Queue {
    /// A queue that is filled with `earlier` to begin with; `is_closed` if no event will follow.
    pub(crate) fn new(
        options: &SubscribeOptions,
        name: String,
        earlier: impl Iterator<Item = Arc<ClusterEvent>>,
        is_closed: bool,
    ) -> Self {
        let backlog = match options.when_full {
            WhenFull::Coalesce(kinds) => Backlog::Newest(Newest::new(kinds)),
            WhenFull::DropOldest | WhenFull::Latest | WhenFull::HoldBack => Backlog::Line(VecDeque::new()),
        };
        let ring = Ring {
            backlog,
            bytes: 0,
            lagged: None,
            closed: false,
        };
        let queue = Self {
            filter: options.filter.clone(),
            name,
            capacity: options.capacity.max(1),
            capacity_bytes: options.capacity_bytes,
            when_full: options.when_full,
            ring: Mutex::new(ring),
            filled: Notify::new(),
            abandoned: AtomicBool::new(false),
        };
        queue.push(earlier.filter(|event| queue.filter.wants(event)));
        queue.ring().closed = is_closed;
        queue
    }

    /// What its subscriber is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes events that the filter wants, in their order. Never waits.
    pub(crate) fn push(&self, events: impl Iterator<Item = Arc<ClusterEvent>>) {
        let mut ring = self.ring();
        if ring.closed {
            return;
        }
        let was_empty = ring.backlog.len() == 0;
        for event in events {
            self.admit(&mut ring, event);
        }
        let is_filled = was_empty && ring.backlog.len() > 0;
        drop(ring);
        if is_filled {
            self.filled.notify_one();
        }
    }

    fn admit(&self, ring: &mut Ring, event: Arc<ClusterEvent>) {
        match self.when_full {
            WhenFull::Latest => ring.clear(),
            WhenFull::DropOldest => {}
            WhenFull::Coalesce(_) => ring.forget_predecessor_of(&event),
            // Messages are never dropped: their number is bounded by the readers, which stop at half. Nothing holds back
            // other events, so those are dropped, in their place among the messages.
            WhenFull::HoldBack => {
                if self.is_full(ring, &event) && !matches!(event.kind, EventKind::Message(_)) {
                    return ring.skip(&event);
                }
                return ring.append(event);
            }
        }
        while self.is_full(ring, &event) {
            ring.drop_oldest();
        }
        ring.append(event);
    }

    /// Is there no room for `event`? There always is if nothing else waits.
    fn is_full(&self, ring: &Ring, event: &ClusterEvent) -> bool {
        let waiting = ring.backlog.len();
        waiting >= self.capacity || (waiting > 0 && ring.bytes + event.held_bytes() > self.capacity_bytes)
    }

    fn holds_back(&self) -> bool {
        self.when_full == WhenFull::HoldBack
    }

    /// Does no later event replace one that waits? What was taken is not replaced any more, so of others one is taken.
    pub(crate) fn keeps_what_came(&self) -> bool {
        match self.when_full {
            WhenFull::Coalesce(_) | WhenFull::Latest => false,
            WhenFull::DropOldest | WhenFull::HoldBack => true,
        }
    }

    /// May channels be read on, as far as this subscriber is concerned?
    pub(crate) fn has_room(&self) -> bool {
        !self.holds_back() || self.is_half_empty(&self.ring())
    }

    fn is_half_empty(&self, ring: &Ring) -> bool {
        ring.backlog.len() <= self.capacity / 2 && ring.bytes <= self.capacity_bytes / 2
    }

    /// No event will follow: the consumer gets what is queued, then the end.
    pub(crate) fn close(&self) {
        self.ring().closed = true;
        self.filled.notify_one();
    }

    /// The consumer is gone or wants no more: what is queued is dropped, and nothing is queued any more.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        let mut ring = self.ring();
        ring.closed = true;
        ring.lagged = None;
        ring.clear();
        drop(ring);
        // The consumer may be waiting for the next event.
        self.filled.notify_one();
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// What is there now: `Ready(true)` with something in `taken`, `Ready(false)` for the end, or `Pending`.
    pub(crate) fn poll_take(&self, taken: &mut VecDeque<Arc<ClusterEvent>>, subscribers: &Subscribers) -> Poll<bool> {
        let mut ring = self.ring();
        if let Some(gap) = ring.lagged.take() {
            taken.push_back(Arc::new(gap.notice()));
        }
        let was_half_empty = self.is_half_empty(&ring);
        let most = if self.keeps_what_came() {
            TAKE_MAX.min(self.capacity.div_ceil(4))
        } else {
            1
        };
        ring.take(most, taken);
        let is_drained = self.holds_back() && !was_half_empty && self.is_half_empty(&ring);
        let is_closed = ring.closed;
        drop(ring);
        if is_drained {
            subscribers.drained();
        }
        match (taken.is_empty(), is_closed) {
            (false, _) => Poll::Ready(true),
            (true, true) => Poll::Ready(false),
            (true, false) => Poll::Pending,
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.ring().backlog.len()
    }

    /// Waits for events and moves some of them to `taken`, which must be empty, so that the lock is not taken for each
    /// single one. False after the cluster's last event. Cancel-safe: what was taken is in `taken`.
    pub(crate) async fn take(&self, taken: &mut VecDeque<Arc<ClusterEvent>>, subscribers: &Subscribers) -> bool {
        loop {
            let filled = self.filled.notified();
            if let Poll::Ready(is_taken) = self.poll_take(taken, subscribers) {
                return is_taken;
            }
            filled.await;
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // No user code runs under the lock, so a panic of a consumer cannot leave the ring half-changed.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn append(&mut self, event: Arc<ClusterEvent>) {
        self.bytes += event.held_bytes();
        self.backlog.push(event);
    }

    fn drop_oldest(&mut self) {
        if let Some(dropped) = self.pop() {
            let from = self.lagged.as_ref().map_or(dropped.seq, |gap| gap.from);
            self.lagged = Some(Gap::until(&dropped, from));
        }
    }

    fn pop(&mut self) -> Option<Arc<ClusterEvent>> {
        let event = self.backlog.pop()?;
        self.bytes -= event.held_bytes();
        Some(event)
    }

    fn take(&mut self, most: usize, taken: &mut VecDeque<Arc<ClusterEvent>>) {
        for _ in 0..most {
            let Some(event) = self.pop() else { return };
            taken.push_back(event);
        }
    }

    fn clear(&mut self) {
        while self.pop().is_some() {}
    }

    /// Takes out the event that `event` is a newer form of, if one waits.
    fn forget_predecessor_of(&mut self, event: &ClusterEvent) {
        if let Backlog::Newest(newest) = &mut self.backlog
            && let Some(older) = newest.take_predecessor_of(event)
        {
            self.bytes -= older.held_bytes();
        }
    }

    /// Puts a notice in the place of `event`, one for each gap between two messages.
    fn skip(&mut self, event: &ClusterEvent) {
        let Backlog::Line(line) = &mut self.backlog else { return };
        let from = match line.back().map(|last| &last.kind) {
            Some(EventKind::Lagged { from, .. }) => Some(*from),
            _ => None,
        };
        if from.is_some() {
            line.pop_back();
        }
        let gap = Gap::until(event, from.unwrap_or(event.seq));
        line.push_back(Arc::new(gap.notice()));
    }
}

/// Events that were dropped in a row: the numbers of the first and the last, and when the last was published. What they
/// carried is not needed for the notice, and may be large.
#[derive(Clone, Copy, Debug)]
struct Gap {
    from: u64,
    to: u64,
    at: Mono,
    time: SystemTime,
}

impl Gap {
    fn until(last: &ClusterEvent, from: u64) -> Self {
        Self {
            from,
            to: last.seq,
            at: last.at,
            time: last.time,
        }
    }

    /// Says so; it stands where the last of them stood.
    fn notice(self) -> ClusterEvent {
        ClusterEvent {
            seq: self.to,
            at: self.at,
            time: self.time,
            worker: None,
            kind: EventKind::Lagged {
                from: self.from,
                to: self.to,
            },
        }
    }
}

/// What waits, oldest first.
#[derive(Debug)]
enum Backlog {
    Line(VecDeque<Arc<ClusterEvent>>),
    Newest(Newest),
}

impl Backlog {
    fn len(&self) -> usize {
        match self {
            Self::Line(line) => line.len(),
            Self::Newest(newest) => newest.waiting.len(),
        }
    }

    fn push(&mut self, event: Arc<ClusterEvent>) {
        match self {
            Self::Line(line) => line.push_back(event),
            Self::Newest(newest) => newest.push(event),
        }
    }

    fn pop(&mut self) -> Option<Arc<ClusterEvent>> {
        match self {
            Self::Line(line) => line.pop_front(),
            Self::Newest(newest) => newest.pop(),
        }
    }
}

/// What waits, by number, and where the newest of each coalesced kind and worker is.
#[derive(Debug)]
struct Newest {
    kinds: Kinds,
    waiting: BTreeMap<u64, Arc<ClusterEvent>>,
    places: HashMap<(Kind, Option<WorkerId>), u64>,
}

impl Newest {
    fn new(kinds: Kinds) -> Self {
        Self {
            kinds,
            waiting: BTreeMap::new(),
            places: HashMap::new(),
        }
    }

    fn key(&self, event: &ClusterEvent) -> Option<(Kind, Option<WorkerId>)> {
        let kind = event.kind.kind();
        let worker = event.worker.as_ref().map(|worker| worker.id);
        self.kinds.contains(kind).then_some((kind, worker))
    }

    fn take_predecessor_of(&mut self, event: &ClusterEvent) -> Option<Arc<ClusterEvent>> {
        let place = self.places.remove(&self.key(event)?)?;
        self.waiting.remove(&place)
    }

    fn push(&mut self, event: Arc<ClusterEvent>) {
        if let Some(key) = self.key(&event) {
            self.places.insert(key, event.seq);
        }
        self.waiting.insert(event.seq, event);
    }

    fn pop(&mut self) -> Option<Arc<ClusterEvent>> {
        let (_, event) = self.waiting.pop_first()?;
        // Only the newest of its kind and worker waits, so the place is its own.
        if let Some(key) = self.key(&event) {
            self.places.remove(&key);
        }
        Some(event)
    }
}

/// Events that a consumer takes at once; they no longer count as kept for it.
const TAKE_MAX: usize = 64;
