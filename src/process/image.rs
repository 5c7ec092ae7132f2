//! Programs as paths that can be executed: the image this process runs, and images that are held open.

use std::ffi::{CString, OsString};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat, stat};

use super::refusal::failure;
use super::spawn::c_string;
use crate::model::{SpawnFailure, SpawnStep};
use crate::sys::process::{duplicate_above, errno_text};

/// The kernel's link to the running image: good after the file was replaced or deleted, when the path it *shows* ends
/// in " (deleted)" or names a newer program (F-099).
const LINK: &str = "/proc/self/exe";

/// A program that is held open: what it is does not change when its file is replaced or deleted.
#[derive(Debug)]
pub(crate) struct Image {
    file: OwnedFd,
    /// The path that is good as long as it leads to this very file; none for this program itself, whose workers call
    /// themselves what they like.
    shown: Option<PathBuf>,
}

/// A program's path. Good for a start as long as this lives.
#[derive(Debug)]
pub(super) struct ImagePath {
    path: OsString,
    /// What the path leads to.
    _high: Option<OwnedFd>,
}

impl ImagePath {
    pub(super) const fn of(path: OsString) -> Self {
        Self { path, _high: None }
    }

    pub(super) fn to_c_string(&self) -> Result<CString, SpawnFailure> {
        c_string(&self.path, "the program's path")
    }
}

impl Image {
    /// Opens the file this program was started from, as it is on disk now.
    ///
    /// # Errors
    /// When there is no such file any more.
    pub(crate) fn on_disk() -> Result<Self, SpawnFailure> {
        let failed = |errno: Errno, what: String| SpawnFailure {
            step: SpawnStep::Exec,
            errno: Some(errno as i32),
            detail: format!("cannot open {what}: {}", errno_text(errno as i32)),
        };
        let Some(path) = at_first() else {
            return Err(failed(Errno::ENOENT, "this program's file".to_owned()));
        };
        let file = open_path(path).map_err(|errno| failed(errno, path.display().to_string()))?;
        Ok(Self { file, shown: None })
    }

    /// Opens a foreign program, as it is on disk now. `None` for a name that is looked up in `PATH`, and for what cannot
    /// be opened: the attempt to run it will tell why.
    pub(crate) fn foreign(path: &Path, directory: Option<&Path>) -> Option<Self> {
        if !path.as_os_str().as_bytes().contains(&b'/') {
            return None;
        }
        // The child changes its directory before it looks the program up.
        let shown = directory.map_or_else(|| path.to_owned(), |directory| directory.join(path));
        let file = open_path(&shown).ok()?;
        Some(Self {
            file,
            shown: Some(shown),
        })
    }

    /// A path that executes it, in this process and in a child that has its descriptors, but for those below `lowest`:
    /// there the child's own may have been put before it executes anything.
    ///
    /// A foreign program is executed by its own path while that leads to it, because the kernel names a process by the
    /// path. (If the file is replaced between this look and the start, that one worker runs the new one.)
    ///
    /// # Errors
    /// When there is no free descriptor.
    pub(super) fn path(&self, lowest: RawFd) -> Result<ImagePath, SpawnFailure> {
        if let Some(shown) = self.shown.as_ref().filter(|shown| self.is_at(shown)) {
            return Ok(ImagePath::of(shown.into()));
        }
        if self.is_script() {
            // Its interpreter opens the path once more, when the child's descriptors are closed: this process's are not.
            let (pid, fd) = (std::process::id(), self.file.as_raw_fd());
            return Ok(ImagePath::of(format!("/proc/{pid}/fd/{fd}").into()));
        }
        let high = duplicate_above(self.file.as_fd(), lowest).map_err(|error| {
            let what = "cannot duplicate the descriptor of the program";
            failure(SpawnStep::Channel, error.raw_os_error(), what)
        })?;
        Ok(ImagePath {
            path: format!("/proc/self/fd/{}", high.as_raw_fd()).into(),
            _high: Some(high),
        })
    }

    #[cfg(test)]
    pub(super) fn number(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// What people know it by.
    pub(super) fn name(&self) -> Option<&Path> {
        self.shown.as_deref().or_else(|| at_first())
    }

    fn is_at(&self, path: &Path) -> bool {
        match (fstat(&self.file), stat(path)) {
            (Ok(held), Ok(found)) => (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino),
            (Err(_), _) | (_, Err(_)) => false,
        }
    }

    fn is_script(&self) -> bool {
        let mut start = [0; 2];
        let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        // What cannot be read is no script: its interpreter could not read it either.
        std::fs::File::open(link).is_ok_and(|mut file| file.read_exact(&mut start).is_ok()) && start == *b"#!"
    }
}

fn open_path(path: &Path) -> nix::Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

/// The path this program was started from, remembered before its file can have been replaced.
pub(crate) fn at_first() -> Option<&'static Path> {
    static AT_FIRST: OnceLock<Option<PathBuf>> = OnceLock::new();
    AT_FIRST.get_or_init(|| std::env::current_exe().ok()).as_deref()
}

/// The path to execute for another process of this image.
pub(super) fn running() -> Result<ImagePath, SpawnFailure> {
    if Path::new(LINK).exists() {
        return Ok(ImagePath::of(LINK.into()));
    }
    match at_first() {
        Some(path) if path.exists() => Ok(ImagePath::of(path.into())),
        Some(_) | None => Err(SpawnFailure {
            step: SpawnStep::Exec,
            errno: Some(Errno::ENOENT as i32),
            detail: format!("cannot run this program again: {LINK} is missing; mount /proc"),
        }),
    }
}
