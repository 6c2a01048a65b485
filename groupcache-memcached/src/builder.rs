//! The builder of a backend.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use groupcache_core::backend::CircuitBreaker;
use groupcache_core::{Clock, Error, Result};

use crate::backend::MemcachedBackend;
use crate::error::NAME;
use crate::placement::{Membership, Placement};
use crate::resolver::Resolver;
use crate::routing::ServerList;
use crate::server::Server;
use crate::servers::Servers;
use crate::settings::Settings;

/// Builds a [`MemcachedBackend`].
///
/// ```
/// use std::time::Duration;
///
/// use groupcache_memcached::MemcachedBackend;
///
/// let backend = MemcachedBackend::builder("memcached://cache-1:11211,cache-2:11211")
///     .key_prefix("bookstore")
///     .max_connections(16)
///     .response_time_limit(Duration::from_millis(200))
///     .build()?;
/// assert!(backend.open_circuits().is_empty());
/// # Ok::<(), groupcache_core::Error>(())
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct MemcachedBackendBuilder {
    servers: String,
    overlap_servers: Option<String>,
    overlap_key_prefix: Option<String>,
    key_prefix: String,
    settings: Settings,
    breaker: Box<dyn Fn() -> CircuitBreaker + Send + Sync>,
}

impl MemcachedBackend {
    /// Returns a builder of a backend on these servers: `memcached://host:port,host:port`. The port
    /// defaults to 11211.
    ///
    /// The spelling of the servers decides which server owns which key, so every process must spell them
    /// alike. Their order does not matter.
    pub fn builder(servers: impl Into<String>) -> MemcachedBackendBuilder {
        MemcachedBackendBuilder::new(servers.into())
    }
}

impl MemcachedBackendBuilder {
    fn new(servers: String) -> Self {
        Self {
            servers,
            overlap_servers: None,
            overlap_key_prefix: None,
            key_prefix: "groupcache".into(),
            settings: Settings::default(),
            breaker: Box::new(|| CircuitBreaker::new(NAME)),
        }
    }

    /// Sets the prefix of every key in the store: at most 183 visible ASCII characters. Defaults to
    /// `groupcache`.
    ///
    /// Caches with different prefixes share nothing. Caches with the same prefix and servers are one cache.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// Sets a second list of servers, `memcached://host:port,host:port`, that also receives invalidations
    /// and deletions. Defaults to none.
    ///
    /// It is meant for the time in which the list of servers changes, as described
    /// [in the crate documentation](crate#changing-the-list-of-servers). An invalidation is acknowledged
    /// only if the servers of both lists acknowledged it. All other operations use the backend's own list.
    pub fn overlap(mut self, servers: impl Into<String>) -> Self {
        self.overlap_servers = Some(servers.into());
        self
    }

