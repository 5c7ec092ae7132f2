//! What a storm may cost its clients, and whether it kept to that.
//!
//! Not here: which storm promises what (that is in `kill_storm`).

use super::Damage;

/// What a storm may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Every request is answered by a handler, and none came to its end for it more than twice. How often it was begun is
    /// measured: as often as it is killed.
    Nothing,
    /// No failure, and no request was begun more than once; it may be refused instead.
    Once,
    /// No failure, and no request was begun more than twice; it may be refused instead.
    Twice,
    /// Whatever it costs: it is measured.
    Any,
}

impl Promise {
    /// What breaks it, in words; empty if it is kept. A storm that killed nobody has shown nothing, whatever it promises.
    #[must_use]
    pub fn broken_by(self, damage: &Damage) -> Vec<String> {
        let Damage {
            kills,
            asked,
            twice,
            more,
            ended_more,
            ..
        } = damage;
        let refused = usize::try_from(asked.refused).unwrap_or(usize::MAX);
        let failed = usize::try_from(asked.failures()).unwrap_or(usize::MAX);
        let forbidden = match self {
            Self::Nothing => vec![
                (failed, "failed"),
                (refused, "refused"),
                (*ended_more, "ran to the end more than twice"),
            ],
            Self::Once => vec![(failed, "failed"), (twice + more, "begun more than once")],
            Self::Twice => vec![(failed, "failed"), (*more, "begun more than twice")],
            Self::Any => Vec::new(),
        };
        let mut broken: Vec<String> = forbidden
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if *kills == 0 {
            broken.push("nobody was killed".to_owned());
        }
        if asked.requests == 0 {
            broken.push("nobody asked".to_owned());
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storm::Asked;

    fn damage(change: impl FnOnce(&mut Damage)) -> Damage {
        let mut damage = Damage {
            kills: 1,
            asked: Asked {
                requests: 1,
                ..Asked::default()
            },
            ..Damage::default()
        };
        change(&mut damage);
        damage
    }

    #[test]
    fn each_promise_forbids_what_it_says_and_no_more() {
        let storms = [
            damage(|_| {}),
            damage(|it| it.asked.failed = [("read".to_owned(), 1)].into()),
            damage(|it| it.asked.refused = 1),
            damage(|it| it.twice = 1),
            damage(|it| it.more = 1),
            damage(|it| (it.more, it.ended_more) = (1, 1)),
            damage(|it| it.kills = 0),
            damage(|it| it.asked.requests = 0),
        ];
        for (promise, kept) in [
            (Promise::Nothing, [true, false, false, true, true, false, false, false]),
            (Promise::Once, [true, false, true, false, false, false, false, false]),
            (Promise::Twice, [true, false, true, true, false, false, false, false]),
            (Promise::Any, [true, true, true, true, true, true, false, false]),
        ] {
            let is_kept = |storm| promise.broken_by(storm).is_empty();
            assert_eq!(storms.each_ref().map(is_kept), kept, "{promise:?}");
        }
    }
}
