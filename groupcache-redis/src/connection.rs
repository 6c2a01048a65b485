//! A connection and the life of the server it leads to, held together and replaced together.
//!
//! The client's own reconnecting connection hides that the server behind it has changed; whether it
//! has is what tells an entry from before a restart from a new one.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use groupcache_core::{Error, ErrorKind};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionInfo, Pipeline, Value};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::advice;
use crate::error::Failure;
use crate::server::Server;

/// How to find the server and how long to wait for it.
pub(crate) struct Settings {
    pub(crate) target: Target,
    pub(crate) client_options: AsyncConnectionConfig,
    pub(crate) connect_time_limit: Duration,
    pub(crate) response_time_limit: Duration,
    pub(crate) watch_interval: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    /// How many replicas a bump waits for; for the advice only.
    pub(crate) waits_for_replicas: bool,
}

#[derive(Clone)]
pub(crate) enum Target {
    Node(Box<ConnectionInfo>),
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
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// Attempts to connect that failed since one succeeded.
    failures: u32,
    advised: bool,
}

enum Phase {
    /// Nobody has asked for a connection since the last was lost.
    Idle,
    /// An attempt is under way; the receiver is told, or finds the sender gone, when it has ended.
    Connecting(watch::Receiver<()>),
    Up(Arc<Connected>),
    /// The last attempt failed, and the next must wait until then.
    Down {
        until: Instant,
        why: Failure,
    },
}

/// A connection to one life of one server.
pub(crate) struct Connected {
    connection: MultiplexedConnection,
    pub(crate) server: Server,
    response_time_limit: Duration,
    /// Where it leads to, for Sentinel to say that the primary has moved.
    address: String,
}

/// What is sent in one round trip.
pub(crate) enum Request {
    Command(Cmd),
    Commands(Pipeline),
}

impl Line {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        let state = State { phase: Phase::Idle, failures: 0, advised: false };
        Self(Arc::new(Inner { settings, state: Mutex::new(state) }))
    }

    /// The connection; made if there is none. Concurrent callers share one attempt, and the attempt
    /// goes on if they go away. After a failed attempt all callers get its outcome at once until the
    /// next one is due.
    pub(crate) async fn connected(&self) -> Result<Arc<Connected>, Failure> {
        let mut waited = false;
        loop {
            let mut attempt = {
                let mut state = self.0.lock();
                match &state.phase {
                    Phase::Up(connected) => return Ok(Arc::clone(connected)),
                    Phase::Down { until, why } if waited || Instant::now() < *until => {
                        return Err(why.clone());
                    }
                    Phase::Connecting(attempt) => attempt.clone(),
                    Phase::Idle | Phase::Down { .. } => {
                        let attempt = self.start_attempt();
                        state.phase = Phase::Connecting(attempt.clone());
                        attempt
                    }
                }
            };
            if attempt.changed().await.is_err() {
                // Its runtime is gone and the attempt with it.
                let mut state = self.0.lock();
                if matches!(&state.phase, Phase::Connecting(current) if current.same_channel(&attempt)) {
                    state.phase = Phase::Idle;
                }
            }
            waited = true;
        }
    }

    /// Makes the next caller connect anew, unless somebody has done so since.
    pub(crate) fn discard(&self, connected: &Arc<Connected>) {
        self.0.discard(connected);
    }

    fn start_attempt(&self) -> watch::Receiver<()> {
        let (ended, attempt) = watch::channel(());
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let limit = inner.settings.connect_time_limit;
            let outcome = match tokio::time::timeout(limit, connect(&inner.settings)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failure::timeout(limit, "connect_time_limit")),
            };
            inner.end_attempt(outcome);
            // Nobody may be waiting any more.
            let _nobody = ended.send(());
        });
        attempt
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_attempt(self: &Arc<Self>, outcome: Result<Connected, Failure>) {
        let mut state = self.lock();
        match outcome {
            Ok(connected) => {
                let connected = Arc::new(connected);
                if !state.advised {
                    state.advised = true;
                    let waits = self.settings.waits_for_replicas;
                    tokio::spawn(advice::log(Arc::clone(&connected), waits));
                }
                tokio::spawn(keep_watch(Arc::downgrade(self), Arc::downgrade(&connected)));
                state.failures = 0;
                state.phase = Phase::Up(connected);
            }
            Err(why) => {
                let error = Error::from(why.clone());
                // Of a server that is away the circuit breaker tells; this will not end by itself.
                if state.failures == 0 && !error.is_transient() {
                    let cause = std::error::Error::source(&error).map(tracing::field::display);
                    tracing::warn!(%error, cause, "no connection; going on without the cache");
                }
                let pause = self.settings.pause_after(state.failures);
                state.failures = state.failures.saturating_add(1);
                state.phase = Phase::Down { until: Instant::now() + pause, why };
            }
        }
    }

    fn discard(&self, connected: &Arc<Connected>) {
        let mut state = self.lock();
        if matches!(&state.phase, Phase::Up(current) if Arc::ptr_eq(current, connected)) {
            state.phase = Phase::Idle;
        }
    }
}

