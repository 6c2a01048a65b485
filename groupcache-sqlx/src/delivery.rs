//! How changes reach caches, and what waits for it.

use std::time::Duration;

/// How a change reaches caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Once: for a store that all processes share.
    Queue,
    /// To every process: for caches in the memory of each.
    FanOut,
}

/// What waits in an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backlog {
    /// How many changes wait. Changes that are delivered to every process stay after their delivery.
    pub rows: u64,
    /// How long the oldest one waits; zero if there is none.
    pub oldest: Duration,
}

/// What was delivered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Delivered {
    pub(crate) changes: usize,
    /// How long the oldest change waited, from its statement to the acknowledgement.
    pub(crate) lag: Duration,
}

impl Delivery {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::FanOut => "fan-out",
        }
    }
}

/// A time span that a database counted in seconds. Its clock may have been set back meanwhile.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
