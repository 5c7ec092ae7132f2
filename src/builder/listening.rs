//! Which sockets the master opens, or takes over, before the first worker.
//!
//! Not here: how (that is the `socket` room), and who gets which ([`WorkerSpec::listeners`](crate::WorkerSpec::listeners)).

use super::ClusterBuilder;
use crate::error::BuildError;
use crate::model::{ListenAddr, ListenOptions, ToListenAddr};
use crate::policy::{SchedulingPolicy, for_listener};
use crate::socket::activation;

impl ClusterBuilder {
    /// Binds `address` in the master before the first worker is started; workers take it by `name`. The socket lives
    /// until the cluster ends, so clients are never refused while workers restart. A text is checked by
    /// [`build`](Self::build).
    pub fn listen(self, name: impl Into<String>, address: impl ToListenAddr) -> Self {
        self.listen_with(name, address, ListenOptions::default())
    }

    /// [`listen`](Self::listen) with options.
    pub fn listen_with(mut self, name: impl Into<String>, address: impl ToListenAddr, options: ListenOptions) -> Self {
        let name = name.into();
        let address = address.to_listen_addr().map_err(|source| BuildError::Address {
            name: name.clone(),
            source,
        });
        self.listeners.push((name, address, options));
        self
    }

    /// Binds a UDP socket in the master before the first worker is started; workers take it by `name` with
    /// [`Worker::udp_socket`](crate::Worker::udp_socket). All workers share it: each datagram comes to one of them. It lives until
    /// the cluster ends, so what arrives while workers restart waits in its buffer.
    pub fn listen_udp(self, name: impl Into<String>, address: impl ToListenAddr) -> Self {
        self.listen_udp_with(name, address, ListenOptions::default())
    }

    /// [`listen_udp`](Self::listen_udp) with options. With [`Scheduling::PerWorker`](crate::Scheduling::PerWorker) each slot has a socket of
    /// its own, and the kernel chooses one by the addresses of sender and receiver.
    pub fn listen_udp_with(
        mut self,
        name: impl Into<String>,
        address: impl ToListenAddr,
        options: ListenOptions,
    ) -> Self {
        let name = name.into();
        let address = address.to_listen_addr().and_then(ListenAddr::into_udp);
        let address = address.map_err(|source| BuildError::Address {
            name: name.clone(),
            source,
        });
        self.listeners.push((name, address, options));
        self
    }

    /// [`listen_activated`](Self::listen_activated) for a UDP socket (`ListenDatagram=` of the socket unit).
    pub fn listen_udp_activated(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        let address = match activated(&name) {
            Ok(address) => address.into_udp().map_err(|source| BuildError::Address {
                name: name.clone(),
                source,
            }),
            Err(why) => Err(BuildError::NotActivated {
                name: name.clone(),
                why,
            }),
        };
        self.listeners.push((name, address, ListenOptions::default()));
        self
    }

    /// Chooses the worker for each connection of the declared listener `name` by a policy of your own, a closure
    /// ([`SchedulingFn`](crate::SchedulingFn)) for example: the master accepts and hands each connection over. Takes the place
    /// of the listener's [`scheduling`](ListenOptions::scheduling) option. [`build`](Self::build) tells if there is no such
    /// listener; of two policies for one listener the later counts.
    pub fn schedule(mut self, name: impl Into<String>, policy: impl SchedulingPolicy + 'static) -> Self {
        self.policies.push((name.into(), for_listener(policy)));
        self
    }

    /// Listens on a socket that the service manager has opened (systemd's socket activation): the one whose
    /// `FileDescriptorName=` is `name`, or the only one, if nobody chose a name for it. Clients can then connect before this
    /// program runs, and while it is restarted. All workers share it.
    ///
    /// `LISTEN_PID` of another process counts as none; [`build`](Self::build) tells if there is no such socket, or if another
    /// listener has it, and the start if it is no listening stream socket. Workers do not see `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`.
    pub fn listen_activated(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        let address = activated(&name).map_err(|why| BuildError::NotActivated {
            name: name.clone(),
            why,
        });
        self.listeners.push((name, address, ListenOptions::default()));
        self
    }

    /// [`listen_activated`](Self::listen_activated), or [`listen`](Self::listen) on `address` where no such socket was handed
    /// over, or a listener that was declared before has it: one program for both ways to be started.
    pub fn listen_activated_or(self, name: impl Into<String>, address: impl ToListenAddr) -> Self {
        self.listen_activated_or_with(name, address, ListenOptions::default())
    }

    /// [`listen_activated_or`](Self::listen_activated_or) with options for `address`; what was handed over is as it is. With
    /// [`Scheduling::Shared`](crate::Scheduling::Shared) the socket can be kept for the next start of this program
    /// ([`ClusterHandle::listener_sockets`](crate::ClusterHandle::listener_sockets)).
    pub fn listen_activated_or_with(
        self,
        name: impl Into<String>,
        address: impl ToListenAddr,
        options: ListenOptions,
    ) -> Self {
        let name = name.into();
        match activated(&name) {
            Ok(activated) if !self.has(&activated) => self.listen(name, activated),
            Ok(_) | Err(_) => self.listen_with(name, address, options),
        }
    }

    /// Does a listener have this descriptor already? In a worker, which has nothing of the service manager's, none has.
    fn has(&self, activated: &ListenAddr) -> bool {
        let number = activated.descriptor();
        let mut others = self
            .listeners
            .iter()
            .filter_map(|(_, address, _)| address.as_ref().ok());
        !crate::is_worker() && others.any(|other| other.descriptor() == number)
    }
}

/// A socket of the service manager's. A worker is told by its master what it listens on, and looks for nothing.
fn activated(name: &str) -> Result<ListenAddr, String> {
    if crate::is_worker() {
        return Ok(ListenAddr::Fd(0));
    }
    activation::find(name).map(ListenAddr::Fd)
}
