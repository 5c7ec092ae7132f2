//! What happens in a worker before `main`, and how a process ends without unwinding.
//!
//! A constructor (`.init_array`) takes the contract variable out of the environment while the process still has one
//! thread, closes what leaked in, drops privileges and, for foreign programs, executes the real program. What the
//! contract *means* is in [`crate::process::bootstrap`]; here only the part is read that must act this early.

use std::ffi::{CStr, CString};
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::libc;
use serde::Deserialize;

use super::keeper::Plan;
use super::process::{errno_text, is_open};
use crate::model::{BoundAddress, exit_code};

/// The one variable between master and child. `VARIABLE_C` is the same name for libc.
pub(crate) const CONTRACT_VARIABLE: &str = "ACTIX_CLUSTER_WORKER";
const VARIABLE_C: &CStr = c"ACTIX_CLUSTER_WORKER";

/// What the environment held.
#[derive(Debug)]
pub(crate) enum Captured {
    /// No variable: this process is a master (or an ordinary program).
    Absent,
    /// The contract's text; everything that must happen before `main` has happened.
    Text(String),
    /// A variable that is no contract: this process is neither master nor worker.
    Broken(String),
}

/// The part of the contract that acts before `main`.
#[derive(Debug, Deserialize)]
struct Order {
    channel: RawFd,
    #[serde(default)]
    handover: Option<RawFd>,
    listeners: Vec<Inherited>,
    /// Of a worker that stands by: what it gets with its slot.
    #[serde(default)]
    standby: Option<Vec<Awaited>>,
    #[serde(default)]
    keeper: bool,
    #[serde(default)]
    recorder: Option<RawFd>,
    uid: Option<u32>,
    gid: Option<u32>,
    shim: bool,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Inherited {
    fd: RawFd,
    #[serde(default)]
    survives: bool,
}

#[derive(Debug, Deserialize)]
struct Awaited {
    address: BoundAddress,
    #[serde(default)]
    survives: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    BeforeMain,
    /// The linker dropped the constructor: other threads may run, so nothing is closed and no user is changed.
    Late,
}

static CAPTURED: OnceLock<Captured> = OnceLock::new();

/// Descriptors named by the contract that nobody owns yet.
static UNCLAIMED: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

#[used]
// SAFETY: the section holds pointers to functions that libc calls with (argc, argv, envp) or without arguments; an
// `extern "C" fn()` may be called either way on every Linux ABI.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    // Comes back from a zygote only in the workers that it makes.
    super::zygote::serve_if_one();
    CAPTURED.get_or_init(|| capture(When::BeforeMain));
}

/// What the environment held when the process began. The variable is gone from the environment after the first call.
pub(crate) fn captured() -> &'static Captured {
    // The reference ties the constructor to this function, so that no linker drops one and keeps the other.
    std::hint::black_box(&BEFORE_MAIN);
    CAPTURED.get_or_init(|| capture(When::Late))
}

/// Takes ownership of a descriptor named by the contract; `None` if it is not one, or was taken already.
pub(crate) fn claim(fd: RawFd) -> Option<OwnedFd> {
    let mut unclaimed = UNCLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
    let at = unclaimed.iter().position(|candidate| *candidate == fd)?;
    unclaimed.swap_remove(at);
    // SAFETY: the list holds only descriptors that were open when the process began and were given to it by contract;
    // each leaves the list once, so this is the only owner.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs `hook` when the process ends through `exit` or a return from `main`. `false`: no memory for one more hook.
pub(crate) fn at_exit(hook: extern "C" fn()) -> bool {
    // SAFETY: `hook` is a function of this image, which is never unloaded before the process ends.
    unsafe { libc::atexit(hook) == 0 }
}

/// Ends the process at once: no destructors, no exit hooks.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

fn capture(when: When) -> Captured {
    let Some(value) = std::env::var_os(CONTRACT_VARIABLE) else {
        return Captured::Absent;
    };
    // SAFETY: before `main` no other thread exists that could read the environment. In the late case the caller is the
    // first thing a program does; that is the best that can be had without the constructor.
    unsafe { libc::unsetenv(VARIABLE_C.as_ptr()) };
    let Ok(text) = value.into_string() else {
        return Captured::Broken("its value is not UTF-8".to_owned());
    };
    let order: Order = match serde_json::from_str(&text) {
        Ok(order) => order,
        Err(error) => return Captured::Broken(format!("its value is no contract: {error}")),
    };
    match obey(&order, &text, when) {
        Ok(()) => Captured::Text(text),
        Err(message) => Captured::Broken(message),
    }
}

/// Errors are those of the contract; a failure of the process's set-up ends the process.
fn obey(order: &Order, text: &str, when: When) -> Result<(), String> {
    let mut kept: Vec<RawFd> = order.listeners.iter().map(|listener| listener.fd).collect();
    kept.push(order.channel);
    kept.extend(order.handover);
    kept.extend(order.recorder);
    kept.sort_unstable();
    if let Some(fd) = kept.iter().find(|fd| **fd <= libc::STDERR_FILENO || !is_open(**fd)) {
        return Err(format!("descriptor {fd}, which it names, is not open"));
    }
    if kept.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("it names a descriptor twice".to_owned());
    }
    let changes_user = order.uid.is_some() || order.gid.is_some() || order.shim;
    if when == When::Late && changes_user {
        // Never run with more privilege than asked.
        return Err("the constructor that changes the user did not run before main".to_owned());
    }
    if when == When::BeforeMain {
        close_others(&kept);
        reset_signal_mask();
        if let Err(message) = drop_privileges(order) {
            fail(order.channel, &message);
        }
        if order.shim {
            let message = execute_target(text);
            fail(order.channel, &message);
        }
        die_with_the_master(order.channel);
    }
    kept.iter().for_each(|fd| set_cloexec(*fd));
    set_name(order.name.as_deref());
    if let Some(handover) = order.handover.filter(|_| order.keeper) {
        start_keeper(handover, order, when);
    }
    *UNCLAIMED.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    Ok(())
}

