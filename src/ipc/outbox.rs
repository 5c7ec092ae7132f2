//! What waits to be sent: bounded, filled from any thread, emptied by one writer at a time.
//!
//! Two locks. `waiting` is taken for a copy of one frame and for a swap of buffers; `flight` for one non-blocking write.
//! Whoever needs both takes `flight` first. Nothing waits while it holds one, and no user code runs under one.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use tokio::sync::Notify;

use super::encode::{EncodeError, encode_message};
use super::frame::{FRAME_FDS_MAX, Wire};
use crate::clock;
use crate::model::PayloadError;
use crate::sys::scm;

/// How much may wait. A single frame is taken whatever its length when nothing else waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of user traffic. Default 1 MiB.
    pub(crate) bytes: usize,
    /// Frames of user traffic. Default 65,536.
    pub(crate) frames: usize,
    /// What control frames may take beyond both, in bytes. Default 1 MiB.
    pub(crate) control_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 1 << 20,
            frames: 1 << 16,
            control_bytes: 1 << 20,
        }
    }
}

/// The frame was not taken; its descriptors come back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    /// The peer does not read fast enough.
    #[error("the channel is full; the other side does not read fast enough")]
    Full(Vec<OwnedFd>),
    /// The channel is closed.
    #[error("the channel is closed")]
    Closed(Vec<OwnedFd>),
    /// No JSON form.
    #[error("{0}")]
    Payload(PayloadError, Vec<OwnedFd>),
    /// More than a frame may be, in words: length, nesting or number of descriptors.
    #[error("{0}")]
    TooLarge(EncodeError, Vec<OwnedFd>),
}

impl PushError {
    fn refused(why: EncodeError, fds: Vec<OwnedFd>) -> Self {
        match why {
            EncodeError::Payload(error) => Self::Payload(error, fds),
            EncodeError::TooLarge | EncodeError::TooDeep | EncodeError::TooManyFds => Self::TooLarge(why, fds),
        }
    }

    /// The descriptors that were to be sent.
    #[cfg(test)]
    pub(crate) fn into_fds(self) -> Vec<OwnedFd> {
        match self {
            Self::Full(fds) | Self::Closed(fds) | Self::Payload(_, fds) | Self::TooLarge(_, fds) => fds,
        }
    }
}

/// The sending side of a channel. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Outbox(Arc<Shared>);

/// How a turn of writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    /// Nothing waits.
    All,
    /// The socket takes no more for now.
    Blocked,
    /// A turn's budget is used up.
    Budget,
    /// The kernel lacks memory, or too many descriptors of this user are on their way: try again in a while.
    Short,
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    waiting: Mutex<Waiting>,
    flight: Mutex<Flight>,
    /// Bytes and frames in `flight`, for the bound. Raised under `waiting`, lowered by the writer.
    flying: AtomicUsize,
    flying_frames: AtomicUsize,
    /// For the writer: there is something to do.
    work: Notify,
    /// For `flushed`: nothing waits any more, or never will.
    drained: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    batch: Batch,
    end: End,
    /// Does the writer know of nothing to do? Then the next frame must wake it; the frames after that need not.
    is_idle: bool,
}

/// Frames, one after the other, and the descriptors that ride on the first byte of some of them.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    frames: usize,
    fds: VecDeque<Attached>,
}

#[derive(Debug)]
struct Attached {
    at: usize,
    fds: Vec<OwnedFd>,
}

/// What the writer has taken over; `sent` bytes of it are with the kernel.
#[derive(Debug, Default)]
struct Flight {
    batch: Batch,
    sent: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// Takes nothing new; what waits is still sent.
    Closed,
    /// What waited is thrown away.
    Dead,
}

