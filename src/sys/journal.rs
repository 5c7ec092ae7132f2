//! The journal: what a worker notes about each of its connections, in memory that outlives it.
//!
//! One entry for each number of a descriptor. The worker writes it before it acts; the keeper, which was cloned with the
//! mapping, reads it when the worker is dead. What the notes mean is in [`crate::model::rescue`].
//!
//! The order of the stores is the point: whatever prefix of them has happened when a kill falls, the verdict is right.

use std::io;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;

use crate::model::rescue::{Marks, Noted, UNKNOWN_END};

/// The journal of this process. Descriptors whose number is too high have no entry, and are served without one.
#[derive(Debug)]
pub(crate) struct Journal {
    entries: &'static [Place],
}

/// One connection; a line of the processor's cache, so that two connections never share one.
#[derive(Debug)]
#[repr(C, align(64))]
struct Place {
    start: AtomicU64,
    end: AtomicU64,
    boundary: AtomicU64,
    marks: AtomicU64,
    /// Which connection a note is about that may outlive its descriptor here: the kernel's number of the socket.
    cookie: AtomicU64,
}

/// The note about one open connection. Dropping it takes the note away: *before* the descriptor is closed, because its
/// number may be another connection's at once.
#[derive(Debug)]
#[must_use = "the note is taken away when this is dropped"]
pub(crate) struct Entry {
    place: &'static Place,
}

static JOURNAL: OnceLock<Journal> = OnceLock::new();

/// The journal, if this process has a keeper that would read it.
pub(crate) fn journal() -> Option<&'static Journal> {
    JOURNAL.get()
}

impl Journal {
    /// Maps the memory: 64 bytes for each descriptor, of which only those that are used cost anything.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn map(descriptors: usize) -> io::Result<Self> {
        let len = descriptors.clamp(1, ENTRIES_MAX) * size_of::<Place>();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping is `len` bytes long, aligned to a page, full of zeros and never taken back, so the slice is
        // valid for ever. Atomics may be changed by anybody at any time.
        let entries = unsafe { std::slice::from_raw_parts(start.cast::<Place>(), len / size_of::<Place>()) };
        Ok(Self { entries })
    }

    /// From now on the worker's serving path finds it: there is a keeper.
    pub(super) fn publish(self) {
        // Called once, by the constructor; a second journal would have no reader.
        JOURNAL.set(self).ok();
    }

    /// Notes a connection of which so much was written and consumed before: nothing, unless another worker had it.
    /// `None` if its number is beyond the journal.
    pub(crate) fn open(&self, fd: RawFd, listener: u32, strikes: u8, written: u64, consumed: u64) -> Option<Entry> {
        let place = self.place(fd)?;
        place.start.store(written, Ordering::Release);
        place.end.store(written, Ordering::Release);
        place.boundary.store(consumed, Ordering::Release);
        place
            .marks
            .store(Marks::opened(listener, strikes).word(), Ordering::Release);
        Some(Entry { place })
    }

    /// What is noted about this descriptor, which is that of the socket with this number of the kernel's.
    pub(crate) fn read(&self, fd: RawFd, cookie: u64) -> Option<Noted> {
        let place = self.place(fd)?;
        let marks = Marks::from_word(place.marks.load(Ordering::Acquire));
        // The number may be another connection's by now, which nobody has noted yet.
        let is_it = !marks.is_moving() || place.cookie.load(Ordering::Acquire) == cookie;
        (marks.is_used() && is_it).then(|| Noted {
            start: place.start.load(Ordering::Acquire),
            end: place.end.load(Ordering::Acquire),
            boundary: place.boundary.load(Ordering::Acquire),
            marks,
        })
    }

    fn place(&self, fd: RawFd) -> Option<&'static Place> {
        usize::try_from(fd).ok().and_then(|at| self.entries.get(at))
    }
}

impl Entry {
    /// The whole head of a request is about to be given to the server: its bytes, not one of them consumed.
    pub(crate) fn begin(&self, is_repeatable: bool) {
        self.mark(|marks| marks.begun(is_repeatable));
    }

    /// Is about to take bytes of a request out of the socket that is not answered yet: it is too long to be kept there.
    /// After [`begin`](Self::begin), which has said that it is not repeatable.
    pub(crate) fn consuming(&self) {
        self.place.boundary.store(u64::MAX, Ordering::Release);
    }

    /// Is about to write a part of an answer that other writes will complete.
    pub(crate) fn writing_part(&self) {
        self.no_interim();
        self.place.end.store(UNKNOWN_END, Ordering::Release);
    }

    /// Is about to write interim responses, up to this count of the connection's bytes: no part of the answer, and the next
    /// worker may repeat them.
    pub(crate) fn writing_interim(&self, end: u64) {
        self.mark(|marks| marks.interim(true));
        self.place.end.store(end, Ordering::Release);
    }

    /// They are written.
    pub(crate) fn wrote_interim(&self, written: u64) {
        self.place.start.store(written, Ordering::Release);
        self.place.end.store(written, Ordering::Release);
        self.no_interim();
    }

    fn no_interim(&self) {
        if self.marks().is_interim() {
            self.mark(|marks| marks.interim(false));
        }
    }

    /// Is about to write what completes the answer: `end` is the connection's count of written bytes after it,
    /// `boundary` that of received bytes at the end of the request. `is_last`: the connection ends after it.
    pub(crate) fn completing(&self, end: u64, boundary: u64, is_last: bool) {
        self.no_interim();
        self.place.end.store(end, Ordering::Release);
        self.place.boundary.store(boundary, Ordering::Release);
        if is_last {
            self.mark(Marks::last);
        }
    }

    /// The answer is written, the request's bytes are consumed, up to this count of the connection's, and the next request
    /// may come. Not for the connection's last answer: then the note stays as it is, so that nobody serves on. An answer that
    /// came before the end of its request was noted as the last until here.
    pub(crate) fn answered(&self, consumed: u64) {
        self.place.boundary.store(consumed, Ordering::Release);
        self.mark(Marks::answered);
        let end = self.place.end.load(Ordering::Relaxed);
        self.place.start.store(end, Ordering::Release);
    }

    /// Is about to give the connection, whose number in the kernel is `cookie`, to somebody else. From here on nobody breaks
    /// it off for what this process knows of it.
    pub(crate) fn moving(&self, cookie: u64) {
        self.place.cookie.store(cookie, Ordering::Release);
        self.mark(|marks| marks.moving(true));
    }

    /// It was not taken, and is this process's as before.
    pub(crate) fn stays(&self) {
        self.mark(|marks| marks.moving(false));
    }

    /// From here on the bytes are none that could be judged: encrypted, upgraded, or consumed before they are answered.
    pub(crate) fn opaque(&self) {
        self.mark(Marks::opaque);
    }

    fn marks(&self) -> Marks {
        Marks::from_word(self.place.marks.load(Ordering::Relaxed))
    }

    fn mark(&self, change: impl FnOnce(Marks) -> Marks) {
        self.place.marks.store(change(self.marks()).word(), Ordering::Release);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // The note about one that is somebody else's stays, with the name of its socket: without it a descriptor that is not
        // closed yet would be one that was used and of which nobody knows anything.
        if !self.marks().is_moving() {
            self.place.marks.store(0, Ordering::Release);
        }
    }
}

/// Descriptors beyond this number are served without a note: four MiB of addresses, none of them touched in vain.
const ENTRIES_MAX: usize = 65_536;
