//! Workers that misbehave on purpose, and the cluster they misbehave in: a good worker serves beside them, and the test
//! asks it whether it still does.
//!
//! A fault is performed once, by the first worker of its slot; the successors are good. Bytes go to the channel past the
//! library, by the number that every worker's channel has.

use std::io::{ErrorKind, IoSlice, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use actix_cluster::{
    ClusterBuilder, ClusterHandle, CommandError, EventKind, Message, Program, Settings, StdioMode, Worker,
};
use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use crate::master::Master;
use crate::probe::{self, Order};
use crate::{Deadline, limit};

/// What a worker does wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Is ready, and never runs its loop again: nothing is read, nothing is answered.
    Deaf,
    /// Is ready, writes `bytes` so many times as fast as it can, each time with the count for `{n}`, then is deaf.
    Raw {
        /// What to write; line ends are part of it.
        bytes: String,
        /// How often.
        times: u64,
    },
    /// Is ready, writes a heartbeat that carries so many descriptors, again and again.
    Surplus {
        /// Descriptors with each frame.
        each: usize,
        /// How often.
        times: u64,
    },
    /// Is online and never ready.
    NeverReady,
    /// Is ready, then stopped by `SIGSTOP`.
    Stopped,
    /// Is another program: a shell that runs this, with the channel as descriptor 3.
    Shell(String),
}

/// In a shell: online and ready, as the library says it.
pub const SHELL_READY: &str = r#"printf '{"t":"online","m":{"protocol":1,"pid":1}}\n{"t":"ready"}\n' >&3; "#;

/// In a shell: lives on for ever without a process of its own; ends by signals that it does not ignore.
pub const SHELL_LIVES_ON: &str = r#"mkfifo "fifo.$$"; exec 5<>"fifo.$$"; read line <&5"#;

impl Fault {
    /// Writes `bytes` once.
    #[must_use]
    pub fn raw(bytes: &str) -> Self {
        let (bytes, times) = (bytes.to_owned(), 1);
        Self::Raw { bytes, times }
    }

    async fn perform(self, worker: &Worker) {
        if self == Self::NeverReady {
            return probe::idle(worker).await;
        }
        worker.ready();
        // Once this is answered, everything the library had to say is with the kernel, and the channel is ours.
        let _: u64 = worker
            .call("ping", Duration::from_secs(30))
            .await
            .expect("the master answers");
        match self {
            Self::Raw { bytes, times } => {
                for n in 0..times {
                    write(bytes.replace("{n}", &n.to_string()).as_bytes(), &[]);
                }
            }
            Self::Surplus { each, times } => {
                for _ in 0..times {
                    write(b"{\"t\":\"heartbeat\",\"m\":{\"n\":1}}\n", &vec![0; each]);
                }
            }
            Self::Stopped => raise(Signal::SIGSTOP).expect("a process may stop itself"),
            Self::Deaf | Self::NeverReady | Self::Shell(_) => {}
        }
        loop {
            std::thread::park();
        }
    }
}

/// A cluster whose workers serve, on the listener `tcp` and as the channel's other end, unless they are told a fault.
pub fn cluster() -> ClusterBuilder {
    good(probe::cluster())
}

/// [`cluster`] of which the test sees nothing that a bad worker can say as often as it likes.
pub fn unheard() -> ClusterBuilder {
    good(probe::cluster_showing(|event| match &event.kind {
        EventKind::Message(_) => false,
        EventKind::Listening(_) | EventKind::Error(_) => event.worker.as_ref().is_some_and(|it| it.id.get() == 1),
        _ => true,
    }))
}

/// Makes the workers of a cluster those of [`cluster`].
pub fn good(cluster: ClusterBuilder) -> ClusterBuilder {
    cluster
        .grace(limit(Duration::from_secs(1)))
        .listen("tcp", "127.0.0.1:0")
        .on_message(|_, message| answer(&message))
        .worker(live)
}

/// The worker of [`cluster`].
///
/// # Errors
/// When it cannot have its listener.
pub async fn live(worker: Worker) -> Result<(), actix_cluster::ListenError> {
    let fault = std::env::var(FAULT_VAR).ok().filter(|_| worker.restarts() == 0);
    if let Some(fault) = fault {
        let fault: Fault = serde_json::from_str(&fault).expect("the test names a fault");
        fault.perform(&worker).await;
        return Ok(());
    }
    let mut count = 0_u64;
    let mut held = None;
    worker.on_message(move |message| {
        count += 1;
        match message.parse::<String>().as_deref() {
            Ok("hold") => held = message.reply(),
            Ok("release") => {
                if let Some(reply) = held.take() {
                    reply.ok("held").expect("a text has a JSON form");
                }
            }
            Ok(_) | Err(_) => answer_with(&message, count),
        }
    });
    let serve = |mut connection: actix_cluster::Connection| async move {
        // A client that is gone needs no answer.
        connection
            .write_all(std::process::id().to_string().as_bytes())
            .await
            .ok();
    };
    worker.incoming("tcp")?.serve_with(serve).await;
    Ok(())
}

