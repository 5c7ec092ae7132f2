//! Where the body of an HTTP/1 message ends: by length, by chunks, or with the connection (RFC 9112, section 6).

use super::Unclear;

/// What is left of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks, up to the empty line behind the last one.
    Chunked(Chunk),
    /// Everything until the connection ends.
    UntilClose,
}

/// The next byte of a chunked body is …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// … the first digit of a chunk's size.
    Size,
    /// … a further digit, or what ends the digits.
    MoreSize(u64),
    /// … blank space behind the size.
    Blank(u64),
    /// … part of an extension, which means nothing to us.
    Extension(u64),
    /// … the line feed behind the size.
    SizeLf(u64),
    /// … data; so much is left of it.
    Data(u64),
    /// … the carriage return behind the data.
    DataCr,
    /// … the line feed behind the data.
    DataLf,
    /// … the first one of a trailer, or of the last line.
    Line,
    /// … part of a trailer.
    Trailer,
    /// … the line feed behind a trailer.
    TrailerLf,
    /// … the very last one.
    LastLf,
}

impl Body {
    pub(super) const NONE: Self = Self::Length(0);

    pub(super) const fn chunked() -> Self {
        Self::Chunked(Chunk::Size)
    }

    /// Goes on by `bytes`: how many of them belong to the body, if it ends within them; `None` if all do and it goes on.
    ///
    /// # Errors
    /// They are no body of this kind.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, Unclear> {
        match self {
            Self::Length(left) => {
                let len = bytes.len() as u64;
                if *left > len {
                    *left -= len;
                    return Ok(None);
                }
                // Not more than the length of a slice.
                let end = *left as usize;
                *left = 0;
                Ok(Some(end))
            }
            Self::Chunked(chunk) => chunk.advance(bytes),
            Self::UntilClose => Ok(None),
        }
    }
}

impl Chunk {
    fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, Unclear> {
        let mut at = 0;
        while at < bytes.len() {
            if let Self::Data(left) = *self {
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += len;
                let left = left - len as u64;
                *self = if left == 0 { Self::DataCr } else { Self::Data(left) };
                continue;
            }
            match self.step(bytes[at])? {
                Some(next) => *self = next,
                None => return Ok(Some(at + 1)),
            }
            at += 1;
        }
        Ok(None)
    }

    /// The state behind `byte`; `None` if it was the last one.
    fn step(self, byte: u8) -> Result<Option<Self>, Unclear> {
        let next = match (self, byte) {
            (Self::Size, _) => Self::MoreSize(digit(byte).ok_or(Unclear)?),
            (Self::MoreSize(size) | Self::Blank(size), b' ' | b'\t') => Self::Blank(size),
            (Self::MoreSize(size) | Self::Blank(size), b';') => Self::Extension(size),
            (Self::MoreSize(size) | Self::Blank(size) | Self::Extension(size), b'\r') => Self::SizeLf(size),
            (Self::MoreSize(size), _) => {
                let digit = digit(byte).ok_or(Unclear)?;
                Self::MoreSize(size.checked_mul(16).ok_or(Unclear)? | digit)
            }
            (Self::Extension(size), b'\t' | b' '..=b'~' | 0x80..) => Self::Extension(size),
            (Self::SizeLf(0), b'\n') => Self::Line,
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size,
            (Self::Line, b'\r') => Self::LastLf,
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::Line | Self::Trailer, _) => Self::Trailer,
            (Self::TrailerLf, b'\n') => Self::Line,
            (Self::LastLf, b'\n') => return Ok(None),
            (
                Self::Blank(_)
                | Self::Extension(_)
                | Self::SizeLf(_)
                | Self::Data(_)
                | Self::DataCr
                | Self::DataLf
                | Self::TrailerLf
                | Self::LastLf,
                _,
            ) => return Err(Unclear),
        };
        Ok(Some(next))
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(mut body: Body, bytes: &str) -> Result<Option<usize>, Unclear> {
        body.advance(bytes.as_bytes())
    }

    #[test]
    fn a_length_ends_at_its_byte() {
        assert_eq!(end(Body::Length(3), "abcdef"), Ok(Some(3)));
        assert_eq!(end(Body::Length(6), "abcdef"), Ok(Some(6)));
        assert_eq!(end(Body::Length(7), "abcdef"), Ok(None));
        assert_eq!(end(Body::NONE, "abc"), Ok(Some(0)));
        assert_eq!(end(Body::UntilClose, "abc"), Ok(None));
    }

    #[test]
    fn chunks_end_behind_their_trailers() {
        for whole in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A;x=\"y\"\r\n0123456789\r\n00\r\nDigest: x\r\nOther: y\r\n\r\n",
            "1 \t;x\r\na\r\n0 \r\n\r\n",
        ] {
            assert_eq!(end(Body::chunked(), whole), Ok(Some(whole.len())), "{whole:?}");
            let followed = format!("{whole}GET /");
            assert_eq!(end(Body::chunked(), &followed), Ok(Some(whole.len())), "{whole:?}");
            assert_eq!(end(Body::chunked(), &whole[..whole.len() - 1]), Ok(None), "{whole:?}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_unclear() {
        for broken in [
            "x",
            "\r\n",
            "5\nhello",
            "5\r\nhello0",
            "1\r\na\n",
            "1\r\na\rb",
            "0\r\n\rx",
            "11111111111111111\r",
        ] {
            assert_eq!(end(Body::chunked(), broken), Err(Unclear), "{broken:?}");
        }
    }
}
