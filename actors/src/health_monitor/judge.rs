//! The judgement: who is unwell, and what is to be done. Facts and time go in, findings come out; no clock, no process.
//!
//! What keeps it from blaming the wrong one: only evidence counts that the master could have read (it is steady, and since
//! when is known), silence is counted from the latest of everything that excuses it, and one who never beat is not watched.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_cluster::{HealthAction, Lag, Mono, UnhealthyReason, WorkerId};

use super::config::HealthConfig;

/// Everybody under watch.
#[derive(Debug)]
pub(super) struct Ward {
    config: HealthConfig,
    cases: BTreeMap<WorkerId, Case>,
}

/// What is known about one worker.
#[derive(Debug, Default)]
struct Case {
    /// What was told of it last, if it was not well.
    told: Option<UnhealthyReason>,
    misses: u32,
    missed_at: Option<Mono>,
    /// When it was excused last.
    excused: Option<Mono>,
    /// The last beat that was seen, and how long the master's pauses had lasted before it.
    beat: Option<Mono>,
    paused_before: Duration,
    /// How long they had lasted at the last look.
    paused: Duration,
    /// When the last pause was over, and how long it was.
    pause: (Mono, Duration),
    /// What was done about it, and when.
    done: HealthAction,
    done_at: Mono,
}

/// Where a worker is in its life, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Boot(Mono),
    Serving(Mono),
    /// It has booted, and waits for a slot.
    Standby(Mono),
    Draining(Mono),
}

/// The facts about one worker.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) phase: Phase,
    pub(super) last_beat: Option<Mono>,
    /// Until when it asked to be left alone.
    pub(super) more_time_until: Option<Mono>,
    /// Until when the master did not read what it said.
    pub(super) unread_until: Option<Mono>,
    /// The loop that is most behind, as the last beat told.
    pub(super) late: Option<(String, Duration)>,
    /// It listened, and accepts on nothing any more.
    pub(super) is_deaf: bool,
    /// A debugger holds it.
    pub(super) is_traced: bool,
}

/// Why somebody looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// A beat came: what it tells can be passed on at once. Nothing is counted.
    Beat,
    /// The time for a check has come.
    Check,
}

/// What is to be told and done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// As before.
    Nothing,
    /// It was unwell and is well.
    Recovered,
    /// It is unwell.
    Unwell {
        reason: UnhealthyReason,
        lasted: Duration,
        missed: u32,
        action: HealthAction,
    },
}

/// What a look at the facts says, before it is counted.
enum Sight {
    /// A debugger holds it: its time begins anew afterwards.
    Excused,
    /// Nobody can tell: the master could not read, or has not caught up yet.
    Unread,
    Well,
    /// Worth telling, and nothing more.
    Odd(UnhealthyReason, Duration),
    /// Over its limit.
    Over(UnhealthyReason, Duration),
}

impl Ward {
    pub(super) const fn new(config: HealthConfig) -> Self {
        Self {
            config,
            cases: BTreeMap::new(),
        }
    }

    /// From now on these limits are in force.
    pub(super) fn heed(&mut self, config: HealthConfig) {
        self.config = config;
    }

    pub(super) fn forget(&mut self, id: WorkerId) {
        self.cases.remove(&id);
    }

    /// Forgets everybody but these.
    pub(super) fn keep(&mut self, is_there: impl Fn(WorkerId) -> bool) {
        self.cases.retain(|id, _| is_there(*id));
    }

    /// Is this worker known to be unwell?
    pub(super) fn unwell(&self) -> impl Iterator<Item = (WorkerId, &UnhealthyReason)> {
        let told = |(id, case): (&WorkerId, _)| Some((*id, Option::as_ref(case)?));
        self.cases.iter().map(|(id, case)| (id, &case.told)).filter_map(told)
    }

