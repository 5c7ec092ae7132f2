//! I/O room: the listening sockets of the cluster, as the master holds them.
//!
//! Here: making them ([`bind`], [`udp`], [`unix_path`]) or having been handed them ([`activation`]), knowing what a descriptor is ([`kind`], [`typed`]), keeping them ([`table`]) and
//! deciding who serves the queue of each ([`serving`]). Not here: accepting connections (the worker's side), sending
//! descriptors (ipc), and when to ask for any of it (the master).

pub(crate) mod accept_error;
pub(crate) mod activation;
pub(crate) mod bind;
pub(crate) mod kind;
pub(crate) mod serving;
pub(crate) mod table;
pub(crate) mod typed;
pub(crate) mod udp;
pub(crate) mod unix_path;

#[cfg(test)]
mod serving_tests;
#[cfg(test)]
mod testing;

use std::fmt::Display;

use nix::errno::Errno;

use crate::model::{ListenError, bounded};

/// The error of a system call that refused: which step, which errno, and `way_out` where there is one.
fn failed(address: &dyn Display, step: &str, errno: Errno, way_out: &str) -> ListenError {
    let mut detail = format!("{step}: {errno:?}: {}", errno.desc());
    if !way_out.is_empty() {
        detail.push_str("; ");
        detail.push_str(way_out);
    }
    ListenError {
        address: bounded(address.to_string()),
        errno: Some(errno as i32),
        detail,
    }
}

/// The error of a request that was refused before any system call.
fn refused(address: &dyn Display, detail: String) -> ListenError {
    ListenError {
        address: bounded(address.to_string()),
        errno: None,
        detail: bounded(detail),
    }
}

/// The way out that does not depend on the kind of address; empty where there is none.
fn common_way_out(errno: Errno) -> &'static str {
    match errno {
        Errno::EMFILE => "the process has no free descriptor: raise RLIMIT_NOFILE",
        Errno::ENFILE => "the machine has no free descriptor: raise fs.file-max",
        _ => "",
    }
}
