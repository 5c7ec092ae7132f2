//! The supervisor's way to the dispatcher, which is started when it is needed first: a cluster that hands nothing over has
//! no such thread.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use tokio::sync::oneshot;

use super::{Born, Dispatcher, Listed, Order, Tally};
use crate::handover::Reserve;
use crate::master::Link;
use crate::master::messages::Dispatched;

/// What the dispatcher is started with.
#[derive(Debug)]
pub(crate) struct Means {
    /// To whom it tells what happens.
    pub(crate) news: Recipient<Dispatched>,
    pub(crate) tally: Arc<Tally>,
    /// Resolves the other end when the thread has ended, or was never started.
    pub(crate) ended: oneshot::Sender<()>,
}

/// The master's part of a new worker's hand-over socket.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) socket: OwnedFd,
    /// The listeners of its contract, in their order.
    pub(crate) listeners: Vec<Listed>,
    /// For so long after its `listening` it stands beside its predecessor.
    pub(crate) probation: Duration,
    /// Is there a keeper beside it?
    pub(crate) has_keeper: bool,
    /// Why there is none although there should be.
    pub(crate) unkept: Option<String>,
}

/// The dispatcher, running or not.
#[derive(Debug, Default)]
pub(crate) struct Dispatch {
    means: Option<Means>,
    running: Option<Dispatcher>,
    /// While it does not run: what it has to know when it starts, about the workers that live then.
    known: Vec<Order>,
    reserve: Arc<Reserve>,
}

impl Dispatch {
    /// It can be started from now on.
    pub(crate) fn prepare(&mut self, means: Means) {
        self.means = Some(means);
    }

    /// Starts it, unless it runs.
    ///
    /// # Errors
    /// When there can be no thread, or no descriptor for its runtime; tried again at the next need.
    pub(crate) fn need(&mut self) -> io::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let Some(means) = self.means.take() else {
            return Err(io::Error::other("the cluster is not running"));
        };
        self.reserve.fill();
        let started = match Dispatcher::start(means, Arc::clone(&self.reserve)) {
            Ok(started) => started,
            Err((means, error)) => {
                self.means = Some(means);
                return Err(error);
            }
        };
        for order in self.known.drain(..) {
            started.tell(order);
        }
        self.running = Some(started);
        Ok(())
    }

    /// Descriptors that are kept for when there are no others, once it runs.
    pub(crate) fn reserve(&self) -> &Arc<Reserve> {
        &self.reserve
    }

    /// A worker exists.
    pub(crate) fn born(&mut self, link: &Arc<Link>, attachment: Attachment) {
        let Attachment {
            socket,
            listeners,
            probation,
            has_keeper,
            unkept,
        } = attachment;
        if (has_keeper || unkept.is_some())
            && let Err(err) = self.need()
        {
            tracing::error!(worker = link.id.get(), %err, "no dispatcher: connections do not survive this worker");
        }
        self.tell(Order::Born(Born {
            link: Arc::clone(link),
            socket,
            listeners,
            probation,
            unkept,
        }));
    }

    /// Tells it something, now or when it starts.
    pub(crate) fn tell(&mut self, order: Order) {
        match &self.running {
            Some(running) => running.tell(order),
            None => self.keep(order),
        }
    }

    fn keep(&mut self, order: Order) {
        match &order {
            Order::Died { worker, .. } => self.known.retain(|known| known.worker() != Some(*worker)),
            Order::GaveBack { worker, key } => {
                let is_same = |known: &Order| matches!(known, Order::Accepts { worker: of, key: on } if (of, on) == (worker, key));
                self.known.retain(|known| !is_same(known));
            }
            Order::Born(_) | Order::Promoted { .. } | Order::Leaves { .. } | Order::Stopping => self.known.push(order),
            Order::Accepts { worker, key } => {
                let is_same = |known: &Order| matches!(known, Order::Accepts { worker: of, key: on } if (of, on) == (worker, key));
                if !self.known.iter().any(is_same) {
                    self.known.push(order);
                }
            }
            // It is started before the first of these.
            Order::Open { .. } | Order::Close { .. } | Order::End => {}
        }
    }
}
