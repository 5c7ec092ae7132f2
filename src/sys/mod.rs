//! The only room with `unsafe`: what neither std nor nix offers as a safe call.
//!
//! Each block names the fact it relies on. Nothing here decides anything.
#![allow(unsafe_code, reason = "this is the one room that may; see ARCHITECTURE.md")]

pub(crate) mod boot;
pub(crate) mod counting;
pub(crate) mod journal;
mod keeper;
pub(crate) mod peek;
pub(crate) mod process;
#[cfg(feature = "web")]
pub(crate) mod quiet;
pub(crate) mod reactor;
pub(crate) mod ring;
pub(crate) mod scm;
pub(crate) mod socket;
pub(crate) mod tcp;
pub(crate) mod zygote;
