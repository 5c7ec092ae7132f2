//! The judge of the simulated world: reads what goes into the machines and what comes out, and knows nothing of how they
//! decide. Whoever breaks an invariant panics with its name.
//!
//! | invariant | where it is checked |
//! |---|---|
//! | I-01 live ≤ target + surge + unkillable | `judge_slots`: at each spawn and after each turn |
//! | I-02 each fork has exactly one exit | [`Judge::fact`], [`Judge::balanced`]; of a process: `judge_process` |
//! | I-03 order of a worker's life; every fact is told once, and only facts are | [`Judge::told`], [`Judge::fact`] |
//! | I-04 ids grow; one non-stopping worker in a slot, two only while it is replaced | `judge_slots::spawned` |
//! | I-08 what the machine keeps = who lives, who waits | `judge_slots::view_changed`, `records_are_bounded` |
//! | I-09 no order for the dead | `judge_slots::stopped`, `judge_process::ordered` |
//! | I-10 `SIGKILL` when it is due, not before, not later, once; the policy of the spec | `judge_process`, `judge_slots::stopped` |
//! | I-11 nothing begins in a shutdown, and none begins by itself | [`Judge::begins`], `judge_restarts::may_shut_down` |
//! | I-12 a shutdown stops everybody, within the sum of its limits | `judge_slots::shutdown_goes_on`, `judge_slots::finished` |
//! | I-13 limits of slot, spec, cluster: never above, given up exactly when full | `judge_restarts` |
//! | I-14 delay within its jitter, kept, reset only by a stable run | `judge_restarts`, `judge_slots::spawned` |
//! | I-15 one verdict for each end that deserves one, none for others; nobody is stopped for nothing | `judge_restarts`, `judge_slots::stopped` |
//! | I-18 every input in every state | `totality.rs` |
//! | I-19 after a reload one generation; as many slots as before; two generations at most | `judge_reload` |
//! | I-20 enough are ready in a reload; the old one goes after the new one is ready and proven | `judge_reload` |
//! | I-21 one answer for each request, one reload at a time | [`Judge::answer`], `judge_reload` |
//! | I-27 what can be read is as new as what is told | [`Judge::see`], `judge_process::said` |
//! | I-30 at most `max_booting` boot | `judge_slots::room_is_kept` |
//! | I-35 twice is once | `judge_slots::stopped`, `judge_process::ordered`, [`Judge::after_turn`], [`Judge::notice`] |
//! | I-37, I-38 convergence and answers in bounded time | `history::comes_to_rest`, with [`Judge::settle_limit`] |
//! | I-40 who stands by serves nobody; only who can is promoted, and whoever can is; F-183 | `judge_standby` |
//! | I-41 recycling within its room, successor first | `judge_slots`, `judge_reload::may_be_relieved` |
//! | I-42 the same seed, the same trace; I-16, I-17 what a clock and a pause may change | `metamorphic` |
//! | I-45 no timer that is due again at once | `world::pass_time` |
//! | O-057 a significant end | `judge_restarts::verdicts_given` |
//! | O-012 a start by hand is answered when all are ready; if it fails nobody stays | `judge_specs` |
//! | O-074 a spec is in the list from when it is taken until it is gone, and goes only for a reason | `judge_specs` |
//! | O-032, O-040, O-085 groups and the order of stops | `judge_restarts`, `judge_slots::stopped` |
//!
//! Not here, because the simulated world has no such thing: descriptors, memory, zombies and bytes (I-05, I-06, I-07, I-28 to
//! I-33, I-36, I-43, I-44), connections (I-22 to I-24), subscribers (I-25, I-26); there is no upgrade (I-34), no autoscaler
//! (I-39).
//!
//! Known to be looser than the machine: a reload that turns back may have twice `max_unavailable` missing, because what it had
//! stopped in place comes back beside the way back (I-20); after a request, a group or an end for good in a reload, ready
//! ones and slots are not counted (I-19, I-20); whose end had no visible order but was unkillable before has any verdict
//! or none (I-15).

use std::collections::{BTreeMap, BTreeSet};

use super::judge_process::Life;
use super::judge_reload::Reload;
use super::judge_restarts::{AskedFor, DownGroup, Place};
pub(super) use super::seen::{Seen, Turn};
use super::*;
use crate::model::{EventKind, GaveUp, Generation, SlotSnapshot, SpecName, WorkerError};

