//! What the kernel tells: of one process and its threads, of a control group, of the sockets that listen, of the machine.
//! Reads, and judges nothing; the only room of this crate that opens `/proc` and `/sys`.
//!
//! Everything here may be unknown, and unknown is never zero: a file that is not there, not readable or not understood is
//! `None` (or empty, for a text that only people read). A process id is read by and never acted upon.

pub(crate) mod accept_queue;
pub(crate) mod group;
pub(crate) mod process;
pub(crate) mod thread;

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The text of a file of the kernel's, as far as the first [`LENGTH_MAX`] bytes.
fn text(path: impl AsRef<Path>) -> Option<String> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(LENGTH_MAX).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// These files have a few lines.
const LENGTH_MAX: u64 = 8 * 1024;
