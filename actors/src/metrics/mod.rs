//! `Metrics`: the whole cluster as OpenMetrics text, answered by the master.
//!
//! Nine parts: what the cluster counts (`ledger`), what workers define (`worker` on their side, `series` between the two,
//! `forwarded` on ours), one scrape (`view`), its text (`text`), a small server (`http`), workers who ask (`answer`), and
//! here the configuration and the actor. Every number belongs to a slot, not to a process, so a counter goes on where a dead
//! worker left it.
//!
//! How exact it is: what was taken in is never lost, and a worker that ends in order tells everything before its end. One
//! that is killed takes along what it did since it told last, which is at most a second's work. A report tells everything
//! since the worker's start, so one that is lost in a flood of messages is made up for by the next, which comes within
//! 30 s; only of a worker that ends meanwhile is that missing.

mod answer;
mod forwarded;
mod http;
mod ledger;
mod series;
mod text;
mod view;
pub mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};

use actix::{Actor, Addr, Context, Handler};
use actix_cluster::{ClusterBuilder, ClusterEvent, ClusterHandle, EventFilter, EventKind, Kind, SubscribeOptions};

pub use http::CONTENT_TYPE;
pub use series::{MetricError, is_ours};
pub use view::MetricsView;

/// Where scrapers are served, and who counts as ready.
#[derive(Clone, Debug)]
#[must_use = "a configuration does nothing until `Metrics` has it"]
pub struct MetricsConfig {
    listen: Option<SocketAddr>,
    allow_remote: bool,
    min_ready: usize,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            listen: None,
            allow_remote: false,
            min_ready: 1,
        }
    }
}

impl MetricsConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves `GET /metrics` and `GET /healthz` at this address, which must be one of this machine's own; port 0 is any
    /// that is free. Default: nowhere; the text is had by [`MetricsView::render`], or in a worker by [`worker::scrape`].
    pub const fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Allows other addresses than loopback ones. Whoever reaches them can read everything. Default: no.
    pub const fn allow_remote(mut self, yes: bool) -> Self {
        self.allow_remote = yes;
        self
    }

    /// How many ready workers make `GET /healthz` answer 200 and not 503. Default 1.
    pub const fn min_ready(mut self, workers: usize) -> Self {
        self.min_ready = workers;
        self
    }
}

/// Why scrapers cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// Others could read along.
    #[error("{0} can be reached from other machines; listen on a loopback address, or say `allow_remote(true)`")]
    Remote(SocketAddr),
    /// The address could not be had.
    #[error("no metrics at {address}: {source}; choose another port, or 0 for any")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Counts what happens and tells it to scrapers.
///
/// ```no_run
/// use actix_cluster::{Cluster, Worker};
/// use actix_cluster_actors::metrics::{Metrics, MetricsConfig, MetricsError};
///
/// fn main() -> Result<std::process::ExitCode, MetricsError> {
///     let metrics = Metrics::new(MetricsConfig::new().listen(([127, 0, 0, 1], 9100).into()));
///     let cluster = Cluster::builder().worker(|worker: Worker| async move { worker.shutdown().started().await });
///     Ok(metrics.attach(cluster)?.main())
/// }
/// ```
#[derive(Debug)]
pub struct Metrics {
    config: MetricsConfig,
    view: MetricsView,
    listener: Option<TcpListener>,
}

impl Metrics {
    /// Metrics of a cluster to come.
    #[must_use]
    pub fn new(config: MetricsConfig) -> Self {
        Self {
            view: MetricsView::new(config.min_ready),
            config,
            listener: None,
        }
    }

    /// What they tell, readable from any thread of the master.
    #[must_use]
    pub fn view(&self) -> MetricsView {
        self.view.clone()
    }

    /// Adds them to a cluster, and takes the address to serve at; in a worker, which runs the same program, nothing is
    /// taken. Heartbeats are not turned on by this: what needs them (their age, the lags of the loops and of the master)
    /// is shown if [`ClusterBuilder::heartbeat`] or a `HealthMonitor` turns them on.
    ///
    /// # Errors
    /// [`MetricsError`] if the address cannot be had.
    pub fn attach(mut self, cluster: ClusterBuilder) -> Result<ClusterBuilder, MetricsError> {
        if actix_cluster::is_master()
            && let Some(address) = self.config.listen
        {
            self.listener = Some(self.bind(address)?);
        }
        let events = SubscribeOptions::lifecycle().name("metrics").capacity(EVENTS);
        // Two queues: a worker that talks by the million is to crowd out its own reports and no exit.
        let messages = SubscribeOptions::new()
            .name("metrics of workers")
            .filter(EventFilter::kinds(Kind::Message));
        let view = self.view.clone();
        let cluster = cluster.on_event_with(messages, move |event, cluster| {
            if let (EventKind::Message(message), Some(worker)) = (&event.kind, &event.worker) {
                // The other thread may not have come round to it.
                view.begin(cluster.clone());
                view.hear(worker, message);
            }
        });
        Ok(cluster.subscribe_with(events, |cluster| self.watch(cluster)))
    }

    fn bind(&self, address: SocketAddr) -> Result<TcpListener, MetricsError> {
        if !address.ip().is_loopback() && !self.config.allow_remote {
            return Err(MetricsError::Remote(address));
        }
        let refused = |source| MetricsError::Bind { address, source };
        let listener = TcpListener::bind(address).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        self.view.serves_at(listener.local_addr().map_err(refused)?);
        Ok(listener)
    }

    fn watch(self, cluster: ClusterHandle) -> Addr<Self> {
        self.view.begin(cluster);
        self.start()
    }
}

impl Actor for Metrics {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        let Some(listener) = self.listener.take() else {
            return;
        };
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                if let Some(address) = self.view.address() {
                    tracing::info!(%address, "metrics are served");
                }
                // Ends with the thread.
                drop(actix::spawn(http::serve(listener, self.view.clone())));
            }
            Err(err) => tracing::error!(%err, "metrics cannot be served"),
        }
    }
}

impl Handler<ClusterEvent> for Metrics {
    type Result = ();

    fn handle(&mut self, event: ClusterEvent, _: &mut Self::Context) {
        self.view.learn(&event);
    }
}

/// Events that may wait: a storm of restarts is to be counted whole.
const EVENTS: usize = 65_536;

#[cfg(test)]
mod tests {
    use actix_cluster::{Cluster, Worker};

    use super::*;

    fn attach(address: SocketAddr, allow_remote: bool) -> Result<(), MetricsError> {
        let config = MetricsConfig::new().listen(address).allow_remote(allow_remote);
        let cluster = Cluster::builder().worker(|_: Worker| async {});
        Metrics::new(config).attach(cluster).map(drop)
    }

    #[test]
    fn an_address_that_others_can_reach_must_be_asked_for() {
        let any = ([0, 0, 0, 0], 0).into();
        assert!(matches!(attach(any, false), Err(MetricsError::Remote(_))));
        attach(any, true).unwrap();
    }

    #[test]
    fn a_port_in_use_is_an_error_that_names_it() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let error = attach(address, false).unwrap_err().to_string();
        assert!(
            error.contains(&address.to_string()) && error.contains("choose another port"),
            "{error}"
        );
    }
}
