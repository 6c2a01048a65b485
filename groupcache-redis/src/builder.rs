//! The builder: collects settings, checks them, and assembles a backend.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use groupcache_core::backend::CircuitBreaker;
use groupcache_core::{Clock, Error, Result};
use redis::{AsyncConnectionConfig, ConnectionAddr, ConnectionInfo};

use crate::backend::RedisBackend;
use crate::error::NAME;
use crate::operations::Operations;
use crate::route::Route;
use crate::route::cluster::Cluster;
use crate::route::node::Node;
use crate::settings::{
    ConnectionSettings, ENTRY_BYTES_MAX, EntrySettings, ReplicaWait, SentinelTarget, Target,
};
use crate::urls;

/// Configures a [`RedisBackend`]. Made by [`RedisBackend::builder`].
///
/// `Debug` shows no URL, because URLs contain passwords.
///
/// ```
/// use std::time::Duration;
///
/// use groupcache_redis::RedisBackend;
///
/// let backend = RedisBackend::builder("redis://:secret@localhost:6379/0")
///     .key_prefix("bookstore")
///     .response_time_limit(Duration::from_millis(200))
///     .default_time_to_live(Duration::from_secs(7 * 24 * 3600))
///     .build()?;
/// assert!(!format!("{backend:?}").contains("secret"));
/// # Ok::<(), groupcache_core::Error>(())
/// ```
#[must_use = "a builder does nothing before `build`"]
pub struct RedisBackendBuilder {
    url: String,
    adjust: Vec<Box<dyn FnOnce(ConnectionInfo) -> ConnectionInfo + Send>>,
    sentinel: Option<SentinelUrls>,
    cluster: Option<Vec<String>>,
    connection: ConnectionSettings,
    entries: EntrySettings,
    breaker: CircuitBreaker,
    #[cfg(feature = "tls")]
    tls_certificates: Option<redis::TlsCertificates>,
}

struct SentinelUrls {
    primary_name: String,
    urls: Vec<String>,
}

/// What the URLs lead to.
enum Servers {
    Single(Target),
    Cluster { seeds: Vec<ConnectionInfo> },
}

impl RedisBackend {
    /// Returns a builder for a backend on the server at `url`.
    ///
    /// The scheme is `redis://`, `rediss://` (feature `tls`) or `unix://`. The URL has user, password and
    /// database where the server needs them, as described at [`IntoConnectionInfo`](redis::IntoConnectionInfo).
    /// [`RedisBackendBuilder::build`] checks it.
    pub fn builder(url: impl Into<String>) -> RedisBackendBuilder {
        RedisBackendBuilder {
            url: url.into(),
            adjust: Vec::new(),
            sentinel: None,
            cluster: None,
            connection: ConnectionSettings::default(),
            entries: EntrySettings::default(),
            breaker: CircuitBreaker::new(NAME),
            #[cfg(feature = "tls")]
            tls_certificates: None,
        }
    }
}

