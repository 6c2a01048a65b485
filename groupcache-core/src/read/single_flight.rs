//! Single flight: of all readers of one key at most one loads, and at most one waits to load next.
//!
//! A reader may share a load in two cases:
//!
//! * It joins before the load begins. Every invalidation that was acknowledged before this read was
//!   acknowledged before the load, so the loader reads data from after it.
//! * Its own complete vector is the one that the leader read before the load. Generations are unique: a vector
//!   that the leader saw before the load, and the reader after its read began, was current all the time
//!   between. No invalidation that this reader must see can lie between them.
//!
//! A reader that may not share the load in flight joins the next flight of the key, which begins when this
//! one ends. So it is with readers that have no vector because the store is unavailable.
//!
//! If a leader is dropped before it finishes, because it was cancelled, one of its followers takes over. An
//! entry can be shared until it is stored: readers that come during the store need not load again.

use std::sync::Arc;

use crate::data::key::Key;
use crate::read::flight::{Flight, FlightOutcome, Phase};
use crate::read::flight_id::FlightId;
use crate::read::flight_table::{KeyFlights, SingleFlight};
use crate::read::follower::{Follower, Place};
use crate::read::leader::Leader;
use crate::read::wait_graph::WaitNode;

/// The part of one reader in the flights of its key.
#[derive(Debug)]
pub(crate) enum Role {
    /// Load, then [`finish`](Leader::finish).
    Leader(Leader),
    /// Wait for another reader.
    Follower(Follower),
    /// Share what a reader with the same vector has loaded, and what is being stored.
    Landed(FlightOutcome),
    /// Load without a flight: the load in flight waits for the one that this reader is in.
    Alone,
}

/// A reader that wants to load.
pub(crate) struct Reader<'a> {
    pub(crate) key: &'a Key,
    /// What it would load; `None` without the store.
    pub(crate) id: Option<&'a FlightId>,
    /// Whether it has a stale value to serve if a load fails.
    pub(crate) has_stale: bool,
    /// The load that the reader is in.
    pub(crate) within: Option<&'a Arc<WaitNode>>,
}

/// What a reader found in the table.
enum Found {
    New(Arc<Flight>),
    /// The reader was counted as a waiter.
    Joined(Place),
    Landed(FlightOutcome),
}

impl SingleFlight {
    /// Joins the flight of this key that the reader may share: leads it if there is none.
    pub(crate) fn join(self: &Arc<Self>, reader: &Reader<'_>) -> Role {
        let found = {
            let mut shard = self.shard(reader.key).lock();
            // The key is cloned only for a new slot.
            match shard.get_mut(reader.key) {
                Some(flights) => flights.join(reader),
                None => shard.entry(reader.key.clone()).or_default().join(reader),
            }
        };
        let (this, key) = (Arc::clone(self), reader.key.clone());
        match found {
            Found::Landed(outcome) => Role::Landed(outcome),
            Found::New(flight) => Role::Leader(Leader::new(this, key, flight)),
            Found::Joined(place) => {
                // From here on the reader leaves its place when it is dropped.
                let mut follower = Follower::new(this, key, place);
                match reader.within {
                    Some(load) if !follower.is_needed_by(load) => Role::Alone,
                    _ => Role::Follower(follower),
                }
            }
        }
    }

    /// Leads a flight of `key`, unless there is one already, with a leader or without.
    pub(crate) fn try_start(self: &Arc<Self>, key: &Key) -> Option<Leader> {
        let mut shard = self.shard(key).lock();
        let flights = shard.entry(key.clone()).or_default();
        let flight = flights.current.is_none().then(|| flights.start())?;
        drop(shard);
        Some(Leader::new(Arc::clone(self), key.clone(), flight))
    }

