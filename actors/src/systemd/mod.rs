//! `SystemdNotifier`: tells the service manager when the cluster serves, reloads and stops, and that it is alive.
//!
//! Three parts: what is said (`script`), how it gets there (`socket`), and here the actor. Sockets that systemd hands
//! over are the core's affair (`ClusterBuilder::listen_activated`).

mod script;
mod socket;
mod store;

use std::ffi::OsString;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, ContextFutureSpawner, Handler, WrapFuture};
use actix_cluster::{
    ClusterBuilder, ClusterEvent, ClusterHandle, EventFilter, EventKind, Kind, Kinds, SubscribeOptions,
};

use script::{Note, Script};
use socket::{NotifySocket, Sent};

/// What a [`SystemdNotifier`] says, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a configuration does nothing until a notifier has it"]
pub struct SystemdConfig {
    socket: Option<OsString>,
    watchdog: Option<Duration>,
    min_ready: usize,
    extend_stop: Option<Duration>,
    store: bool,
    /// Names of what this process was handed over.
    handed_over: Vec<String>,
}

impl SystemdConfig {
    /// What this process was told: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn from_env() -> Self {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        Self {
            socket: std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()),
            watchdog: number("WATCHDOG_USEC")
                .filter(|micros| is_ours && *micros > 0)
                .map(Duration::from_micros),
            min_ready: 1,
            extend_stop: Some(Duration::from_secs(10)),
            store: false,
            handed_over: store::handed_over(),
        }
    }

    /// The socket to notify: an absolute path, or `@` and an abstract name. Default: `NOTIFY_SOCKET`.
    pub fn socket(mut self, address: impl Into<OsString>) -> Self {
        self.socket = Some(address.into());
        self
    }

    /// The service manager's watchdog limit; a sign of life goes out twice in it. Default: `WATCHDOG_USEC`, unless
    /// `WATCHDOG_PID` is another process. `None` or zero for no signs of life.
    pub fn watchdog(mut self, limit: Option<Duration>) -> Self {
        self.watchdog = limit.filter(|limit| !limit.is_zero());
        self
    }

    /// How many ready workers make the service ready for the first time. Default 1; 0 for at once.
    pub const fn min_ready(mut self, workers: usize) -> Self {
        self.min_ready = workers;
        self
    }

    /// Gives the sockets of declared listeners that all workers share to the service manager (`FDSTORE=1`), under their names,
    /// as soon as the cluster runs, and takes out of the store (`FDSTOREREMOVE=1`) what was handed over under a name that no
    /// listener has any more. Default: no.
    ///
    /// With `FileDescriptorStoreMax=` in the unit, they outlive a master that is killed, and clients are queued meanwhile;
    /// [`listen_activated_or_with`](ClusterBuilder::listen_activated_or_with) takes them back at the next start. Which sockets
    /// these are: [`ClusterHandle::listener_sockets`].
    pub const fn store_listeners(mut self, yes: bool) -> Self {
        self.store = yes;
        self
    }

    /// By how much the time for the stop is extended (`EXTEND_TIMEOUT_USEC`), again and again while workers drain and the
    /// supervising loop turns; the cluster's own grace period ends each drain. Default 10 s, at least 20 ms; `None` to leave
    /// `TimeoutStopSec=` the last word.
    pub fn extend_stop(mut self, time: Option<Duration>) -> Self {
        self.extend_stop = time.map(|time| time.max(Duration::from_millis(20)));
        self
    }
}

impl Default for SystemdConfig {
    fn default() -> Self {
        Self::from_env()
    }
}

