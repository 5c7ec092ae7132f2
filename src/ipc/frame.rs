//! What master and worker say to each other: the only wire types, protocol version 1.
//!
//! One frame is one line of JSON, `{"t":"<kind>","id":N?,"fds":K?,"m":<body>?}`. Unknown keys are ignored, so that a newer
//! side may say more; an unknown kind is an error. How frames become lines is in
//! [`super::encode`], the way back in [`super::codec`].

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::activation::Activation;
use super::beat::HeartbeatBody;
use super::codec::{FrameError, RawFrame};
use super::encode::{EncodeError, encode_frame};
use crate::model::{
    BoundAddress, Heartbeat, ListenError, ListenKey, ListenOptions, Payload, Secret, Slot, WorkerStats,
};

/// The version both sides must speak.
pub(crate) const PROTOCOL: u32 = 1;

/// The most that a worker may announce about itself: the master keeps it for as long as the worker's record.
pub(crate) const ANNOUNCEMENT_MAX: usize = 16 << 10;

/// The most descriptors one frame may carry.
pub(crate) const FRAME_FDS_MAX: usize = 64;

/// What a worker says.
#[derive(Clone, Debug)]
pub(crate) enum ToMaster {
    /// The library runs and reads its channel.
    Online { protocol: u32, pid: u32 },
    /// The worker accepts on this listener; `adopts`: it can take more sockets for the same key.
    Listening {
        key: ListenKey,
        address: BoundAddress,
        adopts: bool,
    },
    /// The worker has booted without a slot and waits for one.
    Standby,
    /// The worker can serve.
    Ready,
    /// The worker stops of its own will.
    Leaving,
    /// What it says about itself, at most [`ANNOUNCEMENT_MAX`] bytes.
    Announce(Payload),
    /// Its counters.
    Stats(WorkerStats),
    /// Its future failed, in words: it accepts nothing any more, and ends.
    Failed(String),
    /// It wants a listener; answered by `Bound` with the same id.
    Bind {
        id: u64,
        key: ListenKey,
        cwd: Option<PathBuf>,
        options: ListenOptions,
    },
    /// It closed this listener.
    Release { key: ListenKey },
    /// What the workers of a listener are to share, if nobody has said so before; answered by `Reply` with what they do share.
    Secret { id: u64, key: ListenKey, offered: Secret },
    /// Its loops turn.
    Heartbeat(Heartbeat),
    /// It will be silent for so long.
    MoreTime(Duration),
    /// From user to user.
    Message(Payload),
    /// From user to user, wants an answer.
    Call { id: u64, payload: Payload },
    /// The answer to the master's call.
    Reply { id: u64, answer: Result<Payload, String> },
}

/// What the master says.
#[derive(Clone, Debug)]
pub(crate) enum ToWorker {
    /// Go on accepting for a while, then drain and end within the grace.
    Stop { grace_ms: u64, lame_duck_ms: u64 },
    /// A worker that stands by has a slot from now on. Carries the slot's sockets.
    Activate(Activation),
    /// The answer to `Bind`; with `Ok` comes one descriptor.
    Bound {
        id: u64,
        answer: Result<BoundListener, ListenError>,
    },
    /// Accept on this socket too: it belongs to a slot without a worker. Carries one descriptor.
    Adopt { key: ListenKey, slot: Slot },
    /// Stop accepting on what was adopted.
    Unadopt { key: ListenKey, slot: Slot },
    /// From user to user.
    Message(Payload),
    /// From user to user, wants an answer.
    Call { id: u64, payload: Payload },
    /// The answer to the worker's call.
    Reply { id: u64, answer: Result<Payload, String> },
}

/// A listener the master made or had already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BoundListener {
    pub(crate) key: ListenKey,
    pub(crate) address: BoundAddress,
    /// Its connections are handed over: the socket is not to be accepted on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) handed: bool,
}

