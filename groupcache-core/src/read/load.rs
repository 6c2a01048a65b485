//! Computing a value under a complete vector, and storing it.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::backend::lookup::GenerationGuard;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::{Entry, GenerationVector};
use crate::data::group::Groups;
use crate::error::Result;
use crate::load_context::{LoadContext, Sealed};
use crate::outcome::{Loaded, Miss, Served, ServedFrom, StorePolicy, ToStore};
use crate::read::lease_wait::{Claim, LeaseDecision, WaitLimit, keep_for_a_moment};
use crate::read::single_flight::{FlightId, FlightOutcome, Leader};
use crate::read::verdict::StaleCandidate;
use crate::stats::Counters;
use crate::time_limit::{Budget, in_background};

/// A time to live or a grace of a hundred years is as good as any longer one.
const FOR_EVER: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Readers that nobody cancels bear to wait for about this long.
const UNATTENDED_MIN: Duration = Duration::from_secs(30);

/// An expired entry was served, and this reader is the one to compute the next: await
/// [`run`](Self::run), on a task of its own if the reader should not wait. Dropped without, the next
/// reader does it.
#[must_use = "the new value is only computed if this is run"]
pub struct Refresh<B, F> {
    pub(crate) cache: Cache<B>,
    pub(crate) address: Address,
    pub(crate) ticket: LoadPermit,
    pub(crate) lead: Leader,
    pub(crate) load: F,
}

