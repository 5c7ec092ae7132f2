//! What a description may not say: bounds of its numbers, names that do not fit together.
//!
//! Not here: the setters, and the defaults ([`super`]).

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::{Config, DeclaredListener, LAME_DUCK_MAX, is_flight_recorder};
use crate::error::BuildError;
use crate::model::{ListenAddr, SpecName};
use crate::supervision::SpecConfig;

/// May this listener be declared beside those? Answers with its address.
pub(super) fn check_listener(
    declared: &[DeclaredListener],
    name: &str,
    address: Result<ListenAddr, BuildError>,
) -> Result<ListenAddr, BuildError> {
    if declared.iter().any(|other| other.name == name) {
        return Err(BuildError::DuplicateListener(name.to_owned()));
    }
    let address = address?;
    // A worker has none of the master's descriptors, and all of them have the same number there.
    if let Some(fd) = address.descriptor().filter(|_| !crate::is_worker())
        && let Some(first) = declared.iter().find(|other| other.address.descriptor() == Some(fd))
    {
        return Err(BuildError::SameDescriptor {
            first: first.name.clone(),
            second: name.to_owned(),
            fd,
        });
    }
    Ok(address)
}

/// Are the numbers and durations such as can be?
pub(super) fn check_ranges(config: &Config) -> Result<(), BuildError> {
    if config.workers > WORKERS_MAX {
        return Err(out_of_range("workers", config.workers, "at most 10000"));
    }
    if config.intensity.is_some_and(|intensity| intensity.period.is_zero()) {
        let value = "a period of 0";
        return Err(out_of_range(
            "restart_intensity",
            value,
            "more than zero, or nothing is ever too often",
        ));
    }
    if config.orphan_grace > ORPHAN_GRACE_MAX {
        return Err(out_of_range(
            "orphan_grace",
            format!("{:?}", config.orphan_grace),
            "at most 30 s",
        ));
    }
    if config.boot.is_zero() {
        return Err(out_of_range(
            "boot_limit",
            "0",
            "more than zero, or no worker ever gets ready",
        ));
    }
    if config.event_history > EVENT_HISTORY_MAX {
        return Err(out_of_range(
            "event_history",
            config.event_history,
            "at most 65,536: the history is kept in memory",
        ));
    }
    if let Some(interval) = config.heartbeat.filter(|interval| !HEARTBEATS.contains(interval)) {
        let value = format!("{interval:?}");
        return Err(out_of_range("heartbeat", value, "10 ms to one hour, or zero for none"));
    }
    if config.lame_duck > LAME_DUCK_MAX {
        let value = format!("{:?}", config.lame_duck);
        return Err(out_of_range("lame_duck", value, "at most one hour"));
    }
    if !is_flight_recorder(config.flight_recorder) {
        let value = config.flight_recorder;
        return Err(out_of_range(
            "flight_recorder",
            value,
            "4 KiB to 256 KiB, or 0 for none",
        ));
    }
    Ok(())
}

/// Are the specs' names unique, is what they name there, have they something to run?
pub(super) fn check_specs(config: &Config, has_worker: bool) -> Result<(), BuildError> {
    let unknown = |spec: &SpecName, name: &str| BuildError::UnknownListener {
        spec: spec.clone(),
        name: name.to_owned(),
        declared: config.declared_names(),
    };
    if let Some(name) = config
        .own_listeners
        .iter()
        .flatten()
        .find(|name| !config.declares(name))
    {
        return Err(unknown(&config.spec, name));
    }
    let own = SpecConfig {
        max_age: config.max_age,
        standby: config.standby,
        standby_age: config.standby_age,
        ..SpecConfig::new(config.spec.clone(), 0)
    };
    let fault = config.standby_fault(config.standby, config.terms(None));
    if let Some(why) = fault.or(own.check(config.auto_shutdown).err()) {
        return Err(BuildError::Spec(config.spec.clone(), why));
    }
    for (place, spec) in config.more_specs.iter().enumerate() {
        let name = &spec.config.name;
        let mut taken = config.more_specs[..place].iter().map(|other| &other.config.name);
        if *name == config.spec || taken.any(|taken| taken == name) {
            return Err(BuildError::DuplicateSpec(name.clone()));
        }
        if !has_worker && spec.main.is_none() && spec.exec.is_none() && !spec.cluster {
            return Err(BuildError::NoWorkerIn(name.clone()));
        }
        if let Some(listener) = config.unknown_listener(spec) {
            return Err(unknown(name, listener));
        }
        if let Some(why) = config.fault(spec) {
            return Err(BuildError::Spec(name.clone(), why));
        }
        let checked = spec.check(config.auto_shutdown);
        checked.map_err(|why| BuildError::Spec(name.clone(), why))?;
    }
    Ok(())
}

fn out_of_range(what: &'static str, value: impl fmt::Display, rule: &'static str) -> BuildError {
    BuildError::OutOfRange {
        what,
        value: value.to_string(),
        rule,
    }
}

/// More processes than this on one machine are a mistake: the kernel's default `pid_max` is 32,768.
const WORKERS_MAX: u32 = 10_000;
/// A history is for whoever comes late, not an archive: that is a file (`EventLog`).
const EVENT_HISTORY_MAX: usize = 1 << 16;
/// More often, and a busy machine does nothing else; less often, and nobody could judge by it.
const HEARTBEATS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
/// A worker whose master is dead must not hold the port for long.
const ORPHAN_GRACE_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cluster;

    #[test]
    fn two_listeners_cannot_have_one_name_or_one_descriptor() {
        let build = |second: (&str, &str)| {
            let cluster = Cluster::builder().listen("http", "fd:3").worker(async |_| ());
            cluster.listen(second.0, second.1).build().map(drop)
        };
        assert_eq!(build(("admin", "fd:4")), Ok(()));
        assert_eq!(
            build(("http", "fd:4")),
            Err(BuildError::DuplicateListener("http".to_owned()))
        );
        for same in ["fd:3", "udp:fd:3"] {
            let error = build(("admin", same)).unwrap_err();
            assert!(matches!(error, BuildError::SameDescriptor { fd: 3, .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("\"http\" and \"admin\""), "{text}");
        }
    }
}
