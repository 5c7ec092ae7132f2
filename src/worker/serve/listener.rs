//! A listening socket of either kind, and what the errors of `accept` mean. Whose turn it is is not decided here.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::{Context, Poll};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::conn::{Accepted, Stream};

/// A listening socket in the runtime's hands.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let family = getsockname::<SockaddrStorage>(fd.as_raw_fd())?.family();
        match family {
            Some(AddressFamily::Inet | AddressFamily::Inet6) => {
                let listener = std::net::TcpListener::from(fd);
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Self::Tcp)
            }
            Some(AddressFamily::Unix) => {
                let listener = std::os::unix::net::UnixListener::from(fd);
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Self::Unix)
            }
            other => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("address family {other:?} is neither TCP nor Unix"),
            )),
        }
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(cx).map_ok(|(stream, peer)| Accepted {
                stream: Stream::Tcp(stream),
                peer: Some(peer),
            }),
            Self::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| Accepted {
                stream: Stream::Unix(stream),
                peer: None,
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
                })
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Accepted {
                    stream: Stream::Unix(UnixStream::from_std(stream)?),
                    peer: None,
                })
            }
        }
    }
}

/// What an error of `accept` calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptErrorAction {
    /// It was about that one connection, which is gone.
    TakeNext,
    /// The process (or the system) is out of something: trying at once would spin, on whichever socket.
    PauseAll,
    /// It is about this socket.
    PauseListener,
}

pub(super) fn accept_error_action(errno: Option<i32>) -> AcceptErrorAction {
    match errno.map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => AcceptErrorAction::PauseAll,
        // Besides its own errors accept(2) passes on those that were pending on the new connection.
        Some(
            Errno::ECONNABORTED
            | Errno::ECONNRESET
            | Errno::EINTR
            | Errno::EPROTO
            | Errno::EPERM
            | Errno::ENETDOWN
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::EHOSTUNREACH
            | Errno::ENONET
            | Errno::ENOPROTOOPT,
        ) => AcceptErrorAction::TakeNext,
        Some(_) | None => AcceptErrorAction::PauseListener,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_120_running_out_pauses_all_and_a_lost_connection_nothing() {
        let action = |errno: Errno| accept_error_action(Some(errno as i32));
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM] {
            assert_eq!(action(errno), AcceptErrorAction::PauseAll, "{errno}");
        }
        for errno in [Errno::ECONNABORTED, Errno::EINTR, Errno::EPROTO] {
            assert_eq!(action(errno), AcceptErrorAction::TakeNext, "{errno}");
        }
        assert_eq!(action(Errno::EINVAL), AcceptErrorAction::PauseListener);
        assert_eq!(accept_error_action(None), AcceptErrorAction::PauseListener);
    }

    #[actix_rt::test]
    async fn other_descriptors_are_refused_with_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Listener::adopt(file.into()).is_err());
    }
}
