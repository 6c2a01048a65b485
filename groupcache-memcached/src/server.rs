//! One server: its connections, its circuit breaker and its latest handshake.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use groupcache_core::backend::{CircuitBreaker, SharedConnection};
use groupcache_core::{Error, ErrorKind, Result};
use memcache::exp::{MetaCommand, MetaCommandResult as Response};
use tokio::net::TcpStream;

use crate::advice::{self, Advice};
use crate::error::{Failure, NAME, Remedy};
use crate::expiry::ServerTime;
use crate::handshake::{self, ServerInfo};
use crate::placement::Membership;
use crate::pool::Pool;
use crate::settings::Settings;
use crate::shared_reads::SharedReads;

/// The kind of a request, which decides how it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// Only reads. May share a batch with the reads of other callers. Not sent while the circuit breaker is
    /// open.
    Read,
    /// Mints, stores and leases. Not sent while the circuit breaker is open.
    Write,
    /// Invalidations and deletions. Sent even while the circuit breaker is open.
    Invalidation,
}

/// One server. Connects at first use, and again once nothing listens at its address any more. Cheap to
/// clone: clones are the same server.
#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

/// The connections to one server, and what the server reported about itself.
pub(crate) struct Connected {
    pool: Pool,
    reads: Arc<SharedReads>,
    address: SocketAddr,
    info: ServerInfo,
}

struct Inner {
    name: String,
    membership: Membership,
    settings: Settings,
    breaker: CircuitBreaker,
    connected: SharedConnection<Connected, Failure>,
    handshakes: Mutex<HandshakeState>,
}

/// Limits how often handshakes are repeated and advice is logged.
#[derive(Default)]
struct HandshakeState {
    /// When the last connection was made or the last repetition began.
    last_at: Option<Instant>,
    advice_logged: bool,
}