impl<B: Backend> Cache<B> {
    /// Computes under a complete vector and stores, on the way out, what may be stored.
    pub(crate) async fn compute<V, R, E, F, Fut>(
        &self,
        address: &Address,
        ticket: LoadPermit,
        mut lead: Option<Leader>,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
        load: F,
    ) -> Result<Served<V, R>, E>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let counters = &self.inner().counters();
        let LoadPermit { miss, groups, vector, guards, candidate, .. } = ticket;
        let fill =
            LoadContext::new(self.id(), self.minter()).with_vector(&groups, &vector, &address.groups, guards);
        let (loaded, sealed) = self.run(fill, load).await;
        let mut land = |landing| {
            if let Some(lead) = &mut lead {
                lead.land(landing);
            }
        };
        let outer = LoadContext::current();
        let stale = || {
            let value =
                candidate.as_ref().filter(|stale| stale.if_error).and_then(|stale| accept(&stale.entry))?;
            counters.stale_if_error.increment();
            if let Some(outer) = &outer {
                outer.do_not_store();
            }
            Some(Served::Entry(value, ServedFrom::StaleIfError))
        };
        let (value, to_store) = match loaded {
            Ok(Loaded { value, policy: StorePolicy::Store(to_store) }) => (value, to_store),
            Ok(Loaded { value, policy: StorePolicy::Private }) => {
                land(FlightOutcome::Private);
                return Ok(self.not_stored(value, miss, outer.as_ref()));
            }
            Ok(Loaded { value, policy: StorePolicy::Failed(shared) }) => {
                counters.load_failures.increment();
                let whole = sealed.storable && sealed.late.is_empty();
                let shared = shared.filter(|_| whole).map(|body| {
                    let to_store = ToStore { time_to_live: Some(Duration::ZERO), ..ToStore::new(body) };
                    Arc::new(self.entry(address, &to_store, &sealed).0)
                });
                land(FlightOutcome::Failed(shared));
                return Ok(stale().unwrap_or_else(|| self.not_stored(value, miss, outer.as_ref())));
            }
            Err(error) => {
                counters.load_failures.increment();
                land(FlightOutcome::Failed(None));
                return stale().ok_or(error);
            }
        };
        if !sealed.late.is_empty() {
            // The next computation starts with the generations of the late groups too.
            self.inner().discovered.learn(&address.key, &address.groups, &sealed.groups.union(&sealed.late));
            land(FlightOutcome::Again);
            return Ok(self.not_stored(value, miss, outer.as_ref()));
        }
        if !sealed.storable {
            land(FlightOutcome::Private);
            return Ok(self.not_stored(value, miss, outer.as_ref()));
        }
        self.inner().discovered.learn(&address.key, &address.groups, &sealed.groups);
        let (entry, time_to_live) = self.entry(address, &to_store, &sealed);
        let entry = Arc::new(entry);
        let expires_at = self.fresh_until(&entry, time_to_live);
        let shared = entry.key() == &address.key;
        land(if shared {
            FlightOutcome::Shared(Arc::clone(&entry), expires_at)
        } else {
            FlightOutcome::Private
        });
        if let Some(outer) = &outer {
            outer.after_nested_read(self.id(), &entry, expires_at);
        }
        let this = self.clone();
        in_background(async move {
            // The store is counted; the reader has its value either way.
            drop(this.store(entry, time_to_live, sealed.guards).await);
            // Only now may the next reader of this key start another flight.
            drop(lead);
        })
        .await;
        let stored = time_to_live != Some(Duration::ZERO);
        Ok(Served::Loaded { value, miss, stored })
    }

    /// Computes without the cache, because the backend did not answer.
    pub(crate) async fn compute_unstored<V, R, E, F, Fut>(
        &self,
        miss: Miss,
        load: F,
    ) -> Result<Served<V, R>, E>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let fill = LoadContext::new(self.id(), self.minter());
        fill.do_not_store();
        let (loaded, _) = self.run(fill, load).await;
        let outer = LoadContext::current();
        match loaded {
            Ok(loaded) => {
                if matches!(loaded.policy, StorePolicy::Failed(_)) {
                    self.inner().counters().load_failures.increment();
                }
                Ok(self.not_stored(loaded.value, miss, outer.as_ref()))
            }
            Err(error) => {
                self.inner().counters().load_failures.increment();
                Err(error)
            }
        }
    }

    pub(crate) async fn run<R, E, F, Fut>(&self, fill: LoadContext, load: F) -> (Result<Loaded<R>, E>, Sealed)
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let counters = &self.inner().counters();
        counters.loads.increment();
        let mut abandoned = Abandoned { counters, ended: false };
        let loaded = fill.clone().scope(async move { load().await }).await;
        abandoned.ended = true;
        let sealed = fill.seal();
        #[cfg(groupcache_mutants)]
        let sealed = self.read_vector_late(sealed).await;
        (loaded, sealed)
    }

    pub(crate) fn entry(
        &self,
        address: &Address,
        to_store: &ToStore,
        sealed: &Sealed,
    ) -> (Entry, Option<Duration>) {
        let backend_default = || self.inner().backend.default_time_to_live();
        let time_to_live = to_store.time_to_live.or(self.options().time_to_live).or_else(backend_default);
        let mut time_to_live = time_to_live.map(|time| self.options().jittered(time));
        if let Some(expires_at) = sealed.expires_at {
            let left = expires_at.saturating_duration_since(self.inner().clock.now());
            time_to_live = Some(time_to_live.map_or(left, |time| time.min(left)));
        }
        // The end of the grace must be a moment that clocks can count to.
        let grace = match &mut time_to_live {
            Some(time) if !time.is_zero() && !self.options().grace().is_zero() => {
                *time = (*time).min(FOR_EVER);
                self.options().grace().min(FOR_EVER)
            }
            _ => Duration::ZERO,
        };
        let key = to_store.key.clone().unwrap_or_else(|| address.key.clone());
        // Entries share the list of their address: less memory, and quicker to compare.
        let groups = if sealed.groups == address.groups { &address.groups } else { &sealed.groups };
        let entry = Entry::new(key, groups.clone(), sealed.vector.clone(), to_store.body.clone(), grace);
        let entry = entry.with_memo_bytes(to_store.memo_bytes);
        (entry, time_to_live.map(|time| time.saturating_add(grace)))
    }

    /// When an entry stored now is past its time to live, its grace not counted.
    pub(crate) fn fresh_until(&self, entry: &Entry, time_to_live: Option<Duration>) -> Option<Instant> {
        let fresh_for = time_to_live?.saturating_sub(entry.grace());
        self.inner().clock.now().checked_add(fresh_for)
    }

    pub(crate) async fn store(
        &self,
        entry: Arc<Entry>,
        time_to_live: Option<Duration>,
        guards: Vec<GenerationGuard>,
    ) -> Result<()> {
        if time_to_live == Some(Duration::ZERO) {
            return Ok(());
        }
        #[cfg(groupcache_mutants)]
        if self.is_refused_by_condition(&entry).await {
            return Ok(());
        }
        let mut budget = Budget::new(self.inner().write_time_limit);
        let backend = &self.inner().backend;
        let stored = budget.run(backend.name(), pin!(backend.store(&entry, time_to_live))).await;
        drop(guards);
        match &stored {
            Ok(()) => self.inner().counters().stores.increment(),
            Err(error) => {
                self.inner().counters().store_failures.increment();
                tracing::debug!(%error, "an entry was not stored");
            }
        }
        stored
    }

    fn not_stored<V, R>(&self, value: R, miss: Miss, outer: Option<&LoadContext>) -> Served<V, R> {
        self.inner().counters().loads_not_stored.increment();
        if let Some(outer) = outer {
            outer.do_not_store();
        }
        Served::Loaded { value, miss, stored: false }
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
        let Self { cache, address, mut ticket, mut lead, load } = self;
        let mut budget = Budget::new(cache.inner().read_time_limit);
        match cache.await_lease(&address, &mut ticket, &mut lead, WaitLimit::None, &mut budget, &accept).await
        {
            LeaseDecision::Compute => {}
            LeaseDecision::Found(value) => return Ok(Served::Entry(value, ServedFrom::Hit)),
            turn @ (LeaseDecision::Changed | LeaseDecision::Others) => {
                if let Some(stale) = ticket.stale_while_revalidate(&accept) {
                    if matches!(turn, LeaseDecision::Others) {
                        keep_for_a_moment(lead);
                    }
                    return Ok(Served::Entry(stale, ServedFrom::StaleWhileRevalidate));
                }
            }
        }
        cache.compute(&address, ticket, Some(lead), &accept, load).await
    }

    /// [`run`](Self::run) for a task that nobody waits for: gives up after the window of
    /// [`stale_while_revalidate`](crate::EntryOptions::stale_while_revalidate), 30 seconds at least, so that
    /// a computation that never ends does not keep the place of one that would. A failure is counted.
    pub async fn run_in_background<V, R, E, Fut>(self, accept: impl Fn(&Arc<Entry>) -> Option<V> + Sync)
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let time_limit = self.cache.options().stale_while_revalidate.max(UNATTENDED_MIN);
        if tokio::time::timeout(time_limit, self.run(accept)).await.is_err() {
            tracing::warn!(?time_limit, "a computation in the background did not end and was given up");
        }
    }
}

