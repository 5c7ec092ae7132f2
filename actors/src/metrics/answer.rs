//! What workers are answered with when they ask for the text: not older than a moment.
//!
//! Their questions come by the queue of their reports, and a flood of the one is not to crowd out the other.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::clock::Instant;

/// The last text, and when it was made.
#[derive(Debug, Default)]
pub(super) struct Answer {
    last: Mutex<Option<(Instant, Arc<str>)>>,
}

impl Answer {
    /// The text, rendered anew if the last one is too old.
    pub(super) fn at(&self, now: Instant, render: impl FnOnce() -> String) -> Arc<str> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, text)) = &*last
            && now.saturating_duration_since(*made) < AGE_MAX
        {
            return Arc::clone(text);
        }
        let text: Arc<str> = render().into();
        *last = Some((now, Arc::clone(&text)));
        text
    }
}

/// How old an answer may be.
const AGE_MAX: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_flood_of_questions_costs_one_rendering_in_a_while() {
        let (answer, start, rendered) = (Answer::default(), Instant::now(), Cell::new(0));
        let ask = |after| {
            answer.at(start + after, || {
                rendered.set(rendered.get() + 1);
                rendered.get().to_string()
            })
        };
        for _ in 0..1_000 {
            assert_eq!(&*ask(AGE_MAX / 2), "1");
        }
        // The age counts from the rendering on.
        assert_eq!(&*ask(AGE_MAX), "1");
        assert_eq!(&*ask(AGE_MAX / 2 + AGE_MAX), "2");
        assert_eq!(rendered.get(), 2);
    }
}
