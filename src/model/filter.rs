//! Which events a subscriber wants: decided in the master, before an event is queued.

use super::{ClusterEvent, EventKind, GaveUp, Kinds, Slot, SpecName, WorkerId};

/// Which events a subscriber gets: those of its kinds that are about its specs, slots and workers. Default: all.
///
/// Every condition that is set must hold; within a condition (three slots, say) one of the values must fit. As soon as a
/// spec, a slot or a worker is named, events about the cluster as a whole (`Setup`, `AllReady`, `ShutdownStarted`, the
/// reload of all specs) do not pass: take a second subscription for those.
///
/// Numbers of a filtered subscription have holes where the filter said no. `Lagged` passes every filter: it tells of
/// events that the subscriber did want.
///
/// ```
/// use actix_cluster::{EventFilter, Kind};
///
/// let deaths_of_web = EventFilter::kinds([Kind::Exit, Kind::GaveUp]).spec("web");
/// # let _ = deaths_of_web;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a filter does nothing until it is given to a subscription"]
pub struct EventFilter {
    kinds: Kinds,
    specs: Vec<SpecName>,
    slots: Vec<Slot>,
    workers: Vec<WorkerId>,
}

impl Default for EventFilter {
    fn default() -> Self {
        Self::all()
    }
}

impl EventFilter {
    /// Everything.
    pub const fn all() -> Self {
        Self::of(Kinds::ALL)
    }

    /// What happens to workers and to the cluster, not what workers say: [`Kinds::LIFECYCLE`].
    pub const fn lifecycle() -> Self {
        Self::of(Kinds::LIFECYCLE)
    }

    /// Only events of these kinds.
    pub fn kinds(kinds: impl Into<Kinds>) -> Self {
        Self::of(kinds.into())
    }

    const fn of(kinds: Kinds) -> Self {
        Self {
            kinds,
            specs: Vec::new(),
            slots: Vec::new(),
            workers: Vec::new(),
        }
    }

    /// None of these kinds.
    pub const fn without(mut self, kind: super::Kind) -> Self {
        self.kinds = self.kinds.without(kind);
        self
    }

    /// Only what is about this spec; say it again for one more.
    pub fn spec(mut self, spec: impl Into<SpecName>) -> Self {
        self.specs.push(spec.into());
        self
    }

    /// Only what is about this slot; say it again for one more.
    pub fn slot(mut self, slot: Slot) -> Self {
        self.slots.push(slot);
        self
    }

    /// Only what is about this worker; say it again for one more.
    pub fn worker(mut self, worker: WorkerId) -> Self {
        self.workers.push(worker);
        self
    }

    /// Does `event` pass?
    #[must_use]
    pub fn wants(&self, event: &ClusterEvent) -> bool {
        if matches!(event.kind, EventKind::Lagged { .. }) {
            return true;
        }
        self.kinds.contains(event.kind.kind()) && (self.is_about_all() || self.fits(event))
    }

    /// Can an event of any of these kinds pass?
    pub(crate) fn wants_any(&self, kinds: Kinds) -> bool {
        self.kinds.and(kinds) != Kinds::NONE
    }

    const fn is_about_all(&self) -> bool {
        self.specs.is_empty() && self.slots.is_empty() && self.workers.is_empty()
    }

    fn fits(&self, event: &ClusterEvent) -> bool {
        let place = Place::of(event);
        let spec = |spec| self.specs.contains(spec);
        let slot = |slot| self.slots.contains(slot);
        let worker = |worker| self.workers.contains(&worker);
        (self.specs.is_empty() || place.spec.is_some_and(spec))
            && (self.slots.is_empty() || place.slot.is_some_and(slot))
            && (self.workers.is_empty() || place.worker.is_some_and(worker))
    }
}

/// What an event is about, as far as it is about one.
struct Place<'a> {
    spec: Option<&'a SpecName>,
    slot: Option<&'a Slot>,
    worker: Option<WorkerId>,
}

impl<'a> Place<'a> {
    fn of(event: &'a ClusterEvent) -> Self {
        let told = event.worker.as_ref();
        let slot = told.map(|worker| &worker.slot).or_else(|| event.kind.slot());
        Self {
            spec: slot.map(|slot| &slot.spec).or_else(|| event.kind.spec()),
            slot,
            worker: told.map(|worker| worker.id),
        }
    }
}

