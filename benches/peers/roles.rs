//! What this program is besides the driver: two small servers that are measured or serve under somebody else's supervision.

use std::net::{Ipv4Addr, SocketAddr};

use actix_cluster_benches::Failure;
use actix_web::{App, HttpServer, web};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// actix-web alone: one process, so many threads.
pub(crate) fn serve_actix(port: u16, threads: usize) -> Result<(), Failure> {
    actix_rt::System::new().block_on(async {
        let pid = async || format!("{}\n", std::process::id());
        let server = HttpServer::new(move || App::new().route("/", web::get().to(pid)));
        server.workers(threads).bind((Ipv4Addr::LOCALHOST, port))?.run().await?;
        Ok(())
    })
}

/// The smallest server there is, on a socket of its own beside others on the same port; ends when its standard input does.
pub(crate) fn serve_tiny(port: u16) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseport(true)?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        let listener = socket.listen(1024)?;
        if let Some(path) = std::env::var_os("PEERS_READY") {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
            std::io::Write::write_all(&mut file, format!("{}\n", std::process::id()).as_bytes())?;
        }
        // A blocking read of a pipe needs a thread; whoever supervises us closes it.
        std::thread::spawn(|| {
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).ok();
        });
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(answer(stream));
        }
    })
}

async fn answer(mut stream: tokio::net::TcpStream) -> std::io::Result<()> {
    let body = format!("{}\n", std::process::id());
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await? > 0 {
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        let closes = request.windows(CLOSE.len()).any(|part| part == CLOSE);
        request.clear();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).await?;
        if closes {
            break;
        }
    }
    stream.shutdown().await
}

const CLOSE: &[u8] = b"Connection: close";