impl Server {
    pub(crate) fn new(
        name: String,
        membership: Membership,
        settings: Settings,
        breaker: CircuitBreaker,
    ) -> Self {
        let connected = SharedConnection::new()
            .backoff(settings.backoff_min, settings.backoff_max)
            .clock(Arc::clone(&settings.clock));
        let handshakes = Mutex::default();
        Self(Arc::new(Inner { name, membership, settings, breaker, connected, handshakes }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn breaker(&self) -> &CircuitBreaker {
        &self.0.breaker
    }

    /// Returns the server's item limit, if it is connected and reported one.
    pub(crate) fn item_bytes_max(&self) -> Option<usize> {
        self.0.connected.current()?.info.item_bytes_max
    }

    /// Returns the time by the server's clock, if it is connected.
    pub(crate) fn time(&self) -> Option<ServerTime> {
        Some(self.0.connected.current()?.info.time)
    }

    /// Sends the commands that `push_commands` appends, and returns one response for each, in order.
    ///
    /// If the connection turns out to be closed, sends them once more. `push_commands` runs for each
    /// attempt, with the number of the attempt, so that no token is sent twice.
    pub(crate) async fn send(
        &self,
        kind: RequestKind,
        push_commands: impl Fn(u32, &ServerInfo, &mut Vec<MetaCommand>) + Send,
    ) -> Result<Vec<Response>> {
        let call = match kind {
            RequestKind::Invalidation => self.0.breaker.force_call(),
            RequestKind::Read | RequestKind::Write => {
                self.0.breaker.try_call().ok_or_else(|| self.circuit_open())?
            }
        };
        let outcome = self.send_with_retry(kind, push_commands).await;
        call.record(&outcome);
        outcome
    }

    /// Returns the connections, and makes them if there are none.
    pub(crate) async fn connected(&self) -> Result<Arc<Connected>, Failure> {
        let connect = || {
            let server = self.clone();
            async move {
                let connected = server.connect().await?;
                let mut handshakes = server.0.handshakes();
                handshakes.last_at = Some(server.0.settings.clock.now());
                if !std::mem::replace(&mut handshakes.advice_logged, true) {
                    let server = server.clone();
                    tokio::spawn(async move { advice::log(server.advice().await) });
                }
                Ok(Arc::new(connected))
            }
        };
        self.0.connected.get(connect).await
    }

    /// Returns advice on the configuration that the server reports in a new handshake.
    pub(crate) async fn advice(&self) -> Result<Vec<Advice>, Failure> {
        let (_, info) = self.handshake().await?;
        Ok(advice::for_server(self.name(), &info, self.0.settings.max_connections, self.0.membership))
    }

    fn circuit_open(&self) -> Error {
        let message = format!("{}: not sent because the circuit breaker is open", self.0.name);
        Error::new(ErrorKind::Unavailable, NAME).with_message(message)
    }

    async fn send_with_retry(
        &self,
        kind: RequestKind,
        push_commands: impl Fn(u32, &ServerInfo, &mut Vec<MetaCommand>) + Send,
    ) -> Result<Vec<Response>> {
        let mut attempt = 0;
        loop {
            let connected = self.connected().await?;
            let mut commands = Vec::new();
            push_commands(attempt, &connected.info, &mut commands);
            let responses = match kind {
                RequestKind::Read => connected.reads.exchange(commands).await,
                RequestKind::Write | RequestKind::Invalidation => connected.pool.exchange(commands).await,
            };
            match responses {
                Ok(responses) => return Ok(responses),
                Err(failure) => {
                    self.apply_remedy(&connected, failure.remedy);
                    if attempt > 0 || !failure.retry {
                        return Err(failure.at_server(&self.0.name).into());
                    }
                    attempt += 1;
                }
            }
        }
    }

    async fn connect(&self) -> Result<Connected, Failure> {
        let (address, info) = self.handshake().await?;
        let pool = Pool::new(self.0.name.clone(), address, &self.0.settings);
        let pool = pool.map_err(|failure| failure.at_server(&self.0.name))?;
        let reads = SharedReads::new(pool.clone());
        Ok(Connected { pool, reads, address, info })
    }

    /// Performs a handshake on a connection of its own, which is closed afterwards: the client library
    /// offers only the meta protocol on its connections. Returns the address too, so that the pool connects
    /// to the same server.
    async fn handshake(&self) -> Result<(SocketAddr, ServerInfo), Failure> {
        let Settings { connect_time_limit: limit, ref clock, .. } = self.0.settings;
        let handshake = tokio::time::timeout(limit, async {
            let stream = TcpStream::connect(&self.0.name).await.map_err(Failure::from_io)?;
            let address = stream.peer_addr().map_err(Failure::from_io)?;
            Ok((address, handshake::perform(stream, &**clock).await?))
        });
        let outcome = match handshake.await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::timeout(limit, "connect_time_limit")),
        };
        outcome.map_err(|failure: Failure| failure.at_server(&self.0.name))
    }

    fn apply_remedy(&self, connected: &Arc<Connected>, remedy: Remedy) {
        match remedy {
            Remedy::None => {}
            Remedy::Reconnect => self.0.connected.discard(connected),
            Remedy::RepeatHandshake => self.repeat_handshake(connected),
        }
    }

    /// Performs a handshake in the background, and replaces the connections if it finds another server or
    /// another incarnation.
    ///
    /// Until then, and if the handshake fails, the old connections stay in use: a server that refuses new
    /// connections still serves those that it has.
    fn repeat_handshake(&self, old: &Arc<Connected>) {
        let Settings { backoff_max, connect_time_limit, ref clock, .. } = self.0.settings;
        let now = clock.now();
        let mut handshakes = self.0.handshakes();
        let since_last = handshakes.last_at.map(|at| now.saturating_duration_since(at));
        if since_last.is_some_and(|since| since < backoff_max.max(connect_time_limit)) {
            return;
        }
        handshakes.last_at = Some(now);
        drop(handshakes);
        let (server, old) = (self.clone(), Arc::clone(old));
        tokio::spawn(async move {
            if let Ok(new) = server.connect().await
                && (new.address != old.address || !new.info.is_same_incarnation(&old.info))
            {
                server.0.connected.replace(&old, Arc::new(new));
            }
        });
    }
}

impl Inner {
    fn handshakes(&self) -> MutexGuard<'_, HandshakeState> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
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
