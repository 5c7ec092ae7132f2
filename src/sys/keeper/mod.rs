//! The keeper: a process that shares its worker's table of descriptors and sleeps until the worker is dead.
//!
//! A connection ends when its last descriptor is closed, and the kernel closes those of a process whatever it dies of. While
//! the keeper shares the table, nothing is closed by the worker's death; the keeper looks through the table, gives what can
//! be saved to the master ([`saving`]), and ends, which closes the rest. It costs the worker no call and no message.
//!
//! It is cloned before `main`, while there is one thread: a copy of a process with one thread may do whatever a process
//! may. It is a child of the master, which reaps it.

mod post;
mod saving;
mod table;

use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::{Pid, getpid, getppid, setpgid};

use self::post::{Post, borrow};
use self::table::Survivor;
use super::boot::exit_now;
use super::journal::Journal;
use super::process::{errno_text, pidfd_open};
use crate::model::exit_code;

/// What a keeper is made for.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// The worker's end of the hand-over socket.
    pub(super) handover: RawFd,
    /// The contract's listeners: their sockets, and whether their connections are to be saved.
    pub(super) listeners: &'a [(RawFd, bool)],
    /// Of a worker that stands by, in their place: where those are that come with its slot.
    pub(super) awaited: &'a [(Option<SocketAddr>, bool)],
}

/// What a keeper knows.
struct Keeper {
    /// Readable when the worker is dead. In the shared table, so user code could close it, or give its number away.
    worker: RawFd,
    post: Post,
    survivors: Vec<Survivor>,
    journal: Journal,
    /// For a master that does not read, all in all.
    patience: Duration,
}

/// Starts the keeper of this process. Only before `main`: there must be one thread.
///
/// # Errors
/// Why there is none, in words for people. The worker does without.
pub(super) fn start(plan: &Plan<'_>) -> Result<(), String> {
    let is_set = |name: &&&str| std::env::var_os(name).is_some_and(|value| value == "1");
    if let Some(name) = FORBIDDEN_BY.iter().find(is_set) {
        return Err(format!("{name}=1 forbids it"));
    }
    let errno = |what: &'static str| move |errno: Errno| format!("{what}: {}", errno_text(errno as i32));
    let survivors = table::survivors(plan.listeners, plan.awaited);
    let patience = std::env::var(PATIENCE_VARIABLE).ok().and_then(|text| text.parse().ok());
    let patience = patience.map_or(PATIENCE, Duration::from_millis);
    let post = Post::new(plan.handover).map_err(errno("the hand-over socket"))?;
    let journal = Journal::map(descriptors_max()).map_err(|error| format!("mapping the journal: {error}"))?;
    let (pid, master) = (getpid(), getppid());
    let worker = pidfd_open(pid.as_raw()).map_err(|error| format!("pidfd_open: {error}"))?;
    // A copy begins with the mask, so no signal can hit the keeper before it has one of its own.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let cloned = clone_sharing_descriptors();
    if matches!(cloned, Ok(None)) {
        // Whatever happens in here must not come back into the program's own course.
        let keeper = Keeper {
            worker: worker.into_raw_fd(),
            post,
            survivors,
            journal,
            patience,
        };
        keeper.run(pid, master);
    }
    mask.and_then(|mask| mask.thread_set_mask())
        .map_err(errno("the signal mask"))?;
    if let Some((keeper, pidfd)) = cloned.map_err(errno("clone(CLONE_FILES | CLONE_PARENT | CLONE_PIDFD)"))? {
        // The keeper waits on it, by this number, for as long as this process lives.
        let _kept = ManuallyDrop::new(worker);
        // Before this worker can get a connection, however long it takes until the keeper runs for the first time: the
        // master must not believe, when the worker dies, that nobody keeps its connections.
        post.introduce(keeper, pidfd.as_fd());
        journal.publish();
    }
    Ok(())
}

/// Tells the master that this worker has no keeper, and why.
pub(super) fn tell_missing(handover: RawFd, why: &str) {
    Post::tell_missing(handover, why);
}

