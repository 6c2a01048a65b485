//! Options of entries: how long they live, and when a stale one may be served.

use std::time::Duration;

/// How long entries live, when a stale entry may be served, and how processes share loads.
///
/// By default entries have the backend's time to live, without jitter, and nothing stale is ever served. Set
/// options for a whole cache with [`CacheBuilder::options`](crate::CacheBuilder::options), or for some uses
/// of it with [`Cache::with_options`](crate::Cache::with_options).
///
/// ```
/// use std::time::Duration;
/// use groupcache_core::{Cache, EntryOptions};
/// use groupcache_memory::MemoryBackend;
///
/// let hour = EntryOptions::new()
///     .time_to_live(Duration::from_secs(3600))
///     .jitter(0.1)
///     .stale_while_revalidate(Duration::from_secs(30));
/// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).options(hour).build();
/// let briefly = cache.with_options(hour.time_to_live(Duration::from_secs(5)));
/// assert_ne!(cache.options(), briefly.options());
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
    pub(crate) load_soft_timeout: Option<Duration>,
    pub(crate) load_hard_timeout: Option<Duration>,
    pub(crate) detached_load_time_limit: Option<Duration>,
}

impl EntryOptions {
    /// Returns the default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how long an entry lives that is neither invalidated nor evicted. With zero nothing is stored.
    ///
    /// It counts from the end of the load, in whichever process, whether or not the value is stored by then. A
    /// value that is too old when the backend would get it is not stored, and no waiting reader gets it. The time
    /// that a store takes on its way cannot be subtracted: in another process an entry lives longer by as much, and
    /// by no more than the [write time limit](crate::CacheBuilder::write_time_limit).
    ///
    /// Defaults to the backend's [`default_time_to_live`](crate::Backend::default_time_to_live).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use groupcache_core::{Cache, EntryOptions, Error, Groups, ManualClock};
    /// # use groupcache_memory::MemoryBackend;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error> {
    /// # let clock = ManualClock::new();
    /// # let backend = MemoryBackend::builder().clock(clock.clone()).build();
    /// let options = EntryOptions::new().time_to_live(Duration::from_secs(60));
    /// let cache = Cache::builder(backend).clock(clock.clone()).options(options).build();
    /// cache.insert("rate", Groups::none(), || async { Ok::<u32, Error>(7) }).await?;
    /// assert_eq!(cache.get("rate", Groups::none()).await, Some(7));
    /// clock.advance(Duration::from_secs(60));
    /// assert_eq!(cache.get::<u32, _, _>("rate", Groups::none()).await, None);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn time_to_live(mut self, time_to_live: Duration) -> Self {
        self.time_to_live = Some(time_to_live);
        self
    }

    /// Shortens each time to live by a random fraction of at most `fraction`, so that entries stored together
    /// do not expire together: with 0.1 an hour becomes 54 to 60 minutes.
    ///
    /// Defaults to 0.
    ///
    /// # Panics
    ///
    /// Panics if `fraction` is not between 0 and 1.
    #[must_use]
    pub fn jitter(mut self, fraction: f64) -> Self {
        assert!((0.0..=1.0).contains(&fraction), "`jitter` must be between 0 and 1, but is {fraction}");
        self.jitter = fraction;
        self
    }

    /// Sets for how long after its time to live an entry is still served while one reader loads a new value
    /// (RFC 5861, section 3). With pages and [`get_or_revalidate`](crate::Cache::get_or_revalidate), it loads in
    /// the background. An invalidated entry is not served, except with
    /// [`serve_invalidated_entries_while_stale`](Self::serve_invalidated_entries_while_stale).
    ///
    /// Defaults to zero, which is off. The backend keeps entries for the longer of this window and that of
    /// [`stale_if_error`](Self::stale_if_error) in addition to their time to live.
    #[must_use]
    pub const fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = window;
        self
    }

    /// Sets for how long after its time to live an entry is still served if the load of a new value fails
    /// (RFC 5861, section 4). An invalidated entry is not served, except with
    /// [`serve_invalidated_entries_while_stale`](Self::serve_invalidated_entries_while_stale).
    ///
    /// Defaults to zero, which is off. The backend keeps entries for the longer of this window and that of
    /// [`stale_while_revalidate`](Self::stale_while_revalidate) in addition to their time to live.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use groupcache_core::{Cache, EntryOptions, Groups, ManualClock};
    /// # use groupcache_memory::MemoryBackend;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let clock = ManualClock::new();
    /// # let backend = MemoryBackend::builder().clock(clock.clone()).build();
    /// let minute = Duration::from_secs(60);
    /// let options = EntryOptions::new().time_to_live(minute).stale_if_error(60 * minute);
    /// let cache = Cache::builder(backend).clock(clock.clone()).options(options).build();
    /// let rate = |loaded: Result<u32, &'static str>| cache.get_or_load("rate", Groups::none(), async move || loaded);
    /// assert_eq!(rate(Ok(7)).await, Ok(7));
    /// clock.advance(2 * minute);
    /// assert_eq!(rate(Err("the source is down")).await, Ok(7));
    /// # }
    /// ```
    #[must_use]
    pub const fn stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = window;
        self
    }

    /// **Drops the safety guarantee** that no read returns a value from before an acknowledged invalidation.
    ///
    /// Lets [`stale_while_revalidate`](Self::stale_while_revalidate) and
    /// [`stale_if_error`](Self::stale_if_error), where they are set, also serve *invalidated* entries, for as
    /// long as the backend keeps them. Has no effect without either. Defaults to off.
    #[must_use]
    pub const fn serve_invalidated_entries_while_stale(mut self) -> Self {
        self.serve_invalidated = true;
        self
    }

    /// Sets how long a negative result is stored: a `None` of
    /// [`get_or_load_optional`](crate::Cache::get_or_load_optional), or a 404 or 410 of a page.
    ///
    /// Defaults to not storing a `None`, and to the time to live for pages.
    #[must_use]
    pub const fn negative_time_to_live(mut self, time_to_live: Duration) -> Self {
        self.negative_time_to_live = Some(time_to_live);
        self
    }

    /// Makes one of several processes that share a store load a missing entry, while the others wait for it
    /// to be stored. Readers of one process always share loads this way.
    ///
    /// `duration` is how long a lease lasts if its process dies. Choose more than a load takes, and no more
    /// than a reader can wait. Zero turns leases off; more than a day counts as a day. A process that has
    /// waited for about twice `duration` loads without a lease. Leases only save work: the validity of an
    /// entry never depends on them.
    ///
    /// Defaults to off. Use it for values that are expensive to load and usually stored: processes load a
    /// value that cannot be stored one after the other.
    ///
    /// A lease costs no extra round trip if the groups are new to the store, and two at other misses. A
    /// waiting process repeats these every 5 to 100 ms. Releasing a lease costs one round trip in the
    /// background.
    #[must_use]
    pub fn lease(mut self, duration: Duration) -> Self {
        self.lease = Some(duration.min(LEASE_MAX)).filter(|duration| !duration.is_zero());
        self
    }

    /// Sets how long a reader waits for a load if it has an expired value to serve instead: one within the
    /// window of [`stale_if_error`](Self::stale_if_error). The time begins at the reader's own miss.
    ///
    /// The load goes on for later readers where it owns what it uses: in pages and in
    /// [`get_or_revalidate`](crate::Cache::get_or_revalidate). Elsewhere it is cancelled, and a waiting reader
    /// takes over. FusionCache calls this the factory's soft timeout. Defaults to no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use groupcache_core::{Cache, EntryOptions, Groups, ManualClock};
    /// # use groupcache_memory::MemoryBackend;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let clock = ManualClock::new();
    /// # let backend = MemoryBackend::builder().clock(clock.clone()).build();
    /// let (minute, soft) = (Duration::from_secs(60), Duration::from_millis(20));
    /// let options = EntryOptions::new().time_to_live(minute).stale_if_error(minute).load_soft_timeout(soft);
    /// let cache = Cache::builder(backend).clock(clock.clone()).options(options).build();
    /// cache.get_or_load("rate", Groups::none(), async || Ok::<u32, std::io::Error>(7)).await?;
    /// clock.advance(minute);
    /// let slow = async || {
    ///     tokio::time::sleep(minute).await;
    ///     Ok::<u32, std::io::Error>(8)
    /// };
    /// assert_eq!(cache.get_or_load("rate", Groups::none(), slow).await?, 7);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn load_soft_timeout(mut self, time_limit: Duration) -> Self {
        self.load_soft_timeout = Some(time_limit);
        self
    }

    /// Sets how long a reader waits for a load at most. After that the read fails with
    /// [`ErrorKind::LoadTimeout`](crate::ErrorKind::LoadTimeout). The time begins at the reader's own miss.
    ///
    /// Applies where a read can fail with an error of the cache:
    /// [`try_get_or_load`](crate::Cache::try_get_or_load), [`insert`](crate::Cache::insert), and pages, which
    /// respond with 504. The other methods return no error but that of the loader; limit the time in the
    /// loader there. Pages go on to load, for later readers; elsewhere the load is cancelled. FusionCache calls
    /// this the factory's hard timeout. Defaults to no limit.
    #[must_use]
    pub const fn load_hard_timeout(mut self, time_limit: Duration) -> Self {
        self.load_hard_timeout = Some(time_limit);
        self
    }

    /// Sets how long a load goes on, on a task of its own, after the reader that runs it was dropped: because
    /// a client disconnected, or a timeout ran out.
    ///
    /// Applies to loads that own what they use: those of pages and of
    /// [`get_or_revalidate`](crate::Cache::get_or_revalidate). With zero, and in the other methods, the load is
    /// cancelled and a waiting reader begins again. Defaults to 30 seconds.
    /// [`CacheBuilder::detached_loads_max`](crate::CacheBuilder::detached_loads_max) limits how many loads go on
    /// at once.
    #[must_use]
    pub const fn detached_load_time_limit(mut self, time_limit: Duration) -> Self {
        self.detached_load_time_limit = Some(time_limit);
        self
    }

    /// Returns how long a reader waits for a load if it has an expired value to serve, if set.
    #[must_use]
    pub const fn soft_timeout_of_loads(&self) -> Option<Duration> {
        self.load_soft_timeout
    }

    /// Returns how long a reader waits for a load at most, if set.
    #[must_use]
    pub const fn hard_timeout_of_loads(&self) -> Option<Duration> {
        self.load_hard_timeout
    }

    /// Returns how long a load goes on after its reader was dropped.
    #[must_use]
    pub fn time_limit_of_detached_loads(&self) -> Duration {
        self.detached_load_time_limit.unwrap_or(Duration::from_secs(30))
    }

    /// Returns the time to live of entries, if set.
    #[must_use]
    pub const fn entry_time_to_live(&self) -> Option<Duration> {
        self.time_to_live
    }

    /// Returns by which fraction of it a time to live is shortened at most.
    #[must_use]
    pub const fn jitter_fraction(&self) -> f64 {
        self.jitter
    }

    /// Returns for how long an expired entry is served while a new value is loaded.
    #[must_use]
    pub const fn stale_while_revalidate_window(&self) -> Duration {
        self.stale_while_revalidate
    }

    /// Returns for how long an expired entry is served if the load of a new value fails.
    #[must_use]
    pub const fn stale_if_error_window(&self) -> Duration {
        self.stale_if_error
    }

    /// Returns whether invalidated entries may be served as stale.
    #[must_use]
    pub const fn serves_invalidated_entries(&self) -> bool {
        self.serve_invalidated
    }

    /// Returns the time to live of negative results, if set.
    #[must_use]
    pub const fn negative(&self) -> Option<Duration> {
        self.negative_time_to_live
    }

    /// Returns how long a lease lasts if its process dies, or `None` without leases.
    #[must_use]
    pub const fn lease_duration(&self) -> Option<Duration> {
        self.lease
    }

    /// Returns how much longer than its time to live the backend keeps an entry, to serve it as stale.
    pub(crate) fn grace(&self) -> Duration {
        self.stale_while_revalidate.max(self.stale_if_error)
    }

    /// Returns `time_to_live`, shortened by the jitter.
    pub(crate) fn jittered(&self, time_to_live: Duration) -> Duration {
        if self.jitter == 0.0 {
            return time_to_live;
        }
        time_to_live.mul_f64(1.0 - self.jitter * rand::random::<f64>())
    }
}

