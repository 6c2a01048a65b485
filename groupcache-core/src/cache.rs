//! The cache and its builder: how it is made, configured and invalidated. How it is read is in `read/`.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::backend::Backend;
use crate::backend::boxed::BoxBackend;
use crate::backend::lease::LeaseOwner;
use crate::backend::lookup::Minted;
use crate::clock::{Clock, SystemClock};
use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::error::{CRATE_NAME, Error, ErrorKind, Result};
use crate::invalidator::Invalidator;
use crate::load_context::{CacheId, Minter};
use crate::options::EntryOptions;
use crate::read::discovered::DiscoveredGroups;
use crate::read::flight_table::SingleFlight;
use crate::read::store_order::StoreOrder;
use crate::stats::{Counters, Stats};
use crate::time_limit::{TimeBudget, run_detached};

/// A cache of values that stay valid until one of their groups is invalidated.
///
/// Cloning is cheap, and clones are the same cache. `Cache<MemoryBackend>` knows its backend at compile time;
/// `Cache` alone is `Cache<BoxBackend>`, whose backend is chosen at run time.
///
/// Most callers need [`get_or_load`](Self::get_or_load) and [`invalidate`](Self::invalidate). Adapters build
/// on [`read`](Self::read).
///
/// ```
/// use groupcache_core::{Cache, Group};
/// use groupcache_memory::MemoryBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
/// let book = Group::new("book").with("id", 5);
/// let load = || async { Ok::<_, std::io::Error>("Emma".to_owned()) };
///
/// let title: String = cache.get_or_load(&("title", 5), book.clone(), load).await?;
/// let cached: Option<String> = cache.get(&("title", 5), book.clone()).await;
/// assert_eq!(cached, Some(title));
///
/// cache.invalidate(book.clone()).await?;
/// let cached: Option<String> = cache.get(&("title", 5), book).await;
/// assert_eq!(cached, None);
/// # Ok(())
/// # }
/// ```
///
/// # Guarantees
///
/// * If [`invalidate`](Self::invalidate) returned `Ok` before a read started, that read never returns a value
///   whose load began before that invalidation.
/// * Invalidating a group makes no entry stale that does not depend on it.
/// * A failing backend never fails a read, and never serves an entry that was not validated.
pub struct Cache<B = BoxBackend> {
    inner: Arc<Inner<B>>,
    options: EntryOptions,
}

/// What all clones of a cache share.
pub(crate) struct Inner<B> {
    pub(crate) backend: B,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) read_time_limit: Duration,
    pub(crate) write_time_limit: Duration,
    pub(crate) load_wait_limit: Duration,
    pub(crate) flights: Arc<SingleFlight>,
    pub(crate) discovered: DiscoveredGroups,
    /// The group of all entries, if the cache can be cleared.
    pub(crate) clear_group: Option<Group>,
    pub(crate) owner: LeaseOwner,
    pub(crate) store_order: Arc<StoreOrder>,
    /// A permit for each store in the background, and for each load without a reader.
    pub(crate) background_stores: Arc<Semaphore>,
    pub(crate) detached_loads: Arc<Semaphore>,
    counters: Counters,
}

impl<B: Backend> Cache<B> {
    /// Returns a builder for a cache over `backend`.
    pub fn builder(backend: B) -> CacheBuilder<B> {
        CacheBuilder::new(backend)
    }

    /// Returns a handle to the same cache that reads and stores with other options.
    #[must_use]
    pub fn with_options(&self, options: EntryOptions) -> Self {
        Self { inner: Arc::clone(&self.inner), options }
    }

    /// Returns the options of this handle.
    #[must_use]
    pub const fn options(&self) -> &EntryOptions {
        &self.options
    }

