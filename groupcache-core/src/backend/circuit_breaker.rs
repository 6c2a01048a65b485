//! A circuit breaker: keeps calls away from a store that does not respond.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind};
use crate::sync::Mutex;

/// Keeps calls away from a store that does not respond. A building block for backends.
///
/// A breaker starts closed, and permits all calls. A number of consecutive failures opens it. An open breaker
/// rejects calls at once, so a dead store costs its users nothing. After a pause it permits one call at a
/// time as a probe; the first success closes the breaker.
///
/// A call cancelled early counts neither as success nor as failure. A call cancelled after a long wait counts
/// as a failure: that is how a store that hangs looks to callers with their own time limits.
///
/// Opening and closing are logged once each. No method waits.
///
/// The pattern is described in Michael Nygard's "Release It!".
///
/// ```
/// use groupcache_core::backend::CircuitBreaker;
/// use groupcache_core::{Error, ErrorKind};
///
/// let breaker = CircuitBreaker::new("store").failures_to_open(1);
/// let call = breaker.try_call().expect("a new breaker is closed");
/// call.failed(&Error::new(ErrorKind::Unavailable, "store"));
/// assert!(breaker.try_call().is_none());
///
/// // Invalidations are attempted even if the breaker is open. A success closes it.
/// breaker.force_call().succeeded();
/// assert!(breaker.try_call().is_some());
/// ```
pub struct CircuitBreaker {
    backend: &'static str,
    failures_to_open: u32,
    pause: Duration,
    slow_call: Duration,
    clock: Arc<dyn Clock>,
    /// Consecutive failures. While the breaker is closed, calls read only this.
    failures: AtomicU32,
    open: Mutex<Option<Open>>,
}

/// A permitted call. Report its outcome with one of the methods; a call that is dropped counts as cancelled.
#[must_use = "a call that is dropped counts as cancelled"]
pub struct BreakerCall<'a> {
    breaker: &'a CircuitBreaker,
    started: Instant,
    is_probe: bool,
    reported: bool,
}

/// The state of an open breaker.
#[derive(Debug)]
struct Open {
    since: Instant,
    rejects_until: Instant,
    probing: bool,
}

impl CircuitBreaker {
    /// Creates a closed breaker for the backend of this name.
    #[must_use]
    pub fn new(backend: &'static str) -> Self {
        Self {
            backend,
            failures_to_open: 5,
            pause: Duration::from_secs(1),
            slow_call: Duration::from_millis(100),
            clock: Arc::new(SystemClock),
            failures: AtomicU32::new(0),
            open: Mutex::new(None),
        }
    }

    /// Creates a closed breaker with the settings of this one, for another server of the same backend.
    #[must_use]
    pub fn for_another_server(&self) -> Self {
        Self { clock: Arc::clone(&self.clock), failures: AtomicU32::new(0), open: Mutex::new(None), ..*self }
    }

    /// Sets the number of consecutive failures that opens the breaker; with zero it never opens. Defaults to 5.
    #[must_use]
    pub const fn failures_to_open(mut self, count: u32) -> Self {
        self.failures_to_open = count;
        self
    }

    /// Sets how long an open breaker rejects all calls before it permits a probe. Defaults to 1 second.
    #[must_use]
    pub const fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Sets how long a cancelled call must have waited to count as a failure. Defaults to 100 milliseconds.
    ///
    /// Choose much less than the cache's [`read_time_limit`](crate::CacheBuilder::read_time_limit), which
    /// cancels calls.
    #[must_use]
    pub const fn slow_call(mut self, duration: Duration) -> Self {
        self.slow_call = duration;
        self
    }