#[derive(Debug)]
pub(super) struct Judge {
    pub(super) config: SupervisionConfig,
    pub(super) specs: BTreeMap<SpecName, SpecConfig>,
    /// In start order.
    pub(super) order: Vec<SpecName>,
    pub(super) workers: BTreeMap<WorkerId, Seen>,
    /// Who has a process, or is about to.
    pub(super) alive: BTreeSet<WorkerId>,
    /// The same without a slot.
    pub(super) standing: BTreeSet<WorkerId>,
    /// Slots that were forked, as long as they are kept.
    pub(super) forked: BTreeSet<Slot>,
    pub(super) lives: BTreeMap<WorkerId, Life>,
    /// What a handle could read after the last turn.
    pub(super) view: BTreeMap<Slot, SlotSnapshot>,
    pub(super) names: BTreeMap<u64, Slot>,
    pub(super) places: BTreeMap<Slot, Place>,
    pub(super) cluster_restarts: Vec<Mono>,
    pub(super) spec_restarts: BTreeMap<SpecName, Vec<Mono>>,
    pub(super) group: Option<DownGroup>,
    pub(super) reload: Option<Reload>,
    /// What each spec runs, and what a new one would.
    pub(super) generations: BTreeMap<SpecName, Generation>,
    pub(super) newest: Generation,
    pub(super) gone: BTreeSet<Generation>,
    /// The builder's own spec, as long as it is in the list.
    pub(super) own: Option<SpecName>,
    /// The longest grace that a spec ever had.
    pub(super) longest: BTreeMap<SpecName, Duration>,
    /// When the master did not run.
    pub(super) pauses: Vec<(Mono, Mono)>,
    /// Starts by hand that failed and are not answered yet: the spec, and did it come with the start?
    pub(super) failed_starts: Vec<(SpecName, bool)>,
    pub(super) turn: Turn,
    pub(super) open: BTreeMap<RequestId, Input>,
    /// Is an immediate shutdown wanted?
    pub(super) at_once: bool,
    pub(super) shutdown_at: Option<Mono>,
    pub(super) gave_up: Option<GaveUp>,
    pub(super) ready_before: usize,
    /// Workers that stopped serving without an order, and successors that failed.
    pub(super) lost: usize,
    pub(super) last_id: WorkerId,
    pub(super) finished: Option<Outcome>,
    /// What was told, if somebody wants to know.
    pub(super) diary: Option<Vec<history::Told>>,
}

impl Judge {
    pub(super) fn new(config: SupervisionConfig) -> Self {
        let named = |spec: &SpecConfig| (spec.name.clone(), spec.clone());
        let longest = |spec: &SpecConfig| (spec.name.clone(), spec.shutdown.longest());
        Self {
            own: config.specs.first().map(|spec| spec.name.clone()),
            longest: config.specs.iter().map(longest).collect(),
            pauses: Vec::new(),
            failed_starts: Vec::new(),
            specs: config.specs.iter().map(named).collect(),
            order: config.specs.iter().map(|spec| spec.name.clone()).collect(),
            config,
            workers: BTreeMap::new(),
            alive: BTreeSet::new(),
            standing: BTreeSet::new(),
            forked: BTreeSet::new(),
            lives: BTreeMap::new(),
            view: BTreeMap::new(),
            names: BTreeMap::new(),
            places: BTreeMap::new(),
            cluster_restarts: Vec::new(),
            spec_restarts: BTreeMap::new(),
            group: None,
            reload: None,
            generations: BTreeMap::new(),
            newest: Generation(0),
            gone: BTreeSet::new(),
            turn: Turn::default(),
            open: BTreeMap::new(),
            at_once: false,
            shutdown_at: None,
            gave_up: None,
            ready_before: 0,
            lost: 0,
            last_id: WorkerId::new(0),
            finished: None,
            diary: None,
        }
    }

    /// What a spec of this name is like.
    pub(super) fn config_of(&self, spec: &SpecName) -> &SpecConfig {
        self.specs.get(spec).unwrap_or(&self.config.specs[0])
    }

