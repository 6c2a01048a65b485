//! How long a read waits for a load.

use std::future::Future;
use std::time::Duration;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::load_context::LoadContext;
use crate::outcome::{Miss, ReadOutcome, Served, ServedFrom};
use crate::read::detached::IsLoading;
use crate::read::load::LoadRules;
use crate::read::permit::Missed;
use crate::time_limit::within;

/// The limits of one read that has missed.
pub(crate) struct LoadLimits<'a, B, V, R, E> {
    cache: &'a Cache<B>,
    outer: Option<&'a LoadContext>,
    miss: Miss,
    time_limit: Option<Duration>,
    /// An expired value to serve at the limit.
    stale: Option<V>,
    rules: LoadRules<R, E>,
}

impl<B: Backend> Cache<B> {
    /// Returns the limits of a read. `stale` is the expired value that it may serve.
    pub(crate) fn limits<'a, V, R, E>(
        &'a self,
        missed: &Missed,
        outer: Option<&'a LoadContext>,
        rules: LoadRules<R, E>,
        stale: Option<V>,
    ) -> LoadLimits<'a, B, V, R, E> {
        let soft = self.options().load_soft_timeout.filter(|_| stale.is_some());
        let can_end = stale.is_some() || rules.timed_out.is_some();
        let hard = self.options().load_hard_timeout.filter(|_| can_end);
        let time_limit = soft.into_iter().chain(hard).min();
        LoadLimits { cache: self, outer, miss: missed.miss, time_limit, stale, rules }
    }
}

impl<B: Backend, V, R, E> LoadLimits<'_, B, V, R, E> {
    /// Returns the outcome of `work`, or what the read returns at its limit. `work` is dropped then.
    pub(crate) async fn apply<X>(
        self,
        work: impl Future<Output = Result<ReadOutcome<Served<V, R>, X>, E>> + Unpin,
        is_loading: IsLoading,
    ) -> Result<ReadOutcome<Served<V, R>, X>, E> {
        let Some(time_limit) = self.time_limit else {
            return work.await;
        };
        if let Some(outcome) = within(time_limit, work).await {
            return outcome;
        }
        let counters = self.cache.inner().counters();
        if !is_loading.get() {
            counters.miss(self.miss);
        }
        if let Some(outer) = self.outer {
            outer.keep_from_store();
        }
        let error = self.cache.timed_out();
        match (self.stale, self.rules.timed_out) {
            (Some(value), _) => {
                counters.stale_if_error.increment();
                Ok(ReadOutcome::of(Served::Entry(value, ServedFrom::StaleIfError)))
            }
            (None, Some(timed_out)) => {
                let served = Served::Loaded { value: timed_out(error)?, miss: self.miss, stored: false };
                Ok(ReadOutcome::of(served))
            }
            (None, None) => unreachable!("without either there is no limit"),
        }
    }
}
