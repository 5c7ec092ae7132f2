//! Who goes with a worker that failed?
//!
//! Not here: stopping and starting them (that is [`crate::supervision`]), and whether there is a restart at all.

use std::fmt::Debug;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Which specs are stopped and started again together with a worker that failed: OTP's restart strategy, over specs.
///
/// The failed worker itself is always replaced. The answer names the specs, by their position in the ordered list, of
/// which *every* worker goes with it; an empty range means that nobody does. So "all" is `0..specs`, and "the rest"
/// is `failed..specs`. Must be pure: the same question gets the same answer. A range beyond `specs` is cut; a strategy that
/// panics is taken for [`OneForOne`] that time.
///
/// Everybody who goes is stopped first, the last spec before the one before it; when all are gone, all are started in
/// order. Temporary workers that go with others do not come back. The failure counts once.
pub trait RestartStrategy: Debug + Send + Sync {
    /// Which specs go down with a worker of the spec at position `failed`, of `specs` in all?
    fn affected(&self, failed: usize, specs: usize) -> Range<usize>;
}

/// Only the failed worker is replaced: OTP's `one_for_one`. The default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OneForOne;

impl RestartStrategy for OneForOne {
    fn affected(&self, failed: usize, _specs: usize) -> Range<usize> {
        failed..failed
    }
}

/// Every worker of every spec is replaced: OTP's `one_for_all`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OneForAll;

impl RestartStrategy for OneForAll {
    fn affected(&self, _failed: usize, specs: usize) -> Range<usize> {
        0..specs
    }
}

/// Every worker of the failed one's spec and of all later specs is replaced: OTP's `rest_for_one`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RestForOne;

impl RestartStrategy for RestForOne {
    fn affected(&self, failed: usize, specs: usize) -> Range<usize> {
        failed..specs
    }
}

/// Asks a strategy, which may be anybody's code: its answer is cut to what there is, and its panic costs the failed
/// worker's neighbours nothing.
pub(crate) fn affected_by(strategy: &dyn RestartStrategy, failed: usize, specs: usize) -> Range<usize> {
    let answer = catch_unwind(AssertUnwindSafe(|| strategy.affected(failed, specs))).unwrap_or(failed..failed);
    answer.start.min(specs)..answer.end.min(specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Odd(Range<usize>);

    impl RestartStrategy for Odd {
        fn affected(&self, _failed: usize, _specs: usize) -> Range<usize> {
            assert_ne!(self.0, 9..9, "a strategy that panics");
            self.0.clone()
        }
    }

    #[test]
    fn o_030_o_032_o_040_who_goes_with_a_failed_worker() {
        for failed in 0..5 {
            assert!(affected_by(&OneForOne, failed, 5).is_empty());
            assert_eq!(affected_by(&OneForAll, failed, 5), 0..5);
            assert_eq!(affected_by(&RestForOne, failed, 5), failed..5);
        }
    }

    #[test]
    fn a_strategy_that_is_wrong_or_panics_harms_nobody_else() {
        assert_eq!(affected_by(&Odd(2..100), 1, 4), 2..4);
        assert!(affected_by(&Odd(70..100), 1, 4).is_empty());
        assert!(affected_by(&Odd(Range { start: 3, end: 1 }), 1, 4).is_empty());
        assert_eq!(affected_by(&Odd(9..9), 1, 4), 1..1);
    }
}
