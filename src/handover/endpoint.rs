//! One end of a hand-over socket: whole datagrams, at most one descriptor each, never waiting to send.
//!
//! The kernel throws a descriptor away for which the receiver has no number free. The worker's end can bear that: the master
//! has kept its own, and hears that the connection was refused. The master's end cannot: with what comes there the sender
//! gives up its last one. So that end looks first and takes a datagram only when it holds what came along; until then the
//! datagram stays where it is, and all that is behind it.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::Serialize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::reserve::Reserve;
use super::wire::{Claim, DATAGRAM_MAX, Words};
use crate::sys::reactor::register;
use crate::sys::scm::{self, ControlBuffer, Received};

/// A pair for a worker: the master's end and the worker's.
///
/// # Errors
/// When there is no free descriptor.
pub(crate) fn pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
}

/// A datagram that came.
#[derive(Debug)]
pub(crate) struct Packet<T> {
    /// What is said; `None` if it is not of this protocol.
    pub(crate) said: Option<T>,
    /// The descriptor that came along.
    pub(crate) fd: Option<OwnedFd>,
}

/// Why a datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// The peer does not read fast enough.
    Full,
    /// This process, or its user, is short of something (memory, descriptors under way): the same again a little later.
    Short,
    /// The peer is gone.
    Closed,
}

/// One end of a hand-over socket.
#[derive(Debug)]
pub(crate) struct Endpoint {
    socket: AsyncFd<OwnedFd>,
    /// Of an end that loses no descriptor: what makes room for one.
    reserve: Option<Arc<Reserve>>,
}

/// Room for one datagram and what comes along.
#[derive(Debug)]
struct Room {
    bytes: BytesMut,
    control: ControlBuffer,
}

thread_local! {
    /// Of whoever reads next in this thread: a dispatcher reads from thousands of sockets, one at a time.
    static ROOM: RefCell<Room> = RefCell::new(Room {
        bytes: BytesMut::with_capacity(DATAGRAM_MAX),
        control: ControlBuffer::for_fds(1),
    });
}

impl Endpoint {
    /// Takes over one end, which may lose a descriptor that it has no room for. Needs a running runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Self::with(socket, None)
    }

    /// Takes over an end that takes no datagram before it has room for what comes along. Needs a running runtime.
    pub(crate) fn lossless(socket: OwnedFd, reserve: Arc<Reserve>) -> io::Result<Self> {
        Self::with(socket, Some(reserve))
    }

    fn with(socket: OwnedFd, reserve: Option<Arc<Reserve>>) -> io::Result<Self> {
        Ok(Self {
            reserve,
            socket: register(socket, Interest::READABLE)?,
        })
    }

    /// Sends one datagram, or nothing. The descriptor is duplicated by the kernel; ours stays open.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(crate) fn send(&self, what: &impl Serialize, fd: Option<BorrowedFd<'_>>) -> Result<(), SendError> {
        let text = serde_json::to_vec(what).expect("no map with keys other than strings, and nothing fails");
        let sent = scm::send(self.socket.as_fd(), &[IoSlice::new(&text)], fd.as_slice());
        sent.map(drop)
            .map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN) => SendError::Full,
                Some(Errno::ETOOMANYREFS | Errno::ENOMEM | Errno::ENOBUFS | Errno::EMFILE | Errno::ENFILE) => {
                    SendError::Short
                }
                _ => SendError::Closed,
            })
    }

    /// The next datagram, if one is there; without a wait.
    ///
    /// # Errors
    /// `WouldBlock` if none is there, `UnexpectedEof` if the peer is gone and everything was read, and [`is_short`] if one is
    /// there for whose descriptor there is no room.
    pub(crate) fn try_recv<T: Words>(&self) -> io::Result<Packet<T>> {
        ROOM.with_borrow_mut(|room| self.try_recv_in(room))
    }

    fn try_recv_in<T: Words>(&self, room: &mut Room) -> io::Result<Packet<T>> {
        let Room { bytes, control } = room;
        bytes.clear();
        let mut attempt = || match &self.reserve {
            None => scm::recv(self.socket.as_fd(), bytes, DATAGRAM_MAX, control),
            Some(reserve) => self.recv_whole::<T>(reserve, bytes, control),
        };
        let received = match attempt() {
            // The peer was closed with datagrams of ours unread. The kernel says so once, before it gives out what the peer
            // had sent to us.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => attempt()?,
            outcome => outcome?,
        };
        if received.len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Packet {
            said: serde_json::from_slice(bytes).ok(),
            fd: received.fds.into_iter().next(),
        })
    }

    /// Looks at the next datagram until its descriptor has come, and takes it out then.
    fn recv_whole<T: Words>(
        &self,
        reserve: &Reserve,
        bytes: &mut BytesMut,
        control: &mut ControlBuffer,
    ) -> io::Result<Received> {
        let socket = self.socket.as_fd();
        let mut left = ATTEMPTS_MAX;
        loop {
            if reserve.is_lent() {
                return Err(Errno::EMFILE.into());
            }
            bytes.clear();
            let received = scm::peek(socket, bytes, DATAGRAM_MAX, control)?;
            if received.len > 0 {
                if received.truncated && received.fds.is_empty() {
                    if socket.try_clone_to_owned().is_err() {
                        let said = serde_json::from_slice::<T>(bytes).ok();
                        if !reserve.make_room(said.map_or(Claim::Connection, |said| said.claim())) {
                            return Err(Errno::EMFILE.into());
                        }
                        continue;
                    }
                    left -= 1;
                    if left > 0 {
                        continue;
                    }
                    // There is room, and still it does not come: somebody forbids this one, and will not stop to.
                }
                scm::skip_datagram(socket)?;
            }
            return Ok(received);
        }
    }

    /// Waits for the next datagram. `None` when the peer is gone, and everything it sent was read. Dropping the future
    /// loses nothing.
    pub(crate) async fn recv<T: Words>(&self) -> Option<Packet<T>> {
        self.recv_after(|| ()).await
    }

    /// [`recv`](Self::recv) that does `first` when there is something to take and nothing is taken yet: `first` may take
    /// datagrams itself, which are all older than the one that is returned. May do it several times.
    pub(crate) async fn recv_after<T: Words>(&self, first: impl Fn()) -> Option<Packet<T>> {
        loop {
            let mut ready = self.socket.readable().await.ok()?;
            first();
            match self.try_recv() {
                Ok(packet) => {
                    ready.retain_ready();
                    return Some(packet);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if is_short(&error) => {
                    ready.retain_ready();
                    self.wait_for_room().await;
                }
                Err(_) => return None,
            }
        }
    }

    async fn wait_for_room(&self) {
        let more = async {
            match &self.reserve {
                Some(reserve) => reserve.gained().await,
                None => std::future::pending().await,
            }
        };
        // Nobody tells of a number that becomes free elsewhere in the process.
        tokio::time::timeout(AGAIN, more).await.ok();
    }
}

