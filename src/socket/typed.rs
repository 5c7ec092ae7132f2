//! Descriptors that came with messages, as the sockets they are.
//!
//! What arrived is asked of the kernel, not of the sender. Who expected another kind gets the descriptor back in the
//! error: nothing is closed behind anybody's back. What a kind is, is in [`super::kind`].

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use super::kind::{
    self, STREAM, TCP_LISTENER, TCP_STREAM, UDP_SOCKET, UNIX_DATAGRAM, UNIX_LISTENER, UNIX_STREAM, Wanted,
};
use crate::model::Message;

pub use super::kind::WrongKind;

/// The descriptor is another kind of thing than was asked for. It is still open, and in here: dropping the error closes it.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct WrongDescriptor {
    /// What was wanted and what it is.
    pub kind: WrongKind,
    /// The descriptor.
    pub fd: OwnedFd,
}

/// A message has no descriptor of the kind that was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeError {
    /// None came, or all were taken.
    #[error("the message has no descriptor (left), but {wanted} is needed: send it along, and take it once")]
    Nothing {
        /// What was asked for.
        wanted: &'static str,
    },
    /// The sender's descriptors did not fit into this process's table. The sender's own copies are gone, unless it made a
    /// call: refuse it, and the caller has them back.
    #[error("{wanted} was sent along, but this process had no free descriptor for it: raise RLIMIT_NOFILE")]
    Lost {
        /// What was asked for.
        wanted: &'static str,
    },
    /// The next descriptor of the message is something else. It is in the error, and no longer in the message.
    #[error(transparent)]
    Wrong(#[from] WrongDescriptor),
}

impl TakeError {
    /// The descriptor of another kind, if there was one.
    #[must_use]
    pub fn into_fd(self) -> Option<OwnedFd> {
        match self {
            Self::Wrong(wrong) => Some(wrong.fd),
            Self::Nothing { .. } | Self::Lost { .. } => None,
        }
    }
}

/// Taking descriptors one by one, in the order in which they were sent. Each is checked: family, type, and whether it
/// listens or was connected. Flags like `O_NONBLOCK` are as the sender left them.
impl Message {
    /// The next descriptor, which must be a connected TCP stream. It may have been reset meanwhile; the next read tells.
    ///
    /// # Errors
    /// [`TakeError`]
    pub fn take_tcp_stream(&self) -> Result<TcpStream, TakeError> {
        self.take_socket(&TCP_STREAM)
    }

    /// The next descriptor, which must be a listening TCP socket.
    ///
    /// # Errors
    /// [`TakeError`]
    pub fn take_tcp_listener(&self) -> Result<TcpListener, TakeError> {
        self.take_socket(&TCP_LISTENER)
    }

    /// The next descriptor, which must be a UDP socket, bound and connected or not.
    ///
    /// # Errors
    /// [`TakeError`]
    pub fn take_udp_socket(&self) -> Result<UdpSocket, TakeError> {
        self.take_socket(&UDP_SOCKET)
    }

    /// The next descriptor, which must be a connected Unix stream.
    ///
    /// # Errors
    /// [`TakeError`]
    pub fn take_unix_stream(&self) -> Result<UnixStream, TakeError> {
        self.take_socket(&UNIX_STREAM)
    }

    /// The next descriptor, which must be a listening Unix socket.
    ///
    /// # Errors
    /// [`TakeError`]
    pub fn take_unix_listener(&self) -> Result<UnixListener, TakeError> {
        self.take_socket(&UNIX_LISTENER)
    }

    /// The next descriptor, which must be a Unix datagram socket.
    ///
    /// # Errors
    /// [`TakeError`]
    pub fn take_unix_datagram(&self) -> Result<UnixDatagram, TakeError> {
        self.take_socket(&UNIX_DATAGRAM)
    }

    fn take_socket<T: From<OwnedFd>>(&self, wanted: &Wanted) -> Result<T, TakeError> {
        let wanted_name = wanted.name;
        match self.take_fd() {
            Some(fd) => Ok(into(fd, wanted)?),
            None if self.fds_lost() => Err(TakeError::Lost { wanted: wanted_name }),
            None => Err(TakeError::Nothing { wanted: wanted_name }),
        }
    }
}

/// The connected TCP stream behind `fd`. It may have been reset meanwhile; the next read tells.
///
/// # Errors
/// When it is something else; the error gives it back.
pub fn into_tcp_stream(fd: OwnedFd) -> Result<TcpStream, WrongDescriptor> {
    into(fd, &TCP_STREAM)
}

/// The listening TCP socket behind `fd`.
///
/// # Errors
/// When it is something else; the error gives it back.
pub fn into_tcp_listener(fd: OwnedFd) -> Result<TcpListener, WrongDescriptor> {
    into(fd, &TCP_LISTENER)
}

/// The UDP socket behind `fd`.
///
/// # Errors
/// When it is something else; the error gives it back.
pub fn into_udp_socket(fd: OwnedFd) -> Result<UdpSocket, WrongDescriptor> {
    into(fd, &UDP_SOCKET)
}

/// The connected Unix stream behind `fd`.
///
/// # Errors
/// When it is something else; the error gives it back.
pub fn into_unix_stream(fd: OwnedFd) -> Result<UnixStream, WrongDescriptor> {
    into(fd, &UNIX_STREAM)
}

/// The listening Unix socket behind `fd`.
///
/// # Errors
/// When it is something else; the error gives it back.
pub fn into_unix_listener(fd: OwnedFd) -> Result<UnixListener, WrongDescriptor> {
    into(fd, &UNIX_LISTENER)
}

