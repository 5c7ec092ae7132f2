//! What the measuring programs beside this folder share: clock, statistics, servers under test, load, `/proc`, small pieces of work.
//!
//! Not here: what is measured (that is in each program). Nothing of this is part of the framework.

pub mod baseline;
pub mod child;
pub mod http;
pub mod kill;
pub mod load;
pub mod proc;
pub mod rounds;
pub mod server;
pub mod storm;
pub mod work;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use actix_cluster::ClusterHandle;

/// The error of a measurement: printed, and the program ends.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The one place where a clock is read.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "measuring is reading the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Lets this thread rest.
#[expect(clippy::disallowed_methods, reason = "no loop runs on a measuring thread")]
pub fn rest(time: Duration) {
    std::thread::sleep(time);
}

/// Runs `body` on a thread and a runtime of its own, and shuts the cluster down when it has ended, however it did. False
/// if it failed.
pub fn beside<F, Fut>(cluster: ClusterHandle, body: F) -> std::thread::JoinHandle<bool>
where
    F: FnOnce(ClusterHandle) -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), Failure>> + 'static,
{
    std::thread::spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("error: {error}");
                return false;
            }
        };
        runtime.block_on(tokio::task::LocalSet::new().run_until(async {
            // A task of its own: a panic of it is an error here, and not a cluster that nobody shuts down.
            let done = tokio::task::spawn_local(body(cluster.clone())).await;
            let result = done.unwrap_or_else(|panic| Err(panic.into()));
            if let Err(error) = &result {
                eprintln!("error: {error}");
            }
            // It may have ended already.
            cluster.shutdown().await.ok();
            result.is_ok()
        }))
    })
}

/// The exit code of a program whose measurement ended so.
#[must_use]
pub fn code(measuring: std::thread::JoinHandle<bool>) -> ExitCode {
    ExitCode::from(u8::from(!measuring.join().unwrap_or(false)))
}

/// Asks again and again until `question` has an answer.
///
/// # Errors
/// There was none within `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut question: impl FnMut() -> Option<T>) -> Result<T, Failure> {
    let begun = now();
    loop {
        if let Some(answer) = question() {
            return Ok(answer);
        }
        if begun.elapsed() > limit {
            return Err(format!("no {what} within {limit:?}").into());
        }
        rest(Duration::from_millis(1));
    }
}

/// A whole number from the environment.
#[must_use]
pub fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// Is `ACTIX_CLUSTER_SOAK=1`: may runs take minutes?
#[must_use]
pub fn is_soak() -> bool {
    std::env::var("ACTIX_CLUSTER_SOAK").is_ok_and(|value| value == "1")
}

/// The value below which `percent` of the samples lie. Sorts them; zero without samples.
#[must_use]
pub fn percentile(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort_unstable();
    let at = (samples.len() * percent / 100).min(samples.len().saturating_sub(1));
    samples.get(at).copied().unwrap_or_default()
}

/// The middle of some figures: of an even number of them, the midpoint of the two in the middle. Sorts them; zero without any.
#[must_use]
pub fn median(figures: &mut [f64]) -> f64 {
    quantile(figures, 0.5)
}

/// The figure below which a `part` of the figures lies, between two of them in proportion. Sorts them; zero without any.
#[must_use]
pub fn quantile(figures: &mut [f64], part: f64) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    let last = figures.len().saturating_sub(1);
    let at = part.clamp(0.0, 1.0) * last as f64;
    let figure = |at: f64| figures.get(at as usize).copied().unwrap_or_default();
    figure(at.floor()) + (figure(at.ceil()) - figure(at.floor())) * at.fract()
}

/// Microseconds with one decimal, for tables.
#[must_use]
pub fn micros(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_the_midpoint() {
        assert!((median(&mut [4.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!((median(&mut [4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-12);
        assert!(median(&mut []).abs() < 1e-12);
        let mut figures = [5.0, 1.0, 2.0, 4.0, 3.0];
        for (part, figure) in [(0.0, 1.0), (0.25, 2.0), (0.75, 4.0), (0.9, 4.6), (1.0, 5.0)] {
            assert!((quantile(&mut figures, part) - figure).abs() < 1e-12, "{part}");
        }
    }
}
