//! What a master and its zygote say to each other: one packet for each request, one for each answer.
//!
//! Both ends are usually of one build, but a reload may bring a program with another version of this crate, so the first
//! answer carries [`VERSION`]. Numbers are in the machine's own order: both ends are on it. Not here: who sends it.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

/// The version of these packets. A zygote of another one is of no use.
pub(crate) const VERSION: u32 = 1;

/// The longest request: what a socket buffer of the usual size takes in one piece. A longer environment is for `exec`.
pub(crate) const REQUEST_LEN_MAX: usize = 128 << 10;

/// The target of the descriptor that is the directory to start from, and no descriptor of the worker's.
pub(crate) const DIRECTORY: RawFd = -1;

/// How many limits the kernel has, `RLIMIT_CPU` to `RLIMIT_RTTIME`.
pub(crate) const LIMITS: usize = 16;

/// One limit: soft and hard.
pub(crate) type Limit = (u64, u64);

/// A worker to be made; its descriptors ride on the packet.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// Counts from 1.
    pub number: u32,
    /// The master's own limits, which its children inherit.
    pub limits: [Limit; LIMITS],
    /// What becomes of the descriptors that come along, in their order.
    pub targets: &'a [RawFd],
    /// Standard streams that become `/dev/null`.
    pub null: &'a [RawFd],
    /// Standard streams that the master has closed.
    pub closed: &'a [RawFd],
    /// Where to go, from the master's own directory.
    pub directory: Option<&'a CStr>,
    /// All of it, the worker's contract included.
    pub environment: &'a [CString],
}

/// A request as the zygote reads it; its texts lie in the packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted<'a> {
    pub number: u32,
    pub limits: [Limit; LIMITS],
    pub targets: Vec<RawFd>,
    pub null: Vec<RawFd>,
    pub closed: Vec<RawFd>,
    pub directory: Option<&'a CStr>,
    pub environment: Vec<&'a CStr>,
}

/// What a zygote says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It waits for requests of this version.
    Ready { version: u32 },
    /// It cannot be a zygote, and ends.
    Unfit(Unfit),
    /// A worker was made.
    Made { number: u32, pid: i32 },
    /// No worker was made: the kernel's errno.
    Failed { number: u32, errno: i32 },
}

/// Why a program cannot be a zygote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Something before `main` has started a thread, which a copy would not have.
    Threads,
    /// A copy's thread would not know its own number.
    ThreadNumber,
    /// The memory for notes cannot be mapped.
    Memory,
}

impl Request<'_> {
    /// The packet.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let streams = |fds: &[RawFd]| fds.iter().fold(0_u32, |bits, fd| bits | 1 << fd.unsigned_abs());
        let mut packet = Vec::with_capacity(4096);
        let has_directory = u32::from(self.directory.is_some());
        let counts = [self.targets.len(), self.environment.len()].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        let head = [
            self.number,
            streams(self.null),
            streams(self.closed),
            has_directory,
            counts[0],
            counts[1],
        ];
        head.iter()
            .for_each(|number| packet.extend_from_slice(&number.to_ne_bytes()));
        for (soft, hard) in self.limits {
            packet.extend_from_slice(&soft.to_ne_bytes());
            packet.extend_from_slice(&hard.to_ne_bytes());
        }
        self.targets
            .iter()
            .for_each(|target| packet.extend_from_slice(&target.to_ne_bytes()));
        for text in self
            .directory
            .into_iter()
            .chain(self.environment.iter().map(CString::as_c_str))
        {
            packet.extend_from_slice(text.to_bytes_with_nul());
        }
        packet
    }
}

impl<'a> Wanted<'a> {
    /// `None` for what is no request, or was cut.
    pub(crate) fn decode(packet: &'a [u8]) -> Option<Self> {
        let mut rest = Reader(packet);
        let [number, null, closed, has_directory, targets, texts] =
            [(); 6].map(|()| rest.array().map(u32::from_ne_bytes));
        let mut limits = [(0, 0); LIMITS];
        for limit in &mut limits {
            *limit = (
                rest.array().map(u64::from_ne_bytes)?,
                rest.array().map(u64::from_ne_bytes)?,
            );
        }
        let targets = (0..targets?).map(|_| rest.array().map(RawFd::from_ne_bytes));
        let targets = targets.collect::<Option<Vec<_>>>()?;
        let directory = match has_directory? {
            0 => None,
            _ => Some(rest.text()?),
        };
        let environment = (0..texts?).map(|_| rest.text()).collect::<Option<Vec<_>>>()?;
        let streams = |bits: u32| (0..3).filter(|fd| bits & 1 << fd != 0).collect();
        rest.0.is_empty().then_some(Self {
            number: number?,
            limits,
            targets,
            null: streams(null?),
            closed: streams(closed?),
            directory,
            environment,
        })
    }
}

