//! The worker's one notice that it has to stop. Who gives the notice, and what is stopped, is decided elsewhere.

use std::sync::Arc;

use tokio::sync::watch;

/// The notice that this worker was told to stop: by the master, by SIGTERM, or because the master is gone.
///
/// It is given once and never taken back. Clone it into whatever has to wind down by itself: a background loop, a
/// WebSocket session, a consumer of a queue. Serving through the worker needs no help: it stops accepting, answers
/// what was begun and ends.
#[derive(Clone, Debug)]
pub struct Shutdown {
    notice: Arc<watch::Sender<bool>>,
}

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self {
            notice: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Gives the notice; true for the first call, false (and without effect) for every later one.
    pub(crate) fn start(&self) -> bool {
        self.notice
            .send_if_modified(|started| !std::mem::replace(started, true))
    }

    /// Was this worker told to stop?
    #[must_use]
    pub fn is_started(&self) -> bool {
        *self.notice.borrow()
    }

    /// Resolves when this worker is told to stop; at once if it was already. Safe to drop and call again.
    pub async fn started(&self) {
        // An error would mean that the sender is gone; `self` holds it.
        drop(self.notice.subscribe().wait_for(|started| *started).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn everybody_hears_of_the_stop_and_it_starts_once() {
        let shutdown = Shutdown::new();
        let early = actix_rt::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.started().await }
        });
        assert!(!shutdown.is_started());
        assert!(shutdown.start());
        assert!(!shutdown.start());
        assert!(shutdown.is_started());
        early.await.unwrap();
        shutdown.started().await;
    }
}
