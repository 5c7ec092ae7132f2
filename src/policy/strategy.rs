//! Who goes with a worker that failed?
//!
//! Not here: stopping and starting them (that is [`crate::supervision`]), and whether there is a restart at all.

use std::fmt::Debug;
use std::ops::Range;

/// Which specs are stopped and started again together with a worker that failed: OTP's restart strategy, over specs.
///
/// The failed worker itself is always replaced. The answer names the specs, by their position in the ordered list, of
/// which *every* worker goes with it; an empty range means that nobody does. So "all" is `0..specs`, and "the rest"
/// is `failed..specs`. Must be pure: the same question gets the same answer. A range beyond `specs` is cut.
///
/// A cluster has one spec in this version, so nobody asks yet.
pub trait RestartStrategy: Debug + Send {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o_030_one_for_one_touches_nobody_else() {
        let strategy: Box<dyn RestartStrategy> = Box::new(OneForOne);
        for failed in 0..5 {
            assert!(strategy.affected(failed, 5).is_empty());
        }
    }
}