    /// Returns the backend.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.inner.backend
    }

    /// Returns the name of the backend, such as `memory`.
    #[must_use]
    pub fn backend_name(&self) -> &'static str {
        self.inner.backend.name()
    }

    /// Returns the counters of this cache and its clones.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.inner.counters.snapshot();
        stats.discovered_groups_bytes = self.inner.discovered.size_bytes();
        stats
    }

    /// Returns the number of loads in flight.
    #[must_use]
    pub fn loads_in_flight(&self) -> usize {
        self.inner.flights.len()
    }

    /// Makes every entry of any of these groups stale. One round trip, for any number of groups and entries.
    ///
    /// Call it after the commit of the change. Groups that were never cached cost nothing and leave nothing
    /// behind. An empty list returns `Ok` without a round trip.
    ///
    /// # Cancellation
    ///
    /// Once polled, the invalidation completes even if the future is dropped.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend did not acknowledge within the [write time
    /// limit](CacheBuilder::write_time_limit). Old entries may still be served then. It is safe to call
    /// again.
    pub fn invalidate<G: Into<Groups>>(
        &self,
        groups: G,
    ) -> impl Future<Output = Result<()>> + Send + use<B, G> {
        let inner = Arc::clone(&self.inner);
        let groups = groups.into();
        async move {
            if groups.is_empty() {
                return Ok(());
            }
            run_detached(inner.backend.name(), inner.bump(groups)).await
        }
    }

    /// Makes every entry of this cache stale. One round trip, for any number of entries.
    ///
    /// Clears all caches over the same data that are [`clearable`](CacheBuilder::clearable): those of all processes
    /// with the same backend and key prefix. As after [`invalidate`](Self::invalidate), no read that starts after
    /// this returns a value whose load began before it. Entries keep their space until they expire, are replaced or
    /// are evicted.
    ///
    /// # Cancellation
    ///
    /// Once polled, it completes even if the future is dropped.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Configuration`] if the cache is not [`clearable`](CacheBuilder::clearable), and as
    /// [`invalidate`](Self::invalidate) does.
    ///
    /// # Examples
    ///
    /// ```
    /// # use groupcache_core::{Cache, Group};
    /// # use groupcache_memory::MemoryBackend;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), groupcache_core::Error> {
    /// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).clearable().build();
    /// let load = || async { Ok::<_, groupcache_core::Error>("Emma".to_owned()) };
    /// cache.get_or_load("title", Group::new("book"), load).await?;
    /// cache.clear().await?;
    /// assert_eq!(cache.get::<String, _, _>("title", Group::new("book")).await, None);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn clear(&self) -> Result<()> {
        let Some(all) = &self.inner.clear_group else {
            let message = "the cache cannot be cleared, as it was built without `clearable`";
            return Err(Error::configuration(CRATE_NAME, message));
        };
        self.invalidate(all.clone()).await
    }

    /// Deletes the entry at `key`. One round trip; a missing entry is not an error.
    ///
    /// A load in flight may store the key again. To make a value stale, [`invalidate`](Self::invalidate) its
    /// group.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend did not acknowledge within the
    /// [write time limit](CacheBuilder::write_time_limit).
    pub async fn delete_at(&self, key: &Key) -> Result<()> {
        let mut budget = TimeBudget::new(self.inner.write_time_limit);
        let backend = &self.inner.backend;
        budget.run(backend.name(), pin!(backend.delete(key))).await?;
        self.inner.counters.deletes.increment();
        Ok(())
    }

    pub(crate) fn id(&self) -> CacheId {
        CacheId(Arc::as_ptr(&self.inner).addr())
    }

    pub(crate) fn minter(&self) -> Arc<dyn Minter> {
        Arc::clone(&self.inner) as Arc<dyn Minter>
    }

    pub(crate) fn shared_inner(&self) -> Arc<Inner<B>> {
        Arc::clone(&self.inner)
    }

    pub(crate) fn inner(&self) -> &Inner<B> {
        &self.inner
    }
}

/// Configures a [`Cache`].
///
/// ```
/// use std::time::Duration;
///
/// use groupcache_core::{Cache, EntryOptions};
/// use groupcache_memory::MemoryBackend;
///
/// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20))
///     .options(EntryOptions::new().time_to_live(Duration::from_secs(3600)))
///     .read_time_limit(Duration::from_millis(100))
///     .build();
/// assert_eq!(cache.backend_name(), "memory");
/// ```
#[must_use = "a builder does nothing before `build`"]
pub struct CacheBuilder<B> {
    backend: B,
    clock: Arc<dyn Clock>,
    options: EntryOptions,
    read_time_limit: Duration,
    write_time_limit: Duration,
    discovered_groups_bytes_max: u64,
    clear_group: Option<Group>,
    load_wait_limit: Duration,
    background_stores_max: usize,
    detached_loads_max: usize,
}