/// A frame that came in, with its descriptors.
#[derive(Debug)]
pub(crate) struct Incoming<T> {
    pub(crate) frame: T,
    /// As many as the frame declared, or none if they were lost.
    pub(crate) fds: Vec<OwnedFd>,
    /// The frame declared descriptors and this process had no room for them: not the peer's fault. What must have one is
    /// to be answered with a refusal.
    pub(crate) fds_lost: bool,
}

/// One direction of the channel.
pub(crate) trait Wire: Sized {
    /// A user's message, the frame worth a short cut.
    fn message(payload: Payload) -> Self;

    /// A user's question.
    fn call(id: u64, payload: Payload) -> Self;

    /// The answer to a question of the other side.
    fn reply(id: u64, answer: Result<Payload, String>) -> Self;

    fn decode(raw: RawFrame<'_>) -> Result<Self, FrameError>;

    /// Appends the frame as one line; on an error `out` is as it was.
    fn encode(&self, fds: usize, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// How many descriptors this frame may carry.
    fn fds_allowed(&self) -> RangeInclusive<usize>;

    /// Does it count against the bound for user traffic? Answers do not: who asked has a right to hear.
    fn is_user(&self) -> bool;
}

impl Wire for ToMaster {
    fn message(payload: Payload) -> Self {
        Self::Message(payload)
    }

    fn call(id: u64, payload: Payload) -> Self {
        Self::Call { id, payload }
    }

    fn reply(id: u64, answer: Result<Payload, String>) -> Self {
        Self::Reply { id, answer }
    }

    fn decode(raw: RawFrame<'_>) -> Result<Self, FrameError> {
        Ok(match raw.kind {
            "online" => {
                let OnlineBody { protocol, pid } = raw.parse()?;
                Self::Online { protocol, pid }
            }
            "listening" => {
                let body: ListeningBody<'_> = raw.parse()?;
                Self::Listening {
                    key: body.key.into_owned(),
                    address: body.address.into_owned(),
                    adopts: body.adopts,
                }
            }
            "standby" => Self::Standby,
            "ready" => Self::Ready,
            "leaving" => Self::Leaving,
            "announce" => Self::Announce(raw.payload()),
            "stats" => Self::Stats(raw.parse()?),
            "failed" => Self::Failed(raw.parse()?),
            "bind" => {
                let body: BindBody<'_> = raw.parse()?;
                Self::Bind {
                    id: raw.id()?,
                    key: body.key.into_owned(),
                    cwd: body.cwd.map(Cow::into_owned),
                    options: body.options.into_owned(),
                }
            }
            "release" => Self::Release {
                key: raw.parse::<KeyBody<'_>>()?.key.into_owned(),
            },
            "secret" => {
                let SecretBody { key, offered } = raw.parse()?;
                let (id, key, offered) = (raw.id()?, key.into_owned(), offered.into_owned());
                Self::Secret { id, key, offered }
            }
            "heartbeat" => {
                let body: HeartbeatBody<'_> = raw.parse()?;
                if !body.is_bounded() {
                    return Err(raw.bad_body("too many loops, or a text of one is too long"));
                }
                Self::Heartbeat(body.into())
            }
            "more_time" => Self::MoreTime(Duration::from_millis(raw.parse::<MoreTimeBody>()?.ms)),
            "msg" => Self::Message(raw.payload()),
            "call" => Self::Call {
                id: raw.id()?,
                payload: raw.payload(),
            },
            "reply" => Self::Reply {
                id: raw.id()?,
                answer: raw.answer()?,
            },
            unknown => return Err(FrameError::unknown_kind(unknown)),
        })
    }

    fn encode(&self, fds: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let put = &mut |kind, id, body: &dyn Body| encode_frame(kind, id, fds, Some(body), out);
        match self {
            Self::Online { protocol, pid } => {
                let (protocol, pid) = (*protocol, *pid);
                put("online", None, &OnlineBody { protocol, pid })
            }
            Self::Listening { key, address, adopts } => {
                let body = ListeningBody {
                    key: Cow::Borrowed(key),
                    address: Cow::Borrowed(address),
                    adopts: *adopts,
                };
                put("listening", None, &body)
            }
            Self::Standby => encode_frame("standby", None, fds, None, out),
            Self::Ready => encode_frame("ready", None, fds, None, out),
            Self::Leaving => encode_frame("leaving", None, fds, None, out),
            Self::Announce(payload) => put("announce", None, payload),
            Self::Stats(stats) => put("stats", None, stats),
            Self::Failed(why) => put("failed", None, why),
            Self::Bind { id, key, cwd, options } => {
                let body = BindBody {
                    key: Cow::Borrowed(key),
                    cwd: cwd.as_deref().map(Cow::Borrowed),
                    options: Cow::Borrowed(options),
                };
                put("bind", Some(*id), &body)
            }
            Self::Release { key } => put(
                "release",
                None,
                &KeyBody {
                    key: Cow::Borrowed(key),
                },
            ),
            Self::Secret { id, key, offered } => put("secret", Some(*id), &SecretBody::new(key, offered)),
            Self::Heartbeat(beat) => put("heartbeat", None, &HeartbeatBody::from(beat)),
            Self::MoreTime(time) => {
                let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                put("more_time", None, &MoreTimeBody { ms })
            }
            Self::Message(payload) => put("msg", None, payload),
            Self::Call { id, payload } => put("call", Some(*id), payload),
            Self::Reply { id, answer } => put("reply", Some(*id), &Answer::of(answer)),
        }
    }

    fn fds_allowed(&self) -> RangeInclusive<usize> {
        match self {
            Self::Message(_) | Self::Call { .. } | Self::Reply { .. } => 0..=FRAME_FDS_MAX,
            Self::Online { .. }
            | Self::Listening { .. }
            | Self::Standby
            | Self::Ready
            | Self::Leaving
            | Self::Announce(_)
            | Self::Stats(_)
            | Self::Failed(_)
            | Self::Bind { .. }
            | Self::Release { .. }
            | Self::Secret { .. }
            | Self::Heartbeat(_)
            | Self::MoreTime(_) => 0..=0,
        }
    }

    fn is_user(&self) -> bool {
        matches!(self, Self::Message(_) | Self::Call { .. })
    }
}

impl Wire for ToWorker {
    fn message(payload: Payload) -> Self {
        Self::Message(payload)
    }

    fn call(id: u64, payload: Payload) -> Self {
        Self::Call { id, payload }
    }

    fn reply(id: u64, answer: Result<Payload, String>) -> Self {
        Self::Reply { id, answer }
    }

    fn decode(raw: RawFrame<'_>) -> Result<Self, FrameError> {
        Ok(match raw.kind {
            "stop" => {
                let StopBody { grace_ms, lame_duck_ms } = raw.parse()?;
                Self::Stop { grace_ms, lame_duck_ms }
            }
            "activate" => Self::Activate(raw.parse()?),
            "bound" => Self::Bound {
                id: raw.id()?,
                answer: raw.parse::<Answer<BoundListener, ListenError>>()?.into_result(),
            },
            "adopt" => {
                let SlotBody { key, slot } = raw.parse()?;
                let key = key.into_owned();
                Self::Adopt { key, slot }
            }
            "unadopt" => {
                let SlotBody { key, slot } = raw.parse()?;
                let key = key.into_owned();
                Self::Unadopt { key, slot }
            }
            "msg" => Self::Message(raw.payload()),
            "call" => Self::Call {
                id: raw.id()?,
                payload: raw.payload(),
            },
            "reply" => Self::Reply {
                id: raw.id()?,
                answer: raw.answer()?,
            },
            unknown => return Err(FrameError::unknown_kind(unknown)),
        })
    }

    fn encode(&self, fds: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let put = &mut |kind, id, body: &dyn Body| encode_frame(kind, id, fds, Some(body), out);
        match self {
            Self::Stop { grace_ms, lame_duck_ms } => {
                let (grace_ms, lame_duck_ms) = (*grace_ms, *lame_duck_ms);
                put("stop", None, &StopBody { grace_ms, lame_duck_ms })
            }
            Self::Activate(activation) => put("activate", None, activation),
            Self::Bound { id, answer } => put("bound", Some(*id), &Answer::of(answer)),
            Self::Adopt { key, slot } => put("adopt", None, &SlotBody::new(key, slot)),
            Self::Unadopt { key, slot } => put("unadopt", None, &SlotBody::new(key, slot)),
            Self::Message(payload) => put("msg", None, payload),
            Self::Call { id, payload } => put("call", Some(*id), payload),
            Self::Reply { id, answer } => put("reply", Some(*id), &Answer::of(answer)),
        }
    }

    fn fds_allowed(&self) -> RangeInclusive<usize> {
        match self {
            Self::Message(_) | Self::Call { .. } | Self::Reply { .. } => 0..=FRAME_FDS_MAX,
            Self::Activate(activation) => activation.fds(),
            Self::Adopt { .. } | Self::Bound { answer: Ok(_), .. } => 1..=1,
            Self::Stop { .. } | Self::Bound { answer: Err(_), .. } | Self::Unadopt { .. } => 0..=0,
        }
    }

    fn is_user(&self) -> bool {
        matches!(self, Self::Message(_) | Self::Call { .. })
    }
}

/// A body that can be written without knowing its type: one copy of the encoder instead of one for each body.
pub(super) trait Body {
    fn write(&self, out: &mut dyn std::io::Write) -> serde_json::Result<()>;
}

impl<T: Serialize> Body for T {
    fn write(&self, out: &mut dyn std::io::Write) -> serde_json::Result<()> {
        serde_json::to_writer(out, self)
    }
}

/// How an answer stands on the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer<T, E> {
    Ok(T),
    Err(E),
}

impl<'a, T, E> Answer<&'a T, &'a E> {
    fn of(answer: &'a Result<T, E>) -> Self {
        match answer {
            Ok(value) => Self::Ok(value),
            Err(why) => Self::Err(why),
        }
    }
}