impl Keeper {
    fn run(self, worker: Pid, master: Pid) -> ! {
        self.settle(worker, master);
        loop {
            let hung_up = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
            let mut fds = [
                PollFd::new(borrow(self.worker), PollFlags::POLLIN),
                PollFd::new(self.post.as_fd(), PollFlags::empty()),
            ];
            // No signal interrupts this: all are blocked.
            let result = poll(&mut fds, PollTimeout::NONE);
            let seen = |at: usize| fds[at].revents().unwrap_or(PollFlags::empty());
            if seen(0).contains(PollFlags::POLLIN) {
                break;
            }
            // The master is gone; or user code has closed what this process needs. It cannot help any more, and closes
            // nothing by ending: the worker has the table.
            if result.is_err() || seen(0).intersects(hung_up) || seen(1).intersects(hung_up) {
                exit_now(exit_code::SUCCESS);
            }
        }
        saving::save(self);
        exit_now(exit_code::SUCCESS)
    }

    /// Nobody's signal ends it but the master's death, and `SIGKILL`.
    fn settle(&self, worker: Pid, master: Pid) {
        // SAFETY: prctl takes numbers, and a C string of which the kernel copies at most 15 bytes.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::prctl(libc::PR_SET_NAME, c"keeper".as_ptr(), 0, 0, 0);
        }
        // A kill of the worker's group must not take it along. After the name, so that nobody who looks sees a second leader
        // of a group and takes it for a worker. It fails for a leader of a session only, which a copy never is.
        setpgid(Pid::from_raw(0), Pid::from_raw(0)).ok();
        // It may have died before the order was given.
        if getppid() != master {
            exit_now(exit_code::SUCCESS);
        }
        table::show_as(&format!("keeper of worker {worker}"));
        // Its worker may raise its own limit later, and this process has to open a list of all that there is.
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            // Raising it up to there is allowed to everybody.
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok();
        }
    }
}

/// The number of the copy, and its pidfd; `None` in the copy. Both go on with the same descriptors, and each with its own
/// memory.
fn clone_sharing_descriptors() -> nix::Result<Option<(i32, OwnedFd)>> {
    if cfg!(target_arch = "s390x") {
        // It alone takes the stack before the flags.
        return Err(Errno::ENOSYS);
    }
    let null = ptr::null_mut::<libc::c_void>();
    let flags = libc::CLONE_FILES | libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::SIGCHLD;
    let flags = libc::c_long::from(flags);
    let mut pidfd: RawFd = -1;
    // SAFETY: this is `fork` with another three flags: no new stack, no thread-local memory (both null, so that the order of
    // the last two, which differs between machines, says nothing), and one valid place for the number of the pidfd, a new
    // descriptor that nobody else owns. There is one thread, so the copy finds no lock held. Not `clone3`, which the usual
    // filters of containers refuse.
    unsafe {
        let pid = libc::syscall(libc::SYS_clone, flags, null, &raw mut pidfd, null, null);
        match i32::try_from(pid) {
            Ok(0) => Ok(None),
            Ok(pid) if pid > 0 => Ok(Some((pid, OwnedFd::from_raw_fd(pidfd)))),
            Ok(_) | Err(_) => Err(Errno::last()),
        }
    }
}

/// The most descriptors that the worker can ever have: it may raise its limit so far by itself.
fn descriptors_max() -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 1024));
    usize::try_from(hard).unwrap_or(usize::MAX)
}

/// Programs that run where no keeper can be had are tested by either of these, on every kernel.
const FORBIDDEN_BY: [&str; 2] = ["ACTIX_CLUSTER_NO_KEEPER", "ACTIX_CLUSTER_NO_PIDFD"];
/// How long it waits for a master that stands still or has no room for a descriptor: as long as a connection waits in the
/// master for a worker. What is not given to it by then is closed: its clients had better ask again.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same in milliseconds, for tests of what comes after it.
const PATIENCE_VARIABLE: &str = "ACTIX_CLUSTER_KEEPER_PATIENCE_MS";
