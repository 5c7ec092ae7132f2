//! What is shown of a builder: its settings. Functions and policies have no text.

use std::fmt;

use super::ClusterBuilder;

impl fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
