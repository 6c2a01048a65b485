//! A connection and the life of the server it leads to, held together and replaced together.
//!
//! The client's own reconnecting connection hides that the server behind it has changed; whether it
//! has is what tells an entry from before a restart from a new one.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use groupcache_core::backend::SharedConnection;

use groupcache_core::ErrorKind;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, Pipeline, Value};
use tokio::time::Instant;

use crate::advice;
use crate::error::Failure;
use crate::sentinel::find_primary;
use crate::server::{Server, epoch_of};

/// How to find the server and how long to wait for it.
pub(crate) struct Settings {
    pub(crate) target: Target,
    pub(crate) client_options: AsyncConnectionConfig,
    pub(crate) connect_time_limit: Duration,
    pub(crate) response_time_limit: Duration,
    pub(crate) watch_interval: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    /// How old what is known of the life of a node of a cluster may be.
    pub(crate) check_interval: Duration,
    /// How many replicas a bump waits for; for the advice only.
    pub(crate) waits_for_replicas: bool,
    /// Whether the advice was logged, by one connection for all.
    pub(crate) advised: Arc<AtomicBool>,
}

#[derive(Clone)]
pub(crate) enum Target {
    Node(Box<ConnectionInfo>),
    /// One of many, whose life also changes when it is given slots.
    ClusterNode(Box<ConnectionInfo>),
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        primary_name: String,
        /// What the primary is asked with: user, password, database, TLS.
        primary: Box<ConnectionInfo>,
    },
}

/// Leads to one server: connects when it is first used, and again when the connection is lost. Does
/// not retry what was sent.
#[derive(Clone)]
pub(crate) struct Line(Arc<Inner>);

struct Inner {
    settings: Arc<Settings>,
    connected: SharedConnection<Connected, Failure>,
}

/// A connection to one life of one server.
pub(crate) struct Connected {
    connection: MultiplexedConnection,
    pub(crate) server: Server,
    response_time_limit: Duration,
    /// Where it leads to, for Sentinel to say that the primary has moved.
    address: ConnectionAddr,
    /// When the question was sent whose answer said last that the server is still in the same life. Of
    /// nodes of a cluster only: there it may end while the connection lasts.
    checked_at: Mutex<Instant>,
    check_interval: Option<Duration>,
}

/// What is sent in one round trip.
pub(crate) enum Request {
    Command(Cmd),
    Commands(Pipeline),
}

impl Line {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        let connected = SharedConnection::new().backoff(settings.backoff_min, settings.backoff_max);
        let connected = if settings.is_one_of_many() { connected.fail_fast() } else { connected };
        Self(Arc::new(Inner { settings, connected }))
    }

    /// The connection; made if there is none.
    pub(crate) async fn connected(&self) -> Result<Arc<Connected>, Failure> {
        let connect = || {
            let line = Arc::downgrade(&self.0);
            let settings = Arc::clone(&self.0.settings);
            async move {
                let limit = settings.connect_time_limit;
                let connected = match tokio::time::timeout(limit, connect(&settings)).await {
                    Ok(connected) => Arc::new(connected?),
                    Err(_) => return Err(Failure::timeout(limit, "connect_time_limit")),
                };
                if !settings.advised.swap(true, Ordering::Relaxed) {
                    tokio::spawn(advice::log(Arc::clone(&connected), settings.waits_for_replicas));
                }
                tokio::spawn(keep_watch(line, Arc::downgrade(&connected)));
                Ok(connected)
            }
        };
        self.0.connected.get(connect).await
    }

    /// The connection if there is one.
    pub(crate) fn up(&self) -> Option<Arc<Connected>> {
        self.0.connected.current()
    }

    /// Makes the next caller connect anew, unless somebody has done so since.
    pub(crate) fn discard(&self, connected: &Arc<Connected>) {
        self.0.connected.discard(connected);
    }
}