    /// Looks at one worker. Everything must have been read before `now`.
    pub(super) fn look(&mut self, id: WorkerId, facts: &Facts, lag: Lag, occasion: Occasion, now: Mono) -> Finding {
        let patience = self.config.check.saturating_mul(TREATED_CHECKS);
        let treated = self.treated(now).filter(|other| *other != id).count();
        let may_act = treated < self.config.max_at_once;
        let case = self.cases.entry(id).or_default();
        let is_as_before = !case.note_pauses(facts.last_beat, lag);
        match sight(&self.config, case, facts, lag, now) {
            Sight::Excused => {
                case.excused = Some(now);
                case.misses = 0;
                Finding::Nothing
            }
            Sight::Unread => Finding::Nothing,
            // Excused for a while, and not heard again: what was counted stays counted.
            Sight::Well if is_as_before && case.is_counted(facts.phase) => Finding::Nothing,
            Sight::Well => {
                case.misses = 0;
                // Heard again, and not only in another phase: what was done about it is over.
                if !is_as_before {
                    case.done = HealthAction::Tell;
                }
                case.told.take().map_or(Finding::Nothing, |_| Finding::Recovered)
            }
            Sight::Odd(reason, lasted) => {
                case.misses = 0;
                if case.told.as_ref() == Some(&reason) {
                    return Finding::Nothing;
                }
                case.told = Some(reason.clone());
                Finding::Unwell {
                    reason,
                    lasted,
                    missed: 0,
                    action: HealthAction::Tell,
                }
            }
            Sight::Over(reason, lasted) => {
                // Several looks in a row, after a timer was held up, are one look.
                let is_due = case.missed_at.is_none_or(|at| now.since(at) >= self.config.check / 2);
                if occasion == Occasion::Beat || !(is_due || case.misses == 0) {
                    return Finding::Nothing;
                }
                case.misses = case.misses.saturating_add(1);
                case.missed_at = Some(now);
                case.told = Some(reason.clone());
                let wanted = next_action(&self.config, case.misses, case.pending(patience, now), facts.phase);
                let action = if may_act { wanted } else { HealthAction::Tell };
                if action != HealthAction::Tell {
                    case.done = action;
                    case.done_at = now;
                }
                Finding::Unwell {
                    reason,
                    lasted,
                    missed: case.misses,
                    action,
                }
            }
        }
    }

    /// Who was acted on and is not gone yet. One that the kernel does not let go must not shield the others for ever.
    fn treated(&self, now: Mono) -> impl Iterator<Item = WorkerId> {
        let patience = self.config.check.saturating_mul(TREATED_CHECKS);
        let is_treated = move |case: &Case| case.done != HealthAction::Tell && now.since(case.done_at) < patience;
        self.cases
            .iter()
            .filter(move |(_, case)| is_treated(case))
            .map(|(id, _)| *id)
    }
}

impl Case {
    /// Keeps apart what the master missed before the worker's last beat and after it; true if the beat is a new one.
    ///
    /// When the beat is first seen, a pause may have followed it already: as much as happened since the last look, and no
    /// longer than from the beat to the end of the last pause.
    fn note_pauses(&mut self, beat: Option<Mono>, lag: Lag) -> bool {
        let is_new = self.beat != beat;
        if is_new {
            let since_look = lag.paused.saturating_sub(self.paused);
            let since_beat = beat.map_or(Duration::ZERO, |beat| lag.steady_since.since(beat));
            self.beat = beat;
            self.paused_before = lag.paused.saturating_sub(since_look.min(since_beat));
        }
        if lag.paused > self.paused {
            self.pause = (lag.steady_since, lag.paused.saturating_sub(self.paused));
            self.paused = lag.paused;
        }
        is_new
    }

    /// What was done about it and may still bear fruit. A replacement that was refused, or whose successor did not come, is
    /// asked for again after a while; whoever got `SIGABRT` gets `SIGKILL`, however long ago that was.
    fn pending(&self, patience: Duration, now: Mono) -> HealthAction {
        if self.done == HealthAction::Replace && now.since(self.done_at) >= patience {
            return HealthAction::Tell;
        }
        self.done
    }

    /// Silence was held against it in this phase.
    fn is_counted(&self, phase: Phase) -> bool {
        let (Phase::Boot(since) | Phase::Serving(since) | Phase::Standby(since) | Phase::Draining(since)) = phase;
        let is_silence = matches!(
            self.told,
            Some(UnhealthyReason::Hang | UnhealthyReason::Boot | UnhealthyReason::Drain)
        );
        is_silence && self.misses > 0 && self.missed_at.is_some_and(|at| at >= since)
    }

