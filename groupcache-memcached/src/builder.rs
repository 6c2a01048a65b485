//! Setting up a backend.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use groupcache_core::backend::CircuitBreaker;

use groupcache_core::{Clock, Error, Result, SystemClock};

use crate::backend::{Inner, MemcachedBackend};
use crate::error::NAME;
use crate::placement::Placement;
use crate::routing::ServerList;
use crate::server::{Server, Settings};

/// What is more is a mistake, and more than clocks and counters can add.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);
const MOST_CONNECTIONS: usize = 65_536;

/// Sets up a [`MemcachedBackend`].
#[must_use = "nothing is set up before `build`"]
pub struct MemcachedBackendBuilder {
    servers: String,
    overlap: Option<(String, Option<String>)>,
    key_prefix: String,
    settings: Settings,
    default_time_to_live: Duration,
    max_entry_bytes: Option<usize>,
    breaker: Box<dyn Fn() -> CircuitBreaker + Send>,
}

impl MemcachedBackendBuilder {
    pub(crate) fn new(servers: String) -> Self {
        Self {
            servers,
            overlap: None,
            key_prefix: "groupcache".into(),
            settings: Settings {
                max_connections: 64,
                connect_time_limit: Duration::from_secs(1),
                response_time_limit: Duration::from_millis(500),
                backoff_min: Duration::from_millis(50),
                backoff_max: Duration::from_secs(2),
                clock: Arc::new(SystemClock),
            },
            default_time_to_live: Duration::from_secs(30 * 24 * 3600),
            max_entry_bytes: None,
            breaker: Box::new(|| CircuitBreaker::new(NAME)),
        }
    }

    /// What stands before every key in the store: at most 183 visible ASCII characters. Caches with
    /// different prefixes never meet; those with the same prefix and servers are one. Defaults to
    /// `groupcache`.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// Another list of servers, `memcached://host:port,host:port`, where invalidations and deletions
    /// go as well: for the time in which the list changes. One that does not reach both is an error.
    /// Everything else stays with the backend's own list. Defaults to none.
    ///
    /// How to change a list is described [on the crate](crate#changing-the-list-of-servers).
    pub fn overlap(mut self, servers: impl Into<String>) -> Self {
        self.overlap = Some((servers.into(), self.overlap.and_then(|(_, prefix)| prefix)));
        self
    }

    /// The prefix of the keys on the servers of [`overlap`](Self::overlap), where the prefix changes
    /// with the list. Defaults to [`key_prefix`](Self::key_prefix).
    pub fn overlap_key_prefix(mut self, prefix: impl Into<String>) -> Self {
        let (servers, _) = self.overlap.unwrap_or_default();
        self.overlap = Some((servers, Some(prefix.into())));
        self
    }

