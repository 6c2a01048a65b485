//! Single flight: concurrent misses of one key load once.
//!
//! A flight is identified by the key *and* the complete vector that its leader read before the load. A reader
//! may share the outcome exactly if its own vector is the same. Generations are unique: a vector that the
//! leader saw before the load, and the reader after its read began, was current all the time between. No
//! invalidation that this reader must see can lie between them.
//!
//! If a leader is dropped before it finishes, because it was cancelled or panicked, one of its followers
//! takes over. A flight lasts until its entry is stored: readers that come during the store share the outcome
//! instead of loading again.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::data::entry::Entry;
use crate::data::key::Key;
use crate::read::flight_id::FlightId;
use crate::read::held_lease::HeldLease;
use crate::sync::{AtomicU64, Mutex, Notify, RandomState};

/// Shuttle creates all of them for each schedule, and finds more if more tasks meet at one.
const UNDER_SHUTTLE: bool = cfg!(all(test, groupcache_shuttle));
const SHARDS: usize = if UNDER_SHUTTLE { 2 } else { 32 };
const COUNTERS: usize = if UNDER_SHUTTLE { 2 } else { 1024 };

/// All flights of this process.
#[derive(Debug)]
pub(crate) struct SingleFlight {
    shards: Box<[Mutex<Shard>]>,
    /// How many flights have finished, by the hash of their keys.
    finished: Box<[AtomicU64]>,
    hasher: RandomState,
}

type Shard = HashMap<FlightId, Arc<Flight>>;

#[derive(Debug)]
struct Flight {
    began: tokio::time::Instant,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Readers that wait or are about to. A vacant flight without waiters is removed.
    waiters: usize,
    /// Passed from leader to leader, and released when the flight ends.
    lease: Option<Box<HeldLease>>,
}

#[derive(Debug, Clone)]
enum Phase {
    Loading,
    /// The leader was dropped. The next waiter takes over.
    Vacant,
    Finished(FlightOutcome),
}

/// What a load came to, for its followers.
#[derive(Debug, Clone)]
pub(crate) enum FlightOutcome {
    /// An entry that all followers may use, and when its time to live ends.
    Shared { entry: Arc<Entry>, expires_at: Option<Instant> },
    /// A value that only the leader may use, because it is private or cannot be stored.
    Private,
    /// The load discovered groups after it had read their data. The next load starts with their generations.
    GroupsDiscovered,
    /// Nothing was loaded: a group was invalidated while the leader waited for a lease.
    Invalidated,
    /// The load failed. The entry is the failure, if the loader shares it.
    Failed(Option<Arc<Entry>>),
}

/// The part of one reader in a flight.
#[derive(Debug)]
pub(crate) enum Role {
    /// Load, then [`finish`](Leader::finish).
    Leader(Leader),
    /// Another reader has loaded.
    Follower(FlightOutcome),
}

/// The duty to load. Dropped without an outcome, it passes to a follower.
#[derive(Debug)]
pub(crate) struct Leader {
    flights: Arc<SingleFlight>,
    id: FlightId,
    flight: Arc<Flight>,
    is_finished: bool,
}

