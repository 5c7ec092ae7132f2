//! The end of one slot's socket, while its listener lives on.

use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{ListenerTable, Sockets};
use crate::model::{ListenKey, Slot};

impl ListenerTable {
    /// Closes the socket of `slot`, or gives it back if connections wait in its queue. If the slot comes back it gets another
    /// one.
    pub(crate) fn close_socket_of(&mut self, key: &ListenKey, slot: &Slot) -> Option<OwnedFd> {
        let listener = self.listeners.get_mut(key)?;
        let socket = match &mut listener.sockets {
            Sockets::Group { of_slots, .. } => of_slots.remove(slot)?,
            Sockets::Shared(_) => return None,
        };
        // Datagrams cannot be passed on.
        let passes = !listener.address.address_type.is_udp();
        let mut queue = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let waits = poll(&mut queue, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        (passes && waits).then_some(socket)
    }
}
