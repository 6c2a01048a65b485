//! Setting up a cache.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::clock::{Clock, SystemClock};
use crate::options::EntryOptions;

/// Sets up a [`Cache`].
#[must_use = "nothing is set up before `build`"]
pub struct CacheBuilder<B> {
    backend: B,
    clock: Arc<dyn Clock>,
    options: EntryOptions,
    soft_time_limit: Duration,
    hard_time_limit: Duration,
}

impl<B: Backend> CacheBuilder<B> {
    pub(crate) fn new(backend: B) -> Self {
        Self {
            backend,
            clock: Arc::new(SystemClock),
            options: EntryOptions::default(),
            soft_time_limit: Duration::from_millis(250),
            hard_time_limit: Duration::from_secs(5),
        }
    }

    /// How long entries live and when stale ones may be served. Defaults to
    /// [`EntryOptions::new`]; [`Cache::with_options`] sets others for single uses.
    pub const fn options(mut self, options: EntryOptions) -> Self {
        self.options = options;
        self
    }

    /// How long a read waits for the backend, in all, before it goes on without the cache and
    /// computes. Defaults to 250 ms.
    pub const fn soft_time_limit(mut self, limit: Duration) -> Self {
        self.soft_time_limit = limit;
        self
    }

    /// How long an invalidation, a delete or a store waits for the backend before it gives up with
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout). Defaults to 5 s.
    pub const fn hard_time_limit(mut self, limit: Duration) -> Self {
        self.hard_time_limit = limit;
        self
    }

    /// Where the time comes from. Defaults to [`SystemClock`]. A backend in this process should be
    /// given the same clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The cache. Cannot fail; whether the backend is reachable shows at the first use.
    #[must_use]
    pub fn build(self) -> Cache<B> {
        Cache::from_builder(
            self.backend,
            self.clock,
            self.options,
            self.soft_time_limit,
            self.hard_time_limit,
        )
    }
}

impl<B: Backend> fmt::Debug for CacheBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("backend", &self.backend.name())
            .field("options", &self.options)
            .field("soft_time_limit", &self.soft_time_limit)
            .field("hard_time_limit", &self.hard_time_limit)
            .finish_non_exhaustive()
    }
}