impl EventKind {
    /// The slot it is about, if it names one itself.
    const fn slot(&self) -> Option<&Slot> {
        match self {
            Self::RestartScheduled { slot, .. } | Self::GaveUp(GaveUp::Slot { slot, .. }) => Some(slot),
            Self::Setup(_)
            | Self::Fork
            | Self::Online
            | Self::Standby
            | Self::Promoted
            | Self::Listening(_)
            | Self::Ready
            | Self::AllReady { .. }
            | Self::Message(_)
            | Self::Output { .. }
            | Self::OutputDropped { .. }
            | Self::Exiting
            | Self::Disconnect
            | Self::Exit(_)
            | Self::Error(_)
            | Self::GaveUp(GaveUp::Spec { .. } | GaveUp::Cluster { .. })
            | Self::ReloadStarted { .. }
            | Self::ReloadFinished { .. }
            | Self::Scaled { .. }
            | Self::Recycling(_)
            | Self::ShutdownStarted
            | Self::Heartbeat(_)
            | Self::Unhealthy(_)
            | Self::Recovered
            | Self::Custom(_)
            | Self::SubscriberLost { .. }
            | Self::Rescued { .. }
            | Self::RequestRefused { .. }
            | Self::Lagged { .. } => None,
        }
    }

    /// The spec it is about, if it names one itself.
    const fn spec(&self) -> Option<&SpecName> {
        match self {
            Self::Scaled { spec, .. } | Self::GaveUp(GaveUp::Spec { spec, .. }) => Some(spec),
            Self::ReloadStarted { spec, .. } => spec.as_ref(),
            Self::Setup(_)
            | Self::Fork
            | Self::Online
            | Self::Standby
            | Self::Promoted
            | Self::Listening(_)
            | Self::Ready
            | Self::AllReady { .. }
            | Self::Message(_)
            | Self::Output { .. }
            | Self::OutputDropped { .. }
            | Self::Exiting
            | Self::Disconnect
            | Self::Exit(_)
            | Self::Error(_)
            | Self::RestartScheduled { .. }
            | Self::GaveUp(GaveUp::Slot { .. } | GaveUp::Cluster { .. })
            | Self::ReloadFinished { .. }
            | Self::Recycling(_)
            | Self::ShutdownStarted
            | Self::Heartbeat(_)
            | Self::Unhealthy(_)
            | Self::Recovered
            | Self::Custom(_)
            | Self::SubscriberLost { .. }
            | Self::Rescued { .. }
            | Self::RequestRefused { .. }
            | Self::Lagged { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::model::{Generation, Kind, Mono, WorkerInfo, WorkerState};

    fn event(kind: EventKind, worker: Option<(u64, &str, u32)>) -> ClusterEvent {
        ClusterEvent {
            seq: 1,
            at: Mono::default(),
            time: SystemTime::UNIX_EPOCH,
            worker: worker.map(|(id, spec, index)| WorkerInfo {
                id: WorkerId::new(id),
                slot: Slot::new(spec, index),
                generation: Generation(0),
                pid: Some(1),
                state: WorkerState::Created,
                exited_after_disconnect: None,
            }),
            kind,
        }
    }

    fn restart_of(spec: &str, index: u32) -> EventKind {
        EventKind::RestartScheduled {
            slot: Slot::new(spec, index),
            delay: Duration::ZERO,
            attempt: 1,
        }
    }

    #[test]
    fn each_condition_that_is_set_must_hold() {
        let web = || EventFilter::all().spec("web");
        let scaled = || EventKind::Scaled {
            spec: "web".into(),
            from: 1,
            to: 2,
        };
        let table = [
            (EventFilter::all(), event(EventKind::ShutdownStarted, None), true),
            (EventFilter::kinds(Kind::Exit), event(EventKind::Fork, None), false),
            (EventFilter::kinds([Kind::Fork]), event(EventKind::Fork, None), true),
            (
                EventFilter::all().without(Kind::Fork),
                event(EventKind::Fork, None),
                false,
            ),
            (web(), event(EventKind::Fork, Some((1, "web", 0))), true),
            (web(), event(EventKind::Fork, Some((1, "mail", 0))), false),
            (web(), event(EventKind::ShutdownStarted, None), false),
            (web(), event(restart_of("web", 3), None), true),
            (web(), event(scaled(), None), true),
            (
                web().slot(Slot::new("web", 2)),
                event(restart_of("web", 3), None),
                false,
            ),
            (
                web().slot(Slot::new("web", 2)).slot(Slot::new("web", 3)),
                event(restart_of("web", 3), None),
                true,
            ),
            (
                EventFilter::all().worker(WorkerId::new(2)),
                event(EventKind::Ready, Some((2, "web", 0))),
                true,
            ),
            (
                EventFilter::all().worker(WorkerId::new(2)),
                event(EventKind::Ready, Some((1, "web", 0))),
                false,
            ),
            (
                web().worker(WorkerId::new(2)),
                event(EventKind::Lagged { from: 1, to: 2 }, None),
                true,
            ),
        ];
        for (filter, event, wanted) in table {
            assert_eq!(filter.wants(&event), wanted, "{filter:?} {event:?}");
        }
    }
}
