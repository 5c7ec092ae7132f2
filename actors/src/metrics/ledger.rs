//! What the cluster itself counts: events, exits, restarts, requests, by slot and for ever. No clock, no cluster.
//!
//! A worker's numbers begin at 0 with each process. The highest ones it told are kept while it lives; when it is gone they
//! go into its slot's base, so a sum never goes backwards, whoever dies.

use std::collections::BTreeMap;

use actix_cluster::{
    EventKind, Exit, ExitReason, RecycleReason, ReloadError, ReloadFailure, Slot, SubscriberLoss, WorkerId, WorkerStats,
};

use super::series::{Labels, Value};
use super::text::{Family, slot_labels};

/// Everything counted so far.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    slots: BTreeMap<Slot, Account>,
    living: BTreeMap<WorkerId, Living>,
    events: BTreeMap<&'static str, u64>,
    reloads: BTreeMap<&'static str, u64>,
    subscribers_lost: BTreeMap<&'static str, u64>,
    missed: u64,
}

/// What was done in one slot.
#[derive(Debug, Default)]
struct Account {
    /// By processes that are gone.
    base: Work,
    cut: u64,
    exits: BTreeMap<&'static str, u64>,
    restarts: BTreeMap<&'static str, u64>,
    recycled: BTreeMap<&'static str, u64>,
    /// How its last process ended: the cause of the restart that follows.
    last: Option<&'static str>,
}

/// A process that has not ended.
#[derive(Debug)]
struct Living {
    slot: Slot,
    /// The highest numbers that it told.
    told: Work,
    /// What of them belongs to where it stood by, and is in that account's base.
    before: Work,
}

#[derive(Clone, Copy, Debug, Default)]
struct Work {
    requests: u64,
    errors: u64,
    active: u64,
}

impl Living {
    /// What it did in the slot that it has.
    const fn work(&self) -> Work {
        Work {
            requests: self.told.requests.saturating_sub(self.before.requests),
            errors: self.told.errors.saturating_sub(self.before.errors),
            active: self.told.active,
        }
    }
}

impl Account {
    const fn book(&mut self, work: Work) {
        self.base.requests = self.base.requests.saturating_add(work.requests);
        self.base.errors = self.base.errors.saturating_add(work.errors);
    }
}

impl Ledger {
    /// An event happened, whatever it tells besides.
    pub(super) fn happened(&mut self, kind: &EventKind) {
        raise(&mut self.events, kind.name(), 1);
        match kind {
            EventKind::RestartScheduled { slot, .. } => {
                let account = self.account(slot);
                let cause = account.last.unwrap_or("unknown");
                raise(&mut account.restarts, cause, 1);
            }
            EventKind::ReloadFinished { result, .. } => raise(&mut self.reloads, outcome(result), 1),
            EventKind::SubscriberLost { why, .. } => raise(&mut self.subscribers_lost, loss(*why), 1),
            EventKind::Lagged { from, to } => self.missed += to.saturating_sub(*from) + 1,
            _ => {}
        }
    }

    /// A worker said something to user code, or to us.
    pub(super) fn spoke(&mut self) {
        raise(&mut self.events, "message", 1);
    }

    /// A worker is to be replaced on purpose.
    pub(super) fn recycling(&mut self, slot: &Slot, why: &RecycleReason) {
        let why = match why {
            RecycleReason::Age => "age",
            RecycleReason::Requests => "requests",
            RecycleReason::Memory => "memory",
            RecycleReason::Asked(_) => "asked",
            _ => "other",
        };
        raise(&mut self.account(slot).recycled, why, 1);
    }

    /// A worker's own numbers, as they are known now. One that tells less than before is not believed. Who stood by and has
    /// a slot now leaves behind what it told before, so that neither account ever falls.
    pub(super) fn told(&mut self, id: WorkerId, slot: &Slot, stats: WorkerStats) {
        let slot = self.place(slot);
        self.slots.entry(slot.clone()).or_default();
        let living = self.living.entry(id).or_insert_with(|| Living {
            slot: slot.clone(),
            told: Work::default(),
            before: Work::default(),
        });
        let promoted = (living.slot != slot).then(|| {
            let done = living.work();
            living.before = living.told;
            (std::mem::replace(&mut living.slot, slot), done)
        });
        living.told.requests = living.told.requests.max(stats.requests);
        living.told.errors = living.told.errors.max(stats.errors);
        living.told.active = stats.active;
        if let Some((left, done)) = promoted {
            self.account(&left).book(done);
        }
    }

