//! How long nothing has come on the connections of this process, whoever accepted them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;
use std::{fs, io};

use nix::libc;
use nix::sys::socket::{SockaddrStorage, UnixAddr, getsockname, getsockopt, sockopt};

/// The time since anything came on any stream connection of this process, or since one began; `None` if it has no
/// connection. Unix streams that were accepted on a path do not tell: one of them, or a process that cannot see its own
/// descriptors, has never been quiet.
pub(crate) fn quiet_for() -> Option<Duration> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return Some(Duration::ZERO);
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    let quiet = numbers.filter_map(|number| {
        // SAFETY: the number is only asked for its options. If it is closed meanwhile, or somebody else's by then, the answer is an
        // error or about that one.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        quiet(fd)
    });
    quiet.min()
}

/// The same of one descriptor; `None` if it is no connection, or the client has closed it.
fn quiet(fd: BorrowedFd<'_>) -> Option<Duration> {
    if let Ok(info) = info(fd) {
        let is_open = info.tcpi_state == ESTABLISHED;
        return is_open.then(|| Duration::from_millis(info.tcpi_last_data_recv.into()));
    }
    let name = getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok()?;
    let has_path = name.as_unix_addr().and_then(UnixAddr::path).is_some();
    let is_stream = getsockopt(&fd, sockopt::SockType) == Ok(nix::sys::socket::SockType::Stream);
    let is_listener = getsockopt(&fd, sockopt::AcceptConn) != Ok(false);
    (has_path && is_stream && !is_listener).then_some(Duration::ZERO)
}

fn info(fd: impl AsFd) -> io::Result<libc::tcp_info> {
    // SAFETY: it consists of numbers, for which all zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of_val(&info)).expect("it is short");
    // SAFETY: the kernel writes at most `len` bytes, the size of the structure, and any bits are valid numbers.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(info)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `tcpi_state` of an open connection.
const ESTABLISHED: u8 = 1;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::Instant;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the kernel's clock is compared with ours")]
    fn a_connection_is_quiet_since_it_began_or_since_something_came() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(quiet(listener.as_fd()), None);
        let begun = Instant::now();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        // The kernel counts in ticks, which are at most 10 ms long.
        let since = |begun: Instant| begun.elapsed() + Duration::from_millis(20);
        assert!(quiet(server.as_fd()).unwrap() <= since(begun));
        while quiet(server.as_fd()).unwrap() < Duration::from_millis(60) {
            std::thread::yield_now();
        }
        let sent = Instant::now();
        client.write_all(b"x").unwrap();
        server.peek(&mut [0]).unwrap();
        assert!(quiet(server.as_fd()).unwrap() <= since(sent));
        assert!(quiet_for().unwrap() <= since(sent), "it is one of all");
        client.shutdown(std::net::Shutdown::Write).unwrap();
        while quiet(server.as_fd()).is_some() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn unix_streams_are_never_quiet_where_they_were_accepted() {
        let path = std::env::temp_dir().join(format!("quiet-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let server = listener.accept().unwrap().0;
        fs::remove_file(&path).unwrap();
        assert_eq!(quiet(server.as_fd()), Some(Duration::ZERO));
        assert_eq!(quiet(client.as_fd()), None);
        assert_eq!(quiet(listener.as_fd()), None);
        let (left, _right) = UnixStream::pair().unwrap();
        assert_eq!(quiet(left.as_fd()), None);
    }
}
