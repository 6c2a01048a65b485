//! Single flight and load contexts under schedules that shuttle chooses. Only in test builds with
//! `--cfg groupcache_shuttle`, where `sync.rs` has shuttle's mutex and atomics; see `tests/interleavings`.
//!
//! A leader whose load panics is dropped. `Leader` does not distinguish that from a cancelled load, so these
//! tests only drop it.

#[path = "../../tests/src/explore.rs"]
mod explore;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use shuttle::future::{block_on, spawn, yield_now};

use self::explore::{explore, explore_all};
use crate::backend::lookup::Minted;
use crate::data::entry::{Entry, Generation, GenerationVector};
use crate::data::group::Group;
use crate::data::key::Key;
use crate::error::Result;
use crate::load_context::{CacheId, LoadContext, Minter};
use crate::read::flight::{FlightOutcome, SharedLoad};
use crate::read::flight_id::FlightId;
use crate::read::flight_table::SingleFlight;
use crate::read::follower::Arrival;
use crate::read::leader::Leader;
use crate::read::single_flight::{Reader, Role};
use crate::read::wait_graph::WaitNode;
use crate::sync::Mutex;

/// Not one of shuttle's atomics: it adds no point at which shuttle may switch tasks.
#[derive(Default)]
struct Leaders(AtomicUsize);

