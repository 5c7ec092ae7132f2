//! Which listeners of this worker have connections that outlive it, and who else serves them.

use std::future::Future;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket, sockopt};

use crate::model::ListenKey;
use crate::sys::journal::journal;
use crate::sys::peek;
use crate::worker::context::Worker;
use crate::worker::listener::Listener;
use crate::worker::serve::survival::{Giving, Others, Survival};

/// The other workers, by way of the master.
struct Siblings {
    worker: Worker,
    key: ListenKey,
}

impl Others for Siblings {
    fn wanted(&self) -> Pin<Box<dyn Future<Output = bool> + '_>> {
        Box::pin(self.worker.may_hand_back())
    }

    fn give(&self, connection: BorrowedFd<'_>, strikes: u8) -> Giving {
        self.worker.hand_back(&self.key, connection, strikes)
    }
}

impl Listener {
    /// How this listener's connections survive; `None` if they do not: it was not asked for, or there is no keeper.
    pub(crate) fn survival(&self, is_repeatable: fn(&str, &str) -> bool) -> Option<Survival> {
        let journal = journal()?;
        let ListenKey::Named(name) = self.key() else {
            return None;
        };
        let worker = self.worker();
        let contract = worker.inner.contract;
        let here = contract.listeners.iter().map(|it| (&it.name, it.survives));
        let awaited = contract.standby.iter().flatten().map(|it| (&it.name, it.survives));
        let place = here.chain(awaited).position(|it| it == (name, true))?;
        if let Err(err) = peek::probe() {
            tracing::warn!(%err, text = name, "requests cannot be kept in this kernel (Linux 6.9 can): only unread ones are saved");
            return None;
        }
        // Those that are accepted inherit it.
        let buffer = match self.socket() {
            Some(socket) => getsockopt(socket, sockopt::RcvBuf).ok()?,
            // It comes with the slot, and nobody has set anything on it.
            None => {
                let like_it = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).ok()?;
                getsockopt(&like_it, sockopt::RcvBuf).ok()?
            }
        };
        let others = Siblings {
            worker: worker.clone(),
            key: self.key().clone(),
        };
        let place = u32::try_from(place).ok()?;
        Some(Survival::new(journal, place, is_repeatable, buffer, Arc::new(others)))
    }
}
