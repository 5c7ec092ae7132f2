//! The kinds of events without their data, and sets of them: what a filter can name.

use serde::{Deserialize, Serialize};

use super::EventKind;

/// The kind of an event, without what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// [`EventKind::Setup`].
    Setup,
    /// [`EventKind::Fork`].
    Fork,
    /// [`EventKind::Online`].
    Online,
    /// [`EventKind::Listening`].
    Listening,
    /// [`EventKind::Ready`].
    Ready,
    /// [`EventKind::AllReady`].
    AllReady,
    /// [`EventKind::Message`].
    Message,
    /// [`EventKind::Output`].
    Output,
    /// [`EventKind::Exiting`].
    Exiting,
    /// [`EventKind::Disconnect`].
    Disconnect,
    /// [`EventKind::Exit`].
    Exit,
    /// [`EventKind::Error`].
    Error,
    /// [`EventKind::RestartScheduled`].
    RestartScheduled,
    /// [`EventKind::GaveUp`].
    GaveUp,
    /// [`EventKind::ReloadStarted`].
    ReloadStarted,
    /// [`EventKind::ReloadFinished`].
    ReloadFinished,
    /// [`EventKind::Scaled`].
    Scaled,
    /// [`EventKind::Recycling`].
    Recycling,
    /// [`EventKind::ShutdownStarted`].
    ShutdownStarted,
    /// [`EventKind::Heartbeat`].
    Heartbeat,
    /// [`EventKind::Unhealthy`].
    Unhealthy,
    /// [`EventKind::Recovered`].
    Recovered,
    /// [`EventKind::Custom`].
    Custom,
    /// [`EventKind::SubscriberLost`].
    SubscriberLost,
    /// [`EventKind::Standby`].
    Standby,
    /// [`EventKind::Promoted`].
    Promoted,
    /// [`EventKind::Lagged`].
    Lagged,
    /// [`EventKind::Rescued`].
    Rescued,
    /// [`EventKind::RequestRefused`].
    RequestRefused,
    /// [`EventKind::OutputDropped`].
    OutputDropped,
}

impl Kind {
    /// The kind as one word, the same as in an event's JSON form.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Fork => "fork",
            Self::Online => "online",
            Self::Listening => "listening",
            Self::Ready => "ready",
            Self::AllReady => "all_ready",
            Self::Message => "message",
            Self::Output => "output",
            Self::Exiting => "exiting",
            Self::Disconnect => "disconnect",
            Self::Exit => "exit",
            Self::Error => "error",
            Self::RestartScheduled => "restart_scheduled",
            Self::GaveUp => "gave_up",
            Self::ReloadStarted => "reload_started",
            Self::ReloadFinished => "reload_finished",
            Self::Scaled => "scaled",
            Self::Recycling => "recycling",
            Self::ShutdownStarted => "shutdown_started",
            Self::Heartbeat => "heartbeat",
            Self::Unhealthy => "unhealthy",
            Self::Recovered => "recovered",
            Self::Custom => "custom",
            Self::SubscriberLost => "subscriber_lost",
            Self::Standby => "standby",
            Self::Promoted => "promoted",
            Self::Lagged => "lagged",
            Self::Rescued => "rescued",
            Self::RequestRefused => "request_refused",
            Self::OutputDropped => "output_dropped",
        }
    }
}

impl EventKind {
    /// The kind without its data.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Setup(_) => Kind::Setup,
            Self::Fork => Kind::Fork,
            Self::Online => Kind::Online,
            Self::Listening(_) => Kind::Listening,
            Self::Ready => Kind::Ready,
            Self::AllReady { .. } => Kind::AllReady,
            Self::Message(_) => Kind::Message,
            Self::Output { .. } => Kind::Output,
            Self::Exiting => Kind::Exiting,
            Self::Disconnect => Kind::Disconnect,
            Self::Exit(_) => Kind::Exit,
            Self::Error(_) => Kind::Error,
            Self::RestartScheduled { .. } => Kind::RestartScheduled,
            Self::GaveUp(_) => Kind::GaveUp,
            Self::ReloadStarted { .. } => Kind::ReloadStarted,
            Self::ReloadFinished { .. } => Kind::ReloadFinished,
            Self::Scaled { .. } => Kind::Scaled,
            Self::Recycling(_) => Kind::Recycling,
            Self::ShutdownStarted => Kind::ShutdownStarted,
            Self::Heartbeat(_) => Kind::Heartbeat,
            Self::Unhealthy(_) => Kind::Unhealthy,
            Self::Recovered => Kind::Recovered,
            Self::Custom(_) => Kind::Custom,
            Self::SubscriberLost { .. } => Kind::SubscriberLost,
            Self::Standby => Kind::Standby,
            Self::Promoted => Kind::Promoted,
            Self::Lagged { .. } => Kind::Lagged,
            Self::Rescued { .. } => Kind::Rescued,
            Self::RequestRefused { .. } => Kind::RequestRefused,
            Self::OutputDropped { .. } => Kind::OutputDropped,
        }
    }

    /// The kind as one word, the same as in the JSON form.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.kind().name()
    }
}

/// A set of kinds; one machine word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kinds(u64);

impl Kinds {
    /// No kind.
    pub const NONE: Self = Self(0);
    /// Every kind, those of later versions included.
    pub const ALL: Self = Self(u64::MAX);
    /// What workers say: `Message` and `Output`. Workers may talk by the million.
    pub const TALK: Self = Self::NONE.with(Kind::Message).with(Kind::Output);
    /// What happens to workers and to the cluster: everything but [`TALK`](Self::TALK).
    pub const LIFECYCLE: Self = Self(!Self::TALK.0);

    /// This set and `kind`.
    #[must_use]
    pub const fn with(self, kind: Kind) -> Self {
        Self(self.0 | Self::bit(kind))
    }

    /// This set without `kind`.
    #[must_use]
    pub const fn without(self, kind: Kind) -> Self {
        Self(self.0 & !Self::bit(kind))
    }

    /// Is `kind` in it?
    #[must_use]
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & Self::bit(kind) != 0
    }

    /// What is in both.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    const fn bit(kind: Kind) -> u64 {
        1 << kind as u8
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<T: IntoIterator<Item = Kind>>(kinds: T) -> Self {
        kinds.into_iter().fold(Self::NONE, Self::with)
    }
}

impl<const N: usize> From<[Kind; N]> for Kinds {
    fn from(kinds: [Kind; N]) -> Self {
        kinds.into_iter().collect()
    }
}

impl From<Kind> for Kinds {
    fn from(kind: Kind) -> Self {
        Self::NONE.with(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_written_as_its_event_is() {
        let event = serde_json::to_value(EventKind::AllReady { workers: 1 }).unwrap();
        assert_eq!(event["event"], EventKind::AllReady { workers: 1 }.name());
        assert_eq!(serde_json::to_value(Kind::AllReady).unwrap(), Kind::AllReady.name());
    }

    #[test]
    fn a_set_has_what_was_put_into_it() {
        let set = Kinds::from([Kind::Exit, Kind::Lagged]).without(Kind::Lagged);
        assert!(set.contains(Kind::Exit) && !set.contains(Kind::Lagged) && !set.contains(Kind::Fork));
        assert!(Kinds::LIFECYCLE.contains(Kind::Lagged) && !Kinds::LIFECYCLE.contains(Kind::Output));
        assert!(Kinds::TALK.contains(Kind::Message) && Kinds::ALL.contains(Kind::Message));
    }
}