fn answer(message: &Message) {
    answer_with(message, 0);
}

fn answer_with(message: &Message, count: u64) {
    if let Some(reply) = message.reply() {
        reply.ok(&count).expect("a number has a JSON form");
    }
}

/// Starts one more worker, which performs `fault`.
pub(crate) async fn start(fault: Fault, handle: &ClusterHandle) -> Result<String, CommandError> {
    let Fault::Shell(script) = fault else {
        let fault = serde_json::to_string(&fault).expect("a fault has a JSON form");
        let worker = handle.fork([(FAULT_VAR, fault)]).await?;
        return Ok(format!("forked {}", worker.id()));
    };
    let shell = move |settings: &mut Settings| {
        settings.exec = Program::Path("/bin/sh".into());
        settings.args = Some(vec!["-c".into(), script.into()]);
    };
    handle.setup(shell).await?;
    let worker = handle.fork(Vec::<(String, String)>::new()).await;
    // Its successors are good.
    let same = |settings: &mut Settings| {
        settings.exec = Program::Same;
        settings.args = None;
        settings.stdin = StdioMode::Null;
    };
    handle.setup(same).await?;
    Ok(format!("forked {}", worker?.id()))
}

/// Starts a worker with this fault beside the good ones; its id.
pub fn attack(master: &mut Master, fault: Fault) -> u64 {
    let id = master.ask(&Order::Hostile(fault), "forked ");
    id.parse().expect("an id is a number")
}

/// The good worker of a scenario, number 1.
#[derive(Debug, Clone, Copy)]
pub struct Good {
    pid: u32,
    port: u16,
}

impl Good {
    /// Waits until it is ready.
    ///
    /// # Panics
    /// If it does not get ready.
    pub fn ready(master: &Master) -> Self {
        let pid = master.once(1, "ready").pid();
        let port = master.port();
        Self { pid, port }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// It answers a question, and somebody good answers a connection.
    ///
    /// # Panics
    /// If not.
    pub fn is_up(&self, master: &mut Master) {
        served_by(self.port).expect("connections are served");
        master.ask(&Order::Call(1, "ping".to_owned()), "answer ");
    }

    /// It serves as if nothing were: of five connections, each with a question, most are answered at once. Not all need
    /// be: on a machine with more processes than CPUs even a good worker waits for its turn now and then.
    ///
    /// # Panics
    /// If it does not.
    pub fn serves(&self, master: &mut Master) {
        let mut late = 0;
        for _ in 0..5 {
            let deadline = Deadline::after(limit(REPLY));
            assert_eq!(served_by(self.port), Ok(self.pid));
            master.ask(&Order::Call(1, "ping".to_owned()), "answer ");
            late += u32::from(deadline.is_over());
        }
        if late > 2 {
            master.fail(&format!("the good worker served, but {late} of 5 times slowly"));
        }
    }
}

/// The process that answers a new connection to this port.
///
/// # Errors
/// What the kernel said of the connection.
pub fn served_by(port: u16) -> Result<u32, ErrorKind> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ask = || {
        let mut client = TcpStream::connect_timeout(&address, limit(crate::master::SOON))?;
        client.set_read_timeout(Some(limit(crate::master::SOON)))?;
        let mut text = String::new();
        client.read_to_string(&mut text)?;
        text.parse().map_err(|_| std::io::Error::from(ErrorKind::InvalidData))
    };
    ask().map_err(|error| error.kind())
}

/// Writes to the channel of this process, past the library, for as long as the master takes it.
fn write(mut bytes: &[u8], fds: &[i32]) {
    let mut rights = vec![ControlMessage::ScmRights(fds)];
    if fds.is_empty() {
        rights.clear();
    }
    while !bytes.is_empty() {
        let sent = if rights.is_empty() {
            send(CHANNEL, bytes, MsgFlags::MSG_NOSIGNAL)
        } else {
            sendmsg::<()>(CHANNEL, &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None)
        };
        match sent {
            Ok(sent) => {
                bytes = &bytes[sent..];
                rights.clear();
            }
            // The buffer is full: a moment later it may not be.
            Err(Errno::EAGAIN | Errno::ETOOMANYREFS) => {
                poll(&mut [], PollTimeout::from(1_u8)).ok();
            }
            // The master has closed the channel.
            Err(_) => return,
        }
    }
}

/// How long one question and one connection may take together, whatever another worker does.
const REPLY: Duration = Duration::from_millis(200);

/// Names the fault of a worker, as JSON.
const FAULT_VAR: &str = "ACTIX_CLUSTER_FAULT";

/// The channel's number in every worker.
const CHANNEL: i32 = 3;