    /// A turn begins: time passed (no input), or something happened.
    pub(super) fn told(&mut self, input: Option<&Input>, now: Mono) {
        self.diary
            .iter_mut()
            .for_each(|diary| diary.push((now, input.cloned())));
        self.turn = Turn {
            input: input.cloned(),
            had_reload: self.reload.is_some(),
            lost_before: self.lost,
            ..Turn::default()
        };
        let Some(input) = input else { return };
        if let Some(request) = meddle::request_of(input) {
            self.open.insert(request, input.clone());
        }
        match input {
            Input::ShutdownRequested { now } => self.at_once |= *now && self.finished.is_none(),
            Input::CanaryJudged { request, good, .. } => self.canary_judged(*request, *good),
            Input::RecycleRequested { id, .. } => self.why(*id, |why| why.is_asked = true),
            Input::WorkerServed { id, requests } => self.why(*id, |why| why.requests = why.requests.max(*requests)),
            _ => {}
        }
        if let Some(reload) = self.reload.as_mut().filter(|_| self.turn.is_request()) {
            reload.is_disturbed = true;
        }
        self.turn.expected = self.expected(input);
    }

    /// What a fact about somebody who lives must become.
    fn expected(&self, input: &Input) -> Option<(WorkerId, &'static str)> {
        let (id, step) = match input {
            Input::WorkerForked { id } => (id, "fork"),
            Input::WorkerOnline { id } => (id, "online"),
            Input::WorkerStandsBy { id } => (id, "standby"),
            Input::WorkerListening { id, .. } => (id, "listening"),
            Input::WorkerReady { id } => (id, "ready"),
            Input::WorkerExiting { id } => (id, "exiting"),
            Input::WorkerDisconnected { id } => (id, "disconnect"),
            Input::WorkerFailed { id, .. } => (id, "error"),
            Input::WorkerExited { id, .. } => (id, "exit"),
            _ => return None,
        };
        let is_forked = self.workers.get(id).is_some_and(|seen| seen.has("fork"));
        let (is_born, is_end) = (step == "fork", step == "exit");
        match (is_born, is_end, is_forked) {
            _ if !self.is_there(*id) || self.finished.is_some() => None,
            // Without a slot there is nothing to listen on, nor to be ready for; with one, nobody stands by.
            _ if self.standing.contains(id) == matches!(step, "listening" | "ready")
                && matches!(step, "listening" | "ready" | "standby") =>
            {
                None
            }
            _ if step == "standby" && (self.seen(*id).has("standby") || self.seen(*id).is_ending()) => None,
            _ if step == "standby" && !self.seen(*id).is_wanted() => None,
            (true, _, true) | (false, false, false) => None,
            (false, true, false) => Some((*id, "error")),
            (true, _, false) | (false, _, true) => Some((*id, step)),
        }
    }

    pub(super) fn see(&mut self, action: &Action, machine: &Supervision, now: Mono) {
        if let Some((id, "exit")) = self.turn.expected {
            let is_it = matches!(action, Action::Publish { worker: Some(about), .. } if *about == id);
            assert!(is_it, "I-02: {action:?} before the exit of worker {id} is told");
        }
        match action {
            Action::Spawn {
                id, slot, generation, ..
            } => self.spawned(*id, slot, *generation, now),
            Action::SpawnStandby { id, spec, generation } => {
                self.standby_spawned(*id, (spec, *generation), machine, now)
            }
            Action::Promote { id, slot, .. } => self.promoted(*id, slot, now),
            Action::Stop { id, policy } => self.stopped(*id, *policy, now),
            Action::Publish { worker: Some(id), kind } => self.fact(*id, kind, now),
            Action::Publish { worker: None, kind } => self.notice(kind, machine, now),
            Action::SlotAdded { slot, .. } => {
                self.begins("a slot");
                self.forked.insert(slot.clone());
                self.places.entry(slot.clone()).or_default().asked = Some(AskedFor::Process);
            }
            Action::CanaryVerdict { request, .. } => self.verdict_asked(*request),
            Action::GenerationAdded { request, generation } => self.announced(*request, *generation, machine),
            Action::GenerationGone { generation } => {
                let used = self.order.iter().find(|spec| self.generation_of(spec) == *generation);
                same!(used, None, "I-19: {generation} is gone, and a spec runs it");
                self.gone.insert(*generation);
            }
            Action::SpecAnswered { request, result } => {
                let input = self.answer(*request);
                self.spec_answered(*request, &input, result);
            }
            Action::SpecsTaken { request } => self.specs_taken(*request),
            Action::SpecGone { spec } => self.spec_gone(spec),
            Action::Scaled { request, result } => {
                let input = self.answer(*request);
                if let (Ok(scaled), Input::ScaleRequested { spec, target, .. }) = (result, input) {
                    let wanted = match target {
                        ScaleTarget::To(count) => count,
                        ScaleTarget::By(more) => i64::from(scaled.from) + more,
                    };
                    same!(
                        i64::from(scaled.to),
                        wanted.max(0),
                        "I-35: {spec} was scaled to another number"
                    );
                    self.turn.scaled = Some((spec, scaled.to));
                }
            }
            Action::Forked { request, .. } => drop(self.answer(*request)),
            Action::ReloadFinished { request, result } => {
                drop(self.answer(*request));
                self.reload_answered(*request, result);
            }
            Action::SlotGone { slot } => {
                let occupants = self.occupants(slot);
                same!(occupants, Vec::new(), "I-27: {slot} is gone with a worker in it");
            }
            Action::Finished(outcome) => self.finished(outcome),
        }
    }

