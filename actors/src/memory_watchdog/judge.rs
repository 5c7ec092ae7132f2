//! The judgement: who uses too much memory, and what is to be done. Facts and time go in, findings come out; no clock, no
//! process, no chance but a seed.
//!
//! What keeps it from doing harm: an unknown reading moves nothing; few are on their way out at once; and whoever is over
//! its limit as soon as it is ready was made so, in which case one successor is tried and, if that is over too, the
//! limit is called too low, once, and left alone.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_cluster::{Mono, Slot, SpecName, WorkerId};

use super::config::MemoryConfig;
use super::trend::Trend;

/// Everybody under watch.
#[derive(Debug)]
pub(super) struct Judge {
    config: MemoryConfig,
    seed: u64,
    cases: BTreeMap<WorkerId, Case>,
    /// What is known of what a worker of a spec needs to begin with. One entry for each spec that was ever in doubt.
    needs: BTreeMap<SpecName, Need>,
}

/// What is known about one worker.
#[derive(Debug, Default)]
struct Case {
    /// Was it over the soft limit when it was ready? `None` before its first reading.
    born_over: Option<bool>,
    /// What was done about it, and when.
    done: Option<(Deed, Mono)>,
    trend: Trend,
    /// The forecast that was told last.
    foretold: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Recycled,
    Killed,
}

/// May a worker of this spec be over its limit from the start?
#[derive(Debug)]
enum Need {
    /// One was; its successor in this slot will tell.
    Doubted { slot: Slot, at: Mono },
    /// Its successor was, too.
    TooMuch,
}

/// The facts about one worker.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) id: WorkerId,
    pub(super) slot: Slot,
    pub(super) stage: Stage,
    /// In bytes; `None` if it cannot be told.
    pub(super) used: Option<u64>,
    pub(super) limit: Option<u64>,
}

/// Where a worker is in its life. One on its way to ready is not judged: the boot limit is there for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Ready since then.
    Serving(Mono),
    /// On its way out.
    Leaving,
}

/// What is to be told or done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Replace it: it is over its soft limit.
    Recycle { id: WorkerId, used: u64, limit: u64 },
    /// Kill it: it is over its hard limit.
    Kill { id: WorkerId, used: u64, limit: u64 },
    /// The limit is less than what a worker of its spec needs to begin with.
    LimitTooLow { id: WorkerId, used: u64, limit: u64 },
    /// It reaches its limit in this time, if it goes on.
    Forecast {
        id: WorkerId,
        used: u64,
        limit: u64,
        within: Duration,
    },
}

impl Judge {
    pub(super) const fn new(config: MemoryConfig, seed: u64) -> Self {
        Self {
            config,
            seed,
            cases: BTreeMap::new(),
            needs: BTreeMap::new(),
        }
    }

    /// Forgets everybody but these.
    pub(super) fn keep(&mut self, is_there: impl Fn(WorkerId) -> bool) {
        self.cases.retain(|id, _| is_there(*id));
    }

    /// Above how many bytes this worker is replaced; never below the soft limit.
    pub(super) fn threshold(&self, id: WorkerId, limit: u64) -> u64 {
        let soft = self.config.soft;
        let way = self.config.hard.unwrap_or(1.0).max(soft) - soft;
        (limit as f64 * (soft + way * self.config.spread * self.chance(id))) as u64
    }

    /// Looks at these workers, at all of them or at one that has just become ready.
    pub(super) fn look(&mut self, facts: &[Facts], now: Mono) -> Vec<Finding> {
        let mut findings = Vec::new();
        // Unknown is not zero, and not much either: nothing at all follows from it.
        let mut known: Vec<(&Facts, u64, u64)> = facts
            .iter()
            .filter_map(|it| Some((it, it.used?, it.limit.filter(|limit| *limit > 0)?)))
            .collect();
        // The fullest first; by id where two are as full, so that the same facts make the same findings.
        let fullness = |used: u64, limit: u64| used as f64 / limit as f64;
        known.sort_by(|(one, used, limit), (other, used_2, limit_2)| {
            let order = fullness(*used_2, *limit_2).total_cmp(&fullness(*used, *limit));
            order.then(one.id.cmp(&other.id))
        });
        let mut may_kill = true;
        for (it, used, limit) in known {
            findings.extend(self.read_first(it, used, limit, now));
            if may_kill && self.is_over_hard(it, used, limit) {
                may_kill = false;
                self.note(it.id, Deed::Killed, now);
                let id = it.id;
                findings.push(Finding::Kill { id, used, limit });
            } else if self.is_due(it, used, limit, now) {
                self.note(it.id, Deed::Recycled, now);
                let id = it.id;
                findings.push(Finding::Recycle { id, used, limit });
            } else {
                findings.extend(self.foresee(it, used, limit, now));
            }
        }
        findings
    }

