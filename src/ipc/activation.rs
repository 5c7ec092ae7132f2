//! What a worker that stood by is told when it gets a slot: the body of one frame.
//!
//! Not here: who is promoted, and what the worker makes of it.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::model::Slot;

/// The slot of a worker that stood by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Activation {
    pub(crate) slot: Slot,
    /// Restarts of the slot before it.
    pub(crate) restarts: u32,
    /// How long it leaves the queues to its predecessor.
    #[serde(default)]
    pub(crate) probation_ms: u64,
    /// The names of the listeners whose sockets come along, in their order.
    #[serde(default)]
    pub(crate) listeners: Vec<String>,
}

impl Activation {
    /// A socket for each name.
    pub(super) const fn fds(&self) -> RangeInclusive<usize> {
        self.listeners.len()..=self.listeners.len()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use super::super::codec::{Decoder, FrameError};
    use super::super::frame::{Incoming, ToWorker, Wire};
    use super::*;
    use crate::sys::scm::Received;

    fn decode(line: &[u8], fds: usize) -> Result<Incoming<ToWorker>, FrameError> {
        let mut decoder = Decoder::new();
        let read = decoder.fill(|buf| {
            buf.extend_from_slice(line);
            let open = || OwnedFd::from(File::open("/dev/null").unwrap());
            Ok(Received {
                len: line.len(),
                fds: std::iter::repeat_with(open).take(fds).collect(),
                truncated: false,
            })
        });
        read.unwrap();
        Ok(decoder.next()?.expect("the line is complete"))
    }

    #[test]
    fn an_activation_carries_a_socket_for_each_name() {
        let activation = Activation {
            slot: Slot::new("web", 3),
            restarts: 7,
            probation_ms: 250,
            listeners: vec!["http".to_owned(), "admin".to_owned()],
        };
        let mut line = Vec::new();
        ToWorker::Activate(activation.clone()).encode(2, &mut line).unwrap();
        let Incoming { frame, fds, .. } = decode(&line, 2).unwrap();
        let ToWorker::Activate(came) = frame else {
            panic!("it is an activation");
        };
        assert_eq!((came, fds.len()), (activation.clone(), 2));
        let mut line = Vec::new();
        ToWorker::Activate(activation).encode(1, &mut line).unwrap();
        assert!(decode(&line, 1).is_err(), "a socket is missing");
        let bare = br#"{"t":"activate","m":{"slot":{"spec":"web","index":0},"restarts":0}}"#;
        let line = [&bare[..], b"\n"].concat();
        assert!(matches!(decode(&line, 0).unwrap().frame, ToWorker::Activate(it) if it.listeners.is_empty()));
    }
}
