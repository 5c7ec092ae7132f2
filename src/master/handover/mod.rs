//! The dispatcher: a thread of the master that accepts connections and hands them to workers, and finds new workers for
//! the connections of those that leave or die.
//!
//! `board` is the books, in which everything is decided together with the policies; `desk` carries it out; `door` accepts,
//! `line` listens to one worker, `orphans` judges what a dead one left behind. The thread has a runtime of its own, so that
//! a flood of connections and a storm of restarts do not delay each other. It starts when the first listener needs it.
//!
//! Not here: who is started or stopped, and the sockets themselves: the supervisor tells of both, one order each.

mod board;
#[cfg(test)]
mod board_tests;
mod desk;
mod dispatch;
mod door;
mod line;
#[cfg(test)]
mod line_tests;
mod orphans;
mod tally;

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::Notify;

pub(crate) use dispatch::{Attachment, Dispatch, Means};
pub(crate) use tally::Tally;

use crate::handover::Reserve;
use crate::master::Link;
use crate::model::{ListenKey, Slot, WorkerId};
use crate::policy::ListenerPolicy;

/// What the supervisor tells the dispatcher.
#[derive(Debug)]
pub(crate) enum Order {
    /// Accept on this socket.
    Open {
        key: ListenKey,
        socket: OwnedFd,
        policy: ListenerPolicy,
    },
    /// The listener is closed.
    Close { key: ListenKey },
    /// Pass on what waits in the queue of this socket, and close it.
    Empty { key: ListenKey, socket: OwnedFd },
    /// A worker was started.
    Born(Born),
    /// It stood by, and has a slot now.
    Promoted {
        worker: WorkerId,
        slot: Slot,
        probation: Duration,
    },
    /// It accepts on a listener.
    Accepts { worker: WorkerId, key: ListenKey },
    /// It has given a listener back.
    GaveBack { worker: WorkerId, key: ListenKey },
    /// It is told to stop, or said that it does.
    Leaves { worker: WorkerId },
    /// It is dead; it may have died of a request.
    Died { worker: WorkerId, is_suspect: bool },
    /// The whole cluster ends.
    Stopping,
    /// The cluster has ended.
    End,
}

/// A worker that was started.
#[derive(Debug)]
pub(crate) struct Born {
    pub(crate) link: Arc<Link>,
    /// The master's end of its hand-over socket.
    pub(crate) socket: OwnedFd,
    /// The listeners of its contract, in their order.
    pub(crate) listeners: Vec<Listed>,
    /// Why its connections do not survive it although they are to, as far as the master knows.
    pub(crate) unkept: Option<String>,
    /// For so long after its `listening` it gets no connections.
    pub(crate) probation: Duration,
}

/// A listener of a worker's contract.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) key: ListenKey,
    /// How often a request of it may begin, if that is bounded.
    pub(crate) max_runs: Option<u8>,
}

/// The supervisor's hold of the thread. Dropping it ends the thread.
#[derive(Debug)]
struct Dispatcher {
    /// Without a bound of its own: a few orders for each step of a worker's life, and the thread takes them first.
    orders: mpsc::Sender<Order>,
    bell: Arc<Notify>,
}

impl Dispatcher {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there can be no thread, or no descriptor for its runtime. Gives the means back.
    fn start(means: Means, reserve: Arc<Reserve>) -> Result<Self, (Means, io::Error)> {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return Err((means, error)),
        };
        let (orders, inbox) = mpsc::channel();
        let bell = Arc::new(Notify::new());
        let heard = Arc::clone(&bell);
        let thread = std::thread::Builder::new().name("dispatcher".to_owned());
        // The means are given to the running thread, so that they are not lost if there is none.
        let (hand_over, taken) = mpsc::sync_channel::<Means>(1);
        let started = thread.spawn(move || {
            let Ok(means) = taken.recv() else { return };
            let Means { news, tally, ended } = means;
            let local = tokio::task::LocalSet::new();
            let desk = Rc::new(desk::Desk::new(inbox, heard, news, tally, reserve));
            let serving = super::vital::vital("the dispatcher of connections", desk.run());
            local.block_on(&runtime, serving);
            // Whoever waited has gone.
            ended.send(()).ok();
        });
        match started {
            Ok(_) => hand_over
                .send(means)
                .map_err(|lost| (lost.0, io::ErrorKind::BrokenPipe.into()))?,
            Err(error) => return Err((means, error)),
        }
        Ok(Self { orders, bell })
    }

    /// Tells it something. A thread that has ended wants to know nothing.
    fn tell(&self, order: Order) {
        if self.orders.send(order).is_ok() {
            self.bell.notify_one();
        }
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.tell(Order::End);
    }
}
