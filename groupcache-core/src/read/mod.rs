//! A read, from the lookup to the served value. Each file is one step, and a step calls downwards only.

pub(crate) mod discovered;
mod find;
pub(crate) mod flight;
pub(crate) mod flight_id;
pub(crate) mod flight_table;
pub(crate) mod follower;
mod held_lease;
pub(crate) mod leader;
mod lease_request;
mod lease_wait;
mod load;
mod lookup;
#[cfg(groupcache_mutants)]
mod mutants;
mod permit;
mod progress;
pub(crate) mod refresh;
mod replace;
pub(crate) mod single_flight;
mod store;
mod unshared;
mod verdict;
mod wait;
pub(crate) mod wait_graph;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use crate::backend::Backend;
use crate::backend::lookup::TimeLeft;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::load_context::{LoadContext, NestedRead};
use crate::outcome::{Loaded, Miss, Served, ServedFrom};
use crate::read::flight::{FlightOutcome, Joined, SharedLoad};
use crate::read::follower::Arrival;
use crate::read::leader::Leader;
use crate::read::lease_wait::{LeaseDecision, WaitLimit};
use crate::read::lookup::LookupOutcome;
use crate::read::permit::{LoadPermit, Missed};
use crate::read::refresh::Refresh;
use crate::read::single_flight::{Reader, Role};
use crate::read::wait::wait;
use crate::time_limit::{TimeBudget, off_hit_path};

/// How many attempts a read makes to share a load of another reader before it loads on its own. Each
/// further attempt means that a group was invalidated during the attempt before.
const SHARED_ATTEMPTS_MAX: u32 = 3;

/// What [`Cache::read`] returns: what was served, and the refresh that this reader is to run, if any.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReadOutcome<S, R> {
    /// What was served: a [`Served`].
    pub served: S,
    /// A [`Refresh`] if an expired entry was served and this reader is the one that replaces it.
    pub refresh: Option<R>,
}

/// What a read does next.
enum Step<V> {
    /// Starts again with a new lookup.
    Retry,
    /// Serves a value that is in the cache or was loaded by another reader.
    Serve { value: V, from: ServedFrom, miss: Option<Miss> },
    /// Serves an expired value, and refreshes it.
    Revalidate { value: V, permit: Box<LoadPermit> },
    /// Loads, as the leader of a flight or alone.
    Load { missed: Missed, leader: Option<Leader> },
}

/// One read: what stays the same from attempt to attempt, and what it has used up.
struct Read<'a, B, A> {
    cache: &'a Cache<B>,
    address: &'a Address,
    accept: &'a A,
    /// The load context of the load that this read is nested in.
    outer: Option<&'a LoadContext>,
    budget: TimeBudget,
    wait_limit: WaitLimit,
    attempt: u32,
    /// The lead that this read took over after a wait, while it looks up again.
    leader: Option<Leader>,
    /// Whether this read could not share a load whose vector it had. It joins no load that has begun then.
    wants_later_load: bool,
}

impl<B: Backend> Cache<B> {
    /// Returns the value at `address`, loaded by `loader` if there is no valid entry.
    ///
    /// `accept` turns an entry into the value that the reader wants; `None` makes the entry a miss.
    /// Concurrent reads that miss load once. The cache never fails a read: only the loader's own error is
    /// returned.
    ///
    /// This is the operation that adapters build on. For values that serde can write and read, use
    /// [`get_or_load`](Self::get_or_load).
    ///
    /// # Cost
    ///
    /// A hit is one round trip, or two if the entry depends on groups that this process has not seen yet. A
    /// miss takes one more if a group has no generation, and one to store the entry, for which the reader
    /// does not wait.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped while it loads, a reader that waits for the same load takes over.
    ///
    /// # Errors
    ///
    /// Returns the error of `loader`.
    pub async fn read<V, R, E, A, F, Fut>(
        &self,
        address: &Address,
        accept: A,
        loader: F,
    ) -> Result<ReadOutcome<Served<V, R>, Refresh<B, F>>, E>
    where
        A: Fn(&Arc<Entry>) -> Option<V> + Sync,
        V: Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let nested = NestedRead::begin();
        if let Some(outer) = nested.outer() {
            off_hit_path(outer.before_nested_read(self.id(), &address.groups)).await;
        }
        let mut read = Read::new(self, address, &accept, nested.outer());
        let step = loop {
            let step = match &read.leader {
                None => read.attempt().await,
                Some(leader) => leader.progress().of(off_hit_path(read.attempt())).await,
            };
            match step {
                Step::Retry => {}
                step => break step,
            }
        };
        self.count(&step);
        let outcome = match step {
            Step::Serve { value, from, .. } => ReadOutcome::of(Served::Entry(value, from)),
            Step::Revalidate { value, permit } => {
                let served = Served::Entry(value, ServedFrom::StaleWhileRevalidate);
                ReadOutcome { served, refresh: self.refresh(address, *permit, loader) }
            }
            Step::Load { missed, leader } => {
                let load = off_hit_path(self.load(address, missed, leader, &accept, loader));
                ReadOutcome::of(load.await?)
            }
            Step::Retry => unreachable!("the loop ends with another step"),
        };
        nested.completed();
        Ok(outcome)
    }

    /// Counts the outcome of a read. The load that may follow counts for itself.
    fn count<V>(&self, step: &Step<V>) {
        let counters = self.inner().counters();
        match step {
            Step::Serve { from, miss, .. } => {
                match from {
                    ServedFrom::Hit => counters.hits.increment(),
                    ServedFrom::Shared(_) => counters.shared_loads.increment(),
                    ServedFrom::StaleIfError => counters.stale_if_error.increment(),
                    ServedFrom::StaleWhileRevalidate => counters.stale_while_revalidate.increment(),
                }
                if let Some(miss) = miss {
                    counters.miss(*miss);
                }
            }
            Step::Revalidate { permit, .. } => {
                counters.stale_while_revalidate.increment();
                counters.miss(permit.miss);
            }
            Step::Load { missed, .. } => counters.miss(missed.miss),
            Step::Retry => {}
        }
    }
}