/// Tells systemd, or whoever understands `sd_notify(3)`, how the cluster is.
///
/// `READY=1` (with `MAINPID=`) as soon as enough workers are ready, `RELOADING=1` with `MONOTONIC_USEC=` and then `READY=1`
/// around each reload, also one that fails, `STOPPING=1`, `STATUS=` for people, and `WATCHDOG=1` at half the watchdog's limit:
/// each time the supervisor is asked something, and only its answer becomes a sign of life. Without a `NOTIFY_SOCKET` it does
/// nothing. A socket that cannot be reached costs one line of the log, and is tried again each second; one that is full delays nobody.
///
/// For a unit of `Type=notify` or `Type=notify-reload` with `NotifyAccess=main`.
///
/// ```no_run
/// use actix_cluster::{Cluster, Worker};
/// use actix_cluster_actors::{SystemdConfig, SystemdNotifier};
///
/// fn main() -> std::process::ExitCode {
///     let cluster = Cluster::builder().worker(|worker: Worker| async move { worker.shutdown().started().await });
///     SystemdNotifier::new(SystemdConfig::from_env()).attach(cluster).main()
/// }
/// ```
#[derive(Debug)]
pub struct SystemdNotifier {
    config: SystemdConfig,
    script: Script,
    socket: Option<NotifySocket>,
    cluster: Option<ClusterHandle>,
    /// A look at the cluster is due: many events, one status.
    is_look_due: bool,
    /// The supervisor was asked and has not answered.
    is_asking: bool,
    is_retrying: bool,
}

impl SystemdNotifier {
    /// A notifier that is not at work yet.
    #[must_use]
    pub fn new(config: SystemdConfig) -> Self {
        Self {
            script: Script::new(config.min_ready),
            config,
            socket: None,
            cluster: None,
            is_look_due: false,
            is_asking: false,
            is_retrying: false,
        }
    }

    /// Adds it to a cluster; nothing is added where nobody wants to be notified.
    pub fn attach(self, cluster: ClusterBuilder) -> ClusterBuilder {
        if self.config.socket.is_none() {
            return cluster;
        }
        cluster.subscribe_with(self.options(), |cluster| self.watch(cluster))
    }

    /// How to subscribe it, beside [`watch`](Self::watch): [`attach`](Self::attach) does both.
    pub fn options(&self) -> SubscribeOptions {
        SubscribeOptions::new()
            .name("systemd notifier")
            .filter(EventFilter::kinds(Kinds::from(WANTED)))
    }

    /// Starts it on this thread. It must be subscribed by the caller.
    #[must_use = "it learns of changes from the events it is subscribed to"]
    pub fn watch(mut self, cluster: ClusterHandle) -> Addr<Self> {
        self.cluster = Some(cluster);
        self.start()
    }

    fn say(&mut self, note: &Note, ctx: &mut Context<Self>) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        let text = note.text(self.script.status());
        let sent = match note {
            Note::Watchdog | Note::Extend(_) => socket.say_now(text),
            Note::Ready | Note::Reloading | Note::Stopping | Note::Status => socket.say(text),
        };
        self.after(&sent, ctx);
    }

    fn after(&mut self, sent: &Sent, ctx: &mut Context<Self>) {
        let later = match sent {
            Sent::All => return,
            Sent::Lost(error) => {
                tracing::warn!(err = %error, "the service manager cannot be notified; the cluster runs on");
                RETRY_LOST
            }
            Sent::StillLost => RETRY_LOST,
            Sent::Full => RETRY,
        };
        if self.is_retrying {
            return;
        }
        self.is_retrying = true;
        ctx.run_later(later, |notifier, ctx| {
            notifier.is_retrying = false;
            if let Some(sent) = notifier.socket.as_mut().map(NotifySocket::push) {
                notifier.after(&sent, ctx);
            }
        });
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let now = self.cluster.as_ref().map(ClusterHandle::snapshot);
        if let Some(note) = now.and_then(|now| self.script.look(&now)) {
            self.say(&note, ctx);
        }
    }

    /// Asks the supervisor something that changes nothing; its answer is the proof that its loop turns.
    fn ask(&mut self, ctx: &mut Context<Self>, answered: fn(&mut Self, &mut Context<Self>)) {
        let Some(cluster) = self.cluster.clone().filter(|_| !self.is_asking) else {
            return;
        };
        self.is_asking = true;
        let nothing = SubscribeOptions::new()
            .filter(EventFilter::kinds(Kinds::NONE))
            .capacity(1);
        let question = async move { cluster.follow(&nothing).await.is_ok() };
        let answer = move |is_alive, notifier: &mut Self, ctx: &mut Context<Self>| {
            notifier.is_asking = false;
            if is_alive {
                answered(notifier, ctx);
            }
        };
        question.into_actor(self).map(answer).spawn(ctx);
    }

    fn is_alive(&mut self, ctx: &mut Context<Self>) {
        if self.config.watchdog.is_some() {
            self.say(&Note::Watchdog, ctx);
        }
        if let Some(time) = self.config.extend_stop.filter(|_| self.script.is_stopping()) {
            self.say(&Note::Extend(time), ctx);
        }
    }

    /// At once, and then twice in each extension.
    fn begin_to_extend(&mut self, ctx: &mut Context<Self>) {
        if let Some(time) = self.config.extend_stop {
            self.ask(ctx, Self::is_alive);
            ctx.run_interval(time / 2, |notifier, ctx| notifier.ask(ctx, Self::is_alive));
        }
    }
}

