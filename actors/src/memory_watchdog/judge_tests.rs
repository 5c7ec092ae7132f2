//! Tables and a law for the judgement.

use super::super::config::MemoryLimit;
use super::*;

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 100 * MIB;

fn at(seconds: u64) -> Mono {
    Mono::new(Duration::from_secs(seconds))
}

/// Reads every 5 s, limits 90 and 100 MiB, nothing by chance.
fn config() -> MemoryConfig {
    MemoryConfig::new(MemoryLimit::Bytes(LIMIT)).spread(0.0)
}

fn judge() -> Judge {
    Judge::new(config(), 1)
}

/// Worker `id` in slot `index`, ready since `since`.
fn serving(id: u64, index: u32, since: u64, mib: u64) -> Facts {
    Facts {
        id: WorkerId::new(id),
        slot: Slot::new("worker", index),
        stage: Stage::Serving(at(since)),
        used: Some(mib * MIB),
        limit: Some(LIMIT),
    }
}

/// The words of the findings, with whom they are about.
fn words(findings: &[Finding]) -> Vec<(&'static str, u64)> {
    let word = |finding: &Finding| match finding {
        Finding::Recycle { id, .. } => ("recycle", id.get()),
        Finding::Kill { id, .. } => ("kill", id.get()),
        Finding::LimitTooLow { id, .. } => ("too low", id.get()),
        Finding::Forecast { id, .. } => ("forecast", id.get()),
    };
    findings.iter().map(word).collect()
}

#[test]
fn guide_memory_above_ninety_percent_is_replaced_and_at_the_limit_killed() {
    for (mib, expected) in [
        (0, vec![]),
        (90, vec![]),
        (91, vec![("recycle", 1)]),
        (99, vec![("recycle", 1)]),
        (100, vec![("kill", 1)]),
        (u64::MAX / MIB, vec![("kill", 1)]),
    ] {
        let mut judge = judge();
        assert_eq!(judge.look(&[serving(1, 0, 0, 10)], at(0)), []);
        let found = judge.look(&[serving(1, 0, 0, mib)], at(5));
        assert_eq!(words(&found), expected, "{mib} MiB");
        // Done once: it is on its way.
        let mut leaving = serving(1, 0, 0, mib.min(95));
        leaving.stage = Stage::Leaving;
        assert_eq!(judge.look(&[leaving], at(10)), []);
    }
}

#[test]
fn one_that_leaves_for_its_memory_and_grows_on_is_killed_and_without_a_hard_limit_it_is_not() {
    for (hard, expected) in [(Some(1.0), vec![("kill", 1)]), (None, vec![])] {
        let mut judge = Judge::new(config().hard(hard), 1);
        judge.look(&[serving(1, 0, 0, 10)], at(0));
        assert_eq!(words(&judge.look(&[serving(1, 0, 0, 95)], at(5))), [("recycle", 1)]);
        let mut leaving = serving(1, 0, 0, 120);
        leaving.stage = Stage::Leaving;
        assert_eq!(words(&judge.look(&[leaving.clone()], at(10))), expected);
        assert_eq!(judge.look(&[leaving], at(15)), [], "once");
    }
}

#[test]
fn f_184_all_over_at_once_go_one_after_the_other_the_fullest_first() {
    let mut judge = judge();
    let mut workers: Vec<Facts> = (0..4).map(|id| serving(id + 1, id as u32, 0, 10)).collect();
    judge.look(&workers, at(0));
    for (index, worker) in workers.iter_mut().enumerate() {
        worker.used = Some((91 + index as u64) * MIB);
    }
    assert_eq!(words(&judge.look(&workers, at(5))), [("recycle", 4)]);
    assert_eq!(judge.look(&workers, at(10)), [], "it is not gone yet");
    workers.pop();
    judge.keep(|id| id.get() != 4);
    assert_eq!(words(&judge.look(&workers, at(15))), [("recycle", 3)]);
    // One that cannot be replaced does not shield the others for ever.
    assert_eq!(judge.look(&workers, at(74)), []);
    assert_eq!(words(&judge.look(&workers, at(75))), [("recycle", 3)]);
    // Over the hard limit, all at once: one at each look.
    for worker in &mut workers {
        worker.used = Some(200 * MIB);
    }
    assert_eq!(words(&judge.look(&workers, at(80))), [("kill", 1)]);
    assert_eq!(words(&judge.look(&workers, at(85))), [("kill", 2)]);
}

#[test]
fn f_185_a_limit_below_the_footprint_is_told_once_and_left_alone() {
    let mut judge = judge();
    let all = |first: Facts| vec![first, serving(2, 1, 0, 150), serving(3, 2, 0, 150)];
    // All three are born over: one is tried, and not killed.
    assert_eq!(words(&judge.look(&all(serving(1, 0, 0, 150)), at(0))), [("recycle", 1)]);
    assert_eq!(judge.look(&all(serving(1, 0, 0, 150)), at(3)), []);
    // Its successor is over as well.
    assert_eq!(words(&judge.look(&[serving(4, 0, 6, 150)], at(6))), [("too low", 4)]);
    judge.keep(|id| id.get() != 1);
    for second in [10, 60, 600, 6000] {
        assert_eq!(judge.look(&all(serving(4, 0, 6, 150)), at(second)), [], "at {second}");
    }
    // A worker that fits (after a reload, say) ends it; who becomes too big later is replaced again.
    assert_eq!(judge.look(&[serving(5, 0, 7000, 20)], at(7000)), []);
    assert_eq!(
        words(&judge.look(&[serving(5, 0, 7000, 95)], at(7005))),
        [("recycle", 5)]
    );
}

