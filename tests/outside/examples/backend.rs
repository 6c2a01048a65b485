//! A complete backend: two maps in a mutex.
//!
//! Comments name each promise of [`Backend`](groupcache_core::Backend) where the code keeps it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use groupcache_core::backend::{Found, Generation, Lookup, Minted, TimeLeft};
use groupcache_core::{
    Backend, BoxBackend, Cache, Clock, Entry, EntryOptions, Error, ErrorKind, Group, Key, ManualClock, Result,
};

/// The largest body that the backend keeps.
const BODY_BYTES_MAX: usize = 1 << 20;
/// The maximum number of items in each map.
const ITEMS_MAX: usize = 1_000;
/// The default time to live of entries, and the minimum of generations.
const TIME_TO_LIVE: Duration = Duration::from_secs(3600);

struct MapBackend {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Timed<Arc<Entry>>>,
    generations: HashMap<Group, Timed<Generation>>,
}

struct Timed<T> {
    value: T,
    /// `None` if it never expires, or later than the clock can count.
    expires_at: Option<Instant>,
}

impl MapBackend {
    fn new(clock: impl Clock) -> Self {
        Self { state: Mutex::default(), clock: Arc::new(clock) }
    }

    /// The maps are consistent after each statement, so a poisoned mutex is safe to use.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Timed<T> {
    fn is_live(&self, now: Instant) -> bool {
        self.expires_at.is_none_or(|expires_at| expires_at > now)
    }

    fn extend_to(&mut self, expires_at: Option<Instant>) {
        // `None` means never, which is later than any time.
        self.expires_at = self.expires_at.zip(expires_at).map(|(one, other)| one.max(other));
    }
}

impl Backend for MapBackend {
    fn name(&self) -> &'static str {
        "map"
    }

    // Ordered: a bump changes the map under the same lock before it returns.
    async fn lookup(&self, key: &Key, groups: &[Group], _: TimeLeft) -> Result<Lookup> {
        let (state, now) = (self.state(), self.clock.now());
        let found = match state.entries.get(key).filter(|entry| entry.is_live(now)) {
            Some(entry) => Found::Entry(Arc::clone(&entry.value), entry.expires_at),
            None => Found::Absent,
        };
        // Lost is missing: a generation that expired or was evicted is `None`, not a guess.
        let current = groups.iter().map(|group| state.generations.get(group));
        let current = current.map(|known| known.filter(|known| known.is_live(now)).map(|known| known.value));
        Ok(Lookup::new(found, current.collect()))
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        let (mut state, now) = (self.state(), self.clock.now());
        let expires_at = now.checked_add(TIME_TO_LIVE);
        make_room(&mut state.generations, groups.len(), now);
        let vector = groups.iter().map(|group| {
            // Unique: each write draws 128 fresh random bits.
            let fresh = || Timed { value: Generation::random(), expires_at };
            let known = state.generations.entry(group.clone()).or_insert_with(fresh);
            if !known.is_live(now) {
                *known = fresh();
            }
            known.extend_to(expires_at);
            known.value
        });
        // Generations expire by time here, so there is no guard to return.
        Ok(Minted::new(vector.collect()))
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        let mut state = self.state();
        for group in groups {
            // A group without a generation stays without one, so a group that was never cached uses no memory.
            if let Some(known) = state.generations.get_mut(group) {
                known.value = Generation::random();
            }
        }
        Ok(())
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        let (mut state, now) = (self.state(), self.clock.now());
        // Even a store that fails below replaces the previous entry.
        state.entries.remove(entry.key());
        if entry.body().len() > BODY_BYTES_MAX {
            // Loud: `Capacity` is an error that no retry cures.
            return Err(Error::new(ErrorKind::Capacity, self.name()));
        }
        if time_to_live == Some(Duration::ZERO) {
            return Ok(());
        }
        let expires_at = time_to_live.and_then(|time| now.checked_add(time));
        for group in entry.groups() {
            if let Some(known) = state.generations.get_mut(group).filter(|known| known.is_live(now)) {
                // An entry is a miss once one of its generations expires, so they must live as long.
                known.extend_to(expires_at);
            }
        }
        make_room(&mut state.entries, 1, now);
        state.entries.insert(entry.key().clone(), Timed { value: Arc::clone(entry), expires_at });
        Ok(())
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.state().entries.remove(key);
        Ok(())
    }

    fn default_time_to_live(&self) -> Option<Duration> {
        Some(TIME_TO_LIVE)
    }
}

/// Removes expired items from a full map, and all items if that is not enough. Both are allowed: entries may
/// be evicted, and an entry with a lost generation is a miss.
fn make_room<K: Hash + Eq, T>(map: &mut HashMap<K, Timed<T>>, count: usize, now: Instant) {
    if map.len() + count > ITEMS_MAX {
        map.retain(|_, item| item.is_live(now));
    }
    if map.len() + count > ITEMS_MAX {
        map.clear();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let clock = ManualClock::new();
    let backend = Arc::new(MapBackend::new(clock.clone()));
    // An `Arc` of a backend is a backend, and a box chooses one at run time.
    let cache: Cache = Cache::builder(BoxBackend::new(Arc::clone(&backend))).clock(clock.clone()).build();
    let runs = AtomicU32::new(0);
    let book = |id: u32| Group::new("book").with("id", id);
    let run = || async { Ok::<u32, Error>(runs.fetch_add(1, Ordering::Relaxed)) };
    let page = async |id: u32| cache.get_or_load(&("page", id), [book(id), Group::new("book")], run).await;

    // A miss, a hit, and a miss of another entry.
    assert_eq!((page(1).await?, page(1).await?, page(2).await?), (0, 0, 1));

    // One row changes, then all rows. A group that was never cached stores nothing.
    cache.invalidate(book(1)).await?;
    assert_eq!((page(1).await?, page(2).await?), (2, 1));
    cache.invalidate(Group::new("book")).await?;
    assert_eq!((page(1).await?, page(2).await?), (3, 4));
    let known = backend.state().generations.len();
    cache.invalidate(book(3)).await?;
    assert_eq!(backend.state().generations.len(), known);

    // An entry with a lost generation is a miss.
    backend.state().generations.clear();
    assert_eq!((page(1).await?, page(1).await?), (5, 5));
    assert_eq!(cache.stats().misses_group_missing, 1);

    // Entries expire to the millisecond.
    let short = cache.with_options(EntryOptions::new().time_to_live(Duration::from_millis(1500)));
    let short_lived = || short.get_or_load("short-lived", Group::new("clock"), run);
    assert_eq!(short_lived().await?, 6);
    clock.advance(Duration::from_millis(1499));
    assert_eq!(short_lived().await?, 6);
    clock.advance(Duration::from_millis(1));
    assert_eq!(short_lived().await?, 7);

    // An entry with a long time to live extends the time to live of its generations.
    let long = cache.with_options(EntryOptions::new().time_to_live(TIME_TO_LIVE * 10));
    let long_lived = || long.get_or_load("long-lived", Group::new("clock"), run);
    assert_eq!(long_lived().await?, 8);
    clock.advance(TIME_TO_LIVE * 9);
    assert_eq!(long_lived().await?, 8);

    // Neither map grows without bound.
    for id in 0..3_000 {
        page(100 + id).await?;
    }
    assert!(backend.state().entries.len() <= ITEMS_MAX);
    assert!(backend.state().generations.len() <= ITEMS_MAX);

    assert_eq!(cache.stats().store_failures, 0);
    println!("the backend works: {}", cache.backend_name());
    Ok(())
}
