//! Where things are: this folder, what is installed into it, its results, and scratch folders that are removed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The folder of the peers, in the tree that this program was built from.
pub(crate) fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

/// Where a peer is installed; ignored by git.
pub(crate) fn prefix(folder: &str) -> PathBuf {
    here().join(".installed").join(folder)
}

/// The folder in which this process has its scratch folders.
fn scratch_root() -> PathBuf {
    std::env::temp_dir().join(format!("peers-{}", std::process::id()))
}

/// Removes what is left of all scratch folders, also of a start that was interrupted.
pub(crate) fn clean() {
    // There may be none.
    std::fs::remove_dir_all(scratch_root()).ok();
}

/// A folder of its own for one start of one target; removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new one.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn new() -> std::io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = scratch_root().join(number.to_string());
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Somebody who is being killed may still write there; `clean` comes later.
        std::fs::remove_dir_all(&self.path).ok();
    }
}
