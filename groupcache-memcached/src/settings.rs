//! The settings of a backend: the builder collects and validates them, the other files read them.

use std::sync::Arc;
use std::time::Duration;

use groupcache_core::{Clock, Error, Result, SystemClock};

use crate::error::NAME;
use crate::resolver::Resolver;

/// The settings that apply to every server of a backend.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) max_connections: usize,
    pub(crate) connect_time_limit: Duration,
    pub(crate) response_time_limit: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) default_time_to_live: Duration,
    pub(crate) max_entry_bytes: Option<usize>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) resolver: Resolver,
    pub(crate) resolve_interval: Duration,
}

impl Settings {
    /// Returns an error that names the first invalid setting.
    pub(crate) fn validate(&self) -> Result<()> {
        for (setting, duration) in [
            ("connect_time_limit", self.connect_time_limit),
            ("response_time_limit", self.response_time_limit),
            ("default_time_to_live", self.default_time_to_live),
            ("resolve_interval", self.resolve_interval),
        ] {
            if duration.is_zero() {
                return Err(invalid(format!("`{setting}` must not be zero")));
            }
        }
        for (setting, duration) in [
            ("connect_time_limit", self.connect_time_limit),
            ("response_time_limit", self.response_time_limit),
            ("backoff", self.backoff_max),
            ("resolve_interval", self.resolve_interval),
        ] {
            if duration > WAIT_MAX {
                return Err(invalid(format!("`{setting}` must not exceed one day")));
            }
        }
        if self.backoff_min > self.backoff_max {
            return Err(invalid("`backoff` must not have a minimum above its maximum".into()));
        }
        if !(1..=CONNECTIONS_MAX).contains(&self.max_connections) {
            return Err(invalid(format!("`max_connections` must be between 1 and {CONNECTIONS_MAX}")));
        }
        if self.max_entry_bytes == Some(0) {
            return Err(invalid("`max_entry_bytes` must be at least 1".into()));
        }
        Ok(())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_connections: 64,
            connect_time_limit: Duration::from_secs(1),
            response_time_limit: Duration::from_millis(500),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            default_time_to_live: Duration::from_secs(30 * 24 * 3600),
            max_entry_bytes: None,
            clock: Arc::new(SystemClock),
            resolver: Resolver::system(),
            resolve_interval: Duration::from_secs(10),
        }
    }
}

fn invalid(message: String) -> Error {
    Error::configuration(NAME, message)
}

/// Longer waits are mistakes, and could overflow a clock.
const WAIT_MAX: Duration = Duration::from_secs(86_400);
/// More connections are a mistake, and could overflow a counter.
const CONNECTIONS_MAX: usize = 65_536;
