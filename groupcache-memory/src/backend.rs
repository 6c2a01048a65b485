//! Entries in moka, validated against the cells they point to.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use groupcache_core::backend::{
    CurrentGenerations, EntryView, Found, GenerationGuard, Lookup, Minted, TimeLeft,
};

use groupcache_core::{Backend, Clock, Entry, Error, ErrorKind, Group, Key, Result, SystemClock};
use moka::Expiry;

use crate::generations::{Cell, Generations};

/// What moka keeps beside each entry, roughly, as `tests/tests/memory_bytes.rs` measures it.
const OVERHEAD_BYTES: usize = 384;

/// A backend in the memory of this process. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub struct MemoryBackend {
    entries: moka::sync::Cache<Key, Arc<Stored>>,
    generations: Arc<Generations>,
    clock: Arc<dyn Clock>,
    max_bytes: u64,
}

/// Sets up a [`MemoryBackend`].
#[must_use = "nothing is set up before `build`"]
#[derive(Debug)]
pub struct MemoryBackendBuilder {
    max_bytes: u64,
    clock: Option<Arc<dyn Clock>>,
}

/// An entry and the cells of its groups, in the order of its vector.
struct Stored {
    entry: Arc<Entry>,
    cells: Box<[Arc<Cell>]>,
    expires_at: Option<Instant>,
    time_to_live: Option<Duration>,
}

impl MemoryBackend {
    /// Keeps entries of at most this many bytes in all: keys, bodies, groups and an estimate of what
    /// it takes to keep them.
    #[must_use]
    pub fn with_max_bytes(max_bytes: u64) -> Self {
        Self::builder().max_bytes(max_bytes).build()
    }

    /// Sets up a backend.
    pub const fn builder() -> MemoryBackendBuilder {
        MemoryBackendBuilder { max_bytes: 256 << 20, clock: None }
    }

    /// How many entries there are, about: moka counts with a delay.
    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.entries.entry_count()
    }

    /// How many bytes the entries take, about: moka counts with a delay.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.entries.weighted_size()
    }

    /// How many groups are in use by entries and computations, about: an entry that is replaced or
    /// evicted lets go of its groups with a delay.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.generations.len()
    }

    /// Does now what moka otherwise does along the way: evict, expire, count.
    pub fn run_pending_tasks(&self) {
        self.entries.run_pending_tasks();
    }

    fn look(&self, key: &Key, groups: &[Group]) -> Lookup {
        let Some(stored) = self.get(key) else {
            let (current, guard) = self.current(groups);
            return Lookup::new(Found::Absent, current).with_guard(guard);
        };
        let (current, guard) = if stored.is_of(groups) {
            // A new entry may be about to be computed under these; this one may be evicted meanwhile.
            (stored.current(), GenerationGuard::new(Arc::clone(&stored)))
        } else {
            self.current(groups)
        };
        Lookup::new(Found::Entry(Arc::clone(&stored.entry), stored.expires_at), current).with_guard(guard)
    }

    fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        self.entries.get(key).filter(|stored| !self.has_expired(stored))
    }

    fn current(&self, groups: &[Group]) -> (CurrentGenerations, GenerationGuard) {
        let cells: Vec<_> = groups.iter().map(|group| self.generations.find(group)).collect();
        let current = cells.iter().map(|cell| cell.as_ref().and_then(|cell| cell.generation())).collect();
        (current, GenerationGuard::new(cells))
    }

    fn has_expired(&self, stored: &Stored) -> bool {
        stored.expires_at.is_some_and(|expires_at| expires_at <= self.clock.now())
    }

    fn keep(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        if time_to_live == Some(Duration::ZERO) {
            self.entries.invalidate(entry.key());
            return Ok(());
        }
        // One group gone: nobody can validate this entry any more.
        let cells: Option<Box<[_]>> =
            entry.groups().iter().map(|group| self.generations.find(group)).collect();
        // Invalidated while it was computed: it must not take the place of one that was not.
        let is_current = |cells: &[Arc<Cell>]| {
            let current: CurrentGenerations = cells.iter().map(|cell| cell.generation()).collect();
            current.equals(entry.vector())
        };
        let Some(cells) = cells.filter(|cells| is_current(cells)) else { return Ok(()) };
        // A time to live beyond what the clock can count is none.
        let expires_at = time_to_live.and_then(|time| self.clock.now().checked_add(time));
        let stored = Stored { entry: Arc::clone(entry), cells, expires_at, time_to_live };
        let size_bytes = stored.size_bytes();
        if size_bytes as u64 > self.max_bytes {
            self.entries.invalidate(entry.key());
            let message = format!("an entry of {size_bytes} bytes in a cache of {}", self.max_bytes);
            return Err(Error::new(ErrorKind::Capacity, "memory").with_message(message));
        }
        self.entries.insert(entry.key().clone(), Arc::new(stored));
        Ok(())
    }
}

impl Backend for MemoryBackend {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn lookup(&self, key: &Key, groups: &[Group], _: TimeLeft) -> Result<Lookup> {
        Ok(self.look(key, groups))
    }

    fn lookup_now(&self, key: &Key, judge: &mut dyn FnMut(EntryView<'_>)) {
        let Some(stored) = self.get(key) else { return };
        let current = stored.current();
        judge(EntryView::new(&stored.entry, stored.expires_at, &current));
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
        self.keep(entry, time_to_live)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.entries.invalidate(key);
        Ok(())
    }
}

impl MemoryBackendBuilder {
    /// How many bytes the entries may take in all. Beyond that the least useful are evicted (moka's
    /// TinyLFU). Defaults to 256 MiB.
    pub const fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Where the time comes from. Defaults to [`SystemClock`]. With another clock, expired entries
    /// are absent but keep their space until evicted or replaced.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// The backend.
    #[must_use]
    pub fn build(self) -> MemoryBackend {
        let mut entries = moka::sync::Cache::builder()
            .max_capacity(self.max_bytes)
            .weigher(|_: &Key, stored: &Arc<Stored>| u32::try_from(stored.size_bytes()).unwrap_or(u32::MAX));
        if self.clock.is_none() {
            entries = entries.expire_after(ByTimeToLive);
        }
        MemoryBackend {
            entries: entries.build(),
            generations: Generations::new(),
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock)),
            max_bytes: self.max_bytes,
        }
    }
}

impl Stored {
    fn is_of(&self, groups: &[Group]) -> bool {
        let own: &[Group] = self.entry.groups();
        // Readers often have the very list that the entry was stored with.
        std::ptr::eq(own, groups) || own == groups
    }

    fn current(&self) -> CurrentGenerations {
        self.cells.iter().map(|cell| cell.generation()).collect()
    }

    fn size_bytes(&self) -> usize {
        // As if nobody else had them: a cell has its group, and so has the table that it stands in.
        let cell = |group: &Group| size_of::<Arc<Cell>>() + size_of::<Cell>() + 2 * group.size_bytes();
        let cells: usize = self.entry.groups().iter().map(cell).sum();
        self.entry.size_bytes() + cells + OVERHEAD_BYTES
    }
}

/// Frees the space of expired entries. Whether an entry has expired is decided when it is looked up.
struct ByTimeToLive;

impl Expiry<Key, Arc<Stored>> for ByTimeToLive {
    fn expire_after_create(&self, _: &Key, stored: &Arc<Stored>, _: Instant) -> Option<Duration> {
        stored.time_to_live
    }

    fn expire_after_update(
        &self,
        _: &Key,
        stored: &Arc<Stored>,
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
