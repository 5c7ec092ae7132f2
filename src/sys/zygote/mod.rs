//! The zygote: a process of this program that stands still before `main` and makes workers by copying itself.
//!
//! It waits in the constructor, so it has one thread and nothing of user code has run. For each request it does what can fail
//! (limits, directory), copies itself with `clone(CLONE_PARENT)`, so that the copy is a child of the *master*, and answers
//! with the number. The copy puts descriptors and environment where a worker finds them and returns from the constructor: from
//! there on it is a worker like any other, boot included. Not here: when there is a zygote, and what is asked of it.

pub(crate) mod wire;

use std::ffi::{CStr, c_char};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::BytesMut;
use nix::errno::Errno;
use nix::libc;
use serde::Deserialize;

use self::wire::{DIRECTORY, Limit, REQUEST_LEN_MAX, Reply, Unfit, VERSION, Wanted};
use super::boot::{CONTRACT_VARIABLE, close_others, exit_now};
use super::process::duplicate_above;
use super::scm::{self, ControlBuffer, FDS_MAX};
use crate::model::exit_code;

/// Descriptors of the zygote at its birth: the socket, and the memory for the number of the process it makes.
pub(crate) const SOCKET: RawFd = 3;
/// See [`SOCKET`].
pub(crate) const NOTE: RawFd = 4;

/// The contract of a zygote. A program of an older version takes it for a broken contract and ends, never for none.
pub(crate) fn contract() -> String {
    format!("{{\"zygote\":{{\"socket\":{SOCKET},\"note\":{NOTE}}}}}")
}

/// Where the zygote notes what it does, in a memory that the master can read when it does not answer any more: the number of
/// the request, and the process that was made for it. The kernel itself writes the latter, before the process runs.
pub(crate) const NOTE_LEN: usize = 8;

#[derive(Debug, Deserialize)]
struct Contract {
    zygote: Order,
}

#[derive(Debug, Deserialize)]
struct Order {
    socket: RawFd,
    note: RawFd,
}

/// In a zygote: works until the master is gone, and comes back in each worker only, whose environment is the worker's own by
/// then. In any other process: comes back at once.
pub(super) fn serve_if_one() {
    let Some(text) = std::env::var_os(CONTRACT_VARIABLE) else {
        return;
    };
    // What is no contract of a zygote is looked at by whoever reads contracts.
    if let Some(Contract { zygote }) = text.to_str().and_then(|text| serde_json::from_str(text).ok()) {
        serve(&zygote);
    }
}

fn serve(order: &Order) {
    let mut kept = [order.socket, order.note];
    kept.sort_unstable();
    close_others(&kept);
    end_with_the_master();
    // SAFETY: the pointer is to a C string; the kernel copies at most 15 bytes of it.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"zygote".as_ptr(), 0, 0, 0) };
    // SAFETY: the contract names two descriptors that were given to this process, which nothing else in it owns.
    let (socket, note) = unsafe { (OwnedFd::from_raw_fd(order.socket), OwnedFd::from_raw_fd(order.note)) };
    // Out of the way: what is received takes the lowest numbers, which are those that a worker's contract names.
    let socket = duplicate_above(socket.as_fd(), OUT_OF_THE_WAY).unwrap_or(socket);
    let prepared = Note::map(&note).and_then(|note| Ok((note, fitness()?)));
    drop(note);
    let (note, own) = match prepared {
        Ok(prepared) => prepared,
        Err(why) => {
            tell(socket.as_fd(), Reply::Unfit(why));
            exit_now(exit_code::BOOT_FAILED);
        }
    };
    tell(socket.as_fd(), Reply::Ready { version: VERSION });
    // For ever: a worker's environment lies in here.
    let packet = Box::leak(Box::new(BytesMut::with_capacity(REQUEST_LEN_MAX)));
    let mut control = ControlBuffer::new();
    loop {
        packet.clear();
        let fds = receive(socket.as_fd(), packet, &mut control);
        let Some(wanted) = Wanted::decode(packet) else {
            // It came from another world; the master notices the end.
            exit_now(exit_code::BOOT_FAILED);
        };
        let number = wanted.number;
        match prepare(&wanted, &fds).and_then(|()| note.copy_for(number, &own)) {
            Ok(Copied::Zygote { pid }) => tell(socket.as_fd(), Reply::Made { number, pid }),
            Ok(Copied::Worker) => {
                let fds = fds.into_iter().map(IntoRawFd::into_raw_fd).collect::<Vec<_>>();
                // Before its number can become another descriptor's.
                drop(socket);
                return become_worker(&wanted, &fds);
            }
            Err(errno) => tell(socket.as_fd(), Reply::Failed { number, errno }),
        }
        // The next worker gets a copy of this memory, and must not find another one's variables in it.
        packet.fill(0);
    }
}

