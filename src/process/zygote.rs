//! The master's side of a zygote: starting it, asking it for a worker, and never waiting for it for long.
//!
//! Its death, its silence and its refusal mean the same to the caller, that the worker is to be executed; [`Trouble`] tells what to
//! do about the zygote. The invariant: no worker is started twice, and none without the master knowing its number. For that the
//! zygote notes what it does in a memory of the master's, and is dead before the note is read. Not here: when there is a zygote
//! (`master/zygotes.rs`), and its own side ([`crate::sys::zygote`]).

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::BytesMut;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;

use super::exit_watch::ProcessHandle;
use super::image::{self, Image};
use super::refusal::{check_size, exec_failure, failure};
use super::spawn::{arguments, environment};
use crate::model::{Settings, Signal, SpawnFailure, SpawnStep};
use crate::sys::process::{SpawnRequest, duplicate_above, errno_text, limits, posix_spawn};
use crate::sys::scm::{self, ControlBuffer, FDS_MAX};
use crate::sys::zygote::wire::{DIRECTORY, REQUEST_LEN_MAX, Reply, Request, Unfit, VERSION};
use crate::sys::zygote::{self as sys, NOTE, NOTE_LEN, SOCKET};

/// A zygote of this master's. Ended when dropped; whoever holds its [`process`](Self::process) buries it.
#[derive(Debug)]
pub(crate) struct Zygote {
    process: ProcessHandle,
    socket: OwnedFd,
    note: File,
    /// The number of the last request.
    number: u32,
    is_ready: bool,
    has_worked: bool,
    trouble: Option<Trouble>,
    control: ControlBuffer,
}

/// Why a zygote is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It ended, or was ended because it did not answer: another one may do better.
    Lost(String),
    /// Another one would do no better.
    Unfit(String),
}

/// What can be heard from it.
enum Heard {
    Reply(Reply),
    Silence,
    End,
}

impl Zygote {
    /// Starts one for workers of these settings; it gets ready by itself. Needs a runtime.
    ///
    /// # Errors
    /// As for a worker: the first step that failed.
    pub(crate) fn start(
        settings: &Settings,
        image: Option<&Image>,
        default_args: &[OsString],
    ) -> Result<Self, SpawnFailure> {
        let path = image.map_or_else(image::running, |image| image.path(NOTE + 1))?;
        let program = path.to_c_string()?;
        let arguments = arguments(settings, default_args)?;
        let environment = environment(settings, &[], sys::contract())?;
        check_size(&arguments, &environment)?;
        let failed = |errno: Errno| {
            failure(
                SpawnStep::Channel,
                Some(errno as i32),
                "cannot make the zygote's channel",
            )
        };
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(failed)?;
        let note = new_note().map_err(|error| failed(Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
        let above = |fd: BorrowedFd<'_>| {
            duplicate_above(fd, NOTE + 1).map_err(|error| failed(Errno::from_raw(error.raw_os_error().unwrap_or(0))))
        };
        let (socket_copy, note_copy) = (above(theirs.as_fd())?, above(note.as_fd())?);
        let pid = posix_spawn(&SpawnRequest {
            program: &program,
            arguments: &arguments,
            environment: &environment,
            directory: None,
            descriptors: &[(socket_copy.as_fd(), SOCKET), (note_copy.as_fd(), NOTE)],
            null: &[0, 1],
        })
        .map_err(|errno| {
            let name = image.and_then(Image::name).unwrap_or_else(|| "this program".as_ref());
            exec_failure(errno, name, None)
        })?;
        let process = ProcessHandle::watch(pid).map_err(|error| {
            failure(
                SpawnStep::Pidfd,
                error.raw_os_error(),
                "cannot watch the zygote, killed it",
            )
        })?;
        Ok(Self::new(process, ours, note))
    }

    #[cfg(test)]
    pub(super) const fn note(&self) -> &File {
        &self.note
    }

    fn new(process: ProcessHandle, socket: OwnedFd, note: File) -> Self {
        Self {
            process,
            socket,
            note,
            number: 0,
            is_ready: false,
            has_worked: false,
            trouble: None,
            control: ControlBuffer::for_fds(1),
        }
    }

    /// One whose process is any child, and what it says is said through the descriptor.
    #[cfg(test)]
    pub(crate) fn of(process: ProcessHandle) -> (Self, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (Self::new(process, ours, new_note().unwrap()), theirs)
    }

    /// The process itself: for whoever waits for its end, and buries it.
    pub(crate) const fn process(&self) -> &ProcessHandle {
        &self.process
    }

    /// Does it wait for requests? Asks without waiting.
    pub(crate) fn is_ready(&mut self) -> bool {
        if !self.is_ready
            && self.trouble.is_none()
            && let Heard::Reply(reply) = self.hear(Duration::ZERO)
        {
            self.take(reply, 0);
        }
        self.is_ready && self.trouble.is_none()
    }

    /// Has it made a process?
    pub(crate) const fn has_worked(&self) -> bool {
        self.has_worked
    }

    /// Why it must not be asked again, if that is so.
    pub(crate) const fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Has it make a process, and waits for the answer: a fraction of a millisecond; while it starts, as long as the program
    /// takes to load. After [`answer_limit`] (or [`start_limit`]) it is ended.
    ///
    /// `None`: the process is to be executed, and [`trouble`](Self::trouble) says whether this is so for the next one, too.
    pub(crate) fn make(&mut self, request: &SpawnRequest<'_>) -> Option<i32> {
        if self.trouble.is_some() {
            return None;
        }
        let number = self.number.wrapping_add(1);
        match self.send(number, request) {
            Ok(()) => self.number = number,
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ECONNREFUSED) => {
                self.trouble = Some(Trouble::Lost("it has ended".to_owned()));
                return None;
            }
            // Too large, too many descriptors, no memory: not its fault.
            Err(errno) => {
                tracing::debug!(err = %errno_text(errno as i32), "a worker's request does not fit a zygote");
                return None;
            }
        }
        loop {
            let limit = if self.is_ready { answer_limit() } else { start_limit() };
            match self.hear(limit) {
                Heard::Reply(reply) => match self.take(reply, number) {
                    Some(made) => return made,
                    None if self.trouble.is_some() => return None,
                    None => {}
                },
                Heard::Silence => return self.settle_after(format!("it did not answer within {limit:?}")),
                Heard::End => return self.settle_after("it has ended".to_owned()),
            }
        }
    }

