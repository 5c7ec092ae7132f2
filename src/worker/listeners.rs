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
use crate::worker::handover::Given;
use crate::worker::listener::Lease;
use crate::worker::proxy::Target;

/// A listener this worker may accept on.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) key: ListenKey,
    pub(crate) address: BoundAddress,
    /// Of a standby's listener: none until the worker has a slot.
    pub(crate) fd: Option<OwnedFd>,
    /// Its connections are handed over: it is not to be accepted on.
    pub(crate) handed: bool,
}

/// The socket of a listener that was taken.
#[derive(Debug)]
pub(crate) enum Claim {
    Here(OwnedFd),
    /// It comes with the slot.
    Later(oneshot::Receiver<OwnedFd>),
}

/// Changes of the set of sockets that serve one listener.
#[derive(Debug)]
pub(crate) enum Change {
    /// Accept on this slot's socket too.
    Adopt(Slot, OwnedFd),
    /// Leave it to somebody else.
    Unadopt(Slot),
    /// Serve this connection, which was accepted elsewhere.
    Inject(OwnedFd),
    /// Serve this connection.
    Give(Given),
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
    /// Of a standby, those taken and not here yet: who waits for the socket, or the socket that nobody has asked for.
    awaited: HashMap<String, Awaited>,
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
    /// Where those servers listen.
    targets: HashMap<ListenKey, Target>,
}

/// What is known of a listener before its socket is here.
#[derive(Clone, Debug)]
struct Place {
    address: BoundAddress,
    handed: bool,
}

/// A listener that a standby has taken.
#[derive(Debug)]
enum Awaited {
    /// Nobody has asked for its socket yet.
    Taken(Place),
    Claimed(Place, oneshot::Sender<OwnedFd>),
    Arrived(OwnedFd),
}

impl State {
    fn forget(&mut self, key: &ListenKey) {
        self.adopters.remove(key);
        self.targets.remove(key);
        if let ListenKey::Named(name) = key
            && let Some(Awaited::Taken(place) | Awaited::Claimed(place, _)) = self.awaited.remove(name)
        {
            // It can be taken again, as long as it has not come.
            self.await_listener(name, place);
        }
        if let ListenKey::Asked { address, index } = key
            && let Some(held) = self.indexes.get_mut(address)
        {
            held.remove(index);
        }
    }

    /// A listener that comes with the slot can be taken before.
    fn await_listener(&mut self, name: &str, Place { address, handed }: Place) {
        let key = ListenKey::Named(name.to_owned());
        let bound = Bound {
            key,
            address,
            fd: None,
            handed,
        };
        self.declared.insert(name.to_owned(), bound);
    }
}

/// What a request is answered with.
pub(crate) type Answer = Result<Bound, ListenError>;

