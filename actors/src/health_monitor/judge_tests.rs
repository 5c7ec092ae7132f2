//! The judgement as tables, and as a law: in a small world of beating workers and a master that stands still now and then,
//! nobody who beats is ever called silent, and everybody who does not is found in time.

use actix_cluster::Lag;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn at(seconds: u64) -> Mono {
    Mono::new(Duration::from_secs(seconds))
}

fn id(id: u64) -> WorkerId {
    WorkerId::new(id)
}

/// A master that came round at `turned`, and stood still all the time until `steady_since`.
fn lag(turned: Mono, steady_since: Mono) -> Lag {
    paused(turned, steady_since, steady_since.since_start())
}

/// A master that came round at `turned`, whose pauses lasted so long, the last of them until `steady_since`. Made from text, as a
/// snapshot is.
fn paused(turned: Mono, steady_since: Mono, paused: Duration) -> Lag {
    let ms = |mono: Mono| mono.since_start().as_millis() as f64;
    let text = serde_json::json!({
        "period_ms": 1000.0, "tolerance_ms": 1500.0, "turned_ms": ms(turned), "late_ms": 0.0, "steady_since_ms": ms(steady_since), "pauses": 0,
        "paused_ms": paused.as_millis() as f64,
    });
    serde_json::from_value(text).unwrap()
}

/// A worker that serves since 0 and beat at `beat`.
fn serving(beat: Mono) -> Facts {
    Facts {
        phase: Phase::Serving(at(0)),
        last_beat: Some(beat),
        more_time_until: None,
        unread_until: None,
        late: None,
        is_deaf: false,
        is_traced: false,
    }
}

/// A check at `now` by a master that is steady since its start.
fn check(ward: &mut Ward, facts: &Facts, now: Mono) -> Finding {
    ward.look(id(1), facts, lag(now, at(0)), Occasion::Check, now)
}

/// What was missed, and what is done.
fn verdict(finding: Finding) -> Option<(UnhealthyReason, u32, HealthAction)> {
    match finding {
        Finding::Unwell {
            reason, missed, action, ..
        } => Some((reason, missed, action)),
        Finding::Nothing | Finding::Recovered => None,
    }
}

#[test]
fn guide_heartbeat_stale_after_ten_seconds_and_killed_at_the_third_miss() {
    let mut ward = Ward::new(HealthConfig::new());
    let facts = serving(at(0));
    for now in [5, 10] {
        assert_eq!(check(&mut ward, &facts, at(now)), Finding::Nothing, "at {now}");
    }
    for (now, missed, action) in [
        (15, 1, HealthAction::Tell),
        (20, 2, HealthAction::Tell),
        (25, 3, HealthAction::Kill),
    ] {
        let found = verdict(check(&mut ward, &facts, at(now)));
        assert_eq!(found, Some((UnhealthyReason::Hang, missed, action)), "at {now}");
    }
}

#[test]
fn guide_heartbeat_a_beat_makes_it_healthy_and_counts_anew() {
    let mut ward = Ward::new(HealthConfig::new());
    check(&mut ward, &serving(at(0)), at(15));
    check(&mut ward, &serving(at(0)), at(20));
    assert_eq!(ward.unwell().count(), 1);
    assert_eq!(check(&mut ward, &serving(at(22)), at(25)), Finding::Recovered);
    assert_eq!(check(&mut ward, &serving(at(22)), at(30)), Finding::Nothing);
    assert_eq!(ward.unwell().count(), 0);
    let found = verdict(check(&mut ward, &serving(at(22)), at(35)));
    assert_eq!(found, Some((UnhealthyReason::Hang, 1, HealthAction::Tell)));
}

