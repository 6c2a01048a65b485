//! The backend: guards the operations with a circuit breaker.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use groupcache_core::backend::{
    BreakerCall, CircuitBreaker, LeaseName, LeaseOwner, LeaseRequest, Leased, Lookup, Minted, TimeLeft,
};
use groupcache_core::{Backend, Entry, Error, Group, Groups, Key, Result};

use crate::advice::{self, Advice};
use crate::error::{Failure, NAME};
use crate::operations::Operations;

/// A backend that keeps entries and generations in Redis or Valkey.
///
/// Made by [`RedisBackend::builder`]. Cheap to clone; clones share connections and circuit breaker. Many
/// tasks can use it at once. Its methods must be called within a tokio runtime.
///
/// ```no_run
/// use groupcache_core::{Cache, Group};
/// use groupcache_redis::RedisBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = RedisBackend::builder("redis://localhost:6379/0").build()?;
/// for advice in backend.advice().await? {
///     println!("{advice}");
/// }
/// let cache = Cache::builder(backend).build();
/// cache.invalidate(Group::new("book").with("id", 5)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisBackend(Arc<Inner>);

struct Inner {
    operations: Operations,
    breaker: CircuitBreaker,
    /// The addresses, for `Debug`.
    description: String,
}

impl RedisBackend {
    pub(crate) fn new(operations: Operations, breaker: CircuitBreaker, description: String) -> Self {
        Self(Arc::new(Inner { operations, breaker, description }))
    }

    /// Connects now instead of at the first operation.
    ///
    /// An application can use this to refuse to start with a wrong address or password. If there is a
    /// connection already, this does nothing. It makes one attempt. If that fails, the next operation makes
    /// another.
    ///
    /// # Errors
    ///
    /// If a server cannot be reached, refuses the login, or is not a primary. If a setting is wrong, the
    /// message names it.
    pub async fn connect(&self) -> Result<()> {
        self.0.operations.route.all_connections().await.map(drop).map_err(Error::from)
    }

    /// Inspects the configuration of the servers, and returns what is dangerous for a cache, or wasteful.
    ///
    /// Costs four round trips for each server. If several servers have the same problem, it is returned once.
    /// The backend also logs the advice of one server after its first connection.
    ///
    /// # Errors
    ///
    /// If a server did not answer.
    pub async fn advice(&self) -> Result<Vec<Advice>> {
        let route = &self.0.operations.route;
        let mut all: Vec<Advice> = Vec::new();
        for connection in route.all_connections().await? {
            let mut advice = advice::inspect(&connection, route.waits_for_replicas()).await?;
            advice.retain(|new| all.iter().all(|known| known.setting() != new.setting()));
            all.append(&mut advice);
        }
        Ok(all)
    }

    /// Returns whether the circuit breaker is open, so that reads do not reach the server.
    ///
    /// In a cluster, returns whether the breaker of any node is open.
    #[must_use]
    pub fn is_circuit_open(&self) -> bool {
        self.0.breaker.is_open() || self.0.operations.route.is_circuit_open()
    }
}

impl Backend for RedisBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        let call = self.0.call()?;
        end(call, self.0.operations.lookup(key, groups, time_left).await)
    }

    async fn lookup_many(&self, questions: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let call = self.0.call()?;
        end(call, self.0.operations.lookup_many(questions).await)
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        if groups.is_empty() {
            return Ok(Minted::new([].into_iter().collect()));
        }
        let call = self.0.call()?;
        end(call, self.0.operations.mint(groups).await)
    }

    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        let call = self.0.call()?;
        end(call, self.0.operations.lease(request).await)
    }

    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        let call = self.0.call()?;
        end(call, self.0.operations.release(lease, owner).await)
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        // The breaker does not refuse an invalidation: it must not fail without an attempt.
        let call = self.0.breaker.force_call();
        end(call, self.0.operations.bump(groups).await)
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        let call = self.0.call()?;
        let operations = &self.0.operations;
        let stored = match time_to_live.unwrap_or(operations.default_time_to_live) {
            Duration::ZERO => operations.delete(entry.key()).await,
            time_to_live => operations.store(entry, time_to_live).await,
        };
        end(call, stored)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let call = self.0.breaker.force_call();
        end(call, self.0.operations.delete(key).await)
    }

    fn default_time_to_live(&self) -> Option<Duration> {
        Some(self.0.operations.default_time_to_live)
    }
}

impl Inner {
    fn call(&self) -> Result<BreakerCall<'_>> {
        self.breaker.try_call().ok_or_else(|| self.breaker.open_error())
    }
}

fn end<T>(call: BreakerCall<'_>, outcome: Result<T, Failure>) -> Result<T> {
    if let Err(failure) = &outcome
        && failure.server_answers
    {
        call.succeeded();
        return outcome.map_err(Error::from);
    }
    let outcome = outcome.map_err(Error::from);
    call.record(&outcome);
    outcome
}

impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("target", &format_args!("{}", self.0.description))
            .field("key_prefix", &self.0.operations.key_prefix())
            .field("circuit_open", &self.is_circuit_open())
            .finish_non_exhaustive()
    }
}