impl<'a, B, A, V> Read<'a, B, A>
where
    B: Backend,
    A: Fn(&Arc<Entry>) -> Option<V> + Sync,
{
    fn new(cache: &'a Cache<B>, address: &'a Address, accept: &'a A, outer: Option<&'a LoadContext>) -> Self {
        let budget = TimeBudget::new(cache.inner().read_time_limit);
        let wait_limit = WaitLimit::from_now(cache.options().lease);
        Self {
            cache,
            address,
            accept,
            outer,
            budget,
            wait_limit,
            attempt: 0,
            leader: None,
            wants_later_load: false,
        }
    }

    /// Looks the entry up, and decides what to do if it is no hit.
    async fn attempt(&mut self) -> Step<V> {
        self.attempt += 1;
        let finished = self.cache.inner().flights.finished_count(&self.address.key);
        let missed = match self.cache.look_up(self.address, self.accept, &mut self.budget).await {
            LookupOutcome::Hit(value) => {
                self.let_followers_look_again();
                return Step::Serve { value, from: ServedFrom::Hit, miss: None };
            }
            LookupOutcome::Unavailable(miss) => Missed { miss, permit: None },
            LookupOutcome::Miss(permit) => {
                if let Some(value) = permit.stale_while_revalidate(self.accept) {
                    self.let_followers_look_again();
                    self.keep_outer_from_storing();
                    return Step::Revalidate { value, permit };
                }
                Missed { miss: permit.miss, permit: Some(permit) }
            }
        };
        off_hit_path(self.join(missed, finished)).await
    }

    /// Joins a flight of this key: leads it, or waits for its leader.
    async fn join(&mut self, missed: Missed, finished: u64) -> Step<V> {
        let id = missed.permit.as_ref().map(|permit| permit.flight_id(self.address));
        if let Some(leader) = self.leader.take() {
            return self.lead(missed, leader, finished).await;
        }
        let flights = &self.cache.inner().flights;
        if flights.unshared.contains(&self.address.key) {
            return Step::Load { missed, leader: None };
        }
        let has_stale = missed.stale_if_error(self.accept).is_some();
        loop {
            let within = self.outer.map(LoadContext::node);
            let id = id.as_ref().filter(|_| !self.wants_later_load);
            let reader = Reader { key: &self.address.key, id, has_stale, within };
            let follower = match flights.join(&reader) {
                Role::Leader(leader) => return self.lead(missed, leader, finished).await,
                Role::Landed(outcome) => return self.follow(missed, outcome, Joined::WithVector).await,
                Role::Follower(follower) => follower,
                Role::Alone => {
                    self.cache.inner().counters().wait_cycles.increment();
                    return Step::Load { missed, leader: None };
                }
            };
            let stalled = || self.cache.inner().counters().stalled_loads.increment();
            match wait(&follower, self.cache.inner().load_wait_limit, stalled).await {
                Arrival::Outcome(outcome, joined) => return self.follow(missed, outcome, joined).await,
                Arrival::TakeOver(leader) => {
                    // The vector of this read may be outdated by now, and a new one is needed before the load.
                    self.leader = Some(leader);
                    self.attempt -= 1;
                    self.budget = TimeBudget::new(self.cache.inner().read_time_limit);
                    return Step::Retry;
                }
                Arrival::Failed => {
                    if let Some(step) = self.serve_stale(&missed) {
                        return step;
                    }
                }
                Arrival::Rejoin => {}
            }
        }
    }

    /// Leads a flight: waits for this process's turn if there is a lease, then loads.
    async fn lead(&mut self, mut missed: Missed, mut leader: Leader, finished: u64) -> Step<V> {
        let Some(permit) = &mut missed.permit else {
            leader.prepare(None);
            return Step::Load { missed, leader: Some(leader) };
        };
        leader.prepare(Some(permit.flight_id(self.address)));
        // What this read is to load was loaded since its lookup: it is being stored, or may be stored by now.
        if let Some(outcome) = leader.landed() {
            leader.finish(FlightOutcome::LookAgain);
            return self.follow(missed, outcome, Joined::WithVector).await;
        }
        if self.may_retry() && self.cache.inner().flights.finished_count(&self.address.key) != finished {
            self.leader = Some(leader);
            return Step::Retry;
        }
        let progress = leader.progress();
        let decision = self.cache.await_lease(
            self.address,
            permit,
            &mut leader,
            self.wait_limit,
            &mut self.budget,
            self.accept,
        );
        match progress.of(Box::pin(decision)).await {
            LeaseDecision::Load | LeaseDecision::HeldElsewhere => Step::Load { missed, leader: Some(leader) },
            LeaseDecision::Found(value) => shared(value, missed.miss),
            LeaseDecision::Invalidated => Step::Retry,
        }
    }

    /// Takes what the flight came to, if it is for this reader too.
    async fn follow(&mut self, missed: Missed, outcome: FlightOutcome, joined: Joined) -> Step<V> {
        match outcome {
            FlightOutcome::Loaded(load) => {
                if self.may_share(&missed, &load, joined).await {
                    if let Some(value) = (self.accept)(&load.entry) {
                        self.depend_on(&load);
                        return shared(value, missed.miss);
                    }
                } else if self.may_retry() {
                    self.wants_later_load = true;
                    return Step::Retry;
                }
            }
            FlightOutcome::Failed(failure) => {
                if let Some(step) = self.serve_stale(&missed) {
                    return step;
                }
                if self.may_share(&missed, &failure, joined).await
                    && let Some(value) = (self.accept)(&failure.entry)
                {
                    self.keep_outer_from_storing();
                    return shared(value, missed.miss);
                }
            }
            FlightOutcome::Found { entry, expires_at } => {
                let found = SharedLoad { entry, expires_at, is_complete: true, is_stored: true };
                if self.may_share(&missed, &found, Joined::WithVector).await {
                    if let Some(value) = (self.accept)(&found.entry) {
                        self.depend_on(&found);
                        return shared(value, missed.miss);
                    }
                } else if self.may_retry() {
                    return Step::Retry;
                }
            }
            FlightOutcome::LookAgain if self.may_retry() || self.wait_limit.is_left() => return Step::Retry,
            FlightOutcome::LookAgain | FlightOutcome::Private => {}
        }
        Step::Load { missed, leader: None }
    }

    /// Serves a stale entry after a failed load, if there is one.
    fn serve_stale(&self, missed: &Missed) -> Option<Step<V>> {
        let value = missed.stale_if_error(self.accept)?;
        self.keep_outer_from_storing();
        Some(Step::Serve { value, from: ServedFrom::StaleIfError, miss: Some(missed.miss) })
    }

    /// The load around this read depends on what `load` depends on.
    fn depend_on(&self, load: &SharedLoad) {
        match self.outer {
            Some(outer) if load.is_stored && load.entry.groups().contains_all(&self.address.groups) => {
                outer.after_nested_read(self.cache.id(), &load.entry, load.expires_at);
            }
            _ => self.keep_outer_from_storing(),
        }
    }

    /// Ends the flight that this read took over, if it did: its followers find an entry too.
    fn let_followers_look_again(&mut self) {
        if let Some(mut leader) = self.leader.take() {
            leader.finish(FlightOutcome::LookAgain);
        }
    }

    /// Whether a follower may take what the flight it waited for has loaded.
    ///
    /// If it joined before the load began, it may. Otherwise the flight and the follower have equal vectors.
    /// Groups that the load discovered are checked here: they may have been invalidated after the load began
    /// and before this read began. Such followers may have named other groups than the leader: the entry has
    /// to depend on those too.
    async fn may_share(&mut self, missed: &Missed, load: &SharedLoad, joined: Joined) -> bool {
        #[cfg(groupcache_mutants)]
        if ["unchecked_late_groups", "flight_by_key", "flight_on_missing", "late_join"]
            .into_iter()
            .any(crate::mutants::is_on)
        {
            return true;
        }
        if joined == Joined::BeforeLoad {
            return true;
        }
        let (entry, Some(permit)) = (&load.entry, &missed.permit) else {
            return false;
        };
        if !load.is_complete || !entry.groups().contains_all(&self.address.groups) {
            return false;
        }
        if permit.covers(entry) {
            return true;
        }
        let backend = &self.cache.inner().backend;
        let lookup = backend.lookup(entry.key(), entry.groups(), TimeLeft::NotNeeded);
        match self.budget.run(backend.name(), pin!(lookup)).await {
            Ok(lookup) => lookup.current.equals(entry.vector()),
            Err(error) => {
                self.cache.miss_of(&error);
                false
            }
        }
    }

    const fn may_retry(&self) -> bool {
        self.attempt < SHARED_ATTEMPTS_MAX
    }

    /// The load around this read has seen a value whose groups it does not know.
    fn keep_outer_from_storing(&self) {
        if let Some(outer) = self.outer {
            outer.keep_from_store();
        }
    }
}

impl<S, R> ReadOutcome<S, R> {
    const fn of(served: S) -> Self {
        Self { served, refresh: None }
    }
}

const fn shared<V>(value: V, miss: Miss) -> Step<V> {
    Step::Serve { value, from: ServedFrom::Shared(miss), miss: Some(miss) }
}
