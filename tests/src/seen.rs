//! One event of a scenario, as its test sees it.

use serde_json::Value;

/// One event, as it was shown.
#[derive(Debug, Clone)]
pub struct Seen(pub Value);

impl Seen {
    /// The id of the worker it is about.
    ///
    /// # Panics
    /// If it is about none.
    #[must_use]
    pub fn worker(&self) -> u64 {
        self.0["worker"]["id"].as_u64().expect("the event is about a worker")
    }

    /// The worker's process id.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let pid = self.0["worker"]["pid"].as_u64().expect("the worker has a process");
        u32::try_from(pid).expect("process ids are small")
    }

    /// The worker's state after the event.
    #[must_use]
    pub fn state(&self) -> &str {
        self.0["worker"]["state"].as_str().unwrap_or("")
    }

    /// `exitedAfterDisconnect` after the event.
    #[must_use]
    pub fn exited_after_disconnect(&self) -> Option<bool> {
        self.0["worker"]["exited_after_disconnect"].as_bool()
    }

    /// What the event carries.
    #[must_use]
    pub fn data(&self) -> &Value {
        &self.0["data"]
    }

    /// The exit code of an `exit` event.
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        self.data()["status"]["code"].as_i64()
    }

    /// The signal of an `exit` event.
    #[must_use]
    pub fn signal(&self) -> Option<i64> {
        self.data()["status"]["signal"]["signal"].as_i64()
    }

    /// The reason of an `exit` event.
    #[must_use]
    pub fn reason(&self) -> &Value {
        &self.data()["reason"]
    }
}