    /// I-11: in a shutdown nothing begins.
    pub(super) fn begins(&self, what: &str) {
        assert!(self.shutdown_at.is_none(), "I-11: {what} in a shutdown");
        assert!(self.finished.is_none(), "I-11: {what} after the end");
    }

    /// I-21: one answer for each request.
    fn answer(&mut self, request: RequestId) -> Input {
        let input = self.open.remove(&request);
        input.unwrap_or_else(|| panic!("I-21: {request:?} is answered, and nobody waits for that"))
    }

    pub(super) fn waits_for(&self, request: RequestId) -> Option<&Input> {
        self.open.get(&request)
    }

    /// Who waits for an answer.
    pub(super) fn unanswered(&self) -> Vec<RequestId> {
        self.open.keys().copied().collect()
    }

    /// I-02 and I-03: what a worker goes through is told in order, and only what happened is told.
    fn fact(&mut self, id: WorkerId, kind: &EventKind, now: Mono) {
        let name = kind.name();
        let stands_by = self.standing.contains(&id);
        match kind {
            // Nobody is replaced by it but one who serves nobody.
            EventKind::Recycling(_) if stands_by => return,
            EventKind::Recycling(why) => return self.recycling(id, why, now),
            EventKind::Promoted => return self.promotion_told(id),
            _ => {}
        }
        let seen = self.workers.get_mut(&id).expect("I-03: an event is about a worker");
        let steps = &seen.steps;
        let has = |step: &str| steps.contains(&step);
        let legal = !has("exit")
            && match kind {
                EventKind::Fork => steps.is_empty(),
                EventKind::Online => has("fork") && !has("online") && !has("exiting") && !has("disconnect"),
                EventKind::Standby => stands_by && has("online") && !has("standby"),
                EventKind::Listening(_) => !stands_by && has("online") && !has("exiting") && !has("disconnect"),
                // Ready at birth is one of the rules, so it may come before online.
                EventKind::Ready => !stands_by && has("fork") && !has("ready") && !has("exiting") && !has("disconnect"),
                EventKind::Exiting => has("fork") && !has("exiting") && !has("disconnect"),
                EventKind::Disconnect => has("fork") && !has("disconnect"),
                EventKind::Exit(_) => has("disconnect"),
                EventKind::Error(WorkerError::Spawn(_)) => steps.is_empty(),
                EventKind::Error(_) => has("fork"),
                other => panic!("I-03: {} is about no worker", other.name()),
            };
        assert!(legal, "I-03: worker {id}: {name} after {steps:?}");
        let expected = self.turn.expected.take();
        same!(expected, Some((id, name)), "I-03: what is told did not happen");
        let was_lost = seen.is_ending() || seen.is_unkillable;
        seen.steps.push(name);
        seen.is_unkillable |= matches!(kind, EventKind::Error(WorkerError::Unkillable));
        let ends = seen.is_ending() || seen.is_unkillable || matches!(kind, EventKind::Exit(_));
        if stands_by {
            if matches!(kind, EventKind::Exit(_) | EventKind::Error(WorkerError::Spawn(_))) {
                seen.steps.push("exit");
                self.standby_ended(id);
            }
            return;
        }
        if ends && !was_lost && seen.stops.is_empty() {
            self.lost += 1;
        }
        match kind {
            EventKind::Fork => {
                let place = self.places.entry(seen.slot.clone()).or_default();
                let is_second = self.view.get(&seen.slot).is_some_and(|slot| slot.beside == Some(id));
                if !is_second && place.asked == Some(AskedFor::Process) {
                    place.asked = None;
                }
            }
            EventKind::Ready => {
                seen.ready_at = Some(now);
                let spec = &self.specs[&seen.slot.spec];
                let why = &mut seen.why;
                (why.max_age, why.max_requests, why.again) = (spec.max_age, spec.max_requests, None);
                why.is_aging = spec.max_age.is_some();
                // One that was told to stop before is not what was waited for.
                if seen.is_wanted() && !seen.is_ending() {
                    self.has_come(id);
                }
            }
            EventKind::Error(WorkerError::Unkillable) => self.has_come(id),
            EventKind::Exit(_) => self.ended(id, now),
            EventKind::Error(WorkerError::Spawn(_)) => {
                seen.steps.push("exit");
                self.lost += 1;
                self.ended(id, now);
            }
            _ => {}
        }
    }

