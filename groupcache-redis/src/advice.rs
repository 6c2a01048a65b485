//! Advice about the configuration of a server that is dangerous for a cache, or wasteful.

use std::fmt;

use crate::connection::Connection;
use crate::error::{Failure, NAME};
use crate::server::{Version, info_field};

/// A setting of the server, or of the backend, that a cache should not have.
///
/// [`RedisBackend::advice`](crate::RedisBackend::advice) returns it, and the backend logs it after its first
/// connection. `Display` describes the problem and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    setting: &'static str,
    text: String,
}

impl Advice {
    /// Returns the name of the setting in `redis.conf` or in
    /// [`RedisBackendBuilder`](crate::RedisBackendBuilder).
    #[must_use]
    pub const fn setting(&self) -> &'static str {
        self.setting
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.setting, self.text)
    }
}

/// Inspects the server and returns the advice. Costs five round trips.
pub(crate) async fn inspect(
    connection: &Connection,
    waits_for_replicas: bool,
) -> Result<Vec<Advice>, Failure> {
    let memory = connection.info("memory").await?;
    let persistence = connection.info("persistence").await?;
    let replication = connection.info("replication").await?;
    let may_use_pttl = connection.may_use_pttl().await?;
    // Many hosted servers refuse `CONFIG`.
    let config = connection.config(&["save", "stop-writes-on-bgsave-error"]).await.unwrap_or_default();
    let configured = |name: &str| config.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let facts = Facts {
        version: Some(connection.server.version),
        max_memory: info_field(&memory, "maxmemory").and_then(|bytes| bytes.parse().ok()),
        eviction_policy: info_field(&memory, "maxmemory_policy").map(str::to_owned),
        appends_to_file: info_field(&persistence, "aof_enabled") == Some("1"),
        saves: configured("save").map(|save| !save.is_empty()),
        stops_writes_if_save_fails: configured("stop-writes-on-bgsave-error").map(|value| value == "yes"),
        last_save_failed: info_field(&persistence, "rdb_last_bgsave_status") == Some("err"),
        replicas: info_field(&replication, "connected_slaves").and_then(|n| n.parse().ok()).unwrap_or(0),
        waits_for_replicas,
        knows_no_time_left: !may_use_pttl,
    };
    Ok(facts.advice())
}

/// Inspects the server and logs the advice.
pub(crate) async fn log(connection: &Connection, waits_for_replicas: bool) {
    match inspect(connection, waits_for_replicas).await {
        Ok(all) => {
            for advice in all {
                tracing::warn!(backend = NAME, %advice, "server configuration is unsuitable for a cache");
            }
        }
        Err(failure) => {
            let error = groupcache_core::Error::from(failure);
            tracing::debug!(%error, "failed to inspect the server configuration");
        }
    }
}

/// What is known about a server. A field is `None` if the server does not disclose it.
#[derive(Debug, Default)]
struct Facts {
    version: Option<Version>,
    max_memory: Option<u64>,
    eviction_policy: Option<String>,
    appends_to_file: bool,
    saves: Option<bool>,
    stops_writes_if_save_fails: Option<bool>,
    last_save_failed: bool,
    replicas: u32,
    waits_for_replicas: bool,
    knows_no_time_left: bool,
}

impl Facts {
    fn advice(&self) -> Vec<Advice> {
        let mut all = Vec::new();
        let mut advise = |setting, text: String| all.push(Advice { setting, text });
        if let Some(version @ Version(major, minor, patch)) = self.version
            && version < Version(6, 2, 0)
        {
            advise(
                "version",
                format!("{major}.{minor}.{patch} is older than 6.2, the oldest version that is tested"),
            );
        }
        match (self.max_memory, self.eviction_policy.as_deref()) {
            (Some(0), _) => advise(
                "maxmemory",
                "there is no limit, so the server grows until the machine is out of memory; set one, and \
                 `maxmemory-policy allkeys-lru`"
                    .into(),
            ),
            (Some(_), Some("noeviction")) => advise(
                "maxmemory-policy",
                "with `noeviction` the server stores nothing once its memory is full; use `allkeys-lru`"
                    .into(),
            ),
            _ => {}
        }
        if self.last_save_failed && self.stops_writes_if_save_fails != Some(false) {
            advise(
                "stop-writes-on-bgsave-error",
                "the last save to disk failed, so every invalidation fails until a save succeeds; set it \
                 to `no`"
                    .into(),
            );
        }
        if self.appends_to_file || self.saves == Some(true) {
            advise(
                if self.appends_to_file { "appendonly" } else { "save" },
                "the server saves its data to disk to no effect: entries from before a restart are never \
                 served after it, and a failing disk can make invalidations fail"
                    .into(),
            );
        }
        if self.replicas > 0 && !self.waits_for_replicas {
            advise(
                "wait_for_replicas",
                format!(
                    "the server has {} replicas, and invalidations do not wait for them: a primary that is \
                     cut off from its replicas still acknowledges invalidations",
                    self.replicas
                ),
            );
        }
        if self.knows_no_time_left {
            advise("acl", NO_TIME_LEFT.into());
        }
        all
    }
}

const NO_TIME_LEFT: &str = "the user may not use PTTL: entries with `stale_while_revalidate` or `stale_if_error` \
                            are never hits, and neither are values that are loaded with them";

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(facts: &Facts) -> Vec<&'static str> {
        facts.advice().iter().map(Advice::setting).collect()
    }

    fn sound() -> Facts {
        Facts {
            version: Some(Version(7, 2, 0)),
            max_memory: Some(1 << 30),
            eviction_policy: Some("allkeys-lru".into()),
            saves: Some(false),
            stops_writes_if_save_fails: Some(true),
            ..Facts::default()
        }
    }

    #[test]
    fn each_problem_names_its_setting_and_a_sound_server_gets_no_advice() {
        assert_eq!(settings(&sound()), [""; 0]);
        assert_eq!(settings(&Facts::default()), [""; 0], "unknown facts give no advice");
        let policy = |policy: &str| Some(policy.to_owned());
        for (facts, setting) in [
            (Facts { version: Some(Version(6, 0, 16)), ..sound() }, "version"),
            (Facts { max_memory: Some(0), ..sound() }, "maxmemory"),
            (Facts { eviction_policy: policy("noeviction"), ..sound() }, "maxmemory-policy"),
            (Facts { last_save_failed: true, ..sound() }, "stop-writes-on-bgsave-error"),
            (Facts { saves: Some(true), ..sound() }, "save"),
            (Facts { appends_to_file: true, ..sound() }, "appendonly"),
            (Facts { replicas: 2, ..sound() }, "wait_for_replicas"),
            (Facts { knows_no_time_left: true, ..sound() }, "acl"),
        ] {
            assert_eq!(settings(&facts), [setting]);
        }
        assert_eq!(settings(&Facts { replicas: 2, waits_for_replicas: true, ..sound() }), [""; 0]);
        let forgiving = Some(false);
        let facts = Facts { last_save_failed: true, stops_writes_if_save_fails: forgiving, ..sound() };
        assert_eq!(settings(&facts), [""; 0]);
    }
}