    /// The first reading of a worker tells whether it was made too big, or has become so.
    fn read_first(&mut self, it: &Facts, used: u64, limit: u64, now: Mono) -> Option<Finding> {
        let Stage::Serving(since) = it.stage else { return None };
        let case = self.cases.entry(it.id).or_default();
        if case.born_over.is_some() {
            return None;
        }
        // Of one that has served for a while nobody can tell any more.
        let is_fresh = now.since(since) < self.config.period;
        let is_over = used as f64 > limit as f64 * self.config.soft;
        case.born_over = Some(is_fresh && is_over);
        let spec = &it.slot.spec;
        if !is_over {
            if is_fresh {
                self.needs.remove(spec);
            }
            return None;
        }
        let is_second = matches!(self.needs.get(spec), Some(Need::Doubted { slot, .. }) if *slot == it.slot);
        if !(is_fresh && is_second) {
            return None;
        }
        self.needs.insert(spec.clone(), Need::TooMuch);
        let id = it.id;
        Some(Finding::LimitTooLow { id, used, limit })
    }

    fn is_over_hard(&self, it: &Facts, used: u64, limit: u64) -> bool {
        let Some(hard) = self.config.hard else { return false };
        let case = self.cases.get(&it.id);
        let is_done = case.is_some_and(|case| matches!(case.done, Some((Deed::Killed, _))));
        // Killing one that was born over its limit ends in the birth of another such.
        let is_born_over = case.is_some_and(|case| case.born_over == Some(true));
        used as f64 >= limit as f64 * hard && !is_done && !is_born_over
    }

    fn is_due(&mut self, it: &Facts, used: u64, limit: u64, now: Mono) -> bool {
        if !matches!(it.stage, Stage::Serving(_)) || self.is_treated(it.id, now) {
            return false;
        }
        let Some(born_over) = self.cases.get(&it.id).and_then(|case| case.born_over) else {
            return false;
        };
        let threshold = if born_over {
            (limit as f64 * self.config.soft) as u64
        } else {
            self.threshold(it.id, limit)
        };
        if used <= threshold || self.treated(now) >= self.config.max_at_once {
            return false;
        }
        if !born_over {
            return true;
        }
        match self.needs.get(&it.slot.spec) {
            Some(Need::TooMuch) => return false,
            Some(Need::Doubted { at, .. }) if now.since(*at) < self.patience() => return false,
            Some(Need::Doubted { .. }) | None => {}
        }
        let (slot, at) = (it.slot.clone(), now);
        self.needs.insert(slot.spec.clone(), Need::Doubted { slot, at });
        true
    }

    fn foresee(&mut self, it: &Facts, used: u64, limit: u64, now: Mono) -> Option<Finding> {
        let horizon = self.config.forecast?;
        if !matches!(it.stage, Stage::Serving(_)) {
            return None;
        }
        let case = self.cases.get_mut(&it.id)?;
        case.trend.push(now, used);
        let Some(within) = case.trend.reaches(limit).filter(|within| *within <= horizon) else {
            case.foretold = None;
            return None;
        };
        // Once, and again when it is half as far away.
        if case.foretold.is_some_and(|told| within > told / 2) {
            return None;
        }
        case.foretold = Some(within);
        let id = it.id;
        Some(Finding::Forecast {
            id,
            used,
            limit,
            within,
        })
    }

    fn note(&mut self, id: WorkerId, deed: Deed, now: Mono) {
        self.cases.entry(id).or_default().done = Some((deed, now));
    }

    fn is_treated(&self, id: WorkerId, now: Mono) -> bool {
        let done = self.cases.get(&id).and_then(|case| case.done);
        done.is_some_and(|(_, at)| now.since(at) < self.patience())
    }

    /// How many were acted on and are not gone yet. One that cannot be replaced must not shield the others for ever.
    fn treated(&self, now: Mono) -> usize {
        let patience = self.patience();
        let is_treated = |case: &&Case| case.done.is_some_and(|(_, at)| now.since(at) < patience);
        self.cases.values().filter(is_treated).count()
    }

    fn patience(&self) -> Duration {
        self.config.period * PATIENCE_PERIODS
    }

    /// From 0 to 1, always the same for one worker.
    fn chance(&self, id: WorkerId) -> f64 {
        // SplitMix64's finish: neighbouring ids have nothing in common.
        let mut bits = self.seed ^ id.get().wrapping_mul(0x9E37_79B9_7F4A_7C15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// For so many periods a worker that was acted on keeps others from being acted on, and is not acted on again.
const PATIENCE_PERIODS: u32 = 12;

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
