//! The end of one child: noticing it, telling it, and sending signals that can reach nobody else.
//!
//! Waiting is on a pidfd, registered with the runtime. Where the kernel or a filter has none, and where no descriptor
//! is left for one, a thread waits for the process number instead. Either way the zombie stays until [`reap`], which
//! keeps its number (and that of its process group) from being given to a stranger.
//!
//! [`reap`]: ProcessHandle::reap

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::model::{ExitStatus, Signal};
use crate::sys::process::{self as sys, Waited, Whom};
use crate::sys::reactor::register;

/// A child of this process; clones are the same child.
#[derive(Clone, Debug)]
pub(crate) struct ProcessHandle(Arc<Inner>);

/// What is known after the zombie was buried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reaped {
    pub status: ExitStatus,
    /// Processes of its group live on. Always `false` if they were to be killed.
    pub leftovers: bool,
}

/// How the end is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchMode {
    Pidfd,
    Thread,
}

#[derive(Debug)]
struct Inner {
    pid: i32,
    end: End,
    /// Signals by number are sent and the zombie is reaped under this lock: never the one after the other (F-129).
    reaped: Mutex<Option<Reaped>>,
}

#[derive(Debug)]
enum End {
    Pidfd(AsyncFd<OwnedFd>),
    /// Closed when the thread has seen the end.
    Thread(watch::Receiver<()>),
}

impl ProcessHandle {
    /// Watches a child that was just started and that nobody else waits for. Needs a runtime.
    ///
    /// # Errors
    /// When neither a pidfd nor a thread can be had. The child is killed and reaped then: a process that cannot be
    /// watched must not run.
    pub(crate) fn watch(pid: i32) -> io::Result<Self> {
        Self::watch_by(pid, preferred_mode())
    }

    pub(crate) fn watch_by(pid: i32, mode: WatchMode) -> io::Result<Self> {
        watched().insert(pid);
        let pidfd = match mode {
            WatchMode::Pidfd => sys::pidfd_open(pid).and_then(|pidfd| register(pidfd, Interest::READABLE)),
            WatchMode::Thread => Err(Errno::ENOSYS.into()),
        };
        let end = match pidfd {
            Ok(pidfd) => End::Pidfd(pidfd),
            // No pidfd in this kernel, or refused (F-137), or no descriptor left (F-103): a thread needs none.
            Err(_) => match watch_by_thread(pid) {
                Ok(seen) => End::Thread(seen),
                Err(error) => {
                    // Nobody else waits for it, so the number is still its own.
                    sys::kill(pid, Signal::KILL.number())?;
                    sys::wait(Whom::Pid(pid));
                    sys::reap(Whom::Pid(pid));
                    watched().remove(&pid);
                    return Err(error);
                }
            },
        };
        Ok(Self(Arc::new(Inner {
            pid,
            end,
            reaped: Mutex::new(None),
        })))
    }

    /// Waits for the end and tells how it was. The zombie stays until `reap`. Cancel-safe; any number may wait.
    pub(crate) async fn exited(&self) -> ExitStatus {
        // First of all for a process that was reaped: its number may be another child's by now, and the thread may
        // wait for that one.
        if let Some(status) = self.peek() {
            return status;
        }
        match &self.0.end {
            End::Pidfd(pidfd) => loop {
                let Ok(mut guard) = pidfd.readable().await else {
                    // Only when the runtime shuts down, and then this is not polled again.
                    return std::future::pending().await;
                };
                if let Some(status) = self.peek() {
                    return status;
                }
                guard.clear_ready();
            },
            End::Thread(seen) => {
                let mut seen = seen.clone();
                // Nothing is ever sent; the error is the thread's end.
                while seen.changed().await.is_ok() {}
                self.peek().unwrap_or(ExitStatus::Unknown)
            }
        }
    }

