//! Serving an actix-web application on the worker's own thread: accept, count, drain. How a connection is drained is
//! in `graceful`.
//!
//! One thread, one application, no hand-over between threads: the processes are the parallelism. What `HttpServer`
//! adds (its accept thread, worker threads and signal handlers) has no use inside a worker.

use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use actix_http::{ConnectionType, HttpService, Request, Response};
use actix_service::{Service, ServiceFactory as _, ServiceFactoryExt as _, apply_fn_factory, map_config};
use actix_web::HttpResponse;
use actix_web::body::MessageBody;
use actix_web::dev::AppConfig;

use super::app::WebApp;
use super::conn::{Accepted, Connections, Stream};
use super::graceful::{ConnState, Drain, GracefulStream, InFlight, TrackedBody};
use super::http1::is_idempotent;
use super::intake::Intake;
use super::refuse;
use super::survival::{Survival, Transport};
use crate::model::ListenError;
use crate::recorder::Recorder;
use crate::worker::counters::Counters;
use crate::worker::flight::RequestNote;

/// Limits of serving HTTP.
///
/// ```
/// use actix_cluster::{AtLimit, ServeOptions};
///
/// let options = ServeOptions::new().max_connections(10_000).at_limit(AtLimit::Close);
/// assert_eq!(options.max_connections, Some(10_000));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use = "options do nothing until something is served with them"]
pub struct ServeOptions {
    /// How long a connection may be idle between requests. Default 5 s; zero closes after each response.
    pub keep_alive: Duration,
    /// How long the head of the first request may take, and at the stop that of any. Default 5 s; zero is no limit
    /// (and the default at the stop).
    pub client_request_timeout: Duration,
    /// How long closing may take after the last response. Default 1 s; zero is no limit.
    pub client_disconnect_timeout: Duration,
    /// Connections open at once, at least 1; what becomes of further ones is up to [`at_limit`](Self#structfield.at_limit). Default: no
    /// limit but that on descriptors. Connections queued at the stop are served even beyond it.
    pub max_connections: Option<usize>,
    /// What becomes of connections beyond [`max_connections`](Self#structfield.max_connections). Default: [`AtLimit::Leave`].
    pub at_limit: AtLimit,
    /// May a request of this method, on this path (without its query), be carried out a second time? Asked where
    /// connections survive a kill ([`ListenOptions::survive_kill`](crate::ListenOptions)): a request that was begun by a
    /// worker that died is given to another one, or, if it may not be repeated, answered with 502. Default: the methods
    /// that are idempotent by RFC 9110 (`GET`, `HEAD`, `OPTIONS`, `PUT`, `DELETE`, `TRACE`), on all paths.
    ///
    /// What you know of your own routes belongs here: `|method, path| method != "POST" || path == "/search"`.
    pub repeatable: fn(&str, &str) -> bool,
}

/// What a server with as many connections as it may have does with further ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AtLimit {
    /// Leaves them to others: they wait in the kernel's queue, or, where the master accepts, are passed on to a worker that has
    /// room.
    #[default]
    Leave,
    /// Takes each and closes it at once without a word, which counts as an error of this worker (Node's
    /// `dropMaxConnection`): for clients that do better with a quick refusal than with a wait.
    Close,
}

impl ServeOptions {
    /// The defaults. Each field tells its own, and what it means; a setter gives it another value.
    pub const fn new() -> Self {
        Self {
            keep_alive: Duration::from_secs(5),
            client_request_timeout: HEAD_PATIENCE,
            client_disconnect_timeout: Duration::from_secs(1),
            max_connections: None,
            at_limit: AtLimit::Leave,
            repeatable: is_idempotent,
        }
    }

    /// Sets how long a connection may be idle: [`keep_alive`](Self#structfield.keep_alive).
    pub const fn keep_alive(mut self, time: Duration) -> Self {
        self.keep_alive = time;
        self
    }