impl Settings {
    /// The same for another target, where answers may take this much longer.
    pub(crate) fn with_target(&self, target: Target, wait: Duration) -> Self {
        Self {
            target,
            client_options: self.client_options.clone(),
            advised: Arc::clone(&self.advised),
            response_time_limit: self.response_time_limit.saturating_add(wait),
            ..*self
        }
    }

    const fn is_one_of_many(&self) -> bool {
        matches!(self.target, Target::ClusterNode(_))
    }
}

impl Connected {
    /// Sends and waits for the answers, one for each command. What the server refuses is a value.
    pub(crate) async fn send(&self, request: &Request) -> Result<Vec<Value>, Failure> {
        let mut connection = self.connection.clone();
        connection.set_response_timeout(self.response_time_limit);
        let answered = match request {
            Request::Command(command) => connection.send_packed_command(command).await.map(|one| vec![one]),
            Request::Commands(commands) => connection.send_packed_commands(commands, 0, commands.len()).await,
        };
        answered.map_err(|error| {
            let late = error.is_timeout();
            let failure = Failure::from(error);
            if late { Failure::timeout(self.response_time_limit, "response_time_limit") } else { failure }
        })
    }

    /// Sends a command that only reads. Without a time limit here: readers have one of their own, and two
    /// timers are a tenth of what a hit costs.
    pub(crate) async fn ask(&self, command: &Cmd) -> Result<Value, Failure> {
        Ok(self.connection.clone().send_packed_command(command).await?)
    }

    pub(crate) async fn info(&self, section: &str) -> Result<String, Failure> {
        let mut command = Cmd::new();
        command.arg("INFO").arg(section);
        let answers = self.send(&Request::Command(command)).await?;
        let answer = answers.into_iter().next().unwrap_or_default().extract_error()?;
        Ok(redis::from_redis_value(answer).map_err(redis::RedisError::from)?)
    }
}

/// A node of a cluster leads another life once it was given a slot: what is in that slot may be older
/// than what the node had in it before.
impl Connected {
    /// Whether it has to be asked again which life it leads.
    pub(crate) fn is_check_due(&self) -> bool {
        self.check_interval.is_some_and(|interval| self.lock_checked_at().elapsed() >= interval)
    }

    /// Asks that, in the pipeline of what else is asked. Returns when.
    pub(crate) fn put_check(&self, pipeline: &mut Pipeline) -> Instant {
        put_epoch_question(pipeline);
        Instant::now()
    }

    /// What it answered. An error if it is another life, and this connection of no more use.
    pub(crate) fn checked(&self, asked_at: Instant, answer: Option<Value>) -> Result<(), Failure> {
        let answer = answer.ok_or_else(|| Failure::unexpected("CLUSTER INFO"))?.extract_error()?;
        let info: String = redis::from_redis_value(answer).map_err(redis::RedisError::from)?;
        if epoch_of(&info)? != self.server.epoch {
            return Err(Failure::new(
                ErrorKind::Unavailable,
                "the node of the cluster was given other slots",
            ));
        }
        let mut checked_at = self.lock_checked_at();
        *checked_at = checked_at.max(asked_at);
        Ok(())
    }

    pub(crate) fn host(&self) -> Option<&str> {
        match &self.address {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host),
            _ => None,
        }
    }

    fn lock_checked_at(&self) -> MutexGuard<'_, Instant> {
        self.checked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These parameters, as far as the server tells.
    pub(crate) async fn config(&self, names: &[&str]) -> Result<Vec<(String, String)>, Failure> {
        let mut pipeline = Pipeline::with_capacity(names.len());
        for name in names {
            pipeline.cmd("CONFIG").arg("GET").arg(name);
        }
        let mut all = Vec::with_capacity(names.len());
        for answer in self.send(&Request::Commands(pipeline)).await? {
            let pairs: Vec<(String, String)> =
                redis::from_redis_value(answer.extract_error()?).map_err(redis::RedisError::from)?;
            all.extend(pairs);
        }
        Ok(all)
    }
}

