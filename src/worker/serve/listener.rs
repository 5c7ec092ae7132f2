//! A listening socket of either kind. Whose turn it is is not decided here.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::{Context, Poll};

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::conn::{Accepted, Stream};

/// What kind of connections a listening socket brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Tcp,
    Unix,
}

impl Family {
    /// A connection that somebody else accepted, in the runtime's hands, and its client's address.
    pub(super) fn stream(self, fd: OwnedFd) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp => {
                let stream = std::net::TcpStream::from(fd);
                // A client that is gone has no address any more; its server finds out.
                let peer = stream.peer_addr().ok();
                stream.set_nonblocking(true)?;
                Ok((Stream::Tcp(TcpStream::from_std(stream)?), peer))
            }
            Self::Unix => {
                let stream = std::os::unix::net::UnixStream::from(fd);
                stream.set_nonblocking(true)?;
                Ok((Stream::Unix(UnixStream::from_std(stream)?), None))
            }
        }
    }
}

/// Of which kind a socket is.
///
/// # Errors
/// When it is of no kind we serve.
pub(super) fn family(fd: &OwnedFd) -> io::Result<Family> {
    match getsockname::<SockaddrStorage>(fd.as_raw_fd())?.family() {
        Some(AddressFamily::Inet | AddressFamily::Inet6) => Ok(Family::Tcp),
        Some(AddressFamily::Unix) => Ok(Family::Unix),
        other => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("address family {other:?} is neither TCP nor Unix"),
        )),
    }
}

/// A listening socket in the runtime's hands.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        match family(&fd)? {
            Family::Tcp => {
                let listener = std::net::TcpListener::from(fd);
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Self::Tcp)
            }
            Family::Unix => {
                let listener = std::os::unix::net::UnixListener::from(fd);
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Self::Unix)
            }
        }
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(cx).map_ok(|(stream, peer)| Accepted {
                stream: Stream::Tcp(stream),
                peer: Some(peer),
                passed: None,
            }),
            Self::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| Accepted {
                stream: Stream::Unix(stream),
                peer: None,
                passed: None,
            }),
        }
    }

    pub(super) fn into_std(self) -> Option<StdListener> {
        match self {
            Self::Tcp(listener) => listener.into_std().ok().map(StdListener::Tcp),
            Self::Unix(listener) => listener.into_std().ok().map(StdListener::Unix),
        }
    }
}

impl Accepted {
    /// A connected stream that was accepted elsewhere.
    ///
    /// # Errors
    /// When it cannot be registered with the runtime.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let (stream, peer) = family(&fd)?.stream(fd)?;
        let passed = None;
        Ok(Self { stream, peer, passed })
    }
}

/// A listener out of the runtime's hands; still non-blocking.
pub(super) enum StdListener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl StdListener {
    pub(super) fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Accepted {
                    stream: Stream::Tcp(TcpStream::from_std(stream)?),
                    peer: Some(peer),
                    passed: None,
                })
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Accepted {
                    stream: Stream::Unix(UnixStream::from_std(stream)?),
                    peer: None,
                    passed: None,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn other_descriptors_are_refused_with_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Listener::adopt(file.into()).is_err());
    }
}
