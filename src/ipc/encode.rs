//! Frames to lines, and the limits of a line, which both sides keep.
//!
//! What a frame is made of is in [`super::frame`]; the way back is in [`super::codec`].

use std::io;

use memchr::memchr;
use serde::Serialize;

use super::frame::{Body, FRAME_FDS_MAX};
use crate::model::PayloadError;

/// The longest line, without its end.
pub(crate) const FRAME_LEN_MAX: usize = 1 << 20;

/// The deepest nesting of a line, its own braces included. serde_json refuses one more inside a payload's own reader, so
/// what passes here can be parsed.
pub(crate) const FRAME_DEPTH_MAX: usize = 128;

/// A frame cannot be put on the wire. The buffer is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error(transparent)]
    Payload(PayloadError),
    #[error("the message is longer than {FRAME_LEN_MAX} bytes")]
    TooLarge,
    #[error("the message is nested deeper than {FRAME_DEPTH_MAX} levels")]
    TooDeep,
    #[error("a message carries at most {FRAME_FDS_MAX} descriptors")]
    TooManyFds,
}

/// Appends a user's message as one line; on an error `out` is as it was.
pub(super) fn encode_message<T: Serialize + ?Sized>(
    value: &T,
    fds: usize,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    encode(out, |line| {
        if fds == 0 {
            line.out.extend_from_slice(MESSAGE_HEAD);
        } else {
            head(line.out, "msg", None, fds)?;
            line.out.extend_from_slice(b",\"m\":");
        }
        serde_json::to_writer(line, value).map_err(refused)
    })
}

/// Appends any frame as one line; on an error `out` is as it was.
pub(super) fn encode_frame(
    kind: &'static str,
    id: Option<u64>,
    fds: usize,
    body: Option<&dyn Body>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    encode(out, |line| {
        head(line.out, kind, id, fds)?;
        let Some(body) = body else { return Ok(()) };
        line.out.extend_from_slice(b",\"m\":");
        body.write(line).map_err(refused)
    })
}

/// One line from what `write` writes, checked against the limits the receiver has: what leaves here is never a reason to
/// end the channel.
fn encode(out: &mut Vec<u8>, write: impl FnOnce(&mut Line<'_>) -> Result<(), EncodeError>) -> Result<(), EncodeError> {
    let start = out.len();
    // Also when a user's `Serialize` panics.
    let mut line = Line {
        start,
        is_whole: false,
        is_over: false,
        out,
    };
    let written = write(&mut line);
    if line.is_over || line.out.len() - start >= FRAME_LEN_MAX {
        return Err(EncodeError::TooLarge);
    }
    written?;
    line.out.push(b'}');
    let frame = &mut line.out[start..];
    if is_too_deep(frame) {
        return Err(EncodeError::TooDeep);
    }
    // Raw text from a user (`RawValue`) may hold line ends; in well-formed JSON they are blanks between tokens.
    let mut from = 0;
    while let Some(found) = memchr(b'\n', &frame[from..]) {
        frame[from + found] = b' ';
        from += found + 1;
    }
    line.out.push(b'\n');
    line.is_whole = true;
    Ok(())
}

fn head(out: &mut Vec<u8>, kind: &str, id: Option<u64>, fds: usize) -> Result<(), EncodeError> {
    use std::io::Write;
    if fds > FRAME_FDS_MAX {
        return Err(EncodeError::TooManyFds);
    }
    let written = write!(out, "{{\"t\":\"{kind}\"")
        .and_then(|()| id.map_or(Ok(()), |id| write!(out, ",\"id\":{id}")))
        .and_then(|()| {
            if fds == 0 {
                Ok(())
            } else {
                write!(out, ",\"fds\":{fds}")
            }
        });
    written.expect("writing to a Vec does not fail");
    Ok(())
}

const fn refused(error: serde_json::Error) -> EncodeError {
    EncodeError::Payload(PayloadError(error))
}

/// A line in the making, cut off again unless it becomes whole. It takes no more than a frame's length, so that a huge
/// value is refused before it has eaten the memory.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    is_whole: bool,
    is_over: bool,
}

impl io::Write for Line<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.out.len() - self.start + bytes.len() > FRAME_LEN_MAX {
            self.is_over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.is_whole {
            self.out.truncate(self.start);
        }
    }
}

/// Counting every opening bracket is a few bytes per cycle and settles nearly every line; only the rest is scanned with
/// regard to strings.
pub(super) fn is_too_deep(line: &[u8]) -> bool {
    // `[` and `{` differ in one bit only.
    let opening = line.iter().filter(|byte| **byte | 0x20 == b'{').count();
    opening > FRAME_DEPTH_MAX && depth(line) > FRAME_DEPTH_MAX
}

fn depth(line: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let (mut in_text, mut escaped) = (false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// How a message without descriptors starts when this library writes it.
pub(super) const MESSAGE_HEAD: &[u8] = b"{\"t\":\"msg\",\"m\":";