#[derive(Debug)]
struct Asked {
    key: ListenKey,
    /// `None` once the asker has given up: the index is free again, and the answer is yet to come.
    reply: Option<oneshot::Sender<Answer>>,
    /// The master holds the share of an earlier request for the same key, which was given up.
    inherited: bool,
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
                    fd: Some(fd),
                    handed: listener.scheduling.hands_over(),
                };
                state.declared.insert(listener.name.clone(), bound);
            }
        }
        for listener in contract.standby.iter().flatten() {
            state.names.push(listener.name.clone());
            let place = Place {
                address: listener.address.clone(),
                handed: listener.scheduling.hands_over(),
            };
            state.await_listener(&listener.name, place);
        }
        Self {
            state: Mutex::new(state),
        }
    }

    /// The socket of a declared listener that was taken before it was here. Asked once.
    pub(crate) fn claim(&self, name: &str) -> Option<Claim> {
        let mut state = self.lock();
        match state.awaited.remove(name)? {
            Awaited::Arrived(fd) => Some(Claim::Here(fd)),
            Awaited::Taken(place) | Awaited::Claimed(place, _) => {
                let (sender, receiver) = oneshot::channel();
                state.awaited.insert(name.to_owned(), Awaited::Claimed(place, sender));
                Some(Claim::Later(receiver))
            }
        }
    }

    /// The socket of a declared listener came with the worker's slot.
    pub(crate) fn arrived(&self, name: &str, fd: OwnedFd) {
        let mut state = self.lock();
        match state.awaited.remove(name) {
            // Its receiver lives as long as the listener is not given back.
            Some(Awaited::Claimed(_, waiting)) => drop(waiting.send(fd)),
            Some(Awaited::Taken(_) | Awaited::Arrived(_)) => {
                state.awaited.insert(name.to_owned(), Awaited::Arrived(fd));
            }
            None => {
                if let Some(bound) = state.declared.get_mut(name) {
                    bound.fd = Some(fd);
                }
            }
        }
    }

    /// Takes a declared listener: once.
    pub(crate) fn take(&self, name: &str) -> Result<Bound, ListenError> {
        let mut state = self.lock();
        let taken = state.declared.remove(name);
        if let Some(bound) = taken.as_ref().filter(|bound| bound.fd.is_none()) {
            let place = Place {
                address: bound.address.clone(),
                handed: bound.handed,
            };
            state.awaited.insert(name.to_owned(), Awaited::Taken(place));
        }
        taken.ok_or_else(|| {
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
                reply: Some(reply),
                inherited: false,
            },
        );
        (id, key, answer)
    }

    /// Nobody waits for the answer any more: the address can be asked for anew at once.
    pub(crate) fn give_up(&self, id: u64) {
        let mut state = self.lock();
        let Some(asked) = state.asked.get_mut(&id) else { return };
        if asked.reply.take().is_some() {
            let key = asked.key.clone();
            state.forget(&key);
        }
    }

    /// The master's answer. The key to give back if nobody waits for it any more.
    ///
    /// Answers come in the order of the requests. A share that is not wanted any more is therefore left to the next
    /// request for the same key, if there is one: to give it back would take it from that one.
    pub(crate) fn bound(
        &self,
        id: u64,
        answer: Result<BoundListener, ListenError>,
        fd: Option<OwnedFd>,
    ) -> Option<ListenKey> {
        let mut state = self.lock();
        let Asked { key, reply, inherited } = state.asked.remove(&id)?;
        let lost = |address| ListenError {
            address,
            errno: Some(nix::libc::EMFILE),
            detail: "the socket was lost on its way: this process has no free descriptor (raise RLIMIT_NOFILE)"
                .to_owned(),
        };
        // Whatever became of the descriptor, the master counts a share of this slot.
        let has_share = answer.is_ok() || inherited;
        let answer = answer.and_then(|BoundListener { key, address, handed }| match fd {
            Some(fd) => Ok(Bound {
                key,
                address,
                fd: Some(fd),
                handed,
            }),
            None => Err(lost(address.to_string())),
        });
        let is_bound = answer.is_ok();
        match reply.map(|reply| reply.send(answer)) {
            Some(Ok(())) if is_bound => return None,
            Some(Ok(()) | Err(_)) => state.forget(&key),
            None => {}
        }
        if !has_share {
            return None;
        }
        match state.asked.values_mut().find(|asked| asked.key == key) {
            Some(next) => {
                next.inherited = true;
                None
            }
            None => Some(key),
        }
    }

    /// The listener is closed here: its index is free again.
    pub(crate) fn forget(&self, key: &ListenKey) {
        self.lock().forget(key);
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

    /// Gives a connection to whoever accepts on `key`; it comes back if there is nobody, or too much waits already.
    pub(crate) fn inject(&self, key: &ListenKey, stream: OwnedFd) -> Result<(), (&'static str, OwnedFd)> {
        use mpsc::error::TrySendError;
        let adopter = self.lock().adopters.get(key).cloned();
        let Some(adopter) = adopter else {
            return Err(("nobody accepts on this listener in this worker", stream));
        };
        match adopter.try_reserve() {
            Ok(place) => {
                place.send(Change::Inject(stream));
                Ok(())
            }
            Err(TrySendError::Full(())) => Err(("too many connections wait to be served", stream)),
            Err(TrySendError::Closed(())) => Err(("nobody accepts on this listener any more", stream)),
        }
    }

    /// Passes a connection to whoever accepts on `key`. It comes back with an address if that is a server that accepts for
    /// itself. If nobody accepts, it is dropped, which refuses it.
    pub(crate) fn give(&self, key: &ListenKey, given: Given) -> Option<(Given, Target)> {
        let (adopter, target) = {
            let state = self.lock();
            (state.adopters.get(key).cloned(), state.targets.get(key).cloned())
        };
        match (adopter, target) {
            (Some(adopter), _) => {
                // Full: somebody else has more time for it.
                adopter.try_send(Change::Give(given)).ok();
                None
            }
            (None, target) => target.map(|target| (given, target)),
        }
    }

    /// The server that accepts on `key` for itself listens there.
    pub(crate) fn listens_at(&self, key: &ListenKey, target: Target) {
        self.lock().targets.insert(key.clone(), target);
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

    fn answer(key: &ListenKey) -> (Result<BoundListener, ListenError>, Option<OwnedFd>) {
        let bound = BoundListener {
            key: key.clone(),
            address: BoundAddress::unix("/x"),
            handed: false,
        };
        (Ok(bound), Some(std::fs::File::open("/dev/null").unwrap().into()))
    }

    fn refusal() -> ListenError {
        ListenError {
            address: "/x".to_owned(),
            errno: None,
            detail: "no".to_owned(),
        }
    }

    #[test]
    fn n_077_a_request_that_nobody_waits_for_any_more_is_given_back() {
        let listeners = Listeners::default();
        let (id, key, waiting) = listeners.ask(&ListenAddr::AnyHost { port: 0 });
        drop(waiting);
        let (bound, fd) = answer(&key);
        assert_eq!(listeners.bound(id, bound, fd), Some(key));
    }

    #[test]
    fn n_076_a_request_that_supersedes_another_gets_its_listener() {
        let listeners = Listeners::default();
        let address = ListenAddr::Tcp(([127, 0, 0, 1], 80).into());
        let (first, key, _) = listeners.ask(&address);
        listeners.give_up(first);
        let (second, same, mut waiting) = listeners.ask(&address);
        assert_eq!(key, same);
        let (bound, fd) = answer(&key);
        assert_eq!(listeners.bound(first, bound, fd), None);
        let (bound, fd) = answer(&key);
        assert_eq!(listeners.bound(second, bound, fd), None);
        assert_eq!(waiting.try_recv().unwrap().unwrap().key, key);
        assert_ne!(listeners.ask(&address).1, key);
    }

    #[test]
    fn n_076_the_last_of_superseded_requests_gives_back_what_any_of_them_got() {
        let listeners = Listeners::default();
        let address = ListenAddr::Tcp(([127, 0, 0, 1], 80).into());
        let (first, key, _first) = listeners.ask(&address);
        listeners.give_up(first);
        let (second, _, _second) = listeners.ask(&address);
        listeners.give_up(second);
        let (third, _, mut waiting) = listeners.ask(&address);
        let (bound, fd) = answer(&key);
        assert_eq!(listeners.bound(first, bound, fd), None);
        assert_eq!(listeners.bound(second, Err(refusal()), None), None);
        assert_eq!(listeners.bound(third, Err(refusal()), None), Some(key.clone()));
        assert!(waiting.try_recv().unwrap().is_err());
        // A failed one leaves nothing.
        let (fourth, same, _waiting) = listeners.ask(&address);
        assert_eq!(key, same);
        assert_eq!(listeners.bound(fourth, Err(refusal()), None), None);
    }

    #[test]
    fn f_103_a_socket_lost_on_its_way_is_given_back() {
        let listeners = Listeners::default();
        let (id, key, mut waiting) = listeners.ask(&ListenAddr::AnyHost { port: 0 });
        let (bound, _) = answer(&key);
        assert_eq!(listeners.bound(id, bound, None), Some(key));
        assert_eq!(waiting.try_recv().unwrap().unwrap_err().errno, Some(nix::libc::EMFILE));
    }
}