impl Leaders {
    /// Asserts that there is no other leader until `end`.
    fn begin(&self) {
        assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), 0, "one flight has two leaders");
    }

    fn end(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn generation(number: u128) -> Generation {
    Generation::new(number).unwrap()
}

fn id() -> FlightId {
    let vector = [generation(1)].into_iter().collect();
    FlightId { key: Key::of("k").unwrap(), groups: Group::new("g").into(), vector }
}

fn id_of(number: u128) -> FlightId {
    FlightId { vector: [generation(number)].into_iter().collect(), ..id() }
}

fn shared() -> FlightOutcome {
    shared_as(&id(), Bytes::new())
}

fn shared_as(id: &FlightId, body: Bytes) -> FlightOutcome {
    let FlightId { key, groups, vector } = id.clone();
    let entry = Arc::new(Entry::new(key, groups, vector, body, Duration::ZERO));
    FlightOutcome::Loaded(SharedLoad { entry, expires_at: None, is_complete: true, is_stored: true })
}

/// What a reader comes to once it has waited.
enum Waited {
    Leader(Leader),
    Outcome(FlightOutcome),
}

/// Joins a flight, and waits until there is something to do. A leader begins to load.
async fn join(flights: &Arc<SingleFlight>) -> Waited {
    join_as(flights, Some(id())).await
}

async fn join_as(flights: &Arc<SingleFlight>, id: Option<FlightId>) -> Waited {
    let key = &self::id().key;
    let leader = match flights.join(&Reader { key, id: id.as_ref(), has_stale: false, within: None }) {
        Role::Leader(leader) => leader,
        Role::Landed(outcome) => return Waited::Outcome(outcome),
        Role::Alone => panic!("there is no cycle"),
        Role::Follower(follower) => match follower.arrive().await {
            Arrival::Outcome(outcome, _) => return Waited::Outcome(outcome),
            Arrival::TakeOver(leader) => leader,
            arrival @ (Arrival::Failed | Arrival::Rejoin) => panic!("{arrival:?}"),
        },
    };
    leader.prepare(id);
    leader.begin();
    Waited::Leader(leader)
}

fn try_lead(flights: &Arc<SingleFlight>) -> Option<Leader> {
    let leader = flights.try_lead(&id().key)?;
    leader.prepare(Some(id()));
    leader.begin();
    Some(leader)
}

async fn load_and_finish(mut lead: Leader, leaders: &Leaders) {
    yield_now().await;
    leaders.end();
    lead.finish(shared());
    // The entry is being stored.
    yield_now().await;
    drop(lead);
}

async fn drop_leader(lead: Leader, leaders: &Leaders) {
    yield_now().await;
    leaders.end();
    drop(lead);
}

/// Each task reads once. Tasks whose flag is set drop the lead.
fn readers(drops_the_lead: &'static [bool]) {
    block_on(async move {
        let (flights, leaders) = (SingleFlight::new(), Arc::new(Leaders::default()));
        let tasks: Vec<_> = drops_the_lead
            .iter()
            .map(|drops| {
                let (flights, leaders) = (Arc::clone(&flights), Arc::clone(&leaders));
                spawn(async move {
                    match join(&flights).await {
                        Waited::Leader(lead) => {
                            leaders.begin();
                            if *drops {
                                drop_leader(lead, &leaders).await;
                            } else {
                                load_and_finish(lead, &leaders).await;
                            }
                        }
                        Waited::Outcome(outcome) => assert!(matches!(outcome, FlightOutcome::Loaded(_))),
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(flights.len(), 0, "a flight is left behind");
    });
}

#[test]
fn one_leader_at_a_time_and_all_followers_get_its_value() {
    explore("one_leader_at_a_time_and_all_followers_get_its_value", || readers(&[false; 4]));
}

#[test]
fn a_dropped_leader_hands_over_and_no_follower_hangs() {
    explore("a_dropped_leader_hands_over_and_no_follower_hangs", || readers(&[true, true, true, false]));
}

/// A reader joins while the leader of the flight ends as `ends` says.
fn join_while(ends: impl Fn(Leader) -> Option<Leader> + Send + 'static) -> Waited {
    block_on(async {
        let flights = SingleFlight::new();
        let lead = try_lead(&flights).unwrap();
        let leader = spawn(async move { ends(lead) });
        let waited = join(&flights).await;
        drop(leader.await.unwrap());
        if matches!(waited, Waited::Outcome(_)) {
            assert_eq!(flights.len(), 0, "a flight is left behind");
        }
        waited
    })
}

#[test]
fn a_reader_that_joins_a_finishing_flight_shares_it_in_every_order() {
    let finish = |mut lead: Leader| {
        lead.finish(shared());
        Some(lead)
    };
    explore_all(move || match join_while(finish) {
        Waited::Outcome(FlightOutcome::Loaded(_)) => {}
        Waited::Outcome(outcome) => panic!("{outcome:?}"),
        Waited::Leader(_) => panic!("two leaders"),
    });
}

#[test]
fn a_reader_that_joins_a_flight_whose_leader_is_dropped_leads_in_every_order() {
    let drop_it = |lead| {
        drop(lead);
        None
    };
    explore_all(move || match join_while(drop_it) {
        Waited::Leader(_) => {}
        Waited::Outcome(outcome) => panic!("{outcome:?} of a flight that never finished"),
    });
}

/// A waiter is dropped at any moment: before it is woken, after, or while it takes over.
fn cancelled_while_waiting() {
    block_on(async {
        let (flights, leaders) = (SingleFlight::new(), Arc::new(Leaders::default()));
        let Waited::Leader(lead) = join(&flights).await else { panic!("there is no other reader") };
        leaders.begin();
        let reader = || {
            let (flights, leaders) = (Arc::clone(&flights), Arc::clone(&leaders));
            spawn(async move {
                if let Waited::Leader(lead) = join(&flights).await {
                    // Dropped with the cancelled task.
                    let _leading = Leading(&leaders);
                    leaders.begin();
                    yield_now().await;
                    drop(lead);
                }
            })
        };
        let (cancelled, other) = (reader(), reader());
        let canceller = spawn(async move {
            yield_now().await;
            cancelled.abort();
            drop(cancelled.await);
        });
        drop_leader(lead, &leaders).await;
        canceller.await.unwrap();
        other.await.unwrap();
        assert_eq!(flights.len(), 0, "a flight is left behind");
    });
}

struct Leading<'a>(&'a Leaders);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[test]
fn a_cancelled_waiter_does_not_take_the_lead_along() {
    explore("a_cancelled_waiter_does_not_take_the_lead_along", cancelled_while_waiting);
}

/// Readers that only try to lead, beside readers that wait.
fn some_only_try() {
    block_on(async {
        let (flights, leaders) = (SingleFlight::new(), Arc::new(Leaders::default()));
        let tasks: Vec<_> = (0..4)
            .map(|task| {
                let (flights, leaders) = (Arc::clone(&flights), Arc::clone(&leaders));
                spawn(async move {
                    let lead = if task % 2 == 0 {
                        try_lead(&flights)
                    } else {
                        match join(&flights).await {
                            Waited::Leader(lead) => Some(lead),
                            Waited::Outcome(_) => None,
                        }
                    };
                    if let Some(lead) = lead {
                        leaders.begin();
                        if task < 2 {
                            drop_leader(lead, &leaders).await;
                        } else {
                            load_and_finish(lead, &leaders).await;
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(flights.len(), 0, "a flight is left behind");
    });
}

#[test]
fn try_lead_leads_only_without_a_leader_and_leaves_nothing_behind() {
    explore("try_lead_leads_only_without_a_leader_and_leaves_nothing_behind", some_only_try);
}

/// Readers with different vectors and without one. The number of a load is how many began before it.
fn readers_with_and_without_the_vector() {
    block_on(async {
        let (flights, leaders) = (SingleFlight::new(), Arc::new(Leaders::default()));
        let begun = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = [Some(1), Some(2), None, Some(1)]
            .into_iter()
            .enumerate()
            .map(|(task, number)| {
                let (flights, leaders, begun) =
                    (Arc::clone(&flights), Arc::clone(&leaders), Arc::clone(&begun));
                spawn(async move {
                    let must_see = u8::try_from(begun.load(Ordering::SeqCst)).unwrap();
                    yield_now().await;
                    let id = number.map(id_of);
                    match join_as(&flights, id.clone()).await {
                        Waited::Leader(mut lead) => {
                            leaders.begin();
                            let number = u8::try_from(begun.fetch_add(1, Ordering::SeqCst)).unwrap();
                            yield_now().await;
                            leaders.end();
                            // A leader is dropped now and then.
                            if task != 3 {
                                lead.finish(shared_as(&id.unwrap_or_else(|| id_of(9)), vec![number].into()));
                                yield_now().await;
                            }
                        }
                        Waited::Outcome(FlightOutcome::Loaded(load)) => {
                            let has_its_vector = id.is_some_and(|id| *load.entry.vector() == id.vector);
                            assert!(
                                has_its_vector || load.entry.body()[0] >= must_see,
                                "a load that began before the reader, which has another vector"
                            );
                        }
                        Waited::Outcome(outcome) => panic!("{outcome:?}"),
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(flights.len(), 0, "a flight is left behind");
    });
}

#[test]
fn no_reader_shares_an_earlier_load_under_another_vector_and_no_two_load_at_once() {
    explore("no_reader_shares_an_earlier_load_under_another_vector_and_no_two_load_at_once", || {
        readers_with_and_without_the_vector();
    });
}

/// The way of a read, around a store that loses nothing: look up, join, look up again if a flight finished
/// since.
fn readers_of_a_store() {
    block_on(async {
        let flights = SingleFlight::new();
        let store = Arc::new(Mutex::new(false));
        let loads = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let (flights, store, loads) = (Arc::clone(&flights), Arc::clone(&store), Arc::clone(&loads));
                spawn(async move {
                    loop {
                        let finished = flights.finished_count(&id().key);
                        if *store.lock() {
                            return;
                        }
                        match join(&flights).await {
                            Waited::Leader(_) if flights.finished_count(&id().key) != finished => {}
                            Waited::Leader(mut lead) => {
                                loads.fetch_add(1, Ordering::SeqCst);
                                lead.finish(shared());
                                *store.lock() = true;
                                drop(lead);
                                return;
                            }
                            Waited::Outcome(_) => return,
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(loads.load(Ordering::SeqCst), 1, "an entry that was stored is loaded again");
        assert_eq!(flights.len(), 0, "a flight is left behind");
    });
}

#[test]
fn an_entry_stored_after_the_lookup_is_not_loaded_again() {
    explore("an_entry_stored_after_the_lookup_is_not_loaded_again", readers_of_a_store);
}

/// One group of a store, and its data.
struct Store {
    /// 1 before the invalidation, 2 after it.
    generation: Mutex<u128>,
    version: Mutex<u32>,
    /// The number of mints.
    asked: AtomicUsize,
}

struct StoreMinter(Arc<Store>);

#[async_trait]
impl Minter for StoreMinter {
    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        yield_now().await;
        let current = generation(*self.0.generation.lock());
        yield_now().await;
        Ok(Minted::new(groups.iter().map(|_| current).collect()))
    }

    fn count_after_load(&self, _: usize) {}
}

impl Store {
    fn new() -> Arc<Self> {
        let (generation, version) = (Mutex::new(1), Mutex::new(1));
        Arc::new(Self { generation, version, asked: AtomicUsize::new(0) })
    }

    fn context(self: &Arc<Self>) -> LoadContext {
        LoadContext::new(CacheId(1), Arc::new(StoreMinter(Arc::clone(self))), WaitNode::new())
    }
}

/// Two branches of a load depend on a group and then read its data, while the data changes and the group is
/// invalidated.
fn two_branches_depend_on_a_group() {
    block_on(async {
        let store = Store::new();
        let context = store.context();
        let branches: Vec<_> = (0..2)
            .map(|_| {
                let (store, context) = (Arc::clone(&store), context.clone());
                spawn(async move {
                    context.depend(Group::new("g")).await;
                    *store.version.lock()
                })
            })
            .collect();
        let writer = spawn({
            let store = Arc::clone(&store);
            async move {
                *store.version.lock() = 2;
                *store.generation.lock() = 2;
            }
        });
        let mut oldest = 2;
        for branch in branches {
            oldest = oldest.min(branch.await.unwrap());
        }
        writer.await.unwrap();
        let sealed = context.seal();
        assert_eq!(sealed.groups.len(), 1);
        let current: GenerationVector = [generation(2)].into_iter().collect();
        assert!(sealed.storable);
        assert!(oldest == 2 || sealed.vector != current, "old data under a generation from after its change");
        assert_eq!(context.seal().groups.len(), 0, "a load is sealed once");
    });
}

#[test]
fn data_read_before_an_invalidation_never_has_a_later_generation() {
    explore("data_read_before_an_invalidation_never_has_a_later_generation", || {
        two_branches_depend_on_a_group();
    });
}

/// A branch is dropped while it waits for a generation. The load ends at any moment.
fn a_branch_is_cancelled() {
    block_on(async {
        let store = Store::new();
        let context = store.context();
        let branch = spawn({
            let context = context.clone();
            async move { context.depend(Group::new("g")).await }
        });
        let sealing = spawn({
            let context = context.clone();
            async move {
                yield_now().await;
                yield_now().await;
                context.seal()
            }
        });
        branch.abort();
        let ended = branch.await.is_ok();
        let asked = store.asked.load(Ordering::SeqCst) > 0;
        let sealed_after = !sealing.is_finished();
        let sealed = sealing.await.unwrap();
        let has_it = sealed.groups.len() == 1;
        if asked && !ended && sealed_after && !has_it {
            assert!(!sealed.storable, "the data may have been read, and its group is not among the groups");
        }
        if !asked {
            assert!(sealed.storable && !has_it);
        }
    });
}

#[test]
fn a_load_with_a_cancelled_depend_is_not_stored() {
    explore("a_load_with_a_cancelled_depend_is_not_stored", a_branch_is_cancelled);
}
