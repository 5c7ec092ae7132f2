//! Mapping a memory that two processes share, as words that may change at any time.
//!
//! Only the one who writes maps it; what the words mean is in [`crate::recorder`].

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::AtomicU64;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;

/// The words of this file in memory, for the rest of the process's life.
///
/// # Errors
/// `InvalidInput` for a file that is empty, or whose size may change; else what the kernel says.
pub(crate) fn map(file: &File) -> io::Result<&'static [AtomicU64]> {
    let seals = SealFlag::from_bits_retain(fcntl(file, FcntlArg::F_GET_SEALS)?);
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    if !seals.contains(SealFlag::F_SEAL_SHRINK) || len < size_of::<AtomicU64>() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is `len` bytes long, aligned to a page and never taken back, so the slice is valid for ever. The
    // file is sealed against shrinking, so every page of it stays there. Atomics may be changed by anybody at any time.
    Ok(unsafe { std::slice::from_raw_parts(start.cast::<AtomicU64>(), len / size_of::<AtomicU64>()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_size_may_change_is_not_mapped() {
        let file = nix::sys::memfd::memfd_create("test", nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let file = File::from(file);
        file.set_len(4096).unwrap();
        assert_eq!(map(&file).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
        assert_eq!(map(&file).unwrap().len(), 512);
        // Whatever descriptor somebody names: no seals, no mapping.
        let plain = File::open("/proc/self/exe").unwrap();
        assert!(map(&plain).is_err());
    }
}