    /// A worker's process is gone.
    pub(super) fn ended(&mut self, id: WorkerId, slot: &Slot, exit: &Exit) {
        if let Some(living) = self.living.remove(&id) {
            self.account(&living.slot).book(living.work());
        }
        let account = self.account(slot);
        account.cut = account.cut.saturating_add(exit.requests_cut);
        let reason = reason(&exit.reason);
        account.last = Some(reason);
        raise(&mut account.exits, reason, 1);
    }

    fn account(&mut self, slot: &Slot) -> &mut Account {
        let place = self.place(slot);
        self.slots.entry(place).or_default()
    }

    /// Where a slot is counted. Specs of ever other names, added and deleted: what is beyond the limit is told as one.
    fn place(&self, slot: &Slot) -> Slot {
        if !self.slots.contains_key(slot) && self.slots.len() >= SLOTS_MAX {
            return Slot::new("other", 0);
        }
        slot.clone()
    }

    /// All of it.
    pub(super) fn families(&self) -> Vec<Family> {
        let mut families = self.work();
        let by_slot = |name, help, label, of: fn(&Account) -> &BTreeMap<&'static str, u64>| {
            let mut family = Family::counter(name, help);
            for (slot, account) in &self.slots {
                for (value, count) in of(account) {
                    let mut labels = slot_labels(slot);
                    labels.insert(String::from(label), String::from(*value));
                    family.push(labels, Value::Counter(*count));
                }
            }
            family
        };
        families.extend([
            by_slot("actix_cluster_exits", "Ends of workers, by reason", "reason", |it| {
                &it.exits
            }),
            by_slot(
                "actix_cluster_restarts",
                "Restarts that were scheduled, by how the worker before ended",
                "cause",
                |it| &it.restarts,
            ),
            by_slot("actix_cluster_recycles", "Workers replaced on purpose", "cause", |it| {
                &it.recycled
            }),
            by_label(
                "actix_cluster_events",
                "Events, by kind; printed lines are not counted",
                "kind",
                &self.events,
            ),
            by_label(
                "actix_cluster_reloads",
                "Reloads that ended, by result",
                "result",
                &self.reloads,
            ),
            by_label(
                "actix_cluster_subscribers_lost",
                "Subscribers that are gone without having been asked to go",
                "why",
                &self.subscribers_lost,
            ),
            Family::counter(
                "actix_cluster_metrics_events_missed",
                "Events that these metrics were too slow for, at most",
            )
            .row(Labels::new(), Value::Counter(self.missed)),
        ]);
        families
    }

    /// What workers told of their work.
    fn work(&self) -> Vec<Family> {
        let mut sums: BTreeMap<&Slot, (Work, u64)> = self
            .slots
            .iter()
            .map(|(slot, account)| (slot, (account.base, account.cut)))
            .collect();
        for living in self.living.values() {
            let work = living.work();
            let (sum, _) = sums.entry(&living.slot).or_default();
            sum.requests = sum.requests.saturating_add(work.requests);
            sum.errors = sum.errors.saturating_add(work.errors);
            sum.active = sum.active.saturating_add(work.active);
        }
        let mut requests = Family::counter("actix_cluster_requests", "Requests begun, as workers told");
        let mut errors = Family::counter("actix_cluster_errors", "Errors, as workers told");
        let mut cut = Family::counter(
            "actix_cluster_requests_cut",
            "Requests in progress in workers that had to be ended",
        );
        let mut active = Family::gauge("actix_cluster_active_requests", "Requests in progress, as workers told");
        for (slot, (work, lost)) in sums {
            requests.push(slot_labels(slot), Value::Counter(work.requests));
            errors.push(slot_labels(slot), Value::Counter(work.errors));
            cut.push(slot_labels(slot), Value::Counter(lost));
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a floating-point number")]
            active.push(slot_labels(slot), Value::Gauge(work.active as f64));
        }
        vec![requests, errors, cut, active]
    }
}

