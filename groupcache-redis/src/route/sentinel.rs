//! Finding the primary through sentinels.

use groupcache_core::ErrorKind;
use redis::{Cmd, ConnectionInfo};

use crate::connection::open;
use crate::error::Failure;
use crate::settings::{ConnectionSettings, SentinelTarget, with_address};

/// Queries the sentinels in turn for the primary.
///
/// A sentinel that answers may not know of a failover yet. So the connection to the address checks that there
/// is a primary (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>).
pub(crate) async fn find_primary(
    settings: &ConnectionSettings,
    target: &SentinelTarget,
) -> Result<ConnectionInfo, Failure> {
    let name = &target.primary_name;
    let mut failure = None;
    let share = settings.connect_share(target.sentinels.len());
    for sentinel in &target.sentinels {
        let activity = format!("querying the sentinel at {}", sentinel.addr());
        let reply = match tokio::time::timeout(share, query(settings, sentinel, name)).await {
            Ok(reply) => reply,
            Err(_) => Err(Failure::new(ErrorKind::Timeout, format!("no reply within {share:?}"))),
        };
        match reply {
            Ok(Some((host, port))) => return Ok(with_address(&target.primary, host, port)),
            Ok(None) => {
                let message = format!("it knows no primary named `{name}`; check `sentinel`");
                // A wrong name matters more than a sentinel that does not answer.
                let unknown = Failure::new(ErrorKind::Configuration, message);
                failure = Some(unknown.while_doing(&activity));
            }
            Err(error) => failure = failure.or_else(|| Some(error.while_doing(&activity))),
        }
    }
    Err(failure.unwrap_or_else(|| Failure::new(ErrorKind::Configuration, "`sentinel` has no addresses")))
}

async fn query(
    settings: &ConnectionSettings,
    sentinel: &ConnectionInfo,
    name: &str,
) -> Result<Option<(String, u16)>, Failure> {
    let mut connection = open(settings, sentinel.clone()).await?;
    let mut command = Cmd::new();
    command.arg("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    Ok(command.query_async(&mut connection).await?)
}
