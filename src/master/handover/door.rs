//! Accepting on one listener, for workers that get its connections handed over.

use std::cell::Cell;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::desk::Desk;
use super::orphans::Connection;
use crate::model::{Client, ListenKey};
use crate::socket::accept_error::{AcceptErrorAction, accept_error_action};
use crate::sys::reactor::register;

/// The desk's hold of a door.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) key: ListenKey,
    bell: Rc<Bell>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Bell {
    ring: Notify,
    /// Nothing is accepted, because there is nobody to take it.
    is_resting: Cell<bool>,
}

impl Door {
    /// Opens it, on the thread of the dispatcher.
    pub(super) fn open(desk: &Rc<Desk>, key: ListenKey, socket: OwnedFd) -> io::Result<Self> {
        let socket = Listening::new(socket)?;
        let bell = Rc::new(Bell::default());
        let task = tokio::task::spawn_local(serve(Rc::clone(desk), key.clone(), socket, Rc::clone(&bell)));
        let task = task.abort_handle();
        Ok(Self { key, bell, task })
    }

    /// Looks again whether something is wanted.
    pub(super) fn ring(&self, is_urgent: bool) {
        if is_urgent || self.bell.is_resting.get() {
            self.bell.ring.notify_one();
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A listening socket, twice: the runtime waits on one number, and std accepts on the other.
struct Listening {
    events: AsyncFd<OwnedFd>,
    socket: Socket,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        let events = register(socket.try_clone()?, Interest::READABLE)?;
        let family = getsockname::<SockaddrStorage>(socket.as_raw_fd())?.family();
        let socket = if family == Some(AddressFamily::Unix) {
            let socket = UnixListener::from(socket);
            socket.set_nonblocking(true)?;
            Socket::Unix(socket)
        } else {
            let socket = TcpListener::from(socket);
            socket.set_nonblocking(true)?;
            Socket::Tcp(socket)
        };
        Ok(Self { events, socket })
    }

    fn accept(&self) -> io::Result<(Connection, Client)> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                Ok((Connection::fresh(stream.into()), Client::new(Some(peer))))
            }
            Socket::Unix(socket) => {
                let (stream, _) = socket.accept()?;
                Ok((Connection::fresh(stream.into()), Client::default()))
            }
        }
    }
}

/// How a turn of accepting ended.
enum Turn {
    /// There may be more.
    Cut,
    /// The kernel's queue is empty.
    Empty,
    /// Another attempt would only repeat the error.
    Failed,
}

async fn serve(desk: Rc<Desk>, key: ListenKey, socket: Listening, bell: Rc<Bell>) {
    loop {
        while !desk.wants(&key) {
            bell.is_resting.set(true);
            bell.ring.notified().await;
            bell.is_resting.set(false);
        }
        if desk.is_sweeping(&key) {
            // Asks the kernel and not the runtime: a connection may be queued although its event is not delivered yet.
            if let Turn::Empty | Turn::Failed = turn(&desk, &key, &socket) {
                desk.swept(&key);
            }
            continue;
        }
        let ready = tokio::select! {
            ready = socket.events.readable() => ready,
            () = bell.ring.notified() => continue,
        };
        let Ok(mut ready) = ready else { return };
        match turn(&desk, &key, &socket) {
            Turn::Cut => ready.retain_ready(),
            Turn::Empty => ready.clear_ready(),
            Turn::Failed => {
                ready.retain_ready();
                tokio::time::sleep(PAUSE).await;
            }
        }
        tokio::task::yield_now().await;
    }
}

fn turn(desk: &Rc<Desk>, key: &ListenKey, socket: &Listening) -> Turn {
    for _ in 0..TURN_MAX {
        if !desk.wants(key) {
            return Turn::Cut;
        }
        match socket.accept() {
            Ok((connection, client)) => desk.arrived(key, connection, client),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Empty,
            Err(error) => match accept_error_action(error.raw_os_error()) {
                AcceptErrorAction::TakeNext => {}
                AcceptErrorAction::PauseAll | AcceptErrorAction::PauseListener => {
                    tracing::warn!(what = %key, err = %error, "the master cannot accept, trying again in 500 ms");
                    return Turn::Failed;
                }
            },
        }
    }
    Turn::Cut
}

/// Takes everything out of a socket's queue and closes it, at once: what comes in between is reset.
pub(super) fn empty(key: &ListenKey, socket: OwnedFd, mut take: impl FnMut(Connection, Client)) {
    // Of what is accepted on only TCP has a socket for each slot.
    let socket = TcpListener::from(socket);
    for _ in 0..EMPTY_MAX {
        match socket.accept() {
            Ok((stream, peer)) => take(Connection::fresh(stream.into()), Client::new(Some(peer))),
            Err(error) => match accept_error_action(error.raw_os_error()) {
                AcceptErrorAction::TakeNext => {}
                AcceptErrorAction::PauseAll | AcceptErrorAction::PauseListener => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::warn!(what = %key, err = %error, "connections of a slot that is gone are lost");
                    }
                    return;
                }
            },
        }
    }
}

/// Connections that are taken out of a queue which is closed: as many as the longest usual queue (`somaxconn`) holds.
const EMPTY_MAX: usize = 4096;
/// Connections accepted on one listener before others get their turn.
const TURN_MAX: usize = 64;
/// How long accepting rests after an error that another attempt would only repeat.
const PAUSE: Duration = Duration::from_millis(500);