impl<T, E> Answer<T, E> {
    pub(super) fn into_result(self) -> Result<T, E> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Err(why) => Err(why),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct OnlineBody {
    protocol: u32,
    pid: u32,
}

#[derive(Serialize, Deserialize)]
struct ListeningBody<'a> {
    key: Cow<'a, ListenKey>,
    address: Cow<'a, BoundAddress>,
    #[serde(default)]
    adopts: bool,
}

#[derive(Serialize, Deserialize)]
struct BindBody<'a> {
    key: Cow<'a, ListenKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cwd: Option<Cow<'a, Path>>,
    #[serde(default)]
    options: Cow<'a, ListenOptions>,
}

#[derive(Serialize, Deserialize)]
struct KeyBody<'a> {
    key: Cow<'a, ListenKey>,
}

#[derive(Serialize, Deserialize)]
struct SecretBody<'a> {
    key: Cow<'a, ListenKey>,
    offered: Cow<'a, Secret>,
}

impl<'a> SecretBody<'a> {
    fn new(key: &'a ListenKey, offered: &'a Secret) -> Self {
        Self {
            key: Cow::Borrowed(key),
            offered: Cow::Borrowed(offered),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct MoreTimeBody {
    ms: u64,
}

#[derive(Serialize, Deserialize)]
struct StopBody {
    grace_ms: u64,
    /// A master that does not know of it wants none.
    #[serde(default)]
    lame_duck_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct SlotBody<'a> {
    key: Cow<'a, ListenKey>,
    slot: Slot,
}

impl<'a> SlotBody<'a> {
    fn new(key: &'a ListenKey, slot: &'a Slot) -> Self {
        Self {
            key: Cow::Borrowed(key),
            slot: slot.clone(),
        }
    }
}
