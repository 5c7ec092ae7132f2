//! Specs at run time, with OTP's answers: add, stop, start, delete.
//!
//! Not here: slots one by one ([`super::orders`]), starts that are under way ([`super::starts`]).

use crate::model::{Generation, ReloadFailure, SpecName, WorkerId};
use crate::policy::{RestartType, Window};

use super::rules::Down;
use super::seat::{Purpose, SeatKey, SeatState, SpecKey};
use super::{Action, Course, RequestId, SLOTS_MAX, SpecConfig, SpecRefused, Supervision};

/// One spec as the machine keeps it.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) config: SpecConfig,
    /// What its next worker runs, as long as no reload has got further.
    pub(super) generation: Generation,
    /// From here on a fork looks for a free number.
    pub(super) next_index: u32,
    /// Is it the first one, the builder's own? What `fork` copies is not forgotten.
    pub(super) is_own: bool,
    /// The restarts of all its slots.
    pub(super) window: Option<Window>,
    /// Was it emptied by hand? Then that nobody is left does not end the cluster.
    pub(super) is_open: bool,
}

/// A stop of a spec that is under way, because somebody wants it or because its start has failed. It is about whoever lived
/// when it began: a slot that is started again meanwhile must not keep its caller waiting for ever.
#[derive(Debug)]
pub(super) struct PendingStop {
    request: RequestId,
    spec: SpecKey,
    /// The first worker that it is not about.
    before: WorkerId,
    left: usize,
    failed: Option<FailedStart>,
}

/// A start that has failed.
#[derive(Debug)]
pub(super) struct FailedStart {
    /// Did the spec come with it? Then it goes with it.
    pub(super) is_new: bool,
    pub(super) why: SpecRefused,
}

impl Supervision {
    /// At the end of the order. What is not to be started has no slots until somebody starts it.
    pub(super) fn add_spec(&mut self, config: SpecConfig, started: bool) -> SpecKey {
        let key = self.next_spec;
        self.next_spec = SpecKey(key.0 + 1);
        self.by_name.insert(config.name.clone(), key);
        self.standbys.want(key, config.standby);
        let free = SLOTS_MAX.saturating_sub(self.roster.len());
        let count = config.count.min(u32::try_from(free).unwrap_or(u32::MAX));
        let spec = Spec {
            generation: self.reloads.newest(),
            next_index: count,
            window: config.intensity.map(Window::from),
            is_own: key == SpecKey(0),
            is_open: !started,
            config,
        };
        self.specs.insert(key, spec);
        self.order.push(key);
        for index in (0..count).filter(|_| started) {
            self.add_seat(SeatKey { spec: key, index });
        }
        key
    }

    pub(super) fn spec_add(&mut self, request: RequestId, config: SpecConfig) {
        match self.try_add(config) {
            Ok(key) => {
                self.actions.push_back(Action::SpecsTaken { request });
                self.await_start(request, key, true);
            }
            Err(refused) => self.answer_spec(request, Err(refused)),
        }
    }

    fn try_add(&mut self, config: SpecConfig) -> Result<SpecKey, SpecRefused> {
        if self.is_stopping() {
            return Err(SpecRefused::Stopping);
        }
        let checked = config.check(self.config.auto_shutdown);
        checked.map_err(|why| SpecRefused::Invalid(config.name.clone(), why))?;
        if config.count as usize > SLOTS_MAX.saturating_sub(self.roster.len()) {
            return Err(SpecRefused::TooManySlots(SLOTS_MAX));
        }
        if let Some(&key) = self.by_name.get(&config.name) {
            match (self.one_of(key), self.is_down(key)) {
                (Some(id), _) => return Err(SpecRefused::AlreadyStarted(config.name, id)),
                (None, false) => return Err(SpecRefused::Restarting(config.name)),
                // The name of a temporary one is free as soon as it has ended.
                (None, true) if self.specs[&key].config.restart == RestartType::Temporary => self.remove_spec(key),
                (None, true) => return Err(SpecRefused::AlreadyPresent(config.name)),
            }
        }
        self.was_emptied = false;
        Ok(self.add_spec(config, true))
    }

