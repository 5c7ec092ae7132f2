//! The image this process runs, as a path that can be executed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;

use crate::model::{SpawnFailure, SpawnStep};

/// The kernel's link to the running image: good after the file was replaced or deleted, when the path it *shows* ends
/// in " (deleted)" or names a newer program (F-099).
const LINK: &str = "/proc/self/exe";

/// The path to execute for another process of this image.
pub(super) fn running() -> Result<OsString, SpawnFailure> {
    static AT_FIRST: OnceLock<Option<PathBuf>> = OnceLock::new();
    let at_first = AT_FIRST.get_or_init(|| std::env::current_exe().ok());
    if Path::new(LINK).exists() {
        return Ok(LINK.into());
    }
    match at_first {
        Some(path) if path.exists() => Ok(path.clone().into()),
        Some(_) | None => Err(SpawnFailure {
            step: SpawnStep::Exec,
            errno: Some(Errno::ENOENT as i32),
            detail: format!("cannot run this program again: {LINK} is missing; mount /proc"),
        }),
    }
}
