//! One server: what it said about itself, the connections to it, its circuit breaker.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use groupcache_core::backend::{CircuitBreaker, SharedConnection};

use groupcache_core::{Clock, Error, Result};
use memcache::exp::{MetaCommand, MetaCommandResult as Answer};
use tokio::net::TcpStream;

use crate::advice;
use crate::error::{Failure, Remedy};
use crate::expiry::ServerTime;
use crate::greeting::{self, About};
use crate::pool::Pool;
use crate::reads::Reads;

/// How to talk to every server.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) max_connections: usize,
    pub(crate) connect_time_limit: Duration,
    pub(crate) response_time_limit: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Reads only. Not sent while the circuit breaker is open.
    Read,
    /// Not sent while the circuit breaker is open.
    Write,
    /// Sent whatever the circuit breaker says, if there is a connection or may be one by now.
    Anyway,
}

/// Connects when it is first used, and again when nobody listens any more. Cheap to clone; clones are
/// the same server.
#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

struct Inner {
    name: String,
    settings: Settings,
    breaker: CircuitBreaker,
    /// What joins the list of another step, and should be empty then.
    joins: bool,
    connected: SharedConnection<Connected, Failure>,
    asked: Mutex<Asked>,
}

/// How the server came to be asked who it is.
#[derive(Default)]
struct Asked {
    /// Since when that is not to be repeated.
    at: Option<Instant>,
    advised: bool,
}

/// The connections to one server, made as they are needed.
pub(crate) struct Connected {
    pool: Pool,
    reads: Arc<Reads>,
    address: SocketAddr,
    pub(crate) about: About,
}

impl Server {
    pub(crate) fn new(name: String, joins: bool, settings: Settings, breaker: CircuitBreaker) -> Self {
        let connected = SharedConnection::new()
            .backoff(settings.backoff_min, settings.backoff_max)
            .clock(Arc::clone(&settings.clock));
        Self(Arc::new(Inner { name, settings, breaker, joins, connected, asked: Mutex::default() }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// The largest item that it takes, if it has said so.
    pub(crate) fn item_bytes_max(&self) -> Option<usize> {
        self.0.connected.current()?.about.item_bytes_max
    }

    /// Its clock, if it has told.
    pub(crate) fn time(&self) -> Option<ServerTime> {
        Some(self.0.connected.current()?.about.time)
    }

    pub(crate) fn joins(&self) -> bool {
        self.0.joins
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn breaker(&self) -> &CircuitBreaker {
        &self.0.breaker
    }

    /// Sends what `build` makes, in one piece, and waits for the answers, one for each command.
    pub(crate) async fn ask(
        &self,
        how: Ask,
        build: impl Fn(u32, &About, &mut Vec<MetaCommand>) + Send,
    ) -> Result<Vec<Answer>> {
        let call = match how {
            Ask::Anyway => self.0.breaker.force_call(),
            Ask::Read | Ask::Write => self.0.breaker.try_call().ok_or_else(|| self.refusal())?,
        };
        let outcome = self.send(how, build).await;
        call.record(&outcome);
        outcome
    }

    pub(crate) fn refusal(&self) -> Error {
        let message = format!("{}: not asked, it did not answer a moment ago", self.0.name);
        Error::new(groupcache_core::ErrorKind::Unavailable, crate::error::NAME).with_message(message)
    }

    /// Once, and once more if the connection turns out to be closed. `build` is asked each time, so
    /// that no token is ever sent twice.
    async fn send(
        &self,
        how: Ask,
        build: impl Fn(u32, &About, &mut Vec<MetaCommand>) + Send,
    ) -> Result<Vec<Answer>> {
        let mut attempt = 0;
        loop {
            let connected = self.connected().await?;
            let mut commands = Vec::new();
            build(attempt, &connected.about, &mut commands);
            let answers = match how {
                Ask::Read => connected.reads.run(commands).await,
                Ask::Write | Ask::Anyway => connected.pool.exchange(commands).await,
            };
            match answers {
                Ok(answers) => return Ok(answers),
                Err(failure) => {
                    self.heal(&connected, failure.remedy);
                    if attempt > 0 || !failure.retry {
                        return Err(failure.at(&self.0.name).into());
                    }
                    attempt += 1;
                }
            }
        }
    }

    /// The connections; made if there are none.
    pub(crate) async fn connected(&self) -> Result<Arc<Connected>, Failure> {
        let connect = || {
            let server = self.clone();
            async move {
                let connected = server.connect().await?;
                let mut asked = server.0.lock();
                asked.at = Some(server.0.settings.clock.now());
                if !std::mem::replace(&mut asked.advised, true) {
                    tokio::spawn(advice::log(server.clone()));
                }
                Ok(Arc::new(connected))
            }
        };
        self.0.connected.get(connect).await
    }

    /// Asks the server who it is, on a connection of its own that it closes again: those of the client know
    /// no commands but those of the meta protocol. They then lead to the same address.
    async fn connect(&self) -> Result<Connected, Failure> {
        let settings = &self.0.settings;
        let limit = settings.connect_time_limit;
        let greeted = tokio::time::timeout(limit, async {
            let stream = TcpStream::connect(&self.0.name).await.map_err(Failure::io)?;
            let address = stream.peer_addr().map_err(Failure::io)?;
            let about = greeting::greet(stream, &*settings.clock).await?;
            let pool = Pool::new(self.0.name.clone(), address, settings)?;
            let reads = Reads::new(pool.clone());
            Ok(Connected { pool, reads, address, about })
        });
        let outcome = match greeted.await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::timeout(limit, "connect_time_limit")),
        };
        outcome.map_err(|failure| failure.at(&self.0.name))
    }

    fn heal(&self, connected: &Arc<Connected>, remedy: Remedy) {
        match remedy {
            Remedy::None => {}
            Remedy::ConnectAgain => self.0.connected.discard(connected),
            Remedy::AskAgain => self.ask_again(connected),
        }
    }

    /// The connections that there are stay in use meanwhile, and if it does not answer: a server that
    /// takes no more connections goes on serving those.
    fn ask_again(&self, old: &Arc<Connected>) {
        let Settings { backoff_max, connect_time_limit, .. } = self.0.settings;
        let now = self.0.settings.clock.now();
        let mut asked = self.0.lock();
        let since = asked.at.map(|at| now.saturating_duration_since(at));
        if since.is_some_and(|since| since < backoff_max.max(connect_time_limit)) {
            return;
        }
        asked.at = Some(now);
        drop(asked);
        let (server, old) = (self.clone(), Arc::clone(old));
        tokio::spawn(async move {
            if let Ok(new) = server.connect().await
                && (new.address != old.address || !new.about.is_same_life(&old.about))
            {
                server.0.connected.replace(&old, Arc::new(new));
            }
        });
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.0.name)
            .field("circuit_open", &self.0.breaker.is_open())
            .finish_non_exhaustive()
    }
}
