//! Finding the primary through sentinels.

use futures_util::future::{join, join_all};
use groupcache_core::ErrorKind;
use redis::{Cmd, ConnectionInfo, RedisError, Value};

use crate::connection::open;
use crate::error::Failure;
use crate::settings::{ConnectionSettings, SentinelTarget, with_address};

/// The primary, as one sentinel names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    address: (String, u16),
    /// Raised by each failover. Among sentinels the configuration with the highest epoch prevails.
    epoch: u64,
}

/// Queries all sentinels for the primary.
///
/// More than half of them must answer, and the configuration with the highest epoch counts. A sentinel that
/// is cut off from the others keeps naming the primary from before a failover, at a lower epoch
/// (<https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/>).
///
/// Even a majority may not know of a failover yet. So the connection to the address checks that there is a
/// primary.
pub(crate) async fn find_primary(
    settings: &ConnectionSettings,
    target: &SentinelTarget,
) -> Result<ConnectionInfo, Failure> {
    let limit = settings.sentinel_time_limit();
    let answers = join_all(target.sentinels.iter().map(async |sentinel| {
        let reply = match tokio::time::timeout(limit, query(settings, sentinel, &target.primary_name)).await {
            Ok(reply) => reply,
            Err(_) => Err(Failure::new(ErrorKind::Timeout, format!("no reply within {limit:?}"))),
        };
        reply.map_err(|failure| failure.while_doing(&format!("querying the sentinel at {}", sentinel.addr())))
    }))
    .await;
    #[cfg(groupcache_mutants)]
    let answers =
        if groupcache_core::mutants::is_on("first_sentinel") { answers[..1].to_vec() } else { answers };
    let (host, port) = choose(&answers)?;
    Ok(with_address(&target.primary, host, port))
}

/// Chooses among the answers of all sentinels.
fn choose(answers: &[Result<Named, Failure>]) -> Result<(String, u16), Failure> {
    let named: Vec<&Named> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    if named.len() <= answers.len() / 2 {
        // A wrong name matters more than a sentinel that does not answer.
        let failures = answers.iter().filter_map(|answer| answer.as_ref().err());
        let failure = failures.min_by_key(|failure| !failure.is_misconfigured());
        return Err(failure
            .cloned()
            .unwrap_or_else(|| Failure::new(ErrorKind::Configuration, "`sentinel` has no addresses")));
    }
    let newest = named.iter().map(|named| named.epoch).max();
    let newest: Vec<_> = named.into_iter().filter(|named| Some(named.epoch) == newest).collect();
    let votes = |address: &(String, u16)| newest.iter().filter(|named| named.address == *address).count();
    let first = newest.iter().max_by_key(|named| votes(&named.address));
    match first {
        Some(first) if 2 * votes(&first.address) > newest.len() => Ok(first.address.clone()),
        _ => Err(Failure::new(ErrorKind::Unavailable, "the sentinels name different primaries")),
    }
}

async fn query(
    settings: &ConnectionSettings,
    sentinel: &ConnectionInfo,
    name: &str,
) -> Result<Named, Failure> {
    let connection = open(settings, sentinel.clone()).await?;
    let send = async |subcommand| {
        let mut command = Cmd::new();
        command.arg("SENTINEL").arg(subcommand).arg(name);
        connection.clone().send_packed_command(&command).await
    };
    // During a failover only the first knows the new address. Then the epoch is new already.
    let limit = settings.sentinel_time_limit() / 2;
    let (address, configuration) =
        join(send("GET-MASTER-ADDR-BY-NAME"), tokio::time::timeout(limit, send("MASTER"))).await;
    let address: Option<(String, u16)> =
        redis::from_redis_value(address?.extract_error()?).map_err(RedisError::from)?;
    let Some(address) = address else {
        let message = format!("it knows no primary named `{name}`; check `sentinel`");
        return Err(Failure::new(ErrorKind::Configuration, message));
    };
    Ok(Named { address, epoch: configuration.ok().and_then(Result::ok).map_or(0, epoch) })
}

/// Returns the epoch of a configuration. It is zero if the sentinel does not disclose it: then the majority
/// decides.
fn epoch(configuration: Value) -> u64 {
    let fields: std::collections::HashMap<String, String> =
        redis::from_redis_value(configuration).unwrap_or_default();
    fields.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(port: u16, epoch: u64) -> Result<Named, Failure> {
        Ok(Named { address: ("host".into(), port), epoch })
    }

    fn chosen(answers: &[Result<Named, Failure>]) -> Result<u16, ErrorKind> {
        choose(answers).map(|(_, port)| port).map_err(|failure| groupcache_core::Error::from(failure).kind())
    }

    #[test]
    fn the_newest_configuration_of_a_majority_counts() {
        let silent = || Err(Failure::new(ErrorKind::Timeout, "silent"));
        let unknown = || Err(Failure::new(ErrorKind::Configuration, "unknown name"));
        assert_eq!(chosen(&[named(1, 4), named(2, 5), named(1, 4)]), Ok(2), "only one knows of it yet");
        assert_eq!(chosen(&[named(1, 0), named(2, 0), named(2, 0)]), Ok(2), "the majority");
        assert_eq!(chosen(&[named(1, 0)]), Ok(1));
        assert_eq!(chosen(&[silent(), named(1, 3), named(1, 3)]), Ok(1));
        assert_eq!(chosen(&[named(1, 3), silent(), silent()]), Err(ErrorKind::Timeout), "no majority");
        assert_eq!(chosen(&[named(1, 3), silent()]), Err(ErrorKind::Timeout), "half is no majority");
        assert_eq!(chosen(&[silent(), unknown(), silent()]), Err(ErrorKind::Configuration));
        assert_eq!(chosen(&[named(1, 3), named(2, 3)]), Err(ErrorKind::Unavailable), "they disagree");
        assert_eq!(chosen(&[]), Err(ErrorKind::Configuration));
    }
}