/// Is there a datagram whose descriptor cannot be taken, because this process has no number free for it?
pub(crate) fn is_short(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EMFILE as i32)
}

/// How soon to look again for a free number.
pub(crate) const AGAIN: Duration = Duration::from_millis(20);
/// How often a descriptor is asked for that does not come although there is room: other threads may be faster a few times.
const ATTEMPTS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::handover::{ToDispatcher, ToServer};

    fn ends() -> (Endpoint, Endpoint) {
        let (ours, theirs) = pair().unwrap();
        (Endpoint::new(ours).unwrap(), Endpoint::new(theirs).unwrap())
    }

    #[actix_rt::test]
    async fn datagrams_keep_their_boundaries_and_their_descriptor() {
        let (ours, theirs) = ends();
        let file = File::open("/dev/null").unwrap();
        for n in 0..10 {
            let fd = (n % 2 == 0).then(|| file.as_fd());
            ours.send(&ToDispatcher::Closed { n }, fd).unwrap();
        }
        for n in 0..10 {
            let packet: Packet<ToDispatcher> = theirs.recv().await.unwrap();
            assert_eq!(packet.said, Some(ToDispatcher::Closed { n }));
            assert_eq!(packet.fd.is_some(), n % 2 == 0);
        }
        drop(ours);
        assert!(theirs.recv::<ToDispatcher>().await.is_none());
    }

    #[actix_rt::test]
    async fn last_words_arrive_although_their_sender_had_not_read_all() {
        let (ours, theirs) = ends();
        ours.send(&ToServer::End { others: true }, None).unwrap();
        for n in 0..3 {
            theirs.send(&ToDispatcher::Closed { n }, None).unwrap();
        }
        drop(theirs);
        for n in 0..3 {
            let packet: Packet<ToDispatcher> = ours.recv().await.expect("not the end yet");
            assert_eq!(packet.said, Some(ToDispatcher::Closed { n }));
        }
        assert!(ours.recv::<ToDispatcher>().await.is_none());
    }

    #[actix_rt::test]
    async fn a_peer_that_does_not_read_or_is_gone_is_an_error_and_nonsense_is_nothing_said() {
        let (ours, theirs) = ends();
        theirs.send(&"nonsense", None).unwrap();
        assert!(ours.recv::<ToDispatcher>().await.unwrap().said.is_none());
        let mut sent = 0;
        while ours.send(&ToServer::End { others: true }, None).is_ok() {
            sent += 1;
        }
        assert!(sent > 64, "the window of un-acknowledged connections fits: {sent}");
        assert_eq!(ours.send(&ToServer::End { others: true }, None), Err(SendError::Full));
        drop(theirs);
        assert_eq!(ours.send(&ToServer::End { others: true }, None), Err(SendError::Closed));
    }
}
