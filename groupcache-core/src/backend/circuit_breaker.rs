//! Leaves a store that does not answer alone for a while.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind};
use crate::sync::Mutex;

/// Keeps calls away from a store that does not answer, for backends to share.
///
/// Closed at first: every call goes through. A number of failures in a row opens it: calls are
/// refused at once, so that a dead store costs its users nothing. After a pause one call at a time is
/// let through; the first success closes it again.
///
/// A call that was given up before it ended says nothing if that happened quickly, its caller may
/// just have gone away. If it had waited for long it counts as a failure: this is how a store that
/// hangs looks to callers with a time limit of their own.
///
/// The change from closed to open is logged once, with what happened, and so is the way back. No
/// operation waits. The pattern is known from Michael Nygard's "Release It!".
///
/// ```
/// use groupcache_core::backend::CircuitBreaker;
/// use groupcache_core::{Error, ErrorKind};
///
/// let breaker = CircuitBreaker::new("store").failures_to_open(1);
/// let call = breaker.try_call().expect("closed at first");
/// call.failed(&Error::new(ErrorKind::Unavailable, "store"));
/// assert!(breaker.try_call().is_none());
///
/// // What must be tried all the same is, and its success counts.
/// breaker.call_anyway().succeeded();
/// assert!(breaker.try_call().is_some());
/// ```
pub struct CircuitBreaker {
    backend: &'static str,
    failures_to_open: u32,
    pause: Duration,
    slow_call: Duration,
    clock: Arc<dyn Clock>,
    /// In a row. The only thing that calls look at while it is closed.
    failures: AtomicU32,
    open: Mutex<Option<Open>>,
}

/// A call that was let through. Say how it ended; dropped without, it was given up.
#[must_use = "the breaker waits for how the call ended"]
pub struct BreakerCall<'a> {
    breaker: &'a CircuitBreaker,
    began: Instant,
    probe: bool,
    ended: bool,
}

/// The state of being open.
#[derive(Debug)]
struct Open {
    since: Instant,
    refused_until: Instant,
    probing: bool,
}

impl CircuitBreaker {
    /// A closed breaker with the defaults, for the backend of this name.
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

    /// After how many failures in a row it opens. Zero: never. Defaults to 5.
    #[must_use]
    pub const fn failures_to_open(mut self, count: u32) -> Self {
        self.failures_to_open = count;
        self
    }

    /// How long calls are refused before one is let through to see. Defaults to 1 s.
    #[must_use]
    pub const fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// How long a call must have waited to count as a failure when it is given up. Should be well
    /// below the cache's soft time limit. Defaults to 100 ms.
    #[must_use]
    pub const fn slow_call(mut self, wait: Duration) -> Self {
        self.slow_call = wait;
        self
    }

    /// Where the time comes from. Defaults to [`SystemClock`].
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Lets a call through, or `None`: do not call now.
    pub fn try_call(&self) -> Option<BreakerCall<'_>> {
        let now = self.clock.now();
        if self.has_failed_enough() {
            let mut open = self.open.lock();
            // `None`: somebody is just closing it.
            if let Some(open) = &mut *open {
                if open.probing || now < open.refused_until {
                    return None;
                }
                open.probing = true;
                return Some(BreakerCall { breaker: self, began: now, probe: true, ended: false });
            }
        }
        Some(BreakerCall { breaker: self, began: now, probe: false, ended: false })
    }

    /// Lets a call through even if open: for invalidations, which must not be given up without a try.
    pub fn call_anyway(&self) -> BreakerCall<'_> {
        BreakerCall { breaker: self, began: self.clock.now(), probe: false, ended: false }
    }

    /// Whether it is open: refuses calls, or lets one through at a time.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.lock().is_some()
    }

    /// What to return for a call that was refused.
    #[must_use]
    pub fn refusal(&self) -> Error {
        Error::new(ErrorKind::Unavailable, self.backend)
            .with_message("not asked, it did not answer a moment ago")
    }

    fn has_failed_enough(&self) -> bool {
        self.failures_to_open != 0 && self.failures.load(Ordering::Acquire) >= self.failures_to_open
    }

    fn succeed(&self) {
        if self.failures.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut open = self.open.lock();
        self.failures.store(0, Ordering::Release);
        if let Some(open) = open.take() {
            let after = self.clock.now().saturating_duration_since(open.since);
            tracing::info!(backend = self.backend, ?after, "the store answers again");
        }
    }

    fn fail(&self, probe: bool, error: Option<&Error>) {
        let now = self.clock.now();
        // A pause beyond what the clock can count is as long as one that it can.
        let refused_until = now.checked_add(self.pause).unwrap_or(now);
        let mut open = self.open.lock();
        let failures = self.failures.load(Ordering::Relaxed).saturating_add(1);
        self.failures.store(failures, Ordering::Release);
        match &mut *open {
            Some(open) if probe => {
                open.refused_until = refused_until;
                open.probing = false;
            }
            // Calls from before it opened, and those that are let through anyway.
            Some(_) => {}
            None if self.has_failed_enough() => {
                *open = Some(Open { since: now, refused_until, probing: false });
                drop(open);
                let cause = error.map(Cause);
                let error = cause.as_ref().map(tracing::field::display);
                tracing::warn!(backend = self.backend, error, "the store fails; going on without it");
            }
            None => {}
        }
    }

    fn give_up(&self, probe: bool, began: Instant) {
        if self.clock.now().saturating_duration_since(began) >= self.slow_call {
            self.fail(probe, None);
        } else if probe && let Some(open) = &mut *self.open.lock() {
            open.probing = false;
        }
    }
}

