//! How long entries live and when a stale one may be served.

use std::time::Duration;

const LONGEST_LEASE: Duration = Duration::from_secs(86_400);

/// How long an entry lives, and when a stale one may be served instead of a new one.
///
/// The default: the backend's own time to live, no jitter, nothing stale is ever served.
///
/// ```
/// use std::time::Duration;
/// use groupcache_core::EntryOptions;
///
/// let options = EntryOptions::new()
///     .time_to_live(Duration::from_secs(3600))
///     .jitter(0.1)
///     .stale_while_revalidate(Duration::from_secs(30));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EntryOptions {
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) jitter: f64,
    pub(crate) stale_while_revalidate: Duration,
    pub(crate) stale_if_error: Duration,
    pub(crate) serve_invalidated: bool,
    pub(crate) negative_time_to_live: Option<Duration>,
    pub(crate) lease: Option<Duration>,
}

impl EntryOptions {
    /// The default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long an untouched entry lives. Zero stores nothing. Defaults to the backend's
    /// [`default_time_to_live`](crate::Backend::default_time_to_live).
    #[must_use]
    pub const fn time_to_live(mut self, time_to_live: Duration) -> Self {
        self.time_to_live = Some(time_to_live);
        self
    }

    /// Shortens each time to live by a random part of it, at most this one, so that entries stored
    /// together do not expire together: 0.1 makes an hour 54 to 60 minutes. Defaults to 0.
    ///
    /// # Panics
    ///
    /// If `part` is not between 0 and 1.
    #[must_use]
    pub fn jitter(mut self, part: f64) -> Self {
        assert!((0.0..=1.0).contains(&part), "`jitter` is a part between 0 and 1, not {part}");
        self.jitter = part;
        self
    }

    /// For this long after its time to live, an entry that nothing invalidated is served as it is
    /// while one reader computes a new one (RFC 5861). Defaults to zero: never.
    #[must_use]
    pub const fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = window;
        self
    }

    /// For this long after its time to live, an entry that nothing invalidated is served if
    /// computing a new one fails (RFC 5861). Defaults to zero: never.
    #[must_use]
    pub const fn stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = window;
        self
    }

    /// **Gives up the promise** that no read returns a value older than an acknowledged
    /// invalidation: lets [`stale_while_revalidate`](Self::stale_while_revalidate) and
    /// [`stale_if_error`](Self::stale_if_error), where they are set, serve *invalidated* entries too,
    /// for as long as the backend keeps them. Defaults to off.
    #[must_use]
    pub const fn serve_invalidated_entries_while_stale(mut self) -> Self {
        self.serve_invalidated = true;
        self
    }

    /// How long "there is no such thing" is remembered: `None` of
    /// [`get_or_load_optional`](crate::Cache::get_or_load_optional), a 404 or 410 of a page. Defaults
    /// to not at all for values and to the time to live for pages.
    #[must_use]
    pub const fn negative_time_to_live(mut self, time_to_live: Duration) -> Self {
        self.negative_time_to_live = Some(time_to_live);
        self
    }

    /// Of several processes that share a store and miss the same entry, lets one compute it while the
    /// others wait for what it stores, as readers within one process always do. Defaults to off: each
    /// process computes.
    ///
    /// `duration` is how long the others wait for a process that died meanwhile: longer than the
    /// computation takes, as short as a reader can bear. Zero is off, more than a day is a day. After
    /// about twice that time a process that waits computes without a lease. Whether an entry is valid
    /// never depends on it.
    ///
    /// Costs nothing at a miss whose groups are new to the store (the lease is asked for with their
    /// generations), two round trips at other misses, and as much every 5 to 100 ms while a process
    /// waits; one more in the background to give the lease back. For values that are expensive and
    /// usually stored: processes take turns to compute one that is not.
    #[must_use]
    pub fn lease(mut self, duration: Duration) -> Self {
        self.lease = Some(duration.min(LONGEST_LEASE)).filter(|duration| !duration.is_zero());
        self
    }

    /// The time to live of negative answers, if set.
    #[must_use]
    pub const fn negative(&self) -> Option<Duration> {
        self.negative_time_to_live
    }

    /// How much longer than its time to live the backend keeps an entry for use as stale.
    pub(crate) fn grace(&self) -> Duration {
        self.stale_while_revalidate.max(self.stale_if_error)
    }

    /// `time_to_live` less a random part of it.
    pub(crate) fn jittered(&self, time_to_live: Duration) -> Duration {
        if self.jitter == 0.0 {
            return time_to_live;
        }
        time_to_live.mul_f64(1.0 - self.jitter * rand::random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_only_shortens_and_by_no_more_than_its_part() {
        let hour = Duration::from_secs(3600);
        let options = EntryOptions::new().jitter(0.1);
        let jittered: Vec<_> = (0..1000).map(|_| options.jittered(hour)).collect();
        assert!(jittered.iter().all(|time| *time <= hour && *time >= hour.mul_f64(0.899)));
        assert!(jittered.iter().any(|time| *time != jittered[0]));
        assert_eq!(EntryOptions::new().jittered(hour), hour);
    }

    #[test]
    #[should_panic(expected = "`jitter`")]
    fn a_jitter_above_one_is_refused() {
        let _ = EntryOptions::new().jitter(1.5);
    }
}
