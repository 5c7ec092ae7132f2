//! The child's side: what runs inside a worker process.

pub(crate) mod counters;
pub(crate) mod serve;
pub(crate) mod shutdown;
