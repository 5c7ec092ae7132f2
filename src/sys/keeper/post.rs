//! What a keeper says, on its worker's end of the hand-over socket. One datagram is one JSON object, with at most one
//! descriptor; the other side is in `handover/wire.rs`.
//!
//! Nothing here blocks for ever: a master that does not read is waited for until a deadline.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use crate::clock;
use crate::model::Mono;
use crate::sys::scm;
use crate::sys::socket::cookie;

/// The worker's end of the hand-over socket. The worker owns it; this process only knows its number, and can tell whether
/// the number still means it.
#[derive(Debug)]
pub(super) struct Post {
    number: RawFd,
    cookie: u64,
}

/// A connection that is given to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rescued {
    /// The listener's place in the contract.
    pub(super) listener: u32,
    pub(super) strikes: u8,
    pub(super) begun: bool,
    pub(super) repeatable: bool,
}

impl Post {
    pub(super) fn new(number: RawFd) -> nix::Result<Self> {
        let cookie = cookie(borrow(number))?;
        Ok(Self { number, cookie })
    }

    pub(super) fn number(&self) -> RawFd {
        self.number
    }

    /// Is the number still that of the hand-over socket?
    pub(super) fn is_there(&self) -> bool {
        cookie(self.as_fd()) == Ok(self.cookie)
    }

    /// That there is no keeper, and why. From whoever has this number, which may be what could not be found out.
    pub(super) fn tell_missing(number: RawFd, why: &str) {
        let text = serde_json::Value::from(why);
        Self { number, cookie: 0 }.say(&format!(r#"{{"t":"unkept","m":{{"why":{text}}}}}"#), None);
    }

    /// The first word: who this is, with a pidfd of it.
    pub(super) fn introduce(&self, pid: i32, own: BorrowedFd<'_>) {
        self.say(&format!(r#"{{"t":"keeper","m":{{"pid":{pid}}}}}"#), Some(own));
    }

    /// # Errors
    /// The master is gone, or did not read until the deadline.
    pub(super) fn rescued(&self, what: Rescued, socket: BorrowedFd<'_>, deadline: Mono) -> io::Result<()> {
        let Rescued {
            listener,
            strikes,
            begun,
            repeatable,
        } = what;
        let text = format!(
            r#"{{"t":"rescued","m":{{"listener":{listener},"strikes":{strikes},"begun":{begun},"repeatable":{repeatable}}}}}"#
        );
        self.send(&text, Some(socket), deadline)
    }

    /// The last word. There is room for it also where a master that does not read has left none for connections: what was
    /// lost because of that would not be told otherwise.
    ///
    /// # Errors
    /// The master is gone; or the system allows no more room (`net.core.wmem_max`), and the master did not read until the
    /// deadline.
    pub(super) fn done(&self, saved: u32, lost: u32, unnoted: &[u64], deadline: Mono) -> io::Result<()> {
        if let Ok(room) = getsockopt(self, sockopt::SndBuf) {
            // The kernel doubles what it is told. If it does not, there is as much room as there was.
            setsockopt(self, sockopt::SndBuf, &room).ok();
        }
        let text = format!(r#"{{"t":"done","m":{{"saved":{saved},"lost":{lost},"unnoted":{unnoted:?}}}}}"#);
        self.send(&text, None, deadline)
    }

    /// A socket that was just made has room; a master that is gone needs no word.
    fn say(&self, text: &str, fd: Option<BorrowedFd<'_>>) {
        self.send(text, fd, clock::now() + SAYING).ok();
    }

    fn send(&self, text: &str, fd: Option<BorrowedFd<'_>>, deadline: Mono) -> io::Result<()> {
        loop {
            let Err(error) = scm::send(self.as_fd(), &[IoSlice::new(text.as_bytes())], fd.as_slice()) else {
                return Ok(());
            };
            let left = deadline.since(clock::now());
            if left.is_zero() {
                return Err(error);
            }
            match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN) => self.wait_for_room(left),
                // Too many descriptors of this user are under way (a master that reads brings it down), or no memory:
                // nothing tells when that is over.
                Some(Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM) => pause(),
                _ => return Err(error),
            }
        }
    }

    fn wait_for_room(&self, left: Duration) {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLOUT)];
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        // An error would come again from the next attempt to send.
        poll(&mut fds, left).ok();
    }
}

impl AsFd for Post {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(self.number)
    }
}

/// Waits a moment without waiting for anything.
fn pause() {
    poll(&mut [], PollTimeout::from(1_u8)).ok();
}

pub(super) fn borrow<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: not -1, because it comes from a contract or from the list of what is open. The number may be closed, or mean
    // something else, while the worker lives; every use in the keeper is a call of the kernel's that then fails, or is
    // preceded by a look at what the number means. No memory depends on it.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// A first word to a socket that nobody has used waits for nothing.
const SAYING: Duration = Duration::from_secs(1);
