//! The algorithm: read, fill, invalidate.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use crate::backend::{Backend, Found, Hold, Lookup, Minted, TimeLeft};
use crate::boxed::BoxBackend;
use crate::builder::CacheBuilder;
use crate::clock::Clock;
use crate::entry::{Entry, Vector};
use crate::error::{Error, ErrorKind, Result};
use crate::fill::{CacheId, Fill, Minter, Sealed};
use crate::group::{Group, Groups};
use crate::invalidator::Invalidator;
use crate::key::Key;
use crate::key_strategy::Address;
use crate::learned::Learned;
use crate::options::EntryOptions;
use crate::single_flight::{FlightId, Flights, Landing, Lead, Role};
use crate::stats::{Counters, Stats};
use crate::time_limit::{Budget, detached, in_background};

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
    flights: Arc<Flights>,
    learned: Learned,
    counters: Counters,
}

/// Why a read found no usable entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Miss {
    /// There is none.
    Absent,
    /// It is past its time to live.
    Expired,
    /// A group it depends on has no generation: never cached, or lost by the store.
    GroupMissing,
    /// It depends on other groups than this read.
    GroupsChanged,
    /// A group it depends on was invalidated.
    Invalidated,
    /// The backend did not answer within the soft time limit.
    Timeout,
    /// The backend failed.
    Unavailable,
    /// What is stored does not decode.
    Undecodable,
}

/// What a computation returned and whether to keep it.
#[derive(Debug)]
pub struct Loaded<R> {
    /// For the reader that computed it.
    pub value: R,
    /// For the others.
    pub keep: Keep,
}

/// Whether and how a computed value is kept.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "every loader builds it")]
pub enum Keep {
    /// Store these bytes, and share them with those who wait for them.
    Store(ToStore),
    /// Neither store nor share.
    Private,
    /// The value says that the computation failed: an expired entry may be better.
    Failed,
}

/// What to store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ToStore {
    /// The bytes of the entry.
    pub body: Bytes,
    /// How long it lives, if not as long as the cache's options say. Zero: share, do not store.
    pub time_to_live: Option<Duration>,
    /// Store it under this key instead, and share it with nobody: the value turned out to depend on
    /// more of the call than the key has.
    pub key: Option<Key>,
}

/// The outcome of [`Cache::read`].
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a reader must treat both")]
pub enum Served<V, R> {
    /// The value of an entry.
    Entry(V, How),
    /// This reader computed it.
    Computed {
        /// What the computation returned.
        value: R,
        /// Why it had to.
        miss: Miss,
        /// Whether it is stored, or being stored, for others.
        stored: bool,
    },
}

/// How an entry came to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum How {
    /// It is valid.
    Hit,
    /// Another reader was computing it when this one missed.
    Shared(Miss),
    /// It has expired, and the computation of a new one failed.
    StaleIfError,
    /// It has expired, and a new one is being computed.
    StaleWhileRevalidate,
}

