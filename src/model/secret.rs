//! Bytes that the workers of a listener share, and nobody else is to see.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is shared. It has no way into a log or an event: whoever prints it gets its length.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(Vec<u8>);

impl Secret {
    /// The most bytes of one: room for fifty ticket keys of 80 bytes.
    pub(crate) const LEN_MAX: usize = 4 << 10;

    /// Takes over the bytes, unless they are none or too many.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let secret = Self(bytes.to_vec());
        secret.is_bounded().then_some(secret)
    }

    /// What came from another process is to be asked this.
    pub(crate) const fn is_bounded(&self) -> bool {
        !self.0.is_empty() && self.0.len() <= Self::LEN_MAX
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n_099_a_secret_is_bounded_and_not_printed() {
        assert_eq!(Secret::new(b""), None);
        assert_eq!(Secret::new(&[7; Secret::LEN_MAX + 1]), None);
        let secret = Secret::new(&[7; Secret::LEN_MAX]).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(4096 bytes)");
        let text = serde_json::to_string(&Secret::new(&[1, 255]).unwrap()).unwrap();
        assert_eq!(text, "[1,255]");
        assert!(!serde_json::from_str::<Secret>("[]").unwrap().is_bounded());
    }
}
