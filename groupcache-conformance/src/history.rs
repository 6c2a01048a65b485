//! Records reads and invalidations in order, and finds the reads that break the promise of the cache.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use groupcache_core::{Backend, Cache, Group, Groups, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Records reads and acknowledged invalidations, and finds stale reads.
///
/// A read is stale if its version is older than the newest version whose invalidation was acknowledged
/// before the read began. [`read`](Self::read) and [`write`](Self::write) use data of the recorder's own,
/// one version for each key. A test with other data calls [`begin_read`](Self::begin_read),
/// [`record_read`](Self::record_read) and [`record_invalidation`](Self::record_invalidation) instead.
/// Clones record into the same history.
///
/// ```
/// use groupcache_conformance::HistoryRecorder;
/// use groupcache_core::Cache;
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

/// One read. Moments are numbered in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a record")]
pub struct Read {
    /// The key that was read.
    pub key: u64,
    /// The moment before the read began.
    pub began: u64,
    /// The version that it returned.
    pub version: u64,
}

/// One acknowledged invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a record")]
pub struct Invalidation {
    /// The key whose data changed.
    pub key: u64,
    /// The version that was committed before the invalidation.
    pub version: u64,
    /// The moment after the acknowledgement.
    pub acknowledged: u64,
}

/// A read that broke the promise, and the invalidation that it missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleRead {
    read: Read,
    missed: Invalidation,
    seed: u64,
    repeat_with: Option<String>,
}

/// The size of a history without stale reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckedHistory {
    /// The number of reads.
    pub reads: usize,
    /// The number of acknowledged invalidations.
    pub invalidations: usize,
}

/// The cached value. It has its key, so that a read notices the value of another key.
#[derive(Serialize, Deserialize)]
struct Versioned {
    key: u64,
    version: u64,
}

impl HistoryRecorder {
    /// Makes an empty history. A failure prints `seed`.
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

    /// Sets the command that repeats this history. A failure prints it.
    #[must_use]
    pub fn repeat_with(self, command: impl Into<String>) -> Self {
        *self.0.repeat_with.lock() = Some(command.into());
        self
    }

    /// Returns the group that [`write`](Self::write) invalidates for `key`.
    #[must_use]
    pub fn group(key: u64) -> Group {
        Group::new("history").with("key", key)
    }

    /// The groups of the entry of `key`: the key's own, and one that no write invalidates.
    fn groups(key: u64) -> Groups {
        [Self::group(key), Group::new("history").with("half", key / 2)].into()
    }

    /// Returns the committed version of `key`, 0 before the first write.
    #[must_use]
    pub fn committed(&self, key: u64) -> u64 {
        self.0.versions.lock().get(&key).copied().unwrap_or(0)
    }

    /// Commits the next version of `key` without an invalidation, and returns it.
    #[must_use]
    pub fn commit(&self, key: u64) -> u64 {
        let mut versions = self.0.versions.lock();
        let version = versions.entry(key).or_insert(0);
        *version += 1;
        *version
    }

    /// Reads `key` through `cache`, records the read, and returns the version.
    ///
    /// # Panics
    ///
    /// Panics if the cache returns the value of another key.
    pub async fn read<B: Backend>(&self, cache: &Cache<B>, key: u64) -> u64 {
        let began = self.begin_read();
        #[cfg(groupcache_mutants)]
        let snapshot = self.old_snapshot(key).await;
        let load = || async move {
            tokio::task::yield_now().await;
            let version = self.committed(key);
            #[cfg(groupcache_mutants)]
            let version = snapshot.unwrap_or(version);
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(Versioned { key, version })
        };
        let read = cache.get_or_load(&("history", key), Self::groups(key), load).await;
        let value = match read {
            Ok(value) => value,
            Err(impossible) => match impossible {},
        };
        assert_eq!(value.key, key, "a read of key {key} returned another value (seed {})", self.0.seed);
        self.record_read(key, began, value.version);
        value.version
    }

    /// The mutant `old_snapshot`: what a transaction sees that began before the read.
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

    /// Reads several keys at once without loading, and records the hits.
    ///
    /// # Panics
    ///
    /// Panics if the cache returns the value of another key.
    pub async fn read_many<B: Backend>(&self, cache: &Cache<B>, keys: impl IntoIterator<Item = u64> + Send) {
        let keys: Vec<u64> = keys.into_iter().collect();
        let began = self.begin_read();
        let requested: Vec<_> = keys.iter().map(|key| (("history", *key), Self::groups(*key))).collect();
        let found: Vec<Option<Versioned>> = cache.get_many(requested).await;
        for (key, value) in keys.into_iter().zip(found) {
            if let Some(value) = value {
                assert_eq!(
                    value.key, key,
                    "a read of key {key} returned another value (seed {})",
                    self.0.seed
                );
                self.record_read(key, began, value.version);
            }
        }
    }

    /// Commits the next version of `key`, invalidates its group, and returns the version.
    ///
    /// # Errors
    ///
    /// Returns the error of the cache. The history then expects nothing of later reads.
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

    /// Commits the next version of several keys, and invalidates their groups in one call.
    ///
    /// # Errors
    ///
    /// Returns the error of the cache. The history then expects nothing of later reads.
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

    /// Returns the moment at which a read begins. Call it before the read.
    #[must_use]
    pub fn begin_read(&self) -> u64 {
        self.0.now.fetch_add(1, Ordering::SeqCst)
    }

    /// Records that a read of `key` which began at `began` has returned `version`.
    pub fn record_read(&self, key: u64, began: u64, version: u64) {
        self.0.events.lock().reads.push(Read { key, began, version });
    }

    /// Records that the invalidation of `version` was acknowledged. Call it after the invalidation.
    pub fn record_invalidation(&self, key: u64, version: u64) {
        let acknowledged = self.0.now.fetch_add(1, Ordering::SeqCst);
        self.0.events.lock().invalidations.push(Invalidation { key, version, acknowledged });
    }

    /// Checks every read against the invalidations that were acknowledged before it began.
    ///
    /// # Errors
    ///
    /// Returns the stale read with the fewest moments between the acknowledgement and the read, as it is
    /// the simplest to explain.
    pub fn check(&self) -> Result<CheckedHistory, StaleRead> {
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
            None => {
                Ok(CheckedHistory { reads: events.reads.len(), invalidations: events.invalidations.len() })
            }
        }
    }
}

impl StaleRead {
    /// Returns the read.
    #[must_use]
    pub const fn read(&self) -> Read {
        self.read
    }

    /// Returns the invalidation that the read missed.
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
            "stale read of key {}: the invalidation of version {} was acknowledged at moment {}; the read \
             that began at moment {} returned version {} (seed {seed}",
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
        let before = history.begin_read();
        history.record_invalidation(1, 5);
        let other = history.begin_read();
        let after = history.begin_read();
        history.record_read(1, before, 4);
        history.record_read(2, other, 0);
        assert_eq!(history.check(), Ok(CheckedHistory { reads: 2, invalidations: 1 }));
        history.record_read(1, after, 4);
        let stale = history.check().unwrap_err();
        assert_eq!((stale.read().began, stale.missed().version), (after, 5));
        let text = stale.to_string();
        assert!(text.contains("seed 7") && text.contains("`cargo test`"), "{text}");
    }

    #[test]
    fn the_newest_version_counts_in_whichever_order_versions_were_acknowledged() {
        let history = HistoryRecorder::new(7);
        history.record_invalidation(1, 5);
        history.record_invalidation(1, 4);
        let began = history.begin_read();
        history.record_read(1, began, 4);
        assert_eq!(history.check().unwrap_err().missed().version, 5);
    }
}
