//! What a relay counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The counters of a relay, for metrics. Cheap to clone; clones show the same relay.
#[derive(Debug, Clone, Default)]
pub struct RelayStats(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    changes: AtomicU64,
    batches: AtomicU64,
    failures: AtomicU64,
    lag_micros: AtomicU64,
}

impl RelayStats {
    /// Returns the number of changes delivered.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// Returns the number of invalidations they were joined into.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.0.batches.load(Ordering::Relaxed)
    }

    /// Returns how often the database or the invalidator failed. The relay tried again each time.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Returns how long the oldest change of the last batch waited, from the end of its statement to the
    /// acknowledged invalidation. A change waits for its own transaction, too.
    #[must_use]
    pub fn lag(&self) -> Duration {
        Duration::from_micros(self.0.lag_micros.load(Ordering::Relaxed))
    }

    pub(crate) fn delivered(&self, changes: usize, lag: Duration) {
        self.0.lag_micros.store(u64::try_from(lag.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.0.batches.fetch_add(1, Ordering::Relaxed);
        // Who sees the changes counted sees the rest, too.
        self.0.changes.fetch_add(changes as u64, Ordering::Release);
    }

    pub(crate) fn failed(&self) {
        self.0.failures.fetch_add(1, Ordering::Relaxed);
    }
}
