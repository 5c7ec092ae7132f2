//! What users say to each other through the channel.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// One JSON value as text, not parsed until somebody asks for it.
///
/// Checked to be UTF-8 and well-formed JSON of at most the channel's nesting depth when it came in; cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

impl Payload {
    /// Serializes `value`.
    ///
    /// # Errors
    /// When the value has no JSON form (a map with non-string keys, a failing `Serialize`).
    pub fn from_value<T: Serialize + ?Sized>(value: &T) -> Result<Self, PayloadError> {
        serde_json::to_vec(value)
            .map(|text| Self(Bytes::from(text)))
            .map_err(PayloadError)
    }

    /// Takes over bytes that are known to be one well-formed JSON value.
    pub(crate) const fn from_checked(text: Bytes) -> Self {
        Self(text)
    }

    /// Length of the text in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a payload is checked to be UTF-8 when it is made")
    }

    /// Reads the value as a `T`.
    ///
    /// # Errors
    /// When the value does not have the form of a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        serde_json::from_slice(&self.0).map_err(PayloadError)
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(self.as_str())
            .map_err(S::Error::custom)?
            .serialize(serializer)
    }
}

/// A value could not be written as JSON, or a payload does not have the form asked for.
#[derive(Debug, thiserror::Error)]
#[error("the message does not fit: {0}")]
pub struct PayloadError(#[source] pub(crate) serde_json::Error);

/// A message from the other side, with the descriptors that came along and, if it was a call, the way to answer.
///
/// Clones share descriptors and answer: whoever takes them first has them.
#[derive(Clone, Debug)]
pub struct Message {
    payload: Payload,
    reply: Option<Reply>,
    fds: TakeOnce<Vec<OwnedFd>>,
    fds_lost: bool,
}

impl Message {
    pub(crate) fn new(payload: Payload, reply: Option<Reply>, fds: Vec<OwnedFd>) -> Self {
        let fds = if fds.is_empty() {
            TakeOnce::empty()
        } else {
            TakeOnce::new(fds)
        };
        Self {
            payload,
            reply,
            fds,
            fds_lost: false,
        }
    }

    /// Notes that descriptors were sent along, but this process had no room for them.
    pub(crate) const fn with_lost_fds(mut self, fds_lost: bool) -> Self {
        self.fds_lost = fds_lost;
        self
    }

    /// Were descriptors sent along that this process had no room for (`RLIMIT_NOFILE`)? Then none came at all, and the
    /// sender, whose copies are gone too, may want to hear of it.
    #[must_use]
    pub const fn fds_lost(&self) -> bool {
        self.fds_lost
    }

    /// The value, still as text.
    #[must_use]
    pub const fn payload(&self) -> &Payload {
        &self.payload
    }

    /// The value as a `T`.
    ///
    /// # Errors
    /// When the value does not have the form of a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        self.payload.parse()
    }

    /// Does the sender wait for an answer?
    #[must_use]
    pub const fn is_call(&self) -> bool {
        self.reply.is_some()
    }

    /// The way to answer, if this is a call.
    #[must_use]
    pub fn reply(&self) -> Option<Reply> {
        self.reply.clone()
    }

    /// The descriptors that came with the message; empty if none did or they were taken already.
    ///
    /// What is not taken is closed when the last clone of the message is dropped.
    #[must_use]
    pub fn take_fds(&self) -> Vec<OwnedFd> {
        self.fds.take().unwrap_or_default()
    }

    /// The next of the descriptors, whatever it is; the others stay. Sockets are better taken by their kind:
    /// [`take_tcp_stream`](Self::take_tcp_stream) and its siblings.
    #[must_use]
    pub fn take_fd(&self) -> Option<OwnedFd> {
        self.fds.with(|fds| {
            let fds = fds.as_mut().filter(|fds| !fds.is_empty())?;
            Some(fds.remove(0))
        })?
    }

    /// How many descriptors are in it and not taken yet.
    #[must_use]
    pub fn fd_count(&self) -> usize {
        self.fds.with(|fds| fds.as_ref().map_or(0, Vec::len)).unwrap_or(0)
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.payload.serialize(serializer)
    }
}

