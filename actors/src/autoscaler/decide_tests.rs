//! Decisions on their own, and replayed over traces of load.

use std::time::Duration;

use super::*;
use crate::signals::{LoadSignal, Word};

const EVERY: u64 = 10;

fn at(seconds: u64) -> Mono {
    Mono::new(Duration::from_secs(seconds))
}

fn config() -> AutoscaleConfig {
    AutoscaleConfig::new().signals([LoadSignal::Messages])
}

fn reading(words: impl IntoIterator<Item = Word>) -> Reading {
    Reading::of(LoadSignal::Messages, words, config().cap())
}

/// So many workers, all ready, each with this load.
fn facts(seconds: u64, workers: u32, load: f64) -> Facts {
    Facts {
        now: at(seconds),
        workers,
        ready: workers,
        failed: 0,
        course: None,
        readings: vec![reading((0..workers).map(|_| Word::Load(load)))],
    }
}

fn first(config: AutoscaleConfig, facts: Facts) -> (u32, ScaleReason) {
    let decision = Decider::new(config, 8).decide(facts);
    (decision.to, decision.why)
}

/// The numbers of workers, look by look, when so much work is there; each change with its second.
struct Replay {
    numbers: Vec<u32>,
    changes: Vec<(u64, u32, u32)>,
}

/// Work is counted in workers that are kept fully busy by it. The plant: it is spread evenly.
fn replay(config: AutoscaleConfig, work: impl IntoIterator<Item = f64>) -> Replay {
    let mut decider = Decider::new(config, 8);
    let (mut workers, mut replay) = (
        2,
        Replay {
            numbers: Vec::new(),
            changes: Vec::new(),
        },
    );
    for (look, work) in (0..).zip(work) {
        let decision = decider.decide(facts(look * EVERY, workers, work / f64::from(workers)));
        assert_eq!(decision.from, workers);
        if decision.to != workers {
            replay.changes.push((look * EVERY, workers, decision.to));
        }
        workers = decision.to;
        replay.numbers.push(workers);
    }
    replay
}

impl Replay {
    /// No two changes are closer than the cool-down of the later one.
    fn keeps_the_cool_down(&self) {
        for pair in self.changes.windows(2) {
            let (before, (then, from, to)) = (pair[0].0, pair[1]);
            let least = if to > from { 30 } else { 60 };
            assert!(then - before >= least, "{:?}", self.changes);
        }
    }
}

#[test]
fn guide_autoscaling_adds_above_and_removes_below() {
    assert_eq!(first(config(), facts(0, 2, 0.81)), (3, ScaleReason::LoadHigh));
    assert_eq!(first(config(), facts(0, 2, 0.8)), (2, ScaleReason::InRange));
    assert_eq!(first(config(), facts(0, 3, 0.2)), (3, ScaleReason::InRange));
    // Low, and not for long enough.
    assert_eq!(first(config(), facts(0, 3, 0.1)), (3, ScaleReason::CoolDown));
    let at_once = || config().cool_down_down(Duration::ZERO);
    assert_eq!(first(at_once(), facts(0, 3, 0.1)), (2, ScaleReason::LoadLow));
    assert_eq!(first(at_once(), facts(0, 2, 0.1)), (2, ScaleReason::AtMin));
    assert_eq!(first(config(), facts(0, 8, 0.9)), (8, ScaleReason::AtMax));
    assert_eq!(first(config().step_up(4), facts(0, 6, 0.9)), (8, ScaleReason::LoadHigh));
    assert_eq!(
        first(at_once().step_down(4), facts(0, 4, 0.0)),
        (2, ScaleReason::LoadLow)
    );
}

#[test]
fn what_would_have_to_be_added_again_is_not_removed() {
    let narrow = config().min(1).remove_below(0.7).cool_down_down(Duration::ZERO);
    assert_eq!(first(narrow.clone(), facts(0, 2, 0.5)), (2, ScaleReason::WouldReturn));
    assert_eq!(first(narrow, facts(0, 8, 0.5)), (7, ScaleReason::LoadLow));
}

#[test]
fn f_019_with_a_failed_slot_nothing_is_added_and_never_above_the_maximum() {
    for (workers, failed) in [(2, 1), (8, 1), (8, 8)] {
        let mut facts = facts(0, workers, 1.0);
        (facts.failed, facts.ready) = (failed, workers - failed);
        assert_eq!(first(config(), facts), (workers, ScaleReason::SlotsFailed));
    }
    let mut looping = facts(0, 8, 1.0);
    looping.course = Some(ScaleReason::Changing);
    assert_eq!(first(config(), looping), (8, ScaleReason::Changing));
    assert_eq!(first(config(), facts(0, 8, 1.0)), (8, ScaleReason::AtMax));
}

