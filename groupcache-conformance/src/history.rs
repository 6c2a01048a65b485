//! Who read and invalidated what and when, and which read broke the promise.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use groupcache_core::Backend;
use groupcache_core::Cache;
use groupcache_core::Result;
use groupcache_core::{Group, Groups};
use parking_lot::Mutex;

/// Writes down what readers saw and writers were told, and finds stale reads.
///
/// A stale read is one whose version is older than the newest version whose invalidation was
/// acknowledged before the read began. Comes with data of its own, one version for each key, that
/// [`read`](Self::read) and [`write`](Self::write) use; whoever has data of his own records with
/// [`began`](Self::began), [`record_read`](Self::record_read) and
/// [`record_invalidation`](Self::record_invalidation). Clones write into the same history.
///
/// ```
/// use groupcache_core::Cache;
/// use groupcache_conformance::HistoryRecorder;
/// use groupcache_memory::MemoryBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build();
/// let history = HistoryRecorder::new(42);
/// history.read(&cache, 1).await;
/// history.write(&cache, 1).await?;
/// history.read(&cache, 1).await;
/// assert_eq!(history.check()?.reads, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct HistoryRecorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    seed: u64,
    repeat_with: Mutex<Option<String>>,
    now: AtomicU64,
    versions: Mutex<HashMap<u64, u64>>,
    events: Mutex<Events>,
}

#[derive(Debug, Default)]
struct Events {
    reads: Vec<Read>,
    invalidations: Vec<Invalidation>,
}

/// One read. Moments are numbered in the order in which they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a record")]
pub struct Read {
    /// What was read.
    pub key: u64,
    /// Before the read began.
    pub began: u64,
    /// The version it returned.
    pub version: u64,
}

/// One acknowledged invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a record")]
pub struct Invalidation {
    /// What was changed.
    pub key: u64,
    /// The version that was committed before.
    pub version: u64,
    /// After it was acknowledged.
    pub acknowledged: u64,
}

/// A read that broke the promise, and the invalidation that it did not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleRead {
    read: Read,
    missed: Invalidation,
    seed: u64,
    repeat_with: Option<String>,
}

/// What was checked and found sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// How many reads.
    pub reads: usize,
    /// How many acknowledged invalidations.
    pub invalidations: usize,
}

/// The value of a key: which it is, so that the value of another is noticed.
#[derive(Serialize, Deserialize)]
struct Versioned {
    key: u64,
    version: u64,
}