    pub(super) fn spec_stop(&mut self, request: RequestId, name: SpecName) {
        let Some(&key) = self.by_name.get(&name) else {
            return self.answer_spec(request, Err(SpecRefused::NotFound(name)));
        };
        if !self.is_stopping() {
            if let Some(spec) = self.specs.get_mut(&key) {
                spec.is_open = true;
            }
            if self.reloads.scope() == Some(Some(key)) {
                self.end_running_reload(&ReloadFailure::Overtaken);
            }
            for seat in self.roster.keys_of(key).into_iter().rev() {
                match self.roster.seat(seat).state() {
                    SeatState::Failed => self.retire(seat, Down::Stopped),
                    SeatState::Queued(_)
                    | SeatState::Filled(_)
                    | SeatState::Waiting { .. }
                    | SeatState::Held
                    | SeatState::Stopped => self.stop_slot(seat, Purpose::Remove, None),
                }
            }
        }
        self.await_end(request, key, None);
    }

    /// Waits for whoever lives of a spec now.
    pub(super) fn await_end(&mut self, request: RequestId, spec: SpecKey, failed: Option<FailedStart>) {
        self.stops.push(PendingStop {
            request,
            spec,
            before: self.next_id,
            left: self.roster.sums_of(spec).living() + self.standbys.living_of(spec),
            failed,
        });
    }

    /// Answers whoever waits for the end of a spec whose workers are gone; whom `SIGKILL` does not end is not waited for.
    pub(super) fn answer_stops(&mut self) {
        let over: Vec<PendingStop> = self.stops.extract_if(.., |stop| stop.left == 0).collect();
        for stop in over {
            let Some(FailedStart { is_new, why }) = stop.failed else {
                self.answer_spec(stop.request, Ok(()));
                continue;
            };
            // One that SIGKILL does not end keeps its place in the list, and so does one that was started again meanwhile.
            let is_empty = self.is_down(stop.spec) && self.one_of(stop.spec).is_none();
            if is_new && is_empty && !self.is_stopping() && self.specs.contains_key(&stop.spec) {
                self.remove_spec(stop.spec);
            }
            self.answer_spec(stop.request, Err(why));
        }
    }

    /// A worker of a spec is gone, or `SIGKILL` does not end it: nobody waits for it any more.
    pub(super) fn not_waited_for(&mut self, spec: SpecKey, id: WorkerId) {
        for stop in &mut self.stops {
            if stop.spec == spec && id < stop.before {
                stop.left -= 1;
            }
        }
    }

    /// Starts every slot of a spec that is down.
    pub(super) fn spec_start(
        &mut self,
        request: RequestId,
        name: SpecName,
        running: impl FnOnce(SpecName, WorkerId) -> SpecRefused,
    ) {
        let key = match self.find_down(name, running) {
            Ok(key) => key,
            Err(refused) => return self.answer_spec(request, Err(refused)),
        };
        let (count, window) = match self.specs.get_mut(&key) {
            Some(spec) => {
                spec.is_open = false;
                (spec.config.count as usize, spec.window.as_mut())
            }
            None => (0, None),
        };
        if let Some(window) = window {
            window.reset();
        }
        self.was_emptied = false;
        // The description may have become smaller while it was stopped.
        for seat in self.roster.keys_of(key).into_iter().skip(count) {
            self.forget_seat(seat);
        }
        for seat in self.roster.keys_of(key) {
            self.revive(seat);
        }
        let missing = count.saturating_sub(self.roster.keys_of(key).len());
        let free = SLOTS_MAX.saturating_sub(self.roster.len());
        self.grow(key, u32::try_from(missing.min(free)).unwrap_or(u32::MAX));
        self.await_start(request, key, false);
    }