    /// What a reply means: `Some` ends the waiting for request `number`, with the process or without.
    fn take(&mut self, reply: Reply, number: u32) -> Option<Option<i32>> {
        match reply {
            Reply::Ready { version: VERSION } => {
                self.is_ready = true;
                None
            }
            Reply::Ready { version } => {
                let why = format!("it speaks version {version}, this master version {VERSION}");
                self.trouble = Some(Trouble::Unfit(why));
                None
            }
            Reply::Unfit(why) => {
                self.trouble = Some(Trouble::Unfit(text_of(why).to_owned()));
                None
            }
            Reply::Made { number: of, pid } if of == number => {
                self.has_worked = true;
                Some(Some(pid))
            }
            Reply::Failed { number: of, errno } if of == number => {
                // No such call, or forbidden: for the next one, too.
                if matches!(Errno::from_raw(errno), Errno::ENOSYS | Errno::EPERM | Errno::EINVAL) {
                    self.trouble = Some(Trouble::Unfit(errno_text(errno)));
                }
                Some(None)
            }
            Reply::Made { .. } | Reply::Failed { .. } => None,
        }
    }

    fn send(&self, number: u32, request: &SpawnRequest<'_>) -> Result<(), Errno> {
        let (mut fds, mut targets, mut closed) = (Vec::new(), Vec::new(), Vec::new());
        for (fd, target) in request.descriptors {
            fds.push(*fd);
            targets.push(*target);
        }
        // A child of the master would have them from it.
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        for (fd, stream) in [(0, stdin.as_fd()), (1, stdout.as_fd()), (2, stderr.as_fd())] {
            if targets.contains(&fd) || request.null.contains(&fd) {
                continue;
            }
            if crate::sys::process::is_open(fd) {
                fds.push(stream);
                targets.push(fd);
            } else {
                closed.push(fd);
            }
        }
        // In a directory that may not even be entered any more, the zygote's own has to do.
        let directory = open(
            ".",
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .ok();
        if let Some(directory) = &directory {
            fds.push(directory.as_fd());
            targets.push(DIRECTORY);
        }
        let packet = Request {
            number,
            limits: limits(),
            targets: &targets,
            null: request.null,
            closed: &closed,
            directory: request.directory,
            environment: request.environment,
        }
        .encode();
        if packet.len() > REQUEST_LEN_MAX || fds.len() > FDS_MAX {
            return Err(Errno::EMSGSIZE);
        }
        let sent = scm::send(self.socket.as_fd(), &[io::IoSlice::new(&packet)], &fds);
        sent.map(drop)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    }

    /// The next packet, waiting at most so long for it.
    fn hear(&mut self, limit: Duration) -> Heard {
        let mut socket = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        loop {
            match poll(&mut socket, timeout) {
                Ok(0) => return Heard::Silence,
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(_) => return Heard::End,
            }
        }
        let mut packet = BytesMut::new();
        match scm::recv(self.socket.as_fd(), &mut packet, PACKET_LEN, &mut self.control) {
            Ok(_) => Reply::decode(&packet).map_or(Heard::End, Heard::Reply),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Heard::Silence,
            Err(_) => Heard::End,
        }
    }

    /// It is to be no more. If it has made the process all the same, that one is it: a second one must not be started.
    fn settle_after(&mut self, why: String) -> Option<i32> {
        self.trouble = Some(Trouble::Lost(why));
        // It may have ended already.
        self.process.signal(Signal::KILL).ok();
        if !self.process.ended_within(DEATH) {
            // Held up in the kernel, under a signal that lets it make nothing more.
            tracing::warn!(pid = self.process.pid(), "the zygote does not even die");
        }
        let mut note = [0; NOTE_LEN];
        self.note.read_exact_at(&mut note, 0).ok()?;
        let (number, pid) = note.split_at(NOTE_LEN / 2);
        let [number, pid] = [number, pid].map(|word| word.try_into().map_or(0, u32::from_ne_bytes));
        (number == self.number && pid != 0).then_some(pid.cast_signed())
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // It may have ended already; else the end of its socket says the same.
        self.process.signal(Signal::KILL).ok();
    }
}

fn text_of(why: Unfit) -> &'static str {
    match why {
        Unfit::Threads => "a thread was started before `main`",
        Unfit::ThreadNumber => {
            "a copy would not know its thread's number: it needs glibc, and a kernel with CHECKPOINT_RESTORE"
        }
        Unfit::Memory => "it cannot map a page of memory",
    }
}

