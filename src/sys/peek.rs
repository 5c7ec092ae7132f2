//! Reading from a TCP socket without taking the bytes out, and taking them out without reading them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::io::ReadBuf;

use super::tcp;

/// From where [`peek`] begins: each peek moves it on, each byte that is taken out moves it back. `None` turns that off.
///
/// # Errors
/// `EOPNOTSUPP` for TCP before Linux 6.9; else what the kernel says.
pub(crate) fn set_offset(socket: BorrowedFd<'_>, offset: Option<usize>) -> io::Result<()> {
    let value = offset.map_or(Ok(-1), libc::c_int::try_from);
    let value = value.map_err(|_| io::ErrorKind::InvalidInput)?;
    let len = libc::socklen_t::try_from(size_of_val(&value)).expect("an int is short");
    // SAFETY: the kernel reads one int from the place it is given, of the length it is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const value).cast(),
            len,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Can this kernel do it for TCP?
///
/// # Errors
/// As [`set_offset`]; or no socket can be made.
pub(crate) fn probe() -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let probe = socket(AddressFamily::Inet, SockType::Stream, flags, None).or_else(|_| {
        // A machine without IPv4 at all.
        socket(AddressFamily::Inet6, SockType::Stream, flags, None)
    })?;
    set_offset(probe.as_fd(), Some(0))
}

/// The offset that [`set_offset`] has set, and all that has moved it since.
#[cfg(test)]
pub(crate) fn offset(socket: BorrowedFd<'_>) -> io::Result<Option<usize>> {
    let mut value: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of_val(&value)).expect("an int is short");
    // SAFETY: the kernel writes one int to the place it is given, the size of which `len` says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        return Ok(usize::try_from(value).ok());
    }
    Err(io::Error::last_os_error())
}

/// Copies bytes from the offset on into the free part of `buf`, as initialized but not yet filled; they stay in the
/// socket. Zero at the end of the stream, or if nothing is free.
///
/// # Errors
/// `WouldBlock` if there are none; else what the kernel says.
pub(crate) fn peek(socket: BorrowedFd<'_>, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: nothing is read from the free part, and the kernel only writes initialized bytes to it.
    let free = unsafe { buf.unfilled_mut() };
    // SAFETY: the kernel writes at most so many bytes as the free part is long.
    let len = unsafe { libc::recv(socket.as_raw_fd(), free.as_mut_ptr().cast(), free.len(), flags) };
    let Ok(len) = usize::try_from(len) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: the kernel has just written so many.
    unsafe { buf.assume_init(len) };
    Ok(len)
}

/// Takes up to `len` bytes out of a TCP socket, unseen: how many there were.
///
/// # Errors
/// `WouldBlock` if there are none; else what the kernel says.
pub(crate) fn discard(socket: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    // SAFETY: with MSG_TRUNC a TCP socket copies nothing anywhere (tcp(7)), so there need be no memory.
    let len = unsafe { libc::recv(socket.as_raw_fd(), ptr::null_mut(), len, flags) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// Bytes that lie in the socket, peeked or not; or in the pipe.
///
/// # Errors
/// What the kernel says.
pub(crate) fn waiting(socket: BorrowedFd<'_>) -> io::Result<usize> {
    tcp::queued(socket, libc::FIONREAD).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn peeked(socket: &TcpStream) -> io::Result<Vec<u8>> {
        let mut space = [0; 64];
        let mut buf = ReadBuf::new(&mut space);
        let len = peek(socket.as_fd(), &mut buf)?;
        assert!(buf.filled().is_empty());
        Ok(buf.initialized()[..len].to_vec())
    }

    #[test]
    fn peeking_goes_on_where_it_was_and_discarding_moves_it_back() {
        probe().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        let fd = server.as_fd();
        set_offset(fd, Some(0)).unwrap();
        assert_eq!(peeked(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(discard(fd, 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"0123456789").unwrap();
        assert_eq!(peeked(&server).unwrap(), b"0123456789");
        assert_eq!(peeked(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"abcdef").unwrap();
        assert_eq!(discard(fd, 4).unwrap(), 4);
        assert_eq!(waiting(fd).unwrap(), 12);
        assert_eq!(peeked(&server).unwrap(), b"abcdef");
        set_offset(fd, Some(0)).unwrap();
        assert_eq!(peeked(&server).unwrap(), b"456789abcdef");
        drop(client);
        assert_eq!(discard(fd, 100).unwrap(), 12);
        assert_eq!(peeked(&server).unwrap(), b"", "the end");
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    }
}