    pub(super) fn spec_delete(&mut self, request: RequestId, name: SpecName) {
        let result = match self.find_down(name, |spec, _| SpecRefused::Running(spec)) {
            Ok(key) => {
                self.remove_spec(key);
                Ok(())
            }
            Err(refused) => Err(refused),
        };
        self.answer_spec(request, result);
    }

    fn find_down(
        &self,
        name: SpecName,
        running: impl FnOnce(SpecName, WorkerId) -> SpecRefused,
    ) -> Result<SpecKey, SpecRefused> {
        let Some(&key) = self.by_name.get(&name) else {
            return Err(SpecRefused::NotFound(name));
        };
        match self.one_of(key) {
            _ if self.is_stopping() => Err(SpecRefused::Stopping),
            Some(id) => Err(running(name, id)),
            None if self.is_down(key) => Ok(key),
            None => Err(SpecRefused::Restarting(name)),
        }
    }

    pub(super) fn remove_spec(&mut self, key: SpecKey) {
        if self.reloads.scope() == Some(Some(key)) {
            self.end_running_reload(&ReloadFailure::Overtaken);
        }
        for seat in self.roster.keys_of(key) {
            self.changes.remove(&seat);
            self.roster.remove(seat);
        }
        self.roster.remove_spec(key);
        self.standbys.forget_spec(key);
        if let Some(spec) = self.specs.remove(&key) {
            self.order.retain(|known| *known != key);
            self.by_name.remove(&spec.config.name);
            self.actions.push_back(Action::SpecGone { spec: spec.config.name });
        }
    }

    /// One of a spec's workers that live.
    pub(super) fn one_of(&self, key: SpecKey) -> Option<WorkerId> {
        self.roster
            .seats_of(key)
            .find_map(|(_, seat)| seat.content().workers().next())
            .or_else(|| self.standbys.of(key).next().map(|standby| standby.worker))
            .map(|worker| worker.id)
    }

    /// Is nobody of it to come?
    pub(super) fn is_down(&self, key: SpecKey) -> bool {
        self.roster
            .seats_of(key)
            .all(|(_, seat)| matches!(seat.state(), SeatState::Failed | SeatState::Stopped))
    }

    /// A spec has restarted too often: all its slots are given up.
    pub(super) fn fail_spec(&mut self, key: SpecKey) {
        for seat in self.roster.keys_of(key).into_iter().rev() {
            self.stop_slot(seat, Purpose::Fail, None);
        }
    }

    /// A temporary worker is not kept when it has ended (OTP's rule), so neither is a temporary spec of which nobody is
    /// left: its name is free, and what was given for it takes no memory.
    pub(super) fn forget_temporaries(&mut self) {
        let is_running = self.course == Course::Running;
        for key in std::mem::take(&mut self.ended) {
            let is_over = is_running
                && self.is_ended(key)
                && self
                    .specs
                    .get(&key)
                    .is_some_and(|spec| spec.config.restart == RestartType::Temporary && !spec.is_own);
            if is_over {
                self.was_emptied |= self.specs[&key].is_open;
                self.remove_spec(key);
            }
        }
    }

    /// Is every slot stopped, with nobody in it? Of a spec without slots nothing has ended.
    fn is_ended(&self, key: SpecKey) -> bool {
        let is_awaited = self.stops.iter().any(|stop| stop.spec == key);
        let mut seats = self.roster.seats_of(key).peekable();
        !is_awaited
            && self.standbys.of(key).next().is_none()
            && seats.peek().is_some()
            && seats.all(|(_, seat)| seat.state() == SeatState::Stopped && seat.beside().is_none())
    }

    pub(super) fn answer_spec(&mut self, request: RequestId, result: Result<(), SpecRefused>) {
        self.actions.push_back(Action::SpecAnswered { request, result });
    }
}
