//! Specs that go down and up together, because one of their workers failed.
//!
//! Everybody is stopped first, the last spec before the one before it; only when nobody of the group lives, all are
//! started in order. Whom `SIGKILL` does not end is not waited for. Not here: who is affected
//! ([`crate::policy::RestartStrategy`]).

use std::collections::BTreeSet;

use crate::model::{Mono, ReloadFailure};
use crate::policy::RestartType;

use super::Supervision;
use super::rules::Down;
use super::seat::{Purpose, SeatKey, SeatState, SpecKey, Turn};

/// A group on its way down.
#[derive(Debug)]
pub(super) struct Group {
    specs: BTreeSet<SpecKey>,
    /// The spec whose workers are being waited for; `None` when all are gone.
    at: Option<SpecKey>,
    /// It is not started again before this time: the back-off of who failed.
    until: Mono,
}

impl Group {
    pub(super) fn covers(&self, spec: SpecKey) -> bool {
        self.specs.contains(&spec)
    }

    /// Only the delay is waited for by the clock.
    pub(super) fn next_deadline(&self) -> Option<Mono> {
        self.at.is_none().then_some(self.until)
    }
}

impl Supervision {
    /// Begins to take down these specs. A second failure, in a spec that was spared by the first, adds to the group.
    pub(super) fn take_down_group(&mut self, affected: Vec<SpecKey>, until: Mono) {
        let (mut specs, until) = match self.group.take() {
            Some(group) => (group.specs, group.until.max(until)),
            None => (BTreeSet::new(), until),
        };
        specs.extend(affected);
        let mut group = Group {
            at: specs.last().copied(),
            specs,
            until,
        };
        self.abort_reload_of(&group);
        self.overtaken_by(&group);
        for spec in group.specs.clone() {
            for key in self.roster.keys_of(spec) {
                // Nobody of the group may be started from here on.
                match self.roster.seat(key).state() {
                    SeatState::Queued(_) => self.roster.set(key, SeatState::Held),
                    // Its own delay still counts: it failed by itself, before there was a group for it.
                    SeatState::Waiting { until } => {
                        group.until = group.until.max(until);
                        self.roster.set(key, SeatState::Held);
                    }
                    SeatState::Filled(_) | SeatState::Held | SeatState::Failed | SeatState::Stopped => {}
                }
            }
        }
        let first = group.at;
        // What they have opened may be what failed. They come back when the group is up.
        self.stop_standbys(|spec| group.covers(spec), None);
        self.group = Some(group);
        self.stop_spec_of_group(first);
    }

    /// Goes on to the spec before when one is gone; starts everybody when all are.
    pub(super) fn advance_group(&mut self, now: Mono) {
        while let Some(at) = self.group.as_ref().and_then(|group| group.at)
            && self.roster.sums_of(at).living() == 0
        {
            let before = self
                .group
                .as_ref()
                .and_then(|group| group.specs.range(..at).next_back().copied());
            if let Some(group) = &mut self.group {
                group.at = before;
            }
            self.stop_spec_of_group(before);
        }
        let Some(group) = self.group.take_if(|group| group.at.is_none() && group.until <= now) else {
            return;
        };
        // Who failed is held too, even if his own spec is not among them.
        let held: Vec<SeatKey> = self
            .roster
            .seats()
            .filter(|(_, seat)| seat.state() == SeatState::Held)
            .map(|(key, _)| key)
            .collect();
        drop(group);
        for key in held {
            self.roster.change(key, |content| {
                content.state = SeatState::Queued(Turn::First);
                content.awaited = true;
            });
        }
    }

    fn stop_spec_of_group(&mut self, spec: Option<SpecKey>) {
        let Some(spec) = spec else { return };
        for key in self.roster.keys_of(spec).into_iter().rev() {
            self.stop_slot(key, Purpose::Hold, None);
        }
    }

    /// The worker of a slot went down with its group, or as the one for whom the group goes down.
    pub(super) fn hold(&mut self, key: SeatKey) {
        let spec = &self.specs[&key.spec].config;
        if spec.restart == RestartType::Temporary {
            return self.retire(key, Down::Stopped);
        }
        let seat = self.roster.seat_mut(key);
        seat.restarts = seat.restarts.saturating_add(1);
        self.roster.set(key, SeatState::Held);
    }

    /// A worker that was told to stop with its group is gone. One that `SIGKILL` did not end for long comes late: the
    /// group is up again, and its slot follows.
    pub(super) fn left_with_group(&mut self, key: SeatKey) {
        let is_temporary = self.specs[&key.spec].config.restart == RestartType::Temporary;
        match &self.group {
            None if !is_temporary => self.queue_restart(key),
            None | Some(_) => self.hold(key),
        }
    }

    /// A reload of slots that are all about to be restarted has nothing to go by.
    fn abort_reload_of(&mut self, group: &Group) {
        let is_meant = match self.reloads.scope() {
            Some(Some(spec)) => group.covers(spec),
            Some(None) => true,
            None => false,
        };
        if is_meant {
            self.abort_reload(None, ReloadFailure::Overtaken);
        }
    }
}