impl Outbox {
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Arc::new(Shared {
            limits,
            waiting: Mutex::new(Waiting {
                is_idle: true,
                ..Waiting::default()
            }),
            flight: Mutex::default(),
            flying: AtomicUsize::new(0),
            flying_frames: AtomicUsize::new(0),
            work: Notify::new(),
            drained: Notify::new(),
        }))
    }

    /// Queues a user's message.
    pub(crate) fn push_message<T: Serialize + ?Sized>(&self, value: &T, fds: Vec<OwnedFd>) -> Result<(), PushError> {
        with_scratch(|line| match encode_message(value, fds.len(), line) {
            Ok(()) => self.enqueue(line, fds, true),
            Err(why) => Err(PushError::refused(why, fds)),
        })
    }

    /// Queues any frame. Messages and calls count against the bound for user traffic, others against a larger one.
    pub(crate) fn push<T: Wire>(&self, frame: &T, fds: Vec<OwnedFd>) -> Result<(), PushError> {
        debug_assert!(
            fds.len() > FRAME_FDS_MAX || frame.fds_allowed().contains(&fds.len()),
            "the other side would take this frame for a breach of the protocol"
        );
        with_scratch(|line| match frame.encode(fds.len(), line) {
            Ok(()) => self.enqueue(line, fds, frame.is_user()),
            Err(why) => Err(PushError::refused(why, fds)),
        })
    }

    /// Takes nothing new from now on; what waits is still sent, and then the write loop ends.
    pub(crate) fn close(&self) {
        self.end(End::Closed);
    }

    /// Takes nothing new and throws away what waits: the peer is gone.
    pub(crate) fn abandon(&self) {
        self.end(End::Dead);
        let batch = {
            let mut flight = self.flight();
            self.0.flying.store(0, Relaxed);
            self.0.flying_frames.store(0, Relaxed);
            mem::take(&mut *flight)
        };
        // Descriptors are closed here, outside of the lock: closing a socket may take its time.
        drop(batch);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.waiting().end != End::Open
    }

    /// Was it abandoned?
    pub(crate) fn is_dead(&self) -> bool {
        self.waiting().end == End::Dead
    }

    /// Bytes that are not with the kernel yet.
    pub(crate) fn queued_bytes(&self) -> usize {
        let waiting = self.waiting();
        waiting.batch.bytes.len() + self.0.flying.load(Relaxed)
    }

    /// The frames that wait, for whoever stands in for the peer.
    #[cfg(feature = "test-util")]
    pub(crate) fn take_lines(&self) -> Vec<u8> {
        mem::take(&mut self.waiting().batch).bytes
    }

    /// Waits until everything pushed before is with the kernel, or never will be because the peer is gone.
    #[cfg(test)]
    pub(crate) async fn flushed(&self) {
        loop {
            // Registered before looking: what happens in between is not missed.
            let drained = self.0.drained.notified();
            if self.queued_bytes() == 0 || self.is_dead() {
                return;
            }
            drained.await;
        }
    }

    /// Sends what waits without the write loop, for at most `limit`: for a process that is about to end. `true` if
    /// nothing is left.
    pub(crate) fn flush_now(&self, socket: BorrowedFd<'_>, limit: Duration) -> bool {
        let deadline = clock::now() + limit;
        loop {
            let wrote = self.write_some(socket);
            let left = clock::now().until(deadline);
            match wrote {
                Ok(Wrote::All) => return true,
                Ok(_) | Err(_) if left.is_zero() => return false,
                Ok(Wrote::Budget) => {}
                Ok(Wrote::Blocked) => wait(&mut [PollFd::new(socket, PollFlags::POLLOUT)], left),
                Ok(Wrote::Short) => wait(&mut [], left.min(SHORT_PAUSE)),
                Err(_) => return false,
            }
        }
    }

    /// Waits until there is something to write or the outbox is closed.
    pub(super) async fn work(&self) {
        self.0.work.notified().await;
    }

    /// Writes for one turn, without blocking. Any thread may: the bytes in flight have one owner at a time.
    pub(super) fn write_some(&self, socket: BorrowedFd<'_>) -> io::Result<Wrote> {
        let mut flight = self.flight();
        let mut budget = TURN_BYTES;
        loop {
            if flight.is_done() && !self.refill(&mut flight) {
                drop(flight);
                self.0.drained.notify_waiters();
                return Ok(Wrote::All);
            }
            if budget == 0 {
                return Ok(Wrote::Budget);
            }
            match flight.send(socket) {
                Ok(sent) => {
                    self.0.flying.fetch_sub(sent, Relaxed);
                    budget = budget.saturating_sub(sent);
                }
                Err(error) => {
                    return match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                        Errno::EAGAIN => Ok(Wrote::Blocked),
                        Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM => Ok(Wrote::Short),
                        _ => Err(error),
                    };
                }
            }
        }
    }

    /// Takes over what waits; `false` if that is nothing.
    fn refill(&self, flight: &mut Flight) -> bool {
        flight.reset();
        let mut waiting = self.waiting();
        mem::swap(&mut flight.batch, &mut waiting.batch);
        let is_refilled = !flight.batch.bytes.is_empty();
        waiting.is_idle = !is_refilled;
        self.0.flying.store(flight.batch.bytes.len(), Relaxed);
        self.0.flying_frames.store(flight.batch.frames, Relaxed);
        is_refilled
    }

    fn enqueue(&self, line: &[u8], fds: Vec<OwnedFd>, is_user: bool) -> Result<(), PushError> {
        let Shared { limits, .. } = &*self.0;
        let mut waiting = self.waiting();
        if waiting.end != End::Open {
            return Err(PushError::Closed(fds));
        }
        let queued = waiting.batch.bytes.len() + self.0.flying.load(Relaxed);
        let frames = waiting.batch.frames + self.0.flying_frames.load(Relaxed);
        let (bytes_max, frames_max) = if is_user {
            (limits.bytes, limits.frames)
        } else {
            // The shortest frame has more than eight bytes, so the bytes bound the frames too.
            (limits.bytes.saturating_add(limits.control_bytes), usize::MAX)
        };
        if queued > 0 && (queued.saturating_add(line.len()) > bytes_max || frames >= frames_max) {
            return Err(PushError::Full(fds));
        }
        let batch = &mut waiting.batch;
        if !fds.is_empty() {
            let at = batch.bytes.len();
            batch.fds.push_back(Attached { at, fds });
        }
        batch.bytes.extend_from_slice(line);
        batch.frames += 1;
        let was_idle = mem::replace(&mut waiting.is_idle, false);
        drop(waiting);
        if was_idle {
            self.0.work.notify_one();
        }
        Ok(())
    }

    fn end(&self, end: End) {
        let dropped = {
            let mut waiting = self.waiting();
            if waiting.end != End::Dead {
                waiting.end = end;
            }
            (waiting.end == End::Dead).then(|| mem::take(&mut waiting.batch))
        };
        drop(dropped);
        self.0.work.notify_one();
        self.0.drained.notify_waiters();
    }

    // Both stay usable after a panic: nothing that can panic happens between two changes that belong together.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.0.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Flight {
    fn is_done(&self) -> bool {
        self.sent == self.batch.bytes.len()
    }

    /// Empties the buffer for its next use; after a flood it is given back.
    fn reset(&mut self) {
        self.sent = 0;
        self.batch.frames = 0;
        self.batch.bytes.clear();
        self.batch.bytes.shrink_to(KEEP_BYTES);
        self.batch.fds.clear();
    }

    /// One `sendmsg`: up to the next frame with descriptors, so that each set rides on the first byte of its own frame.
    fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut sets = self.batch.fds.iter();
        let (fds, end) = match sets.next() {
            Some(first) if first.at == self.sent => (&*first.fds, sets.next()),
            next => (&[][..], next),
        };
        let end = end.map_or(self.batch.bytes.len(), |set| set.at);
        let sent = scm::send(socket, &[IoSlice::new(&self.batch.bytes[self.sent..end])], fds)?;
        if !fds.is_empty() && sent > 0 {
            // With the first byte the kernel has its own copies. A rest is sent without them, or they would arrive twice.
            self.batch.fds.pop_front();
        }
        self.sent += sent;
        Ok(sent)
    }
}

/// Runs `write` with a buffer of this thread. A line is made there and not under the lock: a user's `Serialize` may be
/// slow, may panic, and may itself send.
fn with_scratch<R>(write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut line = SCRATCH.take();
    line.clear();
    let result = write(&mut line);
    line.shrink_to(SCRATCH_BYTES);
    SCRATCH.set(line);
    result
}

/// Waits for `sockets`, or just waits. An error is as good as an event: the next write tells what is wrong.
fn wait(sockets: &mut [PollFd<'_>], limit: Duration) {
    // Rounded up, or the last part of a millisecond would be spent spinning.
    let limit = PollTimeout::try_from(limit.saturating_add(Duration::from_micros(999))).unwrap_or(PollTimeout::MAX);
    _ = poll(sockets, limit);
}

/// What one turn writes before others get theirs.
const TURN_BYTES: usize = 1 << 20;

/// The capacity an empty buffer may keep.
const KEEP_BYTES: usize = 1 << 18;

/// The capacity a thread's scratch buffer may keep.
const SCRATCH_BYTES: usize = 1 << 16;

/// How long to wait when the kernel is short of something that no event announces.
pub(super) const SHORT_PAUSE: Duration = Duration::from_millis(20);

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
