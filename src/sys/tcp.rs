//! What the kernel has counted of a TCP connection.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

use super::peek;
use crate::model::rescue::Counted;

/// What was written to and consumed from an accepted TCP connection since it began.
///
/// Only for connections that were accepted: the kernel's counters begin elsewhere in those that were made by `connect`.
///
/// # Errors
/// `ENOTCONN` when the server's side is closed already, or the connection is broken; `ENOTSUP` where the kernel does not
/// count (a filter, or a system that only looks like Linux); else what the kernel says.
pub(crate) fn counted(socket: BorrowedFd<'_>) -> io::Result<Counted> {
    // Several calls are no one moment: bytes may arrive, or be acknowledged, between them. Until nothing moved. `TCP_INFO`
    // itself is none either (the kernel reads the state before it locks the socket), so that the client's end could be in its
    // counters and not in its state: twice the same is one moment.
    for _ in 0..TRIES {
        let earlier = Info::of(socket)?;
        let before = (queued(socket, libc::FIONREAD)?, queued(socket, libc::TIOCOUTQ)?);
        let info = Info::of(socket)?;
        let after = (queued(socket, libc::FIONREAD)?, queued(socket, libc::TIOCOUTQ)?);
        if before != after || earlier != info {
            continue;
        }
        let is_ended = match info.state {
            ESTABLISHED => false,
            CLOSE_WAIT => true,
            _ => return Err(Errno::ENOTCONN.into()),
        };
        let (waiting, unacknowledged) = after;
        return Ok(Counted {
            written: info.acknowledged + unacknowledged,
            // The end that the client has sent counts as a byte received, but not as one that waits.
            consumed: info.received.saturating_sub(waiting + u64::from(is_ended)),
            waiting,
            is_ended,
        });
    }
    Err(Errno::EAGAIN.into())
}

/// What was peeked is seen again by the next reader: `SO_PEEK_OFF` belongs to the socket, not to the process.
pub(super) fn forget_peeking(socket: BorrowedFd<'_>) {
    // A kernel without it on TCP never let anybody set it.
    peek::set_offset(socket, None).ok();
}

/// Breaks the connection off at once, whoever has descriptors of it: the client is told of an error.
pub(super) fn reset(socket: BorrowedFd<'_>) {
    // SAFETY: all zero is an address of no family, which is how a connection is taken back; the kernel only reads it.
    unsafe {
        let none: libc::sockaddr = std::mem::zeroed();
        let len = libc::socklen_t::try_from(size_of_val(&none)).expect("sixteen fits");
        // It fails only if it is broken already.
        libc::connect(socket.as_raw_fd(), &raw const none, len);
    }
}

/// The state and the two long counters of `struct tcp_info`; libc's own definition ends before them.
#[derive(PartialEq, Eq)]
struct Info {
    state: u8,
    acknowledged: u64,
    received: u64,
}

impl Info {
    fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let mut words = [0_u64; INFO_WORDS];
        let mut len = libc::socklen_t::try_from(size_of_val(&words)).expect("136 fits");
        // SAFETY: the kernel writes at most `len` bytes, the size of the array, and how many into `len`; any bits are
        // valid numbers.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                words.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        if usize::try_from(len).unwrap_or(0) < size_of_val(&words) {
            return Err(Errno::ENOTSUP.into());
        }
        Ok(Self {
            state: words[0].to_ne_bytes()[0],
            acknowledged: words[INFO_WORDS - 2],
            received: words[INFO_WORDS - 1],
        })
    }
}

pub(super) fn queued(socket: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one int to the place they are given.
    if unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut bytes) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// `tcpi_bytes_acked` begins at byte 120 and `tcpi_bytes_received` at 128 (Linux 4.1, never moved since: it is ABI).
const INFO_WORDS: usize = 136 / 8;
/// `tcpi_state`, the first byte.
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;
/// Each try takes two microseconds; a client that sends in every one of them would have to be faster than the machine.
const TRIES: usize = 1000;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn wait(stream: &TcpStream) {
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(20_000_u16)).unwrap();
    }

    fn of(stream: &TcpStream) -> Counted {
        counted(stream.as_fd()).unwrap()
    }

    #[test]
    fn every_byte_counts_once_and_the_end_of_the_client_counts_nothing() {
        let (mut client, mut server) = pair();
        let mut expected = Counted::default();
        assert_eq!(of(&server), expected);
        client.write_all(b"0123456789").unwrap();
        wait(&server);
        expected.waiting = 10;
        assert_eq!(of(&server), expected);
        server.peek(&mut [0; 10]).unwrap();
        assert_eq!(of(&server), expected);
        server.read_exact(&mut [0; 4]).unwrap();
        (expected.waiting, expected.consumed) = (6, 4);
        assert_eq!(of(&server), expected);
        server.write_all(b"abc").unwrap();
        expected.written = 3;
        assert_eq!(of(&server), expected);
        client.read_exact(&mut [0; 3]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        server.read_exact(&mut [0; 6]).unwrap();
        wait(&server);
        (expected.waiting, expected.consumed, expected.is_ended) = (0, 10, true);
        assert_eq!(of(&server), expected);
    }

    #[test]
    fn the_end_of_the_client_counts_nothing_at_whatever_moment_it_comes() {
        for _ in 0..1000 {
            let (client, server) = pair();
            std::thread::scope(|scope| {
                scope.spawn(|| client.shutdown(Shutdown::Write).unwrap());
                loop {
                    let now = of(&server);
                    assert_eq!(now.consumed, 0);
                    if now.is_ended {
                        break;
                    }
                }
            });
        }
    }

    #[test]
    fn what_the_client_does_not_read_is_written_all_the_same() {
        let (_client, mut server) = pair();
        server.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(len) = server.write(&[0; 65_536]) {
            written += len as u64;
        }
        assert_eq!(of(&server).written, written);
    }

    #[test]
    fn a_connection_that_the_server_has_closed_is_none() {
        let (_client, server) = pair();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(
            counted(server.as_fd()).unwrap_err().raw_os_error(),
            Some(libc::ENOTCONN)
        );
        let (left, _right) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(counted(left.as_fd()).is_err());
    }
}
