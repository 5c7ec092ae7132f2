//! Connections of a dead worker: how far each one came, by what the kernel has counted.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockaddrLike, SockaddrStorage, getpeername, recv};

use crate::model::Client;
use crate::model::rescue::Counted;
use crate::sys::{socket, tcp};

/// A connection in the master's hands.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) fd: OwnedFd,
    /// How far it had come when it was passed on.
    base: Base,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// Nobody had read or written a byte.
    Fresh,
    /// So many bytes were read and written.
    Used { written: u64, consumed: u64 },
    /// The kernel does not count on it (a Unix path).
    Uncounted,
}

impl Connection {
    /// One that was just accepted.
    pub(super) const fn fresh(fd: OwnedFd) -> Self {
        Self { fd, base: Base::Fresh }
    }

    /// One that a worker had, or may have had.
    pub(super) fn used(fd: OwnedFd) -> Self {
        let base = match tcp::counted(fd.as_fd()) {
            Ok(Counted { written, consumed, .. }) => Base::Used { written, consumed },
            Err(_) => Base::Uncounted,
        };
        Self { fd, base }
    }

    /// Has nobody touched it since it was passed on? A worker on a Unix path acknowledges each connection before it
    /// serves it, so of these none was touched that was not acknowledged.
    pub(super) fn is_untouched(&self) -> bool {
        if getpeername::<SockaddrStorage>(self.fd.as_raw_fd())
            .is_ok_and(|peer| peer.family() == Some(AddressFamily::Unix))
        {
            return true;
        }
        let now = tcp::counted(self.fd.as_fd());
        now.is_ok_and(|now| match self.base {
            Base::Fresh => now.written == 0 && now.consumed == 0,
            Base::Used { written, consumed } => (now.written, now.consumed) == (written, consumed),
            Base::Uncounted => false,
        })
    }

    /// What tells it from any other for as long as the machine runs; `None` where the kernel has no such number.
    pub(super) fn cookie(&self) -> Option<u64> {
        socket::cookie(self.fd.as_fd()).ok()
    }

    /// Who is at its other end.
    pub(super) fn client(&self) -> Client {
        let peer = getpeername::<SockaddrStorage>(self.fd.as_raw_fd()).ok();
        let ip4 = |peer: &SockaddrStorage| peer.as_sockaddr_in().map(|it| std::net::SocketAddr::V4((*it).into()));
        let ip6 = |peer: &SockaddrStorage| peer.as_sockaddr_in6().map(|it| std::net::SocketAddr::V6((*it).into()));
        Client::new(peer.as_ref().and_then(|peer| ip4(peer).or_else(|| ip6(peer))))
    }

    /// Method and path of the request that waits in it, without the query, which is where secrets are.
    pub(super) fn request_line(&self) -> String {
        let mut head = [0; LINE_MAX];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let len = recv(self.fd.as_raw_fd(), &mut head, flags).unwrap_or(0);
        line_of(&head[..len])
    }
}

/// Method and path of the request that begins with these bytes.
fn line_of(head: &[u8]) -> String {
    let end = head
        .iter()
        .position(|byte| matches!(byte, b'\r' | b'\n'))
        .unwrap_or(head.len());
    let line = String::from_utf8_lossy(&head[..end]);
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split(['?', '#']).next().unwrap_or_default();
    format!("{method} {path}").trim_end().to_owned()
}

/// So much of a request line is shown.
const LINE_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn the_line_is_shown_without_its_query() {
        assert_eq!(line_of(b"GET /a/b?token=1 HTTP/1.1\r\nhost: x"), "GET /a/b");
        assert_eq!(line_of(b"POST / HTTP/1.1\n"), "POST /");
        assert_eq!(line_of(b"GET"), "GET");
        assert_eq!(line_of(b"\xff\xfe /x y"), "\u{fffd}\u{fffd} /x");
        assert_eq!(line_of(b""), "");
        let (mut client, server) = pair();
        client.write_all(b"GET /x?y HTTP/1.1\r\n").unwrap();
        let connection = Connection::fresh(server.into());
        nix::poll::poll(
            &mut [nix::poll::PollFd::new(
                connection.fd.as_fd(),
                nix::poll::PollFlags::POLLIN,
            )],
            nix::poll::PollTimeout::from(20_000_u16),
        )
        .unwrap();
        assert_eq!(connection.request_line(), "GET /x");
        assert_eq!(connection.client().address, Some(client.local_addr().unwrap()));
    }

    #[test]
    fn f_007_a_byte_read_or_written_is_a_touch_and_a_byte_that_waits_is_none() {
        let (mut client, server) = pair();
        let copy = server.try_clone().unwrap();
        let connection = Connection::fresh(server.into());
        assert!(connection.is_untouched());
        client.write_all(b"request").unwrap();
        assert!(connection.is_untouched(), "it waits");
        (&copy).write_all(b"x").unwrap();
        assert!(!connection.is_untouched());
        let again = Connection::used(copy.into());
        assert!(again.is_untouched(), "not since then");
        assert_eq!(again.cookie(), connection.cookie());
        assert_ne!(Connection::fresh(pair().1.into()).cookie(), connection.cookie());
        let unix = UnixStream::pair().unwrap().0;
        assert!(Connection::used(unix.into()).is_untouched());
    }
}
