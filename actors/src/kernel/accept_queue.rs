//! How many connections wait to be accepted, as `/proc/net/tcp` and `tcp6` tell of listening sockets.
//!
//! In a row of state `0A` (LISTEN) the receive queue is the length of the accept queue (`sk_ack_backlog`, since Linux 2.6).
//! Listening sockets come first in the file, so reading ends at the first row of another state, however many connections
//! there are. An exact address belongs to one cluster: the core lets no second one listen there.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The queue of each socket that listens on exactly this address, in this network namespace.
pub(crate) fn depths(address: SocketAddr) -> Vec<u32> {
    let path = if address.is_ipv4() {
        "/proc/net/tcp"
    } else {
        "/proc/net/tcp6"
    };
    File::open(path).map_or_else(|_| Vec::new(), |file| listening(BufReader::new(file), address))
}

fn listening(table: impl BufRead, address: SocketAddr) -> Vec<u32> {
    let rows = table.lines().skip(1).map_while(Result::ok).map_while(|line| row(&line));
    rows.take(SOCKETS_MAX)
        .filter(|(local, _)| *local == address)
        .map(|(_, waiting)| waiting)
        .collect()
}

/// Address and queue of a listening socket; `None` for a row of another state.
fn row(line: &str) -> Option<(SocketAddr, u32)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _remote, state, queues) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    if state != "0A" {
        return None;
    }
    let (ip, port) = local.rsplit_once(':')?;
    let (_sending, waiting) = queues.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let waiting = u32::from_str_radix(waiting, 16).ok()?;
    Some((SocketAddr::new(self::ip(ip)?, port), waiting))
}

/// The kernel prints each four bytes as one number in the byte order of the machine.
fn ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let number = u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(number.to_ne_bytes())
    };
    if text.len() == 8 {
        return Some(IpAddr::V4(Ipv4Addr::from(word(0)?)));
    }
    let words = [word(0)?, word(1)?, word(2)?, word(3)?];
    let bytes: [u8; 16] = words.concat().try_into().ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(bytes)))
}

/// As many rows as are looked at.
const SOCKETS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// The kernel of this machine is honest: what waits is counted, what was accepted is not, and so for both families.
    #[test]
    fn the_kernel_tells_the_queue_of_a_listening_socket() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host) else {
                eprintln!("skipped: {host} is not available");
                continue;
            };
            let address = listener.local_addr().unwrap();
            assert_eq!(depths(address), [0]);
            let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
            assert_eq!(depths(address), [3]);
            listener.accept().unwrap();
            assert_eq!(depths(address), [2]);
            // Who gives up waiting is still in the queue.
            drop(clients);
            assert_eq!(depths(address), [2]);
            drop(listener);
            assert_eq!(depths(address), [0_u32; 0]);
        }
    }

    #[test]
    fn a_table_is_read_up_to_its_first_connection() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000005 00:00000000 0 0 0 1 1\n\
            1: 0200007F:1F90 00000000:0000 0A 00000000:00000009 00:00000000 0 0 0 2 1\n\
            2: 0100007F:1F90 00000000:0000 0A 00000000:00000010 00:00000000 0 0 0 3 1\n\
            3: 0100007F:1F90 0100007F:A804 01 00000000:00000077 00:00000000 0 0 0 0 1\n\
            4: 0100007F:1F90 00000000:0000 0A 00000000:00000001 00:00000000 0 0 0 4 1\n";
        if cfg!(target_endian = "little") {
            assert_eq!(listening(table.as_bytes(), "127.0.0.1:8080".parse().unwrap()), [5, 16]);
        }
        for odd in [
            "",
            "head\n",
            "head\nx\n",
            "head\n0: zz:1F90 0:0 0A 0:0\n",
            "head\n0: 0100007F 0:0 0A 00\n",
        ] {
            assert!(listening(odd.as_bytes(), "127.0.0.1:8080".parse().unwrap()).is_empty());
        }
    }
}
