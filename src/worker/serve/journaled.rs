//! A TCP stream that leaves each request in the kernel until it is answered, and notes in the journal how far it is.
//!
//! Whoever speaks HTTP/1 on it reads and writes as on any stream. Beneath, bytes are *peeked*, so the next worker finds a
//! request whole if this one is killed, and taken out right after the write that completes the answer. The order is the
//! point: the note comes before the act (see [`crate::model::rescue`]), the write before the taking out.
//!
//! Where messages end is told by [`http1`](super::http1). One request at a time is let through: the bytes behind it stay
//! unseen until its answer is written. On bytes that are no HTTP/1, or too long to be kept, this is a plain stream.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::http1::{Delivery, Exchange, Meaning, Rules, Step};
use crate::sys::journal::{Entry, Journal};
use crate::sys::socket::cookie;
use crate::sys::{peek, tcp};

/// Where and how the connections of one listener are noted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noting {
    pub(super) journal: &'static Journal,
    /// The listener's place in the contract.
    pub(super) listener: u32,
    pub(super) rules: Rules,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Journaled {
    /// Before the stream: the note has to be gone when the descriptor's number is free again.
    entry: Entry,
    stream: TcpStream,
    exchange: Exchange,
    state: State,
    /// Bytes written and taken out, since the connection began.
    written: u64,
    consumed: u64,
    /// Bytes that the server has got and that are still in the kernel.
    kept: usize,
    /// Bytes behind those that were peeked at and not given to the server.
    beyond: usize,
    /// Was the kernel told from where to peek? Untold it looks from the first byte that is kept.
    has_offset: bool,
    /// Bytes of this request are taken out as they are read.
    is_consuming: bool,
    /// How many workers the present request may have killed before.
    strikes: u8,
    /// Requests were answered on it before it came here.
    #[cfg(feature = "web")]
    is_resumed: bool,
    /// Who waits for the gate to open.
    reader: Option<Waker>,
    /// Runs while the rest of a long request is waited for.
    patience: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Http,
    /// A stream like any other.
    Plain,
    /// Somebody else's now: nothing is read, written or closed here any more.
    Moved,
}

impl Journaled {
    /// Takes charge of a fresh connection, or of one that another worker had (`is_used`), whose request has been struck so
    /// often.
    ///
    /// # Errors
    /// The stream itself where that is not possible: the kernel is too old, or the connection is broken.
    pub(super) fn new(stream: TcpStream, noting: &Noting, is_used: bool, strikes: u8) -> Result<Self, TcpStream> {
        let fd = stream.as_fd();
        // A used one brings the offset of its last owner. A fresh one has none, and mostly needs none; see `peek_behind`.
        let counted = if !is_used {
            Some(Default::default())
        } else if peek::set_offset(fd, Some(0)).is_err() {
            None
        } else {
            tcp::counted(fd).ok()
        };
        let entry = counted.and_then(|counted| {
            let journal = noting.journal;
            journal.open(
                fd.as_raw_fd(),
                noting.listener,
                strikes,
                counted.written,
                counted.consumed,
            )
        });
        let (Some(counted), Some(entry)) = (counted, entry) else {
            if is_used {
                // Then nobody shall notice that it was tried. Where it cannot be taken back it was not possible either.
                peek::set_offset(fd, None).ok();
            }
            return Err(stream);
        };
        Ok(Self {
            entry,
            stream,
            exchange: Exchange::new(noting.rules),
            state: State::Http,
            written: counted.written,
            consumed: counted.consumed,
            kept: 0,
            beyond: 0,
            has_offset: is_used,
            is_consuming: false,
            strikes,
            #[cfg(feature = "web")]
            is_resumed: counted.consumed > 0,
            reader: None,
            patience: None,
        })
    }

    /// Was it in use elsewhere, and is idle until its next request comes?
    #[cfg(feature = "web")]
    pub(super) fn is_resumed(&self) -> bool {
        self.is_resumed && self.kept == 0
    }

