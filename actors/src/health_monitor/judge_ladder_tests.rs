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
