//! The listeners of the cluster and who accepts on them: the socket room's table and its serving decision, tied to the
//! channels of the workers.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::handover::Reserve;
use crate::ipc::{BoundListener, ToWorker};
use crate::master::Link;
use crate::master::handover::{Attachment, Dispatch, Means, Order as Dispatching};
use crate::master::messages::Wish;
use crate::model::{
    BoundAddress, ListenAddr, ListenError, ListenKey, ListenOptions, Payload, Scheduling, Secret, Slot, WorkerId,
};
use crate::policy::{ListenerPolicy, policy_of};
use crate::socket::serving::{Order, Serving};
use crate::socket::table::{Handout, Holder, ListenerTable, Place};
use crate::sys::counting::{self, Counting};
use crate::sys::peek;

/// Every listening socket of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    /// How connections of TCP listeners are spread that do not say it themselves.
    default: Option<Scheduling>,
    table: ListenerTable,
    serving: Serving,
    /// Names of the declared listeners, in the order of the builder.
    names: Vec<String>,
    /// Listeners of which each slot has a socket of its own.
    per_worker: HashSet<ListenKey>,
    /// Orders to adopt that failed for want of a descriptor: carried out at the next occasion, which is the next attempt to
    /// start the slot's worker at the latest.
    postponed: Vec<(ListenKey, Slot, WorkerId)>,
    /// Where to send orders to.
    links: HashMap<WorkerId, Arc<Link>>,
    dispatch: Dispatch,
    /// Policies of the user's own, for declared listeners.
    policies: HashMap<ListenKey, ListenerPolicy>,
    /// Listeners on which the master accepts.
    doors: HashSet<ListenKey>,
    /// What the workers of a listener share.
    secrets: HashMap<ListenKey, Secret>,
    seed: u64,
    /// Why connections do not survive their workers although they are to, if this kernel cannot tell how far they came.
    uncounted: Option<String>,
    is_probed: bool,
}

/// Can this kernel not tell how far a connection came? Then a keeper would only guess.
fn uncounted() -> Option<String> {
    if let Err(err) = peek::probe() {
        tracing::warn!(%err, "requests cannot be kept in this kernel (Linux 6.9 can): of a killed worker's connections only unread ones are saved");
    }
    match counting::probe() {
        Counting::Exact => None,
        Counting::Wrong(why) => {
            let why = format!("this kernel does not count the bytes of TCP connections: {why}");
            tracing::warn!(
                err = why,
                "connections do not survive their workers, nobody could tell how far they came"
            );
            Some(why)
        }
        Counting::Unknown(why) => {
            tracing::debug!(%why, "whether this kernel counts the bytes of TCP connections was not found out");
            None
        }
    }
}

impl Listening {
    /// No listener yet. `policy` is the value of [`POLICY_VARIABLE`].
    pub(crate) fn new(policy: Option<&OsStr>) -> Self {
        Self {
            default: policy.and_then(scheduling_named),
            ..Self::default()
        }
    }

    /// Binds a declared listener, before the first worker is started.
    pub(crate) fn declare(
        &mut self,
        name: &str,
        address: &ListenAddr,
        options: &ListenOptions,
        policy: Option<&ListenerPolicy>,
    ) -> Result<BoundAddress, ListenError> {
        let bound = self.table.declare(name, address, &self.settled(address, options))?;
        self.names.push(name.to_owned());
        // Once, before the first worker.
        if options.survive_kill && !std::mem::replace(&mut self.is_probed, true) {
            self.uncounted = uncounted();
        }
        let policy = policy.map(|policy| (ListenKey::Named(name.to_owned()), Arc::clone(policy)));
        self.policies.extend(policy);
        Ok(bound)
    }

    /// Why no worker gets a keeper, if none would do any good.
    pub(crate) fn uncounted(&self) -> Option<&str> {
        self.uncounted.as_deref()
    }

    /// The cluster begins: connections of declared listeners are accepted where the master does so. `seed` is for policies
    /// that draw lots.
    ///
    /// # Errors
    /// When the dispatcher cannot be started.
    pub(crate) fn begin(&mut self, means: Means, seed: u64) -> Result<(), ListenError> {
        self.dispatch.prepare(means);
        self.seed = seed;
        for name in self.names.clone() {
            self.open_door(&ListenKey::Named(name))?;
        }
        Ok(())
    }