/// Waits for the next request and returns its descriptors. The master's end is the zygote's.
fn receive(socket: BorrowedFd<'_>, packet: &mut BytesMut, control: &mut ControlBuffer) -> Vec<OwnedFd> {
    loop {
        let mut poll = libc::pollfd {
            fd: socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: poll gets one valid place.
        unsafe { libc::poll(&raw mut poll, 1, -1) };
        match scm::recv(socket, packet, REQUEST_LEN_MAX, control) {
            // Cut descriptors are missed when they are counted.
            Ok(received) if received.len > 0 => return received.fds,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => exit_now(exit_code::SUCCESS),
        }
    }
}

/// A master that does not read is gone, or ends its zygote.
fn tell(socket: BorrowedFd<'_>, reply: Reply) {
    let packet = reply.encode();
    if scm::send::<OwnedFd>(socket, &[io::IoSlice::new(&packet)], &[]).is_err() {
        exit_now(exit_code::SUCCESS);
    }
}

/// If the master died before this order, the end of its socket tells.
fn end_with_the_master() {
    // SAFETY: prctl takes two numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// What a copy needs to know of the original's thread.
#[derive(Debug)]
struct OwnThread {
    /// Where libc keeps the thread's number.
    tid: *mut libc::pid_t,
    robust_list: *const libc::c_void,
    robust_list_len: usize,
}

/// May this process be copied?
fn fitness() -> Result<OwnThread, Unfit> {
    let mut tid: *mut libc::pid_t = ptr::null_mut();
    let (mut robust_list, mut robust_list_len) = (ptr::null(), 0_usize);
    if !is_alone() {
        return Err(Unfit::Threads);
    }
    // SAFETY: prctl and get_robust_list write to valid places. The address, if the kernel has one, is where libc keeps the
    // number of this thread: the check says so.
    unsafe {
        let known = libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut tid) == 0;
        // With another libc the address is none of a number: musl has a lock there.
        if !IS_KNOWN_LIBC || !known || tid.is_null() || *tid != libc::gettid() {
            return Err(Unfit::ThreadNumber);
        }
        libc::syscall(
            libc::SYS_get_robust_list,
            0,
            &raw mut robust_list,
            &raw mut robust_list_len,
        );
    }
    Ok(OwnThread {
        tid,
        robust_list,
        robust_list_len,
    })
}

/// Has it one thread?
fn is_alone() -> bool {
    match std::fs::read_dir("/proc/self/task") {
        Ok(tasks) => tasks.count() == 1,
        // SAFETY: unshare takes a number, and does nothing but refuse for this flag. Only without /proc, because container runtimes
        // forbid the call altogether.
        Err(_) => unsafe { libc::unshare(libc::CLONE_THREAD) == 0 },
    }
}

/// The memory of [`NOTE_LEN`], which no copy has.
#[derive(Debug)]
struct Note {
    words: *const [AtomicU32; 2],
}

/// Which of the two one is after the copying.
enum Copied {
    Zygote { pid: i32 },
    Worker,
}

impl Note {
    fn map(file: &OwnedFd) -> Result<Self, Unfit> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours; madvise gets the same one.
        unsafe {
            let start = libc::mmap(ptr::null_mut(), NOTE_LEN, access, libc::MAP_SHARED, file.as_raw_fd(), 0);
            // A worker must not be able to write here: the master believes it.
            if start == libc::MAP_FAILED || libc::madvise(start, NOTE_LEN, libc::MADV_DONTFORK) != 0 {
                return Err(Unfit::Memory);
            }
            Ok(Self { words: start.cast() })
        }
    }

    /// Copies this process; the copy is a child of the master.
    ///
    /// # Errors
    /// The kernel's errno.
    fn copy_for(&self, number: u32, own: &OwnThread) -> Result<Copied, i32> {
        // SAFETY: the mapping is of two aligned words and is never taken back in the zygote.
        let [request, pid] = unsafe { &*self.words };
        pid.store(0, Ordering::SeqCst);
        request.store(number, Ordering::SeqCst);
        let flags =
            libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID | libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
        let same_stack = ptr::null_mut::<libc::c_void>();
        // Not clone3, which container runtimes forbid because a filter cannot see its flags.
        // SAFETY: without CLONE_VM and a new stack this is a fork: the copy has its own memory. There is one thread, so no lock
        // is held by another one, and no handler of a signal is set. The kernel writes the number to two places that live: to
        // the note, in the original, before the copy runs; and, in the copy, where libc keeps its thread's number. On half of
        // the architectures that place is the fourth argument and on half the fifth; the other one is not looked at without
        // CLONE_SETTLS.
        let made = unsafe {
            libc::syscall(
                libc::SYS_clone,
                libc::c_long::from(flags),
                same_stack,
                pid.as_ptr(),
                own.tid,
                own.tid,
            )
        };
        match made {
            0 => {
                // SAFETY: the list is that of this thread at the same address as in the original; the kernel forgets it in a copy.
                unsafe { libc::syscall(libc::SYS_set_robust_list, own.robust_list, own.robust_list_len) };
                Ok(Copied::Worker)
            }
            made if made > 0 => Ok(Copied::Zygote {
                pid: i32::try_from(made).unwrap_or(i32::MAX),
            }),
            _ => Err(Errno::last_raw()),
        }
    }
}

