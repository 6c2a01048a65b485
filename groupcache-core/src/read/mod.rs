//! A read, from the lookup to the served value. Each file is one step, and a step calls downwards only.

mod attempt;
mod detached;
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
mod limits;
pub(crate) mod load;
mod load_batch;
mod load_many;
mod lookup;
#[cfg(groupcache_mutants)]
mod mutants;
mod permit;
mod progress;
pub(crate) mod refresh;
mod replace;
pub(crate) mod single_flight;
mod store;
pub(crate) mod store_order;
mod unshared;
mod verdict;
mod wait;
pub(crate) mod wait_graph;

use std::future::Future;
use std::sync::Arc;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::error::Error;
use crate::load_context::NestedRead;
use crate::outcome::{Loaded, ReadOutcome, Served, ServedFrom};
use crate::read::attempt::{Read, Step};
use crate::read::detached::{Detachable, IsLoading};
use crate::read::leader::Leader;
use crate::read::load::LoadRules;
use crate::read::permit::Missed;
use crate::read::refresh::Refresh;
use crate::time_limit::off_hit_path;

impl<B: Backend> Cache<B> {
    /// Returns the value at `address`, loaded by `loader` if there is no valid entry.
    ///
    /// `accept` turns an entry into the value that the reader wants; `None` makes the entry a miss.
    /// Concurrent reads that miss load once. The cache never fails a read: only the loader's own error is
    /// returned. A [hard timeout](crate::EntryOptions::load_hard_timeout) has no effect here.
    ///
    /// This is the operation that adapters build on, with [`read_to_end`](Self::read_to_end). For values that
    /// serde can write and read, use [`get_or_load`](Self::get_or_load).
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
        self.read_by(address, accept, loader, LoadRules::NONE).await
    }

    /// Returns the value at `address` like [`read`](Self::read), but a load goes on if its reader is dropped.
    ///
    /// [`detached_load_time_limit`](crate::EntryOptions::detached_load_time_limit) sets for how long. If the
    /// [hard timeout](crate::EntryOptions::load_hard_timeout) runs out, the read returns what `timed_out`
    /// returns. For callers that have tried [`read_now`](Self::read_now).
    ///
    /// # Cancellation
    ///
    /// If the future is dropped while it loads, the load goes on on a task of its own: for the readers that
    /// wait for it, and for later ones. A future that is dropped before or after that has no effect.
    ///
    /// # Errors
    ///
    /// Returns the error of `loader` or of `timed_out`.
    #[expect(clippy::type_complexity, reason = "each part is a public type")]
    pub fn read_to_end<V, R, E, A, F, Fut>(
        &self,
        address: &Address,
        accept: A,
        loader: F,
        timed_out: fn(Error) -> Result<R, E>,
    ) -> impl Future<Output = Result<ReadOutcome<Served<V, R>, Refresh<B, F>>, E>>
    where
        A: Fn(&Arc<Entry>) -> Option<V> + Send + Sync + 'static,
        V: Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send + 'static,
    {
        self.read_owned(address, accept, loader, LoadRules { share_error: None, timed_out: Some(timed_out) })
    }

    /// Reads like [`read`](Self::read), for callers that have tried [`read_now`](Self::read_now).
    pub(crate) async fn read_by<V, R, E, A, F, Fut>(
        &self,
        address: &Address,
        accept: A,
        loader: F,
        rules: LoadRules<R, E>,
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
        let outcome = match read.look().await {
            Ok(step) => read.take(step, loader, rules).await,
            Err(missed) => {
                let limits = self.limits(&missed, nested.outer(), rules, read.stale(&missed));
                let is_loading = IsLoading::default();
                let work = Box::pin(read.load_missed(missed, loader, rules, is_loading.clone()));
                off_hit_path(limits.apply(work, is_loading)).await
            }
        }?;
        nested.completed();
        Ok(outcome)
    }

    /// See [`read_to_end`](Self::read_to_end).
    pub(crate) async fn read_owned<V, R, E, A, F, Fut>(
        &self,
        address: &Address,
        accept: A,
        loader: F,
        rules: LoadRules<R, E>,
    ) -> Result<ReadOutcome<Served<V, R>, Refresh<B, F>>, E>
    where
        A: Fn(&Arc<Entry>) -> Option<V> + Send + Sync + 'static,
        V: Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send + 'static,
    {
        let nested = NestedRead::begin();
        if let Some(outer) = nested.outer() {
            off_hit_path(outer.before_nested_read(self.id(), &address.groups)).await;
        }
        let mut read = Read::new(self, address, &accept, nested.outer());
        let outcome = match read.look().await {
            Ok(step) => read.take(step, loader, rules).await,
            Err(missed) => {
                let limits = self.limits(&missed, nested.outer(), rules, read.stale(&missed));
                let is_loading = IsLoading::default();
                let state = read.state;
                let (cache, address, outer) = (self.clone(), address.clone(), nested.outer().cloned());
                let work = Detachable::new(self.clone(), is_loading.clone(), {
                    let is_loading = is_loading.clone();
                    async move {
                        let (cache, address, accept) = (&cache, &address, &accept);
                        let read = Read { cache, address, accept, outer: outer.as_ref(), state };
                        read.load_missed(missed, loader, rules, is_loading).await
                    }
                });
                off_hit_path(limits.apply(work, is_loading)).await
            }
        }?;
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

impl<B, A, V> Read<'_, B, A>
where
    B: Backend,
    A: Fn(&Arc<Entry>) -> Option<V> + Sync,
{
    /// Joins a flight until there is something to serve or to load.
    async fn load_missed<R, E, F, Fut>(
        mut self,
        mut missed: Missed,
        loader: F,
        rules: LoadRules<R, E>,
        is_loading: IsLoading,
    ) -> Result<ReadOutcome<Served<V, R>, Refresh<B, F>>, E>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let step = loop {
            match off_hit_path(self.join(missed)).await {
                Step::Retry => {}
                step => break step,
            }
            let progress = self.state.leader.as_ref().map(Leader::progress);
            let looked = match progress {
                None => self.look().await,
                Some(progress) => progress.of(off_hit_path(self.look())).await,
            };
            match looked {
                Ok(step) => break step,
                Err(again) => missed = again,
            }
        };
        if matches!(step, Step::Load { .. }) {
            is_loading.set();
        }
        self.take(step, loader, rules).await
    }

    /// Takes the last step.
    async fn take<R, E, F, Fut>(
        self,
        step: Step<V>,
        loader: F,
        rules: LoadRules<R, E>,
    ) -> Result<ReadOutcome<Served<V, R>, Refresh<B, F>>, E>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let Self { cache, address, accept, .. } = self;
        cache.count(&step);
        Ok(match step {
            Step::Serve { value, from, .. } => ReadOutcome::of(Served::Entry(value, from)),
            Step::Revalidate { value, permit } => {
                let served = Served::Entry(value, ServedFrom::StaleWhileRevalidate);
                ReadOutcome { served, refresh: cache.refresh(address, *permit, loader) }
            }
            Step::Load { missed, leader } => {
                let load = off_hit_path(cache.load(address, missed, leader, accept, loader, rules));
                ReadOutcome::of(load.await?)
            }
            Step::Retry => unreachable!("the loop ends with another step"),
        })
    }

    /// Returns the value to serve if a timeout of the load runs out.
    fn stale(&self, missed: &Missed) -> Option<V> {
        let options = self.cache.options();
        let has_timeout = options.load_soft_timeout.is_some() || options.load_hard_timeout.is_some();
        has_timeout.then(|| missed.stale_if_error(self.accept)).flatten()
    }
}