    /// Buries the zombie: `None` if the process has not ended. The same answer at every later call.
    ///
    /// With `kill_tree`, what is left of its process group is killed first, while the zombie still holds the group's
    /// number.
    pub(crate) fn reap(&self, kill_tree: bool) -> Option<Reaped> {
        let mut reaped = self.0.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if reaped.is_some() {
            return *reaped;
        }
        let status = status_of(sys::peek(self.whom()))?;
        let is_ours = status != ExitStatus::Unknown;
        let group = -self.0.pid;
        if kill_tree && is_ours {
            // Nothing to do about a member that became somebody else's (EPERM): the others were killed.
            sys::kill(group, Signal::KILL.number()).ok();
        }
        // Before the number may be another child's.
        watched().remove(&self.0.pid);
        sys::reap(self.whom());
        // Any member left holds the group's number; EPERM means a member that is no longer ours.
        let leftovers = !kill_tree && is_ours && sys::kill(group, 0).unwrap_or(true);
        *reaped = Some(Reaped { status, leftovers });
        *reaped
    }

    /// Holds up this thread until it has ended, at most so long: for what ends at once, or is ended. Has it?
    pub(crate) fn ended_within(&self, limit: Duration) -> bool {
        let step = match &self.0.end {
            End::Pidfd(_) => limit,
            // Nothing to wait on: look again and again.
            End::Thread(_) => Duration::from_millis(1).min(limit),
        };
        let mut left = limit;
        while self.peek().is_none() && !left.is_zero() {
            let timeout = PollTimeout::try_from(step.max(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
            let mut ends: Vec<_> = match &self.0.end {
                End::Pidfd(pidfd) => vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)],
                End::Thread(_) => Vec::new(),
            };
            // A signal that interrupts it only makes the wait shorter.
            poll(&mut ends, timeout).ok();
            left = left.saturating_sub(step);
        }
        self.peek().is_some()
    }

    /// Sends a signal. `false`: the process has ended already, which is no error (F-048, N-188).
    ///
    /// # Errors
    /// What the kernel says, `EPERM` above all: the process runs under another user now.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<bool> {
        let reaped = self.0.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if reaped.is_some() || sys::peek(self.whom()) != Waited::Running {
            return Ok(false);
        }
        if let End::Pidfd(pidfd) = &self.0.end {
            match sys::pidfd_send_signal(pidfd.as_fd(), signal.number()) {
                // Not in this kernel, or refused by a filter; the number says EPERM again if that is the truth.
                Err(error)
                    if [Errno::ENOSYS, Errno::EPERM]
                        .map(|errno| Some(errno as i32))
                        .contains(&error.raw_os_error()) => {}
                result => return result,
            }
        }
        // Seen running a moment ago and not reaped since, for we hold the lock: the number is still its own.
        sys::kill(self.0.pid, signal.number())
    }

    /// Has the process ended (reaped or not)?
    #[cfg(test)]
    pub(crate) fn is_gone(&self) -> bool {
        self.peek().is_some()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid.unsigned_abs()
    }

    /// How the end is noticed; anything but `Pidfd` is worth telling once.
    pub(crate) fn mode(&self) -> WatchMode {
        match self.0.end {
            End::Pidfd(_) => WatchMode::Pidfd,
            End::Thread(_) => WatchMode::Thread,
        }
    }

    fn peek(&self) -> Option<ExitStatus> {
        let reaped = self.0.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        match *reaped {
            Some(reaped) => Some(reaped.status),
            None => status_of(sys::peek(self.whom())),
        }
    }

    fn whom(&self) -> Whom<'_> {
        match &self.0.end {
            End::Pidfd(pidfd) => Whom::Pidfd(pidfd.as_fd()),
            End::Thread(_) => Whom::Pid(self.0.pid),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A number that was reaped may be a new child's; only then is it not ours to forget.
        let reaped = self.reaped.get_mut().unwrap_or_else(PoisonError::into_inner);
        if reaped.is_none() {
            watched().remove(&self.pid);
        }
    }
}

/// Is this the number of a child that is, or will be, reaped through a [`ProcessHandle`]?
pub(crate) fn is_watched(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| watched().contains(&pid))
}

