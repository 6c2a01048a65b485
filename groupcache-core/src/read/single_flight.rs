//! Concurrent misses of one key compute once.
//!
//! A flight is identified by the key *and* the complete vector its leader read before computing. A
//! reader may share its value exactly if its own vector is the same: tokens are unique, so a vector
//! seen by the leader before the computation and by the reader after its read began was current all
//! the time between, and no invalidation that this reader must see can have come in between.
//!
//! A leader that is dropped before it finished, cancelled or by a panic, hands over to one of those
//! who wait. A flight stays until its entry is stored, so that readers who come while the store is
//! under way share the value instead of computing it again.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::data::entry::{Entry, GenerationVector};
use crate::data::group::Groups;
use crate::data::key::Key;
use crate::read::lease_wait::HeldLease;
use crate::sync::{AtomicU64, Mutex, Notify, RandomState};

/// Shuttle makes all of them anew for each schedule, and finds more the more meet at one.
const UNDER_SHUTTLE: bool = cfg!(all(test, groupcache_shuttle));
const SHARDS: usize = if UNDER_SHUTTLE { 2 } else { 32 };
const COUNTERS: usize = if UNDER_SHUTTLE { 2 } else { 1024 };

/// What is being computed, and under which complete vector.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FlightId {
    pub(crate) key: Key,
    pub(crate) groups: Groups,
    pub(crate) vector: GenerationVector,
}

/// All computations under way in this process. Holds an item only while one is.
#[derive(Debug)]
pub(crate) struct SingleFlight {
    shards: Box<[Mutex<Shard>]>,
    /// How many flights have landed and gone, by the hash of their keys.
    gone: Box<[AtomicU64]>,
    hasher: RandomState,
}

type Shard = HashMap<FlightId, Arc<Flight>>;

#[derive(Debug)]
struct Flight {
    began: tokio::time::Instant,
    state: Mutex<State>,
    landed: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Those who wait or are about to. A vacant flight without any is removed.
    waiters: usize,
    /// Goes with the flight from leader to leader, and is given back when it ends.
    lease: Option<Box<HeldLease>>,
}

#[derive(Debug, Clone)]
enum Phase {
    Computing,
    /// The leader is gone; the next waiter takes over.
    Vacant,
    Landed(FlightOutcome),
}

/// How a computation ended for those who waited.
#[derive(Debug, Clone)]
pub(crate) enum FlightOutcome {
    /// An entry that all of them may use, and when its time to live is over.
    Shared(Arc<Entry>, Option<Instant>),
    /// There is a value but only its leader may use it (private, or too large to keep).
    Private,
    /// It depends on groups that were found too late; another try starts with them.
    Again,
    /// It was not begun: something it depends on was invalidated before it was this process's turn.
    Changed,
    /// The computation failed, and perhaps what it says to all of them.
    Failed(Option<Arc<Entry>>),
}

/// One's part in a flight.
#[derive(Debug)]
pub(crate) enum Role {
    /// Compute, then [`land`](Leader::land).
    Leader(Leader),
    /// Somebody else computed.
    Follower(FlightOutcome),
}

/// The duty to compute. Dropped without landing, it hands over.
#[derive(Debug)]
pub(crate) struct Leader {
    flights: Arc<SingleFlight>,
    id: FlightId,
    flight: Arc<Flight>,
    landed: bool,
}

