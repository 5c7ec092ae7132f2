//! May a slot have a listener that it asks for at run time? The limits, and what was asked for before.

use super::super::refused;
use super::{Listener, ListenerTable, default_scheduling};
use crate::model::{ListenAddr, ListenError, ListenKey, ListenOptions, Slot};

/// How many listeners a cluster takes at run time, besides the declared ones.
pub(crate) const ASKED_LISTENERS_MAX: usize = 1024;

/// How many of them one slot may hold.
pub(crate) const ASKED_LISTENERS_PER_SLOT_MAX: usize = 64;

impl ListenerTable {
    /// # Errors
    /// When a limit is reached, or the options are not those of the listener that is there.
    pub(super) fn check_ask(
        &self,
        address: &ListenAddr,
        index: u32,
        options: &ListenOptions,
        slot: &Slot,
    ) -> Result<(), ListenError> {
        let key = ListenKey::Asked {
            address: address.clone(),
            index,
        };
        if options.survive_kill {
            let detail = "only connections of declared listeners survive their worker: declare it in the builder";
            return Err(refused(address, detail.to_owned()));
        }
        let known = self.listeners.get(&key);
        if let Some(listener) = known {
            listener.check_same(options)?;
            if listener.holders.has(slot) {
                return Ok(());
            }
        }
        let asked = || {
            self.listeners
                .iter()
                .filter(|(key, _)| matches!(key, ListenKey::Asked { .. }))
        };
        if known.is_none() && asked().count() >= ASKED_LISTENERS_MAX {
            let detail = format!("the cluster has {ASKED_LISTENERS_MAX} listeners asked for at run time; release some");
            return Err(refused(address, detail));
        }
        if asked().filter(|(_, listener)| listener.holders.has(slot)).count() >= ASKED_LISTENERS_PER_SLOT_MAX {
            let detail = format!("slot {slot} holds {ASKED_LISTENERS_PER_SLOT_MAX} listeners; release some");
            return Err(refused(address, detail));
        }
        Ok(())
    }
}

impl Listener {
    /// One bind cannot satisfy two wishes: the later asker has to know.
    pub(super) fn check_same(&self, options: &ListenOptions) -> Result<(), ListenError> {
        let effective = |options: &ListenOptions| ListenOptions {
            scheduling: Some(options.scheduling.unwrap_or(default_scheduling(&self.asked))),
            ..options.clone()
        };
        let (bound, asked) = (effective(&self.options), effective(options));
        if bound == asked {
            return Ok(());
        }
        let detail = format!("it is bound already with other options; ask with the same: {bound:?}, not {asked:?}");
        Err(refused(&self.asked, detail))
    }
}
