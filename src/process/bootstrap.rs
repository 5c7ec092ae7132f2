//! The contract between the master and a process it starts: one JSON value in one environment variable.
//!
//! The variable is read and removed before `main` by [`crate::sys::boot`], so neither user code nor a grandchild ever
//! sees it. Here is what it says, and the one question whose answer follows from it: who am I?

use std::os::fd::{OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{BoundAddress, Generation, Scheduling, Slot, WorkerId};
use crate::sys::boot::{self, Captured};

pub(crate) use crate::sys::boot::CONTRACT_VARIABLE;

/// Everything a worker knows at birth.
///
/// `spawn` fills `channel`, `handover`, the listeners' `fd`s, `recorder`, `uid`, `gid` and `shim`: they follow from its plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contract {
    /// The version of the channel's protocol.
    pub protocol: u32,
    pub id: WorkerId,
    pub slot: Slot,
    pub generation: Generation,
    /// The child's end of the channel.
    pub channel: RawFd,
    /// The child's end of the hand-over socket, next after the channel. Absent for clusters within, and in older contracts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<RawFd>,
    pub listeners: Vec<InheritedListener>,
    /// The memory of its flight recorder, after the listeners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorder: Option<RawFd>,
    /// Is a keeper to be started beside it, which saves its connections when it dies? Absent in older contracts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeper: bool,
    /// Of a worker that is to stand by: the listeners that it gets with its slot. It has none until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Vec<AwaitedListener>>,
    /// Restarts of the slot before this worker.
    pub restarts: u32,
    /// How often it gives a sign of life; never, if this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Duration>,
    /// How long the worker may drain when it is told to stop.
    pub grace: Duration,
    /// How long it goes on accepting before it drains, if it is told to stop by somebody else than its master.
    #[serde(default)]
    pub lame_duck: Duration,
    /// What makes it ready, by the master's rule.
    #[serde(default)]
    pub ready: Readiness,
    /// How long it may drain when the master is gone.
    pub orphan_grace: Duration,
    /// How long after it got its listeners the worker leaves their queues to its predecessor. Absent in older contracts.
    #[serde(default)]
    pub probation: Duration,
    /// Is the program a cluster itself, whose master this process is? Absent in older contracts.
    #[serde(default)]
    pub cluster: bool,
    /// The user to become before `main`.
    pub uid: Option<u32>,
    /// The group to become before `main`.
    pub gid: Option<u32>,
    /// After becoming that user: execute the program named by `argv[0]` in place of this one.
    pub shim: bool,
    /// The process's short name; `None` for the file name of `argv[0]`.
    pub name: Option<String>,
}

/// From when on a worker is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Readiness {
    /// From the start.
    Online,
    /// From its first listener.
    #[default]
    Listening,
    /// When it says so.
    Called,
}

/// A listening socket the worker is born with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InheritedListener {
    pub name: String,
    pub fd: RawFd,
    pub address: BoundAddress,
    pub scheduling: Scheduling,
    /// Its connections are saved when the worker dies. Absent in older contracts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub survives: bool,
}

/// A listening socket that a standby gets with its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AwaitedListener {
    pub name: String,
    pub address: BoundAddress,
    pub scheduling: Scheduling,
    /// As for one that is inherited.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub survives: bool,
}

impl Contract {
    /// The variable's value.
    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a contract has no map with keys other than strings, and nothing fails")
    }

    /// Takes the channel out of this process's contract: once.
    pub(crate) fn take_channel(&self) -> Option<OwnedFd> {
        boot::claim(self.channel)
    }

    /// Takes the hand-over socket out of this process's contract: once.
    pub(crate) fn take_handover(&self) -> Option<OwnedFd> {
        self.handover.and_then(boot::claim)
    }

    /// Takes the memory of the flight recorder out of this process's contract: once.
    pub(crate) fn take_recorder(&self) -> Option<OwnedFd> {
        self.recorder.and_then(boot::claim)
    }
}

impl InheritedListener {
    /// Takes the socket out of this process's contract: once.
    pub(crate) fn take(&self) -> Option<OwnedFd> {
        boot::claim(self.fd)
    }
}

/// Who this process is.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    /// Started by somebody else: supervises.
    Master,
    /// Started by a master to be one itself, of a cluster within the cluster.
    Nested(&'static Contract),
    /// Started by a master.
    Worker(&'static Contract),
    /// Started with a contract that is none: to be refused loudly, with this text (N-023).
    Broken(String),
}

/// Who this process is; the same answer at every call.
pub(crate) fn role() -> Role {
    static CONTRACT: OnceLock<Result<Option<Contract>, String>> = OnceLock::new();
    match CONTRACT.get_or_init(|| read(boot::captured())) {
        Ok(None) => Role::Master,
        Ok(Some(contract)) if contract.cluster => Role::Nested(contract),
        Ok(Some(contract)) => Role::Worker(contract),
        Err(message) => Role::Broken(message.clone()),
    }
}

fn read(captured: &Captured) -> Result<Option<Contract>, String> {
    let broken = |why: &str| {
        format!(
            "the environment variable {CONTRACT_VARIABLE} is set, but {why}: it is reserved for the master and its \
             workers; unset it to start a master"
        )
    };
    match captured {
        Captured::Absent => Ok(None),
        Captured::Broken(why) => Err(broken(why)),
        Captured::Text(text) => match serde_json::from_str(text) {
            Ok(contract) => Ok(Some(contract)),
            Err(error) => Err(broken(&format!("its value is no contract: {error}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n_023_a_contract_is_whole_or_refused() {
        let contract = crate::process::tests::contract();
        let text = contract.to_text();
        assert_eq!(read(&Captured::Text(text)), Ok(Some(contract)));
        assert_eq!(read(&Captured::Absent), Ok(None));
        for captured in [
            Captured::Text("{}".to_owned()),
            Captured::Broken("its value is no contract: EOF".to_owned()),
        ] {
            let message = read(&captured).unwrap_err();
            assert!(
                message.contains(CONTRACT_VARIABLE) && message.contains("unset it"),
                "{message}"
            );
        }
    }
}
