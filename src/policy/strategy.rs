//! Who goes with a worker that failed?
//!
//! Not here: stopping and starting them (that is [`crate::supervision`]), and whether there is a restart at all.

use std::fmt::{self, Debug};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Which specs are stopped and started again together with a worker that failed: OTP's restart strategy, over specs.
///
/// The failed worker itself is always replaced. The answer names the specs, by their position in the ordered list, of
/// which *every* worker goes with it; an empty range means that nobody does. So "all" is `0..specs`, and "the rest"
/// is `failed..specs`. Must be pure: the same question gets the same answer. A range beyond `specs` is cut; a strategy that
/// panics is taken for [`OneForOne`] that time, and told of by [`WorkerError::Strategy`](crate::WorkerError::Strategy).
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

/// A strategy that is a function of your own: [`RestartStrategy::affected`] as a closure.
///
/// ```
/// # use actix_cluster::{Cluster, StrategyFn};
/// // If a worker of the first spec fails, everybody goes with it; any other fails alone.
/// let strategy = StrategyFn::new("first for all", |failed, specs| if failed == 0 { 0..specs } else { 0..0 });
/// let builder = Cluster::builder().strategy(strategy);
/// ```
pub struct StrategyFn<F> {
    name: &'static str,
    affected: F,
}

impl<F> StrategyFn<F>
where
    F: Fn(usize, usize) -> Range<usize> + Send + Sync,
{
    /// The strategy that answers as `affected` does; the name is for logs.
    pub const fn new(name: &'static str, affected: F) -> Self {
        Self { name, affected }
    }
}

impl<F> RestartStrategy for StrategyFn<F>
where
    F: Fn(usize, usize) -> Range<usize> + Send + Sync,
{
    fn affected(&self, failed: usize, specs: usize) -> Range<usize> {
        (self.affected)(failed, specs)
    }
}

impl<F> Debug for StrategyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StrategyFn").field(&self.name).finish()
    }
}

/// Asks a strategy, which may be anybody's code: its answer is cut to what there is.
///
/// # Errors
/// Its panic, in its words.
pub(crate) fn affected_by(strategy: &dyn RestartStrategy, failed: usize, specs: usize) -> Result<Range<usize>, String> {
    match catch_unwind(AssertUnwindSafe(|| strategy.affected(failed, specs))) {
        Ok(answer) => Ok(answer.start.min(specs)..answer.end.min(specs)),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(text.unwrap_or_else(|| "without a message".to_owned()))
        }
    }
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
            assert!(affected_by(&OneForOne, failed, 5).unwrap().is_empty());
            assert_eq!(affected_by(&OneForAll, failed, 5), Ok(0..5));
            assert_eq!(affected_by(&RestForOne, failed, 5), Ok(failed..5));
        }
    }

    #[test]
    fn a_strategy_that_is_wrong_or_panics_harms_nobody_else() {
        assert_eq!(affected_by(&Odd(2..100), 1, 4), Ok(2..4));
        assert!(affected_by(&Odd(70..100), 1, 4).unwrap().is_empty());
        assert!(affected_by(&Odd(Range { start: 3, end: 1 }), 1, 4).unwrap().is_empty());
        assert!(
            affected_by(&Odd(9..9), 1, 4)
                .unwrap_err()
                .contains("a strategy that panics")
        );
        let by_closure = StrategyFn::new("own", |failed, specs| failed..specs.saturating_add(1));
        assert_eq!(affected_by(&by_closure, 1, 4), Ok(1..4));
        assert_eq!(format!("{by_closure:?}"), "StrategyFn(\"own\")");
    }
}
