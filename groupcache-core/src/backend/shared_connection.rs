//! A connection that all callers of a backend share.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock::{Clock, SystemClock};
use crate::error::Error;
use crate::sync::Mutex;

/// A connection that all callers share: established on first use, and again when it is lost. A building block
/// for backends.
///
/// `C` is the type of the connection and `E` the error of a failed attempt to connect. Cheap to clone; clones
/// share the connection.
///
/// Concurrent callers share one attempt to connect. The attempt continues if they are cancelled. After a
/// failed attempt, callers get its error at once, until the next attempt is due. The pause doubles with each
/// consecutive failure. A random part of up to half is subtracted, so that many processes do not reconnect at
/// the same moment.
///
/// The first of several consecutive failures is logged, unless it is [transient](Error::is_transient):
/// transient failures are logged by the [`CircuitBreaker`](crate::backend::CircuitBreaker).
///
/// ```
/// use std::sync::Arc;
/// use groupcache_core::backend::SharedConnection;
/// use groupcache_core::{Error, ErrorKind};
///
/// #[derive(Debug, Clone)]
/// struct Refused;
///
/// impl From<Refused> for Error {
///     fn from(_: Refused) -> Self {
///         Self::new(ErrorKind::Refused, "store")
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Refused> {
/// let shared = SharedConnection::new();
/// let connect = || async { Ok::<_, Refused>(Arc::new("a connection")) };
/// let connection = shared.get(connect).await?;
/// assert!(Arc::ptr_eq(&connection, &shared.get(connect).await?));
///
/// // The connection turned out to be closed, so the next caller reconnects.
/// shared.discard(&connection);
/// assert!(!Arc::ptr_eq(&connection, &shared.get(connect).await?));
/// # Ok(())
/// # }
/// ```
pub struct SharedConnection<C, E> {
    backoff_min: Duration,
    backoff_max: Duration,
    fail_fast: bool,
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State<C, E>>>,
}

struct State<C, E> {
    phase: Phase<C>,
    /// The number of consecutive failures, and the error of the last one.
    failed: Option<(u32, E)>,
}

enum Phase<C> {
    /// There is no connection, and no caller has requested one since the last was lost.
    Idle,
    /// An attempt is in flight. Its sender sends when it ends, and is dropped if it is lost.
    Connecting(watch::Receiver<()>),
    Up(Arc<C>),
    /// The last attempt failed. The next one is due at this time.
    Down(Instant),
}

impl<C, E> SharedConnection<C, E>
where
    C: Send + Sync + 'static,
    E: Clone + Into<Error> + Send + 'static,
{
    /// Creates a shared connection that is not connected yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            fail_fast: false,
            clock: Arc::new(SystemClock),
            state: Arc::new(Mutex::new(State { phase: Phase::Idle, failed: None })),
        }
    }

    /// Sets the pause after a failed attempt: `min` after the first, and twice as long after each further
    /// one, up to `max` and at most a year. Defaults to 50 milliseconds and 2 seconds.
    #[must_use]
    pub const fn backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.backoff_min, self.backoff_max) = (min, max);
        self
    }

    /// Returns the last error to callers while an attempt that follows a failure is in flight. Only the
    /// caller that starts the attempt waits for it. Defaults to all callers waiting.
    ///
    /// Suits a store of many servers, where one server that does not respond should not delay calls to the
    /// others.
    #[must_use]
    pub const fn fail_fast(mut self) -> Self {
        self.fail_fast = true;
        self
    }

    /// Sets the clock. Defaults to [`SystemClock`].
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Returns the connection, and establishes it with `connect` if there is none. If there is one, this
    /// costs a lock.
    ///
    /// A caller may be cancelled while it waits; the attempt continues.
    ///
    /// # Errors
    ///
    /// Returns the error of the last attempt, if the next one is not due yet.
    ///
    /// # Panics
    ///
    /// Panics if it has to connect and is not called within a tokio runtime.
    pub async fn get<Connecting>(&self, connect: impl Fn() -> Connecting) -> Result<Arc<C>, E>
    where
        Connecting: Future<Output = Result<Arc<C>, E>> + Send + 'static,
    {
        match self.current() {
            Some(connection) => Ok(connection),
            // Boxed, to keep the future small for callers that find a connection.
            None => Box::pin(self.wait(connect)).await,
        }
    }

    async fn wait<Connecting>(&self, connect: impl Fn() -> Connecting) -> Result<Arc<C>, E>
    where
        Connecting: Future<Output = Result<Arc<C>, E>> + Send + 'static,
    {
        let mut waited = false;
        let mut lost = 0_u32;
        loop {
            let mut attempt = {
                let mut state = self.state.lock();
                state.phase.forget_lost_attempt();
                match (&state.phase, &state.failed) {
                    (Phase::Up(connection), _) => return Ok(Arc::clone(connection)),
                    (Phase::Down(until), Some((_, error))) if waited || self.clock.now() < *until => {
                        return Err(error.clone());
                    }
                    (Phase::Connecting(_), Some((_, error))) if self.fail_fast => {
                        return Err(error.clone());
                    }
                    (Phase::Connecting(attempt), _) => attempt.clone(),
                    (Phase::Idle | Phase::Down(_), _) => {
                        let attempt = self.start_attempt(connect());
                        state.phase = Phase::Connecting(attempt.clone());
                        attempt
                    }
                }
            };
            if attempt.changed().await.is_err() {
                if lost > 0 {
                    // A second lost attempt is no coincidence. Do not retry in a tight loop.
                    tokio::time::sleep(self.pause_after(lost - 1)).await;
                }
                lost = lost.saturating_add(1);
            }
            waited = true;
        }
    }

    /// Returns the connection, if there is one.
    #[must_use]
    pub fn current(&self) -> Option<Arc<C>> {
        match &self.state.lock().phase {
            Phase::Up(connection) => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    /// Discards `connection`, so that the next caller reconnects. No effect if it has already been replaced.
    pub fn discard(&self, connection: &Arc<C>) {
        let mut state = self.state.lock();
        if state.phase.is_up_with(connection) {
            state.phase = Phase::Idle;
        }
    }

    /// Replaces `old` by `new`. No effect if `old` has already been discarded or replaced.
    pub fn replace(&self, old: &Arc<C>, new: Arc<C>) {
        let mut state = self.state.lock();
        if state.phase.is_up_with(old) {
            state.phase = Phase::Up(new);
        }
    }

    fn start_attempt(
        &self,
        connecting: impl Future<Output = Result<Arc<C>, E>> + Send + 'static,
    ) -> watch::Receiver<()> {
        let (ended, attempt) = watch::channel(());
        let shared = self.clone();
        tokio::spawn(async move {
            shared.end_attempt(connecting.await);
            // Fails if all waiting callers were cancelled.
            let _no_receivers = ended.send(());
        });
        attempt
    }

    fn end_attempt(&self, outcome: Result<Arc<C>, E>) {
        let mut state = self.state.lock();
        match outcome {
            Ok(connection) => {
                state.failed = None;
                state.phase = Phase::Up(connection);
            }
            Err(cause) => {
                let before = state.failed.as_ref().map_or(0, |(failures, _)| *failures);
                let now = self.clock.now();
                state.phase = Phase::Down(now.checked_add(self.pause_after(before)).unwrap_or(now));
                state.failed = Some((before.saturating_add(1), cause.clone()));
                drop(state);
                let error: Error = cause.into();
                if before == 0 && !error.is_transient() {
                    let cause = std::error::Error::source(&error).map(tracing::field::display);
                    tracing::warn!(%error, cause, "cannot connect to the store");
                }
            }
        }
    }
}

impl<C, E> SharedConnection<C, E> {
    fn pause_after(&self, failures: u32) -> Duration {
        let doubled = self.backoff_min.saturating_mul(2_u32.saturating_pow(failures));
        doubled.min(self.backoff_max).min(BACKOFF_MAX).mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }
}

impl<C> Phase<C> {
    /// Forgets an attempt without an outcome, because it panicked or its runtime was shut down.
    fn forget_lost_attempt(&mut self) {
        if matches!(self, Self::Connecting(attempt) if attempt.has_changed().is_err()) {
            *self = Self::Idle;
        }
    }

    fn is_up_with(&self, connection: &Arc<C>) -> bool {
        matches!(self, Self::Up(current) if Arc::ptr_eq(current, connection))
    }
}

impl<C, E> Clone for SharedConnection<C, E> {
    fn clone(&self) -> Self {
        Self { clock: Arc::clone(&self.clock), state: Arc::clone(&self.state), ..*self }
    }
}

impl<C, E> Default for SharedConnection<C, E>
where
    C: Send + Sync + 'static,
    E: Clone + Into<Error> + Send + 'static,
{
    fn default() -> Self {
        Self::new()
    }
}

impl<C, E> fmt::Debug for SharedConnection<C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        let phase = match &state.phase {
            Phase::Idle => "idle",
            Phase::Connecting(_) => "connecting",
            Phase::Up(_) => "up",
            Phase::Down(_) => "down",
        };
        let failures = state.failed.as_ref().map_or(0, |(failures, _)| *failures);
        f.debug_struct("SharedConnection").field("phase", &phase).field("failures", &failures).finish()
    }
}