fn by_label(name: &str, help: &str, label: &str, counts: &BTreeMap<&'static str, u64>) -> Family {
    counts
        .iter()
        .fold(Family::counter(name, help), |family, (value, count)| {
            family.row(super::text::labels([(label, value)]), Value::Counter(*count))
        })
}

fn raise(counts: &mut BTreeMap<&'static str, u64>, what: &'static str, by: u64) {
    *counts.entry(what).or_default() += by;
}

const fn reason(reason: &ExitReason) -> &'static str {
    match reason {
        ExitReason::Ordered => "ordered",
        ExitReason::Voluntary => "voluntary",
        ExitReason::Crash => "crash",
        ExitReason::BootTimeout => "boot_timeout",
        ExitReason::Protocol(_) => "protocol",
        ExitReason::ChannelClosed => "channel_closed",
        ExitReason::Hang(_) => "hang",
        ExitReason::Memory(_) => "memory",
        ExitReason::Oom => "oom",
        ExitReason::Killed => "killed",
        ExitReason::SpawnFailed(_) => "spawn_failed",
        _ => "other",
    }
}

fn outcome(result: &Result<(), ReloadError>) -> &'static str {
    let Err(error) = result else { return "ok" };
    match error.reason {
        ReloadFailure::Busy => "busy",
        ReloadFailure::ShuttingDown => "shutting_down",
        ReloadFailure::Overtaken => "overtaken",
        ReloadFailure::UnknownSpec(_) => "unknown_spec",
        ReloadFailure::NoRoom => "no_room",
        ReloadFailure::Exited(_) => "exited",
        ReloadFailure::NotReadyInTime => "not_ready_in_time",
        ReloadFailure::Canary(_) => "canary",
        _ => "other",
    }
}

const fn loss(why: SubscriberLoss) -> &'static str {
    match why {
        SubscriberLoss::NotStarted => "not_started",
        SubscriberLoss::Broken { .. } => "broken",
        SubscriberLoss::Stopped => "stopped",
        _ => "other",
    }
}

