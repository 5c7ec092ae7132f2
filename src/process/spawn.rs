//! Starting one child: a plan in, a child or a failure with a name out.
//!
//! Nothing is left behind by a failure at any step: every descriptor is owned from birth on. What a failure means for
//! the cluster is decided elsewhere; the text of the failure says what is wrong and what to do about it.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::bootstrap::{CONTRACT_VARIABLE, Contract};
use super::exit_watch::ProcessHandle;
use super::image::{self, Image, ImagePath};
use super::refusal::{check_size, exec_failure, failure, forbidden_user};
use super::zygote::Zygote;
use crate::model::{Program, Settings, SpawnFailure, SpawnStep, StdioMode};
use crate::sys::process::{SpawnRequest, duplicate_above, posix_spawn};

/// What to start.
#[derive(Debug)]
pub(crate) struct SpawnPlan<'a> {
    pub settings: &'a Settings,
    /// The program that the settings name, held open; `None` for the image this process runs, or the path as it is.
    pub image: Option<&'a Image>,
    /// Laid over the settings' variables.
    pub extra_env: &'a [(OsString, OsString)],
    /// What follows from the plan is filled in (see [`Contract`]).
    pub contract: Contract,
    /// The child's end of the channel.
    pub channel: BorrowedFd<'a>,
    /// The child's end of the hand-over socket.
    pub handover: Option<BorrowedFd<'a>>,
    /// In the order of the contract's listeners.
    pub listeners: Vec<BorrowedFd<'a>>,
    /// The memory of the flight recorder.
    pub recorder: Option<BorrowedFd<'a>>,
    /// For settings without arguments.
    pub default_args: &'a [OsString],
    /// Makes the process, if it can: it is one of the same program, arguments and settings.
    pub zygote: Option<&'a mut Zygote>,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Child {
    pub pid: u32,
    pub handle: ProcessHandle,
    /// The read end, non-blocking, if standard output is piped.
    pub stdout: Option<OwnedFd>,
    /// The read end, non-blocking, if standard error is piped.
    pub stderr: Option<OwnedFd>,
}

/// The channel's number in the child; the hand-over socket follows it, then listeners, and then the flight recorder.
const CHANNEL_TARGET: RawFd = 3;

/// Starts a process. Needs a runtime; takes a fraction of a millisecond, however much memory the master holds.
///
/// # Errors
/// The first step that failed. No process is left, and no descriptor.
pub(crate) fn spawn(plan: SpawnPlan<'_>) -> Result<Child, SpawnFailure> {
    let settings = plan.settings;
    if let Some(refused) = forbidden_user(settings.uid, settings.gid) {
        return Err(refused);
    }
    let needs_shim = settings.exec != Program::Same && (settings.uid.is_some() || settings.gid.is_some());
    let arguments = arguments(settings, plan.default_args)?;
    let mut contract = plan.contract;
    contract.channel = CHANNEL_TARGET;
    contract.uid = settings.uid;
    contract.gid = settings.gid;
    contract.shim = needs_shim;
    let passed = plan.listeners.len();
    if contract.listeners.len() != passed {
        let what = format!(
            "the contract names {} listeners, but {passed} are passed",
            contract.listeners.len()
        );
        return Err(failure(SpawnStep::Settings, None, &what));
    }
    let mut targets = CHANNEL_TARGET + 1..;
    contract.handover = plan.handover.and_then(|_| targets.next());
    for (listener, target) in contract.listeners.iter_mut().zip(&mut targets) {
        listener.fd = target;
    }
    contract.recorder = plan.recorder.and_then(|_| targets.next());
    let all = plan.handover.into_iter().chain(plan.listeners.iter().copied());
    let inherited: Vec<BorrowedFd<'_>> = all.chain(plan.recorder).collect();
    let environment = environment(settings, plan.extra_env, contract.to_text())?;
    check_size(&arguments, &environment)?;
    let mut wires = Wires::new(inherited.len());
    let path = match (&settings.exec, plan.image) {
        (Program::Path(_), _) if needs_shim => image::running()?,
        (_, Some(image)) => image.path(wires.lowest)?,
        (Program::Path(path), None) => ImagePath::of(path.into()),
        (Program::Same, None) => image::running()?,
    };
    let program = path.to_c_string()?;
    let directory = match &settings.cwd {
        Some(directory) => Some(c_string(directory.as_os_str(), "the working directory")?),
        None => None,
    };

    wires.add(plan.channel, CHANNEL_TARGET, SpawnStep::Channel)?;
    for (source, target) in inherited.iter().zip(CHANNEL_TARGET + 1..) {
        wires.add(*source, target, SpawnStep::Channel)?;
    }
    wires.stdio(settings.stdin, 0)?;
    let stdout = wires.stdio(settings.stdout, 1)?;
    let stderr = wires.stdio(settings.stderr, 2)?;
    let descriptors: Vec<_> = wires
        .descriptors
        .iter()
        .map(|(fd, target)| (fd.as_fd(), *target))
        .collect();
    let request = SpawnRequest {
        program: &program,
        arguments: &arguments,
        environment: &environment,
        directory: directory.as_deref(),
        descriptors: &descriptors,
        null: &wires.null,
    };
    // Whatever a zygote cannot do, the kernel is asked for: it can, or its refusal has the right name.
    let made = plan.zygote.and_then(|zygote| zygote.make(&request));
    let pid = made.map_or_else(|| posix_spawn(&request), Ok).map_err(|errno| {
        let held = plan.image.filter(|_| !needs_shim).and_then(Image::name);
        let name = held.unwrap_or_else(|| Path::new(OsStr::from_bytes(program.to_bytes())));
        exec_failure(errno, name, settings.cwd.as_deref())
    })?;
    let handle = ProcessHandle::watch(pid).map_err(|error| {
        failure(
            SpawnStep::Pidfd,
            error.raw_os_error(),
            "cannot watch the new process, killed it",
        )
    })?;
    Ok(Child {
        pid: handle.pid(),
        handle,
        stdout,
        stderr,
    })
}