    /// The declared listeners' sockets for a worker about to be started in `slot`, which gets those with such a name.
    pub(crate) fn hand_out_declared(
        &mut self,
        slot: &Slot,
        gets: impl Fn(&str) -> bool,
    ) -> Result<Vec<(String, Handout)>, ListenError> {
        let names: Vec<String> = self.names.iter().filter(|name| gets(name)).cloned().collect();
        let mut handouts = Vec::with_capacity(names.len());
        for name in names {
            let handout = self.table.hand_out(&name, slot)?;
            // At once: its socket gets connections already, whatever becomes of the next one.
            self.opened(&handout, slot);
            handouts.push((name, handout));
        }
        Ok(handouts)
    }

    /// Duplicates of the sockets that a successor of this program could go on with, by name.
    pub(crate) fn keepable(&self) -> Result<Vec<(String, OwnedFd)>, ListenError> {
        self.table.keepable()
    }

    /// Where those of the declared listeners are that have such a name, for a worker that has no slot yet.
    pub(crate) fn declared_places(&self, gets: impl Fn(&str) -> bool) -> Vec<(String, Place)> {
        let place = |name: &String| Some((name.clone(), self.table.place(&ListenKey::Named(name.clone()))?));
        self.names.iter().filter(|name| gets(name)).filter_map(place).collect()
    }

    /// Descriptors that are kept for when there are no others.
    pub(crate) fn reserve(&self) -> &Arc<Reserve> {
        self.dispatch.reserve()
    }

    /// A worker exists: orders can reach it, and connections through `handover`.
    pub(crate) fn born(&mut self, link: &Arc<Link>, handover: Option<Attachment>) {
        if let Some(attachment) = handover {
            self.dispatch.born(link, attachment);
        }
        self.links.insert(link.id, Arc::clone(link));
    }

    /// Answers a worker that asked for a listener.
    pub(crate) fn answer(&mut self, link: &Link, wish: &Wish) -> Result<(), ListenError> {
        let Wish {
            request,
            key,
            cwd,
            options,
        } = wish;
        let options = match key {
            ListenKey::Asked { address, .. } => self.settled(address, options),
            ListenKey::Named(_) => options.clone(),
        };
        let (answer, fds, result) = match self.acquire(key, cwd.as_deref(), &options, holder(link)) {
            Ok(handout) => {
                let Handout {
                    key,
                    fd,
                    address,
                    scheduling,
                    ..
                } = handout;
                let handed = scheduling.hands_over();
                (Ok(BoundListener { key, address, handed }), vec![fd], Ok(()))
            }
            Err(error) => (Err(error.clone()), Vec::new(), Err(error)),
        };
        send(link, &ToWorker::Bound { id: *request, answer }, fds);
        result
    }

    fn acquire(
        &mut self,
        key: &ListenKey,
        cwd: Option<&Path>,
        options: &ListenOptions,
        holder: Holder<'_>,
    ) -> Result<Handout, ListenError> {
        if options.scheduling == Some(Scheduling::Custom) {
            return Err(ListenError {
                address: key.to_string(),
                errno: None,
                detail: "a policy of your own is for a declared listener: `listen` and `schedule` in the builder"
                    .to_owned(),
            });
        }
        let handout = self.table.acquire(key, cwd, options, holder)?;
        if let Err(error) = self.open_door(&handout.key) {
            if self.table.release(&handout.key, holder) {
                self.closed(&handout.key);
            }
            return Err(error);
        }
        self.opened(&handout, holder.slot);
        Ok(handout)
    }

    /// Accepts on the listener, if that is the master's to do and is not done yet.
    fn open_door(&mut self, key: &ListenKey) -> Result<(), ListenError> {
        if self.doors.contains(key) {
            return Ok(());
        }
        let Some(socket) = self.table.socket_to_accept_on(key)? else {
            return Ok(());
        };
        let own = self.policies.get(key).cloned();
        let scheduling = self.table.scheduling(key);
        let Some(policy) = own.or_else(|| policy_of(scheduling?, self.seed)) else {
            return Ok(());
        };
        self.dispatch.need().map_err(|error| ListenError {
            address: key.to_string(),
            errno: error.raw_os_error(),
            detail: format!("cannot start the thread that hands connections over: {error}"),
        })?;
        let key = key.clone();
        self.doors.insert(key.clone());
        self.dispatch.tell(Dispatching::Open { key, socket, policy });
        Ok(())
    }

    /// Answers a worker that asked for a listener which its spec does not get.
    pub(crate) fn refuse(link: &Link, wish: &Wish) -> Result<(), ListenError> {
        Self::deny(link, wish, not_given(link))
    }

