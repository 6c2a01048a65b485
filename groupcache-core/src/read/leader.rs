//! The reader that loads, and how it ends its flight.

use std::sync::Arc;

use crate::data::key::Key;
use crate::read::flight::{Flight, FlightOutcome, Phase};
use crate::read::flight_id::FlightId;
use crate::read::flight_table::{SingleFlight, remove_if_empty};
use crate::read::held_lease::HeldLease;
use crate::read::progress::Progress;
use crate::read::wait_graph::WaitNode;

/// After how many panics all waiters load on their own. A panic that is not repeated starts no herd.
const PANICS_MAX: u64 = 2;

/// The duty to load. Dropped without an outcome, it passes to a follower.
#[derive(Debug)]
pub(crate) struct Leader {
    flights: Arc<SingleFlight>,
    key: Key,
    flight: Arc<Flight>,
    end: Option<End>,
}

/// How a leader has ended its flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The flight has an outcome.
    Finished,
    /// A waiter is to take over.
    HandedOver,
}

impl Leader {
    pub(crate) const fn new(flights: Arc<SingleFlight>, key: Key, flight: Arc<Flight>) -> Self {
        Self { flights, key, flight, end: None }
    }

    /// Sets what this leader will load; `None` if it loads without the store.
    pub(crate) fn prepare(&self, id: Option<FlightId>) {
        let mut state = self.flight.state.lock();
        let other_lease = state.lease.take_if(|lease| id.as_ref().is_none_or(|id| !lease.is_for(id)));
        state.id = id;
        drop(state);
        // Outside the lock: it is released.
        drop(other_lease);
    }

    /// Notes that the load begins. From now on only readers with the same vector may join.
    pub(crate) fn begin(&self) {
        let mut state = self.flight.state.lock();
        state.begins += 1;
        state.since = tokio::time::Instant::now();
        if matches!(state.phase, Phase::Preparing) {
            state.phase = Phase::Loading;
        }
    }

    /// Returns the outcome of an earlier flight that loaded what this leader is to load, while its entry is
    /// being stored.
    pub(crate) fn landed(&self) -> Option<FlightOutcome> {
        let shard = self.flights.shard(&self.key).lock();
        let landed = shard.get(&self.key)?.landed.as_ref()?;
        let landed = landed.state.lock();
        match (&landed.phase, self.flight.state.lock().id.as_ref()) {
            (Phase::Finished(outcome), id) if landed.loads(id) => Some(outcome.clone()),
            _ => None,
        }
    }

    /// Notifies all followers of the outcome. If it is an entry to be stored, readers that join until the
    /// `Leader` is dropped get it too.
    pub(crate) fn finish(&mut self, outcome: FlightOutcome) {
        self.end = Some(End::Finished);
        let mut shard = self.flights.shard(&self.key).lock();
        let Some(flights) = shard.get_mut(&self.key).filter(|flights| flights.is_current(&self.flight))
        else {
            // Another flight has taken its place. Waiters that have not left yet get the outcome.
            drop(shard);
            self.flight.state.lock().phase = Phase::Finished(outcome);
            self.flight.changed.notify_waiters();
            return;
        };
        if matches!(outcome, FlightOutcome::Private) {
            flights.release_next();
        }
        let lands = matches!(&outcome, FlightOutcome::Loaded(load) if load.is_stored && load.is_complete);
        flights.promote_next();
        if lands {
            flights.landed = Some(Arc::clone(&self.flight));
        }
        self.flight.state.lock().phase = Phase::Finished(outcome);
        remove_if_empty(&mut shard, &self.key);
        drop(shard);
        self.flight.changed.notify_waiters();
    }

    /// Ends a load that failed and has nothing to share. One waiter retries; waiters with a stale value may
    /// serve it.
    pub(crate) fn fail(mut self) {
        self.end = Some(End::HandedOver);
        self.flight.state.lock().failures += 1;
        self.hand_over();
    }

    pub(crate) fn node(&self) -> &Arc<WaitNode> {
        &self.flight.node
    }

    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.flight.progress)
    }

    /// Returns when the first leader of this flight began.
    pub(crate) fn began(&self) -> tokio::time::Instant {
        self.flight.state.lock().began
    }

    /// Gives the lease to the flight, which holds it until it ends.
    pub(crate) fn set_lease(&self, lease: Box<HeldLease>) {
        let replaced = self.flight.state.lock().lease.replace(lease);
        drop(replaced);
    }

    /// Whether the flight has a lease that has not expired.
    pub(crate) fn has_lease(&self) -> bool {
        self.flight.state.lock().lease.as_ref().is_some_and(|lease| lease.is_valid())
    }

    /// Passes the duty to a waiter. Without one, the flight ends.
    fn hand_over(&self) {
        let mut shard = self.flights.shard(&self.key).lock();
        let Some(flights) = shard.get_mut(&self.key).filter(|flights| flights.is_current(&self.flight))
        else {
            return;
        };
        let mut state = self.flight.state.lock();
        if state.waiters == 0 {
            drop(state);
            flights.promote_next();
            remove_if_empty(&mut shard, &self.key);
            return;
        }
        state.phase = Phase::Vacant;
        let wakes_all = state.waiters_with_stale > 0;
        drop(state);
        #[cfg(groupcache_mutants)]
        if crate::mutants::is_on("no_hand_over") {
            return;
        }
        if wakes_all {
            self.flight.changed.notify_waiters();
        } else {
            // If the woken waiter is cancelled before it runs, tokio wakes the next.
            self.flight.changed.notify_one();
        }
    }

    /// Counts a panic, and returns how many loads of this flight have panicked.
    fn count_panic(&self) -> u64 {
        let mut state = self.flight.state.lock();
        state.panics += 1;
        state.panics
    }

    fn remove_landed(&self) {
        let mut shard = self.flights.shard(&self.key).lock();
        if let Some(flights) = shard.get_mut(&self.key).filter(|flights| flights.is_landed(&self.flight)) {
            flights.landed = None;
            remove_if_empty(&mut shard, &self.key);
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if self.end.is_none() && std::thread::panicking() && self.count_panic() >= PANICS_MAX {
            // The next load would likely panic too. Readers do not wait for one after another of them.
            self.finish(FlightOutcome::Private);
        }
        match self.end {
            Some(End::Finished) => {}
            Some(End::HandedOver) => return,
            None => return self.hand_over(),
        }
        #[cfg(groupcache_mutants)]
        if crate::mutants::is_on("late_count") {
            self.remove_landed();
        }
        // Before the removal: a reader that does not find the flight finds the counter changed.
        self.flights.count_finished(&self.key);
        self.remove_landed();
        // Followers may still hold the flight. Other processes must not wait for them.
        let lease = self.flight.state.lock().lease.take();
        drop(lease);
    }
}
