//! User code that may panic: a handler that is called again and again loses the call, not its place.
//!
//! Not here: tasks (the runtime contains their panics), and the decision to end a process (a panic hook's).

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls `handler`; a panic in it ends this call only.
///
/// What the handler left half-done is its own affair, as it is behind a poisoned lock; the framework's state is not in
/// its hands.
pub(crate) fn call(what: &'static str, handler: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(handler)).is_err() {
        // The panic hook has told the message and the place.
        tracing::error!(what, "a handler panicked; it is called again with what comes next");
    }
}

/// What a panic said, if it said a text.
pub(crate) fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n_130_a_handler_that_panics_each_time_gets_everything() {
        let mut seen = Vec::new();
        for number in 0..10 {
            call("test", || {
                seen.push(number);
                panic!("asked to");
            });
        }
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }
}