#[test]
fn nothing_changes_while_something_else_does() {
    for course in [ScaleReason::Stopping, ScaleReason::Reloading, ScaleReason::Changing] {
        for load in [0.0, 1.0] {
            let mut facts = facts(0, 4, load);
            facts.course = Some(course);
            assert_eq!(first(config().cool_down_down(Duration::ZERO), facts), (4, course));
        }
    }
    let mut starting = facts(0, 4, 1.0);
    starting.ready = 3;
    assert_eq!(first(config(), starting), (4, ScaleReason::Changing));
}

#[test]
fn outside_the_bounds_it_goes_to_the_nearest_and_none_at_all_is_somebodys_wish() {
    assert_eq!(first(config().min(3), facts(0, 1, 0.5)), (3, ScaleReason::BelowMin));
    assert_eq!(first(config(), facts(0, 12, 0.5)), (8, ScaleReason::AboveMax));
    assert_eq!(first(config(), facts(0, 0, 0.5)), (0, ScaleReason::NoWorkers));
}

#[test]
fn a_change_that_somebody_else_made_begins_a_cool_down_too() {
    let mut decider = Decider::new(config(), 8);
    assert_eq!(decider.decide(facts(0, 2, 0.5)).why, ScaleReason::InRange);
    assert_eq!(decider.decide(facts(10, 4, 0.9)).why, ScaleReason::CoolDown);
    assert_eq!(decider.decide(facts(39, 4, 0.9)).why, ScaleReason::CoolDown);
    assert_eq!(decider.decide(facts(40, 4, 0.9)).to, 5);
    // A refused order is no change of anybody's; the cool-down runs all the same.
    decider.refused();
    assert_eq!(decider.decide(facts(70, 4, 0.9)).to, 5);
}

#[test]
fn f_180_without_a_fresh_and_honest_load_it_holds() {
    let with = |words: &[Word]| {
        let mut facts = facts(0, 3, 0.0);
        facts.readings = vec![reading(words.iter().copied())];
        first(config().cool_down_down(Duration::ZERO), facts)
    };
    let (high, nan) = (Word::Load(1.0), Word::Load(f64::NAN));
    assert_eq!(with(&[Word::Silent; 3]), (3, ScaleReason::Missing));
    assert_eq!(with(&[high, Word::Silent, Word::Silent]), (3, ScaleReason::Missing));
    assert_eq!(with(&[high, Word::Stale, Word::Stale]), (3, ScaleReason::Stale));
    assert_eq!(with(&[high, nan, nan]), (3, ScaleReason::Nonsense));
    assert_eq!(with(&[Word::Load(-1.0); 3]), (3, ScaleReason::Nonsense));
    // One liar of three, whatever it says, brings nobody and takes nobody.
    let half = Word::Load(0.5);
    for lie in [f64::NAN, -5.0, 0.0, 1.0, 9e5, 1e300] {
        assert_eq!(with(&[half, half, Word::Load(lie)]), (3, ScaleReason::InRange), "{lie}");
    }
    // One signal without a load is enough to hold, whatever the other says; and no signal at all is none.
    let mut two = facts(0, 3, 1.0);
    two.readings.push(Reading::of(LoadSignal::Cpu, [], 1.0));
    assert_eq!(first(config(), two), (3, ScaleReason::Missing));
    let mut none = facts(0, 3, 1.0);
    none.readings.clear();
    assert_eq!(first(config(), none), (3, ScaleReason::Missing));
}

#[test]
fn a_load_that_was_unknown_for_a_moment_was_not_low_all_the_time() {
    let mut decider = Decider::new(config(), 8);
    for second in [0, 10, 20, 30, 40] {
        assert_eq!(decider.decide(facts(second, 3, 0.1)).to, 3);
    }
    let mut unknown = facts(50, 3, 0.1);
    unknown.readings[0].load = None;
    assert_eq!(decider.decide(unknown).to, 3);
    for second in [60, 70, 119] {
        assert_eq!(decider.decide(facts(second, 3, 0.1)).why, ScaleReason::CoolDown);
    }
    assert_eq!(decider.decide(facts(120, 3, 0.1)).to, 2);
}

#[test]
fn a_dry_run_says_the_same_again_and_again_and_changes_nothing() {
    let mut decider = Decider::new(config().dry_run(true), 8);
    for look in 0..5 {
        let decision = decider.decide(facts(look * EVERY, 2, 0.9));
        assert_eq!(
            (decision.to, decision.why, decision.dry_run),
            (3, ScaleReason::LoadHigh, true)
        );
    }
}