async fn connect(settings: &Settings) -> Result<Connected, Failure> {
    let info = match &settings.target {
        Target::Node(info) | Target::ClusterNode(info) => (**info).clone(),
        Target::Sentinel { sentinels, primary_name, primary } => {
            find_primary(settings, sentinels, primary_name, primary).await?
        }
    };
    let address = info.addr().clone();
    let what = format!("connecting to {address}");
    let connection = open(settings, info).await.map_err(|failure| failure.while_doing(&what))?;
    let asked_at = Instant::now();
    let server =
        ask_server(connection.clone(), settings).await.map_err(|failure| failure.while_doing(&what))?;
    server.check(settings.is_one_of_many()).map_err(|failure| failure.while_doing(&what))?;
    if let Target::Sentinel { sentinels, primary_name, primary } = &settings.target {
        // One that hung while it was replaced may have answered as the primary that it still takes itself for.
        let now = find_primary(settings, sentinels, primary_name, primary).await?;
        if *now.addr() != address {
            let message = "Sentinel named another primary while this one was connected to";
            return Err(Failure::new(ErrorKind::Unavailable, message).while_doing(&what));
        }
    }
    Ok(Connected {
        connection,
        server,
        response_time_limit: settings.response_time_limit,
        address,
        checked_at: Mutex::new(asked_at),
        check_interval: settings.is_one_of_many().then_some(settings.check_interval),
    })
}

pub(crate) async fn open(
    settings: &Settings,
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

fn put_epoch_question(pipeline: &mut Pipeline) {
    pipeline.cmd("CLUSTER").arg("INFO");
}

/// Identity, version and role, in one round trip.
async fn ask_server(mut connection: MultiplexedConnection, settings: &Settings) -> Result<Server, Failure> {
    connection.set_response_timeout(settings.response_time_limit);
    let mut pipeline = Pipeline::with_capacity(3);
    pipeline.cmd("INFO").arg("server").cmd("INFO").arg("replication");
    if settings.is_one_of_many() {
        put_epoch_question(&mut pipeline);
    }
    let mut both = String::new();
    let answers = connection.send_packed_commands(&pipeline, 0, pipeline.len()).await?;
    for (at, answer) in answers.into_iter().enumerate() {
        let answer = match answer.extract_error() {
            // It is no node of a cluster.
            Err(error) if at == 2 && error.code() == Some("ERR") => continue,
            answer => answer?,
        };
        let section: String = redis::from_redis_value(answer).map_err(redis::RedisError::from)?;
        both.push_str(&section);
        both.push_str("\r\n");
    }
    Server::from_info(&both)
}

/// Notices what the connection itself does not say: that the server hangs or its network is gone,
/// that it has become a replica, or that the sentinels have another primary.
async fn keep_watch(line: Weak<Inner>, watched: Weak<Connected>) {
    let Some(settings) = line.upgrade().map(|line| Arc::clone(&line.settings)) else { return };
    loop {
        tokio::time::sleep(settings.watch_interval).await;
        let Some(connected) = watched.upgrade() else { return };
        let asked = ask_server(connected.connection.clone(), &settings).await;
        let fine = asked.is_ok_and(|server| server == connected.server);
        let moved = match &settings.target {
            Target::Sentinel { sentinels, primary_name, primary } if fine => {
                let found = find_primary(&settings, sentinels, primary_name, primary).await;
                // Sentinels that do not answer say nothing about the primary.
                found.is_ok_and(|info| *info.addr() != connected.address)
            }
            _ => false,
        };
        let Some(line) = line.upgrade() else { return };
        if !fine || moved {
            tracing::debug!(address = %connected.address, "another connection is needed");
            line.connected.discard(&connected);
            return;
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(info) | Self::ClusterNode(info) => {
                f.debug_tuple("Node").field(&info.addr().to_string()).finish()
            }
            Self::Sentinel { sentinels, primary_name, .. } => {
                let addresses: Vec<_> = sentinels.iter().map(|info| info.addr().to_string()).collect();
                f.debug_struct("Sentinel")
                    .field("addresses", &addresses)
                    .field("primary_name", primary_name)
                    .finish()
            }
        }
    }
}