    /// Answers a worker that asked for a listener, and has no slot that it could be for.
    pub(crate) fn put_off(link: &Link, wish: &Wish) -> Result<(), ListenError> {
        let why = "this worker stands by and has no slot; ask again when it is activated";
        Self::deny(link, wish, why.to_owned())
    }

    fn deny(link: &Link, wish: &Wish, detail: String) -> Result<(), ListenError> {
        let error = ListenError {
            address: wish.key.to_string(),
            errno: None,
            detail,
        };
        let answer = Err(error.clone());
        let id = wish.request;
        send(link, &ToWorker::Bound { id, answer }, Vec::new());
        Err(error)
    }

    /// Answers a worker that asked what the workers of `key` share. What is offered first is shared for as long as there is
    /// the listener.
    pub(crate) fn share_secret(&mut self, link: &Link, id: u64, key: ListenKey, offered: Secret, may_know: bool) {
        let answer = if !may_know {
            Err(not_given(link))
        } else if self.table.scheduling(&key).is_none() {
            Err(format!("there is no listener {key}"))
        } else if !offered.is_bounded() {
            Err(format!("a secret has 1 to {} bytes", Secret::LEN_MAX))
        } else {
            Ok(&*self.secrets.entry(key).or_insert(offered))
        };
        let answer = answer.map(|secret| Payload::from_value(secret).expect("bytes have a JSON form"));
        send(link, &ToWorker::Reply { id, answer }, Vec::new());
    }

    /// A worker that stood by has this slot now.
    pub(crate) fn promoted(&mut self, worker: WorkerId, slot: Slot, probation: Duration) {
        self.dispatch.tell(Dispatching::Promoted {
            worker,
            slot,
            probation,
        });
    }

    /// A worker accepts on `key`, which is news: the dispatcher keeps what it is told, and a worker may make listeners up
    /// without end.
    pub(crate) fn takes(&mut self, worker: WorkerId, key: &ListenKey) {
        let key = key.clone();
        self.dispatch.tell(Dispatching::Accepts { worker, key });
    }

    /// A worker accepts on `key`, perhaps as before.
    pub(crate) fn accepts(&mut self, link: &Link, key: &ListenKey, adopts: bool) {
        if self.per_worker.contains(key) {
            let orders = self.serving.worker_listening(key, link.slot(), link.id, adopts);
            self.carry_out(orders);
        }
    }

    /// A worker gave a listener back.
    pub(crate) fn gave_back(&mut self, link: &Link, key: &ListenKey) {
        let (worker, on) = (link.id, key.clone());
        self.dispatch.tell(Dispatching::GaveBack { worker, key: on });
        let orders = self.serving.worker_unlistened(key, link.id);
        self.carry_out(orders);
        if self.table.release(key, holder(link)) {
            self.closed(key);
        }
    }

    /// A worker accepts nothing any more: it drains, or it is dead.
    pub(crate) fn leaves(&mut self, worker: WorkerId) {
        self.dispatch.tell(Dispatching::Leaves { worker });
        let orders = self.serving.worker_leaving(worker);
        self.carry_out(orders);
    }

    /// The whole cluster ends.
    pub(crate) fn stopping(&mut self) {
        self.dispatch.tell(Dispatching::Stopping);
    }

    /// A worker is dead; `is_suspect`: a request may have been its death.
    pub(crate) fn died(&mut self, worker: WorkerId, is_suspect: bool) {
        self.dispatch.tell(Dispatching::Died { worker, is_suspect });
        self.leaves(worker);
        if let Some(link) = self.links.remove(&worker) {
            self.table.died(holder(&link));
        }
    }

    /// A slot is gone for good: what only it held is closed.
    pub(crate) fn slot_gone(&mut self, slot: &Slot) {
        for key in self.table.release_slot(slot) {
            self.closed(&key);
        }
        let orders = self.serving.slot_gone(slot);
        self.carry_out(orders);
    }

    /// Workers ask for listeners from here on in one turn.
    pub(crate) fn begin_turn(&mut self) {
        self.table.begin_turn();
    }

    /// The cluster is down: every socket is closed and every path removed.
    pub(crate) fn close_all(&mut self) {
        self.dispatch.tell(Dispatching::End);
        self.table.close_all();
    }

    fn settled(&self, address: &ListenAddr, options: &ListenOptions) -> ListenOptions {
        let scheduling = match address {
            ListenAddr::Tcp(_) | ListenAddr::AnyHost { .. } => options.scheduling.or(self.default),
            // There is only one way.
            ListenAddr::Unix(_) | ListenAddr::Fd(_) => options.scheduling,
            // Node's rule: shared, whatever the policy for connections is.
            ListenAddr::Udp(_) | ListenAddr::UdpFd(_) => options.scheduling,
        };
        ListenOptions {
            scheduling,
            ..options.clone()
        }
    }

