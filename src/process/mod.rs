//! One child process: how it is started, what it is told through its environment, how its end is noticed and what it
//! prints.
//!
//! Nothing here knows channels, frames, listeners' policies, supervision or actors: descriptors come in and are passed
//! on as they are. The invariant: a child that was started is waited for, and no signal reaches anybody else.

pub(crate) mod bootstrap;
pub(crate) mod exit_watch;
mod image;
mod keeper;
mod oom;
pub(crate) mod output;
mod refusal;
pub(crate) mod spawn;
mod zygote;

#[cfg(test)]
mod tests;

pub(crate) use crate::sys::process::heed_children;
pub(crate) use bootstrap::{AwaitedListener, Contract, InheritedListener, Readiness, Role, role};
pub(crate) use exit_watch::{ProcessHandle, Reaped, WatchMode};
pub(crate) use image::{Image, at_first as remember_image};
pub(crate) use keeper::KeeperHandle;
pub(crate) use oom::OomWatch;
pub(crate) use output::Lines;
pub(crate) use refusal::failure;
pub(crate) use spawn::{SpawnPlan, spawn};
pub(crate) use zygote::{Trouble, Zygote, start_limit as zygote_start_limit};