    /// From when on silence counts that began at `heard`: the master's pauses are taken off it, and nothing else. Never more
    /// than if it had begun after the last of them.
    fn excused_by_pauses(&self, heard: Mono, lag: Lag) -> Mono {
        let paused = lag.paused.saturating_sub(self.paused_before);
        heard.max((heard + paused).min(lag.steady_since))
    }

    /// May the worker's word from the last pause still lie unread? Reading is given as long as the pause was, up to the limit;
    /// but not to one who was silent for so long, beside all pauses, that a punctual master would have ended it long ago.
    fn is_catching_up(&self, silent: Duration, limit: Duration, check: Duration, now: Mono) -> bool {
        let patience = limit.saturating_mul(2).saturating_add(check.saturating_mul(3));
        let (ended, length) = self.pause;
        silent <= patience && !length.is_zero() && now <= ended + length.min(limit)
    }
}

fn sight(config: &HealthConfig, case: &Case, facts: &Facts, lag: Lag, now: Mono) -> Sight {
    if facts.is_traced {
        return Sight::Excused;
    }
    // The supervising loop has not come round: what the worker said may lie unread.
    if lag.is_held_up(now) {
        return Sight::Unread;
    }
    // Nobody but a subscriber is to blame that it is not heard.
    if facts.unread_until.is_some_and(|until| until >= now) {
        return Sight::Unread;
    }
    // A program that does not use the library never beats.
    let Some(beat) = facts.last_beat else {
        return Sight::Well;
    };
    let (reason, limit, since) = match facts.phase {
        Phase::Boot(since) => (UnhealthyReason::Boot, config.boot, since),
        // The one is to serve, and the other may have to at any moment.
        Phase::Serving(since) | Phase::Standby(since) => (UnhealthyReason::Hang, Some(config.stale_after), since),
        Phase::Draining(since) => (UnhealthyReason::Drain, config.drain, since),
    };
    let heard = beat.max(since).max(case.excused.unwrap_or(beat));
    let heard = heard.max(facts.unread_until.unwrap_or(heard));
    let heard = case.excused_by_pauses(heard, lag);
    let silent = now.since(heard);
    if let Some(limit) = limit {
        let granted = facts
            .more_time_until
            .map(|until| until.min(heard + limit + config.extension));
        let due = granted.map_or(heard + limit, |granted| granted.max(heard + limit));
        if now > due && case.is_catching_up(silent, limit, config.check, now) {
            return Sight::Unread;
        }
        if now > due {
            return Sight::Over(reason, silent);
        }
    }
    match facts.phase {
        Phase::Serving(_) | Phase::Standby(_) => {}
        Phase::Boot(_) | Phase::Draining(_) => return Sight::Well,
    }
    if let Some((name, late)) = &facts.late
        && *late >= config.interval / 2
    {
        let reason = UnhealthyReason::Loop(name.clone());
        let is_over = config.act_on_loops && *late >= config.stale_after;
        return if is_over {
            Sight::Over(reason, *late)
        } else {
            Sight::Odd(reason, *late)
        };
    }
    if facts.is_deaf {
        let reason = UnhealthyReason::NotListening;
        let is_over = config.act_on_deaf && case.told.as_ref() == Some(&reason);
        return if is_over {
            Sight::Over(reason, silent)
        } else {
            Sight::Odd(reason, silent)
        };
    }
    Sight::Well
}

/// The rung of the ladder that this miss reaches. Each is climbed once, until it is well again; `SIGKILL` may be repeated,
/// which does no harm.
fn next_action(config: &HealthConfig, misses: u32, done: HealthAction, phase: Phase) -> HealthAction {
    let reached = |rung: Option<u32>| rung.is_some_and(|rung| misses >= rung);
    if reached(config.kill_after) {
        return match done {
            HealthAction::Abort | HealthAction::Kill => HealthAction::Kill,
            // Told, or being replaced.
            _ if config.core_dump => HealthAction::Abort,
            _ => HealthAction::Kill,
        };
    }
    // Only a worker that serves has something to hand over.
    if reached(config.replace_after) && matches!(phase, Phase::Serving(_)) && done == HealthAction::Tell {
        return HealthAction::Replace;
    }
    HealthAction::Tell
}

/// For so many checks a worker that was acted on keeps others from being acted on.
const TREATED_CHECKS: u32 = 12;

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