    /// Resolves when there is something to read, or the end.
    #[cfg(feature = "web")]
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_read_ready(cx)
    }

    /// Is it told apart what is spoken on it?
    #[cfg(feature = "web")]
    pub(super) fn is_followed(&self) -> bool {
        self.state == State::Http
    }

    pub(super) fn strikes(&self) -> u8 {
        self.strikes
    }

    /// Has nothing begun that another worker could not begin anew?
    pub(super) fn is_unbegun(&self) -> bool {
        self.state == State::Http && !self.exchange.is_begun()
    }

    /// Is there a request, or a part of one, that the server has not seen?
    #[cfg(feature = "web")]
    pub(super) fn has_unread(&self) -> bool {
        peek::waiting(self.stream.as_fd()).is_ok_and(|waiting| waiting > self.kept)
    }

    /// Notes that the connection is about to be given to somebody else: what its new owner does with it must not be judged by
    /// our note. Followed by [`moved`](Self::moved) or [`stays`](Self::stays).
    ///
    /// # Errors
    /// What the kernel says: then it cannot be given away.
    pub(super) fn moving(&mut self) -> io::Result<()> {
        self.entry.moving(cookie(self.stream.as_fd())?);
        Ok(())
    }

    /// Nobody took it.
    pub(super) fn stays(&mut self) {
        self.entry.stays();
    }

    /// Lets go of a connection that was given to somebody else: to whoever holds this it has come to its end.
    pub(super) fn moved(&mut self) {
        self.state = State::Moved;
        self.open_gate();
    }

    /// From here on a plain stream, which nobody can judge from outside.
    fn give_up(&mut self) {
        self.entry.opaque();
        self.state = State::Plain;
        self.take_out();
        self.open_gate();
    }

    /// Takes out of the kernel what the server has got.
    fn take_out(&mut self) {
        self.consumed += self.kept as u64;
        while self.kept > 0 {
            match peek::discard(self.stream.as_fd(), self.kept) {
                Ok(len) if len > 0 => self.kept -= len.min(self.kept),
                // The connection is broken, and the next read says so.
                Ok(_) | Err(_) => self.kept = 0,
            }
        }
    }

    fn open_gate(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// So many bytes of `buf` were peeked, behind those that were before.
    fn arrived(&mut self, buf: &mut ReadBuf<'_>, len: usize) {
        let filled = buf.filled().len();
        let fresh = &buf.initialized()[filled..filled + len];
        let is_answered = self.exchange.is_answered();
        let Ok(Delivery { take, step }) = self.exchange.arrived(fresh) else {
            self.give_up();
            buf.advance(len);
            self.kept = len;
            self.take_out();
            return;
        };
        // An answer that came before the end of its request has been noted as the last.
        match step {
            Step::None => {}
            Step::Begin { .. } | Step::Consume if is_answered => {}
            Step::Begin {
                is_repeatable,
                is_consumed,
            } => {
                self.entry.begin(is_repeatable);
                if is_consumed {
                    self.entry.consuming();
                }
                self.is_consuming = is_consumed;
            }
            Step::Consume => self.consume(),
        }
        buf.advance(take);
        self.kept += take;
        self.beyond = len - take;
        if self.is_consuming {
            self.take_out();
        }
        if is_answered {
            self.settle();
        }
    }

    /// From here on the request is taken out as it is read: it can be answered, but not repeated.
    fn consume(&mut self) {
        self.entry.begin(false);
        self.entry.consuming();
        self.is_consuming = true;
    }

    /// What is kept fills the receive buffer, with the kernel's own needs for each segment, and may have closed the window:
    /// then the rest would never come. A client that merely pauses looks the same.
    fn poll_patience(&mut self, cx: &mut Context<'_>) {
        if self.is_consuming || self.kept < STALL_MIN || !self.exchange.is_begun() {
            return;
        }
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
        if patience.as_mut().poll(cx).is_ready() {
            self.patience = None;
            self.consume();
            self.take_out();
        }
    }

    /// The answer is written to its end.
    fn settle(&mut self) {
        self.take_out();
        let goes_on = self.exchange.goes_on();
        self.is_consuming = !self.exchange.turn();
        if self.is_consuming {
            return;
        }
        if goes_on {
            self.entry.answered(self.consumed);
        }
        self.strikes = 0;
        if self.beyond > 0 && self.has_offset && peek::set_offset(self.stream.as_fd(), Some(0)).is_err() {
            self.give_up();
        }
        self.open_gate();
    }

    fn poll_arrival(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let len = if std::mem::take(&mut self.beyond) > 0 {
            // They are there, whatever the runtime knows: their event may have come with the bytes before them.
            match peek_behind(&self.stream, self.kept, &mut self.has_offset, buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_peek(cx, buf))?,
                outcome => outcome?,
            }
        } else {
            match self.poll_peek(cx, buf) {
                Poll::Ready(outcome) => outcome?,
                Poll::Pending => {
                    self.poll_patience(cx);
                    return Poll::Pending;
                }
            }
        };
        self.patience = None;
        if len > 0 {
            self.arrived(buf, len);
        }
        Poll::Ready(Ok(()))
    }

    /// Peeks when there is something. As tokio does, takes fewer bytes than asked for as a sign that there are no more.
    fn poll_peek(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let Self {
            stream,
            kept,
            has_offset,
            ..
        } = self;
        // Bounded: each turn spends from the runtime's budget for this task.
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let free = buf.remaining();
            let mut short = None;
            // The readiness that is cleared is that of before the peek: what comes meanwhile is an event of its own.
            let outcome = stream.try_io(Interest::READABLE, || {
                let len = peek_behind(stream, *kept, has_offset, buf)?;
                if 0 < len && len < free {
                    short = Some(len);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(len)
            });
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(len) = short {
                        return Poll::Ready(Ok(len));
                    }
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    /// The server has its request; what is behind it is not its business yet, but the end of the stream is.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.beyond == 0 {
            let mut one = [0];
            self.beyond = ready!(self.poll_peek(cx, &mut ReadBuf::new(&mut one)))?;
            if self.beyond == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Peeks at what comes behind the bytes that are kept.
///
/// The kernel looks from the first byte unless it was told otherwise, which is right whenever none is kept. So a connection
/// whose requests come whole, each after the answer before it, is never worth the call that tells it.
fn peek_behind(stream: &TcpStream, kept: usize, has_offset: &mut bool, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
    if kept > 0 && !*has_offset {
        peek::set_offset(stream.as_fd(), Some(kept))?;
        *has_offset = true;
    }
    peek::peek(stream.as_fd(), buf)
}

impl AsFd for Journaled {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsyncRead for Journaled {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.state {
            State::Http if this.exchange.is_gated() => this.poll_end(cx),
            State::Http => this.poll_arrival(cx, buf),
            State::Plain => Pin::new(&mut this.stream).poll_read(cx, buf),
            State::Moved => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Journaled {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.state {
            State::Http if !buf.is_empty() => {}
            State::Http | State::Plain => return Pin::new(&mut this.stream).poll_write(cx, buf),
            // Nobody is there to read it, and nothing was asked.
            State::Moved => return Poll::Ready(Ok(buf.len())),
        }
        let Ok(offer) = this.exchange.offer(buf) else {
            this.give_up();
            return Pin::new(&mut this.stream).poll_write(cx, buf);
        };
        match offer.meaning {
            Meaning::Part => this.entry.writing_part(),
            Meaning::Interim => this.entry.writing_interim(this.written + buf.len() as u64),
            Meaning::Whole { is_last } => {
                let end = this.written + buf.len() as u64;
                this.entry.completing(end, this.consumed + this.kept as u64, is_last);
            }
        }
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.written += written as u64;
        if this.exchange.wrote(offer, buf, written).is_err() {
            this.give_up();
        } else if this.exchange.is_answered() {
            this.settle();
        } else if !this.exchange.is_answer_begun() {
            this.entry.wrote_interim(this.written);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is buffered in the process.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.state == State::Moved {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        // Only now: to take bytes out of an open connection is for its own worker to judge, closed ones are left alone.
        if this.state == State::Http {
            this.state = State::Plain;
            this.take_out();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Journaled {
    fn drop(&mut self) {
        // Bytes that the server has got, or that were kept from it, would make the kernel reset the connection, and the end
        // of the last answer could be lost with it.
        if self.state != State::Moved
            && self.kept + self.beyond > 0
            && let Ok(waiting) = peek::waiting(self.stream.as_fd())
        {
            self.entry.opaque();
            // Nothing more can be done for it.
            peek::discard(self.stream.as_fd(), waiting).ok();
        }
    }
}

/// So much of an unfinished request is kept without a thought: windows begin at more than that.
const STALL_MIN: usize = 8 << 10;
/// How long the rest of a longer one is waited for before what is here is taken out.
const PATIENCE: Duration = Duration::from_millis(200);

#[cfg(test)]
#[path = "journaled_edges_tests.rs"]
mod edges;
#[cfg(test)]
#[path = "journaled_tests.rs"]
mod tests;
