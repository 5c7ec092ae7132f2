//! How late this machine lets a thread wake: what no process of a scenario can be blamed for.
//!
//! For checks of how soon something happens. Whoever waits *until* it happens has a [`Deadline`] instead.

use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::master::Master;
use crate::{Deadline, limit};

/// A thread that wakes again and again, and how late it was at worst.
#[derive(Debug)]
pub struct Punctuality {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Punctuality {
    /// Measures from now on.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut worst = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let begun = Deadline::after(LONG);
                std::thread::park_timeout(TICK);
                worst = worst.max(passed_since(&begun).saturating_sub(TICK));
            }
            worst
        });
        Self { is_over, thread }
    }

    /// The most that it was late so far, at the end.
    ///
    /// # Panics
    /// If its thread has panicked.
    #[must_use]
    pub fn worst(self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic")
    }
}

impl Master {
    /// Waits for the end of the program, which comes within `time` as far as it is its own doing.
    ///
    /// # Panics
    /// If it comes later.
    pub fn ends_within(&mut self, time: Duration) -> ExitStatus {
        let (machine, begun) = (Punctuality::of_this_machine(), Deadline::after(LONG));
        let status = self.wait();
        let (took, late) = (passed_since(&begun), machine.worst());
        assert!(
            took <= limit(time) + late,
            "ended after {took:?} instead of {time:?}, {late:?} of it the machine's"
        );
        status
    }
}

fn passed_since(begun: &Deadline) -> Duration {
    LONG.saturating_sub(begun.remaining().unwrap_or_default())
}

/// Longer than any scenario.
const LONG: Duration = Duration::from_secs(3_600);
/// Short beside what is judged by it.
const TICK: Duration = Duration::from_millis(20);