    /// What is about no worker.
    fn notice(&mut self, kind: &EventKind, machine: &Supervision, now: Mono) {
        match kind {
            EventKind::RestartScheduled { slot, delay, .. } => self.restart_scheduled(slot, *delay, now),
            EventKind::GaveUp(gave_up) => self.given_up(gave_up, now),
            EventKind::ReloadStarted { generation, spec } => self.reload_started(*generation, spec.as_ref()),
            EventKind::ReloadFinished { generation, result } => self.reload_finished(*generation, result, machine),
            EventKind::Scaled { from, to, .. } => {
                self.begins("a scaling");
                assert!(from != to, "I-35: nothing was scaled");
            }
            EventKind::ShutdownStarted => {
                assert!(self.shutdown_at.is_none(), "I-35: one shutdown");
                self.may_shut_down();
                assert!(machine.phase() != Phase::Running, "I-27: it runs on");
                self.shutdown_at = Some(now);
                self.group = None;
            }
            EventKind::AllReady { workers } => {
                self.begins("readiness");
                let real = (machine.ready(), machine.target());
                same!((*workers, *workers), real, "I-27: not all are ready");
            }
            other => panic!("I-03: {} is about a worker", other.name()),
        }
    }

    /// A turn is over: everything that it should have changed is changed.
    pub(super) fn after_turn(&mut self, machine: &mut Supervision, now: Mono) {
        let missing = self.turn.expected;
        if let Some((id, step)) = missing {
            assert!(step != "exit", "I-02: the exit of worker {id} is not told");
            panic!("I-03: {step} of worker {id} is not told");
        }
        self.verdicts_given();
        self.view_changed(machine.take_changes());
        self.slots_after_turn(machine, now);
        self.nobody_is_ageless(machine);
        self.standbys_after_turn(machine);
        self.specs_after_turn(machine);
        self.reload_after_turn(machine, now);
        if let Some((spec, to)) = &self.turn.scaled {
            let workers = machine
                .spec(spec)
                .map(|status| status.counts.workers - status.counts.declined);
            // A temporary one of which nobody is left is gone.
            let wanted = (*to > 0 || self.order.contains(spec)).then_some(*to as usize);
            same!(workers, wanted, "I-35: {spec} is scaled to what was asked");
        }
        self.ready_before = machine.ready();
        self.group_ends(now);
    }

    /// I-02: everybody who was forked has exited, but for those the outcome names.
    pub(super) fn balanced(&self, left_behind: &[WorkerId]) {
        let missing: Vec<_> = self
            .alive
            .union(&self.standing)
            .filter(|id| !left_behind.contains(id) && !self.workers[*id].steps.is_empty())
            .collect();
        assert!(missing.is_empty(), "I-02: {missing:?} never exited");
    }

    /// I-37 and I-38: how long after the last fault everybody is there and answered.
    pub(super) fn settle_limit(&self) -> Duration {
        // What began before may act for 8 s, is stopped in 8 s (one as a lame duck) and waited for 5.5 s.
        let last_fault = 22 * SECOND;
        // Each slot boots in 1.5 s, one after the other at worst; a reload does that twice if it fails, and before each
        // it may wait for a predecessor (7 s), a step (3 s), a pause and a probation.
        let standbys: u32 = self.specs.values().map(|spec| spec.standby).sum();
        let slots = u32::try_from(self.view.len()).expect("few slots") + standbys;
        let reloads = u32::from(self.reload.is_some()) + u32::from(!self.unanswered().is_empty());
        last_fault + slots * 1_500 * MS + reloads * (10 * SECOND + slots * 13 * SECOND)
    }
}
