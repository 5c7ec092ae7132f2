//! One end of a hand-over socket: whole datagrams, at most one descriptor each, never waiting to send.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use bytes::BytesMut;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::wire::DATAGRAM_MAX;
use crate::sys::reactor::register;
use crate::sys::scm::{self, ControlBuffer};

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
    reading: Mutex<Reading>,
}

#[derive(Debug)]
struct Reading {
    bytes: BytesMut,
    control: ControlBuffer,
}

impl Endpoint {
    /// Takes over one end. Needs a running runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: register(socket, Interest::READABLE)?,
            reading: Mutex::new(Reading {
                bytes: BytesMut::with_capacity(DATAGRAM_MAX),
                control: ControlBuffer::for_fds(1),
            }),
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
    /// `WouldBlock` if none is there, `UnexpectedEof` if the peer is gone and everything was read.
    pub(crate) fn try_recv<T: DeserializeOwned>(&self) -> io::Result<Packet<T>> {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let Reading { bytes, control } = &mut *reading;
        bytes.clear();
        let mut attempt = || scm::recv(self.socket.as_fd(), bytes, DATAGRAM_MAX, control);
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

    /// Waits for the next datagram. `None` when the peer is gone, and everything it sent was read. Dropping the future
    /// loses nothing.
    pub(crate) async fn recv<T: DeserializeOwned>(&self) -> Option<Packet<T>> {
        self.recv_after(|| ()).await
    }

    /// [`recv`](Self::recv) that does `first` when there is something to take and nothing is taken yet: `first` may take
    /// datagrams itself, which are all older than the one that is returned. May do it several times.
    pub(crate) async fn recv_after<T: DeserializeOwned>(&self, first: impl Fn()) -> Option<Packet<T>> {
        loop {
            let mut ready = self.socket.readable().await.ok()?;
            first();
            match self.try_recv() {
                Ok(packet) => {
                    ready.retain_ready();
                    return Some(packet);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(_) => return None,
            }
        }
    }
}

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
