//! A connection, and the incarnation of the server that it leads to.
//!
//! Both are made together and dropped together. The client also offers a connection that reconnects by
//! itself. That would hide a restart or a failover of the server, after which old tokens may be back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{try_join, try_join_all};
use groupcache_core::ErrorKind;
use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, ConnectionAddr, ConnectionInfo, Pipeline, RedisError, Value};
use tokio::time::Instant;

use crate::error::Failure;
use crate::permissions;
use crate::server::{Server, parse_epoch};
use crate::settings::ConnectionSettings;

/// A connection to one incarnation of one server. Many tasks can use it at once.
pub(crate) struct Connection {
    channels: Channels,
    pub(crate) server: Server,
    pub(crate) address: ConnectionAddr,
    response_time_limit: Duration,
    trial_key: String,
    /// `None` unless the server is a node of a cluster.
    epoch_check: Option<EpochCheck>,
}

/// The connections of the client. All of them lead to the same incarnation of the same server, so that a
/// process never invalidates on one server and reads from another.
struct Channels {
    entries: MultiplexedConnection,
    generations: MultiplexedConnection,
    replicated: Option<MultiplexedConnection>,
    /// How much longer a response may take on `replicated`.
    replica_wait: Duration,
}

/// Which connection of the client a request is sent on. Each returns its replies in the order of the
/// requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// For what contains bodies, which can be large.
    Entries,
    /// For generations: an invalidation does not wait for the bodies of others.
    Generations,
    /// For bumps that wait for replicas: while this channel waits, it serves nothing else.
    Replicated,
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
    /// generations may not be read from the server, if the user lacks a permission, and if the channels lead
    /// to different servers.
    pub(crate) async fn establish(
        settings: &ConnectionSettings,
        info: ConnectionInfo,
        in_cluster: bool,
    ) -> Result<Self, Failure> {
        let address = info.addr().clone();
        let count = if settings.wait_for_replicas.is_some() { 3 } else { 2 };
        let mut opened = try_join_all((0..count).map(|_| open(settings, info.clone()))).await?;
        let asked_at = Instant::now();
        let limit = settings.response_time_limit;
        let identities = opened.iter().map(|channel| identify(channel.clone(), limit, in_cluster));
        let permissions = permissions::check(opened[0].clone(), settings, in_cluster);
        let (identities, ()) = try_join(try_join_all(identities), permissions).await?;
        identities.iter().try_for_each(|server| server.check(in_cluster))?;
        let server = the_same(identities)?;
        let epoch_check = in_cluster.then(|| EpochCheck {
            interval: settings.cluster_check_interval,
            confirmed_at: Mutex::new(asked_at),
        });
        let channels = Channels {
            replicated: if count == 3 { opened.pop() } else { None },
            generations: opened.swap_remove(1),
            entries: opened.swap_remove(0),
            replica_wait: settings.wait_for_replicas.map_or(Duration::ZERO, |wait| wait.time_limit),
        };
        let trial_key = settings.trial_key.clone();
        Ok(Self { channels, server, address, response_time_limit: limit, trial_key, epoch_check })
    }

    /// Sends `request` on `channel` and returns one reply for each command. An error reply is a value among
    /// them.
    pub(crate) async fn send_on(&self, channel: Channel, request: &Request) -> Result<Vec<Value>, Failure> {
        let (mut multiplexed, limit) = match (channel, &self.channels.replicated) {
            (Channel::Replicated, Some(replicated)) => {
                (replicated.clone(), self.response_time_limit.saturating_add(self.channels.replica_wait))
            }
            (Channel::Entries, _) => (self.channels.entries.clone(), self.response_time_limit),
            (Channel::Replicated | Channel::Generations, _) => {
                (self.channels.generations.clone(), self.response_time_limit)
            }
        };
        multiplexed.set_response_timeout(limit);
        let replies = match request {
            Request::Command(command) => multiplexed.send_packed_command(command).await.map(|one| vec![one]),
            Request::Pipeline(pipeline) => {
                multiplexed.send_packed_commands(pipeline, 0, pipeline.len()).await
            }
        };
        replies.map_err(|error| {
            if error.is_timeout() {
                Failure::timeout(limit, "response_time_limit")
            } else {
                Failure::from(error)
            }
        })
    }

    /// Sends a small `request`.
    pub(crate) async fn send(&self, request: &Request) -> Result<Vec<Value>, Failure> {
        self.send_on(Channel::Generations, request).await
    }

    /// Sends a command that only reads, without a time limit, and confirms the identity of the server.
    ///
    /// The cache limits the time of a lookup itself, and a second timer is a tenth of the cost of a hit.
    pub(crate) async fn query(&self, command: Cmd) -> Result<Value, Failure> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.add_command(command);
        let asked_at = self.query_identity(&mut pipeline);
        let mut replies = self.channels.entries.clone().send_packed_commands(&pipeline, 0, 2).await?;
        self.confirm_identity(asked_at, replies.pop())?;
        replies.pop().ok_or_else(|| Failure::unexpected("a command"))
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

    /// Returns whether the user may use `PTTL` on keys under the prefix.
    pub(crate) async fn may_use_pttl(&self) -> Result<bool, Failure> {
        let mut command = Cmd::new();
        command.arg("PTTL").arg(&self.trial_key);
        let mut replies = self.send(&Request::Command(command)).await?;
        let reply = replies.pop().map(Value::extract_error);
        Ok(!reply.is_some_and(|reply| reply.is_err_and(|error| Failure::from(error).is_forbidden())))
    }

    /// Returns whether the server answers on all channels and is still in the same incarnation. Costs one
    /// round trip.
    pub(crate) async fn is_current(&self) -> bool {
        let in_cluster = self.epoch_check.is_some();
        let channels = [&self.channels.entries, &self.channels.generations];
        let identities =
            channels.map(|channel| identify(channel.clone(), self.response_time_limit, in_cluster));
        let servers = try_join_all(identities).await;
        servers.is_ok_and(|servers| servers.iter().all(|server| *server == self.server))
    }

    /// Returns whether every request confirms the identity of the server, and not only those that read
    /// generations.
    ///
    /// A cluster node that is demoted redirects. Another server that is demoted by hand answers as before,
    /// and if it is a writable replica it even acknowledges.
    pub(crate) const fn confirms_every_request(&self) -> bool {
        self.epoch_check.is_none()
    }

    /// Returns whether the identity of the server must be confirmed before another generation is read.
    pub(crate) fn is_check_due(&self) -> bool {
        self.epoch_check.as_ref().is_none_or(|check| check.confirmed_at().elapsed() >= check.interval)
    }

    /// Adds the query for the identity of the server to `pipeline`. Returns the time for
    /// [`confirm_identity`](Self::confirm_identity).
    ///
    /// It belongs after the commands: if the server had another role in the meantime, its reply shows it.
    pub(crate) fn query_identity(&self, pipeline: &mut Pipeline) -> Instant {
        if self.epoch_check.is_some() {
            put_epoch_query(pipeline);
        } else {
            pipeline.cmd("INFO").arg("replication");
        }
        Instant::now()
    }

    /// Fails if the `reply` to the query for the identity shows another incarnation. This connection is then
    /// of no further use.
    pub(crate) fn confirm_identity(&self, asked_at: Instant, reply: Option<Value>) -> Result<(), Failure> {
        let Some(check) = &self.epoch_check else { return self.confirm_role(reply) };
        let reply = reply.ok_or_else(|| Failure::unexpected("CLUSTER INFO"))?;
        if parse_epoch(&text(reply)?)? != self.server.epoch {
            return Err(Failure::new(ErrorKind::Unavailable, "the cluster node received other slots"));
        }
        let mut confirmed_at = check.confirmed_at();
        *confirmed_at = confirmed_at.max(asked_at);
        Ok(())
    }

    /// Fails if the server has become a replica since the connection was made, even if it is a primary again.
    fn confirm_role(&self, reply: Option<Value>) -> Result<(), Failure> {
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("unchecked_role") {
            return Ok(());
        }
        let is_same = match reply {
            Some(Value::BulkString(info)) => {
                std::str::from_utf8(&info).is_ok_and(|info| self.server.is_same_primary(info))
            }
            Some(reply) => {
                let info = text(reply).map_err(Failure::disconnecting)?;
                self.server.is_same_primary(&info)
            }
            None => return Err(Failure::unexpected("INFO")),
        };
        if is_same { Ok(()) } else { Err(Failure::outdated("the role of the server changed")) }
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

/// Returns the server of all channels.
fn the_same(servers: Vec<Server>) -> Result<Server, Failure> {
    let mut servers = servers.into_iter();
    let server = servers.next().ok_or_else(|| Failure::unexpected("INFO"))?;
    #[cfg(groupcache_mutants)]
    if groupcache_core::mutants::is_on("channels_apart") {
        return Ok(server);
    }
    if servers.all(|other| other == server) {
        return Ok(server);
    }
    let message = "connections that were opened at the same time lead to different servers; the address must \
                   lead to one";
    Err(Failure::new(ErrorKind::Unavailable, message))
}

/// Connects to the address once more and identifies the server that it leads to now.
pub(crate) async fn probe(
    settings: &ConnectionSettings,
    info: ConnectionInfo,
    in_cluster: bool,
) -> Result<Server, Failure> {
    let channel = open(settings, info).await?;
    identify(channel, settings.response_time_limit, in_cluster).await
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
                let command = if index == 2 { "CLUSTER INFO" } else { "INFO" };
                let reply = reply.extract_error().map_err(|error| permissions::explain(command, error))?;
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
