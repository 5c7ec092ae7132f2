//! The worker's one notice that it has to stop. Who gives the notice, and what is stopped, is decided elsewhere.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// The notice that this worker was told to stop: by the master, by SIGTERM, or because the master is gone.
///
/// It is given in two steps, which are one unless the cluster has a [`lame_duck`](crate::ClusterBuilder::lame_duck) time:
/// first the stop is *announced*, and the worker goes on accepting although it is not ready any more; then it is *started*,
/// and the worker stops accepting. Both are given once and never taken back. Clone it into whatever has to wind down by
/// itself: a background loop, a WebSocket session, a consumer of a queue. Serving through the worker needs no help: it
/// stops accepting, answers what was begun and ends.
#[derive(Clone, Debug)]
pub struct Shutdown {
    notice: Arc<watch::Sender<Stage>>,
}

/// Only ever moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    None,
    /// The stop is to start after this long.
    Announced(Duration),
    Started,
}

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self {
            notice: Arc::new(watch::Sender::new(Stage::None)),
        }
    }

    /// Starts the stop; true for the first call, false (and without effect) for every later one.
    pub(crate) fn start(&self) -> bool {
        self.notice
            .send_if_modified(|stage| std::mem::replace(stage, Stage::Started) != Stage::Started)
    }

    /// Announces that the stop starts after `lame_duck`; at once if that is zero. Only the first announcement counts.
    pub(crate) fn announce(&self, lame_duck: Duration) {
        let stage = if lame_duck.is_zero() {
            Stage::Started
        } else {
            Stage::Announced(lame_duck)
        };
        self.notice.send_if_modified(|now| {
            let is_first = *now == Stage::None;
            if is_first {
                *now = stage;
            }
            is_first
        });
    }

    /// Starts the stop when its time has come, for the worker's one task that does so.
    pub(crate) async fn start_in_time(&self) {
        self.announced().await;
        let stage = *self.notice.borrow();
        if let Stage::Announced(lame_duck) = stage {
            // Whatever starts it sooner has its way; a later start has no effect.
            tokio::time::sleep(lame_duck).await;
            self.start();
        }
    }

    /// Was this worker told to stop? It may still be accepting for a while.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        *self.notice.borrow() != Stage::None
    }

    /// Resolves when this worker is told to stop, at the begin of its lame-duck time if it has one; at once if it was
    /// already. Safe to drop and call again.
    pub async fn announced(&self) {
        self.reached(|stage| stage != Stage::None).await;
    }

    /// Has the stop started? From here on the worker accepts nothing new.
    #[must_use]
    pub fn is_started(&self) -> bool {
        *self.notice.borrow() == Stage::Started
    }

    /// Resolves when the stop starts: when this worker is told to stop, or its lame-duck time after that. At once if it has
    /// started already. Safe to drop and call again.
    pub async fn started(&self) {
        self.reached(|stage| stage == Stage::Started).await;
    }

    async fn reached(&self, is_there: impl Fn(Stage) -> bool) {
        // An error would mean that the sender is gone; `self` holds it.
        drop(self.notice.subscribe().wait_for(|stage| is_there(*stage)).await);
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

    #[actix_rt::test]
    async fn a_lame_duck_hears_of_its_stop_twice_and_a_start_ends_the_wait() {
        let shutdown = Shutdown::new();
        let timer = actix_rt::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.start_in_time().await }
        });
        shutdown.announce(Duration::from_secs(3600));
        shutdown.announced().await;
        assert!(shutdown.is_announced() && !shutdown.is_started());
        // A second announcement changes nothing, a start does.
        shutdown.announce(Duration::from_millis(1));
        shutdown.announce(Duration::ZERO);
        assert!(!shutdown.is_started());
        assert!(shutdown.start());
        shutdown.started().await;
        assert!(shutdown.is_announced());
        timer.abort();
        let short = Shutdown::new();
        short.announce(Duration::from_millis(1));
        short.start_in_time().await;
        assert!(short.is_started());
        let none = Shutdown::new();
        none.announce(Duration::ZERO);
        assert!(none.is_started());
        none.start_in_time().await;
    }
}
