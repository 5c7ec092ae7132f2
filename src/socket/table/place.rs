//! What is known of a listener without a share in it.

use super::ListenerTable;
use crate::model::{BoundAddress, ListenKey, Scheduling};

/// A listener, for who gets its socket later.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Where it listens.
    pub(crate) address: BoundAddress,
    pub(crate) scheduling: Scheduling,
    /// Its connections are to outlive the worker.
    pub(crate) survives: bool,
    /// How often a request may begin.
    pub(crate) max_runs: Option<u8>,
}

impl ListenerTable {
    /// What is known of a listener, if there is one.
    pub(crate) fn place(&self, key: &ListenKey) -> Option<Place> {
        self.listeners.get(key).map(|listener| Place {
            address: listener.address.clone(),
            scheduling: listener.scheduling,
            survives: listener.options.survive_kill,
            max_runs: listener.options.max_runs,
        })
    }
}
