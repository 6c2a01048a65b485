//! The algorithm: read, fill, invalidate.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::Backend;
use crate::backend::boxed::BoxBackend;
use crate::backend::lease::LeaseOwner;
use crate::backend::lookup::{Minted, TimeLeft};
use crate::clock::{Clock, SystemClock};
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::invalidator::Invalidator;
use crate::load_context::{CacheId, LoadContext, Minter, NestedRead};
use crate::options::EntryOptions;
use crate::outcome::{Loaded, Served, ServedFrom, StorePolicy};
use crate::read::discovered::DiscoveredGroups;
use crate::read::lease_wait::{LeaseDecision, WaitLimit};
use crate::read::load::{LoadPermit, Refresh};
use crate::read::lookup::Asked;
use crate::read::single_flight::{FlightOutcome, Role, SingleFlight};
use crate::stats::{Counters, Stats};
use crate::time_limit::{Budget, detached};

/// How often a reader tries to share somebody else's computation before it computes for itself.
/// Each time, something it depends on was invalidated meanwhile.
const SHARING_ROUNDS: u32 = 3;

/// A cache of values that stay valid until one of their groups is invalidated.
///
/// Cheap to clone; clones are the same cache. The type of the backend is known
/// (`Cache<MemoryBackend>`) or chosen at run time (`Cache`, which is `Cache<BoxBackend>`).
///
/// This page has the operations that adapters build on: [`read`](Self::read) and
/// [`invalidate`](Self::invalidate). Those for any serialisable value are
/// [`get_or_load`](Self::get_or_load) and what stands beside it.
///
/// # Guarantees
///
/// * If [`invalidate`](Self::invalidate) returned `Ok` before a read started, that read never
///   returns a value whose computation began before that invalidation.
/// * Invalidating a group makes no entry stale that does not depend on it.
/// * A failing backend never fails a read, and never serves what was not validated.
pub struct Cache<B = BoxBackend> {
    inner: Arc<Inner<B>>,
    options: EntryOptions,
}

pub(crate) struct Inner<B> {
    pub(crate) backend: B,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) read_time_limit: Duration,
    pub(crate) write_time_limit: Duration,
    pub(crate) flights: Arc<SingleFlight>,
    pub(crate) discovered: DiscoveredGroups,
    pub(crate) owner: LeaseOwner,
    counters: Counters,
}

impl<B: Backend> Cache<B> {
    /// Sets up a cache.
    pub fn builder(backend: B) -> CacheBuilder<B> {
        CacheBuilder::new(backend)
    }

    fn from_builder(builder: CacheBuilder<B>) -> Self {
        let inner = Inner {
            backend: builder.backend,
            clock: builder.clock,
            read_time_limit: builder.read_time_limit,
            write_time_limit: builder.write_time_limit,
            flights: SingleFlight::new(),
            discovered: DiscoveredGroups::new(),
            owner: LeaseOwner::random(),
            counters: Counters::default(),
        };
        Self { inner: Arc::new(inner), options: builder.options }
    }

    /// The same cache with other options for what is read through the returned handle.
    #[must_use]
    pub fn with_options(&self, options: EntryOptions) -> Self {
        Self { inner: Arc::clone(&self.inner), options }
    }

    /// The options in force.
    #[must_use]
    pub const fn options(&self) -> &EntryOptions {
        &self.options
    }

