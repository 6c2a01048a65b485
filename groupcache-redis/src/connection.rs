//! A connection, and the incarnation of the server that it leads to.
//!
//! Both are made together and dropped together. The client also offers a connection that reconnects by
//! itself. That would hide a restart or a failover of the server, after which old tokens may be back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use groupcache_core::ErrorKind;
use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, ConnectionAddr, ConnectionInfo, Pipeline, RedisError, Value};
use tokio::time::Instant;

use crate::error::Failure;
use crate::server::{Server, parse_epoch};
use crate::settings::ConnectionSettings;

/// A connection to one incarnation of one server. Many tasks can use it at once.
pub(crate) struct Connection {
    multiplexed: MultiplexedConnection,
    pub(crate) server: Server,
    pub(crate) address: ConnectionAddr,
    response_time_limit: Duration,
    /// `None` unless the server is a node of a cluster.
    epoch_check: Option<EpochCheck>,
}

/// When the epoch of a cluster node was last confirmed, and how long that holds.
///
/// A node begins another incarnation when it receives a slot, because the tokens in that slot may be older
/// than those that the node had before. Connections outlast that, so the epoch is checked again and again.
struct EpochCheck {
    interval: Duration,
    /// When the query was sent whose reply confirmed the epoch.
    confirmed_at: Mutex<Instant>,
}

/// What is sent in one round trip.
pub(crate) enum Request {
    Command(Cmd),
    Pipeline(Pipeline),
}

impl Connection {
    /// Connects and identifies the server, in the round trips of the client and one more. Fails if
    /// generations may not be read from the server.
    pub(crate) async fn establish(
        settings: &ConnectionSettings,
        info: ConnectionInfo,
        in_cluster: bool,
    ) -> Result<Self, Failure> {
        let address = info.addr().clone();
        let multiplexed = open(settings, info).await?;
        let asked_at = Instant::now();
        let server = identify(multiplexed.clone(), settings.response_time_limit, in_cluster).await?;
        server.check(in_cluster)?;
        let epoch_check = in_cluster.then(|| EpochCheck {
            interval: settings.cluster_check_interval,
            confirmed_at: Mutex::new(asked_at),
        });
        let response_time_limit = settings.response_time_limit;
        Ok(Self { multiplexed, server, address, response_time_limit, epoch_check })
    }

    /// Sends `request` and returns one reply for each command. An error reply is a value among them.
    pub(crate) async fn send(&self, request: &Request) -> Result<Vec<Value>, Failure> {
        let mut multiplexed = self.multiplexed.clone();
        multiplexed.set_response_timeout(self.response_time_limit);
        let replies = match request {
            Request::Command(command) => multiplexed.send_packed_command(command).await.map(|one| vec![one]),
            Request::Pipeline(pipeline) => {
                multiplexed.send_packed_commands(pipeline, 0, pipeline.len()).await
            }
        };
        replies.map_err(|error| {
            if error.is_timeout() {
                Failure::timeout(self.response_time_limit, "response_time_limit")
            } else {
                Failure::from(error)
            }
        })
    }

    /// Sends a command that only reads, without a time limit.
    ///
    /// The cache limits the time of a lookup itself, and a second timer is a tenth of the cost of a hit.
    pub(crate) async fn query(&self, command: &Cmd) -> Result<Value, Failure> {
        Ok(self.multiplexed.clone().send_packed_command(command).await?)
    }

    /// Returns a section of `INFO`.
    pub(crate) async fn info(&self, section: &str) -> Result<String, Failure> {
        let mut command = Cmd::new();
        command.arg("INFO").arg(section);
        let replies = self.send(&Request::Command(command)).await?;
        text(replies.into_iter().next().unwrap_or_default())
    }

