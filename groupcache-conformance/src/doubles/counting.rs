//! A backend that counts round trips.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use groupcache_core::backend::{
    EntryView, LeaseName, LeaseOwner, LeaseRequest, Leased, Lookup, Minted, TimeLeft,
};
use groupcache_core::{Backend, Entry, Group, Groups, Key, Result};

/// A method of [`Backend`] that is a round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named after the methods of `Backend`")]
#[non_exhaustive]
pub enum Operation {
    Lookup,
    LookupMany,
    Mint,
    Lease,
    Release,
    Bump,
    Store,
    Delete,
}

/// Counts the round trips to an inner backend.
///
/// `lookup_now` shows nothing, so that every lookup counts. Clones share the counters.
#[derive(Debug, Clone)]
pub struct CountingBackend<B> {
    inner: B,
    counts: Arc<[AtomicUsize; OPERATIONS]>,
}

/// The number of calls of each method of [`Backend`] that is a round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "named after the methods of `Backend`")]
pub struct Counts {
    pub lookups: usize,
    pub lookups_of_many: usize,
    pub mints: usize,
    pub leases: usize,
    pub releases: usize,
    pub bumps: usize,
    pub stores: usize,
    pub deletes: usize,
}

/// How many kinds of operations there are.
const OPERATIONS: usize = Operation::Delete as usize + 1;

impl<B> CountingBackend<B> {
    /// Wraps `inner`.
    pub fn new(inner: B) -> Self {
        Self { inner, counts: Arc::default() }
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let count = |operation: Operation| self.counts[operation as usize].load(Ordering::SeqCst);
        Counts {
            lookups: count(Operation::Lookup),
            lookups_of_many: count(Operation::LookupMany),
            mints: count(Operation::Mint),
            leases: count(Operation::Lease),
            releases: count(Operation::Release),
            bumps: count(Operation::Bump),
            stores: count(Operation::Store),
            deletes: count(Operation::Delete),
        }
    }

    /// Runs `work` and returns the counts of that time.
    pub async fn counting(&self, work: impl Future<Output = ()> + Send) -> Counts
    where
        B: Sync,
    {
        let before = self.counts();
        work.await;
        let after = self.counts();
        Counts {
            lookups: after.lookups - before.lookups,
            lookups_of_many: after.lookups_of_many - before.lookups_of_many,
            mints: after.mints - before.mints,
            leases: after.leases - before.leases,
            releases: after.releases - before.releases,
            bumps: after.bumps - before.bumps,
            stores: after.stores - before.stores,
            deletes: after.deletes - before.deletes,
        }
    }

    fn count(&self, operation: Operation) -> &B {
        self.counts[operation as usize].fetch_add(1, Ordering::SeqCst);
        &self.inner
    }
}

#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for CountingBackend<B> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        self.count(Operation::Lookup).lookup(key, groups, time_left).await
    }

    fn lookup_now(&self, _: &Key, _: &mut dyn FnMut(EntryView<'_>)) {}

    async fn lookup_many(&self, requests: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        self.count(Operation::LookupMany).lookup_many(requests).await
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        self.count(Operation::Mint).mint(groups).await
    }

    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        self.count(Operation::Lease).lease(request).await
    }

    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        self.count(Operation::Release).release(lease, owner).await
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        self.count(Operation::Bump).bump(groups).await
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        self.count(Operation::Store).store(entry, time_to_live).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.count(Operation::Delete).delete(key).await
    }

    fn default_time_to_live(&self) -> Option<Duration> {
        self.inner.default_time_to_live()
    }
}
