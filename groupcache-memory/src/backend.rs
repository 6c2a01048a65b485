//! The backend: entries in moka, each with the cells that its groups' generations are in.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use groupcache_core::backend::{
    CurrentGenerations, EntryView, Found, GenerationGuard, Lookup, Minted, TimeLeft,
};
use groupcache_core::{Backend, Clock, Entry, Error, ErrorKind, Group, Key, Result, SystemClock};
use moka::Expiry;

use crate::generations::{GenerationCell, GenerationTable};

/// What moka allocates for each entry, roughly, as `tests/tests/memory_bytes.rs` measures it.
const OVERHEAD_BYTES: usize = 384;

/// A backend in the memory of this process. Cheap to clone; clones share one store.
///
/// ```
/// use groupcache_core::Cache;
/// use groupcache_memory::MemoryBackend;
///
/// let backend = MemoryBackend::with_max_bytes(256 << 20);
/// let cache = Cache::builder(backend.clone()).build();
/// // The clone sees what the cache stores.
/// assert_eq!((cache.backend_name(), backend.entry_count()), ("memory", 0));
/// ```
#[derive(Clone)]
pub struct MemoryBackend {
    /// The hashes are keyed at random, as clients choose keys: they choose the addresses of pages.
    entries: moka::sync::Cache<Key, Arc<StoredEntry>, RandomState>,
    generations: Arc<GenerationTable>,
    clock: Arc<dyn Clock>,
    max_bytes: u64,
}

/// Builds a [`MemoryBackend`]. Made by [`MemoryBackend::builder`].
///
/// ```
/// use groupcache_core::ManualClock;
/// use groupcache_memory::MemoryBackend;
///
/// let clock = ManualClock::new();
/// let backend = MemoryBackend::builder().max_bytes(64 << 20).clock(clock.clone()).build();
/// assert_eq!(backend.size_bytes(), 0);
/// ```
#[must_use = "a builder does nothing until `build` is called"]
#[derive(Debug)]
pub struct MemoryBackendBuilder {
    max_bytes: u64,
    clock: Option<Arc<dyn Clock>>,
}

/// An entry and the cells of its groups, in the order of its vector.
struct StoredEntry {
    entry: Arc<Entry>,
    cells: Box<[Arc<GenerationCell>]>,
    expires_at: Option<Instant>,
    time_to_live: Option<Duration>,
}

impl MemoryBackend {
    /// Returns a backend whose entries take at most `max_bytes` in all. Every other setting has its default.
    ///
    /// See [`MemoryBackendBuilder::max_bytes`].
    #[must_use]
    pub fn with_max_bytes(max_bytes: u64) -> Self {
        Self::builder().max_bytes(max_bytes).build()
    }

    /// Returns a builder with the default settings.
    pub const fn builder() -> MemoryBackendBuilder {
        MemoryBackendBuilder { max_bytes: 256 << 20, clock: None }
    }

    /// Returns the approximate number of entries.
    ///
    /// moka counts with a delay, which [`run_pending_tasks`](Self::run_pending_tasks) ends.
    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.entries.entry_count()
    }

    /// Returns the approximate size of all entries in bytes, as
    /// [`max_bytes`](MemoryBackendBuilder::max_bytes) counts them.
    ///
    /// moka counts with a delay, which [`run_pending_tasks`](Self::run_pending_tasks) ends.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.entries.weighted_size()
    }

    /// Returns the approximate number of groups that entries and loads use.
    ///
    /// An entry that was replaced or evicted releases its groups with a delay, which
    /// [`run_pending_tasks`](Self::run_pending_tasks) ends.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.generations.len()
    }

    /// Evicts, expires and counts now, which moka otherwise does in the course of other operations.
    pub fn run_pending_tasks(&self) {
        self.entries.run_pending_tasks();
    }

    fn get(&self, key: &Key) -> Option<Arc<StoredEntry>> {
        self.entries.get(key).filter(|stored| !self.has_expired(stored))
    }

    fn has_expired(&self, stored: &StoredEntry) -> bool {
        stored.expires_at.is_some_and(|expires_at| expires_at <= self.clock.now())
    }

    fn current(&self, groups: &[Group]) -> (CurrentGenerations, GenerationGuard) {
        let cells: Vec<_> = groups.iter().map(|group| self.generations.find(group)).collect();
        let current = cells.iter().map(|cell| cell.as_ref().and_then(|cell| cell.generation())).collect();
        (current, GenerationGuard::new(cells))
    }

    /// Returns the cells of the entry's groups, if its vector is still current.
    fn cells_if_current(&self, entry: &Entry) -> Option<Box<[Arc<GenerationCell>]>> {
        let find = |group| self.generations.find(group);
        let cells: Box<[_]> = entry.groups().iter().map(find).collect::<Option<_>>()?;
        current_of(&cells).equals(entry.vector()).then_some(cells)
    }
}

impl Backend for MemoryBackend {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn lookup(&self, key: &Key, groups: &[Group], _: TimeLeft) -> Result<Lookup> {
        let Some(stored) = self.get(key) else {
            let (current, guard) = self.current(groups);
            return Ok(Lookup::new(Found::Absent, current).with_guard(guard));
        };
        let (current, guard) = if stored.has_groups(groups) {
            // The caller may load a new entry under these generations, and this one may be evicted meanwhile.
            (current_of(&stored.cells), GenerationGuard::new(Arc::clone(&stored)))
        } else {
            self.current(groups)
        };
        let found = Found::Entry(Arc::clone(&stored.entry), stored.expires_at);
        Ok(Lookup::new(found, current).with_guard(guard))
    }

