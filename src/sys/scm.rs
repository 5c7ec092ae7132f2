//! Bytes and descriptors over a Unix socket, of a stream or of packets: `sendmsg` and `recvmsg`, never blocking.
//!
//! Knows nothing about frames. Written on libc rather than nix, because the bytes are received straight into the spare
//! room of a buffer, which nix's slices of initialised bytes cannot express.

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use bytes::{BufMut, BytesMut};
use nix::libc;

/// The most descriptors one message can carry (`SCM_MAX_FD` of the kernel).
pub(crate) const FDS_MAX: usize = 253;

/// What one `recv` brought.
#[derive(Debug)]
pub(crate) struct Received {
    /// Bytes appended to the buffer; 0 means end of file.
    pub(crate) len: usize,
    /// The descriptors, all of them close-on-exec from birth.
    pub(crate) fds: Vec<OwnedFd>,
    /// The kernel had more descriptors than could be delivered (no room in the table of descriptors, mostly).
    pub(crate) truncated: bool,
}

/// Room for the descriptors of one message, kept between calls.
#[derive(Debug)]
pub(crate) struct ControlBuffer(Box<[u64]>);

impl ControlBuffer {
    /// Room for as many descriptors as a message can carry.
    pub(crate) fn new() -> Self {
        Self::for_fds(FDS_MAX)
    }

    /// Room for `count` descriptors, which because of alignment may take one more.
    pub(crate) fn for_fds(count: usize) -> Self {
        // Words of eight bytes, because the kernel's headers in here must be aligned like that.
        Self(vec![0; control_len(count.min(FDS_MAX)).div_ceil(8)].into_boxed_slice())
    }
}

/// Sends what fits of `bytes`, with `fds` riding on the first byte. An error means that nothing was sent.
///
/// # Errors
/// Besides the kernel's: `InvalidInput` for descriptors without a byte to ride on, which the kernel would silently drop
/// on a stream, and for more than [`FDS_MAX`] of them.
pub(crate) fn send<F: AsFd>(socket: BorrowedFd<'_>, bytes: &[IoSlice<'_>], fds: &[F]) -> io::Result<usize> {
    if fds.len() > FDS_MAX || (!fds.is_empty() && bytes.iter().all(|slice| slice.is_empty())) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control = [0_u64; CONTROL_WORDS];
    // SAFETY: `msghdr` is a C struct of integers and pointers, for which all bits zero are valid values.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    // `IoSlice` is guaranteed to be ABI compatible with `iovec`; the kernel only reads through it.
    header.msg_iov = bytes.as_ptr().cast_mut().cast();
    header.msg_iovlen = bytes.len() as _;
    if !fds.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control_len(fds.len()) as _;
        // SAFETY: the buffer is zeroed, aligned and at least `msg_controllen` long (checked above: at most FDS_MAX), so
        // the first header exists and the data behind it has room for `fds.len()` descriptors.
        unsafe {
            let head = libc::CMSG_FIRSTHDR(&raw const header);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = libc::CMSG_LEN(rights_len(fds.len())) as _;
            let data = libc::CMSG_DATA(head).cast::<RawFd>();
            for (index, fd) in fds.iter().enumerate() {
                data.add(index).write_unaligned(fd.as_fd().as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: the header points to slices and a control buffer that live until after the call.
        let sent = unsafe {
            libc::sendmsg(
                socket.as_raw_fd(),
                &raw const header,
                libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            )
        };
        if let Some(sent) = check(sent)? {
            return Ok(sent);
        }
    }
}

/// Appends at most `limit` bytes to `buf`, and returns the descriptors that came along.
pub(crate) fn recv(
    socket: BorrowedFd<'_>,
    buf: &mut BytesMut,
    limit: usize,
    control: &mut ControlBuffer,
) -> io::Result<Received> {
    receive(socket, buf, limit, control, 0)
}

/// As [`recv`], but what was looked at stays in the socket, descriptors included: those that are returned are copies. So
/// one for which there is no room now is not lost.
pub(crate) fn peek(
    socket: BorrowedFd<'_>,
    buf: &mut BytesMut,
    limit: usize,
    control: &mut ControlBuffer,
) -> io::Result<Received> {
    receive(socket, buf, limit, control, libc::MSG_PEEK)
}

/// Throws away the datagram that is next, with all that came along.
pub(crate) fn skip_datagram(socket: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        // SAFETY: with a length of 0 the kernel writes nothing to the (null) place.
        let len = unsafe { libc::recv(socket.as_raw_fd(), ptr::null_mut(), 0, libc::MSG_DONTWAIT) };
        if check(len)?.is_some() {
            return Ok(());
        }
    }
}

fn receive(
    socket: BorrowedFd<'_>,
    buf: &mut BytesMut,
    limit: usize,
    control: &mut ControlBuffer,
    how: libc::c_int,
) -> io::Result<Received> {
    buf.reserve(limit);
    loop {
        let mut slice = libc::iovec {
            iov_base: buf.spare_capacity_mut().as_mut_ptr().cast(),
            iov_len: limit,
        };
        // SAFETY: `msghdr` is a C struct of integers and pointers, for which all bits zero are valid values.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut slice;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&*control.0) as _;
        // SAFETY: `reserve` made at least `limit` bytes of room, and both buffers live until after the call.
        let len = unsafe {
            libc::recvmsg(
                socket.as_raw_fd(),
                &raw mut header,
                how | libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT,
            )
        };
        let Some(len) = check(len)? else { continue };
        // SAFETY: the kernel wrote `len` bytes, not more than `limit`, at the start of the spare room.
        unsafe { buf.advance_mut(len) };
        return Ok(Received {
            len,
            fds: take_fds(&header),
            truncated: header.msg_flags & libc::MSG_CTRUNC != 0,
        });
    }
}

/// Takes over every descriptor the kernel put behind `header`, whatever its number: one that is not taken is leaked.
fn take_fds(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel filled header and control buffer, so the macros stay within `msg_controllen`; each descriptor
    // behind SCM_RIGHTS was made for this call and has no other owner.
    unsafe {
        let mut head = libc::CMSG_FIRSTHDR(header);
        while !head.is_null() {
            if (*head).cmsg_level == libc::SOL_SOCKET && (*head).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(head).cast::<RawFd>();
                let len = ((*head).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                for index in 0..len / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(ptr::read_unaligned(data.add(index))));
                }
            }
            head = libc::CMSG_NXTHDR(header, head);
        }
    }
    fds
}

