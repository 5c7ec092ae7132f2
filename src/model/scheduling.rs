//! What the choice of a worker for a connection is made of.

use std::net::{IpAddr, SocketAddr};

use super::{Slot, WorkerId};

/// The client of a connection that is to be handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Client {
    /// Its address and port; `None` on a Unix path.
    pub address: Option<SocketAddr>,
}

impl Client {
    /// The client at `address`.
    #[must_use]
    pub const fn new(address: Option<SocketAddr>) -> Self {
        Self { address }
    }

    /// Its address without the port, as 16 bytes: the same whether it came over IPv4 or over IPv6 that carries IPv4.
    #[must_use]
    pub fn octets(&self) -> Option<[u8; 16]> {
        self.address.map(|address| match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        })
    }
}

/// A worker that could get the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// The place it fills: what stays when a worker is replaced.
    pub slot: Slot,
    /// The worker.
    pub worker: WorkerId,
    /// Connections it holds that were handed over, those on their way included.
    pub open: u32,
    /// Of these, how many it has not acknowledged yet.
    pub unacknowledged: u32,
    /// Can one be passed to it now? Not while it has as many on their way as may be, or has just refused one.
    pub has_room: bool,
}

impl Candidate {
    /// A worker that holds nothing; for tests of policies.
    #[must_use]
    pub const fn new(slot: Slot, worker: WorkerId) -> Self {
        Self {
            slot,
            worker,
            open: 0,
            unacknowledged: 0,
            has_room: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_the_same_over_both_families() {
        let of = |text: &str| Client::new(Some(text.parse().unwrap())).octets();
        assert_eq!(of("192.0.2.1:80"), of("[::ffff:192.0.2.1]:99"));
        assert_ne!(of("192.0.2.1:80"), of("192.0.2.2:80"));
        assert_eq!(Client::default().octets(), None);
    }
}
