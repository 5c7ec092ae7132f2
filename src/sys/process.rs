//! The calls around processes that std and nix lack: `posix_spawn` with a working directory and a process group,
//! pidfds, `waitid` that understands every signal, limits, and numbers of descriptors.
//!
//! No decision lives here, and no text for people but the names of errors.

use std::ffi::{CStr, CString, c_int, c_short};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;

/// What to start, all as C strings.
#[derive(Debug)]
pub(crate) struct SpawnRequest<'a> {
    /// A path; a bare name is searched in the `PATH` of this process.
    pub program: &'a CStr,
    pub arguments: &'a [CString],
    pub environment: &'a [CString],
    pub directory: Option<&'a CStr>,
    /// `(source, target)`. Every source must be above every target, or one target could overwrite another's source.
    pub descriptors: &'a [(BorrowedFd<'a>, RawFd)],
    /// Targets that become `/dev/null`.
    pub null: &'a [RawFd],
}

/// Starts a process in a process group of its own, with an empty signal mask and every signal at its default.
///
/// The group keeps the terminal's Ctrl-C from it. And in the master's session it is the master alone that keeps the
/// group from being orphaned: when the master dies, the kernel continues (and hangs up) a child that stands stopped, which
/// could not end by itself. A session of its own would lose that.
///
/// # Errors
/// The errno of the step that failed in the child or here; the C function does not say which step it was.
pub(crate) fn posix_spawn(request: &SpawnRequest<'_>) -> Result<i32, i32> {
    let actions = FileActions::new(request)?;
    let attributes = Attributes::new()?;
    let arguments = pointers(request.arguments);
    let environment = pointers(request.environment);
    let mut pid = 0;
    // SAFETY: every pointer is to an initialised value that lives until the call returns; the arrays end with null.
    check(unsafe {
        libc::posix_spawnp(
            &raw mut pid,
            request.program.as_ptr(),
            actions.0.as_ptr(),
            attributes.0.as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    })?;
    Ok(pid)
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    let each = strings.iter().map(|string| string.as_ptr().cast_mut());
    each.chain(std::iter::once(ptr::null_mut())).collect()
}

fn check(errno: c_int) -> Result<(), i32> {
    if errno == 0 { Ok(()) } else { Err(errno) }
}

/// Boxed, because POSIX does not promise that the C struct may be moved.
struct FileActions(Box<MaybeUninit<libc::posix_spawn_file_actions_t>>);

impl FileActions {
    fn new(request: &SpawnRequest<'_>) -> Result<Self, i32> {
        let mut actions = Box::new(MaybeUninit::uninit());
        // SAFETY: the place is valid for writing.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        let mut actions = Self(actions);
        let raw = actions.0.as_mut_ptr();
        // SAFETY: `raw` was initialised above; the strings are copied by both libcs.
        unsafe {
            for target in request.null {
                let path = c"/dev/null".as_ptr();
                check(libc::posix_spawn_file_actions_addopen(
                    raw,
                    *target,
                    path,
                    libc::O_RDWR,
                    0,
                ))?;
            }
            for (source, target) in request.descriptors {
                check(libc::posix_spawn_file_actions_adddup2(raw, source.as_raw_fd(), *target))?;
            }
            if let Some(directory) = request.directory {
                check(libc::posix_spawn_file_actions_addchdir_np(raw, directory.as_ptr()))?;
            }
        }
        Ok(actions)
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: a `FileActions` exists only after a successful init, and is destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(self.0.as_mut_ptr()) };
    }
}

struct Attributes(Box<MaybeUninit<libc::posix_spawnattr_t>>);

impl Attributes {
    fn new() -> Result<Self, i32> {
        let mut attributes = Box::new(MaybeUninit::uninit());
        // SAFETY: the place is valid for writing.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        let mut attributes = Self(attributes);
        let raw = attributes.0.as_mut_ptr();
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETPGROUP;
        let flags = c_short::try_from(flags).expect("the three flags are below 256");
        // SAFETY: `raw` was initialised above. A `sigset_t` is a set of bits in both libcs: all zero is the empty set.
        // All ones is every signal, those included that libc keeps for itself and that sigfillset would leave out (the
        // child would ignore them then); resetting one that cannot be reset is not an error to posix_spawn.
        unsafe {
            let none: libc::sigset_t = MaybeUninit::zeroed().assume_init();
            let mut every = none;
            ptr::write_bytes(&raw mut every, 0xff, 1);
            check(libc::posix_spawnattr_setsigmask(raw, &raw const none))?;
            check(libc::posix_spawnattr_setsigdefault(raw, &raw const every))?;
            check(libc::posix_spawnattr_setpgroup(raw, 0))?;
            check(libc::posix_spawnattr_setflags(raw, flags))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: an `Attributes` exists only after a successful init, and is destroyed once.
        unsafe { libc::posix_spawnattr_destroy(self.0.as_mut_ptr()) };
    }
}

/// A descriptor that stands for exactly this process, whatever becomes of its number.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers. The kernel sets close-on-exec on the new descriptor, which nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        let fd = RawFd::try_from(fd).expect("a descriptor or -1 fits an int");
        if fd < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }
}

/// Sends a signal; `false` if the process is gone.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<bool> {
    let no_info = ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is borrowed for the call; a null siginfo is allowed.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0) };
    sent(result == 0)
}

