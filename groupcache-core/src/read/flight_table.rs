//! The flights of this process, by key.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::data::key::Key;
use crate::read::flight::{Flight, FlightOutcome, Phase};
use crate::read::flight_id::FlightId;
use crate::read::unshared::UnsharedKeys;
use crate::sync::{AtomicU64, Mutex, RandomState};

/// Shuttle creates all of them for each schedule, and finds more if more tasks meet at one.
const UNDER_SHUTTLE: bool = cfg!(all(test, groupcache_shuttle));
const SHARDS: usize = if UNDER_SHUTTLE { 2 } else { 32 };
const COUNTERS: usize = if UNDER_SHUTTLE { 2 } else { 1024 };

/// All flights of this process. See `single_flight.rs` for the rules.
#[derive(Debug)]
pub(crate) struct SingleFlight {
    shards: Box<[Mutex<Shard>]>,
    /// How many flights have finished, by the hash of their keys.
    finished: Box<[AtomicU64]>,
    hasher: RandomState,
    pub(crate) unshared: UnsharedKeys,
}

pub(crate) type Shard = HashMap<Key, KeyFlights>;

/// The flights of one key. Locked before the state of any of them.
#[derive(Debug, Default)]
pub(crate) struct KeyFlights {
    /// The flight that loads, or is about to.
    pub(crate) current: Option<Arc<Flight>>,
    /// The flight behind it.
    pub(crate) next: Option<Arc<Flight>>,
    /// The last flight that resulted in an entry, until the entry is stored.
    pub(crate) landed: Option<Arc<Flight>>,
}

impl SingleFlight {
    pub(crate) fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect();
        let finished = (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { shards, finished, hasher: RandomState::default(), unshared: UnsharedKeys::new() })
    }

    /// Returns a number that changes when a flight of `key` finishes, and rarely otherwise.
    ///
    /// A reader that leads a new flight compares it with the number before its lookup: a flight that finished
    /// in between may have stored the entry just after the lookup.
    pub(crate) fn finished_count(&self, key: &Key) -> u64 {
        self.finished_counter(key).load(Ordering::SeqCst)
    }

    /// Whether a leader loads what `id` identifies, or is about to.
    pub(crate) fn contains(&self, id: &FlightId) -> bool {
        let shard = self.shard(&id.key).lock();
        let current = shard.get(&id.key).and_then(|flights| flights.current.as_ref());
        current.is_some_and(|flight| flight.state.lock().id.as_ref() == Some(id))
    }

    /// Returns the number of flights.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().values().map(KeyFlights::len).sum::<usize>()).sum()
    }

    pub(crate) fn shard(&self, key: &Key) -> &Mutex<Shard> {
        let hash = self.hasher.hash_one(key);
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let at = hash as usize % SHARDS;
        &self.shards[at]
    }

    pub(crate) fn count_finished(&self, key: &Key) {
        self.finished_counter(key).fetch_add(1, Ordering::SeqCst);
    }

    fn finished_counter(&self, key: &Key) -> &AtomicU64 {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let at = self.hasher.hash_one(key) as usize % COUNTERS;
        &self.finished[at]
    }
}

impl KeyFlights {
    pub(crate) fn is_current(&self, flight: &Arc<Flight>) -> bool {
        is_same(self.current.as_ref(), flight)
    }

    pub(crate) fn is_next(&self, flight: &Arc<Flight>) -> bool {
        is_same(self.next.as_ref(), flight)
    }

    pub(crate) fn is_landed(&self, flight: &Arc<Flight>) -> bool {
        is_same(self.landed.as_ref(), flight)
    }

    /// Ends the turn of the current flight, and wakes a waiter of the next one to lead it.
    pub(crate) fn promote_next(&mut self) {
        self.current = None;
        let Some(next) = self.next.take() else {
            return;
        };
        let mut state = next.state.lock();
        let behind = state.behind.take();
        if state.waiters > 0 {
            state.phase = Phase::Vacant;
            state.began = tokio::time::Instant::now();
            state.since = state.began;
            self.current = Some(Arc::clone(&next));
        }
        drop(state);
        drop(behind);
        // If the woken waiter is cancelled before it runs, tokio wakes the next.
        next.changed.notify_one();
    }

    /// Ends the next flight like the current one, whose load had nothing to share.
    pub(crate) fn release_next(&mut self) {
        let Some(next) = self.next.take() else {
            return;
        };
        let mut state = next.state.lock();
        let behind = state.behind.take();
        state.phase = Phase::Finished(FlightOutcome::Private);
        drop(state);
        drop(behind);
        next.changed.notify_waiters();
    }

    fn len(&self) -> usize {
        [&self.current, &self.next, &self.landed].into_iter().flatten().count()
    }
}

/// Removes the flights of `key` if there are none.
pub(crate) fn remove_if_empty(shard: &mut Shard, key: &Key) {
    if shard.get(key).is_some_and(|flights| flights.len() == 0) {
        shard.remove(key);
    }
}

fn is_same(there: Option<&Arc<Flight>>, flight: &Arc<Flight>) -> bool {
    there.is_some_and(|there| Arc::ptr_eq(there, flight))
}
