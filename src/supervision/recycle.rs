//! Replacing workers on purpose, one after the other: too old, too many requests, too much memory.
//!
//! Not here: how one is replaced ([`super::changes`]).

use std::collections::BTreeMap;

use crate::model::{EventKind, Mono, RecycleReason, WorkerId};
use crate::policy::RolloutOptions;

use super::Supervision;
use super::changes::Why;
use super::seat::{Role, SeatKey, SeatState};

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
        while let Some(id) = self.recycling.wanted.keys().next().copied() {
            let Some(key) = self.may_be_replaced(id) else {
                // Replaced, ending, or on its way out already.
                self.recycling.forget(id);
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

    /// A worker has reached its age.
    pub(super) fn expired(&mut self, id: WorkerId) {
        if let Some((key, role, mut worker)) = self.roster.find(id) {
            worker.expires_at = None;
            self.roster.put(key, role, worker);
            self.recycle(id, RecycleReason::Age);
        }
    }

    /// When a worker that is ready now will be too old: more or less by a tenth, so that those which started together
    /// do not go together.
    pub(super) fn expiry(&mut self, key: SeatKey, now: Mono) -> Option<Mono> {
        let age = self.specs[&key.spec].config.max_age?;
        let spread = 0.9 + 0.2 * self.random.next_unit();
        let seconds = age.as_secs_f64() * spread;
        let age = std::time::Duration::try_from_secs_f64(seconds).unwrap_or(age);
        Some(now + age)
    }

    /// The successor of an old worker failed: the next try is an age away, so that a worker which cannot be replaced
    /// is no crash loop.
    pub(super) fn postpone_expiry(&mut self, key: SeatKey, now: Mono) {
        let expires_at = self.expiry(key, now);
        self.roster.change(key, |content| {
            if let SeatState::Filled(worker) = &mut content.state {
                worker.expires_at = expires_at;
            }
        });
    }
}
