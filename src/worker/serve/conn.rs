//! An accepted connection: its stream, and the count of those that are open. What is spoken on it is not known here.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;

use super::http1_stream::Http1Stream;
use crate::worker::handover::{HandedOver, Receipt};

/// The byte stream of an accepted connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stream {
    /// Accepted on a TCP address.
    Tcp(TcpStream),
    /// Accepted on a Unix path.
    Unix(UnixStream),
    /// Accepted on a TCP address whose connections outlive the worker; see [`Incoming::http1`](crate::Incoming::http1).
    Http1(Http1Stream),
}

impl Stream {
    /// The TCP stream.
    ///
    /// # Errors
    /// The stream itself, if it is another one.
    pub fn into_tcp(self) -> Result<TcpStream, Self> {
        match self {
            Self::Tcp(stream) => Ok(stream),
            Self::Unix(_) | Self::Http1(_) => Err(self),
        }
    }

    /// The Unix stream.
    ///
    /// # Errors
    /// The stream itself, if it is another one.
    pub fn into_unix(self) -> Result<UnixStream, Self> {
        match self {
            Self::Unix(stream) => Ok(stream),
            Self::Tcp(_) | Self::Http1(_) => Err(self),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Http1(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Http1(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Http1(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Http1(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Http1(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // No kind buffers in the process.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Http1(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A connection fresh from the queue of a listening socket.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    /// The client's address; a Unix one has none worth telling.
    pub(crate) peer: Option<SocketAddr>,
    /// Set if it was not accepted here but handed over.
    pub(crate) passed: Option<Passed>,
}

/// What comes with a connection that was handed over.
#[derive(Debug)]
pub(crate) struct Passed {
    /// How many workers its request may have killed.
    pub(crate) strikes: u8,
    /// Its request is to be answered with this status, and the connection closed.
    pub(crate) fail: Option<u16>,
    /// Not given before the connection is noted, if it is: whoever is killed in between would have it neither in the
    /// journal nor in the master.
    receipt: Option<Receipt>,
    /// Nothing else waits to be acknowledged with it.
    is_last: bool,
}

impl Passed {
    pub(super) const fn new(strikes: u8, fail: Option<u16>, receipt: Option<Receipt>, is_last: bool) -> Self {
        Self {
            strikes,
            fail,
            receipt,
            is_last,
        }
    }

    /// Acknowledges it, if that is due.
    pub(super) fn took(&mut self) -> Option<HandedOver> {
        self.receipt.take().map(|receipt| receipt.took(self.is_last))
    }
}

/// Counts open connections, so that a stop can wait for the last one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections {
    shared: Arc<Shared>,
}

/// One open connection: counted until this is dropped.
#[derive(Debug)]
#[must_use = "the connection counts as closed when this is dropped"]
pub struct ConnectionGuard {
    shared: Arc<Shared>,
    /// Of one that was handed over: its end is told to the master, too.
    _open: Option<HandedOver>,
}

#[derive(Debug, Default)]
struct Shared {
    open: AtomicUsize,
    closed: Notify,
}

impl Connections {
    pub(crate) fn open(&self) -> ConnectionGuard {
        self.open_passed(None)
    }

    /// Counts one that may have been handed over: that is acknowledged here, and its end is told to the master.
    pub(crate) fn open_passed(&self, passed: Option<&mut Passed>) -> ConnectionGuard {
        self.shared.open.fetch_add(1, Ordering::SeqCst);
        ConnectionGuard {
            shared: Arc::clone(&self.shared),
            _open: passed.and_then(Passed::took),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Resolves when no connection is open.
    pub(crate) async fn idle(&self) {
        self.below(1).await;
    }

    /// Resolves when fewer than `limit` connections are open.
    pub(crate) async fn below(&self, limit: usize) {
        loop {
            let mut closed = pin!(self.shared.closed.notified());
            // Register before counting: the last one may close between the count and the wait.
            closed.as_mut().enable();
            if self.count() < limit {
                return;
            }
            closed.await;
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::SeqCst);
        self.shared.closed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn idle_waits_for_the_last_connection() {
        let connections = Connections::default();
        connections.idle().await;
        let (first, second) = (connections.open(), connections.open());
        assert_eq!(connections.count(), 2);
        let waiting = actix_rt::spawn({
            let connections = connections.clone();
            async move { connections.idle().await }
        });
        drop(first);
        connections.below(2).await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
    }
}