/// The numbers of the children that are not reaped yet.
fn watched() -> MutexGuard<'static, BTreeSet<i32>> {
    static WATCHED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `ACTIX_CLUSTER_NO_PIDFD=1` makes the fallback testable on every kernel; read once.
fn preferred_mode() -> WatchMode {
    static MODE: OnceLock<WatchMode> = OnceLock::new();
    *MODE.get_or_init(|| {
        if std::env::var_os("ACTIX_CLUSTER_NO_PIDFD").is_some_and(|value| value == "1") {
            WatchMode::Thread
        } else {
            WatchMode::Pidfd
        }
    })
}

/// The thread ends with the child; it leaves the zombie alone.
fn watch_by_thread(pid: i32) -> io::Result<watch::Receiver<()>> {
    let (alive, seen) = watch::channel(());
    std::thread::Builder::new()
        .name(format!("exit-{pid}"))
        .stack_size(THREAD_STACK)
        .spawn(move || {
            sys::wait(Whom::Pid(pid));
            drop(alive);
        })?;
    Ok(seen)
}

fn status_of(waited: Waited) -> Option<ExitStatus> {
    match waited {
        Waited::Running => None,
        Waited::Exited { code } => Some(ExitStatus::Code(code)),
        Waited::Signaled { signal, core } => {
            Some(Signal::from_number(signal).map_or(ExitStatus::Unknown, |signal| ExitStatus::Signal { signal, core }))
        }
        Waited::Lost => Some(ExitStatus::Unknown),
    }
}

