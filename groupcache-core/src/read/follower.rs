//! A reader that waits for the load of another reader.

use std::sync::Arc;
use std::time::Duration;

use crate::data::key::Key;
use crate::read::flight::{Flight, FlightOutcome, Joined, Phase};
use crate::read::flight_table::{SingleFlight, remove_if_empty};
use crate::read::leader::Leader;
use crate::read::wait_graph::{WaitEdge, WaitNode};

/// A reader that waits for a flight, until it is dropped.
#[derive(Debug)]
pub(crate) struct Follower {
    flights: Arc<SingleFlight>,
    key: Key,
    place: Place,
    /// From the load that this reader is in.
    edge: Option<WaitEdge>,
}

/// A reader that its flight counts as a waiter.
#[derive(Debug)]
pub(crate) struct Place {
    flight: Arc<Flight>,
    /// What the flight had of them when this reader joined.
    begins: u64,
    failures: u64,
    has_stale: bool,
}

/// What a follower has waited for.
#[derive(Debug)]
pub(crate) enum Arrival {
    Outcome(FlightOutcome, Joined),
    /// The load failed, and this reader has a stale value.
    Failed,
    /// This reader takes the place of a leader that was dropped, or it is the turn of its flight.
    TakeOver(Leader),
    /// Another flight has taken the place of the one that this reader waited for: join that.
    Rejoin,
}

impl Follower {
    pub(crate) const fn new(flights: Arc<SingleFlight>, key: Key, place: Place) -> Self {
        Self { flights, key, place, edge: None }
    }

    /// Notes that `load` waits for this flight. Returns `false` if the flight waits for `load`.
    pub(crate) fn is_needed_by(&mut self, load: &Arc<WaitNode>) -> bool {
        self.edge = load.wait_for(&self.place.flight.node);
        self.edge.is_some()
    }

    /// Waits until there is something to do. Cancel safe.
    pub(crate) async fn arrive(&self) -> Arrival {
        loop {
            #[cfg(groupcache_mutants)]
            if crate::mutants::is_on("late_wait") {
                if let Some(arrival) = self.arrived() {
                    return arrival;
                }
                self.place.flight.changed.notified().await;
                continue;
            }
            let changed = self.place.flight.changed.notified();
            tokio::pin!(changed);
            // Registered before the phase is read, so that no change in between is missed.
            changed.as_mut().enable();
            if let Some(arrival) = self.arrived() {
                return arrival;
            }
            changed.await;
        }
    }

    /// Ends the flight that this reader waits for, or waits behind, if its leader `is_stalled`. Returns
    /// whether it did.
    pub(crate) fn supersede(&self, is_stalled: impl FnOnce(&Arc<Flight>) -> bool) -> bool {
        let mut shard = self.flights.shard(&self.key).lock();
        let Some(flights) = shard.get_mut(&self.key) else {
            return false;
        };
        let Some(current) = flights.current.clone().filter(is_stalled) else {
            return false;
        };
        let mut state = current.state.lock();
        if !matches!(state.phase, Phase::Preparing | Phase::Loading) {
            return false;
        }
        state.phase = Phase::Superseded;
        drop(state);
        flights.promote_next();
        remove_if_empty(&mut shard, &self.key);
        drop(shard);
        current.changed.notify_waiters();
        true
    }

    fn arrived(&self) -> Option<Arrival> {
        let mut state = self.place.flight.state.lock();
        if self.place.has_stale && state.failures > self.place.failures {
            return Some(Arrival::Failed);
        }
        if state.take_over() {
            drop(state);
            self.place.flight.progress.reset();
            let (flights, key) = (Arc::clone(&self.flights), self.key.clone());
            return Some(Arrival::TakeOver(Leader::new(flights, key, Arc::clone(&self.place.flight))));
        }
        match &state.phase {
            Phase::Finished(outcome) => {
                let before = state.begins > self.place.begins;
                #[cfg(groupcache_mutants)]
                let before = before || crate::mutants::is_on("late_join");
                let joined = if before { Joined::BeforeLoad } else { Joined::WithVector };
                Some(Arrival::Outcome(outcome.clone(), joined))
            }
            Phase::Superseded => Some(Arrival::Rejoin),
            Phase::Queued | Phase::Preparing | Phase::Loading | Phase::Vacant => None,
        }
    }
}

impl Place {
    /// Counts a reader as a waiter. The key of the flight is locked.
    pub(crate) fn of(flight: Arc<Flight>, has_stale: bool) -> Self {
        let mut state = flight.state.lock();
        state.waiters += 1;
        state.waiters_with_stale += usize::from(has_stale);
        let (begins, failures) = (state.begins, state.failures);
        drop(state);
        Self { flight, begins, failures, has_stale }
    }
}

impl Flight {
    /// Returns for how long the flight has waited for its leader.
    pub(crate) fn age(&self) -> Duration {
        self.state.lock().since.elapsed()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut shard = self.flights.shard(&self.key).lock();
        let mut state = self.place.flight.state.lock();
        state.waiters -= 1;
        state.waiters_with_stale -= usize::from(self.place.has_stale);
        #[cfg(groupcache_mutants)]
        if crate::mutants::is_on("left_behind") {
            return;
        }
        let (is_last, is_vacant) = (state.waiters == 0, matches!(state.phase, Phase::Vacant));
        drop(state);
        let Some(flights) = shard.get_mut(&self.key) else {
            return;
        };
        if is_last && is_vacant && flights.is_current(&self.place.flight) {
            flights.promote_next();
        } else if is_last && flights.is_next(&self.place.flight) {
            // The flight is dropped outside the lock, with this follower.
            flights.next = None;
        } else if is_vacant {
            // This reader may have been woken to take over.
            self.place.flight.changed.notify_one();
        }
        remove_if_empty(&mut shard, &self.key);
    }
}
