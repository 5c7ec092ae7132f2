//! All listening sockets of the cluster. The master owns them; workers get duplicates.
//!
//! Declared listeners live until shutdown. Those asked for at run time live as long as a slot holds a share. A
//! `PerWorker` socket, once made, outlives the workers of its slot: to close it would reset every connection in its queue.
//! Who serves that queue meanwhile, and when nobody ever will, is decided in [`super::serving`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;

use super::bind::{BoundSocket, Claim, bind_any_host, bind_tcp, prepare_tcp, start_tcp, tcp_address};
use super::kind::{adopt_listener, adopt_udp};
use super::udp::bind_udp;
use super::unix_path::{Patience, UnixPathGuard, absolute, bind_unix};
use super::{common_way_out, failed, refused};
use crate::model::{BoundAddress, ListenAddr, ListenError, ListenKey, ListenOptions, Scheduling, Slot};
pub(crate) use holders::Holder;
use holders::Holders;
pub(crate) use place::Place;

/// How connections on `address` are spread if nobody says otherwise.
#[must_use]
pub(crate) const fn default_scheduling(address: &ListenAddr) -> Scheduling {
    match address {
        ListenAddr::Tcp(_) | ListenAddr::AnyHost { .. } => Scheduling::PerWorker,
        ListenAddr::Unix(_) | ListenAddr::Fd(_) | ListenAddr::Udp(_) | ListenAddr::UdpFd(_) => Scheduling::Shared,
    }
}

/// What a worker gets.
#[derive(Debug)]
pub(crate) struct Handout {
    /// The listener's key as the table has it: a Unix path in it is absolute.
    pub(crate) key: ListenKey,
    /// A duplicate of the socket to accept on, listening already.
    pub(crate) fd: OwnedFd,
    /// Where it listens.
    pub(crate) address: BoundAddress,
    /// `PerWorker`: the socket is the slot's own, and [`super::serving`] has to know of it.
    pub(crate) scheduling: Scheduling,
    /// Its connections are to outlive the worker.
    pub(crate) survives: bool,
    /// How often a request of it may begin, if that is bounded.
    pub(crate) max_runs: Option<u8>,
}

/// The listeners of the cluster.
#[derive(Debug)]
pub(crate) struct ListenerTable {
    listeners: HashMap<ListenKey, Listener>,
    /// What is left of it in this turn.
    patience: Patience,
}

impl Default for ListenerTable {
    fn default() -> Self {
        Self {
            listeners: HashMap::new(),
            patience: Patience::TURN,
        }
    }
}

impl ListenerTable {
    /// Binds a declared listener. From now on until [`close_all`](Self::close_all) clients are queued, not refused.
    ///
    /// # Errors
    /// When the name is taken, the options contradict the address, or the kernel refuses.
    pub(crate) fn declare(
        &mut self,
        name: &str,
        address: &ListenAddr,
        options: &ListenOptions,
    ) -> Result<BoundAddress, ListenError> {
        let key = ListenKey::Named(name.to_owned());
        if self.listeners.contains_key(&key) {
            let detail = format!("a listener named {name:?} is declared already; choose another name");
            return Err(refused(address, detail));
        }
        let cwd = std::env::current_dir().ok();
        let address = with_absolute_path(address, cwd.as_deref())?;
        let listener = self.open(&address, options, &mut Patience::START.clone())?;
        let bound = listener.address.clone();
        self.listeners.insert(key, listener);
        Ok(bound)
    }

    /// A new turn of the master begins: what is asked for in it may take its time, once for all.
    pub(crate) fn begin_turn(&mut self) {
        self.patience = Patience::TURN;
    }

    /// The socket of `slot` on a declared listener. Nobody holds a share of those: they stay until the end.
    ///
    /// # Errors
    /// When there is no such listener, or no socket or duplicate is to be had.
    pub(crate) fn hand_out(&mut self, name: &str, slot: &Slot) -> Result<Handout, ListenError> {
        let key = ListenKey::Named(name.to_owned());
        match self.listeners.get_mut(&key) {
            Some(listener) => listener.hand_out(key, slot),
            None => Err(self.unknown(name)),
        }
    }

