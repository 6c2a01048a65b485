//! The entry that a load results in, and how it is stored.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use crate::backend::Backend;
use crate::backend::lookup::{GenerationGuard, StoreOutcome};
use crate::cache::Cache;
use crate::data::address::Address;
use crate::data::entry::Entry;
use crate::data::key::Key;
use crate::error::Result;
use crate::load_context::Sealed;
use crate::outcome::ToStore;
use crate::read::store_order::StoreTicket;
use crate::time_limit::{TimeBudget, off_hit_path, run_and_then};

/// A time to live or a grace period of a hundred years is as good as a longer one.
const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// An entry that is ready to be stored.
pub(crate) struct NewEntry {
    pub(crate) entry: Arc<Entry>,
    /// How long the backend keeps it, the grace period included.
    pub(crate) time_to_live: Option<Duration>,
    /// When its time to live ends, the grace period not included.
    pub(crate) expires_at: Option<Instant>,
    /// When its load ended, from which its time to live counts.
    loaded_at: Instant,
}

impl NewEntry {
    /// Returns how long the backend keeps the entry from now on: `Some(None)` for ever, `None` not at all.
    fn time_left(&self, now: Instant) -> Option<Option<Duration>> {
        let Some(time_to_live) = self.time_to_live else { return Some(None) };
        let left = time_to_live.saturating_sub(now.saturating_duration_since(self.loaded_at));
        (!left.is_zero()).then_some(Some(left))
    }
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
            loaded_at: now,
        }
    }

    /// Returns the placeholder for a value that is not stored because of its late groups.
    pub(crate) fn placeholder(&self, address: &Address, to_store: &ToStore, sealed: &Sealed) -> NewEntry {
        let new = self.entry(address, to_store, sealed);
        let key = new.entry.key().clone();
        let entry = Entry::placeholder(key, &sealed.groups, &sealed.vector, &sealed.late);
        NewEntry { entry: Arc::new(entry), ..new }
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

    /// Stores the entry of the load that `ticket` is of, when no other store of the key is in flight. Returns
    /// whether the backend has it; the counters show why not. An `insert` that began meanwhile supersedes it.
    ///
    /// Calls `then` when the store is done, or already when the time to live ends.
    pub(crate) async fn store_in_turn(
        &self,
        ticket: StoreTicket,
        entry: NewEntry,
        guards: Vec<GenerationGuard>,
        then: impl FnOnce(),
    ) -> bool {
        let expires_in = entry.expires_at.map(|at| at.saturating_duration_since(self.inner().clock.now()));
        let store = async {
            match ticket.turn().await {
                // Readers have the value whether or not the store succeeds.
                Some(_turn) => self.store(entry, guards).await.unwrap_or(false),
                None => {
                    if !entry.entry.is_placeholder() {
                        self.inner().counters().stores_superseded.increment();
                    }
                    false
                }
            }
        };
        run_and_then(store, expires_in, then).await
    }

    /// Stores `entry` for what is left of its time to live, and returns whether the backend has it. Does nothing if
    /// no time is left. One round trip, or two if the time to live ends before the backend has acknowledged.
    pub(crate) async fn store(&self, entry: NewEntry, guards: Vec<GenerationGuard>) -> Result<bool> {
        let Some(time_to_live) = entry.time_left(self.inner().clock.now()) else {
            return Ok(false);
        };
        #[cfg(groupcache_mutants)]
        if self.is_refused_by_condition(&entry.entry).await {
            return Ok(false);
        }
        let mut budget = TimeBudget::new(self.inner().write_time_limit);
        let backend = &self.inner().backend;
        let stored = budget.run(backend.name(), pin!(backend.store(&entry.entry, time_to_live))).await;
        drop(guards);
        let counters = self.inner().counters();
        match &stored {
            Ok(StoreOutcome::Stored) if entry.entry.is_placeholder() => {
                counters.placeholders_stored.increment()
            }
            Ok(StoreOutcome::Stored) => counters.stores.increment(),
            Ok(StoreOutcome::Outdated) => counters.stores_outdated.increment(),
            Err(error) => {
                counters.store_failures.increment();
                tracing::debug!(%error, "failed to store an entry");
            }
        }
        if stored? == StoreOutcome::Outdated {
            return Ok(false);
        }
        if entry.time_left(self.inner().clock.now()).is_none() {
            // In the backend it lives on, for as long as the store took.
            off_hit_path(self.delete_stale(entry.entry.key())).await;
            return Ok(false);
        }
        Ok(true)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::data::entry::GenerationVector;
    use crate::data::group::Groups;

    #[test]
    fn the_time_left_counts_from_the_end_of_the_load() {
        let second = Duration::from_secs(1);
        let now = ManualClock::new().now();
        let entry = |time_to_live| {
            let (key, none) = (Key::of("k").unwrap(), GenerationVector::default());
            let entry = Arc::new(Entry::new(key, Groups::none(), none, "body".into(), Duration::ZERO));
            NewEntry { entry, time_to_live, expires_at: None, loaded_at: now }
        };
        assert_eq!(entry(None).time_left(now + 1000 * second), Some(None));
        let ten = entry(Some(10 * second));
        assert_eq!(ten.time_left(now), Some(Some(10 * second)));
        assert_eq!(ten.time_left(now + 4 * second), Some(Some(6 * second)));
        assert_eq!(ten.time_left(now + 10 * second), None);
        assert_eq!(ten.time_left(now + 11 * second), None);
        assert_eq!(entry(Some(Duration::ZERO)).time_left(now), None);
    }
}