/// Where an answer goes. The sink is dropped unused when nobody answers, and then says so to the caller.
pub(crate) trait ReplySink: Send {
    /// An answer that could not be put on its way gives its descriptors back.
    fn answer(self: Box<Self>, answer: Result<Payload, String>, fds: Vec<OwnedFd>) -> Result<(), ReplyError>;
}

/// An answer with descriptors was not sent: the call was answered before, the caller is gone, or the value has no JSON
/// form. The descriptors are in here.
#[derive(Debug, thiserror::Error)]
#[error("the answer was not sent: {reason}")]
pub struct ReplyError {
    /// Why.
    pub reason: String,
    /// What was to go along.
    pub fds: Vec<OwnedFd>,
}

/// The way to answer a call. At most one answer is sent; if every clone is dropped without one, the caller gets an error
/// at once instead of waiting for its deadline.
#[derive(Clone)]
pub struct Reply(TakeOnce<Box<dyn ReplySink>>);

impl Reply {
    pub(crate) fn new(sink: Box<dyn ReplySink>) -> Self {
        Self(TakeOnce::new(sink))
    }

    /// Answers with `value`. Does nothing if the call was answered before.
    ///
    /// # Errors
    /// When `value` has no JSON form; the call is then still open.
    pub fn ok<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), PayloadError> {
        let payload = Payload::from_value(value)?;
        if let Some(sink) = self.0.take() {
            // Without descriptors nothing is lost with it: the caller's deadline or end tells the caller.
            sink.answer(Ok(payload), Vec::new()).ok();
        }
        Ok(())
    }

    /// [`ok`](Self::ok) with open descriptors along, at most 64. The caller gets copies of its own, these are closed here
    /// once sent; it finds them in the answer of `call_with_fds`, and a caller that used `call` closes them.
    ///
    /// # Errors
    /// [`ReplyError`] gives the descriptors back. If `value` has no JSON form the call is still open.
    pub fn ok_with_fds<T: Serialize + ?Sized>(&self, value: &T, fds: Vec<OwnedFd>) -> Result<(), ReplyError> {
        let payload = match Payload::from_value(value) {
            Ok(payload) => payload,
            Err(error) => {
                let reason = error.to_string();
                return Err(ReplyError { reason, fds });
            }
        };
        match self.0.take() {
            Some(sink) => sink.answer(Ok(payload), fds),
            None => {
                let reason = "the call was answered before".to_owned();
                Err(ReplyError { reason, fds })
            }
        }
    }

    /// Answers with an error text. Does nothing if the call was answered before.
    pub fn err(&self, why: impl Into<String>) {
        if let Some(sink) = self.0.take() {
            sink.answer(Err(why.into()), Vec::new()).ok();
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// A value that exactly one of several clones can take.
pub(crate) struct TakeOnce<T>(Option<Arc<Mutex<Option<T>>>>);

impl<T> TakeOnce<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(Arc::new(Mutex::new(Some(value)))))
    }

    /// Nothing to take, without an allocation: the common case on the message path.
    pub(crate) const fn empty() -> Self {
        Self(None)
    }

    pub(crate) fn take(&self) -> Option<T> {
        self.with(Option::take)?
    }

    /// Looks at what is there, alone. `None` if there never was anything.
    fn with<R>(&self, look: impl FnOnce(&mut Option<T>) -> R) -> Option<R> {
        let value = self.0.as_ref()?;
        Some(look(&mut value.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<T> Clone for TakeOnce<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for TakeOnce<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "TakeOnce(..)"
        } else {
            "TakeOnce(nothing)"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_serialized_as_the_value_it_is() {
        let payload = Payload::from_value(&vec![1, 2]).unwrap();
        assert_eq!(serde_json::to_string(&payload).unwrap(), "[1,2]");
        assert_eq!(payload.parse::<Vec<u8>>().unwrap(), [1, 2]);
    }

    #[test]
    fn clones_of_a_message_share_its_descriptors() {
        let fd = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let message = Message::new(Payload::from_value("x").unwrap(), None, vec![fd]);
        assert_eq!(message.clone().take_fds().len(), 1);
        assert!(message.take_fds().is_empty());
    }
}
