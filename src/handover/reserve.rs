//! Descriptors that are kept for the moment when there are no others.
//!
//! Three want the last free numbers of the master, and yield in this order: who accepts (what is not accepted waits in the
//! kernel's queue), who takes connections back (they wait with their keeper, or in the socket), and who starts a worker, for
//! without one nobody serves the other two. So accepting rests while anything of the reserve is used, connections
//! that come back may use a quarter of it, keepers that introduce themselves three quarters, and a birth all of it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::Notify;

use super::wire::Claim;
use crate::clock;
use crate::model::Mono;

/// Open descriptors that mean nothing: closing one makes room.
#[derive(Debug, Default)]
pub(crate) struct Reserve {
    spares: Mutex<Spares>,
    gained: Notify,
}

#[derive(Debug, Default)]
struct Spares {
    fds: Vec<OwnedFd>,
    /// How many there should be; 0 before the first filling.
    wanted: usize,
    /// When it was told that there are too few.
    told: Option<Mono>,
    /// A birth uses them.
    is_lent: bool,
}

/// The whole reserve as free numbers, until this is dropped.
#[derive(Debug)]
pub(crate) struct Loan<'a>(&'a Reserve);

impl Reserve {
    /// Takes what is missing and can be had. Is it whole now?
    pub(crate) fn fill(&self) -> bool {
        let mut spares = self.spares();
        if spares.wanted == 0 {
            spares.wanted = size();
        }
        if spares.is_lent {
            return false;
        }
        let before = spares.fds.len();
        while spares.fds.len() < spares.wanted {
            let Ok(spare) = spare(&spares.fds) else { break };
            spares.fds.push(spare);
        }
        if spares.fds.len() > before {
            self.gained.notify_waiters();
        }
        spares.is_whole()
    }

    /// Is nothing of it used? So it is, too, where it was never filled.
    pub(crate) fn is_whole(&self) -> bool {
        self.spares().is_whole()
    }

    /// Does a birth use it?
    pub(crate) fn is_lent(&self) -> bool {
        self.spares().is_lent
    }

    /// Frees one number for what comes. False if there is none for that.
    pub(crate) fn make_room(&self, claim: Claim) -> bool {
        let mut spares = self.spares();
        let quarter = spares.wanted / 4;
        let for_others = match claim {
            Claim::Connection => spares.wanted - quarter,
            Claim::Keeper => quarter,
        };
        spares.tell();
        let has_more = !spares.is_lent && spares.fds.len() > for_others;
        if has_more {
            spares.fds.pop();
        }
        has_more
    }

    /// Does something that needs a descriptor for a moment.
    pub(crate) fn step_aside<R>(&self, act: impl FnOnce() -> R) -> R {
        let spare = self.spares().fds.pop();
        drop(spare);
        let done = act();
        self.fill();
        done
    }

    /// Frees all of it for a birth. `None` if there is nothing.
    pub(crate) fn lend(&self) -> Option<Loan<'_>> {
        let mut spares = self.spares();
        if spares.fds.is_empty() {
            return None;
        }
        spares.tell();
        spares.is_lent = true;
        spares.fds.clear();
        Some(Loan(self))
    }

    /// Resolves when something was got back.
    pub(crate) async fn gained(&self) {
        self.gained.notified().await;
    }

    fn spares(&self) -> MutexGuard<'_, Spares> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.0.spares().is_lent = false;
        self.0.fill();
    }
}

impl Spares {
    fn tell(&mut self) {
        let now = clock::now();
        if self.told.is_none_or(|told| now.since(told) >= TOLD_EVERY) {
            self.told = Some(now);
            tracing::warn!("the master has no free descriptor: nothing is accepted until it has (raise RLIMIT_NOFILE)");
        }
    }

    fn is_whole(&self) -> bool {
        self.fds.len() >= self.wanted
    }
}

/// One more descriptor, of as little as possible.
fn spare(others: &[OwnedFd]) -> std::io::Result<OwnedFd> {
    match others.first() {
        Some(other) => other.try_clone(),
        // Needs no file, which a changed root may not have.
        None => UnixDatagram::unbound().map(OwnedFd::from),
    }
}

/// As many as a birth needs, with some listeners, and a third of that besides; fewer where few are allowed.
fn size() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft / 16).unwrap_or(usize::MAX).clamp(4, SIZE_MAX)
}

const SIZE_MAX: usize = 32;
/// A shortage may come and go many times in a second.
const TOLD_EVERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_leaves_the_rest_to_keepers_and_those_to_births() {
        let reserve = Reserve::default();
        assert!(reserve.is_whole() && reserve.lend().is_none(), "there is none yet");
        assert!(reserve.fill());
        let wanted = reserve.spares().wanted;
        let count = |claim| (0..).take_while(|_| reserve.make_room(claim)).count();
        assert_eq!(count(Claim::Connection), wanted / 4);
        assert!(!reserve.is_whole());
        assert_eq!(count(Claim::Keeper), wanted - 2 * (wanted / 4));
        {
            let _loan = reserve.lend().expect("a birth may have what is left");
            assert!(reserve.is_lent() && !reserve.fill() && !reserve.make_room(Claim::Keeper));
        }
        assert!(reserve.is_whole(), "the end of a loan fills it");
    }
}
