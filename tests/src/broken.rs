//! A backend that is wrong on purpose, around any sound one.

use std::sync::Arc;
use std::time::Duration;

use groupcache_core::backend::{
    EntryView, LeaseName, LeaseOwner, LeaseRequest, Leased, Lookup, Minted, TimeLeft,
};
use groupcache_core::{Backend, Entry, Group, Groups, Key, Result};

/// What a bump sends when it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests choose one")]
pub enum Retry {
    /// Another token.
    FreshToken,
    /// The same token, which is wrong.
    SameToken,
}

/// Stores entries under the generations from after their load, which is wrong.
#[derive(Debug, Clone)]
pub struct ReadsGenerationsLate<B>(pub B);

#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for ReadsGenerationsLate<B> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        self.0.lookup(key, groups, time_left).await
    }

    fn lookup_now(&self, key: &Key, visit: &mut dyn FnMut(EntryView<'_>)) {
        self.0.lookup_now(key, visit);
    }

    async fn lookup_many(&self, requests: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        self.0.lookup_many(requests).await
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        self.0.mint(groups).await
    }

    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        self.0.lease(request).await
    }

    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        self.0.release(lease, owner).await
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        self.0.bump(groups).await
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        let now = self.0.mint(entry.groups()).await?.vector;
        let (groups, body) = (entry.groups().clone(), entry.body().clone());
        let late = Entry::new(entry.key().clone(), groups, now, body, entry.grace());
        self.0.store(&Arc::new(late), time_to_live).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.0.delete(key).await
    }

    fn default_time_to_live(&self) -> Option<Duration> {
        self.0.default_time_to_live()
    }
}
