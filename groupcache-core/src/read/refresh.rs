//! The refresh of an expired entry that is served meanwhile.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::outcome::{Loaded, Served, ServedFrom};
use crate::read::leader::Leader;
use crate::read::lease_wait::{LeaseDecision, WaitLimit, hold_for_a_pause};
use crate::read::load::LoadRules;
use crate::read::permit::{LoadPermit, Missed};
use crate::time_limit::TimeBudget;

/// Minimum time limit of a background refresh.
const BACKGROUND_TIME_LIMIT_MIN: Duration = Duration::from_secs(30);

/// The duty to replace an expired entry that was served.
///
/// Await [`run`](Self::run), or spawn [`run_in_background`](Self::run_in_background) so that the reader does
/// not wait. If it is dropped without, the next reader gets a refresh of its own.
#[must_use = "the expired entry is only replaced if the refresh is run"]
pub struct Refresh<B, F> {
    cache: Cache<B>,
    address: Address,
    permit: LoadPermit,
    leader: Leader,
    loader: F,
}

impl<B: Backend> Cache<B> {
    /// Returns the refresh that `permit` allows, or `None` if another reader loads the key already.
    pub(crate) fn refresh<F>(
        &self,
        address: &Address,
        permit: LoadPermit,
        loader: F,
    ) -> Option<Refresh<B, F>> {
        let leader = self.inner().flights.try_lead(&address.key)?;
        leader.prepare(Some(permit.flight_id(address)));
        Some(Refresh { cache: self.clone(), address: address.clone(), permit, leader, loader })
    }
}

impl<B: Backend, F> Refresh<B, F> {
    /// Loads the value and stores it. Under a lease that another process holds, returns the expired value.
    ///
    /// # Errors
    ///
    /// Returns the error of the loader. Readers that came meanwhile were served the expired entry.
    pub async fn run<V, R, E, Fut>(
        self,
        accept: impl Fn(&Arc<Entry>) -> Option<V> + Sync,
    ) -> Result<Served<V, R>, E>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let Self { cache, address, mut permit, mut leader, loader } = self;
        let mut budget = TimeBudget::new(cache.inner().read_time_limit);
        let decision =
            cache.await_lease(&address, &mut permit, &mut leader, WaitLimit::Zero, &mut budget, &accept);
        match decision.await {
            LeaseDecision::Load => {}
            LeaseDecision::Found(value) => return Ok(Served::Entry(value, ServedFrom::Hit)),
            decision @ (LeaseDecision::Invalidated | LeaseDecision::HeldElsewhere) => {
                if let Some(value) = permit.stale_while_revalidate(&accept) {
                    if matches!(decision, LeaseDecision::HeldElsewhere) {
                        hold_for_a_pause(leader);
                    }
                    return Ok(Served::Entry(value, ServedFrom::StaleWhileRevalidate));
                }
            }
        }
        let missed = Missed { miss: permit.miss, permit: Some(Box::new(permit)) };
        cache.load(&address, missed, Some(leader), &accept, loader, LoadRules::NONE).await
    }

    /// Runs like [`run`](Self::run), for a task of its own.
    ///
    /// Stops after the window of [`stale_while_revalidate`](crate::EntryOptions::stale_while_revalidate), but
    /// not before 30 seconds, so that a loader that never returns does not block the next refresh. A failure
    /// is counted in [`Stats`](crate::Stats).
    pub async fn run_in_background<V, R, E, Fut>(self, accept: impl Fn(&Arc<Entry>) -> Option<V> + Sync)
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<Loaded<R>, E>> + Send,
    {
        let time_limit = self.cache.options().stale_while_revalidate.max(BACKGROUND_TIME_LIMIT_MIN);
        if tokio::time::timeout(time_limit, self.run(accept)).await.is_err() {
            tracing::warn!(?time_limit, "a background refresh exceeded its time limit and was cancelled");
        }
    }
}

impl<B, F> fmt::Debug for Refresh<B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresh").field("address", &self.address).finish_non_exhaustive()
    }
}