    /// Sets the clock. Defaults to [`SystemClock`].
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Permits a call, or returns `None` if the breaker is open.
    pub fn try_call(&self) -> Option<BreakerCall<'_>> {
        let now = self.clock.now();
        if self.has_failed_enough() {
            let mut open = self.open.lock();
            // `None` if another call has just closed the breaker.
            if let Some(open) = &mut *open {
                if open.probing || now < open.rejects_until {
                    return None;
                }
                open.probing = true;
                return Some(BreakerCall { breaker: self, started: now, is_probe: true, reported: false });
            }
        }
        Some(BreakerCall { breaker: self, started: now, is_probe: false, reported: false })
    }

    /// Permits a call even if the breaker is open, for invalidations, which must always be attempted.
    pub fn force_call(&self) -> BreakerCall<'_> {
        BreakerCall { breaker: self, started: self.clock.now(), is_probe: false, reported: false }
    }

    /// Returns whether the breaker is open: it rejects all calls, or permits one probe at a time.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.lock().is_some()
    }

    /// Returns the error for a rejected call, of kind [`ErrorKind::Unavailable`].
    #[must_use]
    pub fn open_error(&self) -> Error {
        Error::new(ErrorKind::Unavailable, self.backend)
            .with_message("call rejected, as the store did not respond to recent calls")
    }

    fn has_failed_enough(&self) -> bool {
        self.failures_to_open != 0 && self.failures.load(Ordering::Acquire) >= self.failures_to_open
    }

    fn on_success(&self) {
        if self.failures.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut open = self.open.lock();
        self.failures.store(0, Ordering::Release);
        if let Some(open) = open.take() {
            let after = self.clock.now().saturating_duration_since(open.since);
            tracing::info!(
                backend = self.backend,
                ?after,
                "the store responds again, so the circuit breaker closes"
            );
        }
    }

    fn on_failure(&self, is_probe: bool, error: Option<&Error>) {
        let now = self.clock.now();
        // A pause that the clock cannot represent counts as none.
        let rejects_until = now.checked_add(self.pause).unwrap_or(now);
        let mut open = self.open.lock();
        let failures = self.failures.load(Ordering::Relaxed).saturating_add(1);
        self.failures.store(failures, Ordering::Release);
        match &mut *open {
            Some(open) if is_probe => {
                open.rejects_until = rejects_until;
                open.probing = false;
            }
            // Calls from before the breaker opened, and forced calls, must not prolong the pause.
            Some(_) => {}
            None if self.has_failed_enough() => {
                *open = Some(Open { since: now, rejects_until, probing: false });
                drop(open);
                let chain = error.map(ErrorChain);
                let error = chain.as_ref().map(tracing::field::display);
                tracing::warn!(
                    backend = self.backend,
                    error,
                    "the store fails, so the circuit breaker opens"
                );
            }
            None => {}
        }
    }

    fn on_cancel(&self, is_probe: bool, started: Instant) {
        if self.clock.now().saturating_duration_since(started) >= self.slow_call {
            self.on_failure(is_probe, None);
        } else {
            self.release_probe(is_probe);
        }
    }

    fn release_probe(&self, is_probe: bool) {
        if is_probe && let Some(open) = &mut *self.open.lock() {
            open.probing = false;
        }
    }
}

impl BreakerCall<'_> {
    /// Reports that the store responded, even if with a refusal.
    pub fn succeeded(mut self) {
        self.reported = true;
        self.breaker.on_success();
    }

    /// Reports that the store did not respond or is not ready.
    pub fn failed(mut self, error: &Error) {
        self.reported = true;
        self.breaker.on_failure(self.is_probe, Some(error));
    }

    /// Ends a call whose outcome is no evidence about the store, such as one that failed before anything was sent.
    /// It counts neither as success nor as failure, and the next call may be a probe.
    pub fn inconclusive(mut self) {
        self.reported = true;
        self.breaker.release_probe(self.is_probe);
    }

    /// Reports `outcome`: as [`failed`](Self::failed) if it is a [transient](Error::is_transient) error, as
    /// [`succeeded`](Self::succeeded) otherwise.
    pub fn record<T>(self, outcome: &Result<T, Error>) {
        match outcome {
            Err(error) if error.is_transient() => self.failed(error),
            _ => self.succeeded(),
        }
    }

    /// Returns the time since the call was permitted.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.breaker.clock.now().saturating_duration_since(self.started)
    }
}

impl Drop for BreakerCall<'_> {
    fn drop(&mut self) {
        if !self.reported {
            self.breaker.on_cancel(self.is_probe, self.started);
        }
    }
}

