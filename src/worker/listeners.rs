//! The listeners a worker holds: declared ones it was born with, and those it asked the master for.
//!
//! Not here: accepting (that is `serve`), and binding (the master does it).

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::ipc::BoundListener;
use crate::model::{BoundAddress, ListenAddr, ListenError, ListenKey, Slot};
use crate::process::Contract;
use crate::worker::listener::Lease;

/// A listener this worker may accept on.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) key: ListenKey,
    pub(crate) address: BoundAddress,
    pub(crate) fd: OwnedFd,
}

/// Changes of the set of sockets that serve one listener.
#[derive(Debug)]
pub(crate) enum Change {
    /// Accept on this slot's socket too.
    Adopt(Slot, OwnedFd),
    /// Leave it to somebody else.
    Unadopt(Slot),
}

/// Every listener of this worker.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Born with and not taken yet.
    declared: HashMap<String, Bound>,
    /// Names that were declared, for the error of a wrong one.
    names: Vec<String>,
    /// Requests under way.
    asked: HashMap<u64, Asked>,
    last_request: u64,
    /// For each address, which of its listeners this worker holds or has asked for (Node's index).
    indexes: HashMap<ListenAddr, BTreeSet<u32>>,
    /// Who accepts on which listener and can take more sockets.
    adopters: HashMap<ListenKey, mpsc::Sender<Change>>,
    /// Shares of listeners whose sockets were given to a server that accepts for itself.
    kept: Vec<Lease>,
}

type Answer = Result<Bound, ListenError>;

#[derive(Debug)]
struct Asked {
    key: ListenKey,
    reply: oneshot::Sender<Answer>,
}

impl Listeners {
    /// Takes over what the contract hands down.
    pub(crate) fn declared(contract: &Contract) -> Self {
        let mut state = State::default();
        for listener in &contract.listeners {
            state.names.push(listener.name.clone());
            if let Some(fd) = listener.take() {
                let key = ListenKey::Named(listener.name.clone());
                let bound = Bound {
                    key,
                    address: listener.address.clone(),
                    fd,
                };
                state.declared.insert(listener.name.clone(), bound);
            }
        }
        Self {
            state: Mutex::new(state),
        }
    }

    /// Takes a declared listener: once.
    pub(crate) fn take(&self, name: &str) -> Result<Bound, ListenError> {
        let mut state = self.lock();
        state.declared.remove(name).ok_or_else(|| {
            let detail = if state.names.iter().any(|declared| declared == name) {
                "this worker has taken it already; a listener is taken once".to_owned()
            } else if state.names.is_empty() {
                "no listener is declared; declare it with `listen` in the builder, or ask with `bind`".to_owned()
            } else {
                format!("no listener has this name; declared are {}", state.names.join(", "))
            };
            ListenError {
                address: name.to_owned(),
                errno: None,
                detail,
            }
        })
    }

    /// Notes a request: its number, the listener's key, and where the answer comes.
    pub(crate) fn ask(&self, address: &ListenAddr) -> (u64, ListenKey, oneshot::Receiver<Answer>) {
        let mut state = self.lock();
        let held = state.indexes.entry(address.clone()).or_default();
        let index = (0..).find(|index| !held.contains(index)).unwrap_or(u32::MAX);
        held.insert(index);
        state.last_request += 1;
        let id = state.last_request;
        let key = ListenKey::Asked {
            address: address.clone(),
            index,
        };
        let (reply, answer) = oneshot::channel();
        state.asked.insert(
            id,
            Asked {
                key: key.clone(),
                reply,
            },
        );
        (id, key, answer)
    }

    /// The master's answer. The key to give back if nobody waits for it any more.
    pub(crate) fn bound(
        &self,
        id: u64,
        answer: Result<BoundListener, ListenError>,
        fd: Option<OwnedFd>,
    ) -> Option<ListenKey> {
        let asked = self.lock().asked.remove(&id)?;
        let lost = |address| ListenError {
            address,
            errno: Some(nix::libc::EMFILE),
            detail: "the socket was lost on its way: this process has no free descriptor (raise RLIMIT_NOFILE)"
                .to_owned(),
        };
        let answer = answer.and_then(|BoundListener { key, address }| match fd {
            Some(fd) => Ok(Bound { key, address, fd }),
            None => Err(lost(address.to_string())),
        });
        let is_error = answer.is_err();
        let unwanted = asked.reply.send(answer).is_err();
        if is_error || unwanted {
            self.forget(&asked.key);
        }
        // A failed request left nothing with the master, so there is nothing to give back.
        (unwanted && !is_error).then_some(asked.key)
    }

    /// The listener is closed here: its index is free again.
    pub(crate) fn forget(&self, key: &ListenKey) {
        let mut state = self.lock();
        state.adopters.remove(key);
        if let ListenKey::Asked { address, index } = key
            && let Some(held) = state.indexes.get_mut(address)
        {
            held.remove(index);
        }
    }

    /// Keeps a share until the process ends.
    pub(crate) fn keep(&self, lease: Lease) {
        self.lock().kept.push(lease);
    }

    /// Whoever accepts on `key` takes more sockets from the returned receiver.
    pub(crate) fn adopter(&self, key: &ListenKey) -> mpsc::Receiver<Change> {
        let (sender, receiver) = mpsc::channel(CHANGES);
        self.lock().adopters.insert(key.clone(), sender);
        receiver
    }

    /// The master wants a socket served that is not this slot's own, or no longer. If nobody accepts on `key` any more,
    /// the order has crossed our `Release`, on which the master finds somebody else.
    pub(crate) async fn change(&self, key: &ListenKey, change: Change) {
        let adopter = self.lock().adopters.get(key).cloned();
        if let Some(adopter) = adopter {
            adopter.send(change).await.ok();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes under way for one listener.
const CHANGES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n_085_the_second_listener_of_an_address_is_another_one_and_a_closed_ones_place_is_free() {
        let listeners = Listeners::default();
        let address = ListenAddr::AnyHost { port: 0 };
        let ask = || listeners.ask(&address).1;
        let index = |key: &ListenKey| match key {
            ListenKey::Asked { index, .. } => *index,
            ListenKey::Named(_) => unreachable!(),
        };
        let (first, second) = (ask(), ask());
        assert_eq!((index(&first), index(&second)), (0, 1));
        listeners.forget(&first);
        assert_eq!(index(&ask()), 0);
    }

    #[test]
    fn n_077_a_request_that_nobody_waits_for_any_more_is_given_back() {
        let listeners = Listeners::default();
        let (id, key, answer) = listeners.ask(&ListenAddr::AnyHost { port: 0 });
        drop(answer);
        let bound = BoundListener {
            key: key.clone(),
            address: BoundAddress::unix("/x"),
        };
        let fd = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert_eq!(listeners.bound(id, Ok(bound), Some(fd)), Some(key));
    }
}
