//! A UDP service: one socket, bound by the master, on which all workers receive.
//!
//! Try it with `nc -u localhost 8085`, and with `kill -9` of a worker in between: what arrives meanwhile waits.

use std::io;
use std::process::ExitCode;

use actix_cluster::{Cluster, ListenError, Worker};

fn main() -> ExitCode {
    Cluster::builder()
        .workers(3)
        .listen_udp("echo", "127.0.0.1:8085")
        .worker(echo)
        .main()
}

async fn echo(worker: Worker) -> Result<(), ListenError> {
    let socket = worker.udp_socket("echo")?;
    let mut buf = vec![0; 65_536];
    // Ends when the worker is told to stop and everything that had arrived by then was received.
    while let Some(received) = socket.next(&mut buf).await {
        if let Err(error) = answer(&worker, &socket, &buf, received).await {
            // About one datagram or one client: the next one is another matter.
            eprintln!("worker {}: {error}", worker.id());
        }
    }
    Ok(())
}

async fn answer(
    worker: &Worker,
    socket: &actix_cluster::UdpSocket,
    buf: &[u8],
    received: io::Result<(usize, std::net::SocketAddr)>,
) -> io::Result<()> {
    let (len, client) = received?;
    let text = String::from_utf8_lossy(&buf[..len]);
    let answer = format!("worker {} heard {text}", worker.id());
    socket.send_to(answer.as_bytes(), client).await?;
    Ok(())
}