/// The child's descriptors, all of them above every target, so that no target overwrites a source (the `dup2` trap).
#[derive(Debug)]
struct Wires {
    lowest: RawFd,
    descriptors: Vec<(OwnedFd, RawFd)>,
    null: Vec<RawFd>,
}

impl Wires {
    fn new(inherited: usize) -> Self {
        let inherited = RawFd::try_from(inherited).unwrap_or(RawFd::MAX / 2);
        Self {
            lowest: CHANNEL_TARGET + 1 + inherited,
            descriptors: Vec::new(),
            null: Vec::new(),
        }
    }

    fn add(&mut self, source: BorrowedFd<'_>, target: RawFd, step: SpawnStep) -> Result<(), SpawnFailure> {
        let copy = duplicate_above(source, self.lowest).map_err(|error| {
            failure(
                step,
                error.raw_os_error(),
                "cannot duplicate a descriptor for the worker",
            )
        })?;
        self.descriptors.push((copy, target));
        Ok(())
    }

    /// The master's end, if there is one.
    fn stdio(&mut self, mode: StdioMode, target: RawFd) -> Result<Option<OwnedFd>, SpawnFailure> {
        match mode {
            StdioMode::Inherit => Ok(None),
            StdioMode::Piped if target != 0 => {
                let fail = |errno| {
                    failure(
                        SpawnStep::Pipes,
                        Some(errno as i32),
                        "cannot make a pipe for the worker",
                    )
                };
                let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(fail)?;
                // Only the master's end: the flag belongs to each end, and the child expects a blocking one.
                fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(fail)?;
                self.add(write.as_fd(), target, SpawnStep::Pipes)?;
                Ok(Some(read))
            }
            StdioMode::Null | StdioMode::Piped => {
                self.null.push(target);
                Ok(None)
            }
        }
    }
}

/// `argv`: for this image the master's own name first, so that it finds itself as it was called; else the program's.
pub(super) fn arguments(settings: &Settings, default_args: &[OsString]) -> Result<Vec<CString>, SpawnFailure> {
    let name = match &settings.exec {
        Program::Same => std::env::args_os().next().unwrap_or_else(|| "worker".into()),
        Program::Path(path) => path.as_os_str().to_owned(),
    };
    let rest = settings.args.as_deref().unwrap_or(default_args);
    std::iter::once(&name)
        .chain(rest)
        .map(|argument| c_string(argument, "an argument"))
        .collect()
}

/// The master's variables, overlaid by the settings', then the caller's, then the contract.
pub(super) fn environment(
    settings: &Settings,
    extra: &[(OsString, OsString)],
    contract: String,
) -> Result<Vec<CString>, SpawnFailure> {
    let mut variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    // They name descriptors of the master's; a worker would find others under these numbers.
    variables.retain(|name, _| !MASTERS_OWN.iter().any(|own| name == own));
    for (name, value) in settings.env.iter().chain(extra) {
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            let detail = format!("{name:?} is no name for an environment variable: it is empty or contains \"=\"");
            return Err(SpawnFailure {
                step: SpawnStep::Settings,
                errno: Some(Errno::EINVAL as i32),
                detail,
            });
        }
        variables.insert(name.clone(), value.clone());
    }
    variables.insert(CONTRACT_VARIABLE.into(), contract.into());
    variables
        .into_iter()
        .map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            c_string(&variable, "an environment variable")
        })
        .collect()
}

/// What a service manager says to the master alone: the variables of socket activation.
const MASTERS_OWN: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// F-106: the kernel would cut the string at the NUL.
pub(super) fn c_string(text: &OsStr, what: &str) -> Result<CString, SpawnFailure> {
    CString::new(text.to_owned().into_vec()).map_err(|_| {
        let shown: String = text.to_string_lossy().chars().take(80).collect();
        SpawnFailure {
            step: SpawnStep::Settings,
            errno: Some(Errno::EINVAL as i32),
            detail: format!("{what} contains a NUL byte: {shown:?}; remove it"),
        }
    })
}
