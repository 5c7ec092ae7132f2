//! Workers that stand by: how many, and for how long.
//!
//! Not here: who is promoted, and when (that is supervision).

use std::time::Duration;

use super::ClusterBuilder;
use crate::spec::WorkerSpec;

impl ClusterBuilder {
    /// Keeps so many workers booted and without a slot. When a slot needs a worker (after an exit, in a reload, when the cluster
    /// is scaled up, for a worker that is recycled) one of them takes it, which costs a message instead of a start, and another
    /// one is started some milliseconds later. Default, and for 0: none; at most 64.
    ///
    /// A standby runs the worker function as any worker does, up to where it needs its slot: [`Worker::serve`],
    /// [`Worker::incoming`] and [`Worker::bind`] wait there by themselves. Servers that accept for themselves await
    /// [`Worker::activated`] before they take their listener. [`Worker::slot`] is no place before the promotion
    /// ([`Worker::is_standby`]), and what was read from it, or from the environment of a fork, is not the slot's. A slot that was
    /// added by a fork is therefore never filled in this way.
    ///
    /// Standbys are workers of the spec: they cost as much, and are listed, reloaded, stopped and signalled with the others. They
    /// are started when no slot boots or waits for its turn, one at a time and besides
    /// [`max_booting`](Self::max_booting). Their ends cost neither a slot's nor the cluster's restarts, only the next standby its
    /// time: 1 s, doubled with each end in a row, up to 60 s. Where others go down with a worker that failed
    /// ([`OneForAll`](crate::OneForAll)), standbys do so too. A spec of which nobody is wanted, or that was given up, has none.
    ///
    /// [`Worker::serve`]: crate::Worker::serve
    /// [`Worker::incoming`]: crate::Worker::incoming
    /// [`Worker::bind`]: crate::Worker::bind
    /// [`Worker::activated`]: crate::Worker::activated
    /// [`Worker::slot`]: crate::Worker::slot
    /// [`Worker::is_standby`]: crate::Worker::is_standby
    pub const fn standby(mut self, workers: u32) -> Self {
        self.config.standby = workers;
        self
    }

    /// How long a worker stands by, more or less by a tenth, before another one takes its place, which boots first. What it has
    /// opened before (connections to a database, caches) grows old. Default: one hour; `None` for ever; not zero.
    pub fn standby_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.config.standby_age = age.into();
        self
    }
}

impl WorkerSpec {
    /// Keeps so many of its workers booted and without a slot; see
    /// [`ClusterBuilder::standby`](crate::ClusterBuilder::standby). Default: 0; at most 64. Not for programs that do not speak to the
    /// master ([`ReadyWhen::Spawned`](crate::ReadyWhen)), nor for [clusters](Self::cluster).
    pub const fn standby(mut self, workers: u32) -> Self {
        self.config.standby = workers;
        self
    }

    /// How long one of its workers stands by; see [`ClusterBuilder::standby_age`](crate::ClusterBuilder::standby_age). Default: one
    /// hour.
    pub fn standby_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.config.standby_age = age.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cluster, ReadyWhen};

    #[test]
    fn a_standby_that_cannot_be_is_refused_by_name() {
        let http = || Cluster::builder().listen("http", "127.0.0.1:0").worker(async |_| ());
        let spec = || WorkerSpec::new("jobs", 1).standby(1);
        let many = |mut builder: ClusterBuilder| {
            for number in 0..65 {
                builder = builder.listen(format!("l{number}"), "127.0.0.1:0");
            }
            builder
        };
        let table = [
            (http().standby(65), "spec worker: it wants more than 64 standby"),
            (
                http().spec(spec().standby(65)),
                "spec jobs: it wants more than 64 standby",
            ),
            (
                http().spec(spec().standby_age(Some(Duration::ZERO))),
                "`standby_age` is zero",
            ),
            (http().spec(spec().exec("/bin/true")), "does not speak to the master"),
            (http().spec(spec().cluster()), "does not speak to the master"),
            (
                http().standby(1).ready_when(ReadyWhen::Spawned),
                "does not speak to the master",
            ),
            (many(http()).standby(1), "more than 64 listeners"),
        ];
        for (builder, expected) in table {
            let error = builder.build().unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} is not {expected:?}");
        }
        let few = many(http()).own_listeners(["http"]).standby(64).standby_age(None);
        assert!(few.spec(spec().listeners(["http"])).build().is_ok());
    }
}
