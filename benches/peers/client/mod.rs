//! The load: HTTP/1.1 requests in a closed or an open loop, every failure told by its class.
//!
//! Not here: what is measured with it. It runs on one thread of its own; how much of a core it takes is in the results.

mod http;
mod load;
mod tally;

pub(crate) use http::{Connection, ask, fetch};
pub(crate) use load::{Load, Loader, Pace};
pub(crate) use tally::{FAILURES, Failed, Outcome};
