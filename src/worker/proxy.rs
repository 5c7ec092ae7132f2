//! Connections for a server that accepts for itself: it cannot be given one, so one is made to it and the bytes are
//! copied. Weaker than being given it: the server sees the copier's address, and what was copied is read.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net as unix;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixStream};

use crate::model::BoundAddress;
use crate::worker::context::Worker;
use crate::worker::handover::Given;
use crate::worker::serve::conn::Stream;
use crate::worker::serve::refuse::refuse;

/// Where a server of this worker's listens.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Path(PathBuf),
    /// In the kernel's own space of names, without a file.
    Abstract(unix::SocketAddr),
}

impl Target {
    /// The address of a listener that its server accepts on.
    pub(crate) fn of(address: &BoundAddress) -> Self {
        address.socket_addr().map_or_else(
            || Self::Path(PathBuf::from(&address.address)),
            |address| Self::Tcp(reachable(address)),
        )
    }

    /// A new listening socket of the kind of `public`, which only this machine can reach.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn private(public: &OwnedFd) -> io::Result<(OwnedFd, Self)> {
        if family(public)? == Some(AddressFamily::Unix) {
            static LAST: AtomicU32 = AtomicU32::new(0);
            let number = LAST.fetch_add(1, Ordering::Relaxed);
            let name = format!("actix-cluster-{}-{number}", std::process::id());
            let address = unix::SocketAddr::from_abstract_name(name)?;
            let listener = unix::UnixListener::bind_addr(&address)?;
            return Ok((listener.into(), Self::Abstract(address)));
        }
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .or_else(|_| std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        Ok((listener.into(), Self::Tcp(address)))
    }

    async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(address) => TcpStream::connect(address).await.map(Stream::Tcp),
            Self::Path(path) => UnixStream::connect(path).await.map(Stream::Unix),
            Self::Abstract(address) => {
                let stream = unix::UnixStream::connect_addr(address)?;
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(Stream::Unix)
            }
        }
    }
}

/// Copies a connection that was handed over to the server at `target`. One that cannot be copied is refused.
pub(crate) fn serve(worker: &Worker, given: Given, target: Target) {
    let connections = worker.inner.connections.clone();
    actix_rt::spawn(async move {
        let Given { fd, fail, receipt, .. } = given;
        let Ok(mut client) = stream(fd) else {
            return;
        };
        let _open = connections.open();
        let took = || receipt.map(|receipt| receipt.took(true));
        if let Some(status) = fail {
            refuse(client, None, status, took).await;
            return;
        }
        let Ok(mut server) = target.connect().await else {
            return;
        };
        let _taken = took();
        // Either side may break off whenever it likes; both are closed then.
        copy_bidirectional(&mut client, &mut server).await.ok();
    });
}

fn stream(fd: OwnedFd) -> io::Result<Stream> {
    if family(&fd)? == Some(AddressFamily::Unix) {
        let stream = unix::UnixStream::from(fd);
        stream.set_nonblocking(true)?;
        return UnixStream::from_std(stream).map(Stream::Unix);
    }
    let stream = std::net::TcpStream::from(fd);
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream).map(Stream::Tcp)
}

fn family(fd: &OwnedFd) -> io::Result<Option<AddressFamily>> {
    Ok(getsockname::<SockaddrStorage>(fd.as_raw_fd())?.family())
}

/// An address that means "all of this machine's" is none to connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_one_that_can_be_connected_to() {
        let of = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(of("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(of("[::]:80"), "[::1]:80");
        assert_eq!(of("192.0.2.7:80"), "192.0.2.7:80");
    }

    #[actix_rt::test]
    async fn private_listeners_can_be_reached() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (listener, target) = Target::private(&tcp.into()).unwrap();
        target.connect().await.unwrap();
        assert!(std::net::TcpListener::from(listener).accept().is_ok());
        let path = std::env::temp_dir().join(format!("proxy-{}.sock", std::process::id()));
        let unix = unix::UnixListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (listener, target) = Target::private(&unix.into()).unwrap();
        target.connect().await.unwrap();
        assert!(unix::UnixListener::from(listener).accept().is_ok());
    }
}
