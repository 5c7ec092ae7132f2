//! Connections that were accepted elsewhere, for a server that runs here: an ear of its own is not needed for them.

use std::os::fd::OwnedFd;

use crate::model::ListenKey;
use crate::socket::typed;
use crate::worker::context::Worker;

/// A connection could not be given to a server of this worker. It is still open, and in here.
#[derive(Debug, thiserror::Error)]
#[error("the connection cannot be served on {listener}: {reason}")]
pub struct InjectError {
    /// The listener that was named.
    pub listener: String,
    /// Why.
    pub reason: String,
    /// The connection.
    pub stream: OwnedFd,
}

impl Worker {
    /// Serves a connection that came with a message, or from anywhere else, as if it had been accepted on the declared
    /// listener `name`: by the application of `Worker::serve`, or out of [`Incoming`](crate::Incoming). From then on it is that
    /// server's: counted, drained and closed with the others. From any thread.
    ///
    /// A server that accepts for itself (`Worker::listener`) cannot be given connections. One that stops accepting in
    /// the same moment drops the connection.
    ///
    /// # Errors
    /// [`InjectError`] gives the connection back: nobody serves `name` here, 64 connections wait already, or it is no
    /// connected TCP or Unix stream.
    pub fn inject(&self, name: &str, stream: impl Into<OwnedFd>) -> Result<(), InjectError> {
        let failed = |reason: String, stream| InjectError {
            listener: name.to_owned(),
            reason,
            stream,
        };
        let stream = typed::into_stream(stream.into()).map_err(|wrong| failed(wrong.to_string(), wrong.fd))?;
        let key = ListenKey::Named(name.to_owned());
        let given = self.inner.listeners.inject(&key, stream);
        given.map_err(|(reason, stream)| failed(reason.to_owned(), stream))
    }
}
