//! The actors of the master: thin, they translate facts into inputs of the machines and actions into effects.
//!
//! Everything here runs on the thread that called [`run`], and only supervision runs there; plug-ins have a thread of
//! their own. It alone spawns.

mod birth;
mod change;
mod command;
mod commands;
mod directory;
mod handover;
mod images;
mod lag;
mod last_failure;
mod life;
mod listening;
mod liveness;
mod messages;
mod printed;
mod publisher;
mod pump;
mod queue;
mod replies;
mod signals;
mod start;
mod subscribers;
mod supervisor;
mod turns;
mod unread;
mod vital;
mod worker_actor;
mod zygotes;

pub(crate) use command::{Command, SpecOrder, SpecReply, Urgency, Verdict};
pub(crate) use directory::{Directory, Link};
pub(crate) use publisher::Publisher;
pub(crate) use pump::{forward, pump};
pub(crate) use queue::Queue;
pub(crate) use start::{Finished, run, start};
pub(crate) use subscribers::Subscribers;
pub(crate) use supervisor::ClusterSupervisor;