impl<B: Backend> CacheBuilder<B> {
    fn new(backend: B) -> Self {
        Self {
            backend,
            clock: Arc::new(SystemClock),
            options: EntryOptions::default(),
            read_time_limit: Duration::from_millis(250),
            write_time_limit: Duration::from_secs(5),
            discovered_groups_bytes_max: DISCOVERED_GROUPS_BYTES_MAX,
            clear_group: None,
            load_wait_limit: Duration::from_secs(30),
            background_stores_max: 256,
            detached_loads_max: 64,
        }
    }

    /// Sets how long entries live and when stale entries may be served. Defaults to [`EntryOptions::new`].
    ///
    /// [`Cache::with_options`] sets other options for single uses.
    pub const fn options(mut self, options: EntryOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets how long one read waits for the backend, in all its round trips together. After that the read
    /// goes on without the cache and loads. Defaults to 250 ms.
    pub const fn read_time_limit(mut self, time_limit: Duration) -> Self {
        self.read_time_limit = time_limit;
        self
    }

    /// Sets how long an invalidation, a delete or a store waits for the backend. After that it fails with
    /// [`ErrorKind::Timeout`]. Defaults to 5 seconds.
    pub const fn write_time_limit(mut self, time_limit: Duration) -> Self {
        self.write_time_limit = time_limit;
        self
    }

    /// Sets how many bytes this cache may remember of groups that loads [discovered](crate::depend), so that the
    /// next lookup of the key asks for them too. The least used keys are forgotten first.
    ///
    /// A key that is forgotten costs a second round trip at a hit, or a second load after an expiry if its
    /// loads declare groups [late](crate::LoadContext::depend_late). A key whose groups take more than a
    /// sixteenth of the bytes is not remembered. These bytes are beside those of a backend in this process;
    /// [`Stats::discovered_groups_bytes`] reports them. With zero nothing is remembered.
    ///
    /// Defaults to 16 MiB, which is enough for 90,000 keys with one short group each. Nothing is used if no
    /// load discovers groups.
    pub const fn discovered_groups_bytes_max(mut self, bytes: u64) -> Self {
        self.discovered_groups_bytes_max = bytes;
        self
    }

    /// Lets [`Cache::clear`] make all entries stale: each depends on one more group, which is the same for all.
    ///
    /// A hit looks one more generation up, in the same round trip. Entries that a cache without this setting has
    /// stored are misses, so all processes that share a store need it. Defaults to off.
    pub fn clearable(mut self) -> Self {
        self.clear_group = Some(Group::new(CLEAR_GROUP_NAME));
        self
    }

    /// Sets how long readers wait for the load of another reader. After that one of them loads as well, and
    /// the others wait for it. Defaults to 30 seconds. With zero, readers hardly wait for each other.
    ///
    /// Choose more than a load takes. A reader whose future is not polled holds the others up for less than a
    /// second, whatever the limit. [`Stats::stalled_loads`](crate::Stats::stalled_loads) counts both.
    pub const fn load_wait_limit(mut self, time_limit: Duration) -> Self {
        self.load_wait_limit = time_limit;
        self
    }

    /// Sets how many entries are stored in the background at once, at most. While a store is slow, further
    /// values are served and not stored; [`Stats::stores_skipped`](crate::Stats::stores_skipped) counts them.
    /// The entries of one [`get_many_or_load`](Cache::get_many_or_load) count as one.
    /// Defaults to 256. With zero nothing is stored but by [`insert`](Cache::insert).
    pub const fn background_stores_max(mut self, count: usize) -> Self {
        self.background_stores_max = count;
        self
    }

    /// Sets how many loads go on at once without their readers, at most. Further loads are cancelled with
    /// their readers. Defaults to 64.
    ///
    /// [`EntryOptions::detached_load_time_limit`] sets for how long.
    pub const fn detached_loads_max(mut self, count: usize) -> Self {
        self.detached_loads_max = count;
        self
    }

    /// Sets the clock. Defaults to [`SystemClock`]. A backend in this process should get the same clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Builds the cache. Does not contact the backend.
    #[must_use]
    pub fn build(self) -> Cache<B> {
        let inner = Inner {
            backend: self.backend,
            clock: self.clock,
            read_time_limit: self.read_time_limit,
            write_time_limit: self.write_time_limit,
            load_wait_limit: self.load_wait_limit,
            flights: SingleFlight::new(),
            discovered: DiscoveredGroups::with_max_bytes(self.discovered_groups_bytes_max),
            clear_group: self.clear_group,
            owner: LeaseOwner::random(),
            store_order: StoreOrder::new(),
            background_stores: semaphore(self.background_stores_max),
            detached_loads: semaphore(self.detached_loads_max),
            counters: Counters::default(),
        };
        Cache { inner: Arc::new(inner), options: self.options }
    }
}

fn semaphore(permits: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
}

impl<B> Inner<B> {
    pub(crate) const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Adds the group that all entries depend on, if the cache can be cleared.
    pub(crate) fn with_clear_group(&self, groups: Groups) -> Groups {
        match &self.clear_group {
            Some(all) => groups.union(std::slice::from_ref(all)),
            None => groups,
        }
    }
}

impl<B: Backend> Inner<B> {
    async fn bump(self: Arc<Self>, groups: Groups) -> Result<()> {
        let mut budget = TimeBudget::new(self.write_time_limit);
        let bumped = budget.run(self.backend.name(), pin!(self.backend.bump(&groups))).await;
        match &bumped {
            Ok(()) => {
                self.counters.invalidations.increment();
                self.counters.invalidated_groups.add(groups.len() as u64);
            }
            Err(_) => self.counters.invalidation_failures.increment(),
        }
        bumped
    }