/// An expired entry was served, and this reader is the one to compute the next: await
/// [`run`](Self::run), on a task of its own if the reader should not wait. Dropped without, the next
/// reader does it.
#[must_use = "the new value is only computed if this is run"]
pub struct Refresh<B, F> {
    cache: Cache<B>,
    address: Address,
    ticket: Ticket,
    lead: Lead,
    load: F,
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
            counters: Counters::default(),
        };
        Self {
            inner: Arc::new(inner),
            options,
        }
    }

    /// The same cache with other options for what is read through the returned handle.
    #[must_use]
    pub fn with_options(&self, options: EntryOptions) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            options,
        }
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
        let groups = self.inner.learned.extend(&address.key, &address.groups);
        let lookup = self.inner.backend.lookup_now(&address.key, &groups)?;
        let Verdict::Hit(entry, expires_at) = self.judge(address, &groups, &lookup) else {
            return None;
        };
        if let Some(outer) = Fill::current() {
            if !outer.is_of(self.id()) {
                return None;
            }
            outer.after_nested_read(self.id(), &entry, expires_at);
        }
        let value = accept(&entry)?;
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
        let outer = Fill::current();
        if let Some(outer) = &outer {
            outer.before_nested_read(self.id(), &address.groups).await;
        }
        let counters = &self.inner.counters;
        let mut round = 0;
        loop {
            round += 1;
            let ticket = match self.ask(address, &accept).await {
                Asked::Hit(value, entry, expires_at) => {
                    counters.hits.increment();
                    if let Some(outer) = &outer {
                        outer.after_nested_read(self.id(), &entry, expires_at);
                    }
                    return Ok((Served::Entry(value, How::Hit), None));
                }
                Asked::Unanswered(miss) => {
                    counters.miss(miss);
                    return Ok((self.compute_unstored(miss, load).await?, None));
                }
                Asked::Miss(ticket) => ticket,
            };
            // Expired by time only, or the route says in as many words that it does not mind.
            if let Some(stale) = ticket.stale_while_revalidate(&accept) {
                counters.stale_while_revalidate.increment();
                counters.miss(ticket.miss);
                if let Some(outer) = &outer {
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
                return Ok((Served::Entry(stale, How::StaleWhileRevalidate), refresh));
            }
            let landing = match self.inner.flights.board(ticket.flight(address)).await {
                Role::Leader(lead) => {
                    counters.miss(ticket.miss);
                    return Ok((
                        self.compute(address, ticket, Some(lead), &accept, load).await?,
                        None,
                    ));
                }
                Role::Passenger(landing) => landing,
            };
            match landing {
                Landing::Shared(entry) => {
                    if self.may_share(&ticket, &entry).await {
                        if let Some(value) = accept(&entry) {
                            counters.miss(ticket.miss);
                            counters.shared.increment();
                            if let Some(outer) = &outer {
                                outer.after_nested_read(self.id(), &entry, None);
                            }
                            return Ok((Served::Entry(value, How::Shared(ticket.miss)), None));
                        }
                    } else if round < SHARING_ROUNDS {
                        continue;
                    }
                }
                Landing::Again if round < SHARING_ROUNDS => continue,
                Landing::Failed => {
                    if let Some(stale) = ticket.stale_if_error(&accept) {
                        counters.miss(ticket.miss);
                        counters.stale_if_error.increment();
                        if let Some(outer) = &outer {
                            outer.do_not_store();
                        }
                        return Ok((Served::Entry(stale, How::StaleIfError), None));
                    }
                }
                Landing::Again | Landing::Private => {}
            }
            counters.miss(ticket.miss);
            return Ok((self.compute(address, ticket, None, &accept, load).await?, None));
        }
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
        let outer = Fill::current();
        if let Some(outer) = &outer {
            outer.before_nested_read(self.id(), &address.groups).await;
        }
        let mut budget = Budget::new(self.inner.soft_time_limit);
        let found = match self.look(address, &mut budget).await {
            Ok(Looked {
                verdict: Verdict::Hit(entry, expires_at),
                ..
            }) => match accept(&entry) {
                Some(value) => {
                    if let Some(outer) = &outer {
                        outer.after_nested_read(self.id(), &entry, expires_at);
                    }
                    Ok(value)
                }
                None => Err(Miss::Undecodable),
            },
            Ok(Looked {
                verdict: Verdict::Miss(miss, _),
                ..
            }) => Err(miss),
            Ok(Looked {
                verdict: Verdict::AskAlso(_),
                ..
            }) => Err(Miss::GroupsChanged),
            Err(miss) => Err(miss),
        };
        self.count(found, outer.as_ref())
    }

    /// Several [`find`](Self::find)s, answered in order, in one round trip if the backend can.
    pub async fn find_many<V: Send>(
        &self,
        addresses: &[Address],
        accept: impl Fn(&Arc<Entry>) -> Option<V> + Sync,
    ) -> Vec<Result<V, Miss>> {
        let outer = Fill::current();
        let mut questions = Vec::with_capacity(addresses.len());
        for address in addresses {
            if let Some(outer) = &outer {
                outer.before_nested_read(self.id(), &address.groups).await;
            }
            questions.push((
                address.key.clone(),
                self.inner.learned.extend(&address.key, &address.groups),
            ));
        }
        let mut budget = Budget::new(self.inner.soft_time_limit);
        let backend = &self.inner.backend;
        let lookups = match budget.run(backend.name(), backend.lookup_many(&questions)).await {
            Ok(lookups) => lookups,
            Err(error) => {
                let miss = self.unanswered(&error);
                return addresses
                    .iter()
                    .map(|_| self.count(Err(miss), outer.as_ref()))
                    .collect();
            }
        };
        let mut found = Vec::with_capacity(addresses.len());
        for (address, ((_, groups), lookup)) in addresses.iter().zip(questions.iter().zip(&lookups)) {
            found.push(match self.judge(address, groups, lookup) {
                Verdict::Hit(entry, expires_at) => {
                    if let Some(outer) = &outer {
                        outer.after_nested_read(self.id(), &entry, expires_at);
                    }
                    self.count(accept(&entry).ok_or(Miss::Undecodable), outer.as_ref())
                }
                Verdict::Miss(miss, _) => self.count(Err(miss), outer.as_ref()),
                // Rare: the entry depends on groups that only it knows.
                Verdict::AskAlso(_) => self.find(address, &accept).await,
            });
        }
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
        let mut budget = Budget::new(self.inner.hard_time_limit);
        let backend = &self.inner.backend;
        self.inner.counters.mints.increment();
        let minted = budget
            .run(backend.name(), backend.mint(&address.groups))
            .await
            .inspect_err(|_| {
                self.inner.counters.mint_failures.increment();
            })?;
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
            return Err(Error::new(ErrorKind::Unavailable, backend.name())
                .with_message(why)
                .into());
        }
        let (entry, time_to_live) = self.entry(address, &to_store, &sealed);
        self.store(Arc::new(entry), time_to_live, sealed.holds).await?;
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
                Ok(())
            } else {
                detached(inner.bump(groups)).await
            }
        }
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
        budget.run(backend.name(), backend.delete(key)).await?;
        self.inner.counters.deletes.increment();
        Ok(())
    }

    /// Step 1 to 3 of a read: look, judge, and if it is a miss complete the vector.
    async fn ask<V>(
        &self,
        address: &Address,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
    ) -> Asked<V> {
        let mut budget = Budget::new(self.inner.soft_time_limit);
        let looked = match self.look(address, &mut budget).await {
            Ok(looked) => looked,
            Err(miss) => return Asked::Unanswered(miss),
        };
        let (miss, candidate) = match looked.verdict {
            Verdict::Hit(entry, expires_at) => match accept(&entry) {
                Some(value) => return Asked::Hit(value, entry, expires_at),
                None => (Miss::Undecodable, None),
            },
            Verdict::Miss(miss, candidate) => (miss, candidate),
            Verdict::AskAlso(_) => (Miss::GroupsChanged, None),
        };
        match self.complete(&looked.groups, looked.lookup, &mut budget).await {
            Ok((vector, holds)) => Asked::Miss(Ticket {
                miss,
                groups: looked.groups,
                vector,
                holds,
                candidate,
            }),
            Err(error) => Asked::Unanswered(self.unanswered(&error)),
        }
    }

    /// One lookup of the entry and of all groups that it is known to depend on; a second one if it
    /// turns out to depend on more.
    async fn look(&self, address: &Address, budget: &mut Budget) -> Result<Looked, Miss> {
        let backend = &self.inner.backend;
        let mut groups = self.inner.learned.extend(&address.key, &address.groups);
        let time_left = if self.options.grace().is_zero() {
            TimeLeft::NotNeeded
        } else {
            TimeLeft::Needed
        };
        let mut asked_more = false;
        loop {
            let lookup = match backend.lookup_now(&address.key, &groups) {
                Some(lookup) => lookup,
                None => match budget
                    .run(backend.name(), backend.lookup(&address.key, &groups, time_left))
                    .await
                {
                    Ok(lookup) => lookup,
                    Err(error) => return Err(self.unanswered(&error)),
                },
            };
            match self.judge(address, &groups, &lookup) {
                Verdict::AskAlso(all) if !asked_more => {
                    self.inner.learned.learn(&address.key, &address.groups, &all);
                    groups = all;
                    asked_more = true;
                }
                verdict => {
                    return Ok(Looked {
                        groups,
                        lookup,
                        verdict,
                    });
                }
            }
        }
    }

    /// Whether what a lookup found is a hit. The only place that decides it.
    fn judge(&self, address: &Address, groups: &Groups, lookup: &Lookup) -> Verdict {
        let (entry, expires_at) = match &lookup.found {
            Found::Absent => return Verdict::Miss(Miss::Absent, None),
            Found::Undecodable => return Verdict::Miss(Miss::Undecodable, None),
            Found::Entry(entry, expires_at) => (entry, *expires_at),
        };
        if lookup.current.len() != groups.len() {
            // A backend that answers something else than was asked validates nothing.
            return Verdict::Miss(Miss::Undecodable, None);
        }
        if *entry.key() != address.key {
            return Verdict::Miss(Miss::Absent, None);
        }
        if !entry.groups().contains_all(&address.groups) {
            return Verdict::Miss(Miss::GroupsChanged, None);
        }
        match freshness(entry, groups, lookup) {
            Freshness::Valid => {}
            Freshness::Unknown => return Verdict::AskAlso(groups.union(entry.groups())),
            Freshness::Stale(miss) => {
                let candidate = self.options.serve_invalidated.then(|| Candidate {
                    entry: Arc::clone(entry),
                    while_revalidate: !self.options.stale_while_revalidate.is_zero(),
                    if_error: !self.options.stale_if_error.is_zero(),
                });
                return Verdict::Miss(miss, candidate);
            }
        }
        if entry.grace().is_zero() {
            return Verdict::Hit(Arc::clone(entry), expires_at);
        }
        // The end of the time to live comes before the store's own expiry. Without the time left
        // nobody can say whether it has come.
        let Some(expires_at) = expires_at else {
            return Verdict::Miss(Miss::Expired, None);
        };
        let now = self.inner.clock.now();
        let left = expires_at.saturating_duration_since(now);
        if left > entry.grace() {
            return Verdict::Hit(Arc::clone(entry), Some(now + (left - entry.grace())));
        }
        let stale_for = entry.grace() - left;
        let candidate = Candidate {
            entry: Arc::clone(entry),
            while_revalidate: stale_for < self.options.stale_while_revalidate,
            if_error: stale_for < self.options.stale_if_error,
        };
        Verdict::Miss(Miss::Expired, Some(candidate))
    }

    /// The vector of `groups`, minting what is missing.
    async fn complete(
        &self,
        groups: &Groups,
        lookup: Lookup,
        budget: &mut Budget,
    ) -> Result<(Vector, Vec<Hold>)> {
        if let Some(vector) = lookup.current.complete() {
            return Ok((vector, vec![lookup.hold]));
        }
        let missing: Vec<Group> = groups
            .iter()
            .zip(lookup.current.iter())
            .filter(|(_, generation)| generation.is_none())
            .map(|(group, _)| group.clone())
            .collect();
        let minted = self.inner.mint_within(&missing, budget).await?;
        let mut fresh = minted.vector.iter().copied();
        let vector: Option<Vector> = lookup
            .current
            .iter()
            .map(|known| known.or_else(|| fresh.next()))
            .collect();
        let vector = vector.ok_or_else(|| Error::new(ErrorKind::Protocol, self.inner.backend.name()))?;
        Ok((vector, vec![lookup.hold, minted.hold]))
    }

    /// Whether a passenger may take the value of the flight it waited for. Equal vectors brought it
    /// aboard; groups that the computation found out meanwhile it has to check for itself, as they
    /// may have been invalidated between that computation's beginning and this read's.
    async fn may_share(&self, ticket: &Ticket, entry: &Arc<Entry>) -> bool {
        let known = |group: &Group, generation| {
            ticket
                .groups
                .binary_search(group)
                .is_ok_and(|at| ticket.vector[at] == generation)
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
        let mut budget = Budget::new(self.inner.soft_time_limit);
        let lookup = backend.lookup(entry.key(), entry.groups(), TimeLeft::NotNeeded);
        match budget.run(backend.name(), lookup).await {
            Ok(lookup) => lookup.current.equals(entry.vector()),
            Err(error) => {
                self.unanswered(&error);
                false
            }
        }
    }

    /// Computes under a complete vector and stores, on the way out, what may be stored.
    async fn compute<V, R, E, F, Fut>(
        &self,
        address: &Address,
        ticket: Ticket,
        mut lead: Option<Lead>,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
        load: F,
    ) -> Result<Served<V, R>, E>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let counters = &self.inner.counters;
        let Ticket {
            miss,
            groups,
            vector,
            holds,
            candidate,
        } = ticket;
        let fill = Fill::new(self.id(), self.minter()).with_vector(&groups, &vector, &address.groups, holds);
        let (loaded, sealed) = self.run(fill, load).await;
        let mut land = |landing| {
            if let Some(lead) = &mut lead {
                lead.land(landing);
            }
        };
        let outer = Fill::current();
        let stale = || {
            let value = candidate
                .as_ref()
                .filter(|stale| stale.if_error)
                .and_then(|stale| accept(&stale.entry))?;
            counters.stale_if_error.increment();
            if let Some(outer) = &outer {
                outer.do_not_store();
            }
            Some(Served::Entry(value, How::StaleIfError))
        };
        let (value, to_store) = match loaded {
            Ok(Loaded {
                value,
                keep: Keep::Store(to_store),
            }) => (value, to_store),
            Ok(Loaded {
                value,
                keep: Keep::Private,
            }) => {
                land(Landing::Private);
                return Ok(self.not_stored(value, miss, outer.as_ref()));
            }
            Ok(Loaded {
                value,
                keep: Keep::Failed,
            }) => {
                counters.load_failures.increment();
                land(Landing::Failed);
                return Ok(stale().unwrap_or_else(|| self.not_stored(value, miss, outer.as_ref())));
            }
            Err(error) => {
                counters.load_failures.increment();
                land(Landing::Failed);
                return stale().ok_or(error);
            }
        };
        if !sealed.late.is_empty() {
            // The next computation starts with the generations of the late groups too.
            self.inner
                .learned
                .learn(&address.key, &address.groups, &sealed.groups.union(&sealed.late));
            land(Landing::Again);
            return Ok(self.not_stored(value, miss, outer.as_ref()));
        }
        if !sealed.storable {
            land(Landing::Private);
            return Ok(self.not_stored(value, miss, outer.as_ref()));
        }
        self.inner
            .learned
            .learn(&address.key, &address.groups, &sealed.groups);
        let (entry, time_to_live) = self.entry(address, &to_store, &sealed);
        let entry = Arc::new(entry);
        let shared = entry.key() == &address.key;
        land(if shared {
            Landing::Shared(Arc::clone(&entry))
        } else {
            Landing::Private
        });
        if let Some(outer) = &outer {
            let expires_at = time_to_live.and_then(|time| self.inner.clock.now().checked_add(time));
            outer.after_nested_read(self.id(), &entry, expires_at);
        }
        let this = self.clone();
        in_background(async move {
            // The store is counted; the reader has its value either way.
            drop(this.store(entry, time_to_live, sealed.holds).await);
            // Only now may the next reader of this key start another flight.
            drop(lead);
        })
        .await;
        let stored = time_to_live != Some(Duration::ZERO);
        Ok(Served::Computed { value, miss, stored })
    }

    /// Computes without the cache, because the backend did not answer.
    async fn compute_unstored<V, R, E, F, Fut>(&self, miss: Miss, load: F) -> Result<Served<V, R>, E>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let fill = Fill::new(self.id(), self.minter());
        fill.do_not_store();
        let (loaded, _) = self.run(fill, load).await;
        let outer = Fill::current();
        match loaded {
            Ok(loaded) => {
                if matches!(loaded.keep, Keep::Failed) {
                    self.inner.counters.load_failures.increment();
                }
                Ok(self.not_stored(loaded.value, miss, outer.as_ref()))
            }
            Err(error) => {
                self.inner.counters.load_failures.increment();
                Err(error)
            }
        }
    }

    async fn run<R, E, F, Fut>(&self, fill: Fill, load: F) -> (Result<Loaded<R>, E>, Sealed)
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let counters = &self.inner.counters;
        counters.loads.increment();
        let mut abandoned = Abandoned {
            counters,
            ended: false,
        };
        let loaded = fill.clone().scope(async move { load().await }).await;
        abandoned.ended = true;
        (loaded, fill.seal())
    }

    fn entry(&self, address: &Address, to_store: &ToStore, sealed: &Sealed) -> (Entry, Option<Duration>) {
        let backend_default = || self.inner.backend.default_time_to_live();
        let time_to_live = to_store
            .time_to_live
            .or(self.options.time_to_live)
            .or_else(backend_default);
        let mut time_to_live = time_to_live.map(|time| self.options.jittered(time));
        if let Some(expires_at) = sealed.expires_at {
            let left = expires_at.saturating_duration_since(self.inner.clock.now());
            time_to_live = Some(time_to_live.map_or(left, |time| time.min(left)));
        }
        let grace = match time_to_live {
            Some(time) if !time.is_zero() => self.options.grace(),
            _ => Duration::ZERO,
        };
        let key = to_store.key.clone().unwrap_or_else(|| address.key.clone());
        let entry = Entry::new(
            key,
            sealed.groups.clone(),
            sealed.vector.clone(),
            to_store.body.clone(),
            grace,
        );
        (entry, time_to_live.map(|time| time.saturating_add(grace)))
    }

    async fn store(&self, entry: Arc<Entry>, time_to_live: Option<Duration>, holds: Vec<Hold>) -> Result<()> {
        if time_to_live == Some(Duration::ZERO) {
            return Ok(());
        }
        let mut budget = Budget::new(self.inner.hard_time_limit);
        let backend = &self.inner.backend;
        let stored = budget
            .run(backend.name(), backend.store(&entry, time_to_live))
            .await;
        drop(holds);
        match &stored {
            Ok(()) => self.inner.counters.stores.increment(),
            Err(error) => {
                self.inner.counters.store_failures.increment();
                tracing::debug!(%error, "an entry was not stored");
            }
        }
        stored
    }

    fn not_stored<V, R>(&self, value: R, miss: Miss, outer: Option<&Fill>) -> Served<V, R> {
        self.inner.counters.not_stored.increment();
        if let Some(outer) = outer {
            outer.do_not_store();
        }
        Served::Computed {
            value,
            miss,
            stored: false,
        }
    }

    fn count<V>(&self, found: Result<V, Miss>, outer: Option<&Fill>) -> Result<V, Miss> {
        match &found {
            Ok(_) => self.inner.counters.hits.increment(),
            Err(miss) => {
                self.inner.counters.miss(*miss);
                // Whoever decides by an absence depends on something that nobody invalidates.
                if let Some(outer) = outer {
                    outer.do_not_store();
                }
            }
        }
        found
    }

    #[expect(
        clippy::unused_self,
        reason = "the place where a failing backend becomes a miss"
    )]
    fn unanswered(&self, error: &Error) -> Miss {
        tracing::debug!(%error, "going on without the cache");
        if error.kind() == ErrorKind::Timeout {
            Miss::Timeout
        } else {
            Miss::Unavailable
        }
    }

    fn id(&self) -> CacheId {
        CacheId(Arc::as_ptr(&self.inner).addr())
    }

    fn minter(&self) -> Arc<dyn Minter> {
        Arc::clone(&self.inner) as Arc<dyn Minter>
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
        let bumped = budget.run(self.backend.name(), self.backend.bump(&groups)).await;
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
        let minted = budget.run(self.backend.name(), self.backend.mint(groups)).await;
        let minted = minted.and_then(|minted| {
            let complete = minted.vector.len() == groups.len();
            complete
                .then_some(minted)
                .ok_or_else(|| Error::new(ErrorKind::Protocol, self.backend.name()))
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
        self.mint_within(groups, &mut Budget::new(self.soft_time_limit))
            .await
    }
}

impl<B: Backend, F> Refresh<B, F> {
    /// Computes and stores.
    ///
    /// # Errors
    ///
    /// What the computation returned; those who read meanwhile were served the expired entry.
    pub async fn run<V, R, E, Fut>(
        self,
        accept: impl Fn(&Arc<Entry>) -> Option<V> + Sync,
    ) -> Result<Served<V, R>, E>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let Self {
            cache,
            address,
            ticket,
            lead,
            load,
        } = self;
        cache.compute(&address, ticket, Some(lead), &accept, load).await
    }
}

