//! The image this process runs, as a path that can be executed.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::model::{SpawnFailure, SpawnStep};
use crate::sys::process::errno_text;

/// The kernel's link to the running image: good after the file was replaced or deleted, when the path it *shows* ends
/// in " (deleted)" or names a newer program (F-099).
const LINK: &str = "/proc/self/exe";

/// A program image that is held open: what it is does not change when its file is replaced or deleted.
#[derive(Debug)]
pub(crate) struct Image(OwnedFd);

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
        open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map(Self)
            .map_err(|errno| failed(errno, path.display().to_string()))
    }

    /// A path that executes it, in this process and in a child that has its descriptors.
    pub(super) fn path(&self) -> OsString {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// The path this program was started from, remembered before its file can have been replaced.
pub(crate) fn at_first() -> Option<&'static Path> {
    static AT_FIRST: OnceLock<Option<PathBuf>> = OnceLock::new();
    AT_FIRST.get_or_init(|| std::env::current_exe().ok()).as_deref()
}

/// The path to execute for another process of this image.
pub(super) fn running() -> Result<OsString, SpawnFailure> {
    if Path::new(LINK).exists() {
        return Ok(LINK.into());
    }
    match at_first() {
        Some(path) if path.exists() => Ok(path.into()),
        Some(_) | None => Err(SpawnFailure {
            step: SpawnStep::Exec,
            errno: Some(Errno::ENOENT as i32),
            detail: format!("cannot run this program again: {LINK} is missing; mount /proc"),
        }),
    }
}
