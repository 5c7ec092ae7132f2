//! Who holds a share of a listener that was asked for: slots do, and in a slot the workers that have not let go yet.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Slot, WorkerId};

/// A worker in its slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder<'a> {
    pub(crate) slot: &'a Slot,
    pub(crate) worker: WorkerId,
}

/// The slots that hold a share. One whose workers are all dead holds it still: it waits for the slot's next worker.
#[derive(Debug, Default)]
pub(super) struct Holders {
    of_slots: BTreeMap<Slot, BTreeSet<WorkerId>>,
}

impl Holders {
    pub(super) fn add(&mut self, holder: Holder<'_>) {
        let workers = self.of_slots.entry(holder.slot.clone()).or_default();
        workers.insert(holder.worker);
    }

    /// This worker lets go. While a slot is reloaded two fill it: only the last of them ends the slot's share. Who holds
    /// nothing ends nothing.
    pub(super) fn let_go(&mut self, holder: Holder<'_>) {
        let Some(workers) = self.of_slots.get_mut(holder.slot) else {
            return;
        };
        if workers.remove(&holder.worker) && workers.is_empty() {
            self.of_slots.remove(holder.slot);
        }
    }

    /// This worker is dead: it neither lets go any more nor keeps another one from ending the slot's share.
    pub(super) fn died(&mut self, holder: Holder<'_>) {
        if let Some(workers) = self.of_slots.get_mut(holder.slot) {
            workers.remove(&holder.worker);
        }
    }

    /// This slot is gone for good.
    pub(super) fn remove(&mut self, slot: &Slot) {
        self.of_slots.remove(slot);
    }

    pub(super) fn has(&self, slot: &Slot) -> bool {
        self.of_slots.contains_key(slot)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of_slots.is_empty()
    }
}