    /// Sets how long a head may take: [`client_request_timeout`](Self#structfield.client_request_timeout).
    pub const fn client_request_timeout(mut self, time: Duration) -> Self {
        self.client_request_timeout = time;
        self
    }

    /// Sets how long closing may take: [`client_disconnect_timeout`](Self#structfield.client_disconnect_timeout).
    pub const fn client_disconnect_timeout(mut self, time: Duration) -> Self {
        self.client_disconnect_timeout = time;
        self
    }

    /// Sets how many connections may be open at once: [`max_connections`](Self#structfield.max_connections).
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = Some(connections);
        self
    }

    /// Sets what becomes of connections beyond that: [`at_limit`](Self#structfield.at_limit).
    pub const fn at_limit(mut self, rule: AtLimit) -> Self {
        self.at_limit = rule;
        self
    }

    /// Sets what may be carried out a second time: [`repeatable`](Self#structfield.repeatable).
    pub const fn repeatable(mut self, rule: fn(&str, &str) -> bool) -> Self {
        self.repeatable = rule;
        self
    }
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Why an application could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The listener cannot be had.
    #[error(transparent)]
    Listen(ListenError),
    /// A data factory or another part of the application failed to start.
    #[error("the application could not be started: one of its factories failed, its error is in the log")]
    App,
}

/// Where it is written down what is served, and where it is served.
#[derive(Debug)]
pub(crate) struct Books {
    /// Where the listener is bound; `None` for a Unix path.
    pub(crate) local: Option<SocketAddr>,
    pub(crate) counters: Counters,
    pub(crate) recorder: Option<Recorder<'static>>,
    /// How the connections outlive this worker, if they do.
    pub(crate) survival: Option<Survival>,
}

/// Serves the application until the worker is told to stop and the last connection has ended.
///
/// `app` is called once: there is one application in each worker process.
pub(crate) async fn serve_app<S, B>(
    intake: Intake,
    books: Books,
    options: ServeOptions,
    app: impl WebApp<S, B>,
) -> Result<(), ServeError> {
    let Books {
        local,
        counters,
        recorder,
        survival,
    } = books;
    let config = app_config(local);
    let app = map_config(app.into_factory(), move |()| config.clone())
        .map_err(|error| Response::from(HttpResponse::from_error(error)));
    let app = apply_fn_factory(app, move |request: Request, app: &_| {
        let state = request.conn_data::<Rc<ConnState>>();
        // Without the query, which is where secrets are.
        let note = RequestNote::new(recorder, &[request.method().as_str(), " ", request.path()]);
        let state = state.expect("the callback below gave one to every connection");
        let active = state.begin(note);
        let answer = active.note().running(|| Service::<Request>::call(app, request));
        async move {
            let mut answer = pin!(answer);
            let answer = poll_fn(|cx| active.note().running(|| answer.as_mut().poll(cx)));
            Ok(match answer.await {
                Ok(answer) => track(answer.into(), active),
                Err(answer) => track(answer, active),
            })
        }
    });
    let mut http = HttpService::build()
        .keep_alive(options.keep_alive)
        .client_request_timeout(options.client_request_timeout)
        .client_disconnect_timeout(options.client_disconnect_timeout)
        .on_connect_ext(|stream: &GracefulStream, data| {
            data.insert(Rc::clone(stream.state()));
        });
    if let Some(local) = local {
        http = http.local_addr(local);
    }
    let service = http.h1(app).new_service(()).await.map_err(|()| ServeError::App)?;
    let connections = Accepting {
        intake: &intake,
        counters: &counters,
        options: &options,
        survival,
    };
    connections.accept_and_drain(service).await;
    Ok(())
}

/// What the accepting of one application goes by.
struct Accepting<'a> {
    intake: &'a Intake,
    counters: &'a Counters,
    options: &'a ServeOptions,
    survival: Option<Survival>,
}

