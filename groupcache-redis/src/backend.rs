//! Entries and tokens in Redis.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use groupcache_core::backend::{
    BreakerCall, CircuitBreaker, LeaseName, LeaseOwner, LeaseRequest, Leased, Lookup, Minted, TimeLeft,
};

use groupcache_core::{Backend, Clock, Entry, Error, Group, Groups, Key, Result};

use crate::advice::{self, Advice};
use crate::builder::RedisBackendBuilder;
use crate::error::{Failure, NAME};
use crate::names::Names;
use crate::route::Route;

/// A backend in a Redis or Valkey server. Cheap to clone; clones are the same backend and share its
/// connection.
#[derive(Clone)]
pub struct RedisBackend(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) names: Names,
    pub(crate) route: Route,
    pub(crate) breaker: CircuitBreaker,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) default_time_to_live: Duration,
    pub(crate) max_entry_bytes: usize,
    /// The longest time to live of an entry of this process, in milliseconds.
    pub(crate) longest_millis: AtomicU64,
    pub(crate) description: String,
}

impl RedisBackend {
    /// Sets up a backend: `redis://`, `rediss://` (feature `tls`) or `unix://`, with user, password
    /// and database where needed, as the client's
    /// [`IntoConnectionInfo`](redis::IntoConnectionInfo) describes them.
    pub fn builder(url: impl Into<String>) -> RedisBackendBuilder {
        RedisBackendBuilder::new(url.into())
    }

    pub(crate) fn from_inner(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Connects now instead of at the first use, for applications that would rather not start with a
    /// wrong address or password. One attempt; a later one is made by whatever uses the backend.
    ///
    /// # Errors
    ///
    /// Why there is no connection: the message names the setting to look at.
    pub async fn connect(&self) -> Result<()> {
        self.0.route.all().await.map(drop).map_err(Error::from)
    }

    /// What is dangerous, or a waste, in how this server is configured, or the first of several that
    /// has it. Logged at the first connection as well. Four round trips.
    ///
    /// # Errors
    ///
    /// If the server did not answer.
    pub async fn advice(&self) -> Result<Vec<Advice>> {
        let mut all: Vec<Advice> = Vec::new();
        for connected in self.0.route.all().await? {
            let advice = advice::of(&connected, self.0.route.waits_for_replicas()).await?;
            all.extend(
                advice
                    .into_iter()
                    .filter(|new| all.iter().all(|known| known.setting() != new.setting()))
                    .collect::<Vec<_>>(),
            );
        }
        Ok(all)
    }

    /// Whether the circuit breaker keeps reads away from the server at the moment.
    #[must_use]
    pub fn is_circuit_open(&self) -> bool {
        self.0.breaker.is_open()
    }
}

impl Inner {
    fn call(&self) -> Result<BreakerCall<'_>> {
        self.breaker.try_call().ok_or_else(|| self.breaker.open_error())
    }
}

impl Backend for RedisBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        let call = self.0.call()?;
        end(call, self.0.look(key, groups, time_left).await)
    }

    async fn lookup_many(&self, questions: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let call = self.0.call()?;
        end(call, self.0.look_many(questions).await)
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        if groups.is_empty() {
            return Ok(Minted::new([].into_iter().collect()));
        }
        let call = self.0.call()?;
        end(call, self.0.mint(groups).await)
    }

    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        let call = self.0.call()?;
        end(call, self.0.lease(request).await)
    }

    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        let call = self.0.call()?;
        end(call, self.0.release(lease, owner).await)
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        // Not refused by the breaker: an invalidation is not given up without a try.
        let call = self.0.breaker.force_call();
        end(call, self.0.bump(groups).await)
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        let call = self.0.call()?;
        let stored = match time_to_live.unwrap_or(self.0.default_time_to_live) {
            Duration::ZERO => self.0.delete(entry.key()).await,
            time_to_live => self.0.store(entry, time_to_live).await,
        };
        end(call, stored)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let call = self.0.breaker.force_call();
        end(call, self.0.delete(key).await)
    }

    fn default_time_to_live(&self) -> Option<Duration> {
        Some(self.0.default_time_to_live)
    }
}

fn end<T>(call: BreakerCall<'_>, outcome: Result<T, Failure>) -> Result<T> {
    let outcome = outcome.map_err(Error::from);
    call.record(&outcome);
    outcome
}

impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("target", &format_args!("{}", self.0.description))
            .field("key_prefix", &self.0.names.0)
            .field("circuit_open", &self.0.breaker.is_open())
            .finish_non_exhaustive()
    }
}
