//! Replacing workers on purpose, one after the other: too old, too many requests, too much memory.
//!
//! Not here: how one is replaced ([`super::changes`]).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use crate::model::{EventKind, Mono, RecycleReason, WorkerId};
use crate::policy::RolloutOptions;

use super::Supervision;
use super::changes::Why;
use super::seat::{Beside, Role, SeatKey, SeatState};

/// Who waits for being replaced.
#[derive(Debug, Default)]
pub(super) struct Recycling {
    /// The oldest first. Only workers that live, so bounded by their number.
    pub(super) wanted: BTreeMap<WorkerId, RecycleReason>,
}

impl Recycling {
    pub(super) fn forget(&mut self, id: WorkerId) {
        self.wanted.remove(&id);
    }

    fn next_after(&self, id: WorkerId) -> Option<WorkerId> {
        let later = (Bound::Excluded(id), Bound::Unbounded);
        self.wanted.range(later).next().map(|(id, _)| *id)
    }
}

impl Supervision {
    pub(super) fn recycle(&mut self, id: WorkerId, why: RecycleReason) {
        let is_there = |(_, role, worker): &(SeatKey, Role, super::Occupant)| {
            *role == Role::Main && worker.stage == super::Stage::Wanted
        };
        match self.roster.find(id).filter(is_there) {
            Some(_) if !self.is_stopping() => {
                self.recycling.wanted.entry(id).or_insert(why);
            }
            Some(_) | None => self.ignore(),
        }
    }

    /// Begins as many as there is room for. A reload and a group's restart replace everybody anyway, so they go first.
    pub(super) fn advance_recycling(&mut self, now: Mono) {
        if self.recycling.wanted.is_empty() || self.reloads.target().is_some() || self.group.is_some() {
            return;
        }
        let mut options = self.config.recycle;
        if options.surge == 0 && options.max_unavailable == 0 {
            options = RolloutOptions { surge: 1, ..options };
        }
        let mut room = self.room(&options);
        let mut after = WorkerId::new(0);
        while let Some(id) = self.recycling.next_after(after) {
            after = id;
            let Some(key) = self.may_be_replaced(id) else {
                // Replaced, ending, or on its way out already; or somebody who was beside it still drains.
                if !self.waits_for_room(id) {
                    self.recycling.forget(id);
                }
                continue;
            };
            let Some(way) = room.next().filter(|_| self.may_boot()) else {
                return;
            };
            let why = self.recycling.wanted.remove(&id).expect("it is the first one");
            self.publish(Some(id), EventKind::Recycling(why));
            self.begin_change(key, Why::Recycling, way, now);
        }
    }

    /// Is it in its place and to stay, with nobody beside it who is to replace it?
    fn waits_for_room(&self, id: WorkerId) -> bool {
        self.roster.find(id).is_some_and(|(key, role, worker)| {
            let is_there = role == Role::Main && worker.stage == super::Stage::Wanted;
            is_there && !matches!(self.roster.seat(key).beside(), Some(Beside::Coming(_)))
        })
    }

    /// A worker has reached its age.
    pub(super) fn expired(&mut self, id: WorkerId) {
        if let Some((key, role, mut worker)) = self.roster.find(id) {
            worker.expires_at = None;
            self.roster.put(key, role, worker);
            self.recycle(id, RecycleReason::Age);
        }
    }

    /// A worker counted its requests; by then it may have come to its limit. One that is not in its place yet, or is
    /// leaving, is asked again with its next number.
    pub(super) fn served(&mut self, id: WorkerId, requests: u64) {
        let due = |(_, role, worker): &(SeatKey, Role, super::Occupant)| {
            let is_over = worker.served_out_at.is_some_and(|limit| limit <= requests);
            is_over && *role == Role::Main && worker.stage == super::Stage::Wanted
        };
        let Some((key, role, mut worker)) = self.roster.find(id).filter(due) else {
            return;
        };
        // If its successor fails, the next try is one more share away: a worker that cannot be replaced is no crash loop.
        let next = self.share_of_requests(key).map(|share| requests.saturating_add(share));
        worker.served_out_at = next;
        self.roster.put(key, role, worker);
        self.recycle(id, RecycleReason::Requests);
    }

    /// How many requests a worker may begin.
    pub(super) fn share_of_requests(&mut self, key: SeatKey) -> Option<u64> {
        let requests = self.specs[&key.spec].config.max_requests;
        if requests == 0 {
            return None;
        }
        // A tenth less, and up to a fifth more than that; in whole numbers, because the largest are not exact as `f64`.
        let fifth = (requests / 5) as f64 * self.spread();
        Some((requests - requests / 10).saturating_add(fifth as u64).max(1))
    }

    /// Anything from 0 to 1, so that those which started together do not go together.
    fn spread(&mut self) -> f64 {
        self.random.next_unit()
    }

    /// When a worker that is ready now will be too old, more or less by a tenth.
    pub(super) fn expiry(&mut self, key: SeatKey, now: Mono) -> Option<Mono> {
        let age = self.specs[&key.spec].config.max_age;
        self.aged(age, now)
    }

    /// When so long is over, more or less by a tenth.
    pub(super) fn aged(&mut self, age: Option<Duration>, now: Mono) -> Option<Mono> {
        let age = age?;
        let seconds = age.as_secs_f64() * (0.9 + 0.2 * self.spread());
        let age = Duration::try_from_secs_f64(seconds).unwrap_or(age);
        Some(now + age)
    }

    /// The successor of an old worker failed: the next try is an age away, so that a worker which cannot be replaced
    /// is no crash loop.
    pub(super) fn postpone_expiry(&mut self, key: SeatKey, now: Mono) {
        let expires_at = self.expiry(key, now);
        self.roster.change(key, |content| {
            // Another one may boot there meanwhile; its age counts from its ready.
            if let SeatState::Filled(worker) = &mut content.state
                && worker.ready_at.is_some()
            {
                worker.expires_at = expires_at;
            }
        });
    }
}