    /// The socket of the holder's slot on a listener. One asked for at run time is bound for the first asker and shared by
    /// all later ones; a failed bind leaves nothing behind and may be tried again. `options` count for those only, and
    /// `cwd`, the asker's working directory, for relative Unix paths.
    ///
    /// # Errors
    /// When there is no such declared listener, a limit is reached, the options differ from those it was bound with, or
    /// the kernel refuses.
    pub(crate) fn acquire(
        &mut self,
        key: &ListenKey,
        cwd: Option<&Path>,
        options: &ListenOptions,
        holder: Holder<'_>,
    ) -> Result<Handout, ListenError> {
        let (address, index) = match key {
            ListenKey::Named(name) => return self.hand_out(name, holder.slot),
            ListenKey::Asked { address, index } => (with_absolute_path(address, cwd)?, *index),
        };
        self.check_ask(&address, index, options, holder.slot)?;
        let key = ListenKey::Asked {
            address: address.clone(),
            index,
        };
        // A fresh listener enters the table only when its first asker has its duplicate: an error leaves no trace.
        let mut fresh = if self.listeners.contains_key(&key) {
            None
        } else {
            Some(match self.shared_at(&address, options) {
                Some(known) => known?,
                None => {
                    let mut patience = self.patience;
                    let opened = self.open(&address, options, &mut patience);
                    self.patience = patience;
                    opened?
                }
            })
        };
        let Some(listener) = fresh.as_mut().or_else(|| self.listeners.get_mut(&key)) else {
            return Err(refused(&key, "the listener is closed".to_owned()));
        };
        let handout = listener.hand_out(key.clone(), holder.slot)?;
        listener.holders.add(holder);
        if let Some(listener) = fresh {
            self.listeners.insert(key, listener);
        }
        Ok(handout)
    }

    /// Ends the holder's share; true if it was the last one and the listener is closed. Declared ones stay.
    pub(crate) fn release(&mut self, key: &ListenKey, holder: Holder<'_>) -> bool {
        self.end_shares(key, |holders| holders.let_go(holder))
    }

    /// Ends all shares of a slot that is gone for good; the keys of the listeners that this closed.
    ///
    /// Not for the death of a worker whose slot gets a successor: the shares are the slot's, and wait.
    pub(crate) fn release_slot(&mut self, slot: &Slot) -> Vec<ListenKey> {
        let held = self.listeners.iter().filter(|(_, listener)| listener.holders.has(slot));
        let mut keys: Vec<_> = held.map(|(key, _)| key.clone()).collect();
        keys.retain(|key| self.end_shares(key, |holders| holders.remove(slot)));
        keys.sort_by_cached_key(ToString::to_string);
        keys
    }

    /// A worker is dead. Its slot keeps the shares.
    pub(crate) fn died(&mut self, holder: Holder<'_>) {
        for listener in self.listeners.values_mut() {
            listener.holders.died(holder);
        }
    }

    fn end_shares(&mut self, key: &ListenKey, end: impl FnOnce(&mut Holders)) -> bool {
        let Some(listener) = self.listeners.get_mut(key) else {
            return false;
        };
        end(&mut listener.holders);
        let is_over = listener.holders.is_empty() && matches!(key, ListenKey::Asked { .. });
        if is_over {
            self.listeners.remove(key);
        }
        is_over
    }

    /// Closes all listeners and removes their paths.
    pub(crate) fn close_all(&mut self) {
        self.listeners.clear();
    }

    /// A duplicate of the one socket of a listener on which the master accepts for all; `None` if there is no such
    /// listener.
    ///
    /// # Errors
    /// When there is no free descriptor.
    pub(crate) fn socket_to_accept_on(&self, key: &ListenKey) -> Result<Option<OwnedFd>, ListenError> {
        let listener = self
            .listeners
            .get(key)
            .filter(|listener| listener.scheduling.hands_over());
        match listener.map(|listener| (&listener.sockets, &listener.asked)) {
            Some((Sockets::Shared(socket), asked)) => duplicate(socket, asked).map(Some),
            Some((Sockets::Group { .. }, _)) | None => Ok(None),
        }
    }

    /// How the connections of a listener are spread.
    #[must_use]
    pub(crate) fn scheduling(&self, key: &ListenKey) -> Option<Scheduling> {
        self.listeners.get(key).map(|listener| listener.scheduling)
    }

    /// A duplicate of the socket of `slot`, for the worker that is to adopt it; `None` if there is no such socket.
    ///
    /// # Errors
    /// When there is no free descriptor.
    pub(crate) fn socket_of(&self, key: &ListenKey, slot: &Slot) -> Result<Option<OwnedFd>, ListenError> {
        let Some(listener) = self.listeners.get(key) else {
            return Ok(None);
        };
        let socket = match &listener.sockets {
            Sockets::Shared(socket) => Some(socket),
            Sockets::Group { of_slots, .. } => of_slots.get(slot),
        };
        socket.map(|socket| duplicate(socket, &listener.asked)).transpose()
    }

