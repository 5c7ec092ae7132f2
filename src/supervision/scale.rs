//! More slots, or fewer.

use crate::model::{EventKind, SpecName, WorkerId};

use super::seat::{Purpose, SeatKey, SeatState, SpecKey};
use super::{Action, RequestId, SLOTS_MAX, ScaleRefused, ScaleTarget, Scaled, Supervision};

impl Supervision {
    pub(super) fn scale(
        &mut self,
        request: RequestId,
        spec: SpecName,
        target: ScaleTarget,
        active: &[(WorkerId, u64)],
    ) {
        let result = if self.is_stopping() {
            Err(ScaleRefused::Stopping)
        } else {
            match self.by_name.get(&spec) {
                Some(&key) => Ok(self.scale_spec(key, spec, target, active)),
                None => Err(ScaleRefused::UnknownSpec(spec)),
            }
        };
        self.actions.push_back(Action::Scaled { request, result });
    }

    fn scale_spec(&mut self, key: SpecKey, spec: SpecName, target: ScaleTarget, active: &[(WorkerId, u64)]) -> Scaled {
        let from = u32::try_from(self.roster.sums_of(key).target).unwrap_or(u32::MAX);
        let asked = match target {
            ScaleTarget::To(count) => count,
            ScaleTarget::By(more) => i64::from(from).saturating_add(more),
        };
        // Slots that are being emptied still take memory, so they count against the limit.
        let free = SLOTS_MAX.saturating_sub(self.roster.len());
        let most = from.saturating_add(u32::try_from(free + self.reusable(key).len()).unwrap_or(u32::MAX));
        let to = u32::try_from(asked.max(0)).unwrap_or(u32::MAX).min(most);
        if to > from {
            self.grow(key, to - from);
        } else {
            self.shrink(key, from - to, active);
        }
        if let Some(known) = self.specs.get_mut(&key) {
            known.config.count = to;
            known.is_open = to == 0;
        }
        if from != to {
            self.publish(None, EventKind::Scaled { spec, from, to });
        }
        Scaled {
            from,
            to,
            clamped: i64::from(to) != asked,
        }
    }

    /// Stopped slots with nobody in them.
    fn reusable(&self, spec: SpecKey) -> Vec<SeatKey> {
        let is_free = |seat: &super::seat::Seat| seat.state() == SeatState::Stopped && seat.beside().is_none();
        self.roster
            .seats_of(spec)
            .filter(|(_, seat)| is_free(seat))
            .map(|(key, _)| key)
            .collect()
    }

    /// Stopped slots are used again first, then gaps in the numbers, so that numbers stay small.
    pub(super) fn grow(&mut self, spec: SpecKey, count: u32) {
        let mut left = count as usize;
        for key in self.reusable(spec).into_iter().take(left) {
            self.revive(key);
            left -= 1;
        }
        let mut taken = self.roster.keys_of(spec).into_iter().map(|key| key.index).peekable();
        let gaps = (0..u32::MAX).filter(|index| taken.next_if_eq(index).is_none());
        let new: Vec<u32> = gaps.take(left).collect();
        for index in new {
            if let Some(spec) = self.specs.get_mut(&spec) {
                spec.next_index = spec.next_index.max(index.saturating_add(1));
            }
            self.add_seat(SeatKey { spec, index });
        }
    }

    /// Who serves nobody goes first, then the least busy; of equals, the youngest slot.
    fn shrink(&mut self, spec: SpecKey, count: u32, active: &[(WorkerId, u64)]) {
        let busy = |id| active.iter().find(|(known, _)| *known == id).map(|(_, active)| *active);
        let mut order: Vec<_> = self
            .roster
            .seats_of(spec)
            .filter(|(_, seat)| seat.content().is_wanted())
            .map(|(key, seat)| {
                let cost = match seat.content().main() {
                    None => (0, 0),
                    Some(worker) if !worker.is_ready() => (1, 0),
                    // Of whom nothing is known, nothing good is assumed.
                    Some(worker) => (2, busy(worker.id).unwrap_or(u64::MAX)),
                };
                (cost, std::cmp::Reverse(key.index), key)
            })
            .collect();
        order.sort_unstable();
        for (_, _, key) in order.into_iter().take(count as usize) {
            self.roster.seat_mut(key).is_extra = true;
            match self.roster.seat(key).state() {
                SeatState::Failed => self.retire(key, super::rules::Down::Stopped),
                SeatState::Queued(_)
                | SeatState::Filled(_)
                | SeatState::Waiting { .. }
                | SeatState::Held
                | SeatState::Stopped => self.stop_slot(key, Purpose::Remove, None),
            }
        }
    }
}