    /// Mints the generations of `groups` that are missing. One round trip.
    pub(crate) async fn mint_within(&self, groups: &[Group], budget: &mut TimeBudget) -> Result<Minted> {
        self.counters.mints.increment();
        let minted = budget.run(self.backend.name(), pin!(self.backend.mint(groups))).await;
        let minted = minted.and_then(|minted| {
            let is_complete = minted.vector.len() == groups.len();
            is_complete.then_some(minted).ok_or_else(|| Error::new(ErrorKind::Protocol, self.backend.name()))
        });
        if minted.is_err() {
            self.counters.mint_failures.increment();
        }
        minted
    }
}

#[async_trait]
impl<B: Backend> Minter for Inner<B> {
    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        self.mint_within(groups, &mut TimeBudget::new(self.read_time_limit)).await
    }

    fn count_after_load(&self, groups: usize) {
        self.counters.dependencies_after_load.add(groups as u64);
    }
}

impl<B: Backend> Invalidator for Cache<B> {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        Self::invalidate(self, groups).await
    }
}

impl<B> Clone for Cache<B> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), options: self.options }
    }
}

impl<B: Backend> fmt::Debug for Cache<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("backend", &self.inner.backend.name())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> fmt::Debug for CacheBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("backend", &self.backend.name())
            .field("options", &self.options)
            .field("read_time_limit", &self.read_time_limit)
            .field("write_time_limit", &self.write_time_limit)
            .field("discovered_groups_bytes_max", &self.discovered_groups_bytes_max)
            .field("clearable", &self.clear_group.is_some())
            .field("load_wait_limit", &self.load_wait_limit)
            .field("background_stores_max", &self.background_stores_max)
            .field("detached_loads_max", &self.detached_loads_max)
            .finish_non_exhaustive()
    }
}

/// The default of [`CacheBuilder::discovered_groups_bytes_max`].
pub(crate) const DISCOVERED_GROUPS_BYTES_MAX: u64 = 16 << 20;

/// The name of the group of all entries. Names that begin with `gc:` are those of this project.
const CLEAR_GROUP_NAME: &str = "gc:all";
