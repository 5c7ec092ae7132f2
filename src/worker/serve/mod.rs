//! Serving: from the worker's listening sockets to answered requests, and the orderly end of it.
//!
//! `intake` accepts on its `listener`s, `conn` is what was accepted. On top of these, `incoming` feeds any tokio server
//! and `web` an actix-web application; `graceful` is how the latter's connections end. `http_server` runs an unmodified
//! `HttpServer`, which accepts for itself. How sockets get into the worker, and when it has to stop, is decided outside.

#[cfg(feature = "web")]
pub(crate) mod app;
pub(crate) mod conn;
#[cfg(feature = "web")]
mod graceful;
pub(crate) mod http1;
pub(crate) mod http1_stream;
#[cfg(feature = "web")]
pub(crate) mod http_server;
pub(crate) mod incoming;
pub(crate) mod intake;
mod journaled;
mod listener;
#[cfg(feature = "web")]
#[cfg(test)]
mod moving_tests;
pub(crate) mod refuse;
pub(crate) mod survival;
#[cfg(feature = "web")]
pub(crate) mod web;
#[cfg(feature = "web")]
#[cfg(test)]
mod web_tests;