    /// A slot's own socket exists: until its worker listens, a sibling serves its queue.
    fn opened(&mut self, handout: &Handout, slot: &Slot) {
        if handout.scheduling == Scheduling::PerWorker {
            self.per_worker.insert(handout.key.clone());
            let orders = self.serving.socket_opened(&handout.key, slot);
            self.carry_out(orders);
        }
    }

    fn closed(&mut self, key: &ListenKey) {
        self.per_worker.remove(key);
        self.secrets.remove(key);
        if self.doors.remove(key) {
            self.dispatch.tell(Dispatching::Close { key: key.clone() });
        }
        let orders = self.serving.listener_closed(key);
        self.carry_out(orders);
    }

    fn carry_out(&mut self, orders: Vec<Order>) {
        for (key, slot, by) in std::mem::take(&mut self.postponed) {
            self.adopt(key, slot, by);
        }
        for order in orders {
            match order {
                Order::Adopt { key, slot, by } => self.adopt(key, slot, by),
                Order::Unadopt { key, slot, from } => {
                    self.postponed.retain(|(of, place, _)| (of, place) != (&key, &slot));
                    if let Some(link) = self.links.get(&from) {
                        send(link, &ToWorker::Unadopt { key, slot }, Vec::new());
                    }
                }
                Order::Close { key, slot } => self.pass_on(key, &slot),
            }
        }
    }

    /// Closes the socket of a slot that is gone. What is in its queue the dispatcher gives to the workers that are left: those
    /// that accept for themselves, too, take what is copied to them.
    fn pass_on(&mut self, key: ListenKey, slot: &Slot) {
        tracing::debug!(what = %key, %slot, "nobody can adopt the queue of a slot that is gone: it is closed");
        let Some(socket) = self.table.close_socket_of(&key, slot) else {
            return;
        };
        match self.dispatch.need() {
            Ok(()) => self.dispatch.tell(Dispatching::Empty { key, socket }),
            Err(err) => {
                tracing::warn!(what = %key, %slot, %err, "connections in the queue of a slot that is gone are lost")
            }
        }
    }

    fn adopt(&mut self, key: ListenKey, slot: Slot, by: WorkerId) {
        let Some(link) = self.links.get(&by) else { return };
        match self.table.socket_of(&key, &slot) {
            Ok(Some(fd)) => send(link, &ToWorker::Adopt { key, slot }, vec![fd]),
            // Closed meanwhile: there is no queue to serve.
            Ok(None) => {}
            Err(err) => {
                tracing::warn!(%slot, %err, "a queue waits until it can be handed to a sibling");
                self.postponed.push((key, slot, by));
            }
        }
    }
}

fn holder(link: &Link) -> Holder<'_> {
    Holder {
        slot: link.slot(),
        worker: link.id,
    }
}

fn not_given(link: &Link) -> String {
    format!("the workers of spec {} do not get this listener", link.slot().spec)
}

/// Sends a control frame. A worker whose channel is closed is ending, and needs no listeners.
fn send(link: &Link, frame: &ToWorker, fds: Vec<OwnedFd>) {
    if let Err(err) = link.outbox.push(frame, fds) {
        tracing::debug!(worker = link.id.get(), %err, "order about a listener not sent");
    }
}

/// Names the default scheduling of TCP listeners (Node's `NODE_CLUSTER_SCHED_POLICY`). Read by the master only.
pub(crate) const POLICY_VARIABLE: &str = "ACTIX_CLUSTER_SCHED_POLICY";

/// As Node does it, exactly these words count; another one changes nothing, but here it is told.
fn scheduling_named(text: &OsStr) -> Option<Scheduling> {
    match text.to_str() {
        // Node's two words, too.
        Some("shared" | "none") => Some(Scheduling::Shared),
        Some("per-worker") => Some(Scheduling::PerWorker),
        Some("round-robin" | "rr") => Some(Scheduling::RoundRobin),
        Some("least-connections") => Some(Scheduling::LeastConnections),
        Some("two-choices") => Some(Scheduling::TwoChoices),
        Some("sticky") => Some(Scheduling::Sticky),
        Some(_) | None => {
            tracing::warn!(
                ?text,
                "{POLICY_VARIABLE} is none of \"shared\", \"per-worker\", \"round-robin\", \"least-connections\", \
                 \"two-choices\" and \"sticky\", and is ignored"
            );
            None
        }
    }
}