/// Sends a signal by number: to a process, or to a process group if `pid` is negative; 0 only asks. `false` if there
/// is none. The caller knows that the number is still that of its own, unreaped child.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<bool> {
    // SAFETY: the call takes two numbers.
    sent(unsafe { libc::kill(pid, signal) } == 0)
}

fn sent(ok: bool) -> io::Result<bool> {
    match Errno::last() {
        _ if ok => Ok(true),
        Errno::ESRCH => Ok(false),
        errno => Err(errno.into()),
    }
}

/// Whom to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whom<'a> {
    Pidfd(BorrowedFd<'a>),
    Pid(i32),
}

/// What `waitid` said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// It has not ended.
    Running,
    Exited {
        code: i32,
    },
    Signaled {
        signal: i32,
        core: bool,
    },
    /// Not a child of ours (any more): somebody else reaped it.
    Lost,
}

/// Looks without waiting and leaves the zombie where it is.
pub(crate) fn peek(whom: Whom<'_>) -> Waited {
    waitid(whom, libc::WNOHANG | libc::WNOWAIT)
}

/// Waits for the end and leaves the zombie where it is.
pub(crate) fn wait(whom: Whom<'_>) -> Waited {
    waitid(whom, libc::WNOWAIT)
}

/// Looks without waiting; from here on the number may belong to somebody else.
pub(crate) fn reap(whom: Whom<'_>) -> Waited {
    waitid(whom, libc::WNOHANG)
}

fn waitid(whom: Whom<'_>, flags: c_int) -> Waited {
    let (kind, id) = match whom {
        Whom::Pidfd(pidfd) => (libc::P_PIDFD, pidfd.as_raw_fd().unsigned_abs()),
        Whom::Pid(pid) => (libc::P_PID, pid.unsigned_abs()),
    };
    loop {
        // SAFETY: `info` is plain data for which all zero is a value (and the one that means "still running" here);
        // the kernel fills it for a child that ended, and only then are its fields read as those of SIGCHLD.
        let (result, pid, status, code) = unsafe {
            let mut info: libc::siginfo_t = MaybeUninit::zeroed().assume_init();
            let result = libc::waitid(kind, id, &raw mut info, libc::WEXITED | flags);
            (result, info.si_pid(), info.si_status(), info.si_code)
        };
        match (result, code) {
            (0, _) if pid == 0 => return Waited::Running,
            (0, libc::CLD_EXITED) => return Waited::Exited { code: status },
            (0, _) => {
                let core = code == libc::CLD_DUMPED;
                return Waited::Signaled { signal: status, core };
            }
            _ if Errno::last() == Errno::EINTR => {}
            // ECHILD; a kernel of our floor has no other error for these arguments.
            _ => return Waited::Lost,
        }
    }
}

/// Undoes an inherited "ignore" of `SIGCHLD`, under which the kernel reaps children by itself and their statuses are lost. A
/// handler that the program has set stays.
pub(crate) fn heed_children() {
    // SAFETY: all zero is the default action with an empty mask; both pointers are to live values of the right type; the
    // default action runs no code of this process.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        let read = libc::sigaction(libc::SIGCHLD, ptr::null(), &raw mut action);
        let keeps_no_status = action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0;
        if read == 0 && keeps_no_status {
            action = MaybeUninit::zeroed().assume_init();
            libc::sigaction(libc::SIGCHLD, &raw const action, ptr::null_mut());
        }
    }
}

/// Closes the descriptors `first..=last`. Nothing happens where the kernel or a filter refuses the call.
///
/// Only for a process that has not reached `main`: nothing in it owns a descriptor yet.
pub(super) fn close_range(first: u32, last: u32) {
    // SAFETY: the call takes three numbers; the only caller is the constructor, before any owner of a descriptor exists.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Is there a descriptor of this number? Somebody may have closed what a standard stream's handle stands for.
pub(crate) fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointer and changes nothing.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// This process's limits, soft and hard, by their numbers.
pub(crate) fn limits() -> [(u64, u64); 16] {
    std::array::from_fn(|resource| {
        let mut limit = [u64::MAX; 2];
        // SAFETY: no pid means this process, and the kernel writes two numbers to a place of that size. (Called by its number because
        // the types of the C function differ from libc to libc.) A limit that the kernel does not know stays unlimited.
        unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, ptr::null::<u64>(), limit.as_mut_ptr()) };
        (limit[0], limit[1])
    })
}

/// Sets one of them.
///
/// # Errors
/// The kernel's errno.
pub(super) fn set_limit(resource: usize, (soft, hard): (u64, u64)) -> Result<(), i32> {
    let limit = [soft, hard];
    // SAFETY: no pid means this process, and the kernel reads two numbers from a place of that size.
    match unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), ptr::null_mut::<u64>()) } {
        0 => Ok(()),
        _ => Err(Errno::last_raw()),
    }
}

/// A copy with a number of at least `lowest`, closed on exec.
pub(crate) fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is borrowed for the call; the new one is owned by nobody else.
    unsafe {
        let copy = libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest);
        if copy < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(copy))
        }
    }
}

/// An errno as people look it up: `ENOENT (No such file or directory)`.
pub(crate) fn errno_text(errno: i32) -> String {
    match Errno::from_raw(errno) {
        Errno::UnknownErrno => format!("errno {errno}"),
        known => format!("{known:?} ({})", known.desc()),
    }
}