/// An error and its causes in one line, for the log.
struct ErrorChain<'a>(&'a Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("failures_to_open", &self.failures_to_open)
            .field("pause", &self.pause)
            .field("slow_call", &self.slow_call)
            .field("open", &*self.open.lock())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for BreakerCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerCall").field("is_probe", &self.is_probe).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const PAUSE: Duration = Duration::from_secs(1);

    fn breaker(clock: &ManualClock) -> CircuitBreaker {
        CircuitBreaker::new("test").failures_to_open(3).pause(PAUSE).clock(clock.clone())
    }

    fn fail(breaker: &CircuitBreaker, times: u32) {
        for _ in 0..times {
            breaker.force_call().failed(&Error::new(ErrorKind::Unavailable, "test"));
        }
    }

    #[test]
    fn consecutive_failures_open_the_breaker_and_a_success_resets_the_count() {
        let breaker = breaker(&ManualClock::new());
        fail(&breaker, 2);
        breaker.try_call().unwrap().succeeded();
        fail(&breaker, 2);
        assert!(!breaker.is_open());
        assert!(breaker.try_call().is_some());
        fail(&breaker, 1);
        assert!(breaker.is_open());
        assert!(breaker.try_call().is_none());
    }

    #[test]
    fn an_inconclusive_call_changes_nothing_and_the_next_may_be_a_probe() {
        let clock = ManualClock::new();
        let breaker = breaker(&clock);
        fail(&breaker, 2);
        for _ in 0..5 {
            let call = breaker.try_call().unwrap();
            // As long as a cancelled call that counts as a failure.
            clock.advance(PAUSE);
            call.inconclusive();
        }
        assert!(!breaker.is_open());
        fail(&breaker, 1);
        assert!(breaker.is_open(), "the failures before still count");
        clock.advance(PAUSE);
        let probe = breaker.try_call().unwrap();
        clock.advance(PAUSE);
        probe.inconclusive();
        assert!(breaker.is_open());
        breaker.try_call().unwrap().succeeded();
        assert!(!breaker.is_open());
    }

    #[test]
    fn after_the_pause_one_probe_at_a_time_is_permitted() {
        let clock = ManualClock::new();
        let breaker = breaker(&clock);
        fail(&breaker, 3);
        clock.advance(PAUSE - Duration::from_nanos(1));
        assert!(breaker.try_call().is_none());
        clock.advance(Duration::from_nanos(1));
        let probe = breaker.try_call().unwrap();
        assert!(breaker.try_call().is_none(), "two probes at once");
        probe.failed(&Error::new(ErrorKind::Timeout, "test"));
        assert!(breaker.try_call().is_none(), "a failed probe restarts the pause");
        clock.advance(PAUSE);
        breaker.try_call().unwrap().succeeded();
        assert!(!breaker.is_open());
        let _both = (breaker.try_call().unwrap(), breaker.try_call().unwrap());
    }

    /// Invalidations are forced. Their failures must neither prolong the pause nor permit a second probe.
    #[test]
    fn failures_of_forced_calls_do_not_change_an_open_breaker() {
        let clock = ManualClock::new();
        let breaker = breaker(&clock);
        fail(&breaker, 3);
        clock.advance(PAUSE / 2);
        fail(&breaker, 1);
        clock.advance(PAUSE / 2);
        let probe = breaker.try_call().unwrap();
        fail(&breaker, 1);
        clock.advance(PAUSE);
        assert!(breaker.try_call().is_none(), "two probes at once");
        probe.succeeded();
        assert!(breaker.try_call().is_some());
    }

    #[test]
    fn a_call_cancelled_early_is_not_counted_and_one_cancelled_late_is_a_failure() {
        let clock = ManualClock::new();
        let breaker = breaker(&clock).slow_call(Duration::from_millis(100));
        for _ in 0..10 {
            drop(breaker.try_call().unwrap());
        }
        assert!(!breaker.is_open());
        let calls: Vec<_> = (0..3).map(|_| breaker.try_call().unwrap()).collect();
        clock.advance(Duration::from_millis(100));
        drop(calls);
        assert!(breaker.is_open());
        // A probe cancelled early permits the next one.
        clock.advance(PAUSE);
        drop(breaker.try_call().unwrap());
        let probe = breaker.try_call().unwrap();
        clock.advance(Duration::from_millis(100));
        drop(probe);
        assert!(breaker.try_call().is_none(), "a probe that hung is a failure");
    }

    #[test]
    fn only_transient_errors_count_as_failures() {
        let breaker = breaker(&ManualClock::new());
        for _ in 0..10 {
            breaker.force_call().record::<()>(&Err(Error::new(ErrorKind::Capacity, "test")));
        }
        assert!(!breaker.is_open());
        for _ in 0..3 {
            breaker.force_call().record::<()>(&Err(Error::new(ErrorKind::Timeout, "test")));
        }
        assert!(breaker.is_open());
        breaker.force_call().record(&Ok(()));
        assert!(!breaker.is_open());
    }

    #[test]
    fn debug_and_the_log_show_state_and_causes() {
        let clock = ManualClock::new();
        let breaker = breaker(&clock);
        assert!(format!("{breaker:?}").contains("failures_to_open: 3") && !breaker.is_open());
        let call = breaker.try_call().unwrap();
        clock.advance(PAUSE);
        assert_eq!(call.elapsed(), PAUSE);
        assert_eq!(format!("{call:?}"), "BreakerCall { is_probe: false, .. }");
        let refused = std::io::Error::other("connection refused");
        let error = Error::new(ErrorKind::Unavailable, "test").with_source(refused);
        assert_eq!(ErrorChain(&error).to_string(), format!("{error}: connection refused"));
    }

    #[test]
    fn the_breaker_of_another_server_has_the_settings_and_is_closed() {
        let clock = ManualClock::new();
        let first = breaker(&clock);
        fail(&first, 3);
        let second = first.for_another_server();
        assert!(!second.is_open());
        fail(&second, 2);
        assert!(!second.is_open());
        fail(&second, 1);
        assert!(second.is_open());
        clock.advance(PAUSE);
        assert!(second.try_call().is_some());
    }

    #[test]
    fn with_zero_failures_to_open_the_breaker_never_opens() {
        let breaker = breaker(&ManualClock::new()).failures_to_open(0);
        fail(&breaker, 1000);
        assert!(breaker.try_call().is_some());
    }
}
