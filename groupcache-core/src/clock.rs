//! Time, so that tests can move it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where the cache takes the time from. Only this process's monotonic time is ever used; no
/// decision compares the clocks of two machines.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The current time. Never goes back.
    fn now(&self) -> Instant;
}

/// The clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that the others are told to use")]
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that stands still until a test moves it. Clones share the time.
#[derive(Debug, Clone)]
pub struct ManualClock {
    start: Instant,
    elapsed_nanos: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that stands at the moment of this call.
    #[must_use]
    pub fn new() -> Self {
        Self { start: SystemClock.now(), elapsed_nanos: Arc::default() }
    }

    /// Moves the time of this clock and all its clones forward; more than 584 years in all are cut
    /// to that.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let add = |now: u64| Some(now.saturating_add(nanos));
        // The closure always returns `Some`, so the update cannot fail.
        let _always_ok = self.elapsed_nanos.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.elapsed_nanos.load(Ordering::SeqCst))
    }
}
