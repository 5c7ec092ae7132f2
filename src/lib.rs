//! One Rust program becomes a supervised, self-healing cluster of worker processes.
#![cfg(target_os = "linux")]

mod clock;
mod ipc;
mod master;
pub mod model;
mod policy;
mod process;
mod socket;
mod supervision;
mod sys;
mod worker;
