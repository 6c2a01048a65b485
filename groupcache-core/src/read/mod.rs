//! A read, from the lookup to the served value. Each file is one step, and a step calls downwards only.

pub(crate) mod discovered;
mod find;
pub(crate) mod flight_id;
mod held_lease;
mod lease_request;
mod lease_wait;
mod load;
mod lookup;
#[cfg(groupcache_mutants)]
mod mutants;
mod permit;
pub(crate) mod refresh;
mod replace;
pub(crate) mod single_flight;
mod store;
mod verdict;

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
use crate::read::lease_wait::{LeaseDecision, WaitLimit};
use crate::read::lookup::LookupOutcome;
use crate::read::permit::LoadPermit;
use crate::read::refresh::Refresh;
use crate::read::single_flight::{FlightOutcome, Leader, Role};
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
    Load { permit: Box<LoadPermit>, leader: Option<Leader> },
    /// Loads without the cache, because the backend did not answer.
    Bypass(Miss),
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
        if let Some(value) = self.read_now(address, &accept) {
            return Ok(ReadOutcome::of(Served::Entry(value, ServedFrom::Hit)));
        }
        self.read_through(address, accept, loader).await
    }

    /// Reads like [`read`](Self::read), for callers that have tried [`read_now`](Self::read_now).
    pub(crate) async fn read_through<V, R, E, A, F, Fut>(
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
            match read.attempt().await {
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
            Step::Load { permit, leader } => {
                let load = self.load(address, *permit, leader, &accept, loader);
                ReadOutcome::of(off_hit_path(load).await?)
            }
            Step::Bypass(miss) => ReadOutcome::of(off_hit_path(self.load_unstored(miss, loader)).await?),
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
            Step::Load { permit, .. } => counters.miss(permit.miss),
            Step::Bypass(miss) => counters.miss(*miss),
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
        Self { cache, address, accept, outer, budget, wait_limit, attempt: 0 }
    }

    /// Looks the entry up, and decides what to do if it is no hit.
    async fn attempt(&mut self) -> Step<V> {
        self.attempt += 1;
        let finished = self.cache.inner().flights.finished_count(&self.address.key);
        match self.cache.look_up(self.address, self.accept, &mut self.budget).await {
            LookupOutcome::Hit(value) => Step::Serve { value, from: ServedFrom::Hit, miss: None },
            LookupOutcome::Unavailable(miss) => Step::Bypass(miss),
            LookupOutcome::Miss(permit) => match permit.stale_while_revalidate(self.accept) {
                Some(value) => {
                    self.keep_outer_from_storing();
                    Step::Revalidate { value, permit }
                }
                None => off_hit_path(self.join(permit, finished)).await,
            },
        }
    }

    /// Joins the flight of this key and vector.
    async fn join(&mut self, permit: Box<LoadPermit>, finished: u64) -> Step<V> {
        let flights = &self.cache.inner().flights;
        match flights.join(permit.flight_id(self.address)).await {
            // A flight of this key finished after the lookup: its entry may be there now.
            Role::Leader(_) if self.may_retry() && flights.finished_count(&self.address.key) != finished => {
                Step::Retry
            }
            Role::Leader(leader) => self.lead(permit, leader).await,
            Role::Follower(outcome) => self.follow(permit, outcome).await,
        }
    }

    /// Leads a flight: waits for this process's turn if there is a lease, then loads.
    async fn lead(&mut self, mut permit: Box<LoadPermit>, mut leader: Leader) -> Step<V> {
        let decision = self.cache.await_lease(
            self.address,
            &mut permit,
            &mut leader,
            self.wait_limit,
            &mut self.budget,
            self.accept,
        );
        match decision.await {
            LeaseDecision::Load | LeaseDecision::HeldElsewhere => Step::Load { permit, leader: Some(leader) },
            LeaseDecision::Found(value) => shared(value, permit.miss),
            LeaseDecision::Invalidated => Step::Retry,
        }
    }

    /// Takes what the flight came to, if it is for this reader too.
    async fn follow(&mut self, permit: Box<LoadPermit>, outcome: FlightOutcome) -> Step<V> {
        match outcome {
            FlightOutcome::Shared { entry, expires_at } => {
                if self.may_share(&permit, &entry).await {
                    if let Some(value) = (self.accept)(&entry) {
                        if let Some(outer) = self.outer {
                            outer.after_nested_read(self.cache.id(), &entry, expires_at);
                        }
                        return shared(value, permit.miss);
                    }
                } else if self.may_retry() {
                    return Step::Retry;
                }
            }
            FlightOutcome::Failed(failure) => {
                if let Some(step) = self.after_failure(&permit, failure).await {
                    return step;
                }
            }
            FlightOutcome::GroupsDiscovered if self.may_retry() => return Step::Retry,
            FlightOutcome::Invalidated if self.may_retry() || self.wait_limit.is_left() => {
                return Step::Retry;
            }
            FlightOutcome::GroupsDiscovered | FlightOutcome::Invalidated | FlightOutcome::Private => {}
        }
        Step::Load { permit, leader: None }
    }

    /// Serves a stale entry, or the failure that the loader shares; `None` if there is neither.
    async fn after_failure(&mut self, permit: &LoadPermit, failure: Option<Arc<Entry>>) -> Option<Step<V>> {
        if let Some(value) = permit.stale_if_error(self.accept) {
            self.keep_outer_from_storing();
            return Some(Step::Serve { value, from: ServedFrom::StaleIfError, miss: Some(permit.miss) });
        }
        let failure = failure?;
        if !self.may_share(permit, &failure).await {
            return None;
        }
        let value = (self.accept)(&failure)?;
        self.keep_outer_from_storing();
        Some(shared(value, permit.miss))
    }

    /// Whether a follower may take the entry of the flight it waited for.
    ///
    /// The flight and its followers have equal vectors. Groups that the load discovered are checked here:
    /// they may have been invalidated after the load began and before this read began. Followers may have
    /// named other groups than the leader: the entry has to depend on those too.
    async fn may_share(&mut self, permit: &LoadPermit, entry: &Arc<Entry>) -> bool {
        #[cfg(groupcache_mutants)]
        if ["unchecked_late_groups", "flight_by_key", "flight_on_missing"]
            .into_iter()
            .any(crate::mutants::is_on)
        {
            return true;
        }
        if !entry.groups().contains_all(&self.address.groups) {
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
            outer.do_not_store();
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