impl Accepting<'_> {
    async fn accept_and_drain<H>(self, service: H)
    where
        H: Service<(GracefulStream, Option<SocketAddr>)> + 'static,
    {
        let service = Rc::new(service);
        let connections = Connections::default();
        let drain = Rc::new(Drain::default());
        loop {
            let max = self.options.max_connections.map(|max| max.max(1));
            if let (Some(max), AtLimit::Leave) = (max, self.options.at_limit) {
                tokio::select! {
                    () = connections.below(max) => {}
                    () = self.intake.shutdown().started() => {}
                }
            }
            let Some(mut accepted) = self.intake.accept().await else {
                break;
            };
            let is_full = max.is_some_and(|max| connections.count() >= max);
            if is_full && self.options.at_limit == AtLimit::Close && !self.intake.shutdown().is_started() {
                // Acknowledged first: unacknowledged, it would go to another worker.
                drop(connections.open_passed(accepted.passed.as_mut()));
                self.counters.error();
                continue;
            }
            let Some(accepted) = refuse::unless_refused(accepted, self.survival.as_ref(), &connections) else {
                continue;
            };
            let (mut stream, peer) = self.take_charge(accepted, &drain, &connections);
            let keep_alive = self.options.keep_alive;
            let service = Rc::clone(&service);
            // Detached: `connections` tells when they have all ended, a panic ends only its own.
            drop(actix_rt::spawn(async move {
                if stream.resumes(keep_alive).await && poll_fn(|cx| service.poll_ready(cx)).await.is_ok() {
                    // The dispatcher's errors are about this client (gone, too slow, no HTTP) and have been answered.
                    drop(service.call((stream, peer)).await);
                }
            }));
        }
        let head_patience = if self.options.client_request_timeout.is_zero() {
            HEAD_PATIENCE
        } else {
            self.options.client_request_timeout
        };
        let mut draining = pin!(async {
            let is_moving = match &self.survival {
                Some(survival) => survival.others().wanted().await,
                None => false,
            };
            drain.run(head_patience, is_moving).await;
        });
        tokio::select! {
            () = connections.idle() => {}
            () = &mut draining => {}
        }
    }

    fn take_charge(
        &self,
        accepted: Accepted,
        drain: &Rc<Drain>,
        connections: &Connections,
    ) -> (GracefulStream, Option<SocketAddr>) {
        let Accepted {
            stream,
            peer,
            mut passed,
        } = accepted;
        if let Stream::Tcp(stream) = &stream
            && let Err(error) = stream.set_nodelay(true)
        {
            // The client is gone already; the dispatcher will find out. It is no reason to stop accepting.
            tracing::debug!(err = %error, "TCP_NODELAY not set");
        }
        let stream = match &self.survival {
            Some(survival) => survival.take_charge(stream, passed.as_ref()),
            None => Transport::Plain(stream),
        };
        // After it was noted: that is what the acknowledgement says.
        let open = connections.open_passed(passed.as_mut());
        let stream = GracefulStream::new(stream, self.survival.clone(), drain, self.counters.clone(), open);
        (stream, peer)
    }
}

/// Counts a failed answer, announces the end of the connection if it is near, and keeps the request in progress until
/// its body is produced.
fn track<B: MessageBody + 'static>(mut answer: Response<B>, active: InFlight) -> Response<TrackedBody> {
    if answer.status().is_server_error() {
        active.failed();
    }
    // A connection that changes its protocol (a WebSocket) is no longer HTTP's to close.
    if !answer.upgrade() && active.state().announce_close() {
        answer.head_mut().set_connection_type(ConnectionType::Close);
    }
    answer.map_body(|_, body| TrackedBody::new(body.boxed(), active))
}

/// What the application may ask about its listener.
fn app_config(local: Option<SocketAddr>) -> AppConfig {
    let local = local.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 8080).into());
    // Hidden, but the only way in, and kept for the whole of actix-web 4: its own test server is a separate crate that
    // depends on it. `AppConfig::default` would give every URL made without a `Host` header the wrong port.
    AppConfig::__priv_test_new(false, local.to_string(), local)
}

/// The time limit for request heads at the stop where none is set.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
