//! Serving actix-web applications: the ways a worker offers.

use std::io;

use actix_web::dev::Server;

use crate::model::ListenError;
use crate::worker::context::Worker;
use crate::worker::listener::Listener;
use crate::worker::serve::app::WebApp;
use crate::worker::serve::http_server::run_server;
use crate::worker::serve::web::{Books, ServeError, ServeOptions, serve_app};

impl Worker {
    /// Serves an actix-web application on the declared listener `name`, until the worker is told to stop and the last
    /// connection has ended: requests in progress are finished, idle keep-alive connections closed, or
    /// given to other workers where they [survive kills](crate::ListenOptions::survive_kill).
    ///
    /// The application runs on this thread; the processes are the parallelism. `app` is called once. Keep-alive, time limits, the
    /// number of connections and what may be repeated are as in [`ServeOptions::new`]; [`serve_with`](Self::serve_with) has others.
    ///
    /// # Errors
    /// [`ServeError`] if the listener cannot be had or the application does not start.
    pub async fn serve<S, B>(&self, name: &str, app: impl WebApp<S, B>) -> Result<(), ServeError> {
        self.serve_with(name, ServeOptions::new(), app).await
    }

    /// [`serve`](Self::serve) with options:
    ///
    /// ```no_run
    /// # use actix_cluster::{ServeError, ServeOptions, Worker};
    /// # use actix_web::App;
    /// # async fn body(worker: Worker) -> Result<(), ServeError> {
    /// let options = ServeOptions::new().max_connections(10_000);
    /// worker.serve_with("http", options, App::new).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As `serve`.
    pub async fn serve_with<S, B>(
        &self,
        name: &str,
        options: ServeOptions,
        app: impl WebApp<S, B>,
    ) -> Result<(), ServeError> {
        self.socket(name)?.serve(options, app).await
    }

    /// Runs an unmodified actix-web server, and stops it gracefully when the worker is told to stop:
    ///
    /// ```no_run
    /// # use actix_web::{App, HttpServer};
    /// # async fn body(worker: actix_cluster::Worker) -> Result<(), Box<dyn std::error::Error>> {
    /// let server = HttpServer::new(App::new)
    ///     .workers(1) // else every process starts one thread for each CPU
    ///     .disable_signals() // the worker handles them
    ///     .listen(worker.listener("http")?)?
    ///     .run();
    /// worker.run_server(server).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// At the stop it accepts nothing more before the server is stopped: for a quarter of a second, or until nothing has come on any
    /// connection of the process for as long, so that what it has accepted is answered; a sibling or the successor accepts meanwhile. Connections that clients keep are HTTP's known race: the server ends those on
    /// which it sees no request, and a client whose next request is on its way then gets no answer. 8 requests of 30,500 were lost
    /// by eight such clients that never paused, in five reloads; none by as many that connected anew. An application that tells clients to
    /// end the connection themselves lost none:
    ///
    /// ```no_run
    /// # use actix_web::{App, dev::{Service, ServiceResponse}, http::ConnectionType};
    /// # fn body(worker: &actix_cluster::Worker) {
    /// let shutdown = worker.shutdown().clone();
    /// let app = App::new().wrap_fn(move |request, service| {
    ///     let (stops, answer) = (shutdown.is_started(), service.call(request));
    ///     async move {
    ///         let mut answer: ServiceResponse<_> = answer.await?;
    ///         if stops {
    ///             answer.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    ///         }
    ///         Ok(answer)
    ///     }
    /// });
    /// # drop(app);
    /// # }
    /// ```
    ///
    /// [`serve`](Self::serve) does this by itself, ends no connection on which a request has arrived, and is faster to stop: an
    /// `HttpServer` looks once a second whether its connections have ended.
    ///
    /// Where heartbeats are on, watch the server's threads too: call [`Worker::watch_loop`] in the factory given to
    /// `HttpServer::new`, which runs once on each of them.
    ///
    /// # Errors
    /// The server's own.
    pub async fn run_server(&self, server: Server) -> io::Result<()> {
        run_server(server, self.shutdown()).await
    }
}

impl Listener {
    /// Serves an actix-web application on this listener; see [`Worker::serve`].
    ///
    /// # Errors
    /// As there.
    pub async fn serve<S, B>(self, options: ServeOptions, app: impl WebApp<S, B>) -> Result<(), ServeError> {
        let books = Books {
            local: self.address().socket_addr(),
            counters: self.worker().counters().clone(),
            recorder: self.worker().inner.recorder,
            survival: self.survival(options.repeatable),
        };
        let (intake, lease) = self.intake().map_err(ServeError::Listen)?;
        let result = serve_app(intake, books, options, app).await;
        drop(lease);
        result
    }
}

impl From<ListenError> for ServeError {
    fn from(error: ListenError) -> Self {
        Self::Listen(error)
    }
}
