//! The service manager's notification socket: texts out, nothing back, and never waiting.
//!
//! Not here: what is said, and when.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

/// A way to the service manager, with what it could not take yet.
///
/// `sd-notify` sends on a socket that blocks: a service manager that does not read would hold up the thread. So a message
/// that does not fit waits here, in its order, and the oldest gives way to the newest.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    to: SocketAddr,
    waiting: VecDeque<Parcel>,
    /// The last attempt failed for another reason than "full": say so once.
    is_broken: bool,
}

/// One message, and what goes along with it.
#[derive(Debug)]
struct Parcel {
    text: String,
    /// Closed here once it is sent.
    fd: Option<OwnedFd>,
}

/// What became of an attempt.
#[derive(Debug)]
pub(super) enum Sent {
    /// Nothing waits.
    All,
    /// The service manager does not read: try again later.
    Full,
    /// The socket cannot be reached; this is the first time in a row.
    Lost(io::Error),
    /// The same again.
    StillLost,
}

impl NotifySocket {
    /// The socket at `address`: an absolute path, or `@` and a name that is no file.
    ///
    /// # Errors
    /// When it is neither, or this process has no free descriptor.
    pub(super) fn new(address: &OsStr) -> io::Result<Self> {
        let bytes = address.as_bytes();
        let to = match bytes.first() {
            Some(b'@') => SocketAddr::from_abstract_name(&bytes[1..])?,
            Some(b'/') => SocketAddr::from_pathname(address)?,
            _ => {
                let why = "neither an absolute path nor an abstract name";
                return Err(io::Error::new(ErrorKind::Unsupported, why));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            to,
            waiting: VecDeque::new(),
            is_broken: false,
        })
    }

    /// Says `text` after everything that waits.
    pub(super) fn say(&mut self, text: String) -> Sent {
        self.give(text, None)
    }

    /// [`say`](Self::say), with a descriptor.
    pub(super) fn give(&mut self, text: String, fd: Option<OwnedFd>) -> Sent {
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Parcel { text, fd });
        self.push()
    }

    /// Says `text` now or never: what is true only now.
    pub(super) fn say_now(&mut self, text: String) -> Sent {
        if self.waiting.is_empty() {
            let sent = self.say(text);
            self.waiting.clear();
            return sent;
        }
        self.push()
    }

    /// Tries what waits once more.
    pub(super) fn push(&mut self) -> Sent {
        while let Some(parcel) = self.waiting.front() {
            match self.send(parcel) {
                Ok(_) => {
                    self.waiting.pop_front();
                    self.is_broken = false;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Sent::Full,
                Err(_) if self.is_broken => return Sent::StillLost,
                Err(error) => {
                    self.is_broken = true;
                    return Sent::Lost(error);
                }
            }
        }
        Sent::All
    }

    fn send(&self, parcel: &Parcel) -> io::Result<usize> {
        let Some(fd) = &parcel.fd else {
            return self.socket.send_to_addr(parcel.text.as_bytes(), &self.to);
        };
        let to = match (self.to.as_pathname(), self.to.as_abstract_name()) {
            (Some(path), _) => UnixAddr::new(path)?,
            (None, name) => UnixAddr::new_abstract(name.unwrap_or_default())?,
        };
        let (text, fds) = ([IoSlice::new(parcel.text.as_bytes())], [fd.as_raw_fd()]);
        let along = [ControlMessage::ScmRights(&fds)];
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        Ok(sendmsg(self.socket.as_raw_fd(), &text, &along, flags, Some(&to))?)
    }
}

/// Messages that wait for a service manager which does not read: enough for several reloads.
const WAITING_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("actix-cluster-notify-{}-{name}", std::process::id()))
    }

    fn read(socket: &UnixDatagram) -> String {
        let mut text = [0; 1024];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    }

    #[test]
    fn paths_and_abstract_names_are_reached_and_others_refused() {
        let path = path("path");
        let served = UnixDatagram::bind(&path).unwrap();
        let mut socket = NotifySocket::new(path.as_os_str()).unwrap();
        assert!(matches!(socket.say("READY=1".to_owned()), Sent::All));
        assert_eq!(read(&served), "READY=1");
        std::fs::remove_file(&path).unwrap();
        let name = format!("actix-cluster-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let served = UnixDatagram::bind_addr(&address).unwrap();
        let mut socket = NotifySocket::new(OsStr::new(&format!("@{name}"))).unwrap();
        assert!(matches!(socket.say_now("WATCHDOG=1".to_owned()), Sent::All));
        assert_eq!(read(&served), "WATCHDOG=1");
        for odd in ["", "relative", "vsock:2:1"] {
            assert!(NotifySocket::new(OsStr::new(odd)).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn a_full_socket_blocks_nobody_and_gets_the_newest_in_order_once_it_is_read() {
        let path = path("full");
        let served = UnixDatagram::bind(&path).unwrap();
        let mut socket = NotifySocket::new(path.as_os_str()).unwrap();
        let mut taken = 0;
        while matches!(socket.say(format!("STATUS={taken}")), Sent::All) {
            taken += 1;
        }
        for number in taken + 1..taken + 1000 {
            assert!(matches!(socket.say(format!("STATUS={number}")), Sent::Full));
            assert!(matches!(socket.say_now("WATCHDOG=1".to_owned()), Sent::Full));
        }
        assert_eq!(socket.waiting.len(), WAITING_MAX);
        for number in 0..taken {
            assert_eq!(read(&served), format!("STATUS={number}"));
        }
        // The socket is empty now; what waited comes in its order, and it is the newest.
        let last = taken + 1000;
        let mut expected = last - WAITING_MAX..last;
        while !expected.is_empty() {
            let before = socket.waiting.len();
            socket.push();
            for _ in socket.waiting.len()..before {
                let number = expected.next().unwrap();
                assert_eq!(read(&served), format!("STATUS={number}"));
            }
        }
        assert!(socket.waiting.is_empty());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_missing_socket_is_told_once_and_used_when_it_is_there() {
        let path = path("late");
        let mut socket = NotifySocket::new(path.as_os_str()).unwrap();
        assert!(matches!(socket.say("READY=1".to_owned()), Sent::Lost(_)));
        assert!(matches!(socket.say("STATUS=x".to_owned()), Sent::StillLost));
        let served = UnixDatagram::bind(&path).unwrap();
        assert!(matches!(socket.push(), Sent::All));
        assert_eq!(
            (read(&served).as_str(), read(&served).as_str()),
            ("READY=1", "STATUS=x")
        );
        std::fs::remove_file(&path).unwrap();
    }
}