    /// The backend.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.inner.backend
    }

    /// The backend's name, such as `memory`.
    #[must_use]
    pub fn backend_name(&self) -> &'static str {
        self.inner.backend.name()
    }

    /// What this cache has done so far; shared by its clones.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.counters.snapshot()
    }

    /// How many computations are under way now.
    #[must_use]
    pub fn loads_in_flight(&self) -> usize {
        self.inner.flights.len()
    }

    /// The value at `address`, computed by `load` if there is no valid entry.
    ///
    /// `accept` turns an entry into what the reader wants; `None` makes it a miss. Concurrent reads
    /// that miss compute once. Never fails because of the cache: only `load`'s own error is returned.
    ///
    /// A hit is one round trip, two where the entry depends on groups that this process has not seen;
    /// a miss is one more if a group has no generation, and one to store, for which the reader does
    /// not wait. A reader that is dropped while it computes hands over to one that waits.
    ///
    /// # Errors
    ///
    /// What `load` returned.
    pub async fn read<V, R, E, A, F, Fut>(
        &self,
        address: &Address,
        accept: A,
        load: F,
    ) -> Result<(Served<V, R>, Option<Refresh<B, F>>), E>
    where
        A: Fn(&Arc<Entry>) -> Option<V> + Sync,
        V: Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let nested = NestedRead::begin();
        let outer = nested.outer();
        if let Some(outer) = outer {
            Box::pin(outer.before_nested_read(self.id(), &address.groups)).await;
        }
        let counters = &self.inner.counters;
        let began = self.options.lease.map(|_| tokio::time::Instant::now());
        let mut budget = Budget::new(self.inner.read_time_limit);
        let mut round = 0;
        let served = loop {
            round += 1;
            let gone = self.inner.flights.gone(&address.key);
            let mut ticket = match self.ask(address, &accept, &mut budget).await {
                Asked::Hit(value) => {
                    counters.hits.increment();
                    break (Served::Entry(value, ServedFrom::Hit), None);
                }
                Asked::Unanswered(miss) => {
                    counters.miss(miss);
                    break (Box::pin(self.compute_unstored(miss, load)).await?, None);
                }
                Asked::Miss(ticket) => ticket,
            };
            // Expired by time only, or the route says in as many words that it does not mind.
            if let Some(stale) = ticket.stale_while_revalidate(&accept) {
                counters.stale_while_revalidate.increment();
                counters.miss(ticket.miss);
                if let Some(outer) = outer {
                    outer.do_not_store();
                }
                let lead = self.inner.flights.try_lead(ticket.flight(address));
                let refresh = lead.map(|lead| Refresh {
                    cache: self.clone(),
                    address: address.clone(),
                    ticket,
                    lead,
                    load,
                });
                break (Served::Entry(stale, ServedFrom::StaleWhileRevalidate), refresh);
            }
            let boarding = self.inner.flights.join(ticket.flight(address));
            let landing = match Box::pin(boarding).await {
                // Somebody's computation ended between this lookup and this flight: its entry may be there.
                Role::Leader(_)
                    if round < SHARING_ROUNDS && self.inner.flights.gone(&address.key) != gone =>
                {
                    continue;
                }
                Role::Leader(mut lead) => {
                    let patience = began.map_or(WaitLimit::None, WaitLimit::Since);
                    let turn =
                        self.await_lease(address, &mut ticket, &mut lead, patience, &mut budget, &accept);
                    match Box::pin(turn).await {
                        LeaseDecision::Compute | LeaseDecision::Others => {}
                        LeaseDecision::Changed => continue,
                        LeaseDecision::Found(value) => {
                            counters.miss(ticket.miss);
                            counters.shared_loads.increment();
                            break (Served::Entry(value, ServedFrom::Shared(ticket.miss)), None);
                        }
                    }
                    counters.miss(ticket.miss);
                    let computed = self.compute(address, ticket, Some(lead), &accept, load);
                    break (Box::pin(computed).await?, None);
                }
                Role::Follower(landing) => landing,
            };
            match landing {
                FlightOutcome::Shared(entry, expires_at) => {
                    if Box::pin(self.may_share(address, &ticket, &entry, &mut budget)).await {
                        if let Some(value) = accept(&entry) {
                            counters.miss(ticket.miss);
                            counters.shared_loads.increment();
                            if let Some(outer) = outer {
                                outer.after_nested_read(self.id(), &entry, expires_at);
                            }
                            break (Served::Entry(value, ServedFrom::Shared(ticket.miss)), None);
                        }
                    } else if round < SHARING_ROUNDS {
                        continue;
                    }
                }
                FlightOutcome::Again if round < SHARING_ROUNDS => continue,
                FlightOutcome::Changed if round < SHARING_ROUNDS || self.is_patient(began) => continue,
                FlightOutcome::Failed(shared) => {
                    if let Some(stale) = ticket.stale_if_error(&accept) {
                        counters.miss(ticket.miss);
                        counters.stale_if_error.increment();
                        if let Some(outer) = outer {
                            outer.do_not_store();
                        }
                        break (Served::Entry(stale, ServedFrom::StaleIfError), None);
                    }
                    // What one of them has heard need not be asked by all at once.
                    if let Some(failure) = shared
                        && Box::pin(self.may_share(address, &ticket, &failure, &mut budget)).await
                        && let Some(value) = accept(&failure)
                    {
                        counters.miss(ticket.miss);
                        counters.shared_loads.increment();
                        if let Some(outer) = outer {
                            outer.do_not_store();
                        }
                        break (Served::Entry(value, ServedFrom::Shared(ticket.miss)), None);
                    }
                }
                FlightOutcome::Again | FlightOutcome::Changed | FlightOutcome::Private => {}
            }
            counters.miss(ticket.miss);
            let computed = self.compute(address, ticket, None, &accept, load);
            break (Box::pin(computed).await?, None);
        };
        nested.answered();
        Ok(served)
    }

    /// Computes the value at `address` anew and stores it, replacing what is there. Returns once the
    /// store has acknowledged.
    ///
    /// The computation runs after the generations are read, so that what it returns is as safe as
    /// what [`read`](Self::read) computes; a value that was there before could not be.
    ///
    /// # Errors
    ///
    /// What `load` returned, or that the value is not stored: it has to be computed again then.
    pub async fn replace<R, E, F, Fut>(&self, address: &Address, load: F) -> Result<R, E>
    where
        E: From<Error>,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
        R: Send,
    {
        let nested = NestedRead::begin();
        if let Some(outer) = nested.outer() {
            Box::pin(outer.before_nested_read(self.id(), &address.groups)).await;
        }
        let mut budget = Budget::new(self.inner.write_time_limit);
        let backend = &self.inner.backend;
        let minted = self.inner.mint_within(&address.groups, &mut budget).await?;
        let fill = LoadContext::new(self.id(), self.minter()).with_vector(
            &address.groups,
            &minted.vector,
            &address.groups,
            vec![minted.guard],
        );
        let (loaded, sealed) = self.run(fill, load).await;
        let Loaded { value, policy } = loaded?;
        let StorePolicy::Store(to_store) = policy else {
            return Err(Error::new(ErrorKind::Encode, backend.name())
                .with_message("not a value to store")
                .into());
        };
        if !sealed.storable || !sealed.late.is_empty() {
            self.inner.counters.loads_not_stored.increment();
            let why = "the generation of a group that the value depends on could not be had in time";
            return Err(Error::new(ErrorKind::Unavailable, backend.name()).with_message(why).into());
        }
        let (entry, time_to_live) = self.entry(address, &to_store, &sealed);
        let entry = Arc::new(entry);
        let expires_at = self.fresh_until(&entry, time_to_live);
        self.store(Arc::clone(&entry), time_to_live, sealed.guards).await?;
        if let Some(outer) = nested.outer() {
            outer.after_nested_read(self.id(), &entry, expires_at);
        }
        nested.answered();
        Ok(value)
    }

    /// Makes every entry of any of these groups stale, however many there are, in one round trip.
    ///
    /// Call it after the commit of what changed. Once polled it runs to its end even if the caller
    /// goes away. Groups that were never cached cost nothing and leave nothing behind.
    ///
    /// # Errors
    ///
    /// If the backend did not acknowledge within the hard time limit. Old entries may still be served
    /// then; calling again does no harm.
    pub fn invalidate<G: Into<Groups>>(
        &self,
        groups: G,
    ) -> impl Future<Output = Result<()>> + Send + use<B, G> {
        let inner = Arc::clone(&self.inner);
        let groups = groups.into();
        async move {
            if groups.is_empty() {
                return Ok(());
            }
            detached(inner.backend.name(), inner.bump(groups)).await
        }
    }

    /// Removes the entry at `key`. To make something stale, [`invalidate`](Self::invalidate) its
    /// group: a computation under way may store this key again.
    ///
    /// # Errors
    ///
    /// If the backend did not acknowledge within the hard time limit.
    pub async fn delete_at(&self, key: &Key) -> Result<()> {
        let mut budget = Budget::new(self.inner.write_time_limit);
        let backend = &self.inner.backend;
        budget.run(backend.name(), pin!(backend.delete(key))).await?;
        self.inner.counters.deletes.increment();
        Ok(())
    }

    /// Whether a passenger may take the value of the flight it waited for. Equal vectors brought it
    /// aboard; groups that the computation found out meanwhile it has to check for itself, as they
    /// may have been invalidated between that computation's beginning and this read's.
    ///
    /// One flight may have passengers who name other groups: what they depend on must be among the
    /// entry's.
    async fn may_share(
        &self,
        address: &Address,
        ticket: &LoadPermit,
        entry: &Arc<Entry>,
        budget: &mut Budget,
    ) -> bool {
        #[cfg(groupcache_mutants)]
        if ["unchecked_late_groups", "flight_by_key", "flight_on_missing"]
            .into_iter()
            .any(crate::mutants::is_on)
        {
            return true;
        }
        if !entry.groups().contains_all(&address.groups) {
            return false;
        }
        let known = |group: &Group, generation| {
            ticket.groups.binary_search(group).is_ok_and(|at| ticket.vector[at] == generation)
        };
        if entry
            .groups()
            .iter()
            .zip(entry.vector().iter())
            .all(|(group, generation)| known(group, *generation))
        {
            return true;
        }
        let backend = &self.inner.backend;
        let lookup = backend.lookup(entry.key(), entry.groups(), TimeLeft::NotNeeded);
        match budget.run(backend.name(), pin!(lookup)).await {
            Ok(lookup) => lookup.current.equals(entry.vector()),
            Err(error) => {
                self.unanswered(&error);
                false
            }
        }
    }

    pub(crate) fn id(&self) -> CacheId {
        CacheId(Arc::as_ptr(&self.inner).addr())
    }

    pub(crate) fn minter(&self) -> Arc<dyn Minter> {
        Arc::clone(&self.inner) as Arc<dyn Minter>
    }

    pub(crate) fn shared_inner(&self) -> Arc<Inner<B>> {
        Arc::clone(&self.inner)
    }

    pub(crate) fn inner(&self) -> &Inner<B> {
        &self.inner
    }
}

