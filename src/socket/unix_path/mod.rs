//! Binding Unix paths, and removing them again.
//!
//! The directory is opened once and everything is done relative to it. Its `flock` is held from the first look at the
//! path until the new socket listens: in between, a path that is bound but does not listen yet looks stale to others.
//! The directory is locked and not a `<path>.lock` beside the socket, because such a file could never be removed safely.
//!
//! Not here: who shares the socket ([`super::table`]).

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, open, openat};
use nix::poll::{PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::bind::{BoundSocket, backlog};
use super::{common_way_out, failed, refused};
use crate::model::{BoundAddress, ListenAddr, ListenError, ListenOptions};

/// Removes a socket file when it is dropped, if the path still leads to the very file that was made.
///
/// Drop it *before* the listener: as long as the socket listens, nobody who probes before unlinking replaces the file, so
/// none of another owner can slip in between the comparison and the removal.
#[derive(Debug)]
pub(crate) struct UnixPathGuard {
    directory: OwnedFd,
    name: OsString,
    identity: (u64, u64),
}

impl Drop for UnixPathGuard {
    fn drop(&mut self) {
        let now = fstatat(&self.directory, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        if now.is_ok_and(|stat| identity(&stat) == self.identity) {
            // A file that cannot be removed is found stale by the next owner; there is nobody left to tell.
            unlinkat(&self.directory, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir).ok();
        }
    }
}

/// `path` as seen from the working directory of the asking process, without `.` and doubled slashes.
///
/// # Errors
/// When it is relative and the working directory is not known.
pub(crate) fn absolute(path: &Path, cwd: Option<&Path>) -> Result<PathBuf, ListenError> {
    let joined = cwd.map_or_else(|| path.to_owned(), |cwd| cwd.join(path));
    if joined.is_relative() {
        let detail = "the path is relative and the working directory is not known; use an absolute path";
        return Err(refused(&ListenAddr::Unix(path.to_owned()), detail.to_owned()));
    }
    Ok(joined.components().collect())
}

/// How much longer a directory's lock may be waited for, in tries a millisecond apart. Each wait uses it up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience(u32);

impl Patience {
    /// For a start, which nobody but who started it waits for.
    pub(crate) const START: Self = Self(200);
    /// For everything that is asked for in one turn of the master, which supervises nobody meanwhile. Cooperative holders
    /// need microseconds.
    pub(crate) const TURN: Self = Self(10);

    #[cfg(test)]
    pub(crate) const fn is_left(self) -> bool {
        self.0 > 0
    }

    /// Waits a millisecond; false if it is used up.
    fn wait(&mut self) -> Result<bool, Errno> {
        let Some(left) = self.0.checked_sub(1) else {
            return Ok(false);
        };
        self.0 = left;
        match poll(&mut [], PollTimeout::from(1_u8)) {
            Ok(_) | Err(Errno::EINTR) => Ok(true),
            Err(errno) => Err(errno),
        }
    }
}

/// Binds the absolute `path` and listens on it.
///
/// A stale socket file of ours is replaced; the file of a living owner and anything that is no socket are left alone.
/// `mode` holds from the file's birth: bits it lacks are never there, and those the umask took away are back before
/// `listen`, thus before anybody can connect.
///
/// # Errors
/// When the path is taken or unusable, or the kernel refuses a step.
pub(crate) fn bind_unix(
    path: &Path,
    options: &ListenOptions,
    patience: &mut Patience,
) -> Result<(BoundSocket, UnixPathGuard), ListenError> {
    let place = Place::open(path, patience)?;
    place.clear_way()?;
    let mode = place.mode(options)?;
    let fd = place.new_socket()?;
    if let Some(mode) = mode {
        // The inode of an unbound socket lends its permission bits (less the umask) to the file that bind makes.
        fchmod(&fd, mode).map_err(|errno| place.failed("set the mode", errno))?;
    }
    let directory = place.second_directory()?;
    bind(fd.as_raw_fd(), &place.address()?).map_err(|errno| place.failed("bind", errno))?;
    let guard = place.guard(directory)?;
    if let Some(mode) = mode {
        place.complete_mode(mode, &guard)?;
    }
    listen(&fd, backlog(options)).map_err(|errno| place.failed("listen", errno))?;
    let address = BoundAddress::unix(path);
    Ok((BoundSocket { fd, address }, guard))
}

/// A path to bind, its directory open and locked.
struct Place<'a> {
    path: &'a Path,
    name: &'a OsStr,
    directory: Flock<OwnedFd>,
}

impl<'a> Place<'a> {
    fn open(path: &'a Path, patience: &mut Patience) -> Result<Self, ListenError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            let detail = "the path names no file; use one like /run/app/http.sock";
            return Err(refused(&unix(path), detail.to_owned()));
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(parent, flags, Mode::empty()).map_err(|errno| {
            let step = format!("open the directory {}", parent.display());
            let way_out = match errno {
                Errno::ENOENT => "create it first",
                Errno::EACCES => "it must be readable, for its lock",
                other => common_way_out(other),
            };
            failed(&unix(path), &step, errno, way_out)
        })?;
        let directory = lock(directory, patience).map_err(|errno| {
            let step = format!("lock the directory {}", parent.display());
            failed(
                &unix(path),
                &step,
                errno,
                "another process holds its flock; ask again when it is done",
            )
        })?;
        Ok(Self { path, name, directory })
    }

    /// Makes sure that nothing is at the path, by removing a stale socket of ours if need be.
    fn clear_way(&self) -> Result<(), ListenError> {
        let Some(found) = self.look()? else { return Ok(()) };
        let taken = |why: String| failed(&unix(self.path), "bind", Errno::EADDRINUSE, &why);
        if file_type(&found) != SFlag::S_IFSOCK {
            let what = match file_type(&found) {
                SFlag::S_IFREG => "a regular file",
                SFlag::S_IFDIR => "a directory",
                SFlag::S_IFLNK => "a symbolic link",
                _ => "no socket",
            };
            return Err(taken(format!(
                "the path is {what}, which is never replaced: remove it, or choose another path"
            )));
        }
        let probe = self.new_socket()?;
        match connect(probe.as_raw_fd(), &self.address()?) {
            Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::ECONNREFUSED) => {}
            Err(Errno::EACCES) => {
                let why =
                    "a socket is there and may not be probed: remove it if its owner is gone, or choose another path";
                return Err(taken(why.to_owned()));
            }
            // Connected, or the queue is full, or of another type: somebody is there.
            _ => {
                let why = "a living process listens on the path: stop it (`ss -xlp` shows it), or choose another path";
                return Err(taken(why.to_owned()));
            }
        }
        let euid = geteuid();
        if !euid.is_root() && found.st_uid != euid.as_raw() {
            let owner = found.st_uid;
            return Err(taken(format!(
                "a stale socket of user {owner} is there: remove it, or choose another path"
            )));
        }
        // A stranger who takes no lock may have replaced it since the probe.
        if self.look()?.is_some_and(|now| identity(&now) != identity(&found)) {
            return Err(taken("somebody else is binding the path right now".to_owned()));
        }
        match unlinkat(self.directory.as_fd(), self.name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove the stale socket", errno)),
        }
    }

    fn look(&self) -> Result<Option<FileStat>, ListenError> {
        match fstatat(self.directory.as_fd(), self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.failed("look at the path", errno)),
        }
    }

    /// The path itself where it fits into `sun_path`, because `ss` and the workers see what was bound; else a short
    /// way through the open directory.
    fn address(&self) -> Result<UnixAddr, ListenError> {
        let through_directory = || {
            let mut short = PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()));
            short.push(self.name);
            UnixAddr::new(&short)
        };
        let fits = self.path.as_os_str().len() <= PATH_BYTES_MAX;
        let address = if fits {
            UnixAddr::new(self.path)
        } else {
            through_directory()
        };
        address.map_err(|errno| {
            let way_out = match errno {
                Errno::ENAMETOOLONG => "the directory may be as deep as you like, but the file name must be shorter",
                _ => "a path contains no zero byte",
            };
            let step = format!("make an address of a file name of {} bytes", self.name.as_bytes().len());
            failed(&unix(self.path), &step, errno, way_out)
        })
    }

    fn mode(&self, options: &ListenOptions) -> Result<Option<Mode>, ListenError> {
        let Some(mode) = options.mode else { return Ok(None) };
        match Mode::from_bits(mode) {
            Some(bits) if mode <= 0o777 => Ok(Some(bits)),
            _ => {
                let detail = format!("mode {mode:#o} has more than permission bits; use 0o000 to 0o777");
                Err(refused(&unix(self.path), detail))
            }
        }
    }

    fn new_socket(&self) -> Result<OwnedFd, ListenError> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(|errno| self.failed("make a socket", errno))
    }

    /// The guard's descriptor, before there is a file to guard: afterwards nothing may fail that leaves the file behind.
    fn second_directory(&self) -> Result<OwnedFd, ListenError> {
        self.directory.try_clone().map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            self.failed("keep the directory open", errno)
        })
    }

    /// Guards the file that bind has just made: a socket, of our user, in the directory that was opened.
    fn guard(&self, directory: OwnedFd) -> Result<UnixPathGuard, ListenError> {
        match self.look()? {
            Some(stat) if file_type(&stat) == SFlag::S_IFSOCK && stat.st_uid == geteuid().as_raw() => {
                Ok(UnixPathGuard {
                    directory,
                    name: self.name.to_owned(),
                    identity: identity(&stat),
                })
            }
            Some(_) | None => Err(self.replaced()),
        }
    }

    /// Gives the file the bits back that the umask took away.
    fn complete_mode(&self, mode: Mode, guard: &UnixPathGuard) -> Result<(), ListenError> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(self.directory.as_fd(), self.name, flags, Mode::empty())
            .map_err(|errno| self.failed("open the new socket file", errno))?;
        let stat = fstat(&file).map_err(|errno| self.failed("look at the new socket file", errno))?;
        if identity(&stat) != guard.identity {
            return Err(self.replaced());
        }
        // By way of the descriptor: the path may lead elsewhere by now.
        let file_itself = format!("/proc/self/fd/{}", file.as_raw_fd());
        fchmodat(AT_FDCWD, file_itself.as_str(), mode, FchmodatFlags::FollowSymlink)
            .map_err(|errno| self.failed("complete the mode", errno))
    }

    fn replaced(&self) -> ListenError {
        let detail = "somebody has replaced the new socket file; use a directory that only the owner may write";
        refused(&unix(self.path), detail.to_owned())
    }

    fn failed(&self, step: &str, errno: Errno) -> ListenError {
        let way_out = match errno {
            Errno::EACCES | Errno::EPERM => "the directory must be writable for the master's user",
            Errno::EROFS => "the file system is read-only: choose a path under /run",
            other => common_way_out(other),
        };
        failed(&unix(self.path), step, errno, way_out)
    }
}

/// Takes the lock. A stranger who keeps it must not stop the master: there are as many tries as there is patience, and one.
fn lock(mut directory: OwnedFd, patience: &mut Patience) -> Result<Flock<OwnedFd>, Errno> {
    loop {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) => directory = back,
            Err((_, errno)) => return Err(errno),
        }
        if !patience.wait()? {
            return Err(Errno::EWOULDBLOCK);
        }
    }
}

fn unix(path: &Path) -> ListenAddr {
    ListenAddr::Unix(path.to_owned())
}

fn identity(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// `sun_path` has 108 bytes, one of them for the closing zero.
const PATH_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests;
