//! What the workers of a listener share and nobody else is to know, the keys of TLS session tickets above all.

use std::time::Duration;

use crate::ipc::{self, CallError, SendError};
use crate::model::{ListenKey, Secret};
use crate::worker::context::Worker;
use crate::worker::listener::Listener;

impl Worker {
    /// Bytes that all workers of the declared listener `name` share: those that one of them offered first. Who asks later, in a
    /// restarted or reloaded worker too, gets the same, whatever it offers.
    ///
    /// With keys of TLS session tickets made from them (OpenSSL's `set_tlsext_ticket_keys`, or a `ProducesTickets` of your own for
    /// rustls), a client resumes its session on whichever worker its next connection comes to. They stay the same for as
    /// long as the master runs: derive the keys for each period from them, in place of using the same ones for ever.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use actix_cluster::{CallError, Worker};
    /// # async fn body(worker: Worker, random: [u8; 48]) -> Result<(), CallError> {
    /// let keys = worker.shared_secret("https", &random, Duration::from_secs(5)).await?;
    /// # drop(keys);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// At most 4 KiB, in the master's memory and on the channel only: no event, log or snapshot has them.
    ///
    /// # Errors
    /// [`CallError::Send`] if nothing or too much is offered, [`CallError::Refused`] if there is no such listener or this worker's
    /// spec does not get it, and as for [`call`](Self::call).
    pub async fn shared_secret(&self, name: &str, offered: &[u8], deadline: Duration) -> Result<Vec<u8>, CallError> {
        let key = ListenKey::Named(name.to_owned());
        self.share_secret(key, offered, deadline).await
    }

    async fn share_secret(&self, key: ListenKey, offered: &[u8], deadline: Duration) -> Result<Vec<u8>, CallError> {
        let unfit = || SendError::Unfit {
            reason: format!("a secret has 1 to {} bytes", Secret::LEN_MAX),
            fds: Vec::new(),
        };
        let offered = Secret::new(offered).ok_or_else(unfit)?;
        ipc::share_secret(&self.inner.outbox, &self.inner.calls, key, offered, deadline).await
    }
}

impl Listener {
    /// [`Worker::shared_secret`] of this listener, which may be one that was asked for at run time: then its workers share the
    /// bytes until the last slot has given it back.
    ///
    /// # Errors
    /// As there.
    pub async fn shared_secret(&self, offered: &[u8], deadline: Duration) -> Result<Vec<u8>, CallError> {
        let (worker, key) = self.share();
        worker.share_secret(key.clone(), offered, deadline).await
    }
}
