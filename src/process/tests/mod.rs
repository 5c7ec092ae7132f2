//! Spawning and the bootstrap with real processes: shells, and this test program executed again with one test.
//!
//! Here are the means; the tests are in `spawning`, what a re-executed program does in `bodies`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal as Blocked};
use tokio::time::timeout;

use super::spawn::Child;
use super::{Contract, Image, InheritedListener, Lines, Reaped, Role, SpawnPlan, role, spawn};
use crate::model::{
    BoundAddress, ExitStatus, Generation, Program, Scheduling, Settings, Slot, SpawnFailure, SpawnStep, StdioMode,
    WorkerId, exit_code,
};

use crate::sys::process::{SpawnRequest, posix_spawn};

const LIMIT: Duration = Duration::from_secs(30);
mod bodies;
mod keeping;
mod kept;
mod spawning;
mod zygotes;

/// Says which body the re-executed test program runs.
const BODY: &str = "ACTIX_CLUSTER_TEST_BODY";

pub(super) fn contract() -> Contract {
    Contract {
        protocol: 1,
        id: WorkerId::new(7),
        slot: Slot::new("web", 2),
        generation: Generation(3),
        channel: 3,
        handover: None,
        listeners: Vec::new(),
        recorder: None,
        keeper: false,
        standby: None,
        restarts: 4,
        heartbeat: None,
        grace: Duration::from_secs(30),
        lame_duck: Duration::ZERO,
        ready: Default::default(),
        orphan_grace: Duration::from_millis(500),
        probation: Duration::ZERO,
        cluster: false,
        uid: None,
        gid: None,
        shim: false,
        name: None,
    }
}

struct Finished {
    stdout: Vec<String>,
    stderr: Vec<String>,
    channel: String,
    reaped: Reaped,
}

impl Finished {
    fn said(&self, line: &str) -> bool {
        self.channel.lines().any(|said| said == line)
    }
}

fn start(
    settings: &Settings,
    extra_env: &[(OsString, OsString)],
    listeners: &[&OwnedFd],
) -> Result<(Child, UnixStream), SpawnFailure> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut contract = contract();
    contract.listeners = listeners
        .iter()
        .map(|_| InheritedListener {
            name: "http".to_owned(),
            fd: -1,
            address: BoundAddress::unix("/x"),
            scheduling: Scheduling::Shared,
            survives: false,
        })
        .collect();
    let child = spawn(SpawnPlan {
        image: None,
        settings,
        extra_env,
        contract,
        channel: theirs.as_fd(),
        handover: None,
        listeners: listeners.iter().map(|listener| listener.as_fd()).collect(),
        recorder: None,
        default_args: &[],
        zygote: None,
    })?;
    Ok((child, ours))
}

async fn finish((child, mut ours): (Child, UnixStream)) -> Finished {
    let all = |pipe: Option<OwnedFd>| async {
        let mut all = Vec::new();
        if let Some(pipe) = pipe {
            let mut lines = Lines::new(pipe).unwrap();
            while let Some(line) = lines.next().await {
                all.push(line);
            }
        }
        all
    };
    let both = async { tokio::join!(all(child.stdout), all(child.stderr), child.handle.exited()) };
    let (stdout, stderr, _) = timeout(LIMIT, both).await.expect("it ends in time");
    let reaped = child.handle.reap(false).unwrap();
    let mut channel = String::new();
    ours.read_to_string(&mut channel).unwrap();
    Finished {
        stdout,
        stderr,
        channel,
        reaped,
    }
}

async fn run(settings: &Settings) -> Finished {
    finish(start(settings, &[], &[]).unwrap()).await
}

fn shell(script: &str) -> Settings {
    Settings {
        exec: Program::Path("/bin/sh".into()),
        args: Some(vec!["-c".into(), script.into()]),
        stdin: StdioMode::Piped,
        stdout: StdioMode::Piped,
        stderr: StdioMode::Piped,
        ..Settings::default()
    }
}

/// This program again, running only `child_body`.
fn same(body: &str) -> Settings {
    Settings {
        exec: Program::Same,
        args: Some(
            ["--exact", "process::tests::child_body", "--nocapture"]
                .map(Into::into)
                .into(),
        ),
        env: vec![(BODY.into(), body.into())],
        ..shell("")
    }
}

/// A child that does nothing, and that nobody watches yet.
pub(super) fn sleeper() -> i32 {
    let arguments = ["sleep", "600"].map(|text| std::ffi::CString::new(text).unwrap());
    let request = SpawnRequest {
        program: c"sleep",
        arguments: &arguments,
        environment: &[],
        directory: None,
        descriptors: &[],
        null: &[0],
    };
    posix_spawn(&request).unwrap()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Not a test by itself: what the program does when one of the tests above executes it again.
#[test]
fn child_body() {
    let Ok(body) = std::env::var(BODY) else { return };
    let contract = match role() {
        Role::Worker(contract) | Role::Nested(contract) => contract,
        Role::Broken(message) => return println!("refused: {message}"),
        Role::Master => return println!("master"),
    };
    let channel = contract.take_channel().expect("the channel is taken once");
    match body.as_str() {
        "report" => bodies::report(contract, channel),
        "masks" => bodies::masks(channel),
        "limits" => bodies::limits(channel),
        "deleted" => bodies::deleted(channel),
        "keeping" => kept::obey(contract, channel),
        "descriptors" => bodies::descriptors(channel),
        other => panic!("no body {other:?}"),
    }
}
