//! The backend: implements the operations of [`Backend`] on the servers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use groupcache_core::backend::{
    LeaseName, LeaseOwner, LeaseRequest, Leased, Lookup, Minted, StoreOutcome, TimeLeft,
};
use groupcache_core::{Backend, Entry, Error, Group, Groups, Key, Result};

use crate::advice::Advice;
use crate::error::{Failure, NAME};
use crate::placement::Placement;
use crate::server::Server;
use crate::servers::Servers;

/// A backend on memcached servers.
///
/// Cheap to clone: clones are the same backend and share its connections.
///
/// ```no_run
/// use groupcache_core::{Cache, Group};
/// use groupcache_memcached::MemcachedBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> groupcache_core::Result<()> {
/// let backend = MemcachedBackend::builder("memcached://localhost").build()?;
/// backend.connect().await?;
/// for advice in backend.advice().await? {
///     eprintln!("{advice}");
/// }
/// let cache = Cache::builder(backend).build();
/// cache.invalidate(Group::new("book")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemcachedBackend(Arc<Servers>);

impl MemcachedBackend {
    pub(crate) fn new(servers: Servers) -> Self {
        Self(Arc::new(servers))
    }

    /// Connects to all servers now, so that an application with a wrong address fails when it starts.
    ///
    /// Without this call the backend connects at first use. Each server is tried once; later calls of the
    /// backend try again. Dropping the future does not cancel an attempt.
    ///
    /// Costs one new connection and one round trip to each server that is not connected yet.
    ///
    /// # Errors
    ///
    /// The failure of the first server in the list that cannot be used. The message names the server and
    /// the setting to look at.
    pub async fn connect(&self) -> Result<()> {
        let attempts = join_all(self.0.all.iter().map(Server::connected)).await;
        attempts.into_iter().try_for_each(|attempt| attempt.map(drop).map_err(Error::from))
    }

    /// Returns advice on the configuration of the servers: what is dangerous or wasteful. Empty if there is
    /// nothing to report.
    ///
    /// The same advice is logged after the first connection to each server. Costs one new connection and
    /// one round trip to each server.
    ///
    /// # Errors
    ///
    /// If a server does not respond.
    pub async fn advice(&self) -> Result<Vec<Advice>> {
        let all = join_all(self.0.all.iter().map(Server::advice)).await;
        let all = all.into_iter().collect::<Result<Vec<_>, Failure>>()?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Returns the names of the servers whose circuit breaker is open.
    #[must_use]
    pub fn open_circuits(&self) -> Vec<&str> {
        let open = self.0.all.iter().filter(|server| server.breaker().is_open());
        open.map(Server::name).collect()
    }
}

impl Backend for MemcachedBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        let lookups = self.0.lookup(&[(key, groups)], time_left).await?;
        lookups.into_iter().next().ok_or_else(|| Failure::unexpected("mg").into())
    }

    async fn lookup_many(&self, queries: &[(Key, Groups)], time_left: TimeLeft) -> Result<Vec<Lookup>> {
        let queries: Vec<_> = queries.iter().map(|(key, groups)| (key, &**groups)).collect();
        self.0.lookup(&queries, time_left).await
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

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<StoreOutcome> {
        match time_to_live.unwrap_or(self.0.settings.default_time_to_live) {
            Duration::ZERO => self.delete(entry.key()).await?,
            time_to_live => self.0.store(entry, time_to_live).await?,
        }
        Ok(StoreOutcome::Stored)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let items = self.0.items_in_both_lists(std::slice::from_ref(key), Placement::entry);
        self.0.delete(&items).await
    }

    fn default_time_to_live(&self) -> Option<Duration> {
        Some(self.0.settings.default_time_to_live)
    }
}

impl fmt::Debug for MemcachedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcachedBackend")
            .field("servers", &self.0.placement.list.names())
            .field("key_prefix", &self.0.placement.key_prefix())
            .field("open_circuits", &self.open_circuits())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::MemcachedBackendBuilder;

    #[test]
    fn public_types_are_send_and_sync() {
        fn assert_send_and_sync<T: Send + Sync>() {}
        assert_send_and_sync::<Advice>();
        assert_send_and_sync::<MemcachedBackend>();
        assert_send_and_sync::<MemcachedBackendBuilder>();
    }
}
