//! The judgement: who is acted on, in which order, and what for.

use super::*;

#[test]
fn a_standby_is_judged_like_one_that_serves_and_has_nothing_to_hand_over() {
    let mut ward = Ward::new(HealthConfig::new().replace_after(Some(1)));
    let stands_by = Facts {
        phase: Phase::Standby(at(3)),
        ..serving(at(0))
    };
    assert_eq!(check(&mut ward, &stands_by, at(13)), Finding::Nothing);
    for (now, missed, action) in [
        (15, 1, HealthAction::Tell),
        (20, 2, HealthAction::Tell),
        (25, 3, HealthAction::Kill),
    ] {
        let found = verdict(check(&mut ward, &stands_by, at(now)));
        assert_eq!(found, Some((UnhealthyReason::Hang, missed, action)), "at {now}");
    }
}

#[test]
fn who_recovers_after_a_replacement_was_wanted_has_the_whole_ladder_again() {
    let config = HealthConfig::new().replace_after(Some(1)).kill_after(None);
    let mut ward = Ward::new(config.clone());
    let action = |ward: &mut Ward, beat, now| verdict(check(ward, &serving(at(beat)), at(now))).map(|found| found.2);
    assert_eq!(action(&mut ward, 0, 15), Some(HealthAction::Replace));
    assert_eq!(action(&mut ward, 0, 20), Some(HealthAction::Tell));
    assert_eq!(check(&mut ward, &serving(at(22)), at(22)), Finding::Recovered);
    // It shields nobody any more.
    let other = verdict(ward.look(id(2), &serving(at(0)), lag(at(25), at(0)), Occasion::Check, at(25)));
    assert_eq!(other.map(|found| found.2), Some(HealthAction::Replace));
    ward.forget(id(2));
    assert_eq!(action(&mut ward, 22, 35), Some(HealthAction::Replace));
    // One that was never replaced, for whatever reason, is asked for again after a while.
    let mut ward = Ward::new(config);
    let replaced: Vec<u64> = (15..200)
        .step_by(5)
        .filter(|now| action(&mut ward, 0, *now) == Some(HealthAction::Replace))
        .collect();
    assert_eq!(replaced, [15, 75, 135, 195]);
}

#[test]
fn one_that_is_only_told_to_stop_has_not_recovered_from_what_it_was_treated_for() {
    let mut ward = Ward::new(HealthConfig::new().replace_after(Some(1)).kill_after(None));
    assert!(verdict(check(&mut ward, &serving(at(0)), at(15))).is_some());
    let draining = Facts {
        phase: Phase::Draining(at(18)),
        ..serving(at(0))
    };
    check(&mut ward, &draining, at(20));
    let other = verdict(ward.look(id(2), &serving(at(0)), lag(at(25), at(0)), Occasion::Check, at(25)));
    assert_eq!(other.map(|found| found.2), Some(HealthAction::Tell), "one at a time");
}

#[test]
fn workers_that_beat_less_often_than_was_asked_for_are_judged_by_what_they_can_keep() {
    let config = HealthConfig::new().boot(Some(10 * SECOND)).for_interval(60 * SECOND);
    assert_eq!(config.validate(), Ok(()));
    let mut ward = Ward::new(HealthConfig::new());
    ward.heed(config);
    assert_eq!(check(&mut ward, &serving(at(0)), at(120)), Finding::Nothing);
    assert!(verdict(check(&mut ward, &serving(at(0)), at(121))).is_some());
    // Whoever has patience enough keeps it.
    let patient = HealthConfig::new().stale_after(200 * SECOND);
    let lengthened = patient.clone().for_interval(4 * SECOND);
    assert_eq!(lengthened, patient.interval(4 * SECOND));
}
