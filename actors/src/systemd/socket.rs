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
/// that does not fit waits here, in its order. Where too many wait, those give way that a later one makes idle: a status,
/// or both ends of a reload before the last. What else there is is said once: that it is ready or stops, and its sockets.
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

impl Parcel {
    /// Nothing but words for people?
    fn is_status(&self) -> bool {
        self.text.starts_with("STATUS=") && !self.text.contains('\n')
    }
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
        let parcel = Parcel { text, fd };
        if parcel.is_status() && self.waiting.back().is_some_and(Parcel::is_status) {
            self.waiting.pop_back();
        }
        self.waiting.push_back(parcel);
        if self.waiting.len() > WAITING_MAX {
            self.make_room();
        }
        self.push()
    }

    /// Drops the oldest of what nobody misses.
    fn make_room(&mut self) {
        if let Some(at) = self.waiting.iter().position(Parcel::is_status) {
            self.waiting.remove(at);
            return;
        }
        let begins = |word: &'static str| move |(_, parcel): &(usize, &Parcel)| parcel.text.starts_with(word);
        let mut reloads = self.waiting.iter().enumerate().filter(begins("RELOADING=1"));
        // The last one is true yet.
        let (Some((begun, _)), Some(_)) = (reloads.next(), reloads.next()) else {
            return;
        };
        let mut after = self.waiting.iter().enumerate().skip(begun);
        let over = after.find(begins("READY=1")).map(|(at, _)| at);
        if let Some(over) = over {
            self.waiting.remove(over);
        }
        self.waiting.remove(begun);
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

/// Messages that wait for a service manager which does not read: enough for several reloads. Only sockets to be stored, of
/// which each is given once, may be more.
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
    fn a_full_socket_blocks_nobody_and_loses_nothing_that_a_later_word_does_not_make_idle() {
        let path = path("full");
        let served = UnixDatagram::bind(&path).unwrap();
        let mut socket = NotifySocket::new(path.as_os_str()).unwrap();
        let mut said = Vec::new();
        for number in 0.. {
            let text = format!("FDSTORE=1\nFDNAME={number}");
            said.push(text.clone());
            if matches!(socket.say(text), Sent::Full) {
                break;
            }
        }
        // A flood of words, of which the last is true; reloads, and between them what is said once.
        let flood = |socket: &mut NotifySocket| {
            for number in 0..1000 {
                assert!(matches!(socket.say(format!("STATUS={number}")), Sent::Full));
                assert!(matches!(socket.say_now("WATCHDOG=1".to_owned()), Sent::Full));
            }
        };
        let pair = |number| {
            [
                format!("RELOADING=1\nSTATUS={number}"),
                format!("READY=1\nSTATUS={number}"),
            ]
        };
        socket.say("READY=1".to_owned());
        flood(&mut socket);
        for number in 0..100 {
            for text in pair(number) {
                socket.say(text);
                flood(&mut socket);
            }
            assert!(socket.waiting.len() <= WAITING_MAX);
        }
        socket.say("STOPPING=1".to_owned());
        said.push("READY=1".to_owned());
        let mut heard = Vec::new();
        while !socket.waiting.is_empty() || heard.len() < said.len() {
            heard.push(read(&served));
            socket.push();
        }
        served.set_nonblocking(true).unwrap();
        let mut text = [0; 1024];
        while let Ok(length) = served.recv(&mut text) {
            heard.push(String::from_utf8(text[..length].to_vec()).unwrap());
        }
        assert_eq!(heard[..said.len()], said);
        assert_eq!(heard.last().unwrap(), "STOPPING=1");
        let framing: Vec<&String> = heard[said.len()..]
            .iter()
            .filter(|text| !text.starts_with("STATUS"))
            .collect();
        // Whole reloads, to the last one.
        let (_, reloads) = framing.split_last().unwrap();
        assert!(reloads.len() >= 2 && reloads.len() % 2 == 0, "{reloads:?}");
        for reload in reloads.chunks(2) {
            let number: u32 = reload[0].rsplit('=').next().unwrap().parse().unwrap();
            assert_eq!(reload, pair(number).iter().collect::<Vec<_>>());
        }
        assert_eq!(reloads[reloads.len() - 1], &pair(99)[1]);
        let words = heard.iter().filter(|text| text.starts_with("STATUS"));
        assert!(words.clone().all(|text| text == "STATUS=999"), "{words:?}");
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
