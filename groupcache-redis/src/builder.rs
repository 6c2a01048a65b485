//! Setting up a backend.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use groupcache_core::backend::CircuitBreaker;

use groupcache_core::{Clock, Error, Result, SystemClock};
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use crate::backend::{Inner, RedisBackend};
use crate::cluster::Cluster;
use crate::connection::{Line, Settings, Target};
use crate::error::{NAME, failure_from};
use crate::names::Names;
use crate::route::{Node, Route, Waiting};

/// The longest string that the protocol carries (`proto-max-bulk-len`), less room for what an entry
/// has beside its body.
const ENTRY_BYTES_MAX: usize = (512 << 20) - (1 << 20);

/// Sets up a [`RedisBackend`].
#[must_use = "nothing is set up before `build`"]
pub struct RedisBackendBuilder {
    url: String,
    adjust: Vec<Box<dyn FnOnce(ConnectionInfo) -> ConnectionInfo + Send>>,
    sentinel: Option<(String, Vec<String>)>,
    cluster: Option<Vec<String>>,
    cluster_check_interval: Duration,
    client_options: AsyncConnectionConfig,
    key_prefix: String,
    connect_time_limit: Duration,
    response_time_limit: Duration,
    watch_interval: Duration,
    backoff: (Duration, Duration),
    wait_for_replicas: Option<(u32, Duration)>,
    default_time_to_live: Duration,
    max_entry_bytes: usize,
    breaker: CircuitBreaker,
    clock: Arc<dyn Clock>,
    #[cfg(feature = "tls")]
    tls_certificates: Option<redis::TlsCertificates>,
}