    /// Duplicates of the sockets that a successor of this program could go on with: of declared listeners that all workers
    /// share, and whose address outlives the program, which a Unix path of our own does not. By name.
    ///
    /// # Errors
    /// When there is no free descriptor.
    pub(crate) fn keepable(&self) -> Result<Vec<(String, OwnedFd)>, ListenError> {
        let mut kept = Vec::new();
        for (key, listener) in &self.listeners {
            if let (Some(name), Sockets::Shared(socket), None) = (declared_name(key), &listener.sockets, &listener.path)
            {
                kept.push((name.to_owned(), duplicate(socket, &listener.asked)?));
            }
        }
        kept.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(kept)
    }

    /// Where the declared listener `name` listens.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn address(&self, name: &str) -> Option<&BoundAddress> {
        self.listeners
            .get(&ListenKey::Named(name.to_owned()))
            .map(|listener| &listener.address)
    }

    /// All listeners, by the text of their keys.
    #[must_use]
    pub(crate) fn addresses(&self) -> Vec<(&ListenKey, &BoundAddress)> {
        let mut all: Vec<_> = self.listeners.iter().map(|(key, it)| (key, &it.address)).collect();
        all.sort_by_cached_key(|(key, _)| key.to_string());
        all
    }

    /// [`Listener::open`], and if we ourselves are the ones who hold the address, the error says so.
    fn open(
        &self,
        address: &ListenAddr,
        options: &ListenOptions,
        patience: &mut Patience,
    ) -> Result<Listener, ListenError> {
        Listener::open(address, options, patience).map_err(|mut error| {
            error.address = address.to_string();
            let is_ours = |(_, bound): &(&ListenKey, &BoundAddress)| match address {
                ListenAddr::Tcp(asked) => bound.socket_addr() == Some(*asked) && !bound.address_type.is_udp(),
                ListenAddr::AnyHost { port } => bound.port == Some(*port) && !bound.address_type.is_udp(),
                ListenAddr::Unix(path) => path.to_str() == Some(&bound.address),
                ListenAddr::Udp(asked) => bound.socket_addr() == Some(*asked) && bound.address_type.is_udp(),
                ListenAddr::Fd(_) | ListenAddr::UdpFd(_) => false,
            };
            let in_use = error.errno == Some(Errno::EADDRINUSE as i32);
            if let Some((key, _)) = self.addresses().into_iter().find(is_ours).filter(|_| in_use) {
                error.detail.push_str(&format!(
                    "; it is the listener {key} of this very cluster: take that one"
                ));
            }
            error
        })
    }

    fn unknown(&self, name: &str) -> ListenError {
        let mut names: Vec<_> = self.listeners.keys().filter_map(declared_name).collect();
        names.sort_unstable();
        let declared = if names.is_empty() {
            "none is".to_owned()
        } else {
            names.join(", ")
        };
        refused(
            &name,
            format!("no listener of this name is declared; declared: {declared}"),
        )
    }
}

#[derive(Debug)]
struct Listener {
    asked: ListenAddr,
    options: ListenOptions,
    scheduling: Scheduling,
    address: BoundAddress,
    holders: Holders,
    // Before the sockets, because fields are dropped in this order: see the guard's own words.
    path: Option<UnixPathGuard>,
    sockets: Sockets,
}

#[derive(Debug)]
enum Sockets {
    Shared(OwnedFd),
    Group {
        /// The port is the concrete one.
        address: SocketAddr,
        /// The first socket, until the first slot takes it.
        spare: Option<OwnedFd>,
        of_slots: HashMap<Slot, OwnedFd>,
    },
}

