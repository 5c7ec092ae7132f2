//! What is said on the hand-over socket. A datagram is `{"t":"<kind>","m":{…}}` with none or one descriptor.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::ListenKey;

/// The longest datagram: room for [`IDS_MAX`] numbers, and for the key of a listener with a long path.
pub(crate) const DATAGRAM_MAX: usize = 8 << 10;

/// The most connections that one `took` or `refused` names.
pub(crate) const IDS_MAX: usize = 128;

/// The master says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", content = "m", rename_all = "snake_case")]
pub(crate) enum ToServer {
    /// Serve this connection. One descriptor.
    Take(Take),
    /// The answer to `leaves`: no connection follows.
    End {
        /// Does somebody else accept, so that connections can be given back?
        others: bool,
    },
}

/// A connection for a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Take {
    /// Names it in the answer; never used twice for one worker.
    pub(crate) id: u64,
    /// The listener it came in on.
    pub(crate) key: ListenKey,
    /// How many workers its request may have killed.
    #[serde(default)]
    pub(crate) strikes: u8,
    /// Answer its request with this status, and close.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fail: Option<u16>,
}

/// A worker, or its keeper, says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", content = "m", rename_all = "snake_case")]
pub(crate) enum ToDispatcher {
    /// These are in the worker's table of descriptors, and, if they are journaled, in the journal.
    Took {
        /// The numbers of the `take`s; at most [`IDS_MAX`].
        ids: Vec<u64>,
        /// Connections that were handed over and have ended since the last report.
        #[serde(default, skip_serializing_if = "is_zero")]
        closed: u32,
    },
    /// These are not served here: it drains, has no such listener, or the descriptor did not arrive.
    Refused {
        /// The numbers of the `take`s; at most [`IDS_MAX`].
        ids: Vec<u64>,
    },
    /// Connections that were handed over and have ended since the last report.
    Closed {
        /// How many.
        n: u32,
    },
    /// A connection without a begun request, which somebody else is to serve. One descriptor.
    Back {
        /// The listener it came in on.
        key: ListenKey,
        /// How many workers its request may have killed.
        #[serde(default)]
        strikes: u8,
    },
    /// The worker is about to stop accepting; it goes on until `end`.
    Leaves {},
    /// The first word of a keeper. One descriptor: its pidfd.
    Keeper {
        /// Its process id.
        pid: u32,
    },
    /// The worker has no keeper.
    Unkept {
        /// For people.
        why: String,
    },
    /// A keeper found this connection in the table of its dead worker. One descriptor.
    Rescued {
        /// Which of the contract's listeners it came in on, counted from 0.
        listener: u32,
        /// How many workers its request had killed before.
        strikes: u8,
        /// The server had its request.
        begun: bool,
        /// The request may be begun a second time.
        repeatable: bool,
    },
    /// The last word of a keeper.
    Done {
        /// Connections it sent.
        saved: u32,
        /// Connections it closed although their clients wait for an answer.
        lost: u32,
        /// The kernel's numbers of those among them that the worker had noted nothing about: if it was killed while it took
        /// one over, the master has a copy that is good. At most [`IDS_MAX`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unnoted: Vec<u64>,
    },
}

/// What one side says.
pub(crate) trait Words: DeserializeOwned {
    /// Who claims the descriptor that comes along.
    fn claim(&self) -> Claim {
        Claim::Connection
    }
}

/// For what a descriptor is wanted when there is hardly any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A connection, which can wait where it is.
    Connection,
    /// The keeper of a new worker. Behind it wait the acknowledgements that make room.
    Keeper,
}

impl Words for ToServer {}

impl Words for ToDispatcher {
    fn claim(&self) -> Claim {
        match self {
            Self::Keeper { .. } => Claim::Keeper,
            Self::Took { .. }
            | Self::Refused { .. }
            | Self::Closed { .. }
            | Self::Back { .. }
            | Self::Leaves {}
            | Self::Unkept { .. }
            | Self::Rescued { .. }
            | Self::Done { .. } => Claim::Connection,
        }
    }
}

const fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ListenAddr;

    #[test]
    fn what_is_said_looks_as_it_is_documented() {
        let key = ListenKey::Named("http".to_owned());
        let take = ToServer::Take(Take {
            id: 7,
            key,
            strikes: 0,
            fail: None,
        });
        let text = serde_json::to_string(&take).unwrap();
        assert_eq!(text, r#"{"t":"take","m":{"id":7,"key":{"named":"http"},"strikes":0}}"#);
        assert_eq!(serde_json::from_str::<ToServer>(&text).unwrap(), take);
        let said = [
            (
                r#"{"t":"took","m":{"ids":[1,2]}}"#,
                ToDispatcher::Took {
                    ids: vec![1, 2],
                    closed: 0,
                },
            ),
            (r#"{"t":"leaves","m":{}}"#, ToDispatcher::Leaves {}),
            (r#"{"t":"closed","m":{"n":3}}"#, ToDispatcher::Closed { n: 3 }),
            (
                r#"{"t":"done","m":{"saved":1,"lost":2}}"#,
                ToDispatcher::Done {
                    saved: 1,
                    lost: 2,
                    unnoted: Vec::new(),
                },
            ),
        ];
        for (text, value) in said {
            assert_eq!(serde_json::from_str::<ToDispatcher>(text).unwrap(), value);
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
        }
    }

    #[test]
    fn the_longest_datagram_fits() {
        let ids = vec![u64::MAX; IDS_MAX];
        let took = serde_json::to_vec(&ToDispatcher::Took { ids, closed: u32::MAX }).unwrap();
        assert!(took.len() <= DATAGRAM_MAX, "{}", took.len());
        let address = ListenAddr::Unix("\u{1}".repeat(1024).into());
        let key = ListenKey::Asked {
            address,
            index: u32::MAX,
        };
        let back = serde_json::to_vec(&ToDispatcher::Back { key, strikes: 255 }).unwrap();
        assert!(back.len() <= DATAGRAM_MAX, "{}", back.len());
    }
}
