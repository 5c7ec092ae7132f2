//! What is left of a cluster, asked of the kernel: processes, zombies, open descriptors, memory.
//!
//! Every process of a scenario inherits [`TOKEN_VAR`] with the scenario's random value; whoever still carries it after the
//! end was left behind. The kernel shows the environment a process was *started* with, so scrubbing it hides nobody.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// The variable that marks the processes of a scenario.
pub const TOKEN_VAR: &str = "ACTIX_CLUSTER_TEST";

/// A process as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// Its name, at most 15 bytes.
    pub comm: String,
    /// `R` running, `S` sleeping, `D` in the kernel, `T` stopped, `Z` dead and not reaped.
    pub state: char,
    /// The process id of its parent.
    pub parent: u32,
}

/// Every process of this user that was started with the token in its environment, this one excepted.
///
/// A zombie has no environment any more: [`zombies_of`] finds those.
///
/// # Errors
/// When the list of processes cannot be read; a process that ends while we look is simply not listed.
pub fn carrying(token: &str) -> io::Result<Vec<Process>> {
    let wanted = format!("{TOKEN_VAR}={token}");
    let is_marked = |pid: u32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    let marked = pids()?
        .into_iter()
        .filter(|&pid| pid != std::process::id() && is_marked(pid));
    Ok(marked.filter_map(process).collect())
}

/// The children of `parent`, the dead ones included.
///
/// # Errors
/// When the list of processes cannot be read.
pub fn children_of(parent: u32) -> io::Result<Vec<Process>> {
    Ok(pids()?
        .into_iter()
        .filter_map(process)
        .filter(|process| process.parent == parent)
        .collect())
}

/// The children of `parent` that are dead and not reaped.
///
/// # Errors
/// When the list of processes cannot be read.
pub fn zombies_of(parent: u32) -> io::Result<Vec<Process>> {
    Ok(children_of(parent)?
        .into_iter()
        .filter(|process| process.state == 'Z')
        .collect())
}

/// The process with this id, if there is one.
#[must_use]
pub fn process(pid: u32) -> Option<Process> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether every thread of a process stands still: only then has the kernel stopped the process.
#[must_use]
pub fn is_stopped(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let states = tasks.map(|task| parse_stat(&fs::read_to_string(task.ok()?.path().join("stat")).ok()?));
    let mut states = states.peekable();
    states.peek().is_some() && states.all(|task| task.is_some_and(|task| task.state == 'T'))
}

/// How many descriptors a process holds open.
///
/// # Errors
/// When there is no such process, or it belongs to another user.
pub fn open_fds(pid: u32) -> io::Result<usize> {
    let count = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    // Looking at oneself takes one descriptor more.
    Ok(if pid == std::process::id() { count - 1 } else { count })
}

/// The memory of a process that is in RAM, in KiB; 0 for a zombie.
///
/// # Errors
/// When there is no such process.
pub fn rss_kib(pid: u32) -> io::Result<u64> {
    Ok(parse_rss(&fs::read_to_string(format!("/proc/{pid}/status"))?))
}

/// How many sockets listen on exactly this address.
///
/// # Panics
/// When the kernel's table of sockets cannot be read.
#[must_use]
pub fn listening_sockets(address: SocketAddr) -> usize {
    let (table, octets) = match address.ip() {
        IpAddr::V4(ip) => ("/proc/net/tcp", ip.octets().to_vec()),
        IpAddr::V6(ip) => ("/proc/net/tcp6", ip.octets().to_vec()),
    };
    // The table shows words of the machine's own byte order.
    let words = octets
        .chunks(4)
        .map(|word| u32::from_ne_bytes(word.try_into().expect("four bytes each")));
    let host: String = words.map(|word| format!("{word:08X}")).collect();
    let local = format!("{host}:{:04X}", address.port());
    let table = fs::read_to_string(table).expect("/proc is mounted");
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields
        .filter(|fields| fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&LISTEN))
        .count()
}

/// The state of a listening socket in the kernel's table.
const LISTEN: &str = "0A";

fn pids() -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(pids)
}

/// `1 (a name) S 0 …`: the name may itself hold spaces and parentheses, so its end is the last one.
fn parse_stat(line: &str) -> Option<Process> {
    let (pid, rest) = line.split_once(" (")?;
    let (comm, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Process {
        pid: pid.parse().ok()?,
        comm: comm.to_owned(),
        state,
        parent,
    })
}

fn parse_rss(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next())
        .and_then(|figure| figure.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::Deadline;

    #[test]
    fn a_listening_socket_is_counted_until_it_is_closed() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(local) else {
                continue;
            };
            let address = listener.local_addr().unwrap();
            assert_eq!(listening_sockets(address), 1);
            drop(listener);
            assert_eq!(listening_sockets(address), 0);
        }
    }

    #[test]
    fn a_name_with_parentheses_is_read_whole() {
        let process = parse_stat("12 (a) b (c) Z 7 12 12 0\n").unwrap();
        assert_eq!(
            process,
            Process {
                pid: 12,
                comm: "a) b (c".to_owned(),
                state: 'Z',
                parent: 7
            }
        );
        assert_eq!(parse_stat("12 (cut"), None);
        assert_eq!(parse_rss("Name:\tx\nVmRSS:\t    1234 kB\n"), 1234);
    }

    #[test]
    fn a_marked_child_is_found_as_long_as_it_lives() {
        let token = format!("leftovers-{}", std::process::id());
        let mut child = Command::new("sh")
            .args(["-c", "echo up; read line"])
            .env(TOKEN_VAR, &token)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Before the exec the child still shows our environment; its first word comes after.
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let found: Vec<u32> = carrying(&token).unwrap().iter().map(|process| process.pid).collect();
        assert_eq!(found, [child.id()]);
        assert!(rss_kib(child.id()).unwrap() > 0 && open_fds(child.id()).unwrap() >= 3);

        child.kill().unwrap();
        let deadline = Deadline::after(crate::limit(std::time::Duration::from_secs(5)));
        while zombies_of(std::process::id())
            .unwrap()
            .iter()
            .all(|process| process.pid != child.id())
        {
            assert!(!deadline.is_over(), "the killed child never became a zombie");
        }
        child.wait().unwrap();
        assert_eq!(process(child.id()), None);
        assert!(carrying(&token).unwrap().is_empty());
    }

    #[test]
    fn an_opened_file_counts_as_one_descriptor_more() {
        // Other tests of this process open and close files too: a process of its own is quiet.
        let script = "exec 9</dev/null; echo up; read line; exec 9<&-; echo down; read line";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut words = child.stdout.take().unwrap();
        words.read_exact(&mut [0; 3]).unwrap();
        let open = open_fds(child.id()).unwrap();
        io::Write::write_all(child.stdin.as_mut().unwrap(), b"on\n").unwrap();
        words.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(open_fds(child.id()).unwrap(), open - 1);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