/// Until the worker watches its channel, the kernel ends it together with the thread that started it: user code before
/// `run` may take as long as it likes, and must not outlive the master. The thread that starts workers is the one that
/// supervises them, so as long as the cluster lives it does. After the change of user, which would take the order back.
fn die_with_the_master(channel: RawFd) {
    let hung_up = libc::POLLHUP | libc::POLLERR;
    let mut poll = libc::pollfd {
        fd: channel,
        events: 0,
        revents: 0,
    };
    // SAFETY: prctl takes two numbers; poll gets one valid place and does not wait.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::poll(&raw mut poll, 1, 0);
    }
    // The master may have died before the order was given; its end of the channel says so.
    if poll.revents & hung_up != 0 {
        exit_now(exit_code::SUCCESS);
    }
}

/// A worker without a keeper is better than none: its clients get the guarantee that there is without one.
fn start_keeper(handover: RawFd, order: &Order, when: When) {
    let listeners: Vec<_> = order.listeners.iter().map(|it| (it.fd, it.survives)).collect();
    let awaited = order.standby.iter().flatten();
    let awaited: Vec<_> = awaited.map(|it| (it.address.socket_addr(), it.survives)).collect();
    let started = match when {
        When::BeforeMain => super::keeper::start(&Plan {
            handover,
            listeners: &listeners,
            awaited: &awaited,
        }),
        When::Late => Err("the constructor did not run before main, so there may be threads".to_owned()),
    };
    if let Err(why) = started {
        super::keeper::tell_missing(handover, &why);
    }
}

/// From here on the worker sees to its end itself, and drains first.
pub(crate) fn outlive_the_master() {
    // SAFETY: prctl takes two numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0) };
}

fn set_cloexec(fd: RawFd) {
    // SAFETY: F_SETFD takes no pointer; the descriptor was given to this process by contract.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// Closes every descriptor above 2 that is not in `kept` (sorted): another thread of the master may have opened one
/// without close-on-exec during the spawn, and a leaked copy of a channel hides a death (no end-of-file).
pub(super) fn close_others(kept: &[RawFd]) {
    let mut first = libc::STDERR_FILENO.unsigned_abs() + 1;
    for fd in kept.iter().map(|fd| fd.unsigned_abs()) {
        if fd > first {
            super::process::close_range(first, fd - 1);
        }
        first = fd + 1;
    }
    super::process::close_range(first, u32::MAX);
}

fn reset_signal_mask() {
    nix::sys::signal::SigSet::empty().thread_set_mask().ok();
}

/// The process was executed through a link, so the kernel calls it `exe`; people want to see its name.
fn set_name(name: Option<&str>) {
    let own = || {
        let first = command_line().into_iter().next()?;
        let start = first
            .as_bytes()
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |at| at + 1);
        CString::new(&first.as_bytes()[start..]).ok()
    };
    if let Some(name) = name.and_then(|name| CString::new(name).ok()).or_else(own) {
        // SAFETY: the pointer is to a C string; the kernel copies at most 15 bytes of it.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
    }
}

/// The arguments as the kernel knows them: std's are not there yet before `main` on every libc.
fn command_line() -> Vec<CString> {
    let bytes = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let whole = bytes.strip_suffix(b"\0").unwrap_or_default();
    if bytes.is_empty() {
        return Vec::new();
    }
    let parts = whole.split(|byte| *byte == 0);
    parts.filter_map(|part| CString::new(part).ok()).collect()
}

