//! Does this kernel really count the bytes of a TCP connection? What survives a kill is judged by these counts, and a
//! system that only looks like Linux may answer every question, with zeros.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::tcp::counted;
use crate::model::rescue::Counted;

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// Each byte counts once.
    Exact,
    /// It does not, for this reason: nothing can be concluded from its counts.
    Wrong(String),
    /// Nobody could be asked (no loopback address here, no descriptor free): as ever.
    Unknown(String),
}

/// Sends a few bytes to and fro on the loopback address, and compares. Takes less than a millisecond, two seconds at worst.
pub(crate) fn probe() -> Counting {
    if std::env::var_os(FORBIDDEN_BY).is_some_and(|value| value == "1") {
        return Counting::Wrong(format!("{FORBIDDEN_BY}=1 says so"));
    }
    let pair = pair(Ipv4Addr::LOCALHOST.into()).or_else(|_| pair(Ipv6Addr::LOCALHOST.into()));
    let (client, server) = match pair {
        Ok(pair) => pair,
        Err(error) => return Counting::Unknown(error.to_string()),
    };
    let place = |what: &str| format!("{what} on the loopback address");
    match compare(&client, &server, |server| counted(server.as_fd())) {
        Ok(None) => Counting::Exact,
        Ok(Some((expected, found))) => {
            Counting::Wrong(place(&format!("{found:?} was counted instead of {expected:?}")))
        }
        Err(error) => Counting::Wrong(place(&error.to_string())),
    }
}

/// The first count that is not what it should be, with that.
fn compare(
    mut client: &TcpStream,
    mut server: &TcpStream,
    count: impl Fn(&TcpStream) -> io::Result<Counted>,
) -> io::Result<Option<(Counted, Counted)>> {
    let mut expected = Counted::default();
    let check = |expected: Counted| count(server).map(|found| (found != expected).then_some((expected, found)));
    if let Some(wrong) = check(expected)? {
        return Ok(Some(wrong));
    }
    client.write_all(b"0123456789")?;
    // All of it: the bytes of one small write travel together.
    wait(server)?;
    expected.waiting = 10;
    if let Some(wrong) = check(expected)? {
        return Ok(Some(wrong));
    }
    server.read_exact(&mut [0; 4])?;
    (expected.waiting, expected.consumed) = (6, 4);
    if let Some(wrong) = check(expected)? {
        return Ok(Some(wrong));
    }
    server.write_all(b"abc")?;
    expected.written = 3;
    if let Some(wrong) = check(expected)? {
        return Ok(Some(wrong));
    }
    wait(client)?;
    client.read_exact(&mut [0; 3])?;
    // Acknowledged by now, mostly, which changes where they are counted and not how many there are.
    check(expected)
}

fn pair(ip: IpAddr) -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(SocketAddr::new(ip, 0))?;
    listener.set_nonblocking(true)?;
    let client = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
    wait(&listener)?;
    let (server, peer) = listener.accept()?;
    if peer != client.local_addr()? {
        return Err(io::Error::other("somebody else connected"));
    }
    server.set_nonblocking(false)?;
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((client, server))
}

fn wait(socket: &impl AsFd) -> io::Result<()> {
    let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], patience)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// The loopback address of a machine that is not overwhelmed answers at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// Programs that run on such a system are tested by this, on every kernel.
const FORBIDDEN_BY: &str = "ACTIX_CLUSTER_NO_COUNTING";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_counts_and_one_that_shows_zeros_is_found_out() {
        assert_eq!(probe(), Counting::Exact);
        {
            let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
            let (client, server) = pair(ip).unwrap();
            let (expected, found) = compare(&client, &server, |_| Ok(Counted::default())).unwrap().unwrap();
            assert_eq!((expected.waiting, found), (10, Counted::default()));
            let (client, server) = pair(ip).unwrap();
            // One that knows what waits, and has never heard of what was written and read.
            let half = |server: &TcpStream| {
                counted(server.as_fd()).map(|counted| Counted {
                    written: 0,
                    consumed: 0,
                    ..counted
                })
            };
            let (expected, _) = compare(&client, &server, half).unwrap().unwrap();
            assert_eq!(expected.consumed, 4);
        }
    }
}
