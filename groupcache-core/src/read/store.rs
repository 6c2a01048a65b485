//! The entry that a load results in, and how it is stored.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use crate::backend::Backend;
use crate::backend::lookup::GenerationGuard;
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::data::key::Key;
use crate::error::Result;
use crate::load_context::Sealed;
use crate::outcome::ToStore;
use crate::time_limit::TimeBudget;

/// A time to live or a grace period of a hundred years is as good as a longer one.
const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// An entry that is ready to be stored.
pub(crate) struct NewEntry {
    pub(crate) entry: Arc<Entry>,
    /// How long the backend keeps it, the grace period included.
    pub(crate) time_to_live: Option<Duration>,
    /// When its time to live ends, the grace period not included.
    pub(crate) expires_at: Option<Instant>,
}

impl<B: Backend> Cache<B> {
    /// Returns the entry of a load that ended as `sealed`.
    pub(crate) fn entry(&self, address: &Address, to_store: &ToStore, sealed: &Sealed) -> NewEntry {
        let now = self.inner().clock.now();
        let backend_default = || self.inner().backend.default_time_to_live();
        let time_to_live = to_store.time_to_live.or(self.options().time_to_live).or_else(backend_default);
        let mut time_to_live = time_to_live.map(|time| self.options().jittered(time));
        if let Some(expires_at) = sealed.expires_at {
            let left = expires_at.saturating_duration_since(now);
            time_to_live = Some(time_to_live.map_or(left, |time| time.min(left)));
        }
        // The clock must be able to represent the end of the grace period.
        let grace = match &mut time_to_live {
            Some(time) if !time.is_zero() && !self.options().grace().is_zero() => {
                *time = (*time).min(DURATION_MAX);
                self.options().grace().min(DURATION_MAX)
            }
            _ => Duration::ZERO,
        };
        let key = to_store.key.clone().unwrap_or_else(|| address.key.clone());
        // Entries share the group list of their address: this saves memory, and comparing is quicker.
        let groups = if sealed.groups == address.groups { &address.groups } else { &sealed.groups };
        let entry = Entry::new(key, groups.clone(), sealed.vector.clone(), to_store.body.clone(), grace);
        NewEntry {
            entry: Arc::new(entry.with_memo_bytes(to_store.memo_bytes).with_memo(to_store.memo.clone())),
            time_to_live: time_to_live.map(|time| time.saturating_add(grace)),
            expires_at: time_to_live.and_then(|time| now.checked_add(time)),
        }
    }

    /// Returns the permit to store `entry` in the background, if it is to be stored and not too many others
    /// are being stored.
    pub(crate) fn may_store(&self, entry: &NewEntry) -> Option<OwnedSemaphorePermit> {
        if entry.time_to_live == Some(Duration::ZERO) {
            return None;
        }
        let permit = self.background_permit();
        if permit.is_none() {
            self.inner().counters().stores_skipped.increment();
        }
        permit
    }

    /// Returns a permit to write in the background. A store that hangs must not collect tasks without end.
    pub(crate) fn background_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.inner().background_stores).try_acquire_owned().ok()
    }

    /// Stores `entry`. Does nothing if its time to live is zero. One round trip.
    pub(crate) async fn store(&self, entry: NewEntry, guards: Vec<GenerationGuard>) -> Result<()> {
        let NewEntry { entry, time_to_live, .. } = entry;
        if time_to_live == Some(Duration::ZERO) {
            return Ok(());
        }
        #[cfg(groupcache_mutants)]
        if self.is_refused_by_condition(&entry).await {
            return Ok(());
        }
        let mut budget = TimeBudget::new(self.inner().write_time_limit);
        let backend = &self.inner().backend;
        let stored = budget.run(backend.name(), pin!(backend.store(&entry, time_to_live))).await;
        drop(guards);
        match &stored {
            Ok(()) => self.inner().counters().stores.increment(),
            Err(error) => {
                self.inner().counters().store_failures.increment();
                tracing::debug!(%error, "failed to store an entry");
            }
        }
        stored
    }

    /// Deletes an expired entry whose newer value is not stored. One round trip.
    pub(crate) async fn delete_stale(&self, key: &Key) {
        let mut budget = TimeBudget::new(self.inner().write_time_limit);
        let backend = &self.inner().backend;
        if let Err(error) = budget.run(backend.name(), pin!(backend.delete(key))).await {
            tracing::debug!(%error, "failed to delete an expired entry");
        }
    }
}
