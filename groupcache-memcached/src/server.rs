//! One server: what it said about itself, the connections to it, its circuit breaker.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use groupcache_core::{CircuitBreaker, Clock, Error, Result};
use memcache::exp::{MetaCommand, MetaCommandResult as Answer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::advice;
use crate::error::{Failure, Remedy};
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
    /// Must not be given up without a try.
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
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// Attempts to connect that failed since one succeeded.
    failures: u32,
    advised: bool,
    /// Whether the server is being asked again who it is, and since when that is not to be repeated.
    asking_again: bool,
    asked_at: Option<Instant>,
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

/// The connections to one server, made as they are needed.
pub(crate) struct Connected {
    pool: Pool,
    reads: Arc<Reads>,
    pub(crate) about: About,
}

impl Server {
    pub(crate) fn new(name: String, joins: bool, settings: Settings, breaker: CircuitBreaker) -> Self {
        let state =
            State { phase: Phase::Idle, failures: 0, advised: false, asking_again: false, asked_at: None };
        Self(Arc::new(Inner { name, settings, breaker, joins, state: Mutex::new(state) }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// The largest item that it takes, if it has said so.
    pub(crate) fn item_bytes_max(&self) -> Option<usize> {
        match &self.0.lock().phase {
            Phase::Up(connected) => connected.about.item_bytes_max,
            _ => None,
        }
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
            Ask::Anyway => self.0.breaker.call_anyway(),
            Ask::Read | Ask::Write => self.0.breaker.try_call().ok_or_else(|| self.refusal())?,
        };
        let outcome = self.send(how, build).await;
        call.ended(&outcome);
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

    /// The connections; made if there are none. Concurrent callers share one attempt, and the attempt
    /// goes on if they go away. After a failed attempt all callers get its outcome at once until the
    /// next one is due.
    pub(crate) async fn connected(&self) -> Result<Arc<Connected>, Failure> {
        let mut waited = false;
        loop {
            let mut attempt = {
                let mut state = self.0.lock();
                match &state.phase {
                    Phase::Up(connected) => return Ok(Arc::clone(connected)),
                    Phase::Down { until, why } if waited || self.0.settings.clock.now() < *until => {
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

    fn start_attempt(&self) -> watch::Receiver<()> {
        let (ended, attempt) = watch::channel(());
        let server = self.clone();
        tokio::spawn(async move {
            let outcome = server.connect().await;
            server.end_attempt(outcome);
            // Nobody may be waiting any more.
            let _nobody = ended.send(());
        });
        attempt
    }

    fn end_attempt(&self, outcome: Result<Connected, Failure>) {
        let mut state = self.0.lock();
        match outcome {
            Ok(connected) => {
                if !state.advised {
                    state.advised = true;
                    tokio::spawn(advice::log(self.clone()));
                }
                state.failures = 0;
                state.asked_at = Some(self.0.settings.clock.now());
                state.phase = Phase::Up(Arc::new(connected));
            }
            Err(why) => {
                let error = Error::from(why.clone());
                // Of a server that is away the circuit breaker tells; this will not end by itself.
                if state.failures == 0 && !error.is_transient() {
                    let cause = std::error::Error::source(&error).map(tracing::field::display);
                    tracing::warn!(%error, cause, "no connection; going on without this server");
                }
                let pause = self.0.settings.pause_after(state.failures);
                state.failures = state.failures.saturating_add(1);
                state.phase = Phase::Down { until: self.0.settings.clock.now() + pause, why };
            }
        }
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
            let pool = Pool::new(address, settings)?;
            let reads = Reads::new(pool.clone());
            Ok(Connected { pool, reads, about })
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
            Remedy::ConnectAgain => {
                let mut state = self.0.lock();
                if matches!(&state.phase, Phase::Up(current) if Arc::ptr_eq(current, connected)) {
                    state.phase = Phase::Idle;
                }
            }
            Remedy::AskAgain => self.ask_again(connected),
        }
    }

    /// The connections that there are stay in use meanwhile, and if it does not answer: a server that
    /// takes no more connections goes on serving those.
    fn ask_again(&self, connected: &Arc<Connected>) {
        let mut state = self.0.lock();
        let now = self.0.settings.clock.now();
        let recently = state
            .asked_at
            .is_some_and(|asked_at| now.saturating_duration_since(asked_at) < self.0.settings.backoff_max);
        let current = matches!(&state.phase, Phase::Up(current) if Arc::ptr_eq(current, connected));
        if state.asking_again || recently || !current {
            return;
        }
        state.asking_again = true;
        state.asked_at = Some(now);
        drop(state);
        let (server, old) = (self.clone(), Arc::clone(connected));
        tokio::spawn(async move {
            let asked = server.connect().await;
            let mut state = server.0.lock();
            state.asking_again = false;
            if let (Ok(new), Phase::Up(current)) = (asked, &state.phase)
                && Arc::ptr_eq(current, &old)
                && !new.about.is_same_life(&old.about)
            {
                state.phase = Phase::Up(Arc::new(new));
            }
        });
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.0.name)
            .field("circuit_open", &self.0.breaker.is_open())
            .finish_non_exhaustive()
    }
}
