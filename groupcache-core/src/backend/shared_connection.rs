//! One connection to a store, for all who need it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock::{Clock, SystemClock};
use crate::error::Error;
use crate::sync::Mutex;

/// More is a mistake, and more than clocks can add.
const LONGEST_PAUSE: Duration = Duration::from_secs(365 * 86_400);

/// A connection that all callers share, for backends: made when it is first used, and again when it is
/// lost. What a connection is, and how it is made, its users say. Cheap to clone; clones are the same.
///
/// Concurrent callers share one attempt to connect, and the attempt goes on if they go away. After one
/// that failed all callers have its outcome at once, until the next is due: twice as long after each
/// failure, less a random part of up to half of it, so that many processes do not all come back at the
/// same moment.
///
/// The first failure in a row is logged, unless it is one that another attempt may not meet
/// ([`is_transient`](Error::is_transient)): of those a [`CircuitBreaker`](crate::CircuitBreaker) tells.
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
/// let line = SharedConnection::new();
/// let connect = || async { Ok::<_, Refused>(Arc::new("a connection")) };
/// let connection = line.get(connect).await?;
/// assert!(Arc::ptr_eq(&connection, &line.get(connect).await?));
///
/// // Found closed. Whoever asks next connects anew.
/// line.discard(&connection);
/// assert!(!Arc::ptr_eq(&connection, &line.get(connect).await?));
/// # Ok(())
/// # }
/// ```
pub struct SharedConnection<C, E> {
    backoff_min: Duration,
    backoff_max: Duration,
    waits_for_retries: bool,
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State<C, E>>>,
}

struct State<C, E> {
    phase: Phase<C>,
    /// How many attempts have failed since one succeeded, and why the last of them did.
    failed: Option<(u32, E)>,
}

enum Phase<C> {
    /// Nobody has asked for a connection since the last was lost.
    Idle,
    /// An attempt is under way; the receiver is told, or finds the sender gone, when it has ended.
    Connecting(watch::Receiver<()>),
    Up(Arc<C>),
    /// The last attempt failed, and the next must wait until then.
    Down(Instant),
}

