//! How many workers there should be: facts and time in, one decision out. No clock, no process, no effect.
//!
//! ```text
//!   cannot judge (stopping, reload, change under way, failed slots)      -> hold
//!   outside min..=max                                                    -> to the nearest bound
//!   a signal without a load                                              -> hold
//!   load > add_above                                                     -> + step_up, at most max
//!   load < remove_below, all through cool_down_down, and those who stay
//!   would not be above add_above                                         -> - step_down, at least min
//! ```
//!
//! Every change is at least its direction's cool-down away from the last change, whoever made it. When in doubt it holds: a
//! number that is right a little later costs less than one that goes up and down.

use actix_cluster::{Mono, SpecName};
use serde::{Deserialize, Serialize};

use super::config::AutoscaleConfig;
use crate::signals::Reading;

/// What was decided, why, and on what grounds: the data of the event `decision` of the source `autoscaler`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScaleDecision {
    /// The spec it is about.
    pub spec: SpecName,
    /// How many workers are wanted.
    pub from: u32,
    /// How many are to be wanted.
    pub to: u32,
    /// Why.
    pub why: ScaleReason,
    /// It is told and not carried out.
    pub dry_run: bool,
    /// The highest load of all signals, if each of them had one.
    pub load: Option<f64>,
    /// The bounds.
    pub min: u32,
    /// The bounds.
    pub max: u32,
    /// How many workers were ready.
    pub ready: u32,
    /// How many slots had failed.
    pub failed: u32,
    /// What each signal said.
    pub readings: Vec<Reading>,
}

/// Why there are to be more workers, fewer, or as many as there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ScaleReason {
    /// More: the load is high.
    LoadHigh,
    /// Fewer: the load has been low for long enough.
    LoadLow,
    /// More: there are fewer than there may be.
    BelowMin,
    /// Fewer: there are more than there may be.
    AboveMax,
    /// As many: the load is in between.
    InRange,
    /// As many: the load is high, and there are as many as there may be.
    AtMax,
    /// As many: the load is low, and there are as few as there may be.
    AtMin,
    /// As many: the last change, or the last load that was not low, is too short a time ago.
    CoolDown,
    /// As many: the load is low, and with fewer workers it would be high.
    WouldReturn,
    /// As many: a signal is missing.
    Missing,
    /// As many: what workers said is too old.
    Stale,
    /// As many: what workers said is no load.
    Nonsense,
    /// As many: workers are starting, stopping or being replaced.
    Changing,
    /// As many: a reload runs.
    Reloading,
    /// As many: slots have failed, and more or other workers are no cure for that.
    SlotsFailed,
    /// As many: somebody wants no workers at all, or no such spec exists.
    NoWorkers,
    /// As many: the cluster is stopping.
    Stopping,
}

/// What the decision is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Facts {
    pub(super) now: Mono,
    /// How many workers are wanted.
    pub(super) workers: u32,
    pub(super) ready: u32,
    pub(super) failed: u32,
    /// Something else goes on that forbids a judgement: stopping, a reload, a change under way.
    pub(super) course: Option<ScaleReason>,
    pub(super) readings: Vec<Reading>,
}

/// Decides, and remembers what the next decision depends on.
#[derive(Debug)]
pub(super) struct Decider {
    config: AutoscaleConfig,
    min: u32,
    max: u32,
    /// When the number changed last, by us or by anybody.
    changed: Option<Mono>,
    /// The number that the last look saw, or asked for.
    known: Option<u32>,
    /// Since when every look has found a low load.
    low_since: Option<Mono>,
}

impl Decider {
    pub(super) fn new(config: AutoscaleConfig, processors: u32) -> Self {
        let (min, max) = config.bounds(processors);
        Self {
            config,
            min,
            max,
            changed: None,
            known: None,
            low_since: None,
        }
    }

    pub(super) fn decide(&mut self, facts: Facts) -> ScaleDecision {
        // Somebody else has changed the number: that is a change like ours.
        if self.known.is_some_and(|known| known != facts.workers) {
            self.changed = Some(facts.now);
        }
        let load = load_of(&facts.readings);
        let is_low = load.is_some_and(|load| load < self.config.remove_below);
        self.low_since = is_low.then(|| self.low_since.unwrap_or(facts.now));
        let (to, why) = self.judge(&facts, load);
        if to != facts.workers && !self.config.dry_run {
            self.changed = Some(facts.now);
        }
        self.known = Some(if self.config.dry_run { facts.workers } else { to });
        ScaleDecision {
            spec: self.config.spec.clone(),
            from: facts.workers,
            to,
            why,
            dry_run: self.config.dry_run,
            load,
            min: self.min,
            max: self.max,
            ready: facts.ready,
            failed: facts.failed,
            readings: facts.readings,
        }
    }

    /// The order that was decided on last was refused: the number is what it was.
    pub(super) fn refused(&mut self) {
        self.known = None;
    }

    fn judge(&self, facts: &Facts, load: Option<f64>) -> (u32, ScaleReason) {
        let (from, now) = (facts.workers, facts.now);
        if let Some(course) = facts.course {
            return (from, course);
        }
        if facts.failed > 0 {
            return (from, ScaleReason::SlotsFailed);
        }
        if from == 0 {
            return (from, ScaleReason::NoWorkers);
        }
        if facts.ready < from {
            return (from, ScaleReason::Changing);
        }
        let may_add = self.is_over(self.changed, now, self.config.cool_down_up);
        let may_remove = self.is_over(self.changed, now, self.config.cool_down_down);
        if from < self.min {
            return unless_cool(may_add, from, self.min, ScaleReason::BelowMin);
        }
        if from > self.max {
            return unless_cool(may_remove, from, self.max, ScaleReason::AboveMax);
        }
        let Some(load) = load else {
            return (from, why_no_load(&facts.readings));
        };
        if load > self.config.add_above {
            let to = from.saturating_add(self.config.step_up).min(self.max);
            return if to == from {
                (from, ScaleReason::AtMax)
            } else {
                unless_cool(may_add, from, to, ScaleReason::LoadHigh)
            };
        }
        if load >= self.config.remove_below {
            return (from, ScaleReason::InRange);
        }
        let to = from.saturating_sub(self.config.step_down).max(self.min);
        if to == from {
            return (from, ScaleReason::AtMin);
        }
        if load * f64::from(from) / f64::from(to) > self.config.add_above {
            return (from, ScaleReason::WouldReturn);
        }
        let was_low = self
            .low_since
            .is_some_and(|since| now.since(since) >= self.config.cool_down_down);
        unless_cool(may_remove && was_low, from, to, ScaleReason::LoadLow)
    }

    fn is_over(&self, since: Option<Mono>, now: Mono, time: std::time::Duration) -> bool {
        since.is_none_or(|since| now.since(since) >= time)
    }
}

fn unless_cool(may: bool, from: u32, to: u32, why: ScaleReason) -> (u32, ScaleReason) {
    if may { (to, why) } else { (from, ScaleReason::CoolDown) }
}

/// The highest load; none unless every signal has one.
fn load_of(readings: &[Reading]) -> Option<f64> {
    let loads: Option<Vec<f64>> = readings.iter().map(|reading| reading.load).collect();
    loads?.into_iter().reduce(f64::max)
}

fn why_no_load(readings: &[Reading]) -> ScaleReason {
    let without = || readings.iter().filter(|reading| reading.load.is_none());
    if without().any(|reading| reading.nonsense > 0) {
        return ScaleReason::Nonsense;
    }
    if without().any(|reading| reading.stale > 0) {
        return ScaleReason::Stale;
    }
    ScaleReason::Missing
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