    /// Sets the key prefix on the servers of [`overlap`](Self::overlap), for a prefix that changes together
    /// with the list. Defaults to [`key_prefix`](Self::key_prefix).
    pub fn overlap_key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.overlap_key_prefix = Some(prefix.into());
        self
    }

    /// Sets the maximum number of connections to each server, from 1 to 65,536. Defaults to 64.
    ///
    /// A connection carries one batch of commands at a time. A call that finds all connections in use waits
    /// for one for up to [`connect_time_limit`](Self::connect_time_limit).
    ///
    /// A server refuses connections beyond its option `-c`, which defaults to 1024. All processes together
    /// should stay below that number.
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = connections;
        self
    }

    /// Sets the time limit for resolving a server's address, connecting to it and completing the handshake.
    /// Defaults to 1 second.
    pub const fn connect_time_limit(mut self, limit: Duration) -> Self {
        self.settings.connect_time_limit = limit;
        self
    }

    /// Sets the time limit for the response to a batch of commands. Defaults to 500 milliseconds.
    ///
    /// When it is exceeded the call fails and its connection is closed. Reads through a cache fail earlier
    /// if the cache's `read_time_limit` is shorter.
    pub const fn response_time_limit(mut self, limit: Duration) -> Self {
        self.settings.response_time_limit = limit;
        self
    }

    /// Sets the pause between failed attempts to connect to a server: `min` after the first failure,
    /// doubled after each further one, up to `max`. Defaults to 50 milliseconds and 2 seconds.
    ///
    /// Each pause is shortened by a random part of up to one half.
    pub const fn backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.settings.backoff_min, self.settings.backoff_max) = (min, max);
        self
    }

    /// Sets the function that resolves the names of servers. Defaults to the resolver of the operating system.
    ///
    /// The function receives `host:port`, in lower case, and returns the addresses in the order in which to try
    /// them. Servers that are given as IP addresses are not resolved.
    ///
    /// All addresses of a name must lead to one server. If they do not, every call that needs the server
    /// fails with [`Configuration`](groupcache_core::ErrorKind::Configuration), and the message names the
    /// addresses.
    ///
    /// ```
    /// use groupcache_memcached::MemcachedBackend;
    ///
    /// let backend = MemcachedBackend::builder("memcached://cache-1,cache-2")
    ///     .resolver(|name| async move {
    ///         let host = if name.starts_with("cache-1:") { 1 } else { 2 };
    ///         Ok(vec![([10, 0, 0, host], 11211).into()])
    ///     })
    ///     .build()?;
    /// # drop(backend);
    /// # Ok::<(), groupcache_core::Error>(())
    /// ```
    pub fn resolver<Resolving>(
        mut self,
        resolve: impl Fn(String) -> Resolving + Send + Sync + 'static,
    ) -> Self
    where
        Resolving: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        self.settings.resolver = Resolver::new(resolve);
        self
    }

    /// Sets the maximum age of a resolved name. Defaults to 10 seconds.
    ///
    /// A name is resolved again in the background when half of it is over, if the server is in use. If all of
    /// it is over, as after an idle time, the next call waits for the resolution. If the name leads elsewhere,
    /// all connections to the server are replaced. A name that cannot be resolved is taken to lead where it
    /// led.
    ///
    /// Before a name moves to another server, the old one must be stopped, or cut off for longer than this. See
    /// [names of servers](crate#names-of-servers).
    pub const fn resolve_interval(mut self, interval: Duration) -> Self {
        self.settings.resolve_interval = interval;
        self
    }

    /// Sets the function that creates the circuit breaker of each server. Defaults to
    /// [`CircuitBreaker::new`].
    ///
    /// While the breaker of a server is open, calls that need the server fail at once. Invalidations and
    /// deletions are sent all the same. Calls that fail because all connections are in use, or because a
    /// connection that worked before does not respond, are not counted. A breaker with `failures_to_open(0)` never opens.
    pub fn circuit_breaker(mut self, breaker: impl Fn() -> CircuitBreaker + Send + Sync + 'static) -> Self {
        self.breaker = Box::new(breaker);
        self
    }

    /// Sets the time to live of entries that are stored without one. Defaults to 30 days.
    ///
    /// Generations live up to a day longer than the longest time to live that this process has used.
    pub const fn default_time_to_live(mut self, time_to_live: Duration) -> Self {
        self.settings.default_time_to_live = time_to_live;
        self
    }

    /// Sets the maximum size of an entry's body in bytes. Defaults to no maximum.
    ///
    /// A larger entry is refused with [`Capacity`](groupcache_core::ErrorKind::Capacity) before anything is
    /// sent, and so is an entry that exceeds the item limit of its server (option `-I`, 1 MiB by default).
    /// The first refusal is logged.
    pub const fn max_entry_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_entry_bytes = Some(bytes);
        self
    }

    /// Sets the clock. Defaults to [`SystemClock`](groupcache_core::SystemClock).
    ///
    /// The cache compares its own clock with the expiry times of this one, so both must be the same.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = Arc::new(clock);
        self
    }

    /// Builds the backend, which connects at first use. To connect at once, call
    /// [`MemcachedBackend::connect`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if a setting is invalid. The
    /// message names the setting.
    pub fn build(self) -> Result<MemcachedBackend> {
        self.settings.validate()?;
        let mut names = Vec::new();
        let list = ServerList::parse("servers", &self.servers)?;
        let placement = Placement::new(list, self.key_prefix.clone(), &mut names)?;
        let own_count = names.len();
        let overlap = self.overlap_placement(&mut names)?;
        let server = |(position, name)| {
            let membership = if position < own_count { Membership::Own } else { Membership::OverlapOnly };
            Server::new(name, membership, self.settings.clone(), (self.breaker)())
        };
        let all = names.into_iter().enumerate().map(server).collect();
        Ok(MemcachedBackend::new(Servers::new(all, placement, overlap, self.settings.clone())))
    }

    fn overlap_placement(&self, names: &mut Vec<String>) -> Result<Option<Placement>> {
        let Some(servers) = &self.overlap_servers else {
            return match &self.overlap_key_prefix {
                None => Ok(None),
                Some(_) => Err(Error::configuration(NAME, "`overlap_key_prefix` requires `overlap`")),
            };
        };
        let list = ServerList::parse("overlap", servers)?;
        let key_prefix = self.overlap_key_prefix.as_ref().unwrap_or(&self.key_prefix);
        Placement::new(list, key_prefix.clone(), names).map(Some)
    }
}