impl HistoryRecorder {
    /// An empty history. `seed` is what made it; a failure names it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Shared {
            seed,
            repeat_with: Mutex::new(None),
            now: AtomicU64::new(0),
            versions: Mutex::new(HashMap::new()),
            events: Mutex::new(Events::default()),
        }))
    }

    /// The command that repeats this history; a failure prints it.
    #[must_use]
    pub fn repeat_with(self, command: impl Into<String>) -> Self {
        *self.0.repeat_with.lock() = Some(command.into());
        self
    }

    /// The group that an entry of `key` depends on in [`read`](Self::read).
    #[must_use]
    pub fn group(key: u64) -> Group {
        Group::new("history").with("key", key)
    }

    /// All groups that an entry of `key` depends on in [`read`](Self::read): its own, and one that no
    /// write ever names.
    fn groups(key: u64) -> Groups {
        [Self::group(key), Group::new("history").with("half", key / 2)].into()
    }

    /// The version of the data that is committed now; 0 before the first write.
    #[must_use]
    pub fn committed(&self, key: u64) -> u64 {
        self.0.versions.lock().get(&key).copied().unwrap_or(0)
    }

    /// Commits the next version of the data, and tells nobody.
    #[must_use]
    pub fn commit(&self, key: u64) -> u64 {
        let mut versions = self.0.versions.lock();
        let version = versions.entry(key).or_insert(0);
        *version += 1;
        *version
    }

    /// Reads `key` through `cache`, and records it. Returns the version.
    ///
    /// # Panics
    ///
    /// If the cache returns the value of another key.
    pub async fn read<B: Backend>(&self, cache: &Cache<B>, key: u64) -> u64 {
        let began = self.began();
        #[cfg(groupcache_mutants)]
        let snapshot = self.old_snapshot(key).await;
        let compute = || async move {
            tokio::task::yield_now().await;
            let version = self.committed(key);
            #[cfg(groupcache_mutants)]
            let version = snapshot.unwrap_or(version);
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(Versioned { key, version })
        };
        let read = cache.get_or_load(&("history", key), Self::groups(key), compute).await;
        let value = match read {
            Ok(value) => value,
            Err(impossible) => match impossible {},
        };
        assert_eq!(
            value.key, key,
            "a read of key {key} returned the value of another (seed {})",
            self.0.seed
        );
        self.record_read(key, began, value.version);
        value.version
    }

    /// `old_snapshot`: what a transaction sees that began before the read, and did something else since.
    #[cfg(groupcache_mutants)]
    async fn old_snapshot(&self, key: u64) -> Option<u64> {
        if !groupcache_core::mutants::is_on("old_snapshot") {
            return None;
        }
        let committed = self.committed(key);
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        Some(committed)
    }

    /// Looks up several keys at once, and records those that were found.
    ///
    /// # Panics
    ///
    /// If the cache returns the value of another key.
    pub async fn read_many<B: Backend>(&self, cache: &Cache<B>, keys: impl IntoIterator<Item = u64> + Send) {
        let keys: Vec<u64> = keys.into_iter().collect();
        let began = self.began();
        let asked: Vec<_> = keys.iter().map(|key| (("history", *key), Self::groups(*key))).collect();
        let found: Vec<Option<Versioned>> = cache.get_many(asked).await;
        for (key, value) in keys.into_iter().zip(found) {
            if let Some(value) = value {
                assert_eq!(value.key, key, "the value of another key (seed {})", self.0.seed);
                self.record_read(key, began, value.version);
            }
        }
    }

    /// Commits the next version of `key`, and invalidates its group.
    ///
    /// # Errors
    ///
    /// If the cache did not acknowledge. The history promises nothing about this version then.
    pub async fn write<B: Backend>(&self, cache: &Cache<B>, key: u64) -> Result<u64> {
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("bump_before_commit") {
            cache.invalidate(Self::group(key)).await?;
            tokio::task::yield_now().await;
            let version = self.commit(key);
            self.record_invalidation(key, version);
            return Ok(version);
        }
        let version = self.commit(key);
        cache.invalidate(Self::group(key)).await?;
        self.record_invalidation(key, version);
        Ok(version)
    }

    /// Commits the next version of several keys, and invalidates their groups at once.
    ///
    /// # Errors
    ///
    /// If the cache did not acknowledge all of it.
    pub async fn write_many<B: Backend>(
        &self,
        cache: &Cache<B>,
        keys: impl IntoIterator<Item = u64> + Send,
    ) -> Result<()> {
        let versions: Vec<_> = keys.into_iter().map(|key| (key, self.commit(key))).collect();
        cache.invalidate(versions.iter().map(|(key, _)| Self::group(*key)).collect::<Groups>()).await?;
        for (key, version) in versions {
            self.record_invalidation(key, version);
        }
        Ok(())
    }

    /// The moment at which a read begins: before it is called.
    #[must_use]
    pub fn began(&self) -> u64 {
        self.0.now.fetch_add(1, Ordering::SeqCst)
    }

    /// A read that began then has returned this version.
    pub fn record_read(&self, key: u64, began: u64, version: u64) {
        self.0.events.lock().reads.push(Read { key, began, version });
    }

    /// The invalidation after this version was committed is acknowledged: after it has returned.
    pub fn record_invalidation(&self, key: u64, version: u64) {
        let acknowledged = self.0.now.fetch_add(1, Ordering::SeqCst);
        self.0.events.lock().invalidations.push(Invalidation { key, version, acknowledged });
    }

    /// Whether every read saw what it had to see. One pass in the order of time.
    ///
    /// # Errors
    ///
    /// The stale read that is simplest to explain: the one with the fewest moments between the
    /// acknowledgement and the read.
    pub fn check(&self) -> Result<Checked, StaleRead> {
        let mut events = self.0.events.lock();
        events.reads.sort_by_key(|read| read.began);
        events.invalidations.sort_by_key(|invalidation| invalidation.acknowledged);
        let mut newest: HashMap<u64, Invalidation> = HashMap::new();
        let mut acknowledged = events.invalidations.iter().peekable();
        let mut worst: Option<(Read, Invalidation)> = None;
        for read in &events.reads {
            while let Some(next) = acknowledged.next_if(|next| next.acknowledged < read.began) {
                let known = newest.entry(next.key).or_insert(*next);
                if next.version > known.version {
                    *known = *next;
                }
            }
            let Some(missed) = newest.get(&read.key).filter(|newest| newest.version > read.version) else {
                continue;
            };
            let simpler = worst
                .is_none_or(|(other, its)| read.began - missed.acknowledged < other.began - its.acknowledged);
            if simpler {
                worst = Some((*read, *missed));
            }
        }
        match worst {
            Some((read, missed)) => {
                let repeat_with = self.0.repeat_with.lock().clone();
                Err(StaleRead { read, missed, seed: self.0.seed, repeat_with })
            }
            None => Ok(Checked { reads: events.reads.len(), invalidations: events.invalidations.len() }),
        }
    }
}

impl StaleRead {
    /// The read.
    #[must_use]
    pub const fn read(&self) -> Read {
        self.read
    }

    /// The invalidation it did not see.
    #[must_use]
    pub const fn missed(&self) -> Invalidation {
        self.missed
    }
}

impl fmt::Display for StaleRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { read, missed, seed, repeat_with } = self;
        write!(
            f,
            "stale read of key {}: version {} was committed and its invalidation acknowledged at moment {}; \
             the read that began at moment {} returned version {} (seed {seed}",
            read.key, missed.version, missed.acknowledged, read.began, read.version
        )?;
        match repeat_with {
            Some(command) => write!(f, "; repeat with `{command}`)"),
            None => f.write_str(")"),
        }
    }
}

impl std::error::Error for StaleRead {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_began_before_the_acknowledgement_may_be_old_and_one_after_it_may_not() {
        let history = HistoryRecorder::new(7).repeat_with("cargo test");
        let before = history.began();
        history.record_invalidation(1, 5);
        let other = history.began();
        let after = history.began();
        history.record_read(1, before, 4);
        history.record_read(2, other, 0);
        assert_eq!(history.check(), Ok(Checked { reads: 2, invalidations: 1 }));
        history.record_read(1, after, 4);
        let stale = history.check().unwrap_err();
        assert_eq!((stale.read().began, stale.missed().version), (after, 5));
        let text = stale.to_string();
        assert!(text.contains("seed 7") && text.contains("`cargo test`"), "{text}");
    }

    #[test]
    fn the_newest_version_counts_whatever_was_acknowledged_last() {
        let history = HistoryRecorder::new(7);
        history.record_invalidation(1, 5);
        history.record_invalidation(1, 4);
        let began = history.began();
        history.record_read(1, began, 4);
        assert_eq!(history.check().unwrap_err().missed().version, 5);
    }
}