#[test]
fn each_phase_has_its_own_limit_and_reason() {
    let config = HealthConfig::new().boot(Some(40 * SECOND)).drain(Some(20 * SECOND));
    for (phase, silent_until, reason) in [
        (Phase::Boot(at(0)), 40, UnhealthyReason::Boot),
        (Phase::Serving(at(0)), 10, UnhealthyReason::Hang),
        (Phase::Draining(at(0)), 20, UnhealthyReason::Drain),
    ] {
        let mut ward = Ward::new(config.clone());
        let facts = Facts {
            phase,
            ..serving(at(0))
        };
        assert_eq!(check(&mut ward, &facts, at(silent_until)), Finding::Nothing);
        let found = verdict(check(&mut ward, &facts, at(silent_until + 1)));
        assert_eq!(found, Some((reason, 1, HealthAction::Tell)));
        // Without a limit of its own a phase is the cluster's affair.
        let mut ward = Ward::new(HealthConfig::new());
        let judged = check(&mut ward, &facts, at(1_000)) != Finding::Nothing;
        assert_eq!(judged, matches!(phase, Phase::Serving(_)));
    }
    // A phase begins with a clean slate: what it did before it was ready is not held against it.
    let facts = Facts {
        phase: Phase::Serving(at(100)),
        ..serving(at(0))
    };
    assert_eq!(check(&mut Ward::new(config), &facts, at(105)), Finding::Nothing);
}

#[test]
fn who_never_beat_is_not_watched() {
    let facts = Facts {
        last_beat: None,
        ..serving(at(0))
    };
    assert_eq!(
        check(&mut Ward::new(HealthConfig::new()), &facts, at(1_000)),
        Finding::Nothing
    );
}

#[test]
fn f_035_more_time_is_granted_from_the_last_beat_up_to_the_cap() {
    let config = HealthConfig::new().extension(20 * SECOND);
    for (asked_until, silent_until) in [(0, 10), (8, 10), (25, 25), (30, 30), (1_000_000, 30)] {
        let mut ward = Ward::new(config.clone());
        let facts = Facts {
            more_time_until: Some(at(asked_until)),
            ..serving(at(0))
        };
        assert_eq!(
            check(&mut ward, &facts, at(silent_until)),
            Finding::Nothing,
            "{asked_until}"
        );
        assert!(
            verdict(check(&mut ward, &facts, at(silent_until + 1))).is_some(),
            "{asked_until}"
        );
    }
}

#[test]
fn f_043_a_debugger_excuses_and_afterwards_the_time_begins_anew() {
    let mut ward = Ward::new(HealthConfig::new());
    let traced = Facts {
        is_traced: true,
        ..serving(at(0))
    };
    for now in (5..500).step_by(5) {
        assert_eq!(check(&mut ward, &traced, at(now)), Finding::Nothing);
    }
    assert_eq!(check(&mut ward, &serving(at(0)), at(500)), Finding::Nothing);
    assert!(verdict(check(&mut ward, &serving(at(0)), at(510))).is_some());
}

#[test]
fn f_145_f_146_after_a_pause_of_the_master_every_clock_starts_again() {
    let facts = serving(at(99));
    // Nobody looked while it stood still: that it came round just now is all there is to know.
    let mut ward = Ward::new(HealthConfig::new());
    let steady = lag(at(1_000), at(1_000));
    assert_eq!(
        ward.look(id(1), &facts, steady, Occasion::Check, at(1_000)),
        Finding::Nothing
    );
    let mut ward = Ward::new(HealthConfig::new());
    // It has just been continued, and has not come round yet.
    let stopped = lag(at(100), at(0));
    assert_eq!(
        ward.look(id(1), &facts, stopped, Occasion::Check, at(1_000)),
        Finding::Nothing
    );
    // It came round; what the worker said meanwhile may still be unread, for as long as that takes.
    for now in [1_000, 1_005, 1_010] {
        let steady = lag(at(now), at(1_000));
        assert_eq!(
            ward.look(id(1), &facts, steady, Occasion::Check, at(now)),
            Finding::Nothing
        );
    }
    // A worker that hung all the time is found as if it had begun now.
    let steady = lag(at(1_011), at(1_000));
    let found = verdict(ward.look(id(1), &facts, steady, Occasion::Check, at(1_011)));
    assert_eq!(found, Some((UnhealthyReason::Hang, 1, HealthAction::Tell)));
}