impl Actor for SystemdNotifier {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(address) = &self.config.socket else {
            return;
        };
        match NotifySocket::new(address) {
            Ok(socket) => self.socket = Some(socket),
            Err(error) => {
                tracing::warn!(err = %error, "NOTIFY_SOCKET cannot be used; the service manager is told nothing");
                return;
            }
        }
        if self.config.store {
            self.keep_listeners(ctx);
        }
        if let Some(limit) = self.config.watchdog {
            ctx.run_interval(limit / 2, |notifier, ctx| notifier.ask(ctx, Self::is_alive));
        }
        self.look(ctx);
    }
}

impl Handler<ClusterEvent> for SystemdNotifier {
    type Result = ();

    fn handle(&mut self, event: ClusterEvent, ctx: &mut Self::Context) {
        let was_stopping = self.script.is_stopping();
        // Ready must be said before a reload is.
        let is_early = matches!(event.kind, EventKind::ReloadStarted { .. }) && self.script.is_silent();
        if is_early || matches!(event.kind, EventKind::AllReady { .. }) {
            self.look(ctx);
        }
        if FRAMING.contains(event.kind.kind()) {
            let now = self.cluster.as_ref().map(ClusterHandle::snapshot);
            if let Some(note) = now.and_then(|now| self.script.hear(&event.kind, &now)) {
                self.say(&note, ctx);
            }
        }
        if !was_stopping && matches!(event.kind, EventKind::ShutdownStarted) {
            self.begin_to_extend(ctx);
        }
        if !self.is_look_due {
            self.is_look_due = true;
            ctx.run_later(GATHER, |notifier, ctx| {
                notifier.is_look_due = false;
                notifier.look(ctx);
            });
        }
    }
}

/// Events after which the cluster may look different.
const WANTED: [Kind; 12] = [
    Kind::Fork,
    Kind::Ready,
    Kind::AllReady,
    Kind::Exiting,
    Kind::Disconnect,
    Kind::Exit,
    Kind::GaveUp,
    Kind::Scaled,
    Kind::ReloadStarted,
    Kind::ReloadFinished,
    Kind::ShutdownStarted,
    Kind::Lagged,
];
/// Those that may not be gathered.
const FRAMING: Kinds = Kinds::NONE
    .with(Kind::ReloadStarted)
    .with(Kind::ReloadFinished)
    .with(Kind::ShutdownStarted)
    .with(Kind::Lagged);
/// Many changes within this time become one status: a snapshot of a thousand workers is no small thing.
const GATHER: Duration = Duration::from_millis(50);
/// When a service manager that did not read is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// When one is tried again that was not there, as while it is started anew.
const RETRY_LOST: Duration = Duration::from_secs(1);