fn new_note() -> io::Result<File> {
    // Growing a file beyond this limit would be a signal.
    let (file_size_max, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
    if file_size_max < NOTE_LEN as u64 {
        return Err(Errno::EFBIG.into());
    }
    let file = File::from(memfd_create("actix-cluster-zygote", MFdFlags::MFD_CLOEXEC)?);
    file.set_len(NOTE_LEN as u64)?;
    Ok(file)
}

/// How long it may take to answer before it is ended: nobody else is supervised meanwhile.
fn answer_limit() -> Duration {
    patience().unwrap_or(ANSWER)
}

/// The same for the first answer: the program is loaded first.
pub(crate) fn start_limit() -> Duration {
    patience().map_or(START, |patience| patience.max(START))
}

fn patience() -> Option<Duration> {
    static PATIENCE: LazyLock<Option<Duration>> = LazyLock::new(|| {
        let text = std::env::var(PATIENCE_VARIABLE).ok()?;
        text.parse().ok().map(Duration::from_millis)
    });
    *PATIENCE
}

const ANSWER: Duration = Duration::from_millis(200);
const START: Duration = Duration::from_millis(500);
/// Both in milliseconds, for tests on a machine that has no time for them.
const PATIENCE_VARIABLE: &str = "ACTIX_CLUSTER_ZYGOTE_PATIENCE_MS";
/// How long the kernel may take to end it.
const DEATH: Duration = Duration::from_millis(500);
/// More than any reply.
const PACKET_LEN: usize = 64;
const _: () = assert!(SOCKET < NOTE && NOTE == SOCKET + 1);
