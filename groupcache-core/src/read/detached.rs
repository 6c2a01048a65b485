//! Loads that go on when their reader is dropped.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::time_limit::within;

/// A read that owns what it needs. If it is dropped while it runs the loader, it goes on on a task of its own.
///
/// Until then it is polled by its caller, in the caller's task.
pub(crate) struct Detachable<B: Backend, T: Send + 'static> {
    cache: Cache<B>,
    /// Whether the loader runs in it. A read that only waits is dropped with its caller.
    is_loading: IsLoading,
    runtime: Option<Handle>,
    time_limit: Duration,
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
}

/// Whether a read runs its loader.
#[derive(Debug, Clone, Default)]
pub(crate) struct IsLoading(Arc<AtomicBool>);

impl IsLoading {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<B: Backend, T: Send + 'static> Detachable<B, T> {
    pub(crate) fn new(
        cache: Cache<B>,
        is_loading: IsLoading,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        let time_limit = cache.options().time_limit_of_detached_loads();
        let runtime = Handle::try_current().ok();
        Self { cache, is_loading, runtime, time_limit, work: Some(Box::pin(work)) }
    }
}

impl<B: Backend, T: Send + 'static> Future for Detachable<B, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = self.get_mut();
        let Some(work) = &mut this.work else {
            // Polled after completion, which no executor does.
            return Poll::Pending;
        };
        let outcome = work.as_mut().poll(context);
        if outcome.is_ready() {
            this.work = None;
        }
        outcome
    }
}

impl<B: Backend, T: Send + 'static> Drop for Detachable<B, T> {
    fn drop(&mut self) {
        let (Some(work), Some(runtime)) = (self.work.take(), self.runtime.take()) else {
            return;
        };
        // A loader that has panicked cannot go on.
        if !self.is_loading.get() || self.time_limit.is_zero() || std::thread::panicking() {
            return;
        }
        let Ok(slot) = Arc::clone(&self.cache.inner().detached_loads).try_acquire_owned() else {
            tracing::debug!("a load is cancelled with its reader: as many as allowed go on already");
            return;
        };
        self.cache.inner().counters().loads_detached.increment();
        let time_limit = self.time_limit;
        // Detached: the load reports through the counters, and to the readers that wait for it.
        drop(runtime.spawn(async move {
            if within(time_limit, work).await.is_none() {
                tracing::debug!(
                    ?time_limit,
                    "a load without a reader exceeded its time limit and was cancelled"
                );
            }
            drop(slot);
        }));
    }
}
