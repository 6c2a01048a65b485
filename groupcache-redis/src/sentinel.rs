//! Asking sentinels where the primary is.

use groupcache_core::ErrorKind;
use redis::{Cmd, ConnectionAddr, ConnectionInfo};

use crate::connection::{Settings, open};
use crate::error::Failure;

/// Asks the sentinels in turn where the primary is. The one that answers may not know yet of a
/// failover; that what is there is a primary is checked on the connection to it
/// (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>).
pub(crate) async fn find_primary(
    settings: &Settings,
    sentinels: &[ConnectionInfo],
    name: &str,
    primary: &ConnectionInfo,
) -> Result<ConnectionInfo, Failure> {
    let mut why = None;
    // One that does not answer must not use up the time of the others.
    let share = settings.connect_time_limit / u32::try_from(sentinels.len() + 1).unwrap_or(u32::MAX);
    for sentinel in sentinels {
        let what = format!("asking the sentinel at {}", sentinel.addr());
        let asked = match tokio::time::timeout(share, ask_sentinel(settings, sentinel, name)).await {
            Ok(asked) => asked,
            Err(_) => Err(Failure::new(ErrorKind::Timeout, format!("no answer within {share:?}"))),
        };
        match asked {
            Ok(Some((host, port))) => return Ok(at(primary, host, port)),
            Ok(None) => {
                let message = format!("it knows no primary called `{name}`; check `sentinel`");
                why = Some(Failure::new(ErrorKind::Configuration, message).while_doing(&what));
            }
            Err(failure) => why = why.or_else(|| Some(failure.while_doing(&what))),
        }
    }
    Err(why.unwrap_or_else(|| Failure::new(ErrorKind::Configuration, "`sentinel` has no addresses")))
}

async fn ask_sentinel(
    settings: &Settings,
    sentinel: &ConnectionInfo,
    name: &str,
) -> Result<Option<(String, u16)>, Failure> {
    let mut connection = open(settings, sentinel.clone()).await?;
    let mut command = Cmd::new();
    command.arg("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    Ok(command.query_async(&mut connection).await?)
}

/// The settings of `primary` with another address.
pub(crate) fn at(primary: &ConnectionInfo, host: String, port: u16) -> ConnectionInfo {
    let addr = match primary.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    primary.clone().set_addr(addr)
}