/// Returns the names of the servers, or what is wrong with them. An invalid list itself may contain a password.
fn names(setting: &str, servers: &str) -> Vec<String> {
    #[cfg(groupcache_mutants)]
    if groupcache_core::mutants::is_on("debug_of_servers") {
        return vec![servers.to_owned()];
    }
    let list = ServerList::parse(setting, servers);
    list.map_or_else(|error| vec![error.to_string()], |list| list.names().to_vec())
}

impl fmt::Debug for MemcachedBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let overlap = self.overlap_servers.as_deref().map(|servers| names("overlap", servers));
        f.debug_struct("MemcachedBackendBuilder")
            .field("servers", &names("servers", &self.servers))
            .field("overlap", &overlap)
            .field("key_prefix", &self.key_prefix)
            .field("overlap_key_prefix", &self.overlap_key_prefix)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use groupcache_core::ErrorKind;

    use super::*;

    fn assert_refused(builder: MemcachedBackendBuilder, setting: &str) {
        let error = builder.build().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(&format!("`{setting}`")), "{error} does not name {setting}");
    }

    fn builder() -> MemcachedBackendBuilder {
        MemcachedBackend::builder("memcached://127.0.0.1,127.0.0.2:11212")
    }

    #[test]
    fn an_invalid_setting_is_refused_and_named() {
        for servers in ["", "localhost", "redis://localhost", "memcached://", "memcached://a,a"] {
            assert_refused(MemcachedBackend::builder(servers), "servers");
            assert_refused(builder().overlap(servers), "overlap");
        }
        assert_refused(builder().overlap_key_prefix("other"), "overlap");
        assert_refused(builder().connect_time_limit(Duration::ZERO), "connect_time_limit");
        assert_refused(builder().response_time_limit(Duration::ZERO), "response_time_limit");
        assert_refused(builder().default_time_to_live(Duration::ZERO), "default_time_to_live");
        assert_refused(builder().backoff(Duration::from_secs(2), Duration::from_secs(1)), "backoff");
        assert_refused(builder().max_entry_bytes(0), "max_entry_bytes");
        assert_refused(builder().max_connections(0), "max_connections");
        assert_refused(builder().max_connections(usize::MAX), "max_connections");
        assert_refused(builder().response_time_limit(Duration::MAX), "response_time_limit");
        assert_refused(builder().backoff(Duration::ZERO, Duration::MAX), "backoff");
        assert_refused(builder().resolve_interval(Duration::ZERO), "resolve_interval");
        assert_refused(builder().resolve_interval(Duration::MAX), "resolve_interval");
        assert_refused(builder().key_prefix("a prefix"), "key_prefix");
        assert_refused(builder().key_prefix("x".repeat(184)), "key_prefix");
    }

    #[test]
    fn the_order_of_the_overlap_setters_does_not_matter() {
        let one = builder().overlap("memcached://c").overlap_key_prefix("new");
        let other = builder().overlap_key_prefix("new").overlap("memcached://c");
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        assert!(one.build().is_ok() && other.build().is_ok());
    }
}