    /// Returns the parameters of these names that the server discloses.
    pub(crate) async fn config(&self, names: &[&str]) -> Result<Vec<(String, String)>, Failure> {
        let mut pipeline = Pipeline::with_capacity(names.len());
        for name in names {
            pipeline.cmd("CONFIG").arg("GET").arg(name);
        }
        let mut parameters = Vec::with_capacity(names.len());
        for reply in self.send(&Request::Pipeline(pipeline)).await? {
            let pairs: Vec<(String, String)> =
                redis::from_redis_value(reply.extract_error()?).map_err(RedisError::from)?;
            parameters.extend(pairs);
        }
        Ok(parameters)
    }

    /// Returns whether the server answers and is still in the same incarnation. Costs one round trip.
    pub(crate) async fn is_current(&self) -> bool {
        let in_cluster = self.epoch_check.is_some();
        let server = identify(self.multiplexed.clone(), self.response_time_limit, in_cluster).await;
        server.is_ok_and(|server| server == self.server)
    }

    /// Returns whether the epoch must be confirmed before another generation is read.
    pub(crate) fn is_check_due(&self) -> bool {
        self.epoch_check.as_ref().is_some_and(|check| check.confirmed_at().elapsed() >= check.interval)
    }

    /// Adds the query for the epoch to `pipeline`. Returns the time for
    /// [`confirm_epoch`](Self::confirm_epoch).
    pub(crate) fn query_epoch(pipeline: &mut Pipeline) -> Instant {
        put_epoch_query(pipeline);
        Instant::now()
    }

    /// Fails if the `reply` to the query for the epoch shows another incarnation. This connection is then of
    /// no further use.
    pub(crate) fn confirm_epoch(&self, asked_at: Instant, reply: Option<Value>) -> Result<(), Failure> {
        let reply = reply.ok_or_else(|| Failure::unexpected("CLUSTER INFO"))?;
        if parse_epoch(&text(reply)?)? != self.server.epoch {
            return Err(Failure::new(ErrorKind::Unavailable, "the cluster node received other slots"));
        }
        if let Some(check) = &self.epoch_check {
            let mut confirmed_at = check.confirmed_at();
            *confirmed_at = confirmed_at.max(asked_at);
        }
        Ok(())
    }

    /// Returns the host, unless the connection leads to a socket file.
    pub(crate) fn host(&self) -> Option<&str> {
        match &self.address {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host),
            _ => None,
        }
    }
}

impl EpochCheck {
    fn confirmed_at(&self) -> MutexGuard<'_, Instant> {
        self.confirmed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a connection of the client.
pub(crate) async fn open(
    settings: &ConnectionSettings,
    info: ConnectionInfo,
) -> Result<MultiplexedConnection, Failure> {
    let options = settings
        .client_options
        .clone()
        .set_connection_timeout(Some(settings.connect_time_limit))
        // Set for each request that has one.
        .set_response_timeout(None);
    Ok(Client::open(info)?.get_multiplexed_async_connection_with_config(&options).await?)
}

/// Reads identity, version and role of the server, in one round trip.
async fn identify(
    mut multiplexed: MultiplexedConnection,
    response_time_limit: Duration,
    in_cluster: bool,
) -> Result<Server, Failure> {
    multiplexed.set_response_timeout(response_time_limit);
    let mut pipeline = Pipeline::with_capacity(3);
    pipeline.cmd("INFO").arg("server").cmd("INFO").arg("replication");
    if in_cluster {
        put_epoch_query(&mut pipeline);
    }
    let mut info = String::new();
    let replies = multiplexed.send_packed_commands(&pipeline, 0, pipeline.len()).await?;
    for (index, reply) in replies.into_iter().enumerate() {
        match reply {
            // The server is not a node of a cluster: `Server::check` explains it.
            Value::ServerError(error) if index == 2 && error.code() == "ERR" => {}
            reply => {
                info.push_str(&text(reply)?);
                info.push_str("\r\n");
            }
        }
    }
    Server::from_info(&info)
}

fn put_epoch_query(pipeline: &mut Pipeline) {
    pipeline.cmd("CLUSTER").arg("INFO");
}

fn text(reply: Value) -> Result<String, Failure> {
    Ok(redis::from_redis_value(reply.extract_error()?).map_err(RedisError::from)?)
}
