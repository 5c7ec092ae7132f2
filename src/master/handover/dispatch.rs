//! The supervisor's way to the dispatcher, which is started when it is needed first: a cluster that hands nothing over has
//! no such thread.

use std::collections::BTreeMap;
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
use crate::model::WorkerId;

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
    known: BTreeMap<WorkerId, Known>,
    /// The same about the cluster.
    is_stopping: bool,
    reserve: Arc<Reserve>,
}

/// A living worker, as a dispatcher has to hear of it that starts later.
#[derive(Debug)]
struct Known {
    /// In a place of its own: there are thousands of these, and a map has room for more than it holds.
    born: Box<Born>,
    /// What has happened to it since, in order.
    since: Vec<Order>,
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
        for known in std::mem::take(&mut self.known).into_values() {
            started.tell(Order::Born(*known.born));
            for order in known.since {
                started.tell(order);
            }
        }
        if self.is_stopping {
            started.tell(Order::Stopping);
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
        match order {
            Order::Born(born) => {
                let id = born.link.id;
                let (born, since) = (Box::new(born), Vec::new());
                self.known.insert(id, Known { born, since });
            }
            Order::Died { worker, .. } => {
                self.known.remove(&worker);
            }
            Order::Stopping => self.is_stopping = true,
            // It is started before the first of these.
            Order::Open { .. } | Order::Close { .. } | Order::Empty { .. } | Order::End => {}
            Order::Promoted { worker, .. }
            | Order::Leaves { worker }
            | Order::Accepts { worker, .. }
            | Order::GaveBack { worker, .. } => {
                if let Some(known) = self.known.get_mut(&worker) {
                    known.heard(order);
                }
            }
        }
    }
}

impl Known {
    /// A listener that a worker takes and gives back again and again costs no more than one.
    fn heard(&mut self, order: Order) {
        if let Order::Accepts { key, .. } | Order::GaveBack { key, .. } = &order {
            let is_same = |known: &Order| matches!(known, Order::Accepts { key: on, .. } if on == key);
            self.since.retain(|known| !is_same(known));
        }
        if !matches!(order, Order::GaveBack { .. }) {
            self.since.push(order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::pair;
    use crate::ipc::{Calls, Limits, Outbox};
    use crate::model::{Generation, ListenKey, Slot};

    #[test]
    fn what_waits_for_a_dispatcher_is_bounded_by_the_workers_that_live() {
        let mut dispatch = Dispatch::default();
        let key = || ListenKey::Named("http".to_owned());
        for worker in (1..=3).map(WorkerId::new) {
            let (outbox, calls) = (Outbox::new(Limits::default()), Calls::new());
            let link = Link::new(worker, Slot::new("web", 0), Generation(0), 1, 0, outbox, calls);
            dispatch.tell(Order::Born(Born {
                link: Arc::new(link),
                socket: pair().unwrap().0,
                listeners: Vec::new(),
                unkept: None,
                probation: Duration::ZERO,
            }));
            for _ in 0..100 {
                dispatch.tell(Order::Accepts { worker, key: key() });
                dispatch.tell(Order::Accepts { worker, key: key() });
                dispatch.tell(Order::GaveBack { worker, key: key() });
            }
            dispatch.tell(Order::Accepts { worker, key: key() });
            dispatch.tell(Order::Leaves { worker });
        }
        dispatch.tell(Order::Died {
            worker: WorkerId::new(2),
            is_suspect: false,
        });
        dispatch.tell(Order::Leaves {
            worker: WorkerId::new(2),
        });
        assert_eq!(dispatch.known.keys().map(|id| id.get()).collect::<Vec<_>>(), [1, 3]);
        for known in dispatch.known.values() {
            let [Order::Accepts { key: on, .. }, Order::Leaves { .. }] = &known.since[..] else {
                panic!("{:?}", known.since);
            };
            assert_eq!(*on, key());
        }
    }
}