impl<B> Inner<B> {
    pub(crate) const fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl<B: Backend> Inner<B> {
    async fn bump(self: Arc<Self>, groups: Groups) -> Result<()> {
        let mut budget = Budget::new(self.write_time_limit);
        let bumped = budget.run(self.backend.name(), pin!(self.backend.bump(&groups))).await;
        match &bumped {
            Ok(()) => {
                self.counters.invalidations.increment();
                self.counters.invalidated_groups.add(groups.len() as u64);
            }
            Err(_) => self.counters.invalidation_failures.increment(),
        }
        bumped
    }

    pub(crate) async fn mint_within(&self, groups: &[Group], budget: &mut Budget) -> Result<Minted> {
        self.counters.mints.increment();
        let minted = budget.run(self.backend.name(), pin!(self.backend.mint(groups))).await;
        let minted = minted.and_then(|minted| {
            let complete = minted.vector.len() == groups.len();
            complete.then_some(minted).ok_or_else(|| Error::new(ErrorKind::Protocol, self.backend.name()))
        });
        if minted.is_err() {
            self.counters.mint_failures.increment();
        }
        minted
    }
}

#[async_trait]
impl<B: Backend> Minter for Inner<B> {
    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        self.mint_within(groups, &mut Budget::new(self.read_time_limit)).await
    }
}

