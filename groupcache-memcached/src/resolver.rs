//! Resolves the names of servers, and remembers which addresses of a name are known to lead to one server.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::net::lookup_host;
use tokio::sync::Mutex;

use crate::error::{Failure, Remedy};

/// Resolves `host:port` to addresses. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Resolve>);

type Resolve = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

impl Resolver {
    pub(crate) fn new<Resolving>(resolve: impl Fn(String) -> Resolving + Send + Sync + 'static) -> Self
    where
        Resolving: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |name| resolve(name).boxed()))
    }

    /// Returns a resolver that asks the operating system.
    pub(crate) fn system() -> Self {
        Self::new(|name| async move { Ok(lookup_host(name).await?.collect()) })
    }

    /// Returns the addresses of `name`, each once and at least one, in the order in which they are to be
    /// tried.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<SocketAddr>, Failure> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in (self.0)(name.to_owned()).await.map_err(Failure::from_io)? {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            let message = "the name resolves to no address";
            return Err(Failure::from_io(io::Error::new(io::ErrorKind::NotFound, message)));
        }
        Ok(addresses)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

/// The addresses of a name, and when the name was last resolved.
pub(crate) struct KnownAddresses {
    /// Those that lead to the server in use.
    verified: Vec<SocketAddr>,
    /// Those at which no server was.
    absent: Vec<SocketAddr>,
    known_at: Instant,
    /// Nanoseconds from `known_at` to the latest resolution.
    resolved_after: AtomicU64,
    /// Whether the name was found to lead elsewhere.
    is_left: AtomicBool,
    /// Held while the name is resolved.
    pub(crate) resolving: Arc<Mutex<()>>,
}

impl KnownAddresses {
    /// `now` is from before the name was resolved.
    pub(crate) fn new(verified: Vec<SocketAddr>, absent: Vec<SocketAddr>, now: Instant) -> Self {
        let (resolved_after, is_left) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { verified, absent, known_at: now, resolved_after, is_left, resolving: Arc::default() }
    }

    /// Returns what to do about the connections now that the name resolves to `resolved`.
    pub(crate) fn remedy(&self, resolved: &[SocketAddr]) -> Option<Remedy> {
        if !self.lead_to_server(resolved) {
            return Some(Remedy::Leave);
        }
        let is_known = |address| self.verified.contains(address) || self.absent.contains(address);
        (!resolved.iter().all(is_known)).then_some(Remedy::Reconnect)
    }

    /// Returns whether one of these addresses leads to the server in use.
    pub(crate) fn lead_to_server(&self, addresses: &[SocketAddr]) -> bool {
        addresses.iter().any(|address| self.verified.contains(address))
    }

    /// Records that the name leads elsewhere.
    pub(crate) fn leave(&self) {
        self.is_left.store(true, Ordering::Release);
    }

    /// Returns whether the name was found to lead elsewhere.
    pub(crate) fn is_left(&self) -> bool {
        self.is_left.load(Ordering::Acquire)
    }

    /// Returns the time since the name was last resolved.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        let resolved_after = Duration::from_nanos(self.resolved_after.load(Ordering::Acquire));
        now.saturating_duration_since(self.known_at).saturating_sub(resolved_after)
    }

    /// Records that the name was resolved. `now` is from before that.
    pub(crate) fn resolved(&self, now: Instant) {
        let nanos = now.saturating_duration_since(self.known_at).as_nanos();
        self.resolved_after.fetch_max(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::AcqRel);
    }
}
