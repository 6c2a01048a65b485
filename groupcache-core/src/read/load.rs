//! The load under a complete vector, and how its outcome is shared and stored.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::load_context::{LoadContext, Sealed};
use crate::outcome::{Loaded, Miss, Served, ServedFrom, StorePolicy, ToStore};
use crate::read::permit::LoadPermit;
use crate::read::single_flight::{FlightOutcome, Leader};
use crate::read::verdict::StaleCandidate;
use crate::stats::Counters;
use crate::time_limit::in_background;

/// A load that has ended: what it depends on, and who is to be notified.
struct EndedLoad<'a, B> {
    cache: &'a Cache<B>,
    address: &'a Address,
    miss: Miss,
    sealed: Sealed,
    candidate: Option<StaleCandidate>,
    leader: Option<Leader>,
    /// The load context of the load that this read is nested in.
    outer: Option<LoadContext>,
}

impl<B: Backend> Cache<B> {
    /// Loads under the vector of `permit`, shares the outcome with the followers of `leader`, and stores it
    /// in the background if it may be stored.
    pub(crate) async fn load<V, R, E, F, Fut>(
        &self,
        address: &Address,
        permit: LoadPermit,
        leader: Option<Leader>,
        accept: &(impl Fn(&Arc<Entry>) -> Option<V> + Sync),
        loader: F,
    ) -> Result<Served<V, R>, E>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let LoadPermit { miss, groups, vector, guards, candidate, .. } = permit;
        let context = self.load_context().with_vector(&groups, &vector, &address.groups, guards);
        let (loaded, sealed) = self.run_loader(context, loader).await;
        let outer = LoadContext::current();
        let mut ended = EndedLoad { cache: self, address, miss, sealed, candidate, leader, outer };
        let Loaded { value, policy } = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                ended.fail(None);
                return ended.serve_stale(accept).ok_or(error);
            }
        };
        match policy {
            StorePolicy::Store(to_store) => Ok(ended.share_and_store(value, to_store).await),
            StorePolicy::Private => Ok(ended.replace_by_unstored(value, FlightOutcome::Private).await),
            StorePolicy::Failed(body) => {
                ended.fail(body);
                Ok(ended.serve_stale(accept).unwrap_or_else(|| ended.serve_unstored(value)))
            }
        }
    }

    /// Loads without the cache, because the backend did not answer.
    pub(crate) async fn load_unstored<V, R, E, F, Fut>(
        &self,
        miss: Miss,
        loader: F,
    ) -> Result<Served<V, R>, E>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let context = self.load_context();
        context.do_not_store();
        let (loaded, _) = self.run_loader(context, loader).await;
        let outer = LoadContext::current();
        match loaded {
            Ok(loaded) => {
                if matches!(loaded.policy, StorePolicy::Failed(_)) {
                    self.inner().counters().load_failures.increment();
                }
                Ok(self.unstored(loaded.value, miss, outer.as_ref()))
            }
            Err(error) => {
                self.inner().counters().load_failures.increment();
                Err(error)
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

    /// A value that only its own reader gets. The load around the read cannot be stored either.
    fn unstored<V, R>(&self, value: R, miss: Miss, outer: Option<&LoadContext>) -> Served<V, R> {
        self.inner().counters().loads_not_stored.increment();
        if let Some(outer) = outer {
            outer.do_not_store();
        }
        Served::Loaded { value, miss, stored: false }
    }

    fn load_context(&self) -> LoadContext {
        LoadContext::new(self.id(), self.minter())
    }
}

impl<B: Backend> EndedLoad<'_, B> {
    /// Ends the flight with a failure, shared with the followers if the loader gave a body for them.
    fn fail(&mut self, body: Option<Bytes>) {
        self.cache.inner().counters().load_failures.increment();
        let is_complete = self.sealed.storable && self.sealed.late.is_empty();
        let failure = body.filter(|_| is_complete).map(|body| {
            let to_store = ToStore { time_to_live: Some(Duration::ZERO), ..ToStore::new(body) };
            self.cache.entry(self.address, &to_store, &self.sealed).entry
        });
        self.finish(FlightOutcome::Failed(failure));
    }

    /// Serves the expired entry, if the options allow it after a failure.
    fn serve_stale<V, R>(&self, accept: &impl Fn(&Arc<Entry>) -> Option<V>) -> Option<Served<V, R>> {
        let value = self.candidate.as_ref()?.if_error(accept)?;
        self.cache.inner().counters().stale_if_error.increment();
        if let Some(outer) = &self.outer {
            outer.do_not_store();
        }
        Some(Served::Entry(value, ServedFrom::StaleIfError))
    }

    fn serve_unstored<V, R>(&self, value: R) -> Served<V, R> {
        self.cache.unstored(value, self.miss, self.outer.as_ref())
    }

    /// Shares the entry with the followers, and stores it in the background.
    async fn share_and_store<V, R>(mut self, value: R, to_store: ToStore) -> Served<V, R> {
        let (cache, address) = (self.cache, self.address);
        let discovered = &cache.inner().discovered;
        if !self.sealed.late.is_empty() {
            // The next load starts with the generations of these groups too.
            let all = self.sealed.groups.union(&self.sealed.late);
            discovered.learn(&address.key, &address.groups, &all);
            return self.replace_by_unstored(value, FlightOutcome::GroupsDiscovered).await;
        }
        if !self.sealed.storable {
            return self.replace_by_unstored(value, FlightOutcome::Private).await;
        }
        discovered.learn(&address.key, &address.groups, &self.sealed.groups);
        let entry = cache.entry(address, &to_store, &self.sealed);
        let (is_for_all, expires_at) = (entry.entry.key() == &address.key, entry.expires_at);
        self.finish(if is_for_all {
            FlightOutcome::Shared { entry: Arc::clone(&entry.entry), expires_at }
        } else {
            FlightOutcome::Private
        });
        if let Some(outer) = &self.outer {
            outer.after_nested_read(cache.id(), &entry.entry, expires_at);
        }
        let stored = entry.time_to_live != Some(Duration::ZERO);
        let served = Served::Loaded { value, miss: self.miss, stored };
        if !stored {
            self.delete_stale().await;
            return served;
        }
        let (this, guards, leader) = (cache.clone(), self.sealed.guards, self.leader);
        in_background(async move {
            // The reader has its value whether or not the store succeeds. `stores` and `store_failures` count.
            drop(this.store(entry, guards).await);
            // From now on the next reader of this key may start another flight.
            drop(leader);
        })
        .await;
        served
    }

    /// Serves a value that is not stored, but that replaces an expired entry all the same.
    async fn replace_by_unstored<V, R>(mut self, value: R, outcome: FlightOutcome) -> Served<V, R> {
        self.finish(outcome);
        let served = self.serve_unstored(value);
        self.delete_stale().await;
        served
    }

    /// Deletes, in the background, the expired entry that this load was to replace. Otherwise
    /// `stale_if_error` could serve it again, after readers have seen the newer value.
    async fn delete_stale(self) {
        if self.candidate.is_none() {
            return;
        }
        let (cache, key, leader) = (self.cache.clone(), self.address.key.clone(), self.leader);
        in_background(async move {
            cache.delete_stale(&key).await;
            drop(leader);
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
