//! How an HTTP/1 connection ends when the worker stops: nothing begun is cut, nothing idle is waited for.
//!
//! The HTTP dispatcher is not ours and knows nothing of the stop; it does know that end-of-file means "no more
//! requests". So the stream given to it is wrapped, and tells it end-of-file at the right moment:
//!
//! | at the stop the connection … | it is closed |
//! |---|---|
//! | has a request in progress or unsent response bytes | after the response |
//! | was used before and is idle | at once |
//! | was used a moment ago (less than `RECENT`) | after the next response, or after `RECENT` without a request |
//! | is new, nothing received yet | after `FRESH_PATIENCE` (the first request may be on its way) |
//! | has sent part of a request head | after the client's time limit for heads |
//!
//! Where connections survive this worker (`survival`) and somebody else accepts, none of this is needed: each is given to
//! another worker as soon as no request is in progress on it, and its client notices nothing.
//!
//! The third of these rows is what keeps busy keep-alive clients free of errors: their next request is probably on its
//! way, would meet a closed connection, and is told of the close by its response instead.
//!
//! Everything here is on one thread. Accepting, and the application, are in `web`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::conn::ConnectionGuard;
use super::survival::{Giving, ROOM_PAUSE, Survival, Transport};
use crate::clock;
use crate::model::Mono;
use crate::worker::counters::Counters;
use crate::worker::flight::RequestNote;

/// The stop, as all connections of one listener see it.
#[derive(Debug, Default)]
pub(super) struct Drain {
    stage: Cell<Stage>,
    begun: Cell<Mono>,
    /// Connections that survive are given away.
    is_moving: Cell<bool>,
    last_id: Cell<u64>,
    open: RefCell<HashMap<u64, Weak<ConnState>>>,
}

/// Which connections without a request in progress are closed. Only ever moves on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    None,
    Idle,
    Used,
    UsedAndFresh,
    All,
}

impl Drain {
    /// Closes what is idle, and everything else as it becomes idle. Then moves on by time, so that no client can hold
    /// the stop up by being silent; lasts until it is dropped. `is_moving`: gives away what can be given away.
    pub(super) async fn run(&self, head_patience: Duration, is_moving: bool) {
        self.is_moving.set(is_moving);
        self.begun.set(clock::now());
        self.enter(Stage::Idle);
        let mut passed = Duration::ZERO;
        let rest = [
            (RECENT, Stage::Used),
            (FRESH_PATIENCE.min(head_patience), Stage::UsedAndFresh),
            (head_patience, Stage::All),
        ];
        for (after, stage) in rest {
            tokio::time::sleep(after.saturating_sub(passed)).await;
            passed = passed.max(after);
            self.enter(stage);
        }
        std::future::pending().await
    }

    pub(super) fn has_begun(&self) -> bool {
        self.stage.get() != Stage::None
    }

    fn enter(&self, stage: Stage) {
        self.stage.set(stage);
        for state in self.open.borrow().values().filter_map(Weak::upgrade) {
            state.wake_reader();
        }
    }
}

/// What is known about one connection, shared between its stream, its requests and the drain.
#[derive(Debug)]
pub(super) struct ConnState {
    id: u64,
    drain: Rc<Drain>,
    counters: Counters,
    /// Requests whose response is not completely produced.
    in_flight: Cell<u32>,
    /// When the last request began or ended; `None` before the first.
    used: Cell<Option<Mono>>,
    /// Bytes were received that no request has begun with yet: part of a head, in all probability.
    partial: Cell<bool>,
    /// The dispatcher holds response bytes that the kernel has not taken.
    unsent: Cell<bool>,
    /// The client was told that the connection closes, because of the stop.
    announced: Cell<bool>,
    /// Another worker could serve it on.
    is_movable: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl ConnState {
    /// Begins a request: counted, and protected from the drain, until the result is dropped.
    pub(super) fn begin(self: &Rc<Self>, note: RequestNote) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        self.used.set(Some(clock::now()));
        self.partial.set(false);
        self.counters.request_started();
        InFlight {
            state: Rc::clone(self),
            note,
        }
    }

    /// Should the response that is about to be sent announce the end of the connection?
    pub(super) fn announce_close(&self) -> bool {
        let draining = self.drain.has_begun() && !self.is_to_move();
        if draining {
            self.announced.set(true);
        }
        draining
    }