    /// Leads a flight of `key`, unless another reader leads one already.
    pub(crate) fn try_lead(self: &Arc<Self>, key: &Key) -> Option<Leader> {
        let mut shard = self.shard(key).lock();
        let flights = shard.entry(key.clone()).or_default();
        let flight = match &flights.current {
            None => flights.start(),
            Some(current) => {
                let vacant = current.state.lock().take_over();
                #[cfg(groupcache_mutants)]
                let vacant = vacant || crate::mutants::is_on("two_leaders");
                if !vacant {
                    return None;
                }
                current.progress.reset();
                Arc::clone(current)
            }
        };
        drop(shard);
        Some(Leader::new(Arc::clone(self), key.clone(), flight))
    }
}

impl KeyFlights {
    fn join(&mut self, reader: &Reader<'_>) -> Found {
        if let Some(landed) = &self.landed {
            let state = landed.state.lock();
            if let Phase::Finished(outcome) = &state.phase
                && state.loads(reader.id)
            {
                return Found::Landed(outcome.clone());
            }
        }
        let Some(current) = &self.current else {
            return Found::New(self.start());
        };
        let may_share = {
            let state = current.state.lock();
            let may_share = !matches!(state.phase, Phase::Loading) || state.loads(reader.id);
            #[cfg(groupcache_mutants)]
            let may_share = may_share || crate::mutants::is_on("late_join");
            may_share
        };
        let flight = if may_share {
            Arc::clone(current)
        } else {
            let behind = Arc::clone(&current.node);
            let next = self.next.get_or_insert_with(|| {
                let next = Flight::new(Phase::Queued);
                let edge = next.node.needs(&behind);
                next.state.lock().behind = Some(edge);
                Arc::new(next)
            });
            Arc::clone(next)
        };
        Found::Joined(Place::of(flight, reader.has_stale))
    }