    /// The most connections to each server, up to 65,536. One carries one batch at a time; whoever finds all in use
    /// waits for one, for [`connect_time_limit`](Self::connect_time_limit) at most. Defaults to 64.
    ///
    /// A server refuses connections beyond its option `-c`, 1024 if that is not set: all processes
    /// together should stay below it.
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = connections;
        self
    }

    /// How long it may take to find a server, to connect to it and to ask it who it is. Defaults to 1 s.
    pub const fn connect_time_limit(mut self, limit: Duration) -> Self {
        self.settings.connect_time_limit = limit;
        self
    }

    /// How long a server may take to answer before the call fails and its connection is closed.
    /// Defaults to 500 ms. SharedReads give up earlier, after the cache's soft time limit.
    pub const fn response_time_limit(mut self, limit: Duration) -> Self {
        self.settings.response_time_limit = limit;
        self
    }

    /// How long after a failed attempt to connect to a server the next may begin: `min` after the first,
    /// twice as long after each, up to `max`; a random part of up to half of it is taken off. Defaults
    /// to 50 ms and 2 s.
    pub const fn backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.settings.backoff_min, self.settings.backoff_max) = (min, max);
        self
    }

    /// What keeps reads away from a server that does not answer; called once for each server. Defaults
    /// to [`CircuitBreaker::new`], which is on; `failures_to_open(0)` switches it off.
    pub fn circuit_breaker(mut self, breaker: impl Fn() -> CircuitBreaker + Send + 'static) -> Self {
        self.breaker = Box::new(breaker);
        self
    }

    /// How long entries live if nobody says. Defaults to 30 days. Generations live up to a day longer
    /// than the longest-lived entry.
    pub const fn default_time_to_live(mut self, time_to_live: Duration) -> Self {
        self.default_time_to_live = time_to_live;
        self
    }

    /// The largest body that is stored; a larger one is refused with
    /// [`Capacity`](groupcache_core::ErrorKind::Capacity) before anything is sent, and so is one that is
    /// too large for its server (its option `-I`, 1 MiB if that is not set). The first of them is
    /// logged. Defaults to what the servers take.
    pub const fn max_entry_bytes(mut self, bytes: usize) -> Self {
        self.max_entry_bytes = Some(bytes);
        self
    }

    /// Where the time comes from that is compared with the cache's; give both the same. Defaults to
    /// [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = Arc::new(clock);
        self
    }

    /// The backend. Connects at the first use; see [`MemcachedBackend::connect`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if a setting is wrong;
    /// names it.
    pub fn build(self) -> Result<MemcachedBackend> {
        let settings = self.settings;
        for (setting, limit) in [
            ("connect_time_limit", settings.connect_time_limit),
            ("response_time_limit", settings.response_time_limit),
            ("default_time_to_live", self.default_time_to_live),
        ] {
            if limit.is_zero() {
                return Err(Error::configuration(NAME, format!("`{setting}` is zero")));
            }
        }
        for (setting, limit) in [
            ("connect_time_limit", settings.connect_time_limit),
            ("response_time_limit", settings.response_time_limit),
            ("backoff", settings.backoff_max),
        ] {
            if limit > LONGEST_WAIT {
                let message = format!("`{setting}` is more than a day");
                return Err(Error::configuration(NAME, message));
            }
        }
        if settings.max_connections > MOST_CONNECTIONS {
            let message = format!("`max_connections` is more than {MOST_CONNECTIONS}");
            return Err(Error::configuration(NAME, message));
        }
        if settings.backoff_min > settings.backoff_max {
            return Err(Error::configuration(NAME, "`backoff` begins above its end"));
        }
        for (setting, is_zero) in [
            ("max_connections", settings.max_connections == 0),
            ("max_entry_bytes", self.max_entry_bytes == Some(0)),
        ] {
            if is_zero {
                return Err(Error::configuration(NAME, format!("`{setting}` is at least 1")));
            }
        }
        let mut names = Vec::new();
        let list = ServerList::parse("servers", &self.servers)?;
        let placement = Placement::new(list, self.key_prefix.clone(), &mut names)?;
        let own = names.len();
        let overlap = match self.overlap {
            None => None,
            Some((servers, prefix)) => {
                let list = ServerList::parse("overlap", &servers)?;
                Some(Placement::new(list, prefix.unwrap_or(self.key_prefix), &mut names)?)
            }
        };
        let server = |(at, name)| Server::new(name, at >= own, settings.clone(), (self.breaker)());
        Ok(MemcachedBackend::from_inner(Inner {
            servers: names.into_iter().enumerate().map(server).collect(),
            placement,
            overlap,
            clock: Arc::clone(&settings.clock),
            default_time_to_live: self.default_time_to_live,
            max_entry_bytes: self.max_entry_bytes,
            max_time_to_live_seconds: AtomicU64::new(0),
            too_large_logged: AtomicBool::new(false),
        }))
    }
}

impl fmt::Debug for MemcachedBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcachedBackendBuilder")
            .field("servers", &self.servers)
            .field("overlap", &self.overlap)
            .field("key_prefix", &self.key_prefix)
            .field("settings", &self.settings)
            .field("default_time_to_live", &self.default_time_to_live)
            .field("max_entry_bytes", &self.max_entry_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use groupcache_core::ErrorKind;

    use super::*;

    fn refused(builder: MemcachedBackendBuilder, setting: &str) {
        let error = builder.build().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(&format!("`{setting}`")), "{error} does not name {setting}");
    }

    fn builder() -> MemcachedBackendBuilder {
        MemcachedBackend::builder("memcached://127.0.0.1,127.0.0.2:11212")
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for servers in ["", "localhost", "redis://localhost", "memcached://", "memcached://a,a"] {
            refused(MemcachedBackend::builder(servers), "servers");
            refused(builder().overlap(servers), "overlap");
        }
        refused(builder().overlap_key_prefix("other"), "overlap");
        refused(builder().connect_time_limit(Duration::ZERO), "connect_time_limit");
        refused(builder().response_time_limit(Duration::ZERO), "response_time_limit");
        refused(builder().default_time_to_live(Duration::ZERO), "default_time_to_live");
        refused(builder().backoff(Duration::from_secs(2), Duration::from_secs(1)), "backoff");
        refused(builder().max_entry_bytes(0), "max_entry_bytes");
        refused(builder().max_connections(0), "max_connections");
        refused(builder().max_connections(usize::MAX), "max_connections");
        refused(builder().response_time_limit(Duration::MAX), "response_time_limit");
        refused(builder().backoff(Duration::ZERO, Duration::MAX), "backoff");
        refused(builder().key_prefix("a prefix"), "key_prefix");
        refused(builder().key_prefix("x".repeat(184)), "key_prefix");
    }

    #[test]
    fn the_settings_of_an_overlap_may_come_in_any_order() {
        let one = builder().overlap("memcached://c").overlap_key_prefix("new");
        let other = builder().overlap_key_prefix("new").overlap("memcached://c");
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        assert!(one.build().is_ok() && other.build().is_ok());
    }
}
