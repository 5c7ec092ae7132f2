//! One slot: what it is doing, and who is in it.
//!
//! Not here: the sums over all slots ([`super::roster`]), and why a slot changes (that is [`super::Supervision`]).

use crate::model::{Exit, Generation, Mono, Slot, SlotSnapshot, SlotState, WorkerId};
use crate::policy::Window;

use super::RequestId;

/// Where a spec stands in the start order, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SpecKey(pub(super) u32);

/// Where a slot stands in the start order: by spec, then by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SeatKey {
    pub(super) spec: SpecKey,
    pub(super) index: u32,
}

impl SeatKey {
    /// No slot comes before it.
    pub(super) const FIRST: Self = Self {
        spec: SpecKey(0),
        index: 0,
    };

    /// The same as one number.
    pub(super) fn place(self) -> u64 {
        (u64::from(self.spec.0) << 32) | u64::from(self.index)
    }
}

/// One slot.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) slot: Slot,
    /// Who asked for it and has no answer yet.
    pub(super) request: Option<Asked>,
    /// Is it forgotten when it is stopped? So are slots that were added by a fork or are scaled away.
    pub(super) is_extra: bool,
    /// Was it added by a fork? Then its workers may have an environment of their own.
    pub(super) is_forked: bool,
    /// Restarts since the cluster's start.
    pub(super) restarts: u32,
    /// Failures in a row.
    pub(super) streak: u32,
    pub(super) window: Window,
    pub(super) last_exit: Option<Exit>,
    content: Content,
}

/// Who waits for the slot's next process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A `SlotForkRequested`.
    Fork(RequestId),
    /// A `SpecStartRequested`.
    Start(RequestId),
}

/// The part of a slot that the sums are about; changed only by the roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) state: SeatState,
    /// The second process, while one replaces the other.
    pub(super) beside: Option<Beside>,
    /// Do later specs wait for it to be ready, or to fail?
    pub(super) awaited: bool,
    /// Of a stopped slot: did its worker say that there is nothing to do?
    pub(super) declined: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeatState {
    Queued(Turn),
    Filled(Occupant),
    Waiting {
        until: Mono,
    },
    /// Stopped with its group, until everybody of the group is gone.
    Held,
    Failed,
    Stopped,
}

/// The second process of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// A successor that is not trusted yet.
    Coming(Occupant),
    /// One that was replaced, or a successor that is not wanted after all: ordered to stop.
    Leaving(Occupant),
}

/// Restarts go before first starts: what was there comes back before more is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    Restart,
    /// In the order of the specs: one waits for the workers of the one before.
    First,
}

/// Which of the two a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    Coming,
    Leaving,
}

/// A worker in a slot, as far as the slot cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Occupant {
    pub(super) id: WorkerId,
    pub(super) generation: Generation,
    /// Does its process exist?
    pub(super) forked: bool,
    /// Since when it is ready.
    pub(super) ready_at: Option<Mono>,
    /// When it is too old.
    pub(super) expires_at: Option<Mono>,
    /// With how many requests it has served enough; once it is ready.
    pub(super) served_out_at: Option<u64>,
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

/// What becomes of the slot when its worker has stopped. Of two the later in this list counts: "not again" outweighs
/// "again", whichever was ordered first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// The slot gets a new worker.
    Replace,
    /// The same when everybody of its group is gone.
    Hold,
    /// The slot is given up.
    Fail,
    /// The slot is stopped.
    Remove,
}

impl Seat {
    /// A slot that is to be filled.
    pub(super) const fn new(slot: Slot, window: Window, content: Content) -> Self {
        Self {
            slot,
            request: None,
            is_extra: false,
            is_forked: false,
            restarts: 0,
            streak: 0,
            window,
            last_exit: None,
            content,
        }
    }

    pub(super) const fn content(&self) -> Content {
        self.content
    }

    pub(super) const fn state(&self) -> SeatState {
        self.content.state
    }

    pub(super) const fn beside(&self) -> Option<Beside> {
        self.content.beside
    }

    /// For the roster alone, which keeps the sums.
    pub(super) const fn replace_content(&mut self, content: Content) -> Content {
        std::mem::replace(&mut self.content, content)
    }

    /// The budget is full again.
    pub(super) fn forgive(&mut self) {
        self.window.reset();
        self.streak = 0;
    }

    pub(super) fn snapshot(&self) -> SlotSnapshot {
        let (state, worker) = match self.content.state {
            SeatState::Queued(_) => (SlotState::Queued, None),
            SeatState::Filled(occupant) => (SlotState::Filled, Some(occupant.id)),
            SeatState::Waiting { until } => (SlotState::Waiting { until }, None),
            SeatState::Held => (SlotState::Held, None),
            SeatState::Failed => (SlotState::Failed, None),
            SeatState::Stopped if self.content.declined => (SlotState::Declined, None),
            SeatState::Stopped => (SlotState::Stopped, None),
        };
        SlotSnapshot {
            slot: self.slot.clone(),
            state,
            worker,
            beside: self.content.beside.map(|beside| beside.worker().id),
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
        }
    }
}

impl Content {
    pub(super) const fn main(&self) -> Option<Occupant> {
        match self.state {
            SeatState::Filled(occupant) => Some(occupant),
            SeatState::Queued(_)
            | SeatState::Waiting { .. }
            | SeatState::Held
            | SeatState::Failed
            | SeatState::Stopped => None,
        }
    }

    /// Every process of the slot.
    pub(super) fn workers(&self) -> impl Iterator<Item = Occupant> + use<> {
        self.main().into_iter().chain(self.beside.map(|beside| beside.worker()))
    }

    /// Is it to hold a worker?
    pub(super) fn is_wanted(&self) -> bool {
        match self.state {
            SeatState::Queued(_) | SeatState::Waiting { .. } | SeatState::Held | SeatState::Failed => true,
            SeatState::Filled(occupant) => !occupant.is_leaving_for_good(),
            SeatState::Stopped => false,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        let coming = match self.beside {
            Some(Beside::Coming(worker)) => Some(worker),
            Some(Beside::Leaving(_)) | None => None,
        };
        self.is_wanted() && self.main().into_iter().chain(coming).any(|worker| worker.is_ready())
    }
}

impl Beside {
    pub(super) const fn worker(self) -> Occupant {
        match self {
            Self::Coming(worker) | Self::Leaving(worker) => worker,
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

    /// Takes the order to stop; is it the first one?
    pub(super) fn take_order(&mut self, purpose: Purpose) -> bool {
        let purpose = self.purpose().map_or(purpose, |before| before.max(purpose));
        let (stage, is_first) = match self.stage {
            Stage::Wanted | Stage::Ending => (Stage::Stopping(purpose), true),
            Stage::Stopping(_) => (Stage::Stopping(purpose), false),
            Stage::Unkillable(_) => (Stage::Unkillable(Some(purpose)), false),
        };
        self.stage = stage;
        is_first
    }

    pub(super) const fn is_booting(&self) -> bool {
        self.ready_at.is_none() && matches!(self.stage, Stage::Wanted)
    }

    pub(super) const fn is_ready(&self) -> bool {
        self.ready_at.is_some() && matches!(self.stage, Stage::Wanted)
    }

    pub(super) const fn is_unkillable(&self) -> bool {
        matches!(self.stage, Stage::Unkillable(_))
    }

    const fn is_leaving_for_good(&self) -> bool {
        matches!(
            self.stage,
            Stage::Stopping(Purpose::Remove) | Stage::Unkillable(Some(Purpose::Remove))
        )
    }
}