    fn lookup_now(&self, key: &Key, judge: &mut dyn FnMut(EntryView<'_>)) {
        let Some(stored) = self.get(key) else { return };
        let mut show = |current: &[_]| judge(EntryView::new(&stored.entry, stored.expires_at, current));
        match &*stored.cells {
            // The common case, without room for more.
            [cell] => show(&[cell.generation()]),
            cells => show(&current_of(cells)),
        }
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        let cells: Vec<_> = groups.iter().map(|group| self.generations.find_or_create(group)).collect();
        let vector = cells.iter().filter_map(|cell| cell.generation()).collect();
        Ok(Minted::new(vector).with_guard(GenerationGuard::new(cells)))
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        for group in groups {
            if let Some(cell) = self.generations.find(group) {
                cell.bump();
            }
        }
        Ok(())
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        if time_to_live == Some(Duration::ZERO) {
            self.entries.invalidate(entry.key());
            return Ok(());
        }
        // An entry that was invalidated while it was loaded must not replace one that is valid. Without one
        // of its groups it can never be valid again.
        let Some(cells) = self.cells_if_current(entry) else { return Ok(()) };
        // A time to live that ends later than the clock can represent never ends.
        let expires_at = time_to_live.and_then(|time| self.clock.now().checked_add(time));
        let stored = StoredEntry { entry: Arc::clone(entry), cells, expires_at, time_to_live };
        let size_bytes = stored.size_bytes();
        if size_bytes as u64 > self.max_bytes {
            self.entries.invalidate(entry.key());
            let message =
                format!("an entry of {size_bytes} bytes exceeds the cache of {} bytes", self.max_bytes);
            return Err(Error::new(ErrorKind::Capacity, "memory").with_message(message));
        }
        self.entries.insert(entry.key().clone(), Arc::new(stored));
        Ok(())
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.entries.invalidate(key);
        Ok(())
    }
}

impl MemoryBackendBuilder {
    /// Sets how many bytes the entries may take in all: keys, bodies, groups and an estimate of what moka
    /// allocates for each.
    ///
    /// It is moka's `max_capacity`, with a `weigher` that counts bytes. Beyond it moka evicts the entries
    /// that are least useful by its TinyLFU policy. An entry that alone takes more is refused with
    /// [`ErrorKind::Capacity`]; with zero every entry is.
    ///
    /// Defaults to 256 MiB.
    pub const fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets the clock that decides whether an entry has expired.
    ///
    /// With another clock than the default, an expired entry is absent but keeps its space until it is
    /// replaced or evicted. The cache has a clock of its own, which
    /// [`CacheBuilder::clock`](groupcache_core::CacheBuilder::clock) sets.
    ///
    /// Defaults to [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Builds the backend.
    #[must_use]
    pub fn build(self) -> MemoryBackend {
        let mut entries = moka::sync::Cache::builder()
            .max_capacity(self.max_bytes)
            .weigher(|_, stored: &Arc<StoredEntry>| u32::try_from(stored.size_bytes()).unwrap_or(u32::MAX));
        if self.clock.is_none() {
            entries = entries.expire_after(ByTimeToLive);
        }
        MemoryBackend {
            entries: entries.build_with_hasher(RandomState::new()),
            generations: GenerationTable::new(),
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock)),
            max_bytes: self.max_bytes,
        }
    }
}

impl StoredEntry {
    fn has_groups(&self, groups: &[Group]) -> bool {
        let own: &[Group] = self.entry.groups();
        // Readers often have the very list that the entry was stored with.
        std::ptr::eq(own, groups) || own == groups
    }

    fn size_bytes(&self) -> usize {
        // As if no other entry shared the cells. The group is in the cell and in the table.
        let cell = |group: &Group| {
            size_of::<Arc<GenerationCell>>() + size_of::<GenerationCell>() + 2 * group.size_bytes()
        };
        let cells: usize = self.entry.groups().iter().map(cell).sum();
        self.entry.size_bytes() + cells + OVERHEAD_BYTES
    }
}

fn current_of(cells: &[Arc<GenerationCell>]) -> CurrentGenerations {
    cells.iter().map(|cell| cell.generation()).collect()
}

/// Frees the space of expired entries. Lookups decide for themselves whether an entry has expired.
struct ByTimeToLive;

impl Expiry<Key, Arc<StoredEntry>> for ByTimeToLive {
    fn expire_after_create(&self, _: &Key, stored: &Arc<StoredEntry>, _: Instant) -> Option<Duration> {
        stored.time_to_live
    }

    fn expire_after_update(
        &self,
        _: &Key,
        stored: &Arc<StoredEntry>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        stored.time_to_live
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend")
            .field("max_bytes", &self.max_bytes)
            .field("entry_count", &self.entry_count())
            .field("group_count", &self.group_count())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_and_builders_can_be_sent_and_shared() {
        fn check<T: Send + Sync + 'static>() {}
        check::<MemoryBackend>();
        check::<MemoryBackendBuilder>();
    }
}