impl SingleFlight {
    pub(crate) fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect();
        let finished = (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { shards, finished, hasher: RandomState::new() })
    }

    /// Joins the flight of `id`: leads it if there is none, or waits until its leader finishes or is dropped.
    ///
    /// Cancel safe: a dropped future leaves nothing behind.
    pub(crate) async fn join(self: &Arc<Self>, id: FlightId) -> Role {
        let (flight, is_new) = self.find_or_start(&id);
        if is_new {
            return Role::Leader(self.lead(id, flight));
        }
        let waiter = WaiterGuard { flights: self, id: &id, flight: &flight };
        let outcome = flight.outcome().await;
        drop(waiter);
        match outcome {
            Some(outcome) => Role::Follower(outcome),
            None => Role::Leader(self.lead(id, flight)),
        }
    }

    /// Leads the flight of `id`, unless another reader leads it already.
    pub(crate) fn try_lead(self: &Arc<Self>, id: FlightId) -> Option<Leader> {
        let (flight, is_new) = self.find_or_start(&id);
        if is_new {
            return Some(self.lead(id, flight));
        }
        let waiter = WaiterGuard { flights: self, id: &id, flight: &flight };
        let vacant = flight.take_over();
        #[cfg(groupcache_mutants)]
        let vacant = vacant || crate::mutants::is_on("two_leaders");
        drop(waiter);
        vacant.then(|| self.lead(id, flight))
    }

    /// Returns a number that changes when a flight of `key` finishes, and rarely otherwise.
    ///
    /// A reader that leads a new flight compares it with the number before its lookup: a flight that finished
    /// in between may have stored the entry just after the lookup.
    pub(crate) fn finished_count(&self, key: &Key) -> u64 {
        self.finished_counter(key).load(Ordering::SeqCst)
    }

    /// Whether this flight exists.
    pub(crate) fn contains(&self, id: &FlightId) -> bool {
        self.shard(id).lock().contains_key(id)
    }

    /// Returns the number of flights.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn lead(self: &Arc<Self>, id: FlightId, flight: Arc<Flight>) -> Leader {
        Leader { flights: Arc::clone(self), id, flight, is_finished: false }
    }

    /// Returns the flight, and whether this call started it. If it did not, the caller counts as a waiter.
    fn find_or_start(&self, id: &FlightId) -> (Arc<Flight>, bool) {
        match self.shard(id).lock().entry(id.clone()) {
            Slot::Occupied(slot) => {
                slot.get().state.lock().waiters += 1;
                (Arc::clone(slot.get()), false)
            }
            Slot::Vacant(slot) => {
                let state = Mutex::new(State { phase: Phase::Loading, waiters: 0, lease: None });
                let began = tokio::time::Instant::now();
                (Arc::clone(slot.insert(Arc::new(Flight { began, state, changed: Notify::new() }))), true)
            }
        }
    }

    fn finished_counter(&self, key: &Key) -> &AtomicU64 {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let at = self.hasher.hash_one(key) as usize % COUNTERS;
        &self.finished[at]
    }

    fn shard(&self, id: &FlightId) -> &Mutex<Shard> {
        let hash = self.hasher.hash_one(id);
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let at = hash as usize % SHARDS;
        &self.shards[at]
    }

    fn remove(&self, id: &FlightId, flight: &Arc<Flight>) {
        Self::remove_from(&mut self.shard(id).lock(), id, flight);
    }

    fn remove_from(shard: &mut Shard, id: &FlightId, flight: &Arc<Flight>) {
        if shard.get(id).is_some_and(|found| Arc::ptr_eq(found, flight)) {
            shard.remove(id);
        }
    }
}

impl Flight {
    /// Waits for the outcome. Returns `None` if the caller has taken over from a dropped leader.
    async fn outcome(&self) -> Option<FlightOutcome> {
        loop {
            #[cfg(groupcache_mutants)]
            if crate::mutants::is_on("late_wait") {
                if self.take_over() {
                    return None;
                }
                if let Phase::Finished(outcome) = &self.state.lock().phase {
                    return Some(outcome.clone());
                }
                self.changed.notified().await;
                continue;
            }
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the phase is read, so that no change in between is missed.
            changed.as_mut().enable();
            if self.take_over() {
                return None;
            }
            if let Phase::Finished(outcome) = &self.state.lock().phase {
                return Some(outcome.clone());
            }
            changed.await;
        }
    }

    /// Takes the place of a dropped leader, if it is vacant.
    fn take_over(&self) -> bool {
        let mut state = self.state.lock();
        let vacant = matches!(state.phase, Phase::Vacant);
        if vacant {
            state.phase = Phase::Loading;
        }
        vacant
    }
}

impl Leader {
    /// Notifies all followers of the outcome. Readers that join until the `Leader` is dropped get it too.
    pub(crate) fn finish(&mut self, outcome: FlightOutcome) {
        self.is_finished = true;
        self.flight.state.lock().phase = Phase::Finished(outcome);
        self.flight.changed.notify_waiters();
    }

    /// Returns when the first leader of this flight began.
    pub(crate) fn began(&self) -> tokio::time::Instant {
        self.flight.began
    }

    /// Gives the lease to the flight, which holds it until it ends.
    pub(crate) fn set_lease(&self, lease: Box<HeldLease>) {
        self.flight.state.lock().lease = Some(lease);
    }

    /// Whether the flight has a lease that has not expired.
    pub(crate) fn has_lease(&self) -> bool {
        self.flight.state.lock().lease.as_ref().is_some_and(|lease| lease.is_valid())
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        #[cfg(groupcache_mutants)]
        if self.is_finished && crate::mutants::is_on("late_count") {
            self.flights.remove(&self.id, &self.flight);
        }
        if self.is_finished {
            // Before the removal: a reader that does not find the flight finds the counter changed.
            self.flights.finished_counter(&self.id.key).fetch_add(1, Ordering::SeqCst);
            self.flights.remove(&self.id, &self.flight);
            // Followers may still hold the flight. Other processes must not wait for them.
            let lease = self.flight.state.lock().lease.take();
            drop(lease);
            return;
        }
        let mut shard = self.flights.shard(&self.id).lock();
        let mut state = self.flight.state.lock();
        if state.waiters == 0 {
            SingleFlight::remove_from(&mut shard, &self.id, &self.flight);
        } else {
            state.phase = Phase::Vacant;
            drop(state);
            #[cfg(groupcache_mutants)]
            if crate::mutants::is_on("no_hand_over") {
                return;
            }
            // If the woken waiter is cancelled before it runs, tokio wakes the next.
            self.flight.changed.notify_one();
        }
    }
}