/// What can fail is done before the copying, so that the failure has a name: the copy inherits it.
fn prepare(wanted: &Wanted<'_>, fds: &[OwnedFd]) -> Result<(), i32> {
    if wanted.targets.len() != fds.len() {
        return Err(Errno::EMFILE as i32);
    }
    set_limits(&wanted.limits)?;
    let last_target = wanted.targets.iter().max().copied().unwrap_or(0);
    if u64::try_from(last_target).unwrap_or(0) >= wanted.limits[libc::RLIMIT_NOFILE as usize].0 {
        return Err(Errno::EMFILE as i32);
    }
    let start = wanted.targets.iter().position(|target| *target == DIRECTORY);
    // SAFETY: the descriptor is open and owned by `fds`; the text is a C string that lives.
    unsafe {
        if let Some(at) = start
            && libc::fchdir(fds[at].as_raw_fd()) != 0
        {
            return Err(Errno::last_raw());
        }
        if let Some(directory) = wanted.directory
            && libc::chdir(directory.as_ptr()) != 0
        {
            return Err(Errno::last_raw());
        }
    }
    Ok(())
}

/// The master's limits become this process's, as they would be those of a child of the master.
fn set_limits(limits: &[Limit]) -> Result<(), i32> {
    let own = super::process::limits();
    for (resource, wanted) in limits.iter().enumerate() {
        if own[resource] != *wanted {
            super::process::set_limit(resource, *wanted)?;
        }
    }
    Ok(())
}

/// In the copy: everything is put where `main`, and the boot before it, look for it.
fn become_worker(wanted: &Wanted<'_>, fds: &[RawFd]) {
    // SAFETY: setpgid takes two numbers; zero means this process.
    unsafe { libc::setpgid(0, 0) };
    // The zygote's own standard input and output are `/dev/null`.
    let nulls = wanted.null.iter().map(|target| (libc::STDIN_FILENO, *target));
    let placed = place(nulls).and_then(|()| {
        let pairs = fds.iter().copied().zip(wanted.targets.iter().copied());
        let pairs: Vec<_> = pairs.filter(|(_, target)| *target != DIRECTORY).collect();
        place(out_of_the_way(&pairs)?.into_iter())
    });
    if let Err(errno) = placed {
        // Nobody is left to tell if standard error is closed.
        writeln!(
            io::stderr(),
            "actix-cluster: the worker's descriptors cannot be placed: errno {errno}"
        )
        .ok();
        exit_now(exit_code::BOOT_FAILED);
    }
    for fd in &wanted.closed {
        // SAFETY: nothing in this process owns a standard stream; the worker is to have none here.
        unsafe { libc::close(*fd) };
    }
    set_environment(&wanted.environment);
}

/// Moves those sources up that lie where others are to be put.
fn out_of_the_way(pairs: &[(RawFd, RawFd)]) -> Result<Vec<(RawFd, RawFd)>, i32> {
    let lowest = pairs.iter().map(|(_, target)| *target + 1).max().unwrap_or(0);
    let move_up = |(source, target): &(RawFd, RawFd)| {
        let is_in_the_way = source != target && pairs.iter().any(|(_, other)| other == source);
        if !is_in_the_way {
            return Ok((*source, *target));
        }
        // SAFETY: F_DUPFD takes two numbers.
        let moved = unsafe { libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, lowest) };
        if moved < 0 {
            Err(Errno::last_raw())
        } else {
            Ok((moved, *target))
        }
    };
    pairs.iter().map(move_up).collect()
}

/// What is left of the sources is closed by the boot, with everything else that the contract does not name.
fn place(mut pairs: impl Iterator<Item = (RawFd, RawFd)>) -> Result<(), i32> {
    pairs.try_for_each(|(source, target)| {
        // SAFETY: dup2 takes two numbers; before `main` nothing in this process owns the target.
        if source == target || unsafe { libc::dup2(source, target) } >= 0 {
            Ok(())
        } else {
            Err(Errno::last_raw())
        }
    })
}

/// The texts lie in the packet, which is kept for ever.
fn set_environment(texts: &[&CStr]) {
    unsafe extern "C" {
        static mut environ: *const *const c_char;
    }
    let pointers = texts.iter().map(|text| text.as_ptr());
    let pointers: Vec<*const c_char> = pointers.chain(std::iter::once(ptr::null())).collect();
    // SAFETY: there is one thread, so nobody reads the environment meanwhile. The array ends with null and is never freed; the
    // texts are C strings in a buffer that is never freed either, and that nobody writes in this process any more.
    unsafe { environ = Vec::leak(pointers).as_ptr() };
}

/// The kernel's address of the thread's number is libc's own, and the arguments of `clone` come in a usual order.
const IS_KNOWN_LIBC: bool = cfg!(all(target_env = "gnu", not(target_arch = "s390x")));

/// Above what most workers' contracts name; if it is not, descriptors are moved.
const OUT_OF_THE_WAY: RawFd = 64;

// What rides on a packet has room in it.
const _: () = assert!(FDS_MAX > 3 && (OUT_OF_THE_WAY as usize) < FDS_MAX);