/// Longer pauses are a mistake, and may exceed what clocks can represent.
const BACKOFF_MAX: Duration = Duration::from_secs(365 * 86_400);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;
    use crate::clock::ManualClock;
    use crate::error::ErrorKind;

    const SECOND: Duration = Duration::from_secs(1);

    /// The error of a failed attempt, with its number.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Failed(u32);

    impl From<Failed> for Error {
        fn from(_: Failed) -> Self {
            Self::new(ErrorKind::Unavailable, "store")
        }
    }

    /// A store that accepts or refuses connections, and counts the attempts.
    #[derive(Debug, Clone, Default)]
    struct Store {
        attempts: Arc<AtomicU32>,
        refuses: Arc<AtomicU32>,
    }

    impl Store {
        async fn connect(self) -> Result<Arc<u32>, Failed> {
            let attempt = self.attempts.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            match self.refuses.load(Ordering::SeqCst) {
                0 => Ok(Arc::new(attempt)),
                _ => Err(Failed(attempt)),
            }
        }

        fn attempts(&self) -> u32 {
            self.attempts.load(Ordering::SeqCst)
        }

        fn refuse(&self, refuses: bool) {
            self.refuses.store(refuses.into(), Ordering::SeqCst);
        }
    }

    fn shared() -> (SharedConnection<u32, Failed>, Store, ManualClock) {
        let clock = ManualClock::new();
        let shared = SharedConnection::new().backoff(SECOND, 4 * SECOND).clock(Arc::new(clock.clone()));
        (shared, Store::default(), clock)
    }

    async fn get(shared: &SharedConnection<u32, Failed>, store: &Store) -> Result<u32, Failed> {
        shared.get(|| store.clone().connect()).await.map(|connection| *connection)
    }

    #[tokio::test]
    async fn all_callers_share_one_connection_and_one_attempt() {
        let (shared, store, _) = shared();
        assert!(shared.current().is_none());
        let all = join_all((0..10).map(|_| get(&shared, &store))).await;
        assert_eq!((all, store.attempts()), (vec![Ok(0); 10], 1));
        assert_eq!(shared.current().as_deref(), Some(&0));
    }

    #[tokio::test]
    async fn an_attempt_continues_after_its_caller_is_cancelled() {
        let (shared, store, _) = shared();
        assert!(get(&shared, &store).now_or_never().is_none());
        assert_eq!((get(&shared, &store).await, store.attempts()), (Ok(0), 1));
    }

    #[tokio::test]
    async fn only_the_connection_that_was_lost_is_replaced() {
        let (shared, store, _) = shared();
        let first = shared.get(|| store.clone().connect()).await.unwrap();
        shared.discard(&first);
        assert_eq!(get(&shared, &store).await, Ok(1));
        // A caller that still has the old connection has no effect.
        shared.discard(&first);
        shared.replace(&first, Arc::new(7));
        assert_eq!((get(&shared, &store).await, store.attempts()), (Ok(1), 2));
        let second = shared.current().unwrap();
        shared.replace(&second, Arc::new(8));
        assert_eq!((get(&shared, &store).await, store.attempts()), (Ok(8), 2));
    }

    #[tokio::test]
    async fn pauses_between_failed_attempts_double() {
        let (shared, store, clock) = shared();
        store.refuse(true);
        // At least half of 1, 2, 4 and 4 seconds.
        for (failed, pause) in (0..).zip([1, 2, 4, 4]) {
            assert_eq!(get(&shared, &store).await, Err(Failed(failed)));
            clock.advance(pause * SECOND / 2 - Duration::from_millis(1));
            assert_eq!(get(&shared, &store).await, Err(Failed(failed)), "not due");
            clock.advance(pause * SECOND / 2 + Duration::from_millis(1));
        }
        store.refuse(false);
        assert_eq!(get(&shared, &store).await, Ok(4));
        // A success resets the pause.
        shared.discard(&shared.current().unwrap());
        store.refuse(true);
        assert_eq!(get(&shared, &store).await, Err(Failed(5)));
        clock.advance(SECOND);
        assert_eq!(get(&shared, &store).await, Err(Failed(6)));
    }

    #[tokio::test]
    async fn with_fail_fast_callers_get_the_last_error_during_a_retry() {
        let (shared, store, clock) = shared();
        let shared = shared.fail_fast();
        store.refuse(true);
        assert_eq!(get(&shared, &store).await, Err(Failed(0)));
        clock.advance(SECOND);
        store.refuse(false);
        let both = tokio::join!(get(&shared, &store), get(&shared, &store));
        assert_eq!(both, (Ok(1), Err(Failed(0))));
    }

    #[test]
    fn an_attempt_that_is_lost_with_its_runtime_is_repeated() {
        let (shared, store, _) = shared();
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        let begun = runtime().block_on(async { get(&shared, &store).now_or_never() });
        assert!(begun.is_none());
        assert_eq!((runtime().block_on(get(&shared, &store)), store.attempts()), (Ok(0), 1));
    }

    #[tokio::test]
    async fn an_attempt_that_panics_after_a_failure_is_repeated() {
        let (shared, store, clock) = shared();
        let shared = shared.fail_fast();
        store.refuse(true);
        assert_eq!(get(&shared, &store).await, Err(Failed(0)));
        clock.advance(SECOND);
        // Its caller is cancelled, so no caller waits for it to end.
        let panics = || async { panic!("the client panics") };
        assert!(shared.get(panics).now_or_never().is_none());
        tokio::task::yield_now().await;
        store.refuse(false);
        assert_eq!(get(&shared, &store).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_panic_are_repeated_with_pauses() {
        let (shared, attempts) =
            (SharedConnection::<u32, Failed>::new().backoff(SECOND, 4 * SECOND), AtomicU32::new(0));
        let panics = || {
            assert!(attempts.fetch_add(1, Ordering::SeqCst) < 100, "a tight loop");
            async { panic!("the client panics") }
        };
        assert!(tokio::time::timeout(8 * SECOND, shared.get(panics)).await.is_err());
        // Two at once, then after 1, 2, 4 and 4 seconds, each less up to a half.
        assert!((4..=7).contains(&attempts.load(Ordering::SeqCst)), "{attempts:?}");
    }
}