impl<R> Loaded<R> {
    /// A value, stored as these bytes for as long as the cache's options say.
    #[must_use]
    pub const fn store(value: R, body: Bytes) -> Self {
        Self {
            value,
            keep: Keep::Store(ToStore::new(body)),
        }
    }

    /// A value for its reader only.
    #[must_use]
    pub const fn private(value: R) -> Self {
        Self {
            value,
            keep: Keep::Private,
        }
    }
}

impl ToStore {
    /// These bytes, for as long as the cache's options say, under the reader's key.
    #[must_use]
    pub const fn new(body: Bytes) -> Self {
        Self {
            body,
            time_to_live: None,
            key: None,
        }
    }
}

impl<B: Backend> Invalidator for Cache<B> {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        Self::invalidate(self, groups).await
    }
}

impl<B> Clone for Cache<B> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            options: self.options,
        }
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

impl<B, F> fmt::Debug for Refresh<B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresh")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What a read knows after its lookup.
enum Asked<V> {
    Hit(V, Arc<Entry>, Option<Instant>),
    Miss(Ticket),
    Unanswered(Miss),
}

struct Looked {
    groups: Groups,
    lookup: Lookup,
    verdict: Verdict,
}

enum Verdict {
    Hit(Arc<Entry>, Option<Instant>),
    Miss(Miss, Option<Candidate>),
    /// The entry depends on more groups than were asked for: ask for all of these.
    AskAlso(Groups),
}