impl Settings {
    /// Twice as long after each failure, and a random part of that, so that many processes do not
    /// all come back at the same moment.
    fn pause_after(&self, failures: u32) -> Duration {
        let doubled = self.backoff_min.saturating_mul(2_u32.saturating_pow(failures));
        doubled.min(self.backoff_max).mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }
}

impl Connected {
    /// Sends and waits for the answers, one for each command. What the server refuses is a value.
    pub(crate) async fn send(&self, request: &Request) -> Result<Vec<Value>, Failure> {
        let mut connection = self.connection.clone();
        let answered = match request {
            Request::Command(command) => connection.send_packed_command(command).await.map(|one| vec![one]),
            Request::Commands(commands) if commands.is_transaction() => {
                connection.send_packed_commands(commands, commands.len() + 1, 1).await
            }
            Request::Commands(commands) => connection.send_packed_commands(commands, 0, commands.len()).await,
        };
        answered.map_err(|error| {
            let late = error.is_timeout();
            let failure = Failure::from(error);
            if late { Failure::timeout(self.response_time_limit, "response_time_limit") } else { failure }
        })
    }

    pub(crate) async fn info(&self, section: &str) -> Result<String, Failure> {
        let mut command = Cmd::new();
        command.arg("INFO").arg(section);
        let answers = self.send(&Request::Command(command)).await?;
        let answer = answers.into_iter().next().unwrap_or_default().extract_error()?;
        Ok(redis::from_redis_value(answer).map_err(redis::RedisError::from)?)
    }
}

impl Connected {
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
        Target::Node(info) => (**info).clone(),
        Target::Sentinel { sentinels, primary_name, primary } => {
            find_primary(settings, sentinels, primary_name, primary).await?
        }
    };
    let address = info.addr().to_string();
    let what = format!("connecting to {address}");
    let connection = open(settings, info).await.map_err(|failure| failure.while_doing(&what))?;
    let server = ask_server(&connection).await.map_err(|failure| failure.while_doing(&what))?;
    server.check().map_err(|failure| failure.while_doing(&what))?;
    Ok(Connected { connection, server, response_time_limit: settings.response_time_limit, address })
}

async fn open(settings: &Settings, info: ConnectionInfo) -> Result<MultiplexedConnection, Failure> {
    let options = settings
        .client_options
        .clone()
        .set_connection_timeout(Some(settings.connect_time_limit))
        .set_response_timeout(Some(settings.response_time_limit));
    Ok(Client::open(info)?.get_multiplexed_async_connection_with_config(&options).await?)
}

/// Identity, version and role, in one round trip.
async fn ask_server(connection: &MultiplexedConnection) -> Result<Server, Failure> {
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.cmd("INFO").arg("server").cmd("INFO").arg("replication");
    let mut both = String::new();
    for answer in connection.clone().send_packed_commands(&pipeline, 0, pipeline.len()).await? {
        let section: String =
            redis::from_redis_value(answer.extract_error()?).map_err(redis::RedisError::from)?;
        both.push_str(&section);
        both.push_str("\r\n");
    }
    Server::from_info(&both)
}

/// Asks the sentinels in turn where the primary is. The one that answers may not know yet of a
/// failover; that what is there is a primary is checked on the connection to it
/// (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>).
async fn find_primary(
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
fn at(primary: &ConnectionInfo, host: String, port: u16) -> ConnectionInfo {
    use redis::ConnectionAddr;

    let addr = match primary.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    primary.clone().set_addr(addr)
}

/// Notices what the connection itself does not say: that the server hangs or its network is gone,
/// that it has become a replica, or that the sentinels have another primary.
async fn keep_watch(line: Weak<Inner>, watched: Weak<Connected>) {
    let Some(settings) = line.upgrade().map(|line| Arc::clone(&line.settings)) else { return };
    loop {
        tokio::time::sleep(settings.watch_interval).await;
        let Some(connected) = watched.upgrade() else { return };
        let fine = ask_server(&connected.connection).await.is_ok_and(|server| server == connected.server);
        let moved = match &settings.target {
            Target::Sentinel { sentinels, primary_name, primary } if fine => {
                let found = find_primary(&settings, sentinels, primary_name, primary).await;
                // Sentinels that do not answer say nothing about the primary.
                found.is_ok_and(|info| info.addr().to_string() != connected.address)
            }
            _ => false,
        };
        let Some(line) = line.upgrade() else { return };
        if !fine || moved {
            tracing::debug!(address = connected.address, "another connection is needed");
            line.discard(&connected);
            return;
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(info) => f.debug_tuple("Node").field(&info.addr().to_string()).finish(),
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