const LEASE_MAX: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_shortens_by_at_most_its_fraction() {
        let hour = Duration::from_secs(3600);
        let options = EntryOptions::new().jitter(0.1);
        let jittered: Vec<_> = (0..1000).map(|_| options.jittered(hour)).collect();
        assert!(jittered.iter().all(|time| *time <= hour && *time >= hour.mul_f64(0.899)));
        assert!(jittered.iter().any(|time| *time != jittered[0]));
        assert_eq!(EntryOptions::new().jittered(hour), hour);
    }

    #[test]
    fn options_return_what_was_set() {
        let [one, two, three, four, five, six] = [1, 2, 3, 4, 5, 6].map(Duration::from_secs);
        let options = EntryOptions::new().time_to_live(one).jitter(0.5).stale_while_revalidate(two);
        let options = options.stale_if_error(three).negative_time_to_live(four).lease(five);
        assert_eq!((options.entry_time_to_live(), options.jitter_fraction()), (Some(one), 0.5));
        let windows = (options.stale_while_revalidate_window(), options.stale_if_error_window());
        assert_eq!(windows, (two, three));
        assert_eq!((options.negative(), options.lease_duration()), (Some(four), Some(five)));
        assert_eq!((options.soft_timeout_of_loads(), options.hard_timeout_of_loads()), (None, None));
        assert_eq!(options.time_limit_of_detached_loads().as_secs(), 30);
        let limited = options.load_soft_timeout(one).load_hard_timeout(two).detached_load_time_limit(six);
        assert_eq!(
            (limited.soft_timeout_of_loads(), limited.hard_timeout_of_loads()),
            (Some(one), Some(two))
        );
        assert_eq!(limited.time_limit_of_detached_loads(), six);
        assert!(!options.serves_invalidated_entries());
        assert!(options.serve_invalidated_entries_while_stale().serves_invalidated_entries());
    }

    #[test]
    #[should_panic(expected = "`jitter`")]
    fn a_jitter_above_one_panics() {
        let _ = EntryOptions::new().jitter(1.5);
    }
}
