//! What is different for UDP in the table: who names a chosen port shares it, and nothing can be handed over.

use super::super::refused;
use super::holders::Holders;
use super::{Listener, ListenerTable, Sockets, duplicate};
use crate::model::{ListenAddr, ListenError, ListenOptions, Scheduling};

impl ListenerTable {
    /// A UDP socket that this cluster has at `address` already, asked for by another address (port 0) or by name: whoever
    /// names the port that was chosen shares it. Who wants a socket beside it says so with `reuse_address`.
    pub(super) fn shared_at(
        &self,
        address: &ListenAddr,
        options: &ListenOptions,
    ) -> Option<Result<Listener, ListenError>> {
        let ListenAddr::Udp(asked) = address else { return None };
        if options.reuse_address {
            return None;
        }
        let is_there = |it: &&Listener| it.address.address_type.is_udp() && it.address.socket_addr() == Some(*asked);
        let known = self.listeners.values().find(is_there)?;
        let Sockets::Shared(socket) = &known.sockets else {
            return None;
        };
        Some(known.check_same(options).and_then(|()| {
            Ok(Listener {
                asked: address.clone(),
                options: options.clone(),
                scheduling: known.scheduling,
                address: known.address.clone(),
                holders: Holders::default(),
                path: None,
                sockets: Sockets::Shared(duplicate(socket, address)?),
            })
        }))
    }
}

/// The master accepts connections to hand them over; datagrams it leaves to the workers.
///
/// # Errors
/// When a UDP socket is to be scheduled like connections.
pub(super) fn check_scheduling(address: &ListenAddr, scheduling: Scheduling) -> Result<(), ListenError> {
    let is_udp = match address {
        ListenAddr::Udp(_) | ListenAddr::UdpFd(_) => true,
        ListenAddr::Tcp(_) | ListenAddr::AnyHost { .. } | ListenAddr::Unix(_) | ListenAddr::Fd(_) => false,
    };
    if is_udp && scheduling.hands_over() {
        let detail = "datagrams are not handed over by the master; use shared or per-worker scheduling";
        return Err(refused(address, detail.to_owned()));
    }
    Ok(())
}
