//! Bytes to frames: lines, limits, and which descriptor belongs to which line.
//!
//! No socket here, and no opinion about kinds: those are in [`super::frame`]. The way from frames to bytes is in
//! [`super::encode`].

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::encode::{FRAME_DEPTH_MAX, FRAME_LEN_MAX, MESSAGE_HEAD, is_too_deep};
use super::frame::{Answer, Incoming, Wire};
use crate::model::Payload;
use crate::sys::scm::Received;

/// Descriptors nobody asked for that one channel may bring in its life; all of them are closed at once.
pub(crate) const SURPLUS_FDS_MAX: u64 = 64;

/// The peer broke the protocol. Nothing after it can be trusted: the channel is of no further use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// A line without an end.
    #[error("a frame is longer than {FRAME_LEN_MAX} bytes; send large data in parts or through a descriptor")]
    TooLong,
    /// Not an object with a text `t`, or not UTF-8.
    #[error("a line is no frame: {0}")]
    NotJson(String),
    /// Brackets.
    #[error("a frame is nested deeper than {FRAME_DEPTH_MAX} levels")]
    TooDeep,
    /// A kind this version or this direction does not have.
    #[error("unknown kind of frame {0:?}; do both sides use the same version of the library?")]
    UnknownKind(String),
    /// A known kind with something else in it.
    #[error("the frame {kind:?} does not have the expected body: {detail}")]
    BadBody { kind: String, detail: String },
    /// Fewer or more than declared came.
    #[error("a frame declared {declared} descriptors and {received} came with it")]
    Descriptors { declared: u64, received: usize },
    /// A kind that carries another number of descriptors.
    #[error("a frame {kind:?} with {declared} descriptors is not allowed")]
    DescriptorsNotAllowed { kind: String, declared: u64 },
    /// Descriptors came again and again without a frame that wants them.
    #[error("more than {SURPLUS_FDS_MAX} descriptors came that no frame declared")]
    SurplusDescriptors,
}

impl FrameError {
    pub(super) fn unknown_kind(kind: &str) -> Self {
        Self::UnknownKind(brief(kind))
    }
}

/// What a decoder met in its life besides frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Descriptors that no frame declared.
    pub(crate) surplus_fds: u64,
    /// Frames that were cut by the end of the stream: 0 or 1.
    pub(crate) half_frames: u64,
}

/// Takes bytes and descriptors in the order they came, gives frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buf: BytesMut,
    /// So much of `buf` holds no line end; without it a dribbled long line would be searched again and again.
    scanned: usize,
    /// Where in the stream `buf` starts.
    offset: u64,
    /// Descriptors of which the frame is not decoded yet.
    sets: VecDeque<FdSet>,
    counters: Counters,
    end: End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// End of file, or a protocol error: nothing more comes out than what is complete already.
    Ended,
}

/// Descriptors of one `recv`, which belong to a line that starts within `range`: the kernel ends a read after the bytes
/// they ride on, so there is at most one set for each read, but bytes sent before may be glued in front.
#[derive(Debug)]
struct FdSet {
    range: Range<u64>,
    fds: Vec<OwnedFd>,
    truncated: bool,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The next complete frame; `None` when more bytes are needed. After an error the decoder is empty and stays so.
    pub(crate) fn next<T: Wire>(&mut self) -> Result<Option<Incoming<T>>, FrameError> {
        let result = self.try_next();
        if result.is_err() {
            self.end();
            self.buf = BytesMut::new();
            // Closes what came along.
            self.sets.clear();
        }
        result
    }

    /// Appends what `receive` reads into the buffer, and notes the descriptors. Returns the number of bytes.
    pub(super) fn fill(&mut self, receive: impl FnOnce(&mut BytesMut) -> io::Result<Received>) -> io::Result<usize> {
        if self.is_ended() {
            return Ok(0);
        }
        if self.buf.is_empty() {
            self.buf = SPARE.take();
        }
        let start = self.offset + self.buf.len() as u64;
        let received = receive(&mut self.buf);
        self.lend_room();
        let received = received?;
        if received.truncated || !received.fds.is_empty() {
            self.sets.push_back(FdSet {
                range: start..start + received.len as u64,
                fds: received.fds,
                truncated: received.truncated,
            });
        }
        if received.len == 0 {
            self.end();
        }
        Ok(received.len)
    }

