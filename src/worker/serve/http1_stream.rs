//! The stream of a connection that outlives this worker, for servers that are not ours.
//!
//! They know nothing of giving connections away. So it is done where they would have to wait for the next request, or
//! where they close a connection because they were told to stop: to them it has come to its end.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Sleep;

use super::journaled::Journaled;
use super::survival::{Giving, ROOM_PAUSE, Survival};
use crate::worker::shutdown::Shutdown;

/// A TCP connection on which HTTP/1.1 is spoken, and which outlives the worker: what is not answered when the worker is
/// killed another one answers, and when the worker leaves another one goes on. Made by
/// [`Incoming::http1`](crate::Incoming::http1).
///
/// Any server can read and write on it. Requests come one at a time: what a client sends before it has its answer stays
/// in the kernel until then.
pub struct Http1Stream {
    journaled: Box<Journaled>,
    survival: Survival,
    leaving: Leaving,
    /// Resolves when it is known whether somebody else accepts.
    taker: Pin<Box<dyn Future<Output = bool> + Send + Sync>>,
    /// What it resolved to. False also when this connection was offered and not taken.
    has_taker: Option<bool>,
    /// Runs while there is no room for it on its way to somebody else.
    room: Option<Pin<Box<Sleep>>>,
}

/// What the connections of one listener hear of the worker's end.
#[derive(Clone)]
pub(super) struct Leaving {
    pub(super) shutdown: Shutdown,
    /// `None` until it is known whether somebody else accepts.
    pub(super) has_taker: watch::Receiver<Option<bool>>,
}

impl fmt::Debug for Http1Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1Stream")
            .field("journaled", &self.journaled)
            .finish_non_exhaustive()
    }
}

impl Http1Stream {
    pub(super) fn new(journaled: Box<Journaled>, survival: Survival, leaving: Leaving) -> Self {
        let mut known = leaving.has_taker.clone();
        Self {
            journaled,
            survival,
            leaving,
            taker: Box::pin(async move {
                // An error would mean that the listener's task is gone: then nobody takes anything.
                let known = known.wait_for(Option::is_some).await;
                known.is_ok_and(|known| *known == Some(true))
            }),
            has_taker: None,
            room: None,
        }
    }

    /// Gives the connection to another worker if this one is leaving and nothing has begun on it: true if it is gone.
    fn poll_give_away(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if !self.journaled.is_unbegun() {
            return Poll::Ready(false);
        }
        let has_taker = match self.has_taker {
            Some(known) => known,
            None => {
                let known = ready!(self.taker.as_mut().poll(cx));
                *self.has_taker.insert(known)
            }
        };
        if !has_taker {
            return Poll::Ready(false);
        }
        loop {
            if let Some(room) = &mut self.room {
                ready!(room.as_mut().poll(cx));
                self.room = None;
            }
            match self.survival.give_away(&mut self.journaled) {
                Giving::Taken => return Poll::Ready(true),
                Giving::Later => self.room = Some(Box::pin(tokio::time::sleep(ROOM_PAUSE))),
                Giving::Never => {
                    self.has_taker = Some(false);
                    return Poll::Ready(false);
                }
            }
        }
    }
}

impl AsFd for Http1Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.journaled.as_fd()
    }
}

impl AsyncRead for Http1Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Asked before reading: what has come by now goes along.
        if this.poll_give_away(cx) == Poll::Ready(true) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(this.journaled.as_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Http1Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().journaled.as_mut()).poll_write(cx, buf)
    }

    // Not vectored, so that servers put a small answer into one write: with one it is whole or not there.

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().journaled.as_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Told to stop, servers close what is idle: it can be idle elsewhere.
        if this.leaving.shutdown.is_started() && ready!(this.poll_give_away(cx)) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(this.journaled.as_mut()).poll_shutdown(cx)
    }
}