/// The Unix datagram socket behind `fd`.
///
/// # Errors
/// When it is something else; the error gives it back.
pub fn into_unix_datagram(fd: OwnedFd) -> Result<UnixDatagram, WrongDescriptor> {
    into(fd, &UNIX_DATAGRAM)
}

/// `fd`, if it is a connected stream, TCP or Unix.
///
/// # Errors
/// When it is something else; the error gives it back.
pub(crate) fn into_stream(fd: OwnedFd) -> Result<OwnedFd, WrongDescriptor> {
    into(fd, &STREAM)
}

fn into<T: From<OwnedFd>>(fd: OwnedFd, wanted: &Wanted) -> Result<T, WrongDescriptor> {
    match kind::check(&fd, wanted) {
        Ok(_) => Ok(fd.into()),
        Err(kind) => Err(WrongDescriptor { kind, fd }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use nix::sys::epoll::{Epoll, EpollCreateFlags};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

    use super::super::testing::TestDir;
    use super::*;
    use crate::model::Payload;

    fn found(fd: impl Into<OwnedFd>) -> String {
        into_tcp_stream(fd.into()).unwrap_err().kind.found
    }

    #[test]
    fn f_084_every_wrong_kind_is_refused_and_named() {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let (pipe, _writer) = std::io::pipe().unwrap();
        assert_eq!(found(epoll.0), "no file at all but a kernel object (eventpoll)");
        assert_eq!(found(pipe), "a pipe");
        assert_eq!(found(File::open("/").unwrap()), "a directory");
        assert_eq!(found(File::open("/dev/null").unwrap()), "a character device");
        assert_eq!(found(File::open("/proc/self/exe").unwrap()), "a regular file");
        assert_eq!(
            found(TcpListener::bind("127.0.0.1:0").unwrap()),
            "a listening TCP socket"
        );
        assert_eq!(found(UdpSocket::bind("[::1]:0").unwrap()), "a UDP socket");
        assert_eq!(found(UnixStream::pair().unwrap().0), "a Unix stream");
        assert_eq!(found(UnixDatagram::pair().unwrap().0), "a Unix datagram socket");
    }

    #[test]
    fn f_084_each_conversion_takes_its_own_kind_and_no_other() {
        let dir = TestDir::new();
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let things: [OwnedFd; 6] = [
            stream.into(),
            listener.into(),
            UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            UnixStream::pair().unwrap().0.into(),
            UnixListener::bind(dir.path().join("s")).unwrap().into(),
            UnixDatagram::pair().unwrap().0.into(),
        ];
        let conversions: [fn(OwnedFd) -> bool; 6] = [
            |fd| into_tcp_stream(fd).is_ok(),
            |fd| into_tcp_listener(fd).is_ok(),
            |fd| into_udp_socket(fd).is_ok(),
            |fd| into_unix_stream(fd).is_ok(),
            |fd| into_unix_listener(fd).is_ok(),
            |fd| into_unix_datagram(fd).is_ok(),
        ];
        for (i, thing) in things.iter().enumerate() {
            for (j, convert) in conversions.iter().enumerate() {
                assert_eq!(convert(thing.try_clone().unwrap()), i == j, "thing {i}, conversion {j}");
            }
        }
    }

    #[test]
    fn f_084_a_stream_without_a_peer_is_refused_and_one_that_lost_it_is_not() {
        let fresh = |family| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        assert_eq!(
            found(fresh(AddressFamily::Inet)),
            "a TCP stream that was never connected"
        );
        let unix = into_unix_stream(fresh(AddressFamily::Unix)).unwrap_err();
        assert_eq!(unix.kind.found, "a Unix stream that was never connected");

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (near, listener.accept().unwrap().0)
        };
        // Reset: a peer that closes without lingering.
        let (near, far) = pair();
        let at_once = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&far, sockopt::Linger, &at_once).unwrap();
        drop(far);
        assert!(into_tcp_stream(near.into()).is_ok());
        // Ended in order on both sides.
        let (near, far) = pair();
        near.shutdown(std::net::Shutdown::Both).unwrap();
        drop(far);
        assert!(into_tcp_stream(near.into()).is_ok());
        let (mut near, far) = UnixStream::pair().unwrap();
        drop(far);
        near.write_all(b"x").unwrap_err();
        assert!(into_unix_stream(near.into()).is_ok());
    }

    #[test]
    fn descriptors_of_a_message_are_taken_in_order_and_a_wrong_one_comes_back() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (file, null) = (File::open("/proc/self/exe").unwrap(), File::open("/dev/null").unwrap());
        let number = file.as_raw_fd();
        let fds = vec![socket.into(), file.into(), null.into()];
        let message = Message::new(Payload::from_value("x").unwrap(), None, fds);
        assert_eq!(message.fd_count(), 3);
        message.take_udp_socket().unwrap();
        let error = message.clone().take_udp_socket().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the descriptor is a regular file, but a UDP socket is needed"
        );
        assert_eq!(error.into_fd().map(|fd| fd.as_raw_fd()), Some(number));
        assert_eq!(message.take_fds().len(), 1);
        let error = message.take_tcp_listener().unwrap_err();
        assert!(
            error.to_string().contains("a listening TCP socket is needed"),
            "{error}"
        );
        let lost = Message::new(Payload::from_value("x").unwrap(), None, Vec::new()).with_lost_fds(true);
        assert!(matches!(lost.take_unix_stream(), Err(TakeError::Lost { .. })));
    }
}
