//! I/O room: the hand-over socket, on which connections travel between the master and a worker.
//!
//! A pair of its own beside the channel, so that a flood of connections delays no order and no message delays a
//! connection. It keeps boundaries (`SOCK_SEQPACKET`): one datagram is one JSON object with at most one descriptor, so a
//! descriptor can belong to nothing else than what it came with. Here: [`wire`], the things said; [`endpoint`], one end;
//! [`reserve`], so that there is room for what comes.
//! Not here: who gets a connection (the master), and what is done with it (the worker).

pub(crate) mod endpoint;
pub(crate) mod reserve;
pub(crate) mod wire;

pub(crate) use endpoint::{Endpoint, Packet, pair};
pub(crate) use reserve::Reserve;
pub(crate) use wire::{ToDispatcher, ToServer};