/// The outcome of a call: a length, `None` if a signal interrupted it, or the error.
fn check(result: libc::ssize_t) -> io::Result<Option<usize>> {
    match usize::try_from(result) {
        Ok(len) => Ok(Some(len)),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            error => Err(error),
        },
    }
}

fn rights_len(count: usize) -> u32 {
    u32::try_from(count * size_of::<RawFd>()).expect("at most 253 descriptors of four bytes")
}

fn control_len(count: usize) -> usize {
    // SAFETY: pure arithmetic; libc marks all of these macros unsafe.
    unsafe { libc::CMSG_SPACE(rights_len(count)) as usize }
}

/// `CMSG_SPACE` of 253 descriptors in words: a header of 16 bytes and 1012 bytes, rounded up.
const CONTROL_WORDS: usize = (16 + FDS_MAX * 4).div_ceil(8);

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;

    fn files(count: usize) -> Vec<OwnedFd> {
        (0..count)
            .map(|_| OwnedFd::from(File::open("/dev/null").unwrap()))
            .collect()
    }

    #[test]
    fn f_086_descriptors_need_a_byte_and_at_most_253_pass() {
        let (left, right) = UnixStream::pair().unwrap();
        let line = [IoSlice::new(b"x")];
        let fds = files(254);
        assert!(send(left.as_fd(), &[], &fds[..1]).is_err());
        assert!(send(left.as_fd(), &[IoSlice::new(b"")], &fds[..1]).is_err());
        assert!(send(left.as_fd(), &line, &fds).is_err());
        assert_eq!(send(left.as_fd(), &line, &fds[..253]).unwrap(), 1);
        let mut buf = BytesMut::new();
        let got = recv(right.as_fd(), &mut buf, 10, &mut ControlBuffer::new()).unwrap();
        assert_eq!((got.len, got.fds.len(), got.truncated), (1, 253, false));
        for fd in &got.fds {
            let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
    }

    #[test]
    fn f_074_too_little_room_is_reported_and_what_came_is_owned() {
        let (left, right) = UnixStream::pair().unwrap();
        send(left.as_fd(), &[IoSlice::new(b"x")], &files(8)).unwrap();
        let mut buf = BytesMut::new();
        let got = recv(right.as_fd(), &mut buf, 10, &mut ControlBuffer::for_fds(1)).unwrap();
        assert!(got.truncated);
        // Because of alignment, room for one takes two (P-02): both must be owned.
        assert_eq!(got.fds.len(), 2);
    }

    #[test]
    fn nothing_blocks_and_a_dead_peer_is_an_error_and_no_signal() {
        let (left, right) = UnixStream::pair().unwrap();
        let mut buf = BytesMut::new();
        let mut control = ControlBuffer::new();
        let error = recv(right.as_fd(), &mut buf, 10, &mut control).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(left);
        assert_eq!(recv(right.as_fd(), &mut buf, 10, &mut control).unwrap().len, 0);
        let error = send(right.as_fd(), &[IoSlice::new(b"x")], &files(0)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