impl<B, F> fmt::Debug for Refresh<B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresh").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The right to compute: a complete vector, had before the computation.
pub(crate) struct LoadPermit {
    pub(crate) miss: Miss,
    pub(crate) groups: Groups,
    pub(crate) vector: GenerationVector,
    pub(crate) guards: Vec<GenerationGuard>,
    pub(crate) candidate: Option<StaleCandidate>,
    /// What was learnt of the lease while the vector was completed.
    pub(crate) claim: Claim,
    #[cfg(groupcache_mutants)]
    pub(crate) seen: Box<GenerationVector>,
}

impl LoadPermit {
    pub(crate) fn flight(&self, address: &Address) -> FlightId {
        #[cfg(groupcache_mutants)]
        if crate::mutants::is_on("flight_by_key") {
            let (groups, vector) = (Groups::none(), GenerationVector::default());
            return FlightId { key: address.key.clone(), groups, vector };
        }
        #[cfg(groupcache_mutants)]
        if crate::mutants::is_on("flight_on_missing") {
            let (groups, vector) = (self.groups.clone(), GenerationVector::clone(&self.seen));
            return FlightId { key: address.key.clone(), groups, vector };
        }
        FlightId { key: address.key.clone(), groups: self.groups.clone(), vector: self.vector.clone() }
    }

    pub(crate) fn stale_while_revalidate<V>(&self, accept: &impl Fn(&Arc<Entry>) -> Option<V>) -> Option<V> {
        self.candidate.as_ref().filter(|stale| stale.while_revalidate).and_then(|stale| accept(&stale.entry))
    }

    pub(crate) fn stale_if_error<V>(&self, accept: &impl Fn(&Arc<Entry>) -> Option<V>) -> Option<V> {
        self.candidate.as_ref().filter(|stale| stale.if_error).and_then(|stale| accept(&stale.entry))
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
            self.counters.loads_cancelled.increment();
        }
    }
}