    fn is_to_move(&self) -> bool {
        self.drain.is_moving.get() && self.is_movable.get()
    }

    fn is_between_requests(&self) -> bool {
        self.in_flight.get() == 0 && !self.unsent.get()
    }

    fn is_over(&self) -> bool {
        self.is_between_requests()
            && match self.drain.stage.get() {
                Stage::None => false,
                Stage::Idle => self.is_idle() && !self.partial.get(),
                Stage::Used => self.used.get().is_some() && !self.partial.get(),
                Stage::UsedAndFresh => !self.partial.get(),
                Stage::All => true,
            }
    }

    /// Was it used before, but not lately?
    fn is_idle(&self) -> bool {
        let begun = self.drain.begun.get();
        self.used.get().is_some_and(|used| begun.since(used) >= RECENT)
    }

    fn park(&self, waker: &Waker) {
        let mut reader = self.reader.borrow_mut();
        if !reader.as_ref().is_some_and(|parked| parked.will_wake(waker)) {
            *reader = Some(waker.clone());
        }
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Something that kept the connection open ended: its reader may have to be told of the end.
    fn reconsider(&self) {
        if self.drain.has_begun() && (self.is_over() || self.is_to_move() && self.is_between_requests()) {
            self.wake_reader();
        }
    }
}

/// A request in progress.
#[derive(Debug)]
pub(super) struct InFlight {
    state: Rc<ConnState>,
    note: RequestNote,
}

impl InFlight {
    pub(super) fn state(&self) -> &ConnState {
        &self.state
    }

    pub(super) fn note(&self) -> &RequestNote {
        &self.note
    }

    pub(super) fn failed(&self) {
        self.state.counters.error();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The handler panicked: the runtime drops the connection's task while it unwinds.
            self.failed();
        }
        self.state.in_flight.set(self.state.in_flight.get() - 1);
        self.state.used.set(Some(clock::now()));
        self.state.counters.request_finished();
        self.state.reconsider();
    }
}

/// A response body that keeps its request in progress until the dispatcher has all of it, or gave up on it.
#[derive(Debug)]
pub(super) struct TrackedBody {
    body: BoxBody,
    _request: InFlight,
}

impl TrackedBody {
    pub(super) fn new(body: BoxBody, request: InFlight) -> Self {
        Self {
            body,
            _request: request,
        }
    }
}

impl MessageBody for TrackedBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

/// The stream given to the HTTP dispatcher.
#[derive(Debug)]
pub(super) struct GracefulStream {
    stream: Transport,
    survival: Option<Survival>,
    state: Rc<ConnState>,
    closing: Option<Pin<Box<Sleep>>>,
    /// Runs while there is no room for it on its way to another worker.
    room: Option<Pin<Box<Sleep>>>,
    _open: ConnectionGuard,
}

impl GracefulStream {
    /// With `survival` it may be given away.
    pub(super) fn new(
        stream: Transport,
        survival: Option<Survival>,
        drain: &Rc<Drain>,
        counters: Counters,
        open: ConnectionGuard,
    ) -> Self {
        let id = drain.last_id.get() + 1;
        drain.last_id.set(id);
        let state = Rc::new(ConnState {
            id,
            drain: Rc::clone(drain),
            counters,
            in_flight: Cell::new(0),
            used: Cell::new(None),
            partial: Cell::new(false),
            unsent: Cell::new(false),
            announced: Cell::new(false),
            is_movable: Cell::new(stream.is_movable()),
            reader: RefCell::new(None),
        });
        drain.open.borrow_mut().insert(id, Rc::downgrade(&state));
        Self {
            stream,
            survival,
            state,
            closing: None,
            room: None,
            _open: open,
        }
    }

    pub(super) fn state(&self) -> &Rc<ConnState> {
        &self.state
    }

