//! What is dangerous, or a waste, in the configuration of a server.

use std::fmt;
use std::sync::Arc;

use crate::connection::Connected;
use crate::error::Failure;
use crate::server::{Version, info_field};

/// Something in the configuration of the server that a cache should not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    setting: &'static str,
    text: String,
}

impl Advice {
    /// The setting to look at, by its name in `redis.conf` or in
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

/// What is known of a server; `None` where it does not say.
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
}

/// Asks the server and judges what it says.
pub(crate) async fn of(connected: &Connected, waits_for_replicas: bool) -> Result<Vec<Advice>, Failure> {
    let memory = connected.info("memory").await?;
    let persistence = connected.info("persistence").await?;
    let replication = connected.info("replication").await?;
    // Many hosted servers refuse `CONFIG`.
    let config = connected.config(&["save", "stop-writes-on-bgsave-error"]).await.unwrap_or_default();
    let configured = |name: &str| config.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let facts = Facts {
        version: Some(connected.server.version),
        max_memory: info_field(&memory, "maxmemory").and_then(|bytes| bytes.parse().ok()),
        eviction_policy: info_field(&memory, "maxmemory_policy").map(str::to_owned),
        appends_to_file: info_field(&persistence, "aof_enabled") == Some("1"),
        saves: configured("save").map(|save| !save.is_empty()),
        stops_writes_if_save_fails: configured("stop-writes-on-bgsave-error").map(|value| value == "yes"),
        last_save_failed: info_field(&persistence, "rdb_last_bgsave_status") == Some("err"),
        replicas: info_field(&replication, "connected_slaves").and_then(|n| n.parse().ok()).unwrap_or(0),
        waits_for_replicas,
    };
    Ok(facts.judge())
}

/// Logs the advice, once, after the first connection.
pub(crate) async fn log(connected: Arc<Connected>, waits_for_replicas: bool) {
    match of(&connected, waits_for_replicas).await {
        Ok(all) => {
            for advice in all {
                tracing::warn!(backend = crate::error::NAME, %advice, "the server's configuration");
            }
        }
        Err(failure) => {
            let error = groupcache_core::Error::from(failure);
            tracing::debug!(%error, "the server's configuration could not be looked at");
        }
    }
}

impl Facts {
    fn judge(&self) -> Vec<Advice> {
        let mut all = Vec::new();
        let mut advise = |setting, text: String| all.push(Advice { setting, text });
        if let Some(version @ Version(major, minor, patch)) = self.version
            && version < Version(6, 2, 0)
        {
            advise(
                "version",
                format!("{major}.{minor}.{patch} is older than 6.2, the oldest that is tested with"),
            );
        }
        match (self.max_memory, self.eviction_policy.as_deref()) {
            (Some(0), _) => advise(
                "maxmemory",
                "no limit: the server grows until the machine has no memory left; set one, and \
                 `maxmemory-policy allkeys-lru`"
                    .into(),
            ),
            (Some(_), Some("noeviction")) => advise(
                "maxmemory-policy",
                "`noeviction`: once memory is used up nothing is stored any more; use `allkeys-lru`".into(),
            ),
            _ => {}
        }
        if self.last_save_failed && self.stops_writes_if_save_fails != Some(false) {
            advise(
                "stop-writes-on-bgsave-error",
                "the last save to disk failed: until one succeeds every invalidation fails; set it to `no`"
                    .into(),
            );
        }
        if self.appends_to_file || self.saves == Some(true) {
            advise(
                if self.appends_to_file { "appendonly" } else { "save" },
                "data is saved to disk, in vain: what was cached before a restart is never served after it, \
                 and a failing disk can make invalidations fail"
                    .into(),
            );
        }
        if self.replicas > 0 && !self.waits_for_replicas {
            advise(
                "wait_for_replicas",
                format!(
                    "{} replicas and no waiting for them: a primary that is cut off from the others still \
                     acknowledges invalidations",
                    self.replicas
                ),
            );
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(facts: &Facts) -> Vec<&'static str> {
        facts.judge().iter().map(Advice::setting).collect()
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
    fn each_danger_is_named_and_a_sound_server_needs_no_advice() {
        assert_eq!(settings(&sound()), [""; 0]);
        assert_eq!(settings(&Facts::default()), [""; 0], "what is not known is not judged");
        let policy = |policy: &str| Some(policy.to_owned());
        for (facts, setting) in [
            (Facts { version: Some(Version(6, 0, 16)), ..sound() }, "version"),
            (Facts { max_memory: Some(0), ..sound() }, "maxmemory"),
            (Facts { eviction_policy: policy("noeviction"), ..sound() }, "maxmemory-policy"),
            (Facts { last_save_failed: true, ..sound() }, "stop-writes-on-bgsave-error"),
            (Facts { saves: Some(true), ..sound() }, "save"),
            (Facts { appends_to_file: true, ..sound() }, "appendonly"),
            (Facts { replicas: 2, ..sound() }, "wait_for_replicas"),
        ] {
            assert_eq!(settings(&facts), [setting]);
        }
        assert_eq!(settings(&Facts { replicas: 2, waits_for_replicas: true, ..sound() }), [""; 0]);
        let forgiving = Some(false);
        let facts = Facts { last_save_failed: true, stops_writes_if_save_fails: forgiving, ..sound() };
        assert_eq!(settings(&facts), [""; 0]);
    }
}
