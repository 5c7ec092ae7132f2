//! What if nobody is left?

/// What the master does when no worker is left and none will come by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhenEmpty {
    /// It ends: with success if every worker ended in order, with an error if slots have failed. The default.
    #[default]
    Stop,
    /// It waits for the handle (`fork`, `start_slot`, `shutdown`) or a signal.
    Wait,
}
