//! Whose turn it is in a reload: the next batch, and whether there is anybody left.
//!
//! Not here: when a batch may begin, and what a failure means ([`super::rollout`]).

use crate::model::Mono;

use super::changes::Why;
use super::rollout::{Rollout, Wait};
use super::seat::{Beside, Content, Purpose, SeatKey, SeatState};
use super::{Stage, Supervision};

impl Supervision {
    pub(super) fn begin_batch(&mut self, now: Mono) -> bool {
        let Some(rollout) = &self.reloads.running else {
            return false;
        };
        let (options, done, from, is_baked) = (
            rollout.options,
            rollout.done,
            rollout.from,
            rollout.canary_is_good || !rollout.is_forward(),
        );
        let first = self.due(from).next();
        if first.is_none() && from != SeatKey::FIRST {
            // Who came before may have changed since.
            self.look_from(SeatKey::FIRST);
            return true;
        }
        let watched = options.canary.filter(|_| !is_baked);
        if let Some(canary) = watched.filter(|canary| done > 0 && (done >= canary.count || first.is_none())) {
            if let Some(rollout) = &mut self.reloads.running {
                rollout.wait = Wait::Bake(now + canary.bake);
            }
            return true;
        }
        let Some(first) = first else {
            if self.is_unsettled() {
                return false;
            }
            self.finish_reload();
            return true;
        };
        let most = watched.map_or(usize::MAX, |canary| canary.count.saturating_sub(done) as usize);
        let mut room = self.room(&options);
        room.leave_out_in_place(self.count_emptied());
        let of_spec = self.due(from).take_while(|key| key.spec == first.spec);
        let batch: Vec<SeatKey> = of_spec.take(most.min(room.left())).collect();
        for key in batch {
            let Some(way) = room.next().filter(|_| self.may_boot()) else {
                break;
            };
            self.begin_change(key, Why::Reload, way, now);
            self.look_from(key);
        }
        false
    }

    fn look_from(&mut self, key: SeatKey) {
        if let Some(rollout) = &mut self.reloads.running {
            rollout.from = key;
        }
    }

    /// The slots that hold, or would get, another generation than they should, and whose turn it may be, in order.
    fn due(&self, from: SeatKey) -> impl Iterator<Item = SeatKey> {
        let running = self.reloads.running.as_ref();
        let is_due = move |rollout: &Rollout, key: SeatKey, content: Content| match content.state {
            SeatState::Filled(worker) => worker.stage == Stage::Wanted && worker.generation != self.goal(key.spec),
            // A new generation is a new chance.
            SeatState::Failed => rollout.is_forward(),
            SeatState::Waiting { .. } => rollout.is_forward() && !rollout.is_proven(),
            SeatState::Queued(_) | SeatState::Held | SeatState::Stopped => false,
        };
        running.into_iter().flat_map(move |rollout| {
            self.roster
                .seats_from(from)
                .filter(|(key, seat)| rollout.covers(key.spec) && seat.beside().is_none() && seat.request.is_none())
                .filter(move |(key, seat)| is_due(rollout, *key, seat.content()))
                .filter(|(key, _)| !self.changes.contains_key(key))
                .map(|(key, _)| key)
        })
    }

    /// Is somebody still on his way out, or on his way up?
    fn is_unsettled(&self) -> bool {
        let Some(rollout) = &self.reloads.running else {
            return false;
        };
        let is_unsettled = |key: SeatKey, content: Content| {
            let beside = content.beside.map(Beside::worker);
            if beside.is_some_and(|worker| worker.is_unkillable()) {
                return false;
            }
            let main = match content.state {
                SeatState::Filled(worker) if worker.is_unkillable() => false,
                SeatState::Filled(worker) => {
                    worker.generation != self.goal(key.spec) || (rollout.is_forward() && worker.is_booting())
                }
                SeatState::Queued(_) | SeatState::Held => rollout.is_forward() && !rollout.is_proven(),
                SeatState::Waiting { .. } | SeatState::Failed | SeatState::Stopped => false,
            };
            main || beside.is_some()
        };
        self.roster
            .seats()
            .any(|(key, seat)| rollout.covers(key.spec) && is_unsettled(key, seat.content()))
    }

    /// This slot is without a worker because of the reload, which does not change it any more.
    pub(super) fn note_emptied(&mut self, key: SeatKey) {
        if let Some(rollout) = &mut self.reloads.running
            && !rollout.emptied.contains(&key)
        {
            rollout.emptied.push(key);
        }
    }

    /// How many of them are still on their way. One that fails again is up to the restart rules.
    fn count_emptied(&mut self) -> usize {
        let Some(rollout) = &mut self.reloads.running else {
            return 0;
        };
        let roster = &self.roster;
        let is_coming = |key: &SeatKey| match roster.holds(*key).then(|| roster.seat(*key).state()) {
            Some(SeatState::Queued(_)) => true,
            Some(SeatState::Filled(worker)) => worker.is_booting() || worker.purpose() == Some(Purpose::Replace),
            Some(SeatState::Waiting { .. } | SeatState::Held | SeatState::Failed | SeatState::Stopped) | None => false,
        };
        rollout.emptied.retain(is_coming);
        rollout.emptied.len()
    }
}
