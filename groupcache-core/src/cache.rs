//! The algorithm: read, fill, invalidate.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;

use crate::backend::{Backend, EntryView, Found, Hold, Lookup, Minted, TimeLeft};
use crate::boxed::BoxBackend;
use crate::builder::CacheBuilder;
use crate::clock::Clock;
use crate::compute::{Refresh, Ticket};
use crate::entry::{Entry, Vector};
use crate::error::{Error, ErrorKind, Result};
use crate::fill::{CacheId, Fill, Minter, Nested};
use crate::group::{Group, Groups};
use crate::invalidator::Invalidator;
use crate::key::Key;
use crate::key_strategy::Address;
use crate::learned::Learned;
use crate::lease::LeaseOwner;
use crate::options::EntryOptions;
use crate::outcome::{How, Keep, Loaded, Miss, Served};
use crate::single_flight::{Flights, Landing, Role};
use crate::stats::{Counters, Stats};
use crate::time_limit::{Budget, detached};
use crate::turn::{Claim, Patience, Turn};
use crate::verdict::{Verdict, judge, judge_glance};

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
    pub(crate) soft_time_limit: Duration,
    pub(crate) hard_time_limit: Duration,
    pub(crate) flights: Arc<Flights>,
    pub(crate) learned: Learned,
    pub(crate) owner: LeaseOwner,
    counters: Counters,
}

impl<B: Backend> Cache<B> {
    /// Sets up a cache.
    pub fn builder(backend: B) -> CacheBuilder<B> {
        CacheBuilder::new(backend)
    }

