//! The source of time, which tests can replace.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A source of monotonic time.
///
/// The cache uses time only within one process; no decision compares the clocks of two machines. Tests pass a
/// [`ManualClock`].
pub trait Clock: Debug + Send + Sync + 'static {
    /// Returns the current time, which never goes backwards.
    fn now(&self) -> Instant;
}

/// The monotonic clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that only moves when a test advances it. Clones share their time.
///
/// ```
/// use std::time::Duration;
/// use groupcache_core::{Clock, ManualClock};
///
/// let clock = ManualClock::new();
/// let start = clock.now();
/// clock.clone().advance(Duration::from_secs(60));
/// assert_eq!(clock.now() - start, Duration::from_secs(60));
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock {
    start: Instant,
    elapsed_nanos: Arc<AtomicU64>,
}

impl ManualClock {
    /// Creates a clock whose time is the moment of this call.
    #[must_use]
    pub fn new() -> Self {
        Self { start: SystemClock.now(), elapsed_nanos: Arc::default() }
    }

    /// Moves the time of this clock and all its clones forward by `by`. The sum of all advances saturates at
    /// 584 years.
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