    /// Is there a line that was not asked for yet?
    pub(super) fn holds_line(&self) -> bool {
        memchr(b'\n', &self.buf[self.scanned..]).is_some()
    }

    /// Is the stream over? Complete frames may still be inside.
    pub(crate) const fn is_ended(&self) -> bool {
        matches!(self.end, End::Ended)
    }

    /// What was met besides frames.
    pub(crate) const fn counters(&self) -> Counters {
        self.counters
    }

    /// The stream is over, by the peer's word or by an error on it.
    pub(super) fn end(&mut self) {
        self.end = End::Ended;
    }

    fn try_next<T: Wire>(&mut self) -> Result<Option<Incoming<T>>, FrameError> {
        while let Some((start, mut line)) = self.next_line()? {
            let end = self.offset;
            if line.trim_ascii().is_empty() {
                self.drop_sets(|set| set.range.end > end)?;
                continue;
            }
            if is_too_deep(&line) {
                return Err(FrameError::TooDeep);
            }
            if let Some(payload) = plain_message(&mut line) {
                self.drop_sets(|set| set.range.end > end)?;
                return Ok(Some(Incoming {
                    frame: T::message(payload),
                    fds: Vec::new(),
                    fds_lost: false,
                }));
            }
            let (frame, declared) = decode_line::<T>(&line)?;
            let (fds, fds_lost) = self.take_fds(start, declared)?;
            self.drop_sets(|set| set.range.end > end)?;
            return Ok(Some(Incoming { frame, fds, fds_lost }));
        }
        Ok(None)
    }

    /// Leaves the room of an empty buffer to whoever reads next.
    fn lend_room(&mut self) {
        if self.buf.is_empty() {
            SPARE.set(std::mem::take(&mut self.buf));
        }
    }

    /// Cuts the next line off; with it, where in the stream it started.
    fn next_line(&mut self) -> Result<Option<(u64, Bytes)>, FrameError> {
        let Some(found) = memchr(b'\n', &self.buf[self.scanned..]) else {
            self.scanned = self.buf.len();
            if self.buf.len() > FRAME_LEN_MAX {
                return Err(FrameError::TooLong);
            }
            if self.is_ended() && !self.buf.is_empty() {
                self.counters.half_frames += 1;
                self.buf.clear();
                self.scanned = 0;
            }
            // What did not come with the first byte of the line that is now incomplete can belong to no frame. Without
            // this, one endless line could collect descriptors until the process has none left.
            let offset = self.offset;
            self.drop_sets(|set| set.range.contains(&offset))?;
            self.lend_room();
            return Ok(None);
        };
        let len = self.scanned + found;
        if len > FRAME_LEN_MAX {
            return Err(FrameError::TooLong);
        }
        let mut line = self.buf.split_to(len + 1).freeze();
        line.truncate(len);
        if len > LONG_LINE {
            // The rest, less than one read, moves to a buffer of its own: one long line must not hold its memory for ever.
            self.buf = BytesMut::from(&*self.buf);
        }
        let start = self.offset;
        self.offset += len as u64 + 1;
        self.scanned = 0;
        Ok(Some((start, line)))
    }

    /// The descriptors of the frame that starts at `start`, and whether they were lost on the way.
    fn take_fds(&mut self, start: u64, declared: u64) -> Result<(Vec<OwnedFd>, bool), FrameError> {
        if declared == 0 {
            return Ok((Vec::new(), false));
        }
        self.drop_sets(|set| set.range.end > start)?;
        let set = match self.sets.front() {
            Some(set) if set.range.start <= start => self.sets.pop_front(),
            Some(_) | None => None,
        };
        match set {
            // Closes those that did come: half of the descriptors are of no use to anybody.
            Some(set) if set.truncated => Ok((Vec::new(), true)),
            Some(set) if set.fds.len() as u64 == declared => Ok((set.fds, false)),
            other => Err(FrameError::Descriptors {
                declared,
                received: other.map_or(0, |set| set.fds.len()),
            }),
        }
    }

