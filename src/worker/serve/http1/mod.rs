//! Where HTTP/1 messages end: told from the bytes that pass by in both directions, without reading or writing any.
//!
//! One [`Exchange`] follows one connection: a request, its answer, the next request. It tells how much of what arrived
//! the server may have (one request at a time, so that the bytes of later ones stay in the kernel), whether that begins
//! a request, and with which write an answer ends. What to do about it is the stream's (`journaled`). Whatever cannot be
//! told for certain is [`Unclear`], and the connection is left alone from then on.

mod body;
mod head;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use body::Body;
use head::{RequestHead, ResponseHead};

/// The messages on this connection cannot be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unclear;

/// What does not follow from the protocol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// May a request of this method, on this path (without its query), be carried out a second time?
    pub(super) is_repeatable: fn(&str, &str) -> bool,
    /// The longest request, in bytes with its head, that is kept in the kernel until it is answered.
    pub(super) kept_max: u64,
}

/// One connection's course.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    rules: Rules,
    request: RequestSide,
    /// Bytes of the request so far, the bare lines before it included.
    request_len: u64,
    answer: AnswerSide,
}

#[derive(Clone, Debug)]
enum RequestSide {
    /// Its head, as far as it is here.
    Head(Vec<u8>),
    Body(RequestHead, Body),
    Whole(RequestHead),
}

#[derive(Clone, Debug)]
enum AnswerSide {
    /// Its head, as far as it was written.
    Head(Vec<u8>),
    Body {
        body: Body,
        keeps: bool,
    },
    Whole {
        /// Both sides want the connection to go on.
        keeps: bool,
    },
}

/// What is to be done with bytes that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// So many of them are the server's now.
    pub(super) take: usize,
    /// And this is to be known before it gets them.
    pub(super) step: Step,
}

/// A step in the life of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// None: part of a head, or more of the body.
    None,
    /// With these bytes its head is whole, and the server may begin with it.
    Begin {
        is_repeatable: bool,
        /// It is not kept in the kernel: too long. Never repeatable.
        is_consumed: bool,
    },
    /// It turned out to be too long to be kept.
    Consume,
}

/// What a write of certain bytes would be to the answer.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) meaning: Meaning,
    next: AnswerSide,
}

/// See [`Offer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It leaves an answer behind that is not whole.
    Part,
    /// Nothing of the answer: whole interim responses.
    Interim,
    /// With it the answer is whole.
    Whole {
        /// The connection ends after it.
        is_last: bool,
    },
}

