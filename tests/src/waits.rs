//! Waits for what comes in no fixed order, or takes longer than a moment; and an address at which nobody else is waited for.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::master::{Master, SOON};
use crate::probe::Order;
use crate::seen::Seen;
use crate::{Deadline, limit};

/// How long an order may take: the longer ones go on until many workers have come and gone, one after the other.
pub(crate) const fn patience_with(order: &Order) -> Duration {
    match order {
        Order::Reload(_) | Order::Scale(_) => LONG,
        _ => SOON,
    }
}

impl Master {
    /// An address of this scenario's own: on it nobody else takes a port that is free again.
    #[must_use]
    pub fn own_host(&self) -> Ipv4Addr {
        Ipv4Addr::from(0x7f00_0000 | (self.pid() & 0x00ff_ffff))
    }

    /// Waits until `is_so` of everything shown so far. For what comes in no fixed order: an event is shown by one task,
    /// what another subscriber says of it by a second one.
    ///
    /// # Panics
    /// If a line is waited for longer than `SOON`, or it is not so after twelve times that.
    pub fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Deadline::after(limit(12 * SOON));
        while !is_so(self) {
            if deadline.is_over() {
                self.fail(&format!("lines without end, and no {what}"));
            }
            self.expect_line(what, SOON, |_| true);
        }
    }

    /// The first event of this kind about this worker, seen already or waited for.
    pub fn sees(&self, worker: u64, kind: &str) -> Seen {
        let first = |master: &Self| {
            master
                .seen(kind)
                .into_iter()
                .find(|seen| seen.0["worker"]["id"] == worker)
        };
        self.until(&format!("{kind} of worker {worker}"), |master| first(master).is_some());
        first(self).expect("it was waited for")
    }

    /// Waits until this text was said, which may be some time ago.
    pub fn hears(&self, text: &str) {
        self.until(&format!("{text:?} to be said"), |master| master.count_said(text) > 0);
    }
}

/// For a few boots in a row.
const LONG: Duration = Duration::from_secs(30);