#[test]
fn i_26_silence_counts_from_when_the_worker_was_read_again() {
    let mut ward = Ward::new(HealthConfig::new());
    let unread = |until| Facts {
        unread_until: Some(until),
        ..serving(at(0))
    };
    for now in (5..500).step_by(5) {
        assert_eq!(check(&mut ward, &unread(at(now)), at(now)), Finding::Nothing, "{now}");
    }
    // Slow reading, seen between two of its waits.
    for now in (505..1_000).step_by(5) {
        assert_eq!(
            check(&mut ward, &unread(at(now - 9)), at(now)),
            Finding::Nothing,
            "{now}"
        );
    }
    assert_eq!(check(&mut ward, &unread(at(1_000)), at(1_010)), Finding::Nothing);
    for (now, missed) in [(1_015, 1), (1_020, 2), (1_025, 3)] {
        let found = verdict(check(&mut ward, &unread(at(1_000)), at(now))).expect("it hangs");
        assert_eq!((found.0, found.1), (UnhealthyReason::Hang, missed));
    }
}

#[test]
fn f_032_a_late_loop_is_named_once_and_acted_on_only_if_that_is_wanted() {
    let late = |ms: u32, beat| Facts {
        late: Some(("http".to_owned(), ms * MS)),
        ..serving(beat)
    };
    let named = |missed, action| Some((UnhealthyReason::Loop("http".to_owned()), missed, action));
    let mut ward = Ward::new(HealthConfig::new());
    let look = |ward: &mut Ward, facts: &Facts, now| ward.look(id(1), facts, lag(now, at(0)), Occasion::Beat, now);
    assert_eq!(look(&mut ward, &late(1_499, at(3)), at(3)), Finding::Nothing);
    assert_eq!(
        verdict(look(&mut ward, &late(1_500, at(6)), at(6))),
        named(0, HealthAction::Tell)
    );
    assert_eq!(look(&mut ward, &late(4_500, at(9)), at(9)), Finding::Nothing);
    assert_eq!(check(&mut ward, &late(99_000, at(99)), at(100)), Finding::Nothing);
    assert_eq!(look(&mut ward, &serving(at(102)), at(102)), Finding::Recovered);

    let mut ward = Ward::new(HealthConfig::new().act_on_loops(true));
    assert_eq!(
        verdict(check(&mut ward, &late(9_999, at(10)), at(10))),
        named(0, HealthAction::Tell)
    );
    for (now, missed, action) in [
        (15, 1, HealthAction::Tell),
        (20, 2, HealthAction::Tell),
        (25, 3, HealthAction::Kill),
    ] {
        assert_eq!(
            look(&mut ward, &late(10_000, at(now)), at(now)),
            Finding::Nothing,
            "a beat is no check"
        );
        assert_eq!(
            verdict(check(&mut ward, &late(10_000, at(now)), at(now))),
            named(missed, action)
        );
    }
}

#[test]
fn f_037_a_worker_that_accepts_on_nothing_is_told_at_once_and_ended_only_if_that_is_wanted() {
    let deaf = |beat| Facts {
        is_deaf: true,
        ..serving(beat)
    };
    for wanted in [false, true] {
        let mut ward = Ward::new(HealthConfig::new().act_on_deaf(wanted));
        let told = ward.look(id(1), &deaf(at(3)), lag(at(3), at(0)), Occasion::Beat, at(3));
        assert_eq!(
            verdict(told),
            Some((UnhealthyReason::NotListening, 0, HealthAction::Tell))
        );
        let actions: Vec<_> = (1..=3)
            .filter_map(|n| verdict(check(&mut ward, &deaf(at(5 * n)), at(5 * n))))
            .collect();
        assert_eq!(
            actions.last().map(|last| (last.1, last.2)),
            wanted.then_some((3, HealthAction::Kill))
        );
    }
}

#[test]
fn the_ladder_is_climbed_rung_by_rung() {
    let climb = |config: HealthConfig| -> Vec<HealthAction> {
        let mut ward = Ward::new(config);
        let found = (2..=8).map(|n| verdict(check(&mut ward, &serving(at(0)), at(6 * n))));
        found.flatten().map(|(_, _, action)| action).collect()
    };
    use HealthAction::{Abort, Kill, Replace, Tell};
    assert_eq!(climb(HealthConfig::new().kill_after(None)), [Tell; 7]);
    let config = HealthConfig::new().replace_after(Some(2)).kill_after(Some(5));
    assert_eq!(climb(config), [Tell, Replace, Tell, Tell, Kill, Kill, Kill]);
    let config = HealthConfig::new().kill_after(Some(2)).core_dump(true);
    assert_eq!(climb(config), [Tell, Abort, Kill, Kill, Kill, Kill, Kill]);
}

