//! Taking up a listening descriptor that is known by number only, and telling one socket from another.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

/// A duplicate of descriptor `number` of this process, close-on-exec.
///
/// # Errors
/// `EBADF` if no such descriptor is open, `EMFILE` if there is no free one.
pub(crate) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `fcntl(F_DUPFD_CLOEXEC)` touches no memory of ours; with a number that is not open it fails with EBADF.
    let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

/// Makes descriptor `number` of this process close-on-exec, so that no worker inherits it.
///
/// # Errors
/// `EBADF` if no such descriptor is open.
pub(crate) fn close_on_exec(number: RawFd) -> io::Result<()> {
    // SAFETY: `fcntl(F_SETFD)` changes a flag of the descriptor and touches no memory of ours.
    let done = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The number by which the kernel tells this socket from every other one since the machine started; the same for all
/// duplicates of a descriptor.
///
/// # Errors
/// What the kernel says.
pub(crate) fn cookie(socket: BorrowedFd<'_>) -> nix::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).expect("8 fits");
    // SAFETY: the kernel writes at most `len` bytes, the size of the number, and how many into `len`; any bits are a number.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    Errno::result(result).map(|_| cookie)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_number_is_duplicated_and_kept_from_children() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let duplicate = duplicate(one.as_raw_fd()).unwrap();
        assert_ne!(duplicate.as_raw_fd(), one.as_raw_fd());
        close_on_exec(one.as_raw_fd()).unwrap();
    }

    #[test]
    fn numbers_that_are_not_open_are_errors() {
        for number in [-1, RawFd::MAX] {
            assert_eq!(duplicate(number).unwrap_err().raw_os_error(), Some(libc::EBADF));
            assert_eq!(close_on_exec(number).unwrap_err().raw_os_error(), Some(libc::EBADF));
        }
    }
}