/// The rest of a packet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn text(&mut self) -> Option<&'a CStr> {
        let text = CStr::from_bytes_until_nul(self.0).ok()?;
        self.0 = &self.0[text.to_bytes_with_nul().len()..];
        Some(text)
    }
}

impl Reply {
    /// The packet.
    pub(crate) fn encode(self) -> [u8; REPLY_LEN] {
        let words = match self {
            Self::Ready { version } => [0, version, 0],
            Self::Unfit(Unfit::Threads) => [1, 0, 0],
            Self::Unfit(Unfit::ThreadNumber) => [2, 0, 0],
            Self::Unfit(Unfit::Memory) => [5, 0, 0],
            Self::Made { number, pid } => [3, number, pid.cast_unsigned()],
            Self::Failed { number, errno } => [4, number, errno.cast_unsigned()],
        };
        let mut packet = [0; REPLY_LEN];
        for (place, word) in packet.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        packet
    }

    /// `None` for what is no answer.
    pub(crate) fn decode(packet: &[u8]) -> Option<Self> {
        let mut rest = Reader(packet);
        let [kind, number, value] = [(); 3].map(|()| rest.array().map(u32::from_ne_bytes));
        let (number, value) = (number?, value?);
        Some(match kind? {
            0 => Self::Ready { version: number },
            1 => Self::Unfit(Unfit::Threads),
            2 => Self::Unfit(Unfit::ThreadNumber),
            3 => Self::Made {
                number,
                pid: value.cast_signed(),
            },
            4 => Self::Failed {
                number,
                errno: value.cast_signed(),
            },
            5 => Self::Unfit(Unfit::Memory),
            _ => return None,
        })
    }
}

/// Three words.
const REPLY_LEN: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_arrives_whole_or_not_at_all() {
        let environment = [c"A=1", c"B=\xff", c""].map(CString::from);
        let mut limits = [(1024, u64::MAX); LIMITS];
        limits[3] = (0, 7);
        let request = Request {
            number: 9,
            limits,
            targets: &[3, 4, DIRECTORY, 1],
            null: &[0, 2],
            closed: &[1],
            directory: Some(c"/there"),
            environment: &environment,
        };
        let packet = request.encode();
        let wanted = Wanted::decode(&packet).unwrap();
        assert_eq!((wanted.number, wanted.limits), (9, limits));
        assert_eq!(
            (&wanted.targets[..], &wanted.null[..], &wanted.closed[..]),
            (&[3, 4, -1, 1][..], &[0, 2][..], &[1][..])
        );
        assert_eq!(wanted.directory, Some(c"/there"));
        assert_eq!(
            wanted.environment,
            environment.iter().map(CString::as_c_str).collect::<Vec<_>>()
        );
        for end in 0..packet.len() {
            assert_eq!(Wanted::decode(&packet[..end]), None, "cut at {end}");
        }
        assert_eq!(Wanted::decode(&[&packet[..], b"x"].concat()), None);
    }

    #[test]
    fn a_reply_arrives_whole_or_not_at_all() {
        for reply in [
            Reply::Ready { version: VERSION },
            Reply::Unfit(Unfit::Threads),
            Reply::Unfit(Unfit::ThreadNumber),
            Reply::Unfit(Unfit::Memory),
            Reply::Made { number: 3, pid: 32_767 },
            Reply::Failed {
                number: u32::MAX,
                errno: 11,
            },
        ] {
            let packet = reply.encode();
            assert_eq!(Reply::decode(&packet), Some(reply));
            assert_eq!(Reply::decode(&packet[..REPLY_LEN - 1]), None);
        }
        assert_eq!(Reply::decode(&[9; REPLY_LEN]), None);
    }
}