impl<B: Backend> Invalidator for Cache<B> {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        Self::invalidate(self, groups).await
    }
}

impl<B> Clone for Cache<B> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), options: self.options }
    }
}

impl<B: Backend> fmt::Debug for Cache<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("backend", &self.inner.backend.name())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Sets up a [`Cache`].
#[must_use = "nothing is set up before `build`"]
pub struct CacheBuilder<B> {
    backend: B,
    clock: Arc<dyn Clock>,
    options: EntryOptions,
    read_time_limit: Duration,
    write_time_limit: Duration,
}

impl<B: Backend> CacheBuilder<B> {
    pub(crate) fn new(backend: B) -> Self {
        Self {
            backend,
            clock: Arc::new(SystemClock),
            options: EntryOptions::default(),
            read_time_limit: Duration::from_millis(250),
            write_time_limit: Duration::from_secs(5),
        }
    }

    /// How long entries live and when stale ones may be served. Defaults to
    /// [`EntryOptions::new`]; [`Cache::with_options`] sets others for single uses.
    pub const fn options(mut self, options: EntryOptions) -> Self {
        self.options = options;
        self
    }

    /// How long a read waits for the backend, in all, before it goes on without the cache and
    /// computes. Defaults to 250 ms.
    pub const fn read_time_limit(mut self, limit: Duration) -> Self {
        self.read_time_limit = limit;
        self
    }

    /// How long an invalidation, a delete or a store waits for the backend before it gives up with
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout). Defaults to 5 s.
    pub const fn write_time_limit(mut self, limit: Duration) -> Self {
        self.write_time_limit = limit;
        self
    }

    /// Where the time comes from. Defaults to [`SystemClock`]. A backend in this process should be
    /// given the same clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The cache. Cannot fail; whether the backend is reachable shows at the first use.
    #[must_use]
    pub fn build(self) -> Cache<B> {
        Cache::from_builder(self)
    }
}

impl<B: Backend> fmt::Debug for CacheBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("backend", &self.backend.name())
            .field("options", &self.options)
            .field("soft_time_limit", &self.read_time_limit)
            .field("hard_time_limit", &self.write_time_limit)
            .finish_non_exhaustive()
    }
}
