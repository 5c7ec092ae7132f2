//! Accepted connections for any tokio server: the worker accepts and waits, the server speaks.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::conn::{Accepted, ConnectionGuard, Connections, Stream};
use super::http1::is_idempotent;
use super::http1_stream::{Http1Stream, Leaving};
use super::intake::Intake;
use super::refuse;
use super::survival::{Survival, Transport};
use crate::worker::listener::Lease;

/// The connections of one listener.
///
/// Ends when the worker is told to stop, after the connections that were queued by then. The worker's stop waits for
/// each [`Connection`] that is still held, up to the grace period of the cluster.
pub struct Incoming {
    intake: Intake,
    connections: Connections,
    /// How the connections outlive this worker, if they do.
    survival: Option<Survival>,
    /// Set when HTTP/1.1 is spoken on them.
    leaving: Option<Leaving>,
    /// The worker's share of the listener; given back with the stream.
    _lease: Option<Lease>,
}

/// An accepted connection: a byte stream that the worker's stop waits for.
#[derive(Debug)]
pub struct Connection {
    /// The stream.
    pub stream: Stream,
    /// The client's address; `None` on a Unix path.
    pub peer: Option<SocketAddr>,
    guard: ConnectionGuard,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("intake", &self.intake)
            .finish_non_exhaustive()
    }
}

impl Incoming {
    pub(crate) fn new(intake: Intake, connections: Connections) -> Self {
        Self {
            intake,
            connections,
            survival: None,
            leaving: None,
            _lease: None,
        }
    }

    /// Holds the worker's share of the listener as long as it accepts.
    pub(crate) fn leased(self, lease: Lease) -> Self {
        Self {
            _lease: Some(lease),
            ..self
        }
    }

    /// Its connections can outlive this worker in this way.
    pub(crate) fn surviving(self, survival: Option<Survival>) -> Self {
        Self { survival, ..self }
    }

    /// Says that HTTP/1.1 is spoken on these connections. Where they survive a kill
    /// ([`ListenOptions::survive_kill`](crate::ListenOptions)) that makes the most of it: requests that are not answered yet
    /// when this worker is killed are answered by another one, connections between two requests live on, and when
    /// this worker leaves those that are idle are given to another one instead of being closed. Anywhere else this
    /// changes nothing.
    ///
    /// Requests are carried out a second time if their method is idempotent by RFC 9110 (`GET`, `HEAD`, `OPTIONS`, `PUT`,
    /// `DELETE`, `TRACE`); [`http1_with`](Self::http1_with) decides otherwise. What else there is to know is in the crate's
    /// documentation, under "What a kill costs".
    ///
    /// # Panics
    /// Outside of an actix `System` or another local task set.
    #[must_use]
    pub fn http1(self) -> Self {
        self.http1_with(is_idempotent)
    }

    /// [`http1`](Self::http1), where `repeatable` says of a method and a path (without its query) whether such a request may
    /// be carried out a second time.
    ///
    /// # Panics
    /// As `http1`.
    #[must_use]
    pub fn http1_with(mut self, repeatable: fn(&str, &str) -> bool) -> Self {
        self.survival = self.survival.map(|survival| survival.repeating(repeatable));
        if let (Some(survival), None) = (&self.survival, &self.leaving) {
            let (known, has_taker) = watch::channel(None);
            let others = survival.others();
            drop(actix_rt::spawn(async move {
                // If nobody listens, no connection is left.
                known.send(Some(others.wanted().await)).ok();
                known.closed().await;
            }));
            self.leaving = Some(Leaving {
                shutdown: self.intake.shutdown().clone(),
                has_taker,
            });
        }
        self
    }

    /// The next connection; `None` once the worker was told to stop and everything queued by then was taken.
    ///
    /// Safe to drop and call again (in `select!`, say): no connection is lost.
    pub async fn accept(&mut self) -> Option<Connection> {
        loop {
            let accepted = self.intake.accept().await?;
            if let Some(accepted) = refuse::unless_refused(accepted, self.survival.as_ref(), &self.connections) {
                return Some(self.take_charge(accepted));
            }
        }
    }

    fn take_charge(&self, accepted: Accepted) -> Connection {
        let Accepted {
            stream,
            peer,
            mut passed,
        } = accepted;
        let stream = match (&self.survival, &self.leaving) {
            (Some(survival), Some(leaving)) => match survival.take_charge(stream, passed.as_ref()) {
                Transport::Plain(stream) => stream,
                Transport::Http1(journaled) => {
                    Stream::Http1(Http1Stream::new(journaled, survival.clone(), leaving.clone()))
                }
            },
            (Some(_) | None, _) => stream,
        };
        Connection {
            // After it was noted: that is what the acknowledgement says.
            guard: self.connections.open_passed(passed.as_mut()),
            stream,
            peer,
        }
    }

