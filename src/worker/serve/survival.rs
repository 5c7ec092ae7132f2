//! The connections of one listener that outlive this worker, when it is killed and when it leaves.
//!
//! Where a keeper watches over the worker, its TCP connections are served by way of the journal; anywhere else, and where
//! the kernel cannot do it, they are what they are. And a worker that leaves gives those that are idle to somebody else.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::{Passed, Stream};
use super::http1::Rules;
use super::journaled::{Journaled, Noting};
use crate::sys::journal::{Entry, Journal};
use crate::sys::tcp;

/// How the connections of one listener survive.
#[derive(Clone)]
pub(crate) struct Survival {
    noting: Noting,
    others: Arc<dyn Others>,
}

/// Where connections go that this worker does not serve to their end.
pub(crate) trait Others: Send + Sync {
    /// Resolves when this worker leaves and no connection comes any more: is there somebody else?
    fn wanted(&self) -> Pin<Box<dyn Future<Output = bool> + '_>>;

    /// Gives somebody a connection whose request has been struck so often. It is duplicated on its way.
    fn give(&self, connection: BorrowedFd<'_>, strikes: u8) -> Giving;
}

/// What became of a connection that was to be given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Giving {
    /// It is somebody else's now.
    Taken,
    /// There is no room for it on the way: it is as it was, and may be offered again after [`ROOM_PAUSE`].
    Later,
    /// Nobody takes it: it is as it was.
    Never,
}

impl fmt::Debug for Survival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Survival")
            .field("noting", &self.noting)
            .finish_non_exhaustive()
    }
}

impl Survival {
    /// For the listener at this place in the contract. Requests for which `is_repeatable` (method, path) says so may be
    /// carried out again; `buffer` is the size of its connections' receive buffers.
    pub(crate) fn new(
        journal: &'static Journal,
        listener: u32,
        is_repeatable: fn(&str, &str) -> bool,
        buffer: usize,
        others: Arc<dyn Others>,
    ) -> Self {
        let rules = Rules {
            is_repeatable,
            kept_max: (buffer as u64 / 2).min(KEPT_MAX),
        };
        Self {
            noting: Noting {
                journal,
                listener,
                rules,
            },
            others,
        }
    }

    /// The stream on which a connection is served.
    pub(super) fn take_charge(&self, stream: Stream, passed: Option<&Passed>) -> Transport {
        let tcp = match stream.into_tcp() {
            Ok(tcp) => tcp,
            Err(stream) => return Transport::Plain(stream),
        };
        let strikes = passed.map_or(0, |passed| passed.strikes);
        match Journaled::new(tcp, &self.noting, passed.is_some(), strikes) {
            Ok(journaled) => Transport::Http1(Box::new(journaled)),
            Err(tcp) => Transport::Plain(Stream::Tcp(tcp)),
        }
    }

    /// Gives a connection away on which nothing has begun.
    pub(super) fn give_away(&self, journaled: &mut Journaled) -> Giving {
        if !journaled.is_unbegun() || journaled.moving().is_err() {
            return Giving::Never;
        }
        // Ours and its note stay until the other one is on its way.
        let giving = self.others.give(journaled.as_fd(), journaled.strikes());
        match giving {
            Giving::Taken => journaled.moved(),
            Giving::Later | Giving::Never => journaled.stays(),
        }
        giving
    }

    /// Notes that the next so many bytes are the last answer on this connection, whose request stays unread. `None` where
    /// nothing is noted.
    pub(super) fn note_last(&self, connection: BorrowedFd<'_>, answer: usize) -> Option<Entry> {
        let counted = tcp::counted(connection).ok()?;
        let Noting { journal, listener, .. } = self.noting;
        let entry = journal.open(connection.as_raw_fd(), listener, 0, counted.written, counted.consumed)?;
        let (end, boundary) = (counted.written + answer as u64, counted.consumed + counted.waiting);
        entry.completing(end, boundary, true);
        Some(entry)
    }

    /// The same, with other requests that may be carried out again.
    pub(super) fn repeating(mut self, is_repeatable: fn(&str, &str) -> bool) -> Self {
        self.noting.rules.is_repeatable = is_repeatable;
        self
    }

    /// Resolves when this worker leaves: may connections be given away?
    pub(super) fn others(&self) -> Arc<dyn Others> {
        Arc::clone(&self.others)
    }
}

/// What a connection is served on.
#[derive(Debug)]
pub(super) enum Transport {
    /// As it was accepted.
    Plain(Stream),
    /// By way of the journal.
    Http1(Box<Journaled>),
}

impl Transport {
    /// Could another worker serve it on, now or after the present answer?
    #[cfg(feature = "web")]
    pub(super) fn is_movable(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Http1(journaled) => journaled.is_followed(),
        }
    }

    /// Is there anything that whoever serves it has not read? Asked of the kernel: its answer is newer than the runtime's.
    #[cfg(feature = "web")]
    pub(super) fn has_unread(&self) -> bool {
        match self {
            Self::Plain(stream) => crate::sys::peek::waiting(stream.as_fd()).is_ok_and(|waiting| waiting > 0),
            Self::Http1(journaled) => journaled.has_unread(),
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(stream) => stream.as_fd(),
            Self::Http1(journaled) => journaled.as_fd(),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Http1(journaled) => Pin::new(journaled.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Http1(journaled) => Pin::new(journaled.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            // Whoever asked is told otherwise below; one part is always right.
            Self::Http1(journaled) => {
                let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| &**buf);
                Pin::new(journaled.as_mut()).poll_write(cx, first)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            // So that servers put a small answer into one write: with one it is whole or not there.
            Self::Http1(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Http1(journaled) => Pin::new(journaled.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Http1(journaled) => Pin::new(journaled.as_mut()).poll_shutdown(cx),
        }
    }
}

/// The master takes what lies in its socket within that, unless it is very busy; a leaving worker has many connections to
/// give away at once, and room for a few hundred.
pub(super) const ROOM_PAUSE: Duration = Duration::from_millis(5);

/// The longest request that is kept in the kernel until it is answered: what fits a receive buffer of the usual size.
const KEPT_MAX: u64 = 64 << 10;