impl RedisBackendBuilder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            adjust: Vec::new(),
            sentinel: None,
            cluster: None,
            cluster_check_interval: Duration::ZERO,
            client_options: AsyncConnectionConfig::new(),
            key_prefix: "groupcache".into(),
            connect_time_limit: Duration::from_secs(1),
            response_time_limit: Duration::from_millis(500),
            watch_interval: Duration::from_secs(1),
            backoff: (Duration::from_millis(50), Duration::from_secs(2)),
            wait_for_replicas: None,
            default_time_to_live: Duration::from_secs(30 * 24 * 3600),
            max_entry_bytes: ENTRY_BYTES_MAX,
            breaker: CircuitBreaker::new(NAME),
            clock: Arc::new(SystemClock),
            #[cfg(feature = "tls")]
            tls_certificates: None,
        }
    }

    /// What stands before every key in the store. Caches with different prefixes never meet; those
    /// with the same prefix, server and database are one. Defaults to `groupcache`.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// Asks these sentinels (`redis://host:26379`) for the address of the primary of this name, at
    /// each connection, and again and again while connected
    /// ([`watch_interval`](Self::watch_interval)). The backend's own URL then says how to talk to the
    /// primary, such as `redis://:password@primary/0`; its host and port are not used. Defaults to
    /// none.
    ///
    /// A primary that is cut off from its sentinels together with one of your processes goes on
    /// acknowledging to that process: use [`wait_for_replicas`](Self::wait_for_replicas) too.
    pub fn sentinel<U: Into<String>>(
        mut self,
        primary_name: impl Into<String>,
        urls: impl IntoIterator<Item = U>,
    ) -> Self {
        self.sentinel = Some((primary_name.into(), urls.into_iter().map(Into::into).collect()));
        self
    }

    /// Talks to a Redis Cluster, of which the backend's own URL and these are nodes; one that answers is
    /// enough to find all others. Every node is talked to as the backend's own URL says, but for host and
    /// port. Defaults to none.
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

    /// How long a node of a cluster is trusted to have been given no slot by another node since it was
    /// asked; after that the next lookup asks too, in the same round trip (`CLUSTER INFO`). Defaults to
    /// zero: every lookup asks.
    ///
    /// More than zero spares the nodes that question, and **gives up the promise** for a case that is
    /// rare: where a slot leaves a node, an invalidation is acknowledged and lost by the other one, and the
    /// slot comes back, what was invalidated may be served for up to this long after.
    pub const fn cluster_check_interval(mut self, interval: Duration) -> Self {
        self.cluster_check_interval = interval;
        self
    }

    /// Counts an invalidation as acknowledged only if this many replicas have it within `time_limit`
    /// (`WAIT`); it is an error otherwise. Bumps then have a connection of their own. Defaults to
    /// not waiting.
    pub const fn wait_for_replicas(mut self, replicas: u32, time_limit: Duration) -> Self {
        self.wait_for_replicas = Some((replicas, time_limit));
        self
    }

    /// How long it may take to connect: to find the server, to log in and to ask it who it is.
    /// Defaults to 1 s.
    pub const fn connect_time_limit(mut self, limit: Duration) -> Self {
        self.connect_time_limit = limit;
        self
    }

    /// How long the server may take to answer before the call fails and the connection is given up.
    /// Defaults to 500 ms. Reads give up earlier, after the cache's soft time limit; who calls
    /// [`lookup`](groupcache_core::Backend::lookup) without a cache sets a limit of his own, as a single
    /// lookup has none.
    pub const fn response_time_limit(mut self, limit: Duration) -> Self {
        self.response_time_limit = limit;
        self
    }

    /// How often the connection is checked: whether the server answers, is still the primary, and
    /// whether the sentinels still think so. A few hundred bytes each time. Defaults to 1 s.
    ///
    /// This bounds how long a server that was made a replica behind the connection's back
    /// (`REPLICAOF`; Sentinel closes the connections) is still read from.
    pub const fn watch_interval(mut self, interval: Duration) -> Self {
        self.watch_interval = interval;
        self
    }

    /// How long after a failed attempt to connect the next may begin: `min` after the first, twice as
    /// long after each, up to `max`; a random part of up to half of it is taken off. Defaults to 50 ms
    /// and 2 s.
    pub const fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.backoff = (min, max);
        self
    }

    /// What keeps reads away from a server that does not answer. Defaults to
    /// [`CircuitBreaker::new`], which is on; `failures_to_open(0)` switches it off.
    pub fn circuit_breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.breaker = breaker;
        self
    }

    /// How long entries live if nobody says. Defaults to 30 days. Generations live a day longer than
    /// the longest-lived entry of this process.
    pub const fn default_time_to_live(mut self, time_to_live: Duration) -> Self {
        self.default_time_to_live = time_to_live;
        self
    }

    /// The largest body that is stored; a larger one is refused with
    /// [`Capacity`](groupcache_core::ErrorKind::Capacity) before anything is sent. Large entries hold
    /// up all others on the connection. Defaults to, and is at most, 511 MiB.
    pub const fn max_entry_bytes(mut self, bytes: usize) -> Self {
        self.max_entry_bytes = bytes;
        self
    }

    /// Changes how the client connects in ways that have no setting here: TCP settings, protocol
    /// version, library name. Called with what the backend's own URL says; sentinels are talked to
    /// as theirs say.
    pub fn adjust_connection(
        mut self,
        adjust: impl FnOnce(ConnectionInfo) -> ConnectionInfo + Send + 'static,
    ) -> Self {
        self.adjust.push(Box::new(adjust));
        self
    }

    /// The client's own options: DNS resolver, concurrency limit, buffer sizes. The time limits in it
    /// are not used. The client's own client-side cache must not be switched on in it: it can return
    /// generations from before an invalidation.
    pub fn client_options(mut self, options: AsyncConnectionConfig) -> Self {
        self.client_options = options;
        self
    }

    /// Certificates for `rediss://`: a root other than the platform's, or one's own for mutual TLS.
    /// Defaults to the platform's roots.
    #[cfg(feature = "tls")]
    pub fn tls_certificates(mut self, certificates: redis::TlsCertificates) -> Self {
        self.tls_certificates = Some(certificates);
        self
    }

    /// Where the time comes from that is compared with the cache's; give both the same. Defaults to
    /// [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The backend. Connects at the first use; see [`RedisBackend::connect`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if a setting is wrong;
    /// names it.
    pub fn build(mut self) -> Result<RedisBackend> {
        for (setting, limit) in [
            ("connect_time_limit", self.connect_time_limit),
            ("response_time_limit", self.response_time_limit),
            ("watch_interval", self.watch_interval),
            ("default_time_to_live", self.default_time_to_live),
        ] {
            if limit.is_zero() {
                return Err(Error::configuration(NAME, format!("`{setting}` is zero")));
            }
        }
        if self.backoff.0 > self.backoff.1 {
            return Err(Error::configuration(NAME, "`backoff` begins above its end"));
        }
        if self.max_entry_bytes == 0 || self.max_entry_bytes > ENTRY_BYTES_MAX {
            let message = format!("`max_entry_bytes` is between 1 and {ENTRY_BYTES_MAX}");
            return Err(Error::configuration(NAME, message));
        }
        if let Some((replicas, limit)) = self.wait_for_replicas
            && (replicas == 0 || limit.is_zero())
        {
            return Err(Error::configuration(NAME, "`wait_for_replicas` needs replicas and a time limit"));
        }
        let (target, seeds) = self.target()?;
        let description = match &seeds {
            None => format!("{target:?}"),
            Some(seeds) => {
                let addresses: Vec<_> = seeds.iter().map(|info| info.addr().to_string()).collect();
                format!("Cluster({addresses:?})")
            }
        };
        let settings = Settings {
            target: target.clone(),
            client_options: self.client_options,
            connect_time_limit: self.connect_time_limit,
            response_time_limit: self.response_time_limit,
            watch_interval: self.watch_interval,
            backoff_min: self.backoff.0,
            backoff_max: self.backoff.1,
            check_interval: self.cluster_check_interval,
            waits_for_replicas: self.wait_for_replicas.is_some(),
            advised: Arc::default(),
        };
        let route = match seeds {
            Some(seeds) => Route::Cluster(Cluster::new(seeds, Arc::new(settings), self.wait_for_replicas)),
            None => {
                let waiting = self.wait_for_replicas.map(|(replicas, time_limit)| {
                    let line = Line::new(Arc::new(settings.with_target(target, time_limit)));
                    Waiting { line, replicas, time_limit }
                });
                Route::Node(Node { line: Line::new(Arc::new(settings)), waiting })
            }
        };
        Ok(RedisBackend::from_inner(Inner {
            names: Names(self.key_prefix),
            route,
            breaker: self.breaker,
            clock: self.clock,
            default_time_to_live: self.default_time_to_live,
            max_entry_bytes: self.max_entry_bytes,
            longest_millis: AtomicU64::new(0),
            description,
        }))
    }

    /// What is talked to, and if it is a cluster, where to begin.
    fn target(&mut self) -> Result<(Target, Option<Vec<ConnectionInfo>>)> {
        let url = std::mem::take(&mut self.url);
        let adjust = std::mem::take(&mut self.adjust);
        let primary = adjust.into_iter().fold(self.parse("url", &url)?, |info, adjust| adjust(info));
        if let Some(urls) = self.cluster.take() {
            if self.sentinel.is_some() {
                return Err(Error::configuration(NAME, "`cluster` and `sentinel` exclude each other"));
            }
            if matches!(primary.addr(), ConnectionAddr::Unix(_)) {
                return Err(Error::configuration(NAME, "`url` is a socket file, which a cluster has not"));
            }
            if primary.redis_settings().db() != 0 {
                return Err(Error::configuration(NAME, "`url` has a database number; a cluster has only 0"));
            }
            let mut seeds = vec![primary.clone()];
            for url in &urls {
                let other = self.parse("cluster", url)?;
                seeds.push(primary.clone().set_addr(other.addr().clone()));
            }
            return Ok((Target::ClusterNode(Box::new(primary)), Some(seeds)));
        }
        let Some((primary_name, urls)) = self.sentinel.take() else {
            return Ok((Target::Node(Box::new(primary)), None));
        };
        if urls.is_empty() || primary_name.is_empty() {
            return Err(Error::configuration(NAME, "`sentinel` needs a name and at least one URL"));
        }
        if matches!(primary.addr(), ConnectionAddr::Unix(_)) {
            return Err(Error::configuration(NAME, "`url` is a socket file, which sentinels do not know"));
        }
        let sentinels = urls.iter().map(|url| self.parse("sentinel", url)).collect::<Result<_>>()?;
        Ok((Target::Sentinel { sentinels, primary_name, primary: Box::new(primary) }, None))
    }

    fn parse(&self, setting: &str, url: &str) -> Result<ConnectionInfo> {
        // The URL itself is not shown: it may have a password in it.
        let wrong = |error| {
            let hint = if url.starts_with("rediss:") && !cfg!(feature = "tls") {
                "needs the feature `tls`"
            } else {
                "is no `redis://host:6379/0`, `rediss://…` or `unix:///path`"
            };
            let error = Error::from(failure_from(error));
            Error::configuration(NAME, format!("`{setting}` {hint}")).with_source(error)
        };
        let info = url.into_connection_info().map_err(wrong)?;
        if !info.addr().is_supported() {
            return Err(Error::configuration(NAME, format!("`{setting}` is of a kind not built in")));
        }
        #[cfg(feature = "tls")]
        let info = self.with_certificates(setting, info)?;
        Ok(Client::open(info).map_err(wrong)?.get_connection_info().clone())
    }

    #[cfg(feature = "tls")]
    fn with_certificates(&self, setting: &str, info: ConnectionInfo) -> Result<ConnectionInfo> {
        if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Ok(info);
        }
        // With several providers built in, rustls panics unless one was chosen. Whatever the
        // application has chosen stays.
        let _already_chosen = rustls::crypto::ring::default_provider().install_default();
        let Some(certificates) = &self.tls_certificates else { return Ok(info) };
        let client = Client::build_with_tls(info, certificates.clone()).map_err(|error| {
            let error = Error::from(failure_from(error));
            Error::configuration(NAME, format!("`tls_certificates` do not suit `{setting}`"))
                .with_source(error)
        })?;
        Ok(client.get_connection_info().clone())
    }
}

impl fmt::Debug for RedisBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackendBuilder")
            .field("key_prefix", &self.key_prefix)
            .field("connect_time_limit", &self.connect_time_limit)
            .field("response_time_limit", &self.response_time_limit)
            .field("wait_for_replicas", &self.wait_for_replicas)
            .field("default_time_to_live", &self.default_time_to_live)
            .field("max_entry_bytes", &self.max_entry_bytes)
            .finish_non_exhaustive()
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
    fn tls_that_is_not_built_in_is_said_to_be_missing() {
        let error = RedisBackend::builder("rediss://host").build().map(drop).unwrap_err();
        assert!(error.to_string().contains("`tls`"), "{error}");
    }

    #[test]
    fn nothing_shows_the_password() {
        let backend = builder().sentinel("main", ["redis://:secret@127.0.0.1:1"]).build().unwrap();
        let shown = format!("{backend:?} {:?}", builder());
        assert!(!shown.contains("secret"), "{shown}");
        assert!(shown.contains("127.0.0.1:1"), "{shown}");
    }
}
