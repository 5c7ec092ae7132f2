//! When a worker's channel lay unread although something was in it, because a subscriber that must not lose messages was full.
//!
//! Whoever judges a worker by what it says, or does not, takes these times off. Not here: why nothing was read.

use std::time::Duration;

use crate::clock;
use crate::master::Link;
use crate::model::Mono;

/// The times of one worker so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unread {
    /// It is so now.
    since: Option<Mono>,
    /// When it was so last.
    until: Option<Mono>,
    /// How long all those that are over lasted.
    past: Duration,
}

impl Unread {
    /// One that was over at `until`, if there was one.
    #[cfg(feature = "test-util")]
    pub(crate) const fn over_at(until: Option<Mono>) -> Self {
        Self {
            since: None,
            until,
            past: Duration::ZERO,
        }
    }

    const fn begin(&mut self, now: Mono) {
        self.since = Some(now);
    }

    fn end(&mut self, now: Mono) {
        if let Some(since) = self.since.take() {
            self.past = self.past.saturating_add(now.since(since));
            self.until = Some(now);
        }
    }

    /// Until when it was so; that is `now`, if it is.
    pub(crate) const fn until(&self, now: Mono) -> Option<Mono> {
        if self.since.is_some() { Some(now) } else { self.until }
    }

    /// How long it has been so, together.
    pub(crate) fn total(&self, now: Mono) -> Duration {
        let present = self.since.map_or(Duration::ZERO, |since| now.since(since));
        self.past.saturating_add(present)
    }
}

/// The time from the making of this until its end is one of them.
pub(crate) struct Unreading<'a>(&'a Link);

impl<'a> Unreading<'a> {
    pub(crate) fn begin(link: &'a Link) -> Self {
        link.change().unread.begin(clock::now());
        Self(link)
    }
}

impl Drop for Unreading<'_> {
    fn drop(&mut self) {
        self.0.change().unread.end(clock::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_and_the_last_one_lasts_until_now() {
        let ms = Duration::from_millis;
        let at = |ms| Mono::new(Duration::from_millis(ms));
        let mut unread = Unread::default();
        assert_eq!((unread.until(at(5)), unread.total(at(5))), (None, ms(0)));
        unread.begin(at(10));
        assert_eq!((unread.until(at(15)), unread.total(at(15))), (Some(at(15)), ms(5)));
        unread.end(at(20));
        unread.end(at(30));
        assert_eq!((unread.until(at(40)), unread.total(at(40))), (Some(at(20)), ms(10)));
        unread.begin(at(50));
        assert_eq!((unread.until(at(51)), unread.total(at(51))), (Some(at(51)), ms(11)));
    }
}
