//! Where a worker listens, as the `listening` event tells it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The kind of a bound address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AddressType {
    /// TCP over IPv4 (Node's 4).
    #[serde(rename = "4")]
    Ipv4,
    /// TCP over IPv6 (Node's 6).
    #[serde(rename = "6")]
    Ipv6,
    /// A Unix path (Node's -1).
    #[serde(rename = "unix")]
    Unix,
    /// UDP over IPv4.
    #[serde(rename = "udp4")]
    Udp4,
    /// UDP over IPv6.
    #[serde(rename = "udp6")]
    Udp6,
}

impl AddressType {
    /// Do datagrams come in there, and no connections?
    #[must_use]
    pub const fn is_udp(self) -> bool {
        match self {
            Self::Udp4 | Self::Udp6 => true,
            Self::Ipv4 | Self::Ipv6 | Self::Unix => false,
        }
    }
}

/// The payload of the `listening` event: Node's `{address, port, addressType, fd}`.
///
/// The address is the one really bound: the port is never 0, and an unspecified host is spelled out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BoundAddress {
    /// IP address or absolute path.
    pub address: String,
    /// The port; `None` for a Unix path.
    pub port: Option<u16>,
    /// The kind of address.
    pub address_type: AddressType,
    /// The descriptor number in the master if the listener was given as one (`listen_fd`), else `None`.
    pub fd: Option<i32>,
}

impl BoundAddress {
    /// A bound TCP address.
    #[must_use]
    pub fn tcp(address: SocketAddr) -> Self {
        let address_type = if address.is_ipv4() {
            AddressType::Ipv4
        } else {
            AddressType::Ipv6
        };
        Self {
            address: address.ip().to_string(),
            port: Some(address.port()),
            address_type,
            fd: None,
        }
    }

    /// A bound UDP address.
    #[must_use]
    pub fn udp(address: SocketAddr) -> Self {
        let address_type = if address.is_ipv4() {
            AddressType::Udp4
        } else {
            AddressType::Udp6
        };
        Self {
            address_type,
            ..Self::tcp(address)
        }
    }

    /// A bound Unix path.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        let address = path.into().to_string_lossy().into_owned();
        Self {
            address,
            port: None,
            address_type: AddressType::Unix,
            fd: None,
        }
    }

    /// The TCP or UDP socket address, unless this is a Unix path.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.address.parse().ok()?, self.port?))
    }
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.socket_addr(), self.port) {
            (Some(address), _) => address.fmt(f),
            (None, Some(port)) => write!(f, "{}:{port}", self.address),
            (None, None) => f.write_str(&self.address),
        }
    }
}
