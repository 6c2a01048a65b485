//! One server: its connections, its circuit breaker and its latest handshake.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use groupcache_core::backend::{CircuitBreaker, SharedConnection};
use groupcache_core::{Error, ErrorKind, Result};
use memcache::exp::{MetaCommand, MetaCommandResult as Response};
use tokio::time::timeout;

use crate::advice::{self, Advice};
use crate::contact::{self, Contact};
use crate::error::{Failure, NAME, Remedy};
use crate::evidence::{ObservedCall, Progress, Silences};
use crate::expiry::ServerTime;
use crate::handshake::ServerInfo;
use crate::left_servers::LeftServers;
use crate::placement::Membership;
use crate::pool::Pool;
use crate::resolver::KnownAddresses;
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
    addresses: Arc<KnownAddresses>,
    info: ServerInfo,
}

struct Inner {
    name: String,
    /// Whether the name is an IP address, which leads nowhere else.
    is_address: bool,
    membership: Membership,
    settings: Settings,
    breaker: CircuitBreaker,
    connected: SharedConnection<Connected, Failure>,
    handshakes: Mutex<HandshakeState>,
    left: LeftServers,
    silences: Silences,
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
        let (handshakes, left, silences) = (Mutex::default(), LeftServers::default(), Silences::default());
        let is_address = name.parse::<SocketAddr>().is_ok();
        let inner =
            Inner { name, is_address, membership, settings, breaker, connected, handshakes, left, silences };
        Self(Arc::new(inner))
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
        let call = ObservedCall::new(call, &self.0.silences);
        let outcome = self.send_with_retry(kind, &call.progress, push_commands).await;
        call.end(outcome)
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
        let Contact { info, .. } = self.contact().await?;
        Ok(advice::for_server(self.name(), &info, self.0.settings.max_connections, self.0.membership))
    }

    fn circuit_open(&self) -> Error {
        let message = format!("{}: not sent because the circuit breaker is open", self.0.name);
        Error::new(ErrorKind::Unavailable, NAME).with_message(message)
    }

    async fn send_with_retry(
        &self,
        kind: RequestKind,
        progress: &Progress,
        push_commands: impl Fn(u32, &ServerInfo, &mut Vec<MetaCommand>) + Send,
    ) -> Result<Vec<Response>, Failure> {
        let mut attempt = 0;
        loop {
            let connected = self.connected().await?;
            let mut commands = Vec::new();
            push_commands(attempt, &connected.info, &mut commands);
            match self.exchange(kind, progress, &connected, commands).await {
                Ok(responses) => return Ok(responses),
                Err(failure) => {
                    self.apply_remedy(&connected, failure.remedy);
                    if attempt > 0 || !failure.retry {
                        return Err(failure.at_server(&self.0.name));
                    }
                    attempt += 1;
                }
            }
        }
    }

    async fn exchange(
        &self,
        kind: RequestKind,
        progress: &Progress,
        connected: &Arc<Connected>,
        commands: Vec<MetaCommand>,
    ) -> Result<Vec<Response>, Failure> {
        self.resolve_again_if_due(connected).await?;
        let responses = match kind {
            RequestKind::Read => connected.reads.exchange(commands, progress).await?,
            RequestKind::Write | RequestKind::Invalidation => {
                let set_waiting = |is_waiting| progress.set_waiting(is_waiting);
                connected.pool.exchange(commands, set_waiting).await?
            }
        };
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("late_response") {
            return Ok(responses);
        }
        // The response may have taken long, and the name may have moved meanwhile.
        self.resolve_again_if_due(connected).await?;
        Ok(responses)
    }

    async fn connect(&self) -> Result<Connected, Failure> {
        let Contact { address, addresses, info } = self.contact().await?;
        let pool = self.0.left.enter(address, &addresses, &info).and_then(|()| {
            Pool::new(
                self.0.name.clone(),
                address,
                Arc::clone(&addresses),
                &self.0.settings,
                self.0.silences.clone(),
            )
        });
        let pool = pool.map_err(|failure| failure.at_server(&self.0.name))?;
        let reads = SharedReads::new(pool.clone());
        Ok(Connected { pool, reads, address, addresses, info })
    }

    async fn contact(&self) -> Result<Contact, Failure> {
        let Inner { name, settings, left, .. } = &*self.0;
        contact::establish(name, settings, left).await.map_err(|failure| failure.at_server(name))
    }

    /// Resolves the name again, in the background before `resolve_interval` is over and at once afterwards,
    /// as the process may have been idle or suspended.
    ///
    /// # Errors
    ///
    /// If the name leads elsewhere. A name that cannot be resolved is taken to lead where it led.
    async fn resolve_again_if_due(&self, connected: &Arc<Connected>) -> Result<(), Failure> {
        let Inner { ref settings, is_address, .. } = *self.0;
        if is_address {
            return Ok(());
        }
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("resolved_once") {
            return Ok(());
        }
        if connected.addresses.is_left() {
            return Err(Failure::address_changed(Remedy::Leave));
        }
        let age = connected.addresses.age(settings.clock.now());
        if age < settings.resolve_interval / 2 {
            return Ok(());
        }
        // Boxed, so that calls for which it is not due do not carry this future.
        Box::pin(self.resolve_again(connected, age)).await
    }

    async fn resolve_again(&self, connected: &Arc<Connected>, age: Duration) -> Result<(), Failure> {
        let Settings { resolve_interval: interval, ref clock, .. } = self.0.settings;
        let resolving = Arc::clone(&connected.addresses.resolving);
        let turn =
            if age < interval { resolving.try_lock_owned().ok() } else { Some(resolving.lock_owned().await) };
        let is_in_use = self.0.connected.current().is_some_and(|current| Arc::ptr_eq(&current, connected));
        if !is_in_use {
            return Err(Failure::address_changed(Remedy::None));
        }
        let Some(turn) = turn else { return Ok(()) };
        if connected.addresses.age(clock.now()) < interval / 2 {
            return Ok(());
        }
        let (server, connected) = (self.clone(), Arc::clone(connected));
        // A task, so that a call that is cancelled does not cancel it for the others.
        let resolution = tokio::spawn(async move {
            let _turn = turn;
            server.resolve(&connected).await
        });
        if age < interval { Ok(()) } else { resolution.await.unwrap_or(Ok(())) }
    }

    async fn resolve(&self, connected: &Arc<Connected>) -> Result<(), Failure> {
        let Settings { connect_time_limit, ref clock, ref resolver, .. } = self.0.settings;
        let (now, name) = (clock.now(), &self.0.name);
        let resolved = timeout(connect_time_limit, resolver.resolve(name)).await;
        match resolved {
            Ok(Ok(resolved)) => {
                if let Some(remedy) = connected.addresses.remedy(&resolved) {
                    self.apply_remedy(connected, remedy);
                    return Err(Failure::address_changed(remedy));
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(backend = NAME, server = name, %error, "cannot resolve the name again");
            }
            Err(_) => {
                tracing::debug!(backend = NAME, server = name, "resolving the name again takes too long");
            }
        }
        connected.addresses.resolved(now);
        Ok(())
    }

    fn apply_remedy(&self, connected: &Arc<Connected>, remedy: Remedy) {
        match remedy {
            Remedy::None => {}
            Remedy::Reconnect => self.0.connected.discard(connected),
            Remedy::Leave => {
                connected.addresses.leave();
                self.0.left.leave(connected.address);
                self.0.connected.discard(connected);
            }
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
            match server.connect().await {
                Ok(new) if new.address == old.address && new.info.is_same_incarnation(&old.info) => {}
                Ok(new) => server.0.connected.replace(&old, Arc::new(new)),
                // The name leads to several servers, or to one that must not be used.
                Err(failure) if failure.kind == ErrorKind::Configuration => {
                    server.0.connected.discard(&old);
                }
                Err(_) => {}
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