/// Counts a reader as a waiter until dropped.
struct WaiterGuard<'a> {
    flights: &'a SingleFlight,
    id: &'a FlightId,
    flight: &'a Arc<Flight>,
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        let mut shard = self.flights.shard(self.id).lock();
        let mut state = self.flight.state.lock();
        state.waiters -= 1;
        #[cfg(groupcache_mutants)]
        if crate::mutants::is_on("left_behind") {
            return;
        }
        if state.waiters == 0 && matches!(state.phase, Phase::Vacant) {
            SingleFlight::remove_from(&mut shard, self.id, self.flight);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::task::JoinSet;

    use super::*;
    use crate::data::entry::Generation;
    use crate::data::group::Group;

    fn id(key: u32, generation: u128) -> FlightId {
        let vector = Generation::new(generation).into_iter().collect();
        FlightId { key: Key::of(&key).unwrap(), groups: Group::new("g").into(), vector }
    }

    fn entry(id: &FlightId) -> Arc<Entry> {
        let body = Bytes::from_static(b"value");
        Arc::new(Entry::new(id.key.clone(), id.groups.clone(), id.vector.clone(), body, Duration::ZERO))
    }

    async fn lead(flights: &Arc<SingleFlight>, id: FlightId) -> Leader {
        match flights.join(id).await {
            Role::Leader(leader) => leader,
            Role::Follower(outcome) => panic!("not leading: {outcome:?}"),
        }
    }

    #[tokio::test]
    async fn one_leads_and_all_others_share() {
        let flights = SingleFlight::new();
        let mut leader = lead(&flights, id(1, 1)).await;
        let mut readers = JoinSet::new();
        for _ in 0..100 {
            let flights = Arc::clone(&flights);
            readers.spawn(async move { flights.join(id(1, 1)).await });
        }
        tokio::task::yield_now().await;
        leader.finish(FlightOutcome::Shared { entry: entry(&id(1, 1)), expires_at: None });
        while let Some(role) = readers.join_next().await {
            assert!(matches!(role.unwrap(), Role::Follower(FlightOutcome::Shared { .. })));
        }
        // Still there until the entry is stored.
        assert!(matches!(flights.join(id(1, 1)).await, Role::Follower(FlightOutcome::Shared { .. })));
        drop(leader);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_reader_can_tell_that_a_flight_went_since_it_looked() {
        let flights = SingleFlight::new();
        let before = flights.finished_count(&id(1, 1).key);
        let mut leader = lead(&flights, id(1, 1)).await;
        assert_eq!(flights.finished_count(&id(1, 1).key), before);
        leader.finish(FlightOutcome::Private);
        drop(leader);
        assert_ne!(flights.finished_count(&id(1, 1).key), before);
    }

    #[tokio::test]
    async fn another_vector_is_another_flight() {
        let flights = SingleFlight::new();
        let _one = lead(&flights, id(1, 1)).await;
        let _other = lead(&flights, id(1, 2)).await;
        assert_eq!(flights.len(), 2);
        assert!(flights.try_lead(id(1, 1)).is_none());
    }

    #[tokio::test]
    async fn a_dropped_leader_hands_over_to_one_and_nobody_hangs() {
        let flights = SingleFlight::new();
        let leader = lead(&flights, id(1, 1)).await;
        let mut readers = JoinSet::new();
        for reader in 0..50 {
            let flights = Arc::clone(&flights);
            readers.spawn(async move {
                match flights.join(id(1, 1)).await {
                    // Every second reader that takes over is dropped too.
                    Role::Leader(leader) if reader % 2 == 0 => drop(leader),
                    Role::Leader(mut leader) => leader.finish(FlightOutcome::Failed(None)),
                    Role::Follower(_) => {}
                }
            });
        }
        tokio::task::yield_now().await;
        drop(leader);
        let all = async { while readers.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(5), all).await.expect("a reader hangs");
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_waiter_that_goes_away_leaves_nothing_behind() {
        let flights = SingleFlight::new();
        let leader = lead(&flights, id(1, 1)).await;
        let waiter = tokio::spawn({
            let flights = Arc::clone(&flights);
            async move { flights.join(id(1, 1)).await }
        });
        tokio::task::yield_now().await;
        drop(leader);
        waiter.abort();
        drop(waiter.await);
        assert_eq!(flights.len(), 0);
    }
}