    /// The same connections as a value that can be moved to other threads, for servers that ask for `Send` (axum). They
    /// are accepted here, one ahead of what was taken there.
    ///
    /// # Panics
    /// Outside of an actix `System` or another local task set.
    #[must_use]
    pub fn into_remote(mut self) -> RemoteIncoming {
        let (sender, connections) = tokio::sync::mpsc::channel(1);
        drop(actix_rt::spawn(async move {
            while let Some(connection) = self.accept().await {
                if sender.send(connection).await.is_err() {
                    return;
                }
            }
        }));
        RemoteIncoming { connections }
    }

    /// Runs `serve` for each connection in a task of its own on this thread; returns when the worker was told to stop
    /// and every one of these tasks has ended. A task that panics ends only its own connection.
    ///
    /// # Panics
    /// Outside of an actix `System` or another local task set.
    pub async fn serve_with<F, Fut>(mut self, mut serve: F)
    where
        F: FnMut(Connection) -> Fut,
        Fut: Future<Output = ()> + 'static,
    {
        let tasks = Connections::default();
        while let Some(connection) = self.accept().await {
            let (served, task) = (serve(connection), tasks.open());
            // The task ends with its connection; `idle` below waits for all of them.
            drop(actix_rt::spawn(async move {
                let _task = task;
                served.await;
            }));
        }
        tasks.idle().await;
    }
}

/// The connections of one listener, for another thread; see [`Incoming::into_remote`].
#[derive(Debug)]
pub struct RemoteIncoming {
    connections: tokio::sync::mpsc::Receiver<Connection>,
}

impl RemoteIncoming {
    /// The next connection; `None` once the worker was told to stop and everything queued by then was taken. Safe to
    /// drop and call again.
    pub async fn accept(&mut self) -> Option<Connection> {
        self.connections.recv().await
    }
}

impl Connection {
    /// The stream, the client's address, and the guard: the worker's stop waits until the guard is dropped.
    pub fn into_parts(self) -> (Stream, Option<SocketAddr>, ConnectionGuard) {
        (self.stream, self.peer, self.guard)
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixStream};

    use super::*;
    use crate::worker::shutdown::Shutdown;

    async fn echo(mut connection: Connection) {
        let mut line = [0; 5];
        connection.read_exact(&mut line).await.unwrap();
        assert_ne!(&line, b"panic", "asked to");
        connection.write_all(&line).await.unwrap();
    }

    #[actix_rt::test]
    async fn a_tokio_server_finishes_its_connections_before_it_returns() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, connections) = (Shutdown::new(), Connections::default());
        let intake = Intake::new(listener.into(), shutdown.clone()).unwrap();
        let serving = actix_rt::spawn(Incoming::new(intake, connections.clone()).serve_with(echo));
        let mut unlucky = TcpStream::connect(address).await.unwrap();
        unlucky.write_all(b"panic").await.unwrap();
        assert!(matches!(unlucky.read(&mut [0]).await, Ok(0) | Err(_)));
        let mut client = TcpStream::connect(address).await.unwrap();
        shutdown.start();
        client.write_all(b"hello").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "hello");
        tokio::time::timeout(Duration::from_secs(5), serving)
            .await
            .unwrap()
            .unwrap();
        connections.idle().await;
    }

    #[actix_rt::test]
    async fn a_held_connection_keeps_the_count_and_unix_paths_work() {
        let path = std::env::temp_dir().join(format!("incoming-{}.sock", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let connections = Connections::default();
        let intake = Intake::new(listener.into(), Shutdown::new()).unwrap();
        let mut incoming = Incoming::new(intake, connections.clone());
        let mut client = UnixStream::connect(&path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let connection = incoming.accept().await.unwrap();
        assert_eq!((connections.count(), connection.peer), (1, None));
        let (stream, _, guard) = connection.into_parts();
        let mut stream = stream.into_tcp().unwrap_err();
        stream.write_all(b"x").await.unwrap();
        drop(stream);
        assert_eq!(client.read_u8().await.unwrap(), b'x');
        assert_eq!(connections.count(), 1);
        drop(guard);
        assert_eq!(connections.count(), 0);
    }
}
