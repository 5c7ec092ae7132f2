//! What the heads of HTTP/1 messages say about where the messages and the connection end.
//!
//! `httparse` reads them, as it does for actix-http and hyper. Whatever two servers could understand differently is
//! [`Unclear`]: then nobody here guesses.

use std::mem::MaybeUninit;

use httparse::{Header, Request, Response, Status};

use super::body::Body;
use super::{Rules, Unclear};

/// The head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestHead {
    pub(super) body: Body,
    /// The answer has no body, whatever its head says.
    pub(super) is_head: bool,
    /// A positive answer turns the connection into a tunnel.
    pub(super) is_connect: bool,
    /// The client will use the connection again, and for HTTP.
    pub(super) keeps: bool,
    pub(super) is_repeatable: bool,
}

/// The head of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseHead {
    /// 1xx: another one follows.
    Interim,
    /// From here on something else is spoken.
    ProtocolChange,
    /// The answer.
    Final {
        body: Body,
        /// The server will use the connection again, as far as it is the server's to say.
        keeps: bool,
    },
}

/// A head and its length; `None` as long as it is not whole.
pub(super) type Parsed<T> = Result<Option<(T, usize)>, Unclear>;

pub(super) fn request(bytes: &[u8], rules: &Rules) -> Parsed<RequestHead> {
    let mut space = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
    let mut request = Request::new(&mut []);
    let Status::Complete(len) = request
        .parse_with_uninit_headers(bytes, &mut space)
        .map_err(|_| Unclear)?
    else {
        return Ok(None);
    };
    let fields = Fields::read(request.headers)?;
    let is_old = request.version == Some(0);
    let method = request.method.ok_or(Unclear)?;
    if is_old && fields.is_chunked {
        return Err(Unclear);
    }
    // A server may take what follows for the body, the next request, or the other protocol.
    let is_connect = method == "CONNECT";
    if (fields.upgrades || is_connect) && fields.has_body() {
        return Err(Unclear);
    }
    let target = request.path.ok_or(Unclear)?;
    let path = target.split_once('?').map_or(target, |(path, _query)| path);
    let head = RequestHead {
        body: fields.body().unwrap_or(Body::NONE),
        is_head: method == "HEAD",
        is_connect,
        keeps: fields.keeps(is_old) && !fields.upgrades,
        is_repeatable: (rules.is_repeatable)(method, path),
    };
    Ok(Some((head, len)))
}

/// The head of a response to `request`.
pub(super) fn response(bytes: &[u8], request: &RequestHead) -> Parsed<ResponseHead> {
    let mut space = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
    let mut response = Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let Status::Complete(len) = config
        .parse_response_with_uninit_headers(&mut response, bytes, &mut space)
        .map_err(|_| Unclear)?
    else {
        return Ok(None);
    };
    let fields = Fields::read(response.headers)?;
    let status = response.code.ok_or(Unclear)?;
    let is_bodiless = request.is_head || matches!(status, 204 | 304);
    let head = match status {
        101 => ResponseHead::ProtocolChange,
        200..=299 if request.is_connect => ResponseHead::ProtocolChange,
        100..=199 => ResponseHead::Interim,
        0..=99 => return Err(Unclear),
        _ => ResponseHead::Final {
            body: if is_bodiless {
                Body::NONE
            } else {
                fields.body().unwrap_or(Body::UntilClose)
            },
            keeps: fields.keeps(response.version == Some(0)),
        },
    };
    Ok(Some((head, len)))
}

/// The header fields that speak of the message's end.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    is_chunked: bool,
    closes: bool,
    keeps_alive: bool,
    upgrades: bool,
}

impl Fields {
    fn read(headers: &[Header<'_>]) -> Result<Self, Unclear> {
        let mut fields = Self::default();
        for Header { name, value } in headers {
            let value = value.trim_ascii();
            // By length first: most headers of most messages are none of these.
            match name.len() {
                7 if name.eq_ignore_ascii_case("upgrade") => fields.upgrades = true,
                10 if name.eq_ignore_ascii_case("connection") => {
                    for option in value.split(|byte| *byte == b',') {
                        let option = option.trim_ascii();
                        fields.closes |= option.eq_ignore_ascii_case(b"close");
                        fields.keeps_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    // Twice the same is allowed by some and refused by others.
                    if fields.length.is_some() {
                        return Err(Unclear);
                    }
                    fields.length = Some(length(value).ok_or(Unclear)?);
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    if fields.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Unclear);
                    }
                    fields.is_chunked = true;
                }
                _ => {}
            }
        }
        // The door of request smuggling: servers differ in which one counts.
        if fields.is_chunked && fields.length.is_some() {
            return Err(Unclear);
        }
        Ok(fields)
    }

    fn body(&self) -> Option<Body> {
        if self.is_chunked {
            return Some(Body::chunked());
        }
        self.length.map(Body::Length)
    }

    fn has_body(&self) -> bool {
        self.is_chunked || self.length.is_some_and(|length| length > 0)
    }

    fn keeps(&self, is_old: bool) -> bool {
        !self.closes && (!is_old || self.keeps_alive)
    }
}

/// Digits and nothing else.
fn length(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(value).ok()?.parse().ok())?
}

/// More than actix-http (96) and hyper (100) take: what they refuse need not be understood.
const HEADERS_MAX: usize = 104;