impl<C, E> SharedConnection<C, E>
where
    C: Send + Sync + 'static,
    E: Clone + Into<Error> + Send + 'static,
{
    /// Not connected yet. Pauses after failures are of 50 ms to 2 s.
    #[must_use]
    pub fn new() -> Self {
        Self {
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            waits_for_retries: true,
            clock: Arc::new(SystemClock),
            state: Arc::new(Mutex::new(State { phase: Phase::Idle, failed: None })),
        }
    }

    /// How long after a failure the next attempt may begin: `min` after the first, twice as long after each,
    /// up to `max`, and a year at most.
    #[must_use]
    pub const fn backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.backoff_min, self.backoff_max) = (min, max);
        self
    }

    /// Makes callers wait only for the first attempt: while one that follows a failure is under way they
    /// have that failure. For a store of many servers, where the others need not wait for one that does not
    /// answer.
    #[must_use]
    pub const fn never_waits_for_retries(mut self) -> Self {
        self.waits_for_retries = false;
        self
    }

    /// Where the time comes from. Defaults to [`SystemClock`].
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The connection; made with `connect` if there is none. Must be called within a tokio runtime. Costs
    /// a lock if there is one.
    ///
    /// # Errors
    ///
    /// Why the last attempt failed, if the next is not due yet.
    pub async fn get<Connecting>(&self, connect: impl Fn() -> Connecting) -> Result<Arc<C>, E>
    where
        Connecting: Future<Output = Result<Arc<C>, E>> + Send + 'static,
    {
        match self.current() {
            Some(connection) => Ok(connection),
            // In a box: whoever finds one should not carry the rest along.
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
                    (Phase::Down(until), Some((_, why))) if waited || self.clock.now() < *until => {
                        return Err(why.clone());
                    }
                    (Phase::Connecting(_), Some((_, why))) if !self.waits_for_retries => {
                        return Err(why.clone());
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
                    // Twice is no chance: whatever ends them should not be called in a tight loop.
                    tokio::time::sleep(self.pause_after(lost - 1)).await;
                }
                lost = lost.saturating_add(1);
            }
            waited = true;
        }
    }

    /// The connection if there is one.
    #[must_use]
    pub fn current(&self) -> Option<Arc<C>> {
        match &self.state.lock().phase {
            Phase::Up(connection) => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    /// Makes the next caller connect anew, unless somebody has done so since.
    pub fn discard(&self, connection: &Arc<C>) {
        let mut state = self.state.lock();
        if state.phase.is_up_with(connection) {
            state.phase = Phase::Idle;
        }
    }

    /// Puts another in the place of this one, unless somebody has done so since.
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
        let line = self.clone();
        tokio::spawn(async move {
            line.end_attempt(connecting.await);
            // Nobody may be waiting any more.
            let _nobody = ended.send(());
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
            Err(why) => {
                let before = state.failed.as_ref().map_or(0, |(failures, _)| *failures);
                let now = self.clock.now();
                state.phase = Phase::Down(now.checked_add(self.pause_after(before)).unwrap_or(now));
                state.failed = Some((before.saturating_add(1), why.clone()));
                drop(state);
                let error: Error = why.into();
                if before == 0 && !error.is_transient() {
                    let cause = std::error::Error::source(&error).map(tracing::field::display);
                    tracing::warn!(%error, cause, "no connection; going on without it");
                }
            }
        }
    }
}

impl<C, E> SharedConnection<C, E> {
    fn pause_after(&self, failures: u32) -> Duration {
        let doubled = self.backoff_min.saturating_mul(2_u32.saturating_pow(failures));
        doubled.min(self.backoff_max).min(LONGEST_PAUSE).mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }
}

impl<C> Phase<C> {
    /// An attempt that panicked, or whose runtime is gone, has no outcome: it never was.
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;
    use crate::clock::ManualClock;
    use crate::error::ErrorKind;

    const SECOND: Duration = Duration::from_secs(1);

    /// Which attempt it was.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Failed(u32);

    impl From<Failed> for Error {
        fn from(_: Failed) -> Self {
            Self::new(ErrorKind::Unavailable, "store")
        }
    }

    /// A store that connects or not, and counts how often it was asked to.
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

    fn line() -> (SharedConnection<u32, Failed>, Store, ManualClock) {
        let clock = ManualClock::new();
        let line = SharedConnection::new().backoff(SECOND, 4 * SECOND).clock(Arc::new(clock.clone()));
        (line, Store::default(), clock)
    }

    async fn get(line: &SharedConnection<u32, Failed>, store: &Store) -> Result<u32, Failed> {
        line.get(|| store.clone().connect()).await.map(|connection| *connection)
    }

    #[tokio::test]
    async fn all_share_one_connection_and_one_attempt() {
        let (line, store, _) = line();
        assert!(line.current().is_none());
        let all = join_all((0..10).map(|_| get(&line, &store))).await;
        assert_eq!((all, store.attempts()), (vec![Ok(0); 10], 1));
        assert_eq!(line.current().as_deref(), Some(&0));
    }

    #[tokio::test]
    async fn an_attempt_goes_on_without_who_asked_for_it() {
        let (line, store, _) = line();
        assert!(get(&line, &store).now_or_never().is_none());
        assert_eq!((get(&line, &store).await, store.attempts()), (Ok(0), 1));
    }

    #[tokio::test]
    async fn only_the_connection_that_was_lost_is_replaced() {
        let (line, store, _) = line();
        let first = line.get(|| store.clone().connect()).await.unwrap();
        line.discard(&first);
        assert_eq!(get(&line, &store).await, Ok(1));
        // Somebody finds out late.
        line.discard(&first);
        line.replace(&first, Arc::new(7));
        assert_eq!((get(&line, &store).await, store.attempts()), (Ok(1), 2));
        let second = line.current().unwrap();
        line.replace(&second, Arc::new(8));
        assert_eq!((get(&line, &store).await, store.attempts()), (Ok(8), 2));
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_asked_less_and_less_often() {
        let (line, store, clock) = line();
        store.refuse(true);
        // At least half of 1, 2, 4 and 4 seconds.
        for (failed, pause) in (0..).zip([1, 2, 4, 4]) {
            assert_eq!(get(&line, &store).await, Err(Failed(failed)));
            clock.advance(pause * SECOND / 2 - Duration::from_millis(1));
            assert_eq!(get(&line, &store).await, Err(Failed(failed)), "not due");
            clock.advance(pause * SECOND / 2 + Duration::from_millis(1));
        }
        store.refuse(false);
        assert_eq!(get(&line, &store).await, Ok(4));
        // It has answered since.
        line.discard(&line.current().unwrap());
        store.refuse(true);
        assert_eq!(get(&line, &store).await, Err(Failed(5)));
        clock.advance(SECOND);
        assert_eq!(get(&line, &store).await, Err(Failed(6)));
    }

    #[tokio::test]
    async fn whoever_does_not_wait_for_retries_has_the_failure_before() {
        let (line, store, clock) = line();
        let line = line.never_waits_for_retries();
        store.refuse(true);
        assert_eq!(get(&line, &store).await, Err(Failed(0)));
        clock.advance(SECOND);
        store.refuse(false);
        let both = tokio::join!(get(&line, &store), get(&line, &store));
        assert_eq!(both, (Ok(1), Err(Failed(0))));
    }

    #[test]
    fn an_attempt_that_went_with_its_runtime_is_made_again() {
        let (line, store, _) = line();
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        let begun = runtime().block_on(async { get(&line, &store).now_or_never() });
        assert!(begun.is_none());
        assert_eq!((runtime().block_on(get(&line, &store)), store.attempts()), (Ok(0), 1));
    }

    #[tokio::test]
    async fn an_attempt_that_panics_after_another_failed_does_not_end_all_others() {
        let (line, store, clock) = line();
        let line = line.never_waits_for_retries();
        store.refuse(true);
        assert_eq!(get(&line, &store).await, Err(Failed(0)));
        clock.advance(SECOND);
        // Who asked for it goes away; nobody waits for it to end.
        let panics = || async { panic!("as a client might") };
        assert!(line.get(panics).now_or_never().is_none());
        tokio::task::yield_now().await;
        store.refuse(false);
        assert_eq!(get(&line, &store).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_panic_are_made_with_pauses() {
        let (line, attempts) =
            (SharedConnection::<u32, Failed>::new().backoff(SECOND, 4 * SECOND), AtomicU32::new(0));
        let panics = || {
            assert!(attempts.fetch_add(1, Ordering::SeqCst) < 100, "a tight loop");
            async { panic!("as a client might") }
        };
        assert!(tokio::time::timeout(8 * SECOND, line.get(panics)).await.is_err());
        // One at once, one more, then after 1, 2, 4 and 4 seconds less up to a half.
        assert!((4..=7).contains(&attempts.load(Ordering::SeqCst)), "{attempts:?}");
    }
}