/// Slots that are kept.
const SLOTS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use actix_cluster::{ExitStatus, Signal, SpawnFailure, SpawnStep};

    use super::*;

    fn killed() -> Exit {
        Exit {
            status: ExitStatus::Signal {
                signal: Signal::KILL,
                core: false,
            },
            reason: ExitReason::Crash,
            forced: false,
            requests_cut: 2,
            was_ready: true,
            drain: None,
            last_words: None,
        }
    }

    fn stats(requests: u64, active: u64) -> WorkerStats {
        let mut stats = WorkerStats::default();
        stats.requests = requests;
        stats.active = active;
        stats
    }

    fn line(ledger: &Ledger, begin: &str) -> Option<u64> {
        let text = super::super::text::exposition(ledger.families());
        let line = text.lines().find(|line| line.starts_with(begin))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn what_the_dead_did_stays_and_what_the_living_do_is_added() {
        let slot = Slot::new("web", 0);
        let mut ledger = Ledger::default();
        ledger.told(WorkerId::new(1), &slot, stats(10, 2));
        ledger.ended(WorkerId::new(1), &slot, &killed());
        let restart = EventKind::RestartScheduled {
            slot: slot.clone(),
            delay: Duration::ZERO,
            attempt: 1,
        };
        ledger.happened(&restart);
        ledger.told(WorkerId::new(2), &slot, stats(3, 0));
        let own = "{slot=\"0\",spec=\"web\"}";
        assert_eq!(line(&ledger, &format!("actix_cluster_requests_total{own}")), Some(13));
        assert_eq!(
            line(&ledger, &format!("actix_cluster_requests_cut_total{own}")),
            Some(2)
        );
        assert_eq!(line(&ledger, "actix_cluster_exits_total{reason=\"crash\""), Some(1));
        assert_eq!(line(&ledger, "actix_cluster_restarts_total{cause=\"crash\""), Some(1));
        assert_eq!(
            line(&ledger, "actix_cluster_events_total{kind=\"restart_scheduled\"}"),
            Some(1)
        );
    }

    #[test]
    fn a_promoted_worker_takes_nothing_away_from_where_it_stood_by() {
        let (mut ledger, slot) = (Ledger::default(), Slot::new("web", 0));
        let requests = |ledger: &Ledger, slot: &str| {
            line(
                ledger,
                &format!("actix_cluster_requests_total{{slot=\"{slot}\",spec=\"web\"}}"),
            )
        };
        ledger.told(WorkerId::new(1), &Slot::standby("web"), stats(2, 0));
        ledger.told(WorkerId::new(1), &slot, stats(2, 0));
        assert_eq!(
            (requests(&ledger, "standby"), requests(&ledger, "0")),
            (Some(2), Some(0))
        );
        ledger.told(WorkerId::new(1), &slot, stats(9, 4));
        assert_eq!(
            (requests(&ledger, "standby"), requests(&ledger, "0")),
            (Some(2), Some(7))
        );
        let active = "actix_cluster_active_requests{slot=\"0\",spec=\"web\"}";
        assert!(super::super::text::exposition(ledger.families()).contains(&format!("{active} 4.0\n")));
        ledger.ended(WorkerId::new(1), &slot, &killed());
        assert_eq!(
            (requests(&ledger, "standby"), requests(&ledger, "0")),
            (Some(2), Some(7))
        );
    }

    #[test]
    fn beyond_the_slots_that_are_kept_counters_stay_where_they_are() {
        let mut ledger = Ledger::default();
        for index in 0..u32::try_from(SLOTS_MAX).unwrap() {
            ledger.told(
                WorkerId::new(u64::from(index) + 1),
                &Slot::new("web", index),
                stats(0, 0),
            );
        }
        let (id, slot) = (WorkerId::new(1_000_000), Slot::new("late", 7));
        let told = |ledger: &Ledger| {
            let other = "actix_cluster_requests_total{slot=\"0\",spec=\"other\"}";
            (
                line(ledger, other),
                line(ledger, "actix_cluster_requests_total{slot=\"7\",spec=\"late\"}"),
            )
        };
        ledger.told(id, &slot, stats(3, 0));
        let before = told(&ledger);
        ledger.ended(id, &slot, &killed());
        assert_eq!((before, told(&ledger)), ((Some(3), None), (Some(3), None)));
    }

    /// The core's enum may grow, so the compiler does not ask; this is every reason there is.
    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let text = String::new;
        let refused = SpawnFailure {
            step: SpawnStep::Exec,
            errno: None,
            detail: text(),
        };
        let reasons = [
            ExitReason::Ordered,
            ExitReason::Voluntary,
            ExitReason::Crash,
            ExitReason::BootTimeout,
            ExitReason::Protocol(text()),
            ExitReason::ChannelClosed,
            ExitReason::Hang(text()),
            ExitReason::Memory(text()),
            ExitReason::Oom,
            ExitReason::Killed,
            ExitReason::SpawnFailed(refused),
        ];
        let names: BTreeSet<&str> = reasons.iter().map(reason).collect();
        assert_eq!(
            (names.len(), names.contains("other")),
            (reasons.len(), false),
            "{names:?}"
        );
    }

    /// Whatever is told, in which order it ends, and however it lies: requests never go backwards.
    #[test]
    fn requests_never_go_backwards() {
        for seed in 1..=200_u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut any = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let (mut ledger, slot) = (Ledger::default(), Slot::new("web", 0));
            let (mut first, mut next, mut before) = (1, 2, 0);
            for _ in 0..200 {
                match any(5) {
                    0 => next += 1,
                    1 if first < next => {
                        ledger.ended(WorkerId::new(first), &slot, &killed());
                        first += 1;
                    }
                    _ if first < next => {
                        let huge = any(20) == 0;
                        let told = if huge { u64::MAX } else { any(1_000) };
                        ledger.told(WorkerId::new(first + any(next - first)), &slot, stats(told, 0));
                    }
                    _ => {}
                }
                let now = line(&ledger, "actix_cluster_requests_total").unwrap_or_default();
                assert!(now >= before, "seed {seed}: {before} and then {now}");
                before = now;
            }
        }
    }
}
