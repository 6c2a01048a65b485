//! The load under a complete vector, and how its outcome is shared and stored.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::error::Error;
use crate::load_context::{LoadContext, Sealed};
use crate::outcome::{Loaded, Miss, Served, ServedFrom, StorePolicy, ToStore};
use crate::read::flight::{FlightOutcome, SharedLoad};
use crate::read::leader::Leader;
use crate::read::permit::{LoadPermit, Missed};
use crate::read::store::NewEntry;
use crate::read::store_order::StoreTicket;
use crate::read::verdict::StaleCandidate;
use crate::read::wait_graph::WaitNode;
use crate::stats::Counters;
use crate::time_limit::in_background;

/// What a read does with errors.
pub(crate) struct LoadRules<R, E> {
    /// Returns what the followers of a failed load share.
    pub(crate) share_error: Option<fn(&E) -> Option<ToStore>>,
    /// Returns what the read returns if its hard timeout runs out. Without, it has none.
    pub(crate) timed_out: Option<fn(Error) -> Result<R, E>>,
}

impl<R, E> LoadRules<R, E> {
    /// The followers of a failed load retry, and the read has no hard timeout.
    pub(crate) const NONE: Self = Self { share_error: None, timed_out: None };
}

impl<R, E> Clone for LoadRules<R, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, E> Copy for LoadRules<R, E> {}

/// A load that has ended: what it depends on, and who is to be notified.
struct EndedLoad<'a, B> {
    cache: &'a Cache<B>,
    address: &'a Address,
    miss: Miss,
    sealed: Sealed,
    candidate: Option<StaleCandidate>,
    leader: Option<Leader>,
    ticket: StoreTicket,
    /// The load context of the load that this read is nested in.
    outer: Option<LoadContext>,
}

impl<B: Backend> Cache<B> {
    /// Loads under the vector of the permit, shares the outcome with the followers of `leader`, and stores it
    /// in the background if it may be stored. Without a permit the value is not stored.
    pub(crate) async fn load<V, R, E, F, Fut>(
        &self,
        address: &Address,
        missed: Missed,
        leader: Option<Leader>,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
        loader: F,
        rules: LoadRules<R, E>,
    ) -> Result<Served<V, R>, E>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let Missed { miss, permit } = missed;
        let outer = LoadContext::current();
        let node = leader.as_ref().map_or_else(WaitNode::new, |leader| Arc::clone(leader.node()));
        let edge = outer.as_ref().map(|outer| outer.node().needs(&node));
        let mut context = LoadContext::new(self.id(), self.minter(), node);
        let mut candidate = None;
        match permit.map(|permit| *permit) {
            Some(permit) => {
                let LoadPermit { groups, vector, guards, .. } = permit;
                let declared = self.inner().with_clear_group(address.groups.clone());
                context = context.with_vector(&groups, &vector, &declared, guards);
                candidate = permit.candidate;
            }
            None => context.keep_from_store(),
        }
        let ticket = self.inner().store_order.begin(&address.key);
        let (loaded, sealed) = match &leader {
            Some(leader) => {
                leader.begin();
                leader.progress().of(Box::pin(self.run_loader(context, loader))).await
            }
            None => self.run_loader(context, loader).await,
        };
        drop(edge);
        let mut ended = EndedLoad { cache: self, address, miss, sealed, candidate, leader, ticket, outer };
        let Loaded { value, policy } = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                ended.fail(rules.share_error.and_then(|share| share(&error)));
                return ended.serve_stale(accept).ok_or(error);
            }
        };
        match policy {
            StorePolicy::Store(to_store) => Ok(ended.share_and_store(value, to_store).await),
            StorePolicy::Private => Ok(ended.keep_private(value).await),
            StorePolicy::Failed(body) => {
                ended.fail(body);
                Ok(ended.serve_stale(accept).unwrap_or_else(|| ended.serve_unstored(value)))
            }
        }
    }

    /// Runs the loader in its context and returns what it depends on.
    pub(crate) async fn run_loader<R, E, F, Fut>(
        &self,
        context: LoadContext,
        loader: F,
    ) -> (Result<Loaded<R>, E>, Sealed)
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let counters = self.inner().counters();
        counters.loads.increment();
        let mut cancelled = CountCancelled { counters, ended: false };
        let loaded = context.clone().scope(async move { loader().await }).await;
        cancelled.ended = true;
        let sealed = context.seal();
        #[cfg(groupcache_mutants)]
        let sealed = self.read_vector_late(sealed).await;
        (loaded, sealed)
    }

    /// A value that is not stored. The load around the read cannot be stored either.
    fn unstored<V, R>(&self, value: R, miss: Miss) -> Served<V, R> {
        self.inner().counters().loads_not_stored.increment();
        Served::Loaded { value, miss, stored: false }
    }
}