#[test]
fn a_ramp_is_followed_up_and_down_without_a_step_back() {
    let up = (0..60).map(|look| f64::from(look) * 0.1);
    let down = (0..60).rev().map(|look| f64::from(look) * 0.1);
    let idle = std::iter::repeat_n(0.0, 60);
    let replay = replay(config(), up.chain(down).chain(idle));
    replay.keeps_the_cool_down();
    let highest = replay
        .numbers
        .iter()
        .position(|number| number == replay.numbers.iter().max().unwrap())
        .unwrap();
    assert!(replay.numbers[..=highest].is_sorted(), "{:?}", replay.changes);
    assert!(
        replay.numbers[highest..].is_sorted_by(|a, b| a >= b),
        "{:?}",
        replay.changes
    );
    // Enough for the whole work: 5.9 at its height, at most 0.8 each.
    assert_eq!((replay.numbers[highest], *replay.numbers.last().unwrap()), (8, 2));
}

#[test]
fn a_spike_brings_one_worker_and_the_calm_after_it_takes_that_one_back() {
    let calm = || std::iter::repeat_n(0.3, 30);
    let replay = replay(config(), calm().chain([5.0]).chain(calm()));
    assert_eq!(replay.changes, [(300, 2, 3), (370, 3, 2)]);
}

#[test]
fn f_179_a_square_wave_changes_at_most_once_per_cool_down_and_does_not_flap() {
    for half in 1..=30_u32 {
        let wave = (0..600).map(|look| if look / half % 2 == 0 { 6.0 } else { 0.0 });
        let replay = replay(config(), wave);
        replay.keeps_the_cool_down();
        let down = replay.changes.iter().filter(|(_, from, to)| to < from).count();
        // A wave whose calm is shorter than the cool-down takes nobody away: it goes up once, and stays.
        if u64::from(half) * EVERY <= 60 {
            assert_eq!(down, 0, "{half}: {:?}", replay.changes);
            assert!(replay.numbers.is_sorted() && replay.numbers.last() == Some(&8));
        }
        // A longer one is followed, and each calm takes what its length allows and no more.
        let calms = 600 / (2 * half as usize) + 1;
        assert!(
            down <= calms * (half as usize * 10 / 60),
            "{half}: {:?}",
            replay.changes
        );
    }
}

#[test]
fn a_steady_load_ends_at_one_number_whatever_it_is() {
    for tenths in 0..100_u32 {
        let replay = replay(config(), std::iter::repeat_n(f64::from(tenths) / 10.0, 200));
        replay.keeps_the_cool_down();
        let last = replay.numbers[199];
        assert!(
            replay.numbers[120..].iter().all(|number| *number == last),
            "{tenths}: {:?}",
            replay.changes
        );
    }
}

/// Whatever comes, in 200 lives of 300 looks: bounds, cool-down, no change without a load or beside another change.
#[test]
fn i_39_f_179_f_180_whatever_comes_bounds_and_cool_down_hold() {
    let mut state = 7_u64;
    let mut below = |limit: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    for _ in 0..200 {
        let min = 1 + u32::try_from(below(4)).unwrap();
        let max = min + u32::try_from(below(6)).unwrap();
        let steps = 1 + u32::try_from(below(3)).unwrap();
        let limits = config().min(min).max(max).step_up(steps).step_down(steps);
        let (mut decider, mut workers, mut last) = (Decider::new(limits, 4), min, None::<u64>);
        // It has seen the number that it began with.
        decider.decide(facts(0, workers, f64::NAN));
        let mut now = 0;
        for _ in 0..300 {
            now += below(15);
            // Now and then somebody else changes the number, within the bounds or not.
            if below(40) == 0 {
                let other = u32::try_from(below(12)).unwrap();
                (workers, last) = (other, if other == workers { last } else { Some(now) });
            }
            let word = |kind: u64, raw: u64| match kind {
                0 => Word::Silent,
                1 => Word::Stale,
                2 => Word::Load(f64::NAN),
                3 => Word::Load(-1.0),
                4 => Word::Load(1e9),
                _ => Word::Load(f64::from(u32::try_from(raw).unwrap()) / 100.0),
            };
            let noise = 5 + below(40);
            let words: Vec<Word> = (0..workers).map(|_| word(below(noise), below(130))).collect();
            let mut facts = facts(now, workers, 0.0);
            facts.readings = vec![reading(words)];
            facts.failed = u32::from(below(20) == 0);
            facts.course = (below(10) == 0).then_some(ScaleReason::Reloading);
            let is_free = facts.failed == 0 && facts.course.is_none();
            let has_load = facts.readings[0].load.is_some();
            let decision = decider.decide(facts);
            if decision.to == workers {
                continue;
            }
            assert!((min..=max).contains(&decision.to), "{decision:?}");
            assert!(is_free && (has_load || !(min..=max).contains(&workers)), "{decision:?}");
            let least = if decision.to > workers { 30 } else { 60 };
            assert!(
                last.is_none_or(|last| now - last >= least),
                "{now}, {last:?}: {decision:?}"
            );
            assert!(workers.abs_diff(decision.to) <= steps || !(min..=max).contains(&workers));
            (workers, last) = (decision.to, Some(now));
        }
    }
}