/// The right to compute: a complete vector, had before the computation.
struct Ticket {
    miss: Miss,
    groups: Groups,
    vector: Vector,
    holds: Vec<Hold>,
    candidate: Option<Candidate>,
}

/// An entry that is no hit, and what it may be used for all the same.
struct Candidate {
    entry: Arc<Entry>,
    while_revalidate: bool,
    if_error: bool,
}

enum Freshness {
    Valid,
    Stale(Miss),
    /// Some of its groups were not asked for.
    Unknown,
}

impl Ticket {
    fn flight(&self, address: &Address) -> FlightId {
        FlightId {
            key: address.key.clone(),
            groups: self.groups.clone(),
            vector: self.vector.clone(),
        }
    }

    fn stale_while_revalidate<V>(&self, accept: &impl Fn(&Arc<Entry>) -> Option<V>) -> Option<V> {
        self.candidate
            .as_ref()
            .filter(|stale| stale.while_revalidate)
            .and_then(|stale| accept(&stale.entry))
    }

    fn stale_if_error<V>(&self, accept: &impl Fn(&Arc<Entry>) -> Option<V>) -> Option<V> {
        self.candidate
            .as_ref()
            .filter(|stale| stale.if_error)
            .and_then(|stale| accept(&stale.entry))
    }
}

/// Compares the entry's vector with the current generations of the groups that were asked for.
fn freshness(entry: &Entry, asked: &Groups, lookup: &Lookup) -> Freshness {
    if entry.groups() == asked {
        if lookup.current.equals(entry.vector()) {
            return Freshness::Valid;
        }
        let missing = lookup.current.iter().any(Option::is_none);
        return Freshness::Stale(if missing {
            Miss::GroupMissing
        } else {
            Miss::Invalidated
        });
    }
    let mut unknown = false;
    for (group, generation) in entry.groups().iter().zip(entry.vector().iter()) {
        match asked.binary_search(group).map(|at| lookup.current[at]) {
            Ok(Some(current)) if current == *generation => {}
            Ok(Some(_)) => return Freshness::Stale(Miss::Invalidated),
            Ok(None) => return Freshness::Stale(Miss::GroupMissing),
            Err(_) => unknown = true,
        }
    }
    if unknown {
        Freshness::Unknown
    } else {
        Freshness::Valid
    }
}

/// Counts a computation whose reader went away before it ended.
struct Abandoned<'a> {
    counters: &'a Counters,
    ended: bool,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.counters.loads_abandoned.increment();
        }
    }
}