impl<B: Backend> EndedLoad<'_, B> {
    /// Ends the flight with a failure, shared with the followers if the loader gave a body for them.
    /// Otherwise one of them retries.
    fn fail(&mut self, failure: Option<ToStore>) {
        self.cache.inner().counters().load_failures.increment();
        let Some(mut failure) = failure.filter(|_| !self.sealed.private) else {
            if let Some(leader) = self.leader.take() {
                leader.fail();
            }
            return;
        };
        failure.time_to_live = Some(Duration::ZERO);
        let is_complete = self.sealed.storable && self.sealed.late.is_empty();
        let entry = self.cache.entry(self.address, &failure, &self.sealed).entry;
        let shared = SharedLoad { entry, expires_at: None, is_complete, is_stored: false };
        self.finish(FlightOutcome::Failed(shared));
    }

    /// Serves the expired entry, if the options allow it after a failure.
    fn serve_stale<V, R>(&self, accept: &impl Fn(&Arc<Entry>) -> Option<V>) -> Option<Served<V, R>> {
        let value = self.candidate.as_ref()?.if_error(accept)?;
        self.cache.inner().counters().stale_if_error.increment();
        if let Some(outer) = &self.outer {
            outer.keep_from_store();
        }
        Some(Served::Entry(value, ServedFrom::StaleIfError))
    }

    fn serve_unstored<V, R>(&self, value: R) -> Served<V, R> {
        if let Some(outer) = &self.outer {
            outer.keep_from_store();
        }
        self.cache.unstored(value, self.miss)
    }

    /// Serves a value that is for this reader only, as is whatever is loaded around this read.
    async fn keep_private<V, R>(self, value: R) -> Served<V, R> {
        if let Some(outer) = &self.outer {
            outer.do_not_store();
        }
        self.cache.inner().flights.unshared.remember(&self.address.key);
        self.replace_by_unstored(value, FlightOutcome::Private).await
    }

    /// Shares the entry with the followers, and stores it in the background.
    async fn share_and_store<V, R>(mut self, value: R, to_store: ToStore) -> Served<V, R> {
        if self.sealed.private {
            return self.keep_private(value).await;
        }
        let (cache, address) = (self.cache, self.address);
        cache.inner().flights.unshared.forget(&address.key);
        if self.sealed.storable || !self.sealed.late.is_empty() {
            // The next load starts with the generations of the late groups too.
            cache.learn(address, &self.sealed.groups.union(&self.sealed.late));
        }
        let entry = cache.entry(address, &to_store, &self.sealed);
        let expires_at = entry.expires_at;
        let is_complete = self.sealed.storable && self.sealed.late.is_empty();
        let is_for_all = entry.entry.key() == &address.key;
        let permit = if is_complete { cache.may_store(&entry) } else { None };
        let is_stored = permit.is_some();
        let shared = SharedLoad { entry: Arc::clone(&entry.entry), expires_at, is_complete, is_stored };
        self.finish(if is_for_all { FlightOutcome::Loaded(shared) } else { FlightOutcome::Private });
        if !is_complete {
            let served = self.serve_unstored(value);
            self.store_placeholder(&to_store).await;
            return served;
        }
        if let Some(outer) = &self.outer {
            outer.after_nested_read(cache.id(), &entry.entry, expires_at);
            outer.hold(cache.id(), &self.sealed.guards);
        }
        let miss = self.miss;
        let Some(permit) = permit else {
            self.delete_stale().await;
            return Served::Loaded { value, miss, stored: false };
        };
        let stored = self.store_in_background(entry, permit).await;
        Served::Loaded { value, miss, stored }
    }

    /// Serves a value that is not stored, but that replaces an expired entry all the same.
    async fn replace_by_unstored<V, R>(mut self, value: R, outcome: FlightOutcome) -> Served<V, R> {
        self.finish(outcome);
        let served = self.serve_unstored(value);
        self.delete_stale().await;
        served
    }

    /// Stores, in the background, the groups that the next load of the key has to begin with. The placeholder
    /// also replaces the expired entry that this load was to replace.
    async fn store_placeholder(self, to_store: &ToStore) {
        let placeholder = self.cache.placeholder(self.address, to_store, &self.sealed);
        if !self.sealed.storable || placeholder.time_to_live == Some(Duration::ZERO) {
            return self.delete_stale().await;
        }
        if let Some(permit) = self.cache.background_permit() {
            self.store_in_background(placeholder, permit).await;
        }
    }

    /// Stores `entry` without waiting for it. Returns whether the backend has it, or `true` if that is not known
    /// yet.
    async fn store_in_background(self, entry: NewEntry, permit: OwnedSemaphorePermit) -> bool {
        let cache = self.cache.clone();
        let is_for_all = entry.entry.key() == &self.address.key;
        let ticket =
            if is_for_all { self.ticket } else { cache.inner().store_order.begin(entry.entry.key()) };
        let (guards, leader) = (self.sealed.guards, self.leader);
        let outcome = Arc::new(OnceLock::new());
        let known = Arc::clone(&outcome);
        in_background(async move {
            // When it is done, or the value is too old, the next reader of this key may start another flight.
            let stored = cache.store_in_turn(ticket, entry, guards, || drop(leader)).await;
            outcome.get_or_init(|| stored);
            drop(permit);
        })
        .await;
        // A backend in this process is done by now. Otherwise the value is being stored.
        known.get().copied().unwrap_or(true)
    }

    /// Deletes, in the background, the expired entry that this load was to replace. Otherwise
    /// `stale_if_error` could serve it again, after readers have seen the newer value.
    async fn delete_stale(self) {
        if self.candidate.is_none() {
            return;
        }
        let (cache, key, leader) = (self.cache.clone(), self.address.key.clone(), self.leader);
        let Some(permit) = cache.background_permit() else {
            return;
        };
        in_background(async move {
            cache.delete_stale(&key).await;
            drop((leader, permit));
        })
        .await;
    }

    fn finish(&mut self, outcome: FlightOutcome) {
        if let Some(leader) = &mut self.leader {
            leader.finish(outcome);
        }
    }
}

/// Counts a load whose reader was cancelled before it ended.
struct CountCancelled<'a> {
    counters: &'a Counters,
    ended: bool,
}

impl Drop for CountCancelled<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.counters.loads_cancelled.increment();
        }
    }
}