impl RedisBackendBuilder {
    /// Sets the prefix of every key in the store.
    ///
    /// Defaults to `groupcache`. Caches with different prefixes share nothing. Caches with the same prefix on
    /// the same server and database share their entries and generations.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.entries.key_prefix = prefix.into();
        self
    }

    /// Finds the primary of this name through Sentinel, at these URLs (`redis://host:26379`).
    ///
    /// Defaults to no Sentinel. User, password, database and TLS for the primary come from the URL of the
    /// backend, such as `redis://:password@primary/0`. Its host and port are not used.
    ///
    /// All sentinels are queried at each connection, and then once per
    /// [`watch_interval`](Self::watch_interval). More than half of them must answer, within a quarter of
    /// [`connect_time_limit`](Self::connect_time_limit). The configuration with the highest epoch counts. So a
    /// sentinel that is cut off from the others cannot name a primary from before a failover.
    ///
    /// If a primary is cut off from its sentinels together with one of your processes, it still acknowledges
    /// the invalidations of that process: set [`wait_for_replicas`](Self::wait_for_replicas) as well.
    /// Excludes [`cluster`](Self::cluster).
    ///
    /// ```
    /// use groupcache_redis::RedisBackend;
    ///
    /// let urls = ["redis://one:26379", "redis://two:26379", "redis://three:26379"];
    /// let backend = RedisBackend::builder("redis://primary/0").sentinel("main", urls).build()?;
    /// # Ok::<(), groupcache_core::Error>(())
    /// ```
    pub fn sentinel<U: Into<String>>(
        mut self,
        primary_name: impl Into<String>,
        urls: impl IntoIterator<Item = U>,
    ) -> Self {
        let urls = urls.into_iter().map(Into::into).collect();
        self.sentinel = Some(SentinelUrls { primary_name: primary_name.into(), urls });
        self
    }

    /// Connects to a Redis Cluster, of which the URL of the backend and these URLs are nodes.
    ///
    /// Defaults to no cluster. The backend finds all other nodes through the first one that answers. User,
    /// password and TLS for every node come from the URL of the backend. Excludes
    /// [`sentinel`](Self::sentinel), a socket file, and a database other than 0.
    ///
    /// ```
    /// use groupcache_redis::RedisBackend;
    ///
    /// let backend = RedisBackend::builder("redis://one:6379").cluster(["redis://two:6379"]).build()?;
    /// # Ok::<(), groupcache_core::Error>(())
    /// ```
    pub fn cluster<U: Into<String>>(mut self, other_urls: impl IntoIterator<Item = U>) -> Self {
        self.cluster = Some(other_urls.into_iter().map(Into::into).collect());
        self
    }

    /// Sets for how long the configuration epoch of a cluster node is valid after it was confirmed.
    ///
    /// Defaults to zero: every lookup confirms it, in the same round trip (`CLUSTER INFO`).
    ///
    /// More than zero saves that command, and **gives up the guarantee** in a rare case. A slot leaves a
    /// node, the other node acknowledges an invalidation and loses it, and the slot comes back. Then
    /// invalidated entries may be served for up to this interval.
    pub const fn cluster_check_interval(mut self, interval: Duration) -> Self {
        self.connection.cluster_check_interval = interval;
        self
    }

    /// Makes an invalidation fail unless this many replicas acknowledge it within `time_limit` (`WAIT`).
    ///
    /// Defaults to not waiting. If set, bumps have a connection of their own, whose
    /// [`response_time_limit`](Self::response_time_limit) is longer by `time_limit`. Too few replicas fail the
    /// invalidation, and do not open the circuit breaker: the primary can still be read from.
    pub const fn wait_for_replicas(mut self, replicas: u32, time_limit: Duration) -> Self {
        self.connection.wait_for_replicas = Some(ReplicaWait { replicas, time_limit });
        self
    }

    /// Sets the time limit for connecting: finding the server, logging in and identifying it.
    ///
    /// Defaults to 1 second.
    pub const fn connect_time_limit(mut self, limit: Duration) -> Self {
        self.connection.connect_time_limit = limit;
        self
    }

    /// Sets how long a response may take before the operation fails and the connection is discarded.
    ///
    /// Defaults to 500 milliseconds. A single [`lookup`](groupcache_core::Backend::lookup) has no limit here:
    /// the cache has [`read_time_limit`](groupcache_core::CacheBuilder::read_time_limit) for it. A caller
    /// that uses the backend without a cache must set a limit of its own.
    pub const fn response_time_limit(mut self, limit: Duration) -> Self {
        self.connection.response_time_limit = limit;
        self
    }

    /// Sets how often a connection is checked: whether the server answers, whether the address still leads to
    /// it, and whether the sentinels agree.
    ///
    /// Defaults to 1 second. Each check opens a connection, which resolves the name again, and transfers a few
    /// hundred bytes on each connection that there is. With TLS, the handshake takes the server about a
    /// millisecond.
    ///
    /// The interval bounds how long a process uses a server that is still a primary after its address leads to
    /// another one. If the role of a server changes, every request notices it by itself.
    pub const fn watch_interval(mut self, interval: Duration) -> Self {
        self.connection.watch_interval = interval;
        self
    }

    /// Sets the pause after a failed attempt to connect: `min` after the first failure, twice as long after
    /// each further one, up to `max`.
    ///
    /// Defaults to 50 milliseconds and 2 seconds. A random part of up to half of the pause is subtracted.
    pub const fn backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.connection.backoff_min, self.connection.backoff_max) = (min, max);
        self
    }

    /// Sets the circuit breaker, which keeps reads away from a server that does not answer.
    ///
    /// In a cluster each node has a breaker of its own with these settings. What a node has whose breaker is
    /// open counts as missing, and the other nodes are used.
    ///
    /// Defaults to [`CircuitBreaker::new`], which is enabled. `failures_to_open(0)` disables it.
    pub fn circuit_breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.breaker = breaker;
        self
    }

    /// Sets the time to live of entries that are stored without one.
    ///
    /// Defaults to 30 days. Generations live one day longer than the entry with the longest time to live that
    /// this process has stored, and never less than one day longer than this.
    pub const fn default_time_to_live(mut self, time_to_live: Duration) -> Self {
        self.entries.default_time_to_live = time_to_live;
        self
    }

    /// Sets the maximum size of a body.
    ///
    /// Defaults to 8 MiB, which takes 70 ms at 1 Gbit/s. The maximum is 511 MiB. The backend refuses larger
    /// bodies with [`Capacity`](groupcache_core::ErrorKind::Capacity) before it sends anything.
    ///
    /// Lookups and stores wait for the large bodies of others, because they share a connection. Mints and
    /// invalidations have another one. With larger bodies, raise
    /// [`read_time_limit`](groupcache_core::CacheBuilder::read_time_limit) and
    /// [`response_time_limit`](Self::response_time_limit) as well: a lookup that takes longer than the former
    /// is a miss.
    pub const fn max_entry_bytes(mut self, bytes: usize) -> Self {
        self.entries.max_entry_bytes = bytes;
        self
    }

    /// Adds a function that changes how the client connects, for what has no setting here: TCP settings,
    /// protocol version, library name.
    ///
    /// Defaults to no change. The function receives what the URL of the backend specifies. It does not apply
    /// to sentinels.
    pub fn adjust_connection(
        mut self,
        adjust: impl FnOnce(ConnectionInfo) -> ConnectionInfo + Send + 'static,
    ) -> Self {
        self.adjust.push(Box::new(adjust));
        self
    }

    /// Sets options of the client: DNS resolver, concurrency limit, buffer sizes.
    ///
    /// Defaults to those of the client. The time limits among them are not used. The client-side cache of the
    /// client must stay disabled: it can return generations from before an invalidation.
    pub fn client_options(mut self, options: AsyncConnectionConfig) -> Self {
        self.connection.client_options = options;
        self
    }

    /// Sets certificates for `rediss://`: another root, or a client certificate for mutual TLS.
    ///
    /// Defaults to the roots of the platform and no client certificate.
    #[cfg(feature = "tls")]
    pub fn tls_certificates(mut self, certificates: redis::TlsCertificates) -> Self {
        self.tls_certificates = Some(certificates);
        self
    }

    /// Sets the clock by which the backend computes when an entry expires.
    ///
    /// Defaults to [`SystemClock`](groupcache_core::SystemClock). The cache must have the same clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.entries.clock = Arc::new(clock);
        self
    }

    /// Returns the backend. It connects at its first operation, or at [`RedisBackend::connect`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if a setting is wrong. The
    /// message names it.
    pub fn build(mut self) -> Result<RedisBackend> {
        self.check()?;
        let servers = self.servers()?;
        let description = format!("{servers:?}");
        self.connection.trial_key = format!("{}:trial", self.entries.key_prefix);
        let settings = Arc::new(self.connection);
        let route = match servers {
            Servers::Single(target) => Route::to_node(Node::new(target, settings)),
            Servers::Cluster { seeds } => {
                Route::Cluster(Cluster::new(seeds, settings, self.breaker.for_another_server()))
            }
        };
        let breaker = match route {
            Route::Node(_) => self.breaker,
            // Each node has one of its own.
            Route::Cluster(_) => self.breaker.failures_to_open(0),
        };
        Ok(RedisBackend::new(Operations::new(route, self.entries), breaker, description))
    }

    /// Checks the settings that do not depend on a URL.
    fn check(&self) -> Result<()> {
        for (setting, duration) in [
            ("connect_time_limit", self.connection.connect_time_limit),
            ("response_time_limit", self.connection.response_time_limit),
            ("watch_interval", self.connection.watch_interval),
            ("default_time_to_live", self.entries.default_time_to_live),
        ] {
            if duration.is_zero() {
                return Err(Error::configuration(NAME, format!("`{setting}` is zero")));
            }
        }
        if self.connection.backoff_min > self.connection.backoff_max {
            return Err(Error::configuration(NAME, "the minimum of `backoff` is above its maximum"));
        }
        if self.entries.max_entry_bytes == 0 || self.entries.max_entry_bytes > ENTRY_BYTES_MAX {
            let message = format!("`max_entry_bytes` is not between 1 and {ENTRY_BYTES_MAX}");
            return Err(Error::configuration(NAME, message));
        }
        if let Some(ReplicaWait { replicas, time_limit }) = self.connection.wait_for_replicas
            && (replicas == 0 || time_limit.is_zero())
        {
            return Err(Error::configuration(NAME, "`wait_for_replicas` has no replicas or no time limit"));
        }
        Ok(())
    }

    /// Takes and parses the URLs.
    fn servers(&mut self) -> Result<Servers> {
        let url = std::mem::take(&mut self.url);
        let adjust = std::mem::take(&mut self.adjust);
        let primary = adjust.into_iter().fold(self.parse("url", &url)?, |info, adjust| adjust(info));
        match (self.cluster.take(), self.sentinel.take()) {
            (Some(_), Some(_)) => {
                Err(Error::configuration(NAME, "`cluster` and `sentinel` exclude each other"))
            }
            (Some(urls), None) => self.cluster_servers(primary, &urls),
            (None, Some(sentinel)) => self.sentinel_servers(primary, sentinel),
            (None, None) => Ok(Servers::Single(Target::Node(Box::new(primary)))),
        }
    }

    fn cluster_servers(&self, primary: ConnectionInfo, urls: &[String]) -> Result<Servers> {
        if matches!(primary.addr(), ConnectionAddr::Unix(_)) {
            return Err(Error::configuration(NAME, "`url` is a socket file, and a cluster has none"));
        }
        if primary.redis_settings().db() != 0 {
            return Err(Error::configuration(NAME, "`url` has a database number; a cluster has only 0"));
        }
        let mut seeds = vec![primary];
        for url in urls {
            let other = self.parse("cluster", url)?;
            seeds.push(seeds[0].clone().set_addr(other.addr().clone()));
        }
        Ok(Servers::Cluster { seeds })
    }

    fn sentinel_servers(&self, primary: ConnectionInfo, sentinel: SentinelUrls) -> Result<Servers> {
        let SentinelUrls { primary_name, urls } = sentinel;
        if urls.is_empty() || primary_name.is_empty() {
            return Err(Error::configuration(NAME, "`sentinel` has no name or no URL"));
        }
        if matches!(primary.addr(), ConnectionAddr::Unix(_)) {
            return Err(Error::configuration(
                NAME,
                "`url` is a socket file, which Sentinel does not support",
            ));
        }
        let sentinels = urls.iter().map(|url| self.parse("sentinel", url)).collect::<Result<_>>()?;
        let target = SentinelTarget { sentinels, primary_name, primary };
        Ok(Servers::Single(Target::Sentinel(Box::new(target))))
    }

    fn parse(&self, setting: &str, url: &str) -> Result<ConnectionInfo> {
        #[cfg(feature = "tls")]
        return urls::parse(setting, url, self.tls_certificates.as_ref());
        #[cfg(not(feature = "tls"))]
        urls::parse(setting, url)
    }
}

