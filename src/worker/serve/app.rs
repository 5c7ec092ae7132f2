//! What counts as an actix-web application: the bounds, in one place.

use std::fmt::Debug;

use actix_http::{Request, Response};
use actix_service::{IntoServiceFactory, Service, ServiceFactory};
use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::AppConfig;

/// A function that makes an actix-web application: `|| App::new()…`, the same that
/// [`HttpServer::new`](actix_web::HttpServer::new) takes, except that it is called once and so may give away what it holds.
///
/// It is a name for the bounds below and nothing to implement. A function of your own that is given any application reads:
///
/// ```
/// use actix_cluster::{ServeError, ServeOptions, WebApp, Worker};
///
/// async fn serve_patiently<S, B>(worker: &Worker, app: impl WebApp<S, B>) -> Result<(), ServeError> {
///     let options = ServeOptions::new().keep_alive(std::time::Duration::from_secs(60));
///     worker.serve_with("http", options, app).await
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make an actix-web application",
    note = "a closure without arguments that returns an `App` does: `|| App::new().route(...)`"
)]
pub trait WebApp<S, B> {
    /// The body of its responses.
    type Body: MessageBody + 'static;
    /// What actix makes of it.
    type Factory: ServiceFactory<
            Request,
            Config = AppConfig,
            Response: Into<Response<Self::Body>> + 'static,
            Error: Into<Error> + 'static,
            InitError: Debug,
            Service: Service<Request, Future: 'static> + 'static,
        > + 'static;

    /// Makes it.
    fn into_factory(self) -> Self::Factory;
}

impl<F, I, S, B> WebApp<S, B> for F
where
    F: FnOnce() -> I,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    type Body = B;
    type Factory = S;

    fn into_factory(self) -> S {
        self().into_factory()
    }
}