/// Groups first, the user last: after the user is changed, nothing else may be.
fn drop_privileges(order: &Order) -> Result<(), String> {
    if order.uid.is_none() && order.gid.is_none() {
        return Ok(());
    }
    // SAFETY: these calls take numbers only (setgroups a null pointer with length 0), and no other thread exists whose
    // credentials would have to follow.
    let is_or_was_root = unsafe {
        let was_root = libc::geteuid() == 0;
        if libc::setgroups(0, std::ptr::null()) != 0 && (was_root || Errno::last() != Errno::EPERM) {
            return Err(last_error("setgroups([])"));
        }
        if let Some(gid) = order.gid
            && libc::setresgid(gid, gid, gid) != 0
        {
            return Err(last_error(&format!("setresgid({gid})")));
        }
        if let Some(uid) = order.uid
            && libc::setresuid(uid, uid, uid) != 0
        {
            return Err(last_error(&format!("setresuid({uid})")));
        }
        was_root || libc::geteuid() == 0
    };
    if !is_or_was_root {
        drop_capabilities()?;
    }
    verify_ids(order)
}

/// The kernel takes them from root that becomes somebody else. An ordinary user who was given some keeps them, whoever it becomes,
/// and could change the user once more.
fn drop_capabilities() -> Result<(), String> {
    let mut header = CapabilitiesOf {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let none = [0_u32; 6];
    // SAFETY: prctl takes numbers; capset reads six words in this version of the header, which is writable because the kernel
    // tells there the version it knows.
    unsafe {
        let (all, unused): (_, libc::c_ulong) = (libc::PR_CAP_AMBIENT_CLEAR_ALL, 0);
        if libc::prctl(libc::PR_CAP_AMBIENT, all, unused, unused, unused) != 0 {
            return Err(last_error("clearing the ambient capabilities"));
        }
        if libc::syscall(libc::SYS_capset, &raw mut header, none.as_ptr()) != 0 {
            return Err(last_error("capset([])"));
        }
    }
    Ok(())
}

/// The kernel's `__user_cap_header_struct`.
#[repr(C)]
struct CapabilitiesOf {
    version: u32,
    /// 0: this process.
    pid: libc::c_int,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two times three words.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

fn verify_ids(order: &Order) -> Result<(), String> {
    let (mut real, mut effective, mut saved) = (0, 0, 0);
    // SAFETY: getres*id write to three valid places each; setres*id take numbers only.
    unsafe {
        libc::getresuid(&raw mut real, &raw mut effective, &raw mut saved);
        if order.uid.is_some_and(|uid| [real, effective, saved] != [uid; 3]) {
            return Err(format!("the user is {real}/{effective}/{saved} after the change"));
        }
        let is_root = effective == 0;
        libc::getresgid(&raw mut real, &raw mut effective, &raw mut saved);
        if order.gid.is_some_and(|gid| [real, effective, saved] != [gid; 3]) {
            return Err(format!("the group is {real}/{effective}/{saved} after the change"));
        }
        if order.uid.is_some_and(|uid| uid != 0) && libc::setresuid(u32::MAX, 0, u32::MAX) == 0 {
            return Err("the user could become root again after the change".to_owned());
        }
        let left_group = order.gid.is_some_and(|gid| gid != 0);
        if left_group && !is_root && libc::setresgid(u32::MAX, 0, u32::MAX) == 0 {
            return Err("the group could become root's again after the change".to_owned());
        }
    }
    Ok(())
}

/// Executes the foreign program named by this process's own arguments, under the new user and with a contract that no
/// longer asks for a change. Returns only to tell why it could not.
fn execute_target(text: &str) -> String {
    let Some(contract) = without_boot_orders(text) else {
        return "the contract could not be passed on".to_owned();
    };
    let arguments = command_line();
    let Some(program) = arguments.first() else {
        return "the program's name cannot be read: /proc is not mounted".to_owned();
    };
    let mut pointers: Vec<*const libc::c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: both strings and the null-terminated array of strings live until the calls return; no other thread
    // exists that could read the environment meanwhile.
    unsafe {
        if libc::setenv(VARIABLE_C.as_ptr(), contract.as_ptr(), 1) != 0 {
            return last_error("setenv");
        }
        libc::execvp(program.as_ptr(), pointers.as_ptr());
    }
    last_error(&format!("cannot run {program:?}"))
}

fn without_boot_orders(text: &str) -> Option<CString> {
    let mut contract: serde_json::Value = serde_json::from_str(text).ok()?;
    let fields = contract.as_object_mut()?;
    fields.insert("shim".to_owned(), false.into());
    fields.remove("uid");
    fields.remove("gid");
    CString::new(contract.to_string()).ok()
}

fn last_error(what: &str) -> String {
    format!("{what}: {}", errno_text(Errno::last_raw()))
}

/// Says why on standard error and on the channel, and ends the process with the code of a boot failure.
fn fail(channel: RawFd, message: &str) -> ! {
    // Nobody is left to tell if standard error is closed.
    writeln!(
        std::io::stderr(),
        "actix-cluster: the worker could not be set up: {message}"
    )
    .ok();
    let text = serde_json::Value::from(message);
    let frame = format!("{{\"t\":\"failed\",\"m\":{text}}}\n");
    // SAFETY: pointer and length are those of `frame`. The result is of no use: the process ends here.
    unsafe {
        libc::send(
            channel,
            frame.as_ptr().cast(),
            frame.len(),
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
    exit_now(exit_code::BOOT_FAILED)
}
