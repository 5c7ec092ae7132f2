//! Why a process could not be started, in words, and what can be refused before trying.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, access, getegid, geteuid, getgid, getuid};

use crate::model::{SpawnFailure, SpawnStep, bounded};
use crate::sys::process::errno_text;

/// A failure with the errno's text and, where there is one, the way out.
pub(crate) fn failure(step: SpawnStep, errno: Option<i32>, what: &str) -> SpawnFailure {
    let mut detail = what.to_owned();
    if let Some(errno) = errno {
        detail = format!("{detail}: {}{}", errno_text(errno), way_out(step, errno));
    }
    let detail = bounded(detail);
    SpawnFailure { step, errno, detail }
}

/// `posix_spawn` tells only the errno: whether it was the directory or the program is looked up afterwards.
pub(super) fn exec_failure(errno: i32, path: &Path, directory: Option<&Path>) -> SpawnFailure {
    let file_error = matches!(
        Errno::from_raw(errno),
        Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP | Errno::ENAMETOOLONG
    );
    if let Some(directory) = directory.filter(|directory| file_error && !can_enter(directory)) {
        let what = format!("cannot change to the working directory {directory:?}");
        return failure(SpawnStep::Exec, Some(errno), &what);
    }
    let found = directory.map_or_else(|| path.to_owned(), |directory| directory.join(path));
    let mut refused = failure(SpawnStep::Exec, Some(errno), &format!("cannot run {path:?}"));
    let is_bare = !path.as_os_str().as_bytes().contains(&b'/');
    if is_bare && file_error {
        refused
            .detail
            .push_str("; no directory in PATH has it, or one of them may not be searched");
    } else if errno == Errno::ENOENT as i32 && found.exists() {
        refused
            .detail
            .push_str("; it exists, but the interpreter or loader it names does not");
    }
    refused
}

fn can_enter(directory: &Path) -> bool {
    directory.is_dir() && access(directory, AccessFlags::X_OK).is_ok()
}

fn way_out(step: SpawnStep, errno: i32) -> &'static str {
    match Errno::from_raw(errno) {
        Errno::EAGAIN => "; the limit of processes is reached: raise RLIMIT_NPROC (ulimit -u), TasksMax or pids.max",
        Errno::ENOMEM => "; no memory for a process: start fewer workers or raise the memory limit",
        Errno::EMFILE => "; the master's limit of descriptors is reached: raise RLIMIT_NOFILE (ulimit -n)",
        // What F_DUPFD says when the lowest wanted number is above the limit.
        Errno::EINVAL if matches!(step, SpawnStep::Channel | SpawnStep::Pipes) => {
            "; the limit of descriptors (RLIMIT_NOFILE, ulimit -n) is too low"
        }
        Errno::ENFILE => "; the system's limit of open files is reached: raise fs.file-max",
        Errno::E2BIG => "; arguments and environment are too large together: pass large values in a file",
        Errno::EACCES => "; is it executable, and may this user search every directory above it?",
        Errno::ETXTBSY => "; it is open for writing: replace programs by rename",
        Errno::ENOEXEC => "; it is no program for this machine; a script needs \"#!\" in its first line",
        _ => "",
    }
}

/// The kernel's limits, checked before the fork: 32 pages for one string; a quarter of the stack limit, at most 6 MiB
/// and at least 128 KiB, for all of them with their pointers.
pub(super) fn check_size(arguments: &[CString], environment: &[CString]) -> Result<(), SpawnFailure> {
    let too_big = |detail: String| SpawnFailure {
        step: SpawnStep::Settings,
        errno: Some(Errno::E2BIG as i32),
        detail: format!("{detail}; pass large values in a file"),
    };
    let mut total = 0;
    for string in arguments.iter().chain(environment) {
        let size = string.as_bytes_with_nul().len();
        if size > STRING_SIZE_MAX {
            let shown: String = string.to_string_lossy().chars().take(40).collect();
            return Err(too_big(format!(
                "E2BIG: one argument or variable of {size} bytes is above the kernel's {STRING_SIZE_MAX}: {shown:?}..."
            )));
        }
        total += size + size_of::<usize>();
    }
    let stack = getrlimit(Resource::RLIMIT_STACK).map_or(u64::MAX, |(soft, _)| soft);
    let limit = usize::try_from((stack / 4).clamp(128 * 1024, 6 * 1024 * 1024)).unwrap_or(usize::MAX);
    if total > limit {
        return Err(too_big(format!(
            "E2BIG: arguments and environment take {total} bytes, the kernel allows {limit}"
        )));
    }
    Ok(())
}

/// The kernel's 32 pages, for the smallest pages there are.
const STRING_SIZE_MAX: usize = 32 * 4096;

/// N-015: an unprivileged master learns it here, not from a worker that fails to boot.
pub(super) fn forbidden_user(uid: Option<u32>, gid: Option<u32>) -> Option<SpawnFailure> {
    let refuse = |what: &str, id: u32, capability: &str| {
        let what = format!("cannot run a worker as {what} {id}");
        let mut refused = failure(SpawnStep::Settings, Some(Errno::EPERM as i32), &what);
        refused.detail.push_str("; this needs root or ");
        refused.detail.push_str(capability);
        refused
    };
    let is_own_uid = |uid: u32| uid == getuid().as_raw() && uid == geteuid().as_raw();
    let is_own_gid = |gid: u32| gid == getgid().as_raw() && gid == getegid().as_raw();
    if let Some(gid) = gid.filter(|gid| !is_own_gid(*gid) && !has_capability(CAP_SETGID)) {
        return Some(refuse("group", gid, "CAP_SETGID"));
    }
    let uid = uid.filter(|uid| !is_own_uid(*uid) && !has_capability(CAP_SETUID))?;
    // Without the second a worker could still be asked to end, and not be made to.
    Some(refuse("user", uid, "CAP_SETUID and CAP_KILL"))
}

const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// Root without capabilities is as weak as anybody, and a service manager may give one capability to an ordinary user.
fn has_capability(bit: u32) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return geteuid().is_root();
    };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << bit) != 0)
}