impl BreakerCall<'_> {
    /// The store answered, be it that it refuses.
    pub fn succeeded(mut self) {
        self.ended = true;
        self.breaker.succeed();
    }

    /// The store did not answer, or is not ready.
    pub fn failed(mut self, error: &Error) {
        self.ended = true;
        self.breaker.fail(self.probe, Some(error));
    }

    /// As [`failed`](Self::failed) if the error is one that another try may not meet
    /// ([`is_transient`](Error::is_transient)), as [`succeeded`](Self::succeeded) otherwise.
    pub fn ended<T>(self, outcome: &Result<T, Error>) {
        match outcome {
            Err(error) if error.is_transient() => self.failed(error),
            _ => self.succeeded(),
        }
    }

    /// How long ago it was let through.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.breaker.clock.now().saturating_duration_since(self.began)
    }
}

impl Drop for BreakerCall<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.breaker.give_up(self.probe, self.began);
        }
    }
}

/// An error and what caused it, for the one line in the log.
struct Cause<'a>(&'a Error);

impl fmt::Display for Cause<'_> {
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
        f.debug_struct("BreakerCall").field("probe", &self.probe).finish_non_exhaustive()
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
            breaker.call_anyway().failed(&Error::new(ErrorKind::Unavailable, "test"));
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_starts_anew() {
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
    fn after_the_pause_one_call_at_a_time_is_let_through() {
        let clock = ManualClock::new();
        let breaker = breaker(&clock);
        fail(&breaker, 3);
        clock.advance(PAUSE - Duration::from_nanos(1));
        assert!(breaker.try_call().is_none());
        clock.advance(Duration::from_nanos(1));
        let probe = breaker.try_call().unwrap();
        assert!(breaker.try_call().is_none(), "two probes at once");
        probe.failed(&Error::new(ErrorKind::Timeout, "test"));
        assert!(breaker.try_call().is_none(), "the pause starts anew");
        clock.advance(PAUSE);
        breaker.try_call().unwrap().succeeded();
        assert!(!breaker.is_open());
        let _both = (breaker.try_call().unwrap(), breaker.try_call().unwrap());
    }

    /// Invalidations are tried while it is open; their failures must not keep it open for ever, nor let a
    /// second probe through.
    #[test]
    fn failures_while_it_is_open_change_nothing() {
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
    fn a_call_given_up_at_once_says_nothing_and_one_that_waited_is_a_failure() {
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
        // A probe that is given up at once leaves room for the next.
        clock.advance(PAUSE);
        drop(breaker.try_call().unwrap());
        let probe = breaker.try_call().unwrap();
        clock.advance(Duration::from_millis(100));
        drop(probe);
        assert!(breaker.try_call().is_none(), "a probe that hung is a failure");
    }

    #[test]
    fn only_errors_that_pass_count_as_failures() {
        let breaker = breaker(&ManualClock::new());
        for _ in 0..10 {
            breaker.call_anyway().ended::<()>(&Err(Error::new(ErrorKind::Capacity, "test")));
        }
        assert!(!breaker.is_open());
        for _ in 0..3 {
            breaker.call_anyway().ended::<()>(&Err(Error::new(ErrorKind::Timeout, "test")));
        }
        assert!(breaker.is_open());
        breaker.call_anyway().ended(&Ok(()));
        assert!(!breaker.is_open());
    }

    #[test]
    fn it_says_how_it_is_and_what_happened() {
        let clock = ManualClock::new();
        let breaker = breaker(&clock);
        assert!(format!("{breaker:?}").contains("failures_to_open: 3") && !breaker.is_open());
        let call = breaker.try_call().unwrap();
        clock.advance(PAUSE);
        assert_eq!(call.elapsed(), PAUSE);
        assert_eq!(format!("{call:?}"), "BreakerCall { probe: false, .. }");
        let refused = std::io::Error::other("connection refused");
        let error = Error::new(ErrorKind::Unavailable, "test").with_source(refused);
        assert_eq!(Cause(&error).to_string(), format!("{error}: connection refused"));
    }

    #[test]
    fn zero_failures_to_open_is_never() {
        let breaker = breaker(&ManualClock::new()).failures_to_open(0);
        fail(&breaker, 1000);
        assert!(breaker.try_call().is_some());
    }
}
