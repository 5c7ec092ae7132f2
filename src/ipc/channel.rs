//! One end of the channel: moves bytes and descriptors between a socket and decoder or outbox.
//!
//! Every descriptor of the process that a peer can reach goes through here; there is no plain `read`, which would silently
//! lose descriptors.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use bytes::BytesMut;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::codec::{Decoder, FrameError};
use super::frame::{Incoming, Wire};
use super::outbox::{Outbox, SHORT_PAUSE, Wrote};
use crate::sys::reactor::register;
use crate::sys::scm::{self, ControlBuffer};

/// The channel failed. What was read before is delivered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The peer broke the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The socket failed with something else than a peer that is gone.
    #[error("cannot read from the channel: {0}")]
    Io(#[from] io::Error),
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    /// The channel is open, as far as was read.
    Frames,
    /// The peer closed its end and nothing is left; so it stays.
    Closed,
}

/// An end of the channel.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: AsyncFd<OwnedFd>,
}

impl Channel {
    /// Takes over one end of a Unix stream socket pair. Needs a running runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: register(socket, Interest::READABLE | Interest::WRITABLE)?,
        })
    }

    /// Ends the channel in both directions, also for duplicates of its descriptor: the peer reads what was sent, and then
    /// the end.
    pub(crate) fn shut_down(&self) {
        // ENOTCONN: the peer has closed its end already.
        nix::sys::socket::shutdown(self.socket.get_ref().as_raw_fd(), nix::sys::socket::Shutdown::Both).ok();
    }

    /// Waits for frames and appends at most a turn's worth of them to `out`.
    ///
    /// On an error `out` has what came before it. To be fair to other channels the caller yields between two calls: what
    /// was read but not returned yet is returned without a wait. Dropping the future loses nothing.
    pub(crate) async fn read_batch<T: Wire>(
        &self,
        decoder: &mut Decoder,
        out: &mut Vec<Incoming<T>>,
    ) -> Result<ReadOutcome, ChannelError> {
        let (mut read, mut count) = (0, 0);
        // Was the last read cut off by its own limit, so that more is likely to be there?
        let mut is_cut = false;
        loop {
            count += decode(decoder, out, TURN_FRAMES - count)?;
            if count == TURN_FRAMES || (count > 0 && (!is_cut || read >= TURN_BYTES)) {
                return Ok(ReadOutcome::Frames);
            }
            if decoder.is_ended() {
                return Ok(ReadOutcome::Closed);
            }
            if count > 0 {
                // What a turn costs the caller is shared by its frames, so a turn takes what is there, but does not wait.
                match self.read(decoder)? {
                    Some(len) => {
                        is_cut = len == READ_BYTES;
                        read += len;
                    }
                    None => return Ok(ReadOutcome::Frames),
                }
                continue;
            }
            if read >= TURN_BYTES {
                // One frame may be longer than a turn.
                read = 0;
                tokio::task::yield_now().await;
            }
            let mut ready = self.socket.readable().await?;
            match self.read(decoder)? {
                Some(len) => {
                    is_cut = len == READ_BYTES;
                    read += len;
                    ready.retain_ready();
                }
                None => ready.clear_ready(),
            }
        }
    }

    /// Waits until something lies unread, in the socket (its end is something, too) or in the decoder. Takes nothing.
    pub(crate) async fn unread(&self, decoder: &Decoder) {
        while !decoder.holds_line() {
            // Failing only while the runtime shuts down, and then nobody polls this again.
            let Ok(mut ready) = self.socket.readable().await else {
                return std::future::pending().await;
            };
            // A look that cannot be had is an answer as well: whatever is there is not read now.
            let mut here = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            if poll(&mut here, PollTimeout::ZERO) != Ok(0) {
                return;
            }
            ready.clear_ready();
        }
    }

    /// Appends everything that is in the socket now, without waiting; for a peer of which the process is gone.
    ///
    /// Does not wait for the end of file, because a grandchild may hold the other end, and reads at most
    /// [`DRAIN_BYTES_MAX`], because such a grandchild may also write.
    pub(crate) fn drain_now<T: Wire>(
        &self,
        decoder: &mut Decoder,
        out: &mut Vec<Incoming<T>>,
    ) -> Result<ReadOutcome, ChannelError> {
        let mut left = DRAIN_BYTES_MAX;
        loop {
            decode(decoder, out, usize::MAX)?;
            if decoder.is_ended() {
                return Ok(ReadOutcome::Closed);
            }
            match self.read(decoder)? {
                Some(len) if len < left => left -= len,
                Some(_) => {
                    decode(decoder, out, usize::MAX)?;
                    return Ok(ReadOutcome::Frames);
                }
                None => return Ok(ReadOutcome::Frames),
            }
        }
    }

    /// Sends what `outbox` holds until it is closed and empty. When the peer is gone or the socket fails, the outbox is
    /// abandoned, which closes its descriptors; that the peer is gone is no error.
    pub(crate) async fn write_loop(&self, outbox: &Outbox) -> io::Result<()> {
        let result = self.write_all(outbox).await;
        if result.is_err() {
            outbox.abandon();
        }
        match result {
            Err(error) if is_peer_gone(&error) => Ok(()),
            result => result,
        }
    }

    async fn write_all(&self, outbox: &Outbox) -> io::Result<()> {
        while !outbox.is_dead() {
            // Asked before the write: what is pushed before a `close` is then seen by the write.
            let is_closed = outbox.is_closed();
            let mut ready = tokio::select! {
                biased;
                ready = self.socket.writable() => ready?,
                // While the socket is full only an end is told; what is pushed is found anyhow.
                () = outbox.work() => continue,
            };
            match outbox.write_some(self.as_fd())? {
                Wrote::All if is_closed => break,
                Wrote::All => outbox.work().await,
                Wrote::Blocked => ready.clear_ready(),
                Wrote::Budget => tokio::task::yield_now().await,
                Wrote::Short => tokio::time::sleep(SHORT_PAUSE).await,
            }
        }
        Ok(())
    }

    /// Reads once; `None` if there is nothing now. The end of the stream is noted in the decoder.
    fn read(&self, decoder: &mut Decoder) -> io::Result<Option<usize>> {
        let receive =
            |buf: &mut BytesMut| CONTROL.with_borrow_mut(|control| scm::recv(self.as_fd(), buf, READ_BYTES, control));
        match decoder.fill(receive) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // The peer closed its end with something of ours unread; what it sent before has been read by now.
            Err(error) if is_peer_gone(&error) => {
                decoder.end();
                Ok(Some(0))
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

/// Appends at most `max` frames; says how many.
fn decode<T: Wire>(decoder: &mut Decoder, out: &mut Vec<Incoming<T>>, max: usize) -> Result<usize, FrameError> {
    let mut count = 0;
    while count < max {
        let Some(frame) = decoder.next()? else { break };
        out.push(frame);
        count += 1;
    }
    Ok(count)
}

fn is_peer_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        Errno::EPIPE | Errno::ECONNRESET
    )
}

thread_local! {
    /// Where the kernel puts descriptors during one call; nothing of it is needed after that.
    static CONTROL: RefCell<ControlBuffer> = RefCell::new(ControlBuffer::new());
}

/// Frames that one turn returns.
const TURN_FRAMES: usize = 64;

/// Bytes that one turn reads before others get theirs.
const TURN_BYTES: usize = 1 << 18;

/// Bytes that one `recvmsg` reads. A payload that is kept keeps the whole buffer it was read into, so this is small; a
/// system call for some hundred messages is not what limits the rate.
const READ_BYTES: usize = 1 << 14;

/// What is read at most from a channel of which the process is gone; more than a socket's buffer holds by default.
const DRAIN_BYTES_MAX: usize = 8 << 20;

#[cfg(test)]
#[path = "channel_tests.rs"]
mod tests;