    fn start(&mut self) -> Arc<Flight> {
        let flight = Arc::new(Flight::new(Phase::Preparing));
        self.current = Some(Arc::clone(&flight));
        flight
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::task::JoinSet;

    use super::*;
    use crate::data::entry::{Entry, Generation};
    use crate::data::group::Group;
    use crate::read::flight::{Joined, SharedLoad};
    use crate::read::follower::Arrival;

    fn id(generation: u128) -> FlightId {
        let vector = Generation::new(generation).into_iter().collect();
        FlightId { key: Key::of("k").unwrap(), groups: Group::new("g").into(), vector }
    }

    fn loaded(generation: u128) -> FlightOutcome {
        let FlightId { key, groups, vector } = id(generation);
        let entry = Arc::new(Entry::new(key, groups, vector, Bytes::new(), Duration::ZERO));
        FlightOutcome::Loaded(SharedLoad { entry, expires_at: None, is_complete: true, is_stored: true })
    }

    fn join(flights: &Arc<SingleFlight>, id: Option<&FlightId>) -> Role {
        let key = Key::of("k").unwrap();
        flights.join(&Reader { key: &key, id, has_stale: false, within: None })
    }

    /// Leads under `generation`, and begins to load.
    fn lead(flights: &Arc<SingleFlight>, generation: u128) -> Leader {
        match join(flights, Some(&id(generation))) {
            Role::Leader(leader) => {
                leader.prepare(Some(id(generation)));
                leader.begin();
                leader
            }
            role => panic!("not leading: {role:?}"),
        }
    }

    fn follow(flights: &Arc<SingleFlight>, id: Option<&FlightId>) -> Follower {
        match join(flights, id) {
            Role::Follower(follower) => follower,
            role => panic!("not following: {role:?}"),
        }
    }

    #[tokio::test]
    async fn one_leads_and_all_others_with_its_vector_share() {
        let flights = SingleFlight::new();
        let mut leader = lead(&flights, 1);
        let followers: Vec<_> = (0..100).map(|_| follow(&flights, Some(&id(1)))).collect();
        leader.finish(loaded(1));
        for follower in followers {
            let arrival = follower.arrive().await;
            assert!(matches!(arrival, Arrival::Outcome(FlightOutcome::Loaded(_), Joined::WithVector)));
        }
        // Still there until the entry is stored.
        assert!(matches!(join(&flights, Some(&id(1))), Role::Landed(FlightOutcome::Loaded(_))));
        drop(leader);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn readers_that_may_not_share_a_load_share_the_next_one() {
        let flights = SingleFlight::new();
        let mut leader = lead(&flights, 1);
        let [one, other] = [Some(&id(2)), None].map(|id| follow(&flights, id));
        assert_eq!(flights.len(), 2);
        leader.finish(loaded(1));
        let Arrival::TakeOver(mut next) = one.arrive().await else { panic!("not its turn") };
        drop(one);
        // The load has not begun, so any reader may join.
        let late = follow(&flights, Some(&id(3)));
        next.prepare(Some(id(2)));
        next.begin();
        next.finish(loaded(2));
        for follower in [other, late] {
            let arrival = follower.arrive().await;
            assert!(matches!(arrival, Arrival::Outcome(FlightOutcome::Loaded(_), Joined::BeforeLoad)));
        }
        drop((leader, next));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_flight_is_started_only_where_there_is_none() {
        let flights = SingleFlight::new();
        let key = id(1).key;
        let mut leader = lead(&flights, 1);
        let next = follow(&flights, Some(&id(2)));
        assert!(flights.try_start(&key).is_none());
        leader.finish(loaded(1));
        // It is the turn of the next flight, which its follower is to lead.
        assert!(flights.try_start(&key).is_none());
        assert!(matches!(next.arrive().await, Arrival::TakeOver(_)));
        drop(next);
        // A landed load does not keep a reader from loading under another vector.
        assert!(flights.try_start(&key).is_some());
        drop(leader);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_reader_can_tell_that_a_flight_ended_since_it_looked() {
        let flights = SingleFlight::new();
        let before = flights.finished_count(&id(1).key);
        let mut leader = lead(&flights, 1);
        assert_eq!(flights.finished_count(&id(1).key), before);
        leader.finish(FlightOutcome::Private);
        drop(leader);
        assert_ne!(flights.finished_count(&id(1).key), before);
    }

    #[tokio::test]
    async fn a_dropped_leader_hands_over_to_one_and_nobody_hangs() {
        let flights = SingleFlight::new();
        let leader = lead(&flights, 1);
        let mut readers = JoinSet::new();
        for reader in 0..50 {
            let follower = follow(&flights, Some(&id(1)));
            readers.spawn(async move {
                match follower.arrive().await {
                    // Every second reader that takes over is dropped too, and some failed.
                    Arrival::TakeOver(leader) if reader % 4 == 0 => leader.fail(),
                    Arrival::TakeOver(leader) if reader % 2 == 0 => drop(leader),
                    Arrival::TakeOver(mut leader) => leader.finish(loaded(1)),
                    _ => {}
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
        let leader = lead(&flights, 1);
        let [same, next] = [Some(&id(1)), Some(&id(2))].map(|id| follow(&flights, id));
        drop(next);
        assert_eq!(flights.len(), 1);
        drop(leader);
        drop(same);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn the_waiters_of_a_stalled_leader_and_those_behind_it_go_on() {
        let flights = SingleFlight::new();
        let mut leader = lead(&flights, 1);
        let [same, next] = [Some(&id(1)), Some(&id(2))].map(|id| follow(&flights, id));
        assert!(next.supersede(|_| true));
        assert!(matches!(same.arrive().await, Arrival::Rejoin));
        let Arrival::TakeOver(other) = next.arrive().await else { panic!("not its turn") };
        assert!(!same.supersede(|_| false));
        // What the leader came to is nothing to others any more.
        leader.finish(loaded(1));
        drop((leader, same, next));
        assert!(flights.try_lead(&id(1).key).is_none());
        drop(other);
        assert_eq!(flights.len(), 0);
    }
}
