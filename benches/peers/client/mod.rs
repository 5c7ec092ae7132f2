//! The load: HTTP/1.1 requests in a closed or an open loop, every failure told by its class.
//!
//! Not here: what is measured with it. Each load runs on a thread of its own; how much of a core D's take is in its results.

mod http;
mod load;
mod tally;

pub(crate) use http::{Connection, ask, fetch};
pub(crate) use load::{Load, Loader, Pace};
pub(crate) use tally::{FAILURES, Failed, Outcome};