    /// Gives the connection to another worker, if the drain is at that and no request is in progress: true if it is gone.
    /// Bytes that are here by now go along. Pending while there is no room on the way, unless the drain is at its end.
    fn poll_give_away(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            let state = &self.state;
            let is_time = state.is_to_move() && state.is_between_requests();
            let Some(survival) = self.survival.as_ref().filter(|_| is_time) else {
                return Poll::Ready(false);
            };
            if let Some(room) = &mut self.room {
                ready!(room.as_mut().poll(cx));
                self.room = None;
            }
            let giving = match &mut self.stream {
                Transport::Http1(journaled) => survival.give_away(journaled),
                Transport::Plain(_) => Giving::Never,
            };
            match giving {
                Giving::Taken => {
                    state.is_movable.set(false);
                    return Poll::Ready(true);
                }
                Giving::Later if state.drain.stage.get() != Stage::All => {
                    self.room = Some(Box::pin(tokio::time::sleep(ROOM_PAUSE)));
                }
                // Not asked again: it ends by the rules for all.
                Giving::Later | Giving::Never => {
                    state.is_movable.set(false);
                    return Poll::Ready(false);
                }
            }
        }
    }

    /// On a connection that was in use elsewhere: waits for its next request for as long as it may be idle. False if it ends
    /// before that. The dispatcher would take it for a new one, and answer its silence with 408 after the time limit for
    /// first requests.
    pub(super) async fn resumes(&mut self, keep_alive: Duration) -> bool {
        let is_idle = match &self.stream {
            Transport::Http1(journaled) => journaled.is_resumed() && !journaled.has_unread(),
            Transport::Plain(_) => false,
        };
        if !is_idle {
            return true;
        }
        let next = std::future::poll_fn(|cx| self.poll_next_request(cx));
        tokio::time::timeout(keep_alive, next).await.unwrap_or(false)
    }

    fn poll_next_request(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if ready!(self.poll_give_away(cx)) {
            return Poll::Ready(false);
        }
        let Transport::Http1(journaled) = &self.stream else {
            return Poll::Ready(true);
        };
        if journaled.poll_ready(cx).is_ready() {
            return Poll::Ready(true);
        }
        let state = &self.state;
        if state.is_over() && !journaled.has_unread() {
            return Poll::Ready(false);
        }
        state.park(cx.waker());
        Poll::Pending
    }

    /// Reads and discards what the client still sends, until it closes too. Without this, requests pipelined behind
    /// the last answered one would make the kernel reset the connection, and the answer could be lost with it.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let closing = self.closing.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        // Bounded: the timer ends it, and each read spends from the runtime's budget for this task.
        while closing.as_mut().poll(cx).is_pending() {
            let mut discarded = [0; 4096];
            let mut buf = ReadBuf::new(&mut discarded);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }

    /// What is spoken on it may have turned out to be something else.
    fn note_movable(&self) {
        if self.state.is_movable.get() && !self.stream.is_movable() {
            self.state.is_movable.set(false);
        }
    }

    /// After a write of a buffer of `len` bytes: the dispatcher always offers all it has.
    fn wrote(&self, len: usize, outcome: &Poll<io::Result<usize>>) {
        let sent = match outcome {
            Poll::Ready(Ok(n)) => *n,
            Poll::Ready(Err(_)) => len,
            Poll::Pending => 0,
        };
        self.state.unsent.set(sent < len);
        self.note_movable();
        self.state.reconsider();
    }
}

impl Drop for GracefulStream {
    fn drop(&mut self) {
        self.state.drain.open.borrow_mut().remove(&self.state.id);
    }
}

impl AsyncRead for GracefulStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if ready!(self.poll_give_away(cx)) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.note_movable();
        let state = &self.state;
        match &outcome {
            Poll::Ready(_) => {
                if buf.filled().len() > before && state.in_flight.get() == 0 {
                    state.partial.set(true);
                }
                outcome
            }
            // Out of budget is no statement about the stream; the runtime polls again by itself. Closing over unread bytes
            // would reset the connection, and bytes that are here by now came before the stop for all the client can know.
            Poll::Pending
                if state.is_over() && tokio::task::coop::has_budget_remaining() && !self.stream.has_unread() =>
            {
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                state.park(cx.waker());
                outcome
            }
        }
    }
}

impl AsyncWrite for GracefulStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(buf.len(), &outcome);
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.state.announced.get() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

/// What counts as busy, and how long the next request of a busy connection is waited for.
const RECENT: Duration = Duration::from_millis(250);

/// How long a connection without any request yet is kept at the stop: longer than any round trip, so that a client
/// whose connection was just accepted gets its request through.
const FRESH_PATIENCE: Duration = Duration::from_secs(1);

/// How long a client may take to close after it was told that the connection closes.
const LINGER: Duration = Duration::from_secs(1);