#[test]
fn f_041_one_at_a_time_and_an_unkillable_one_does_not_shield_the_others_for_ever() {
    let mut ward = Ward::new(HealthConfig::new().kill_after(Some(1)));
    let mut killed = |ward: &mut Ward, worker: u64, now: u64| {
        let finding = ward.look(
            id(worker),
            &serving(at(0)),
            lag(at(now), at(0)),
            Occasion::Check,
            at(now),
        );
        verdict(finding).map(|found| found.2) == Some(HealthAction::Kill)
    };
    let round = |ward: &mut Ward, now, killed: &mut dyn FnMut(&mut Ward, u64, u64) -> bool| -> Vec<u64> {
        (1..=4).filter(|worker| killed(ward, *worker, now)).collect()
    };
    assert_eq!(round(&mut ward, 15, &mut killed), [1]);
    assert_eq!(round(&mut ward, 20, &mut killed), [1]);
    ward.forget(id(1));
    assert_eq!(
        round(&mut ward, 25, &mut |ward, worker, now| worker > 1
            && killed(ward, worker, now)),
        [2]
    );
    // 2 does not die. Twelve checks later it is somebody else's turn.
    let later = |ward: &mut Ward, now: u64, killed: &mut dyn FnMut(&mut Ward, u64, u64) -> bool| {
        (3..=4)
            .filter(|worker| killed(ward, *worker, now))
            .collect::<Vec<u64>>()
    };
    assert_eq!(later(&mut ward, 80, &mut killed), [0; 0]);
    assert_eq!(later(&mut ward, 85, &mut killed), [3]);
}

#[test]
fn checks_that_were_held_up_and_come_in_a_burst_are_one() {
    let mut ward = Ward::new(HealthConfig::new());
    assert!(verdict(check(&mut ward, &serving(at(0)), at(15))).is_some());
    for _ in 0..10 {
        assert_eq!(check(&mut ward, &serving(at(0)), at(15)), Finding::Nothing);
    }
}

#[test]
fn a_master_that_is_late_again_and_again_finds_a_hang_after_the_limit_and_what_it_was_late() {
    // It hangs at 0 and never beats again; the master stands still for 3 of every 6 s, and looks in between.
    let mut ward = Ward::new(HealthConfig::new());
    let late = |now: u64| paused(at(now), at(now), Duration::from_secs(now / 2));
    let mut killed = None;
    for now in (6..600).step_by(6) {
        // While it stands still, nobody is judged; that takes back nothing of what was counted.
        let stands = lag(at(now - 3), at(0));
        assert_eq!(
            ward.look(id(1), &serving(at(0)), stands, Occasion::Check, at(now)),
            Finding::Nothing
        );
        let found = verdict(ward.look(id(1), &serving(at(0)), late(now), Occasion::Check, at(now)));
        if found.is_some_and(|found| found.2 == HealthAction::Kill) {
            killed = Some(now);
            break;
        }
    }
    // Twice the limit and three checks beside the pauses, which are half of the time, and three looks.
    let killed = killed.expect("it is killed");
    assert!((30..=90).contains(&killed), "{killed}");
}

#[test]
fn a_pause_before_the_last_beat_excuses_nothing_after_it() {
    let mut ward = Ward::new(HealthConfig::new());
    let steady = |now: u64| paused(at(now), at(500), Duration::from_secs(490));
    assert_eq!(
        ward.look(id(1), &serving(at(501)), steady(505), Occasion::Check, at(505)),
        Finding::Nothing
    );
    // A short pause, and the end of the silence's limit moves by that.
    let again = |now: u64| paused(at(now), at(510), Duration::from_secs(493));
    assert_eq!(
        ward.look(id(1), &serving(at(501)), again(514), Occasion::Check, at(514)),
        Finding::Nothing
    );
    let found = verdict(ward.look(id(1), &serving(at(501)), again(515), Occasion::Check, at(515)));
    assert_eq!(found, Some((UnhealthyReason::Hang, 1, HealthAction::Tell)));
}