impl SingleFlight {
    pub(crate) fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect();
        let gone = (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { shards, gone, hasher: RandomState::new() })
    }

    /// Leads the flight of `id`, or waits until its leader has landed or handed over. Dropping the
    /// future leaves nothing behind.
    pub(crate) async fn join(self: &Arc<Self>, id: FlightId) -> Role {
        let (flight, ours) = self.find_or_start(&id);
        if ours {
            return Role::Leader(self.lead(id, flight));
        }
        let waiting = Waiting { flights: self, id: &id, flight: &flight };
        let landing = flight.landing().await;
        drop(waiting);
        match landing {
            Some(landing) => Role::Follower(landing),
            None => Role::Leader(self.lead(id, flight)),
        }
    }

    /// Leads the flight of `id` unless somebody does already.
    pub(crate) fn try_lead(self: &Arc<Self>, id: FlightId) -> Option<Leader> {
        let (flight, ours) = self.find_or_start(&id);
        if ours {
            return Some(self.lead(id, flight));
        }
        let waiting = Waiting { flights: self, id: &id, flight: &flight };
        let vacant = flight.take_over();
        #[cfg(groupcache_mutants)]
        let vacant = vacant || crate::mutants::is_on("two_leaders");
        drop(waiting);
        vacant.then(|| self.lead(id, flight))
    }

    /// Changes whenever a flight of this key has landed and gone, and rarely otherwise: a reader that
    /// leads a new flight may have missed the entry only because its lookup was a moment too early.
    pub(crate) fn gone(&self, key: &Key) -> u64 {
        self.gone_counter(key).load(Ordering::SeqCst)
    }

    /// Whether this flight is under way.
    pub(crate) fn has(&self, id: &FlightId) -> bool {
        self.shard(id).lock().contains_key(id)
    }

    /// How many computations are under way.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn lead(self: &Arc<Self>, id: FlightId, flight: Arc<Flight>) -> Leader {
        Leader { flights: Arc::clone(self), id, flight, landed: false }
    }

    /// The flight, and whether this call started it; if it did not, the caller counts as waiting.
    fn find_or_start(&self, id: &FlightId) -> (Arc<Flight>, bool) {
        match self.shard(id).lock().entry(id.clone()) {
            Slot::Occupied(slot) => {
                slot.get().state.lock().waiters += 1;
                (Arc::clone(slot.get()), false)
            }
            Slot::Vacant(slot) => {
                let state = Mutex::new(State { phase: Phase::Computing, waiters: 0, lease: None });
                let began = tokio::time::Instant::now();
                (Arc::clone(slot.insert(Arc::new(Flight { began, state, landed: Notify::new() }))), true)
            }
        }
    }

    fn gone_counter(&self, key: &Key) -> &AtomicU64 {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let at = self.hasher.hash_one(key) as usize % COUNTERS;
        &self.gone[at]
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
    /// Waits for the landing; `None` once the caller has taken over from a leader that is gone.
    async fn landing(&self) -> Option<FlightOutcome> {
        loop {
            #[cfg(groupcache_mutants)]
            if crate::mutants::is_on("late_wait") {
                if self.take_over() {
                    return None;
                }
                if let Phase::Landed(landing) = &self.state.lock().phase {
                    return Some(landing.clone());
                }
                self.landed.notified().await;
                continue;
            }
            let landed = self.landed.notified();
            tokio::pin!(landed);
            // Registered before the phase is read, so that nothing between the two is missed.
            landed.as_mut().enable();
            if self.take_over() {
                return None;
            }
            if let Phase::Landed(landing) = &self.state.lock().phase {
                return Some(landing.clone());
            }
            landed.await;
        }
    }

    /// Takes the place of a leader that is gone, if it is free.
    fn take_over(&self) -> bool {
        let mut state = self.state.lock();
        let vacant = matches!(state.phase, Phase::Vacant);
        if vacant {
            state.phase = Phase::Computing;
        }
        vacant
    }
}

impl Leader {
    /// Ends the computation for all who wait. Those who come until the `Leader` is dropped get the
    /// same landing.
    pub(crate) fn land(&mut self, landing: FlightOutcome) {
        self.landed = true;
        self.flight.state.lock().phase = Phase::Landed(landing);
        self.flight.landed.notify_waiters();
    }

    /// When the first leader of this flight began.
    pub(crate) fn began(&self) -> tokio::time::Instant {
        self.flight.began
    }

    /// Keeps the lease until the flight has ended, whoever leads it.
    pub(crate) fn keep(&self, lease: Box<HeldLease>) {
        self.flight.state.lock().lease = Some(lease);
    }

    /// Whether the flight has a lease that has not run out.
    pub(crate) fn has_lease(&self) -> bool {
        self.flight.state.lock().lease.as_ref().is_some_and(|lease| lease.duration())
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        #[cfg(groupcache_mutants)]
        if self.landed && crate::mutants::is_on("late_gone") {
            self.flights.remove(&self.id, &self.flight);
        }
        if self.landed {
            // Before it goes: whoever finds it gone also finds the counter changed.
            self.flights.gone_counter(&self.id.key).fetch_add(1, Ordering::SeqCst);
            self.flights.remove(&self.id, &self.flight);
            // Passengers may keep the flight, and must not keep other processes waiting.
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
            // If the one who is woken goes away before it runs, tokio wakes the next.
            self.flight.landed.notify_one();
        }
    }
}

/// Counts a reader as waiting until dropped.
struct Waiting<'a> {
    flights: &'a SingleFlight,
    id: &'a FlightId,
    flight: &'a Arc<Flight>,
}

impl Drop for Waiting<'_> {
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
            Role::Leader(lead) => lead,
            Role::Follower(landing) => panic!("not leading: {landing:?}"),
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
        leader.land(FlightOutcome::Shared(entry(&id(1, 1)), None));
        while let Some(role) = readers.join_next().await {
            assert!(matches!(role.unwrap(), Role::Follower(FlightOutcome::Shared(..))));
        }
        // Still there until the entry is stored.
        assert!(matches!(flights.join(id(1, 1)).await, Role::Follower(FlightOutcome::Shared(..))));
        drop(leader);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_reader_can_tell_that_a_flight_went_since_it_looked() {
        let flights = SingleFlight::new();
        let before = flights.gone(&id(1, 1).key);
        let mut leader = lead(&flights, id(1, 1)).await;
        assert_eq!(flights.gone(&id(1, 1).key), before);
        leader.land(FlightOutcome::Private);
        drop(leader);
        assert_ne!(flights.gone(&id(1, 1).key), before);
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
                    // Every second one that takes over goes away too.
                    Role::Leader(lead) if reader % 2 == 0 => drop(lead),
                    Role::Leader(mut lead) => lead.land(FlightOutcome::Failed(None)),
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
