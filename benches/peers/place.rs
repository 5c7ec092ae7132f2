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
        let path = std::env::temp_dir().join(format!("peers-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Somebody who is being killed may still write there; the folder of temporary files is swept by others.
        std::fs::remove_dir_all(&self.path).ok();
    }
}