impl Exchange {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            request: RequestSide::Head(Vec::new()),
            request_len: 0,
            answer: AnswerSide::Head(Vec::new()),
        }
    }

    /// Is the server to get nothing more until it has answered?
    pub(super) fn is_gated(&self) -> bool {
        matches!(self.request, RequestSide::Whole(_))
    }

    /// Has the server got the whole head of a request that it has not answered?
    pub(super) fn is_begun(&self) -> bool {
        !matches!(self.request, RequestSide::Head(_))
    }

    /// Are all bytes of the request here?
    pub(super) fn is_request_whole(&self) -> bool {
        self.is_gated()
    }

    /// Bytes have arrived behind those that the server has got. Not to be asked while the gate is closed.
    ///
    /// # Errors
    /// They are no request that is understood here.
    pub(super) fn arrived(&mut self, bytes: &[u8]) -> Result<Delivery, Unclear> {
        let delivery = match &mut self.request {
            RequestSide::Head(held) => {
                let Some((head, head_len)) = read_head(held, bytes, |all| head::request(all, &self.rules))? else {
                    let take = bytes.len();
                    self.request_len += take as u64;
                    if self.request_len > self.rules.kept_max {
                        return Err(Unclear);
                    }
                    return Ok(Delivery { take, step: Step::None });
                };
                let mut body = head.body;
                let is_too_long = match body {
                    Body::Length(len) => len > self.rules.kept_max.saturating_sub(self.request_len + head_len as u64),
                    Body::Chunked(_) | Body::UntilClose => false,
                };
                let rest = body.advance(&bytes[head_len..])?;
                self.request = match rest {
                    Some(_) => RequestSide::Whole(head),
                    None => RequestSide::Body(head, body),
                };
                Delivery {
                    take: rest.map_or(bytes.len(), |rest| head_len + rest),
                    step: Step::Begin {
                        is_repeatable: head.is_repeatable && !is_too_long,
                        is_consumed: is_too_long,
                    },
                }
            }
            RequestSide::Body(head, body) => {
                let head = *head;
                let end = body.advance(bytes)?;
                if end.is_some() {
                    self.request = RequestSide::Whole(head);
                }
                Delivery {
                    take: end.unwrap_or(bytes.len()),
                    step: Step::None,
                }
            }
            RequestSide::Whole(_) => Delivery {
                take: 0,
                step: Step::None,
            },
        };
        let before = self.request_len;
        self.request_len += delivery.take as u64;
        let exceeds = before <= self.rules.kept_max && self.request_len > self.rules.kept_max;
        Ok(match delivery.step {
            Step::None if exceeds => Delivery {
                step: Step::Consume,
                ..delivery
            },
            Step::Begin {
                is_repeatable: _,
                is_consumed: false,
            } if exceeds => Delivery {
                step: Step::Begin {
                    is_repeatable: false,
                    is_consumed: true,
                },
                ..delivery
            },
            Step::None | Step::Begin { .. } | Step::Consume => delivery,
        })
    }

    /// What a write of all of `bytes` would be. Changes nothing; [`wrote`](Self::wrote) does.
    ///
    /// # Errors
    /// They are no answer to the request, or the protocol changes with them.
    pub(super) fn offer(&self, bytes: &[u8]) -> Result<Offer, Unclear> {
        let request = match &self.request {
            RequestSide::Body(head, _) | RequestSide::Whole(head) => head,
            // An answer to nothing: the client took too long, say.
            RequestSide::Head(_) => return Err(Unclear),
        };
        let mut at = 0;
        let mut side = self.answer.clone();
        loop {
            let rest = &bytes[at..];
            side = match side {
                AnswerSide::Head(_) if rest.is_empty() => break,
                AnswerSide::Head(mut held) => match read_head(&mut held, rest, |all| head::response(all, request))? {
                    None => {
                        at = bytes.len();
                        AnswerSide::Head(held)
                    }
                    Some((ResponseHead::ProtocolChange, _)) => return Err(Unclear),
                    Some((ResponseHead::Interim, len)) => {
                        at += len;
                        AnswerSide::Head(Vec::new())
                    }
                    Some((ResponseHead::Final { body, keeps }, len)) => {
                        at += len;
                        AnswerSide::Body { body, keeps }
                    }
                },
                AnswerSide::Body { mut body, keeps } => match body.advance(rest)? {
                    None => {
                        side = AnswerSide::Body { body, keeps };
                        break;
                    }
                    Some(end) if end == rest.len() => {
                        let keeps = keeps && request.keeps;
                        let is_last = !keeps || !self.is_request_whole();
                        return Ok(Offer {
                            meaning: Meaning::Whole { is_last },
                            next: AnswerSide::Whole { keeps },
                        });
                    }
                    Some(_) => return Err(Unclear),
                },
                AnswerSide::Whole { .. } => return Err(Unclear),
            };
        }
        let meaning = match &side {
            AnswerSide::Head(held) if held.is_empty() => Meaning::Interim,
            _ => Meaning::Part,
        };
        Ok(Offer { meaning, next: side })
    }

    /// Of the bytes that were offered, so many were written.
    ///
    /// # Errors
    /// As for [`offer`](Self::offer), which was asked before.
    pub(super) fn wrote(&mut self, offer: Offer, bytes: &[u8], written: usize) -> Result<(), Unclear> {
        self.answer = if written == bytes.len() {
            offer.next
        } else {
            self.offer(&bytes[..written])?.next
        };
        Ok(())
    }

    /// Has anything of the answer been written? Interim responses do not count.
    pub(super) fn is_answer_begun(&self) -> bool {
        match &self.answer {
            AnswerSide::Head(held) => !held.is_empty(),
            AnswerSide::Body { .. } | AnswerSide::Whole { .. } => true,
        }
    }

    /// Has the answer to this request been written to its end?
    pub(super) fn is_answered(&self) -> bool {
        matches!(self.answer, AnswerSide::Whole { .. })
    }

    /// Is the answer one after which the connection goes on, once its request is whole?
    pub(super) fn goes_on(&self) -> bool {
        matches!(self.answer, AnswerSide::Whole { keeps: true })
    }

    /// Begins with the next request, if this one is whole and answered.
    pub(super) fn turn(&mut self) -> bool {
        let is_over = self.is_answered() && self.is_request_whole();
        if is_over {
            self.request = RequestSide::Head(Vec::new());
            self.request_len = 0;
            self.answer = AnswerSide::Head(Vec::new());
        }
        is_over
    }
}

/// Reads a head that begins with what is held and goes on with `bytes`: the head, and how many of `bytes` belong to it. If
/// it does not end within them, they are held too.
fn read_head<T>(held: &mut Vec<u8>, bytes: &[u8], parse: impl Fn(&[u8]) -> head::Parsed<T>) -> head::Parsed<T> {
    if held.is_empty() {
        // Lines before the head belong to nobody; they must not be read again with every byte that comes.
        let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let parsed = parse(&bytes[blank..])?.map(|(head, len)| (head, blank + len));
        if parsed.is_none() {
            held.extend_from_slice(&bytes[blank..]);
        }
        return within_bounds(held, parsed);
    }
    let before = held.len();
    held.extend_from_slice(bytes);
    // Only an empty line ends a head; reading it anew for each byte of a slow client would cost its length squared.
    let from = before.saturating_sub(2);
    let may_end = has_empty_line(&held[from..]);
    let parsed = if may_end { parse(held)? } else { None };
    let parsed = parsed.map(|(head, len)| (head, len.saturating_sub(before)));
    if parsed.is_some() {
        held.clear();
    }
    within_bounds(held, parsed)
}

fn within_bounds<T>(held: &[u8], parsed: Option<(T, usize)>) -> head::Parsed<T> {
    if held.len() > HEAD_MAX {
        Err(Unclear)
    } else {
        Ok(parsed)
    }
}

fn has_empty_line(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| {
        let rest = &bytes[at + 1..];
        rest.starts_with(b"\n") || rest.starts_with(b"\r\n")
    })
}

/// Is a request of this method idempotent, by the registry of RFC 9110 (section 9.2.2)? The default of what may be repeated.
pub(crate) fn is_idempotent(method: &str, _path: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE")
}

/// The longest head that is followed; servers refuse such ones long before.
const HEAD_MAX: usize = 128 << 10;
