//! The flight recorder: a small memory that a worker writes notes to and its master reads, above all after its death.
//!
//! `format` is the layout, `writer` the worker's side of it, `reader` the master's; here is the memory itself. Who notes what,
//! and what becomes of the record, is decided in `worker` and `master`. The invariant: the master never maps the memory. It
//! copies it out with an ordinary read, and trusts no byte of the copy.

mod format;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};

use crate::model::FlightRecord;
use crate::sys::ring;

pub(crate) use writer::{Noted, Recorder};

/// The master's end: one file in memory for each worker, closed with this.
#[derive(Debug)]
pub(crate) struct Recording {
    file: File,
    len: usize,
}

impl Recording {
    /// Makes a memory of so many bytes, rounded up to whole pages. Its size can never change: what the worker has mapped stays
    /// there, and what the master reads is as long as it was.
    ///
    /// # Errors
    /// Of the kernel: no descriptor, no memory, a limit on the size of files.
    pub(crate) fn create(bytes: usize) -> io::Result<Self> {
        let len = bytes.next_multiple_of(PAGE);
        // Growing a file beyond this limit would end the master with SIGXFSZ.
        let (file_size_max, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
        if file_size_max < len as u64 {
            return Err(Errno::EFBIG.into());
        }
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        // Newer kernels want to be told that nothing in it is ever executed, and may refuse it otherwise; older ones do not
        // know the flag.
        let memory = memfd_create(NAME, flags | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL));
        let memory = memory.or_else(|_| memfd_create(NAME, flags))?;
        let file = File::from(memory);
        file.set_len(len as u64)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Self { file, len })
    }

    /// What the worker has noted so far; `None` if it does not know of the memory, as a foreign program.
    pub(crate) fn look(&self) -> Option<FlightRecord> {
        // The worker may write meanwhile: first a copy, then the checks.
        let mut copy = vec![0; self.len];
        self.file.read_exact_at(&mut copy, 0).ok()?;
        reader::read(&copy)
    }
}

impl AsFd for Recording {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Takes up the memory that this process was born with. It stays mapped until the process ends.
///
/// # Errors
/// It is no such memory, or cannot be mapped.
pub(crate) fn take_up(memory: OwnedFd) -> io::Result<Recorder<'static>> {
    let words = ring::map(&File::from(memory))?;
    Recorder::begin(words).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The bytes of a page on every architecture with pages as small as that; where they are larger, the kernel rounds up.
const PAGE: usize = 4096;
/// As it appears in `/proc/PID/fd`.
const NAME: &str = "actix-cluster-flight";
/// `MFD_NOEXEC_SEAL`, from Linux 6.3 on.
const MFD_NOEXEC_SEAL: u32 = 0x8;