/// The thread makes one system call; this is for std's own needs.
const THREAD_STACK: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use nix::sys::wait::{WaitPidFlag, waitpid};
    use nix::unistd::Pid;
    use tokio::time::timeout;

    use super::*;
    use crate::sys::process::{SpawnRequest, posix_spawn};

    const BOTH: [WatchMode; 2] = [WatchMode::Pidfd, WatchMode::Thread];
    const LIMIT: Duration = Duration::from_secs(20);

    fn start(script: &str) -> i32 {
        let arguments = ["sh", "-c", script].map(|text| CString::new(text).unwrap());
        let request = SpawnRequest {
            program: c"/bin/sh",
            arguments: &arguments,
            environment: &[c"PATH=/usr/bin:/bin".to_owned()],
            directory: Some(c"/"),
            descriptors: &[],
            null: &[0],
        };
        posix_spawn(&request).unwrap()
    }

    fn watch(script: &str, mode: WatchMode) -> ProcessHandle {
        let handle = ProcessHandle::watch_by(start(script), mode).unwrap();
        assert_eq!(handle.mode(), mode);
        handle
    }

    async fn end_of(handle: &ProcessHandle) -> Reaped {
        let status = timeout(LIMIT, handle.exited()).await.expect("it ends in time");
        let reaped = handle.reap(false).expect("it has ended");
        assert_eq!(status, reaped.status);
        reaped
    }

    #[tokio::test]
    async fn f_137_n_191_codes_are_told_in_both_modes_to_everybody() {
        for mode in BOTH {
            for code in [0, 1, 124, 255] {
                let handle = watch(&format!("exit {code}"), mode);
                let other = handle.clone();
                let (first, second) = tokio::join!(end_of(&handle), other.exited());
                assert_eq!(first.status, ExitStatus::Code(code));
                assert_eq!(second, first.status);
                assert!(!first.leftovers);
                assert_eq!(handle.exited().await, first.status);
                assert_eq!(handle.reap(true), Some(first));
            }
        }
    }

    #[tokio::test]
    async fn f_012_every_signal_is_told_by_name() {
        for mode in BOTH {
            for number in [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 24, 25, 31, 34, 50, 64] {
                let signal = Signal::from_number(number).unwrap();
                let handle = watch("ulimit -c 0; exec sleep 600", mode);
                assert!(!handle.is_gone() && handle.reap(false).is_none());
                assert!(handle.signal(signal).unwrap());
                let status = end_of(&handle).await.status;
                assert_eq!(status.signal(), Some(signal));
                assert!(handle.is_gone());
            }
        }
    }

    #[test]
    fn f_012_the_core_flag_and_foreign_numbers_are_decoded() {
        let status = |signal, core| status_of(Waited::Signaled { signal, core });
        let (signal, core) = (Signal::ABRT, true);
        assert_eq!(status(6, true), Some(ExitStatus::Signal { signal, core }));
        assert_eq!(status(65, false), Some(ExitStatus::Unknown));
        assert_eq!(status_of(Waited::Lost), Some(ExitStatus::Unknown));
    }

    #[tokio::test]
    async fn f_048_n_188_a_signal_to_the_dead_is_no_error() {
        for mode in BOTH {
            for _ in 0..100 {
                let handle = watch("exit 0", mode);
                handle.signal(Signal::TERM).unwrap();
                end_of(&handle).await;
                assert!(!handle.signal(Signal::KILL).unwrap());
            }
        }
    }

    #[tokio::test]
    async fn f_130_a_thief_leaves_an_unknown_status() {
        for mode in BOTH {
            let handle = watch("exec sleep 600", mode);
            assert!(handle.signal(Signal::KILL).unwrap());
            let pid = Pid::from_raw(i32::try_from(handle.pid()).unwrap());
            let stolen = waitpid(pid, Some(WaitPidFlag::empty()));
            assert!(stolen.is_ok());
            let reaped = end_of(&handle).await;
            let (status, leftovers) = (ExitStatus::Unknown, false);
            assert_eq!(reaped, Reaped { status, leftovers });
            assert!(!handle.signal(Signal::KILL).unwrap());
        }
    }

    #[tokio::test]
    async fn what_is_left_of_the_group_is_told_or_killed() {
        for mode in BOTH {
            let handle = watch("sleep 600 & exit 3", mode);
            assert_eq!(handle.exited().await, ExitStatus::Code(3));
            let (status, leftovers) = (ExitStatus::Code(3), true);
            assert_eq!(handle.reap(false), Some(Reaped { status, leftovers }));
            // The sleeper still holds the group's number.
            assert!(sys::kill(-handle.0.pid, 9).unwrap());

            let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
            let handle = ProcessHandle::watch_by(start_holding(&write), mode).unwrap();
            drop(write);
            handle.exited().await;
            assert_eq!(handle.reap(true).map(|reaped| reaped.leftovers), Some(false));
            // End-of-file: the sleeper, who held the other end, is gone.
            let end = tokio::task::spawn_blocking(move || nix::unistd::read(&read, &mut [0; 8]));
            assert_eq!(timeout(LIMIT, end).await.unwrap().unwrap(), Ok(0));
        }
    }

    fn start_holding(fd: &OwnedFd) -> i32 {
        let arguments = ["sh", "-c", "sleep 600 & exit 0"].map(|text| CString::new(text).unwrap());
        let high = sys::duplicate_above(fd.as_fd(), 10).unwrap();
        let request = SpawnRequest {
            program: c"/bin/sh",
            arguments: &arguments,
            environment: &[c"PATH=/usr/bin:/bin".to_owned()],
            directory: None,
            descriptors: &[(high.as_fd(), 1)],
            null: &[],
        };
        posix_spawn(&request).unwrap()
    }

    /// Needs root and a kernel that lets the next process number be chosen; proves nothing elsewhere.
    #[tokio::test]
    async fn f_129_a_reused_number_is_never_hit() {
        for mode in BOTH {
            let old = watch("exit 0", mode);
            end_of(&old).await;
            for _ in 0..50 {
                let before = (old.pid() - 1).to_string();
                if std::fs::write("/proc/sys/kernel/ns_last_pid", before).is_err() {
                    return;
                }
                let stranger = watch("exec sleep 600", mode);
                let reused = stranger.pid() == old.pid();
                assert!(!old.signal(Signal::KILL).unwrap());
                assert!(stranger.signal(Signal::TERM).unwrap(), "the stranger lives");
                assert_eq!(end_of(&stranger).await.status.signal(), Some(Signal::TERM));
                if reused {
                    break;
                }
            }
        }
    }
}