    /// Closes and counts the sets that are not to `keep`.
    fn drop_sets(&mut self, keep: impl Fn(&FdSet) -> bool) -> Result<(), FrameError> {
        let counters = &mut self.counters;
        self.sets.retain(|set| {
            let is_kept = keep(set);
            if !is_kept {
                counters.surplus_fds += set.fds.len() as u64;
            }
            is_kept
        });
        if self.counters.surplus_fds > SURPLUS_FDS_MAX {
            return Err(FrameError::SurplusDescriptors);
        }
        Ok(())
    }
}

/// A line taken apart, its body still text.
#[derive(Debug)]
pub(crate) struct RawFrame<'a> {
    pub(super) kind: &'a str,
    id: Option<u64>,
    body: Option<Bytes>,
}

impl RawFrame<'_> {
    pub(super) fn id(&self) -> Result<u64, FrameError> {
        self.id.ok_or_else(|| self.bad_body("the id is missing"))
    }

    /// The body as a user's value; a missing one is `null`.
    pub(super) fn payload(self) -> Payload {
        Payload::from_checked(self.body.unwrap_or(Bytes::from_static(b"null")))
    }

    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        serde_json::from_slice(self.text()).map_err(|error| self.bad_body(&error.to_string()))
    }

    /// The body as the answer to a call.
    pub(super) fn answer(&self) -> Result<Result<Payload, String>, FrameError> {
        let answer: Answer<&RawValue, String> =
            serde_json::from_slice(self.text()).map_err(|error| self.bad_body(&error.to_string()))?;
        let slice = |raw: &RawValue| {
            let body = self.body.as_ref().map(|body| body.slice_ref(raw.get().as_bytes()));
            Payload::from_checked(body.unwrap_or(Bytes::from_static(b"null")))
        };
        Ok(answer.into_result().map(slice))
    }

    fn text(&self) -> &[u8] {
        self.body.as_deref().unwrap_or(b"null")
    }

    pub(super) fn bad_body(&self, detail: &str) -> FrameError {
        FrameError::BadBody {
            kind: self.kind.to_owned(),
            detail: brief(detail),
        }
    }
}

/// The outer object. `Cow` would be borrowed only with a wrapper, and a kind with escapes in it is none of ours.
#[derive(Deserialize)]
struct Envelope<'a> {
    t: &'a str,
    id: Option<u64>,
    fds: Option<u64>,
    #[serde(borrow)]
    m: Option<&'a RawValue>,
}

/// The short cut for the one kind that comes in masses. Anything unusual (other keys, other order, blanks) is left to the
/// long way: `None`, and the line is as it was.
fn plain_message(line: &mut Bytes) -> Option<Payload> {
    let body = line.strip_prefix(MESSAGE_HEAD)?.strip_suffix(b"}")?;
    // Fails if there is more than one value between the head and the brace.
    let value: &RawValue = serde_json::from_slice(body).ok()?;
    if value.get().len() != body.len() {
        return None;
    }
    let len = line.len() - 1;
    line.truncate(len);
    line.advance(MESSAGE_HEAD.len());
    Some(Payload::from_checked(std::mem::take(line)))
}

fn decode_line<T: Wire>(line: &Bytes) -> Result<(T, u64), FrameError> {
    let envelope: Envelope<'_> =
        serde_json::from_slice(line).map_err(|error| FrameError::NotJson(brief(&error.to_string())))?;
    let frame = T::decode(RawFrame {
        kind: envelope.t,
        id: envelope.id,
        body: envelope.m.map(|raw| line.slice_ref(raw.get().as_bytes())),
    })?;
    let declared = envelope.fds.unwrap_or(0);
    let is_allowed = usize::try_from(declared).is_ok_and(|count| frame.fds_allowed().contains(&count));
    if !is_allowed {
        return Err(FrameError::DescriptorsNotAllowed {
            kind: envelope.t.to_owned(),
            declared,
        });
    }
    Ok((frame, declared))
}

/// Foreign text for an error message: its start is enough.
fn brief(text: &str) -> String {
    const LEN_MAX: usize = 200;
    if text.len() <= LEN_MAX {
        return text.to_owned();
    }
    let end = (0..=LEN_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

thread_local! {
    /// Room for one read. Only who holds a line that has no end yet has a buffer of its own: a master of thousands of silent
    /// workers keeps none for each.
    static SPARE: Cell<BytesMut> = Cell::default();
}

/// A line longer than this gives its buffer back when it is done.
const LONG_LINE: usize = 1 << 16;

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