#[test]
fn what_was_missed_before_a_pause_stays_counted_until_it_beats() {
    let mut ward = Ward::new(HealthConfig::new());
    for now in [15, 20] {
        assert!(verdict(check(&mut ward, &serving(at(0)), at(now))).is_some());
    }
    let after = |now: u64| paused(at(now), at(60), Duration::from_secs(39));
    assert_eq!(
        ward.look(id(1), &serving(at(0)), after(60), Occasion::Check, at(60)),
        Finding::Nothing
    );
    assert_eq!(ward.unwell().count(), 1, "it has not spoken");
    let beats = ward.look(id(1), &serving(at(59)), after(61), Occasion::Check, at(61));
    assert_eq!(beats, Finding::Recovered);
}

/// Any time below `most`, in milliseconds; the same row in every run.
fn below(most: u64, seed: &mut u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % most.max(1)
}

/// One worker and one master, millisecond by millisecond. The worker beats every 3 s, give or take a little, until
/// `hangs_at`. The master stands still at any time for any time; what the worker says meanwhile is read some time after.
/// Returns when it was killed; where the master stands still, when it was blamed at all.
fn world(mut seed: u64, pauses: bool, hangs_at: u64, end: u64) -> Option<u64> {
    let seed = &mut seed;
    let mut ward = Ward::new(HealthConfig::new());
    let (mut beats_at, mut sent, mut read) = (below(3_000, seed), None, 0);
    let (mut turns_at, mut turned, mut steady_since, mut lost) = (1_000, 0, 0, 0);
    let (mut checks_at, mut reads_at, mut stands_until) = (below(5_000, seed), 0, 0);
    for now in 0..end {
        if now == beats_at && now < hangs_at {
            sent = Some(now);
            beats_at = now + 2_700 + below(600, seed);
        }
        if now < stands_until {
            continue;
        }
        if pauses && below(20_000, seed) == 0 {
            // Some are too short to be seen as a pause, some are endless.
            stands_until =
                now + [below(2_500, seed), below(30_000, seed), below(300_000, seed)][below(3, seed) as usize];
            // The loop may come round, and the monitor look, before a starved channel is read.
            reads_at = stands_until + below(3_000, seed);
            turns_at = turns_at.max(stands_until + below(1_500, seed));
            continue;
        }
        // After it stood still, everything that was due is done in any order, and reading takes its time.
        if now >= reads_at {
            read = sent.unwrap_or(read);
            reads_at = now + below(20, seed);
        }
        if now >= turns_at {
            let gap = now - turned;
            if gap > 2_500 {
                (steady_since, lost) = (now, lost + gap);
            }
            (turned, turns_at) = (now, now + 1_000);
        }
        if now >= checks_at {
            checks_at = now + 5_000;
            let ms = |ms: u64| Mono::new(Duration::from_millis(ms));
            let facts = serving(ms(read));
            let finding = ward.look(
                id(1),
                &facts,
                paused(ms(turned), ms(steady_since), Duration::from_millis(lost)),
                Occasion::Check,
                ms(now),
            );
            if verdict(finding).is_some_and(|found| pauses || found.2 == HealthAction::Kill) {
                return Some(now);
            }
        }
    }
    None
}

#[test]
fn i_17_no_pause_of_the_master_of_any_length_anywhere_blames_a_worker_that_beats() {
    for seed in 0..60 {
        assert_eq!(world(seed, true, u64::MAX, 600_000), None, "seed {seed}");
    }
}

#[test]
fn a_worker_that_hangs_is_killed_within_stale_and_three_checks() {
    for seed in 0..60 {
        let hangs_at = 20_000 + seed * 137;
        let killed = world(seed, false, hangs_at, 200_000).expect("it is killed");
        let took = killed - hangs_at;
        // It beat up to an interval before it hung.
        assert!(
            (20_000 - 3_300..=10_000 + 3 * 5_000 + 100).contains(&took),
            "seed {seed}: {took} ms"
        );
    }
}

#[path = "judge_ladder_tests.rs"]
mod ladder;