#[test]
fn f_185_a_successor_that_fits_clears_the_doubt() {
    let mut judge = judge();
    assert_eq!(words(&judge.look(&[serving(1, 0, 0, 95)], at(0))), [("recycle", 1)]);
    assert_eq!(judge.look(&[serving(2, 0, 3, 40)], at(3)), []);
    judge.keep(|id| id.get() != 1);
    // The next one that is born over is tried again.
    assert_eq!(words(&judge.look(&[serving(3, 1, 8, 95)], at(8))), [("recycle", 3)]);
}

#[test]
fn f_187_what_is_unknown_moves_nothing() {
    let mut judge = judge();
    judge.look(&[serving(1, 0, 0, 10)], at(0));
    let mut unknown = serving(1, 0, 0, 0);
    unknown.used = None;
    assert_eq!(judge.look(&[unknown.clone()], at(5)), []);
    for limit in [None, Some(0)] {
        let mut nowhere = serving(1, 0, 0, 500);
        nowhere.limit = limit;
        assert_eq!(judge.look(&[nowhere], at(5)), [], "{limit:?}");
    }
    // And is not a first reading.
    unknown.id = WorkerId::new(2);
    assert_eq!(judge.look(&[unknown], at(5)), []);
    assert!(!judge.cases.contains_key(&WorkerId::new(2)));
}

#[test]
fn a_leak_is_foretold_once_and_again_when_it_is_half_as_far() {
    let mut judge = judge();
    let mut told = Vec::new();
    // 1 MiB in 5 s.
    for step in 0..85 {
        for finding in judge.look(&[serving(1, 0, 0, 5 + step)], at(step * 5)) {
            match finding {
                Finding::Forecast { within, .. } => told.push(within.as_secs()),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(told.len() >= 3, "{told:?}");
    assert!((430..=445).contains(&told[0]), "{told:?}");
    assert!(told.windows(2).all(|pair| pair[1] <= pair[0] / 2), "{told:?}");
}

/// Whatever the readings: nobody is replaced at or below the soft limit or killed below the hard one, at most one is killed
/// at a look, and no more are on their way out for the soft limit than may be.
#[test]
fn laws_hold_for_thousands_of_random_courses() {
    for seed in 0..500_u64 {
        let mut state = seed;
        let mut pick = |below: u64| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let bits = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            (bits ^ (bits >> 31)) % below
        };
        let at_once = 1 + pick(3) as usize;
        let mut judge = Judge::new(config().spread(0.5).max_at_once(at_once), seed);
        let mut workers: Vec<Facts> = (0..6).map(|id| serving(id + 1, id as u32, 0, pick(140))).collect();
        let (mut next, mut recycled) = (7, Vec::<(u64, u64)>::new());
        for step in 0..60 {
            let now = at(step * 5);
            let findings = judge.look(&workers, now);
            let mut killed = 0;
            for finding in &findings {
                match *finding {
                    Finding::Recycle { id, used, limit } => {
                        assert!(used > limit / 10 * 9, "seed {seed}");
                        recycled.push((id.get(), step));
                    }
                    Finding::Kill { used, limit, .. } => {
                        assert!(used >= limit, "seed {seed}");
                        killed += 1;
                    }
                    Finding::LimitTooLow { .. } | Finding::Forecast { .. } => {}
                }
            }
            let waiting = recycled
                .iter()
                .filter(|(id, since)| step - since < 12 && workers.iter().any(|it| it.id.get() == *id));
            assert!(killed <= 1 && waiting.count() <= at_once, "seed {seed}, step {step}");
            for worker in &mut workers {
                match pick(6) {
                    0 => worker.used = None,
                    1..4 => worker.used = Some(pick(140) * MIB),
                    // It ends, for whatever reason, and another comes.
                    4 => {
                        worker.id = WorkerId::new(next);
                        worker.stage = Stage::Serving(at(step * 5 + 2));
                        next += 1;
                    }
                    _ => {}
                }
            }
            judge.keep(|id| workers.iter().any(|it| it.id == id));
        }
    }
}

#[test]
fn chance_raises_the_threshold_never_above_its_part_of_the_way() {
    let judge = Judge::new(config().spread(0.5), 7);
    let all: Vec<u64> = (1..200).map(|id| judge.threshold(WorkerId::new(id), LIMIT)).collect();
    assert!(all.iter().all(|it| (90 * MIB..=95 * MIB).contains(it)), "{all:?}");
    let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
    assert!(most - least > 3 * MIB, "they differ: {least} to {most}");
}
