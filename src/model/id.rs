//! Identities: which process, which place, which version.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One process of the cluster, for ever.
///
/// Counts from 1 and is never reused while the master lives (Node's `worker.id`), so a late message or signal can never
/// reach a successor by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(u64);

impl WorkerId {
    /// The id of the first worker a master starts.
    pub const FIRST: Self = Self(1);

    /// The id with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number, from 1.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The id that the next process gets.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The version of the code and configuration a worker runs; raised by each reload, 0 at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a `WorkerSpec`; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpecName(Arc<str>);

impl SpecName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: AsRef<str>> From<T> for SpecName {
    fn from(name: T) -> Self {
        Self(Arc::from(name.as_ref()))
    }
}

impl fmt::Display for SpecName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A stable place that is filled by one worker after the other.
///
/// Restarts, back-off and metrics belong to the slot, not to the process in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// The spec it belongs to.
    pub spec: SpecName,
    /// Its number within the spec, from 0; 2³² − 1 of what is [no place](Self::is_standby).
    pub index: u32,
}

impl Slot {
    /// The slot number `index` of `spec`.
    #[must_use]
    pub fn new(spec: impl Into<SpecName>, index: u32) -> Self {
        Self {
            spec: spec.into(),
            index,
        }
    }

    /// What stands in the place of a slot for a worker of `spec` that stands by and has none: the index 2³² − 1, which no slot has.
    /// Shown as `spec.standby`.
    #[must_use]
    pub fn standby(spec: impl Into<SpecName>) -> Self {
        Self::new(spec, Self::STANDBY)
    }

    /// Is it no place at all, because the worker stands by?
    #[must_use]
    pub const fn is_standby(&self) -> bool {
        self.index == Self::STANDBY
    }

    /// A number that no slot has: there are far fewer.
    const STANDBY: u32 = u32::MAX;
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_standby() {
            return write!(f, "{}.standby", self.spec);
        }
        write!(f, "{}.{}", self.spec, self.index)
    }
}