impl fmt::Debug for RedisBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackendBuilder")
            .field("key_prefix", &self.entries.key_prefix)
            .field("connect_time_limit", &self.connection.connect_time_limit)
            .field("response_time_limit", &self.connection.response_time_limit)
            .field("wait_for_replicas", &self.connection.wait_for_replicas)
            .field("default_time_to_live", &self.entries.default_time_to_live)
            .field("max_entry_bytes", &self.entries.max_entry_bytes)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(target) => target.fmt(f),
            Self::Cluster { seeds } => {
                let addresses: Vec<_> = seeds.iter().map(|info| info.addr().to_string()).collect();
                write!(f, "Cluster({addresses:?})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use groupcache_core::ErrorKind;

    use super::*;

    fn refused(builder: RedisBackendBuilder, setting: &str) {
        let error = builder.build().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(&format!("`{setting}`")), "{error} does not name {setting}");
        assert!(!format!("{error:?}{error}").contains("secret"), "{error:?}");
    }

    fn builder() -> RedisBackendBuilder {
        RedisBackend::builder("redis://:secret@127.0.0.1:6379/0")
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for url in ["", "localhost", "http://localhost", "redis://", "redis://:secret@host/db", "redis://h:x"]
        {
            refused(RedisBackend::builder(url), "url");
        }
        refused(builder().connect_time_limit(Duration::ZERO), "connect_time_limit");
        refused(builder().response_time_limit(Duration::ZERO), "response_time_limit");
        refused(builder().watch_interval(Duration::ZERO), "watch_interval");
        refused(builder().default_time_to_live(Duration::ZERO), "default_time_to_live");
        refused(builder().backoff(Duration::from_secs(2), Duration::from_secs(1)), "backoff");
        refused(builder().max_entry_bytes(0), "max_entry_bytes");
        refused(builder().max_entry_bytes(1 << 30), "max_entry_bytes");
        refused(builder().wait_for_replicas(0, Duration::from_secs(1)), "wait_for_replicas");
        refused(builder().wait_for_replicas(1, Duration::ZERO), "wait_for_replicas");
        refused(builder().sentinel("main", [""; 0]), "sentinel");
        refused(builder().sentinel("main", ["nowhere"]), "sentinel");
        refused(RedisBackend::builder("unix:///tmp/s").sentinel("main", ["redis://h:26379"]), "url");
        refused(builder().cluster(["nowhere"]), "cluster");
        refused(builder().cluster([""; 0]).sentinel("main", ["redis://h:26379"]), "cluster");
        refused(RedisBackend::builder("unix:///tmp/s").cluster([""; 0]), "url");
        refused(RedisBackend::builder("redis://h/1").cluster([""; 0]), "url");
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn an_error_names_the_missing_tls_feature() {
        let error = RedisBackend::builder("rediss://host").build().map(drop).unwrap_err();
        assert!(error.to_string().contains("`tls`"), "{error}");
    }

    #[test]
    fn debug_shows_no_password() {
        let backend = builder().sentinel("main", ["redis://:secret@127.0.0.1:1"]).build().unwrap();
        let shown = format!("{backend:?} {:?}", builder());
        assert!(!shown.contains("secret"), "{shown}");
        assert!(shown.contains("127.0.0.1:1"), "{shown}");
    }

    #[test]
    fn public_types_can_be_sent_and_shared() {
        const fn send<T: Send>() {}
        const fn send_and_sync<T: Send + Sync>() {}
        send_and_sync::<RedisBackend>();
        send_and_sync::<crate::advice::Advice>();
        // Not `Sync`: it holds the functions of `adjust_connection`.
        send::<RedisBackendBuilder>();
    }
}