    pub(crate) fn from_builder(
        backend: B,
        clock: Arc<dyn Clock>,
        options: EntryOptions,
        soft_time_limit: Duration,
        hard_time_limit: Duration,
    ) -> Self {
        let inner = Inner {
            backend,
            clock,
            soft_time_limit,
            hard_time_limit,
            flights: Flights::new(),
            learned: Learned::new(),
            owner: LeaseOwner::random(),
            counters: Counters::default(),
        };
        Self { inner: Arc::new(inner), options }
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
    pub fn loads_under_way(&self) -> usize {
        self.inner.flights.len()
    }

    /// A hit without waiting, for backends in this process; `None` means "use [`read`](Self::read)",
    /// not "absent".
    pub fn read_now<V>(&self, address: &Address, accept: impl FnOnce(&Arc<Entry>) -> Option<V>) -> Option<V> {
        self.glance(&address.key, Some(&address.groups), accept)
    }

    /// As [`read_now`](Self::read_now), for calls whose groups follow from their key in all of this
    /// process's life, so that an entry of the key is one of the groups: spares naming them.
    pub fn read_now_by_key<V>(&self, key: &Key, accept: impl FnOnce(&Arc<Entry>) -> Option<V>) -> Option<V> {
        self.glance(key, None, accept)
    }

    fn glance<V>(
        &self,
        key: &Key,
        named: Option<&Groups>,
        accept: impl FnOnce(&Arc<Entry>) -> Option<V>,
    ) -> Option<V> {
        let mut accept = Some(accept);
        let mut value = None;
        self.inner.backend.glance(key, &mut |view| {
            let Some(expires_at) = judge_glance(key, named, view, &self.options, &*self.inner.clock) else {
                return;
            };
            if let Some(outer) = Fill::current() {
                if !outer.is_of(self.id()) {
                    return;
                }
                outer.after_nested_read(self.id(), view.entry, expires_at);
            }
            value = accept.take().and_then(|accept| accept(view.entry));
        });
        let value = value?;
        self.inner.counters.hits.increment();
        Some(value)
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
        let nested = Nested::begin();
        let outer = nested.outer();
        if let Some(outer) = outer {
            Box::pin(outer.before_nested_read(self.id(), &address.groups)).await;
        }
        let counters = &self.inner.counters;
        let began = self.options.lease.map(|_| tokio::time::Instant::now());
        let mut budget = Budget::new(self.inner.soft_time_limit);
        let mut round = 0;
        let served = loop {
            round += 1;
            let gone = self.inner.flights.gone(&address.key);
            let mut ticket = match self.ask(address, &accept, &mut budget).await {
                Asked::Hit(value) => {
                    counters.hits.increment();
                    break (Served::Entry(value, How::Hit), None);
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
                break (Served::Entry(stale, How::StaleWhileRevalidate), refresh);
            }
            let boarding = self.inner.flights.board(ticket.flight(address));
            let landing = match Box::pin(boarding).await {
                // Somebody's computation ended between this lookup and this flight: its entry may be there.
                Role::Leader(_)
                    if round < SHARING_ROUNDS && self.inner.flights.gone(&address.key) != gone =>
                {
                    continue;
                }
                Role::Leader(mut lead) => {
                    let patience = began.map_or(Patience::None, Patience::Since);
                    let turn =
                        self.take_turn(address, &mut ticket, &mut lead, patience, &mut budget, &accept);
                    match Box::pin(turn).await {
                        Turn::Compute | Turn::Others => {}
                        Turn::Changed => continue,
                        Turn::Found(value) => {
                            counters.miss(ticket.miss);
                            counters.shared.increment();
                            break (Served::Entry(value, How::Shared(ticket.miss)), None);
                        }
                    }
                    counters.miss(ticket.miss);
                    let computed = self.compute(address, ticket, Some(lead), &accept, load);
                    break (Box::pin(computed).await?, None);
                }
                Role::Passenger(landing) => landing,
            };
            match landing {
                Landing::Shared(entry, expires_at) => {
                    if Box::pin(self.may_share(address, &ticket, &entry, &mut budget)).await {
                        if let Some(value) = accept(&entry) {
                            counters.miss(ticket.miss);
                            counters.shared.increment();
                            if let Some(outer) = outer {
                                outer.after_nested_read(self.id(), &entry, expires_at);
                            }
                            break (Served::Entry(value, How::Shared(ticket.miss)), None);
                        }
                    } else if round < SHARING_ROUNDS {
                        continue;
                    }
                }
                Landing::Again if round < SHARING_ROUNDS => continue,
                Landing::Changed if round < SHARING_ROUNDS || self.is_patient(began) => continue,
                Landing::Failed => {
                    if let Some(stale) = ticket.stale_if_error(&accept) {
                        counters.miss(ticket.miss);
                        counters.stale_if_error.increment();
                        if let Some(outer) = outer {
                            outer.do_not_store();
                        }
                        break (Served::Entry(stale, How::StaleIfError), None);
                    }
                }
                Landing::Again | Landing::Changed | Landing::Private => {}
            }
            counters.miss(ticket.miss);
            let computed = self.compute(address, ticket, None, &accept, load);
            break (Box::pin(computed).await?, None);
        };
        nested.answered();
        Ok(served)
    }

    /// The valid entry at `address`, if there is one. One round trip, two where it depends on groups
    /// that this process has not seen.
    ///
    /// # Errors
    ///
    /// Why there is none to use.
    pub async fn find<V: Send>(
        &self,
        address: &Address,
        accept: impl Fn(&Arc<Entry>) -> Option<V> + Sync,
    ) -> Result<V, Miss> {
        let nested = Nested::begin();
        if let Some(outer) = nested.outer() {
            Box::pin(outer.before_nested_read(self.id(), &address.groups)).await;
        }
        let mut budget = Budget::new(self.inner.soft_time_limit);
        let found = self.find_within(address, &accept, nested.outer(), &mut budget).await;
        nested.answered();
        found
    }

    async fn find_within<V>(
        &self,
        address: &Address,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
        outer: Option<&Fill>,
        budget: &mut Budget,
    ) -> Result<V, Miss> {
        let found = match self.look(address, budget).await {
            Ok(looked) => match looked.verdict {
                Verdict::Hit(expires_at) => self.take(&looked.lookup, expires_at, accept, outer),
                Verdict::Miss(miss, _) => Err(miss),
                Verdict::AskAlso(_) => Err(Miss::GroupsChanged),
                Verdict::AskTimeLeft => Err(Miss::Expired),
            },
            Err(miss) => Err(miss),
        };
        self.count(found, outer)
    }

    /// Several [`find`](Self::find)s, answered in order, in one round trip if the backend can.
    pub async fn find_many<V: Send>(
        &self,
        addresses: &[Address],
        accept: impl Fn(&Arc<Entry>) -> Option<V> + Sync,
    ) -> Vec<Result<V, Miss>> {
        let nested = Nested::begin();
        let outer = nested.outer();
        if let Some(outer) = outer {
            for address in addresses {
                Box::pin(outer.before_nested_read(self.id(), &address.groups)).await;
            }
            // At the same time rather than at once: the computation around this read must know when
            // each of them expires.
            let finds = addresses.iter().map(async |address| {
                let mut budget = Budget::new(self.inner.soft_time_limit);
                self.find_within(address, &accept, Some(outer), &mut budget).await
            });
            let found = join_all(finds).await;
            nested.answered();
            return found;
        }
        let mut questions = Vec::with_capacity(addresses.len());
        for address in addresses {
            let learned = self.inner.learned.extend(&address.key, &address.groups);
            questions.push((address.key.clone(), learned.unwrap_or_else(|| address.groups.clone())));
        }
        let mut budget = Budget::new(self.inner.soft_time_limit);
        let backend = &self.inner.backend;
        let lookups = budget.run(backend.name(), pin!(backend.lookup_many(&questions))).await;
        let lookups = lookups.and_then(|lookups| {
            let complete = lookups.len() == questions.len();
            complete.then_some(lookups).ok_or_else(|| Error::new(ErrorKind::Protocol, backend.name()))
        });
        let lookups = match lookups {
            Ok(lookups) => lookups,
            Err(error) => {
                let miss = self.unanswered(&error);
                return addresses.iter().map(|_| self.count(Err(miss), outer)).collect();
            }
        };
        let mut found = Vec::with_capacity(addresses.len());
        for (address, ((_, groups), lookup)) in addresses.iter().zip(questions.iter().zip(&lookups)) {
            found.push(match self.judge(address, groups, lookup) {
                Verdict::Hit(expires_at) => {
                    let taken = self.take(lookup, expires_at, &accept, outer);
                    self.count(taken, outer)
                }
                Verdict::Miss(miss, _) => self.count(Err(miss), outer),
                // Rare: the entry depends on groups that only it knows, or is kept for use as stale.
                Verdict::AskAlso(_) | Verdict::AskTimeLeft => {
                    self.find_within(address, &accept, outer, &mut budget).await
                }
            });
        }
        nested.answered();
        found
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
        let nested = Nested::begin();
        if let Some(outer) = nested.outer() {
            Box::pin(outer.before_nested_read(self.id(), &address.groups)).await;
        }
        let mut budget = Budget::new(self.inner.hard_time_limit);
        let backend = &self.inner.backend;
        let minted = self.inner.mint_within(&address.groups, &mut budget).await?;
        let fill = Fill::new(self.id(), self.minter()).with_vector(
            &address.groups,
            &minted.vector,
            &address.groups,
            vec![minted.hold],
        );
        let (loaded, sealed) = self.run(fill, load).await;
        let Loaded { value, keep } = loaded?;
        let Keep::Store(to_store) = keep else {
            return Err(Error::new(ErrorKind::Encode, backend.name())
                .with_message("not a value to store")
                .into());
        };
        if !sealed.storable || !sealed.late.is_empty() {
            self.inner.counters.not_stored.increment();
            let why = "the generation of a group that the value depends on could not be had in time";
            return Err(Error::new(ErrorKind::Unavailable, backend.name()).with_message(why).into());
        }
        let (entry, time_to_live) = self.entry(address, &to_store, &sealed);
        let entry = Arc::new(entry);
        let expires_at = self.fresh_until(&entry, time_to_live);
        self.store(Arc::clone(&entry), time_to_live, sealed.holds).await?;
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
        async move { if groups.is_empty() { Ok(()) } else { detached(inner.bump(groups)).await } }
    }

    /// Removes the entry at `key`. To make something stale, [`invalidate`](Self::invalidate) its
    /// group: a computation under way may store this key again.
    ///
    /// # Errors
    ///
    /// If the backend did not acknowledge within the hard time limit.
    pub async fn delete_at(&self, key: &Key) -> Result<()> {
        let mut budget = Budget::new(self.inner.hard_time_limit);
        let backend = &self.inner.backend;
        budget.run(backend.name(), pin!(backend.delete(key))).await?;
        self.inner.counters.deletes.increment();
        Ok(())
    }

    /// Step 1 to 3 of a read: look, judge, and if it is a miss complete the vector.
    async fn ask<V>(
        &self,
        address: &Address,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
        budget: &mut Budget,
    ) -> Asked<V> {
        let looked = match self.look(address, budget).await {
            Ok(looked) => looked,
            Err(miss) => return Asked::Unanswered(miss),
        };
        let (miss, candidate) = match looked.verdict {
            Verdict::Hit(expires_at) => {
                match self.take(&looked.lookup, expires_at, accept, Fill::current().as_ref()) {
                    Ok(value) => return Asked::Hit(value),
                    Err(miss) => (miss, None),
                }
            }
            Verdict::Miss(miss, candidate) => (miss, candidate),
            Verdict::AskAlso(_) => (Miss::GroupsChanged, None),
            Verdict::AskTimeLeft => (Miss::Expired, None),
        };
        #[cfg(groupcache_mutants)]
        let seen = Box::new(crate::mutants::with_missing(looked.lookup.current.iter().copied()));
        // In a box, as everything that a hit has no need of: it should not carry its state along.
        match Box::pin(self.complete(address, &looked.groups, looked.lookup, budget)).await {
            Ok((vector, holds, claim)) => Asked::Miss(Ticket {
                miss,
                groups: looked.groups,
                vector,
                holds,
                candidate,
                claim,
                #[cfg(groupcache_mutants)]
                seen,
            }),
            Err(error) => Asked::Unanswered(self.unanswered(&error)),
        }
    }

    /// One lookup of the entry and of all groups that it is known to depend on; a second one if it
    /// turns out to depend on more.
    pub(crate) async fn look(&self, address: &Address, budget: &mut Budget) -> Result<Looked, Miss> {
        let backend = &self.inner.backend;
        let learned = self.inner.learned.extend(&address.key, &address.groups);
        let mut groups = learned.unwrap_or_else(|| address.groups.clone());
        // A computation around this read must not outlive what it was computed from.
        let needed = !self.options.grace().is_zero() || Fill::current().is_some();
        let mut time_left = if needed { TimeLeft::Needed } else { TimeLeft::NotNeeded };
        let mut asked_more = false;
        loop {
            let lookup = backend.lookup(&address.key, &groups, time_left);
            let lookup = match budget.run(backend.name(), pin!(lookup)).await {
                Ok(lookup) => lookup,
                Err(error) => return Err(self.unanswered(&error)),
            };
            match self.judge(address, &groups, &lookup) {
                Verdict::AskAlso(all) if !asked_more => {
                    self.inner.learned.learn(&address.key, &address.groups, &all);
                    groups = all;
                    asked_more = true;
                }
                // Stored by a reader who would use it as stale, asked for by one who would not.
                Verdict::AskTimeLeft if time_left == TimeLeft::NotNeeded => time_left = TimeLeft::Needed,
                verdict => {
                    return Ok(Looked { groups, lookup, verdict });
                }
            }
        }
    }

    fn judge(&self, address: &Address, groups: &Groups, lookup: &Lookup) -> Verdict {
        match &lookup.found {
            Found::Absent => Verdict::Miss(Miss::Absent, None),
            Found::Undecodable => Verdict::Miss(Miss::Undecodable, None),
            Found::Entry(entry, expires_at) => {
                let view = EntryView { entry, expires_at: *expires_at, current: &lookup.current };
                self.judge_view(address, groups, view)
            }
        }
    }

    fn judge_view(&self, address: &Address, groups: &Groups, view: EntryView<'_>) -> Verdict {
        judge(address, groups, view, &self.options, &*self.inner.clock)
    }

    /// What the reader makes of a valid entry; whoever computes around this read depends on it too.
    fn take<V>(
        &self,
        lookup: &Lookup,
        expires_at: Option<Instant>,
        accept: &impl Fn(&Arc<Entry>) -> Option<V>,
        outer: Option<&Fill>,
    ) -> Result<V, Miss> {
        let Found::Entry(entry, _) = &lookup.found else {
            return Err(Miss::Absent);
        };
        let value = accept(entry).ok_or(Miss::Undecodable)?;
        if let Some(outer) = outer {
            outer.after_nested_read(self.id(), entry, expires_at);
        }
        Ok(value)
    }

    /// The vector of `groups`, minting what is missing, and what was learnt of the lease with it.
    async fn complete(
        &self,
        address: &Address,
        groups: &Groups,
        lookup: Lookup,
        budget: &mut Budget,
    ) -> Result<(Vector, Vec<Hold>, Claim)> {
        if let Some(vector) = lookup.current.complete() {
            return Ok((vector, vec![lookup.hold], Claim::Unknown));
        }
        if let Some(lasts) = self.options.lease {
            let leased = self.complete_with_lease(address, groups, &lookup.current, lasts, budget);
            let (vector, hold, claim) = Box::pin(leased).await?;
            return Ok((vector, vec![lookup.hold, hold], claim));
        }
        let missing: Vec<Group> = groups
            .iter()
            .zip(lookup.current.iter())
            .filter(|(_, generation)| generation.is_none())
            .map(|(group, _)| group.clone())
            .collect();
        let minted = self.inner.mint_within(&missing, budget).await?;
        let mut fresh = minted.vector.iter().copied();
        let vector: Option<Vector> =
            lookup.current.iter().map(|known| known.or_else(|| fresh.next())).collect();
        let vector = vector.ok_or_else(|| Error::new(ErrorKind::Protocol, self.inner.backend.name()))?;
        Ok((vector, vec![lookup.hold, minted.hold], Claim::Unknown))
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
        ticket: &Ticket,
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

    fn count<V>(&self, found: Result<V, Miss>, outer: Option<&Fill>) -> Result<V, Miss> {
        match &found {
            Ok(_) => self.inner.counters.hits.increment(),
            Err(miss) => {
                self.inner.counters.miss(*miss);
                // Whatever takes the place of the missing value in a computation around this read has
                // groups that nobody has declared to that computation.
                if let Some(outer) = outer {
                    outer.do_not_store();
                }
            }
        }
        found
    }

    #[expect(clippy::unused_self, reason = "the place where a failing backend becomes a miss")]
    fn unanswered(&self, error: &Error) -> Miss {
        tracing::debug!(%error, "going on without the cache");
        if error.kind() == ErrorKind::Timeout { Miss::Timeout } else { Miss::Unavailable }
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
        let mut budget = Budget::new(self.hard_time_limit);
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

    async fn mint_within(&self, groups: &[Group], budget: &mut Budget) -> Result<Minted> {
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
        self.mint_within(groups, &mut Budget::new(self.soft_time_limit)).await
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

/// What a read knows after its lookup.
enum Asked<V> {
    Hit(V),
    Miss(Ticket),
    Unanswered(Miss),
}

pub(crate) struct Looked {
    pub(crate) groups: Groups,
    pub(crate) lookup: Lookup,
    pub(crate) verdict: Verdict,
}