impl Listener {
    /// Binds, and listens already, so that clients queue from now on.
    fn open(address: &ListenAddr, options: &ListenOptions, patience: &mut Patience) -> Result<Self, ListenError> {
        let scheduling = options.scheduling.unwrap_or(default_scheduling(address));
        udp_shares::check_scheduling(address, scheduling)?;
        let claim = match scheduling {
            Scheduling::PerWorker => Claim::FirstOfGroup,
            Scheduling::Shared
            | Scheduling::RoundRobin
            | Scheduling::LeastConnections
            | Scheduling::TwoChoices
            | Scheduling::Sticky
            | Scheduling::Custom => Claim::Alone,
        };
        let (bound, path) = match address {
            ListenAddr::Tcp(tcp) => (bind_tcp(*tcp, options, claim)?, None),
            ListenAddr::AnyHost { port } => (bind_any_host(*port, options, claim)?, None),
            ListenAddr::Udp(udp) => (bind_udp(*udp, options, claim)?, None),
            ListenAddr::Unix(_) | ListenAddr::Fd(_) | ListenAddr::UdpFd(_) if claim != Claim::Alone => {
                let detail =
                    "one socket for each worker exists for TCP and UDP only; use shared scheduling, or such an address";
                return Err(refused(address, detail.to_owned()));
            }
            ListenAddr::Unix(path) => {
                let (bound, guard) = bind_unix(path, options, patience)?;
                (bound, Some(guard))
            }
            ListenAddr::Fd(number) => (adopt_listener(*number)?, None),
            ListenAddr::UdpFd(number) => (adopt_udp(*number)?, None),
        };
        let BoundSocket { fd, address: bound } = bound;
        if let Some(max) = options.max_runs
            && (max == 0 || !options.survive_kill)
        {
            let detail = "max_runs bounds how often requests begin that survive their worker: it is at least 1, and goes with survive_kill";
            return Err(refused(address, detail.to_owned()));
        }
        if options.survive_kill && bound.socket_addr().is_none() {
            let detail = "connections survive their worker on TCP only, where the kernel counts their bytes; leave \
                          survive_kill out, or use a TCP address";
            return Err(refused(address, detail.to_owned()));
        }
        let sockets = match scheduling {
            Scheduling::PerWorker => Sockets::Group {
                address: tcp_address(&fd).map_err(|errno| failed(address, "read the bound address", errno, ""))?,
                spare: Some(fd),
                of_slots: HashMap::new(),
            },
            Scheduling::Shared
            | Scheduling::RoundRobin
            | Scheduling::LeastConnections
            | Scheduling::TwoChoices
            | Scheduling::Sticky
            | Scheduling::Custom => Sockets::Shared(fd),
        };
        Ok(Self {
            asked: address.clone(),
            options: options.clone(),
            scheduling,
            address: bound,
            holders: Holders::default(),
            path,
            sockets,
        })
    }

    fn hand_out(&mut self, key: ListenKey, slot: &Slot) -> Result<Handout, ListenError> {
        Ok(Handout {
            key,
            fd: self.share(slot)?,
            address: self.address.clone(),
            scheduling: self.scheduling,
            survives: self.options.survive_kill,
            max_runs: self.options.max_runs,
        })
    }

    /// A duplicate of the socket that `slot` accepts on; made now if the slot has none yet.
    fn share(&mut self, slot: &Slot) -> Result<OwnedFd, ListenError> {
        let (address, spare, of_slots) = match &mut self.sockets {
            Sockets::Shared(socket) => return duplicate(socket, &self.asked),
            Sockets::Group {
                address,
                spare,
                of_slots,
            } => (*address, spare, of_slots),
        };
        if let Some(socket) = of_slots.get(slot) {
            return duplicate(socket, &self.asked);
        }
        // The duplicate first, in both cases: if there is no descriptor for it, no socket may be left that already gets
        // connections and that nobody knows of.
        let shared = match spare.take() {
            Some(socket) => match duplicate(&socket, &self.asked) {
                Ok(shared) => (socket, shared),
                Err(error) => {
                    *spare = Some(socket);
                    return Err(error);
                }
            },
            None if self.address.address_type.is_udp() => {
                let socket = bind_udp(address, &self.options, Claim::JoinGroup)?.fd;
                let shared = duplicate(&socket, &self.asked)?;
                (socket, shared)
            }
            None => {
                let socket = prepare_tcp(address, &self.options, Claim::JoinGroup)?;
                let shared = duplicate(&socket, &self.asked)?;
                // The sibling that serves its queue until the slot has a worker needs one more.
                drop(duplicate(&socket, &self.asked)?);
                start_tcp(&socket, address, &self.options)?;
                (socket, shared)
            }
        };
        of_slots.insert(slot.clone(), shared.0);
        Ok(shared.1)
    }
}

fn declared_name(key: &ListenKey) -> Option<&str> {
    match key {
        ListenKey::Named(name) => Some(name),
        ListenKey::Asked { .. } => None,
    }
}

fn with_absolute_path(address: &ListenAddr, cwd: Option<&Path>) -> Result<ListenAddr, ListenError> {
    match address {
        ListenAddr::Unix(path) => absolute(path, cwd).map(ListenAddr::Unix),
        ListenAddr::Tcp(_)
        | ListenAddr::AnyHost { .. }
        | ListenAddr::Fd(_)
        | ListenAddr::Udp(_)
        | ListenAddr::UdpFd(_) => Ok(address.clone()),
    }
}

fn duplicate(socket: &OwnedFd, asked: &ListenAddr) -> Result<OwnedFd, ListenError> {
    socket.try_clone().map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        failed(asked, "duplicate the socket", errno, common_way_out(errno))
    })
}

#[cfg(test)]
mod tests;

mod asking;
mod closing;
mod holders;
mod place;
mod udp_shares;
#[cfg(test)]
mod udp_tests;
