//! How values look in JSON where serde's own form would serve nobody: durations as milliseconds, wall-clock times as
//! milliseconds since 1970, texts of the operating system as texts (bytes that are not UTF-8 are replaced).

use std::time::Duration;

/// The milliseconds of a duration, with three decimals.
fn to_millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// The duration of so many milliseconds; what is no duration (negative, not a number) is none, the endless is the longest.
fn from_millis(millis: f64) -> Duration {
    if millis.is_nan() || millis <= 0.0 {
        return Duration::ZERO;
    }
    Duration::try_from_secs_f64(millis / 1000.0).unwrap_or(Duration::MAX)
}

/// Durations as milliseconds.
pub(crate) mod millis {
    use super::{Duration, from_millis, to_millis};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(to_millis(*duration))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        f64::deserialize(deserializer).map(from_millis)
    }
}

/// Durations that may be missing, as milliseconds.
pub(crate) mod maybe_millis {
    use super::{Duration, to_millis};
    use serde::{Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(to_millis).serialize(serializer)
    }
}

/// Wall-clock times as milliseconds since 1970, with three decimals.
pub(super) mod unix_millis {
    use std::time::{SystemTime, UNIX_EPOCH};

    use serde::Serializer;

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(super::to_millis(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

/// Lists of arguments as texts.
pub(super) mod texts {
    use std::ffi::OsString;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(texts: &Option<Vec<OsString>>, serializer: S) -> Result<S::Ok, S::Error> {
        let texts = texts
            .as_ref()
            .map(|texts| texts.iter().map(|text| text.to_string_lossy()).collect::<Vec<_>>());
        texts.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<OsString>>, D::Error> {
        let texts = Option::<Vec<String>>::deserialize(deserializer)?;
        Ok(texts.map(|texts| texts.into_iter().map(OsString::from).collect()))
    }
}

/// Variables as pairs of texts.
pub(super) mod pairs {
    use std::ffi::OsString;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(pairs: &[(OsString, OsString)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            pairs
                .iter()
                .map(|(key, value)| (key.to_string_lossy(), value.to_string_lossy())),
        )
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(OsString, OsString)>, D::Error> {
        let pairs = Vec::<(String, String)>::deserialize(deserializer)?;
        Ok(pairs
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect())
    }
}

/// A path as a text.
pub(super) mod path {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&path.to_string_lossy())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        String::deserialize(deserializer).map(PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_come_back_as_the_duration_they_were() {
        for duration in [
            Duration::ZERO,
            Duration::from_micros(1),
            Duration::from_millis(1500),
            Duration::from_secs(3_000_000),
        ] {
            assert_eq!(from_millis(to_millis(duration)), duration);
        }
        assert!(from_millis(to_millis(Duration::MAX)) > Duration::from_secs(1 << 60));
        for odd in [f64::NAN, -1.0, f64::NEG_INFINITY] {
            assert_eq!(from_millis(odd), Duration::ZERO);
        }
    }
}
