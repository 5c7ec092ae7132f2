//! The worker is dead: every descriptor of the table is closed, but those of connections that others can serve go to the
//! master first.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::getpid;

use super::Keeper;
use super::post::{Rescued, borrow};
use super::table::{close_as_at_exit, listener_of, open_numbers};
use crate::clock;
use crate::handover::wire::IDS_MAX;
use crate::model::rescue::{Counted, Noted, Verdict, verdict};
use crate::sys::process::pidfd_open;
use crate::sys::socket::cookie;
use crate::sys::{peek, tcp};

/// A client's connection in the table.
struct Found {
    fd: RawFd,
    cookie: u64,
    listener: u32,
    noted: Option<Noted>,
}

/// Saves what can be saved. Nobody else uses the table any more: the worker's last thread has ended.
pub(super) fn save(keeper: Keeper) {
    let Keeper {
        worker,
        post,
        survivors,
        journal,
        patience,
    } = keeper;
    // The number is of no use any more, whatever it means by now, unless a client has it; and there may be no other for
    // the list of what is open.
    if listener_of(worker, &survivors).is_none() && worker != post.number() {
        close_as_at_exit(worker);
    }
    // User code has closed it: nobody can be told anything.
    if !post.is_there() {
        return;
    }
    // Its worker has done it, unless it was killed before it could. Who is not known is not reaped.
    if let Ok(own) = pidfd_open(getpid().as_raw()) {
        post.introduce(getpid().as_raw(), own.as_fd());
    }
    let mut found = Vec::new();
    for fd in open_numbers() {
        let client = listener_of(fd, &survivors).and_then(|listener| {
            let cookie = cookie(borrow(fd)).ok()?;
            let noted = journal.read(fd, cookie);
            // A listener that is noted, but is none, was noted by somebody who has the memory and should not.
            let known = |noted: &Noted| survivors.iter().any(|it| it.listener == noted.marks.listener());
            let listener = noted.filter(known).map_or(listener, |noted| noted.marks.listener());
            Some(Found {
                fd,
                cookie,
                listener,
                noted,
            })
        });
        match client {
            Some(client) => found.push(client),
            // At once, before anybody waits for a client: locks, connections to databases, listeners (whose queues the
            // master holds).
            None if fd != post.number() => close_as_at_exit(fd),
            None => {}
        }
    }
    // A copy of a descriptor is the same connection; the note is about one of them.
    found.sort_by_key(|client| (client.cookie, client.noted.is_none()));
    found.dedup_by(|copy, kept| {
        let is_copy = copy.cookie == kept.cookie;
        if is_copy {
            close_as_at_exit(copy.fd);
        }
        is_copy
    });
    let deadline = clock::now() + patience;
    let (mut saved, mut lost, mut unnoted) = (0, 0, Vec::new());
    for client in &found {
        match dispose(client) {
            Disposal::Send(what) if post.rescued(what, borrow(client.fd), deadline).is_ok() => saved += 1,
            Disposal::Send(_) | Disposal::Lost => {
                lost += 1;
                if client.noted.is_none() && unnoted.len() < IDS_MAX {
                    unnoted.push(client.cookie);
                }
            }
            Disposal::Ended => {}
        }
        close_as_at_exit(client.fd);
    }
    // A master that is gone, or does not read, learns it from the socket's end.
    post.done(saved, lost, &unnoted, clock::now() + LAST_WORD).ok();
}

enum Disposal {
    Send(Rescued),
    /// In order: nothing was owed to the client.
    Ended,
    Lost,
}

/// Judges a connection and brings it into the state that the verdict supposes.
fn dispose(client: &Found) -> Disposal {
    let socket = borrow(client.fd);
    let Ok(counted) = tcp::counted(socket) else {
        // Closed by the server, broken, or not to be judged.
        return Disposal::Ended;
    };
    let noted_strikes = client.noted.map_or(0, |noted| noted.marks.strikes());
    let rescued = |strikes, begun, repeatable| {
        // Whoever was given it already peeks for itself.
        if !client.noted.is_some_and(|noted| noted.marks.is_moving()) {
            tcp::forget_peeking(socket);
        }
        Disposal::Send(Rescued {
            listener: client.listener,
            strikes,
            begun,
            repeatable,
        })
    };
    match verdict(counted, client.noted) {
        Verdict::Serve { drain, strikes } => {
            throw_away(socket, drain);
            rescued(strikes, false, true)
        }
        Verdict::Again => rescued(noted_strikes, true, true),
        Verdict::Unanswered => rescued(noted_strikes, true, false),
        Verdict::End { drain } => {
            throw_away(socket, drain);
            end(client);
            Disposal::Ended
        }
        Verdict::Break => {
            break_off(client);
            let Counted { waiting, .. } = counted;
            let owed = client.noted.is_some_and(|noted| noted.marks.is_begun()) || waiting > 0;
            if owed { Disposal::Lost } else { Disposal::Ended }
        }
        Verdict::Leave => Disposal::Ended,
    }
}

/// The end that a client expects after the last answer. Whoever else has a copy of the socket, the master for one, must not
/// keep the client waiting: so it is shut down, not only closed.
fn end(client: &Found) {
    if client.noted.is_some() {
        shutdown(client.fd, Shutdown::Write).ok();
    }
}

/// Half an answer must not look whole. A connection without a note is only closed here: if the worker was killed while it
/// took it over, the master has a copy, and that one is good.
fn break_off(client: &Found) {
    if client.noted.is_some() {
        tcp::reset(borrow(client.fd));
    }
}

/// All that there is of so many bytes; what is missing never arrived.
fn throw_away(socket: BorrowedFd<'_>, bytes: u64) {
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
    while left > 0 {
        match peek::discard(socket, left) {
            Ok(0) => return,
            Ok(taken) => left -= taken.min(left),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The last word is one more.
const LAST_WORD: Duration = Duration::from_secs(1);
