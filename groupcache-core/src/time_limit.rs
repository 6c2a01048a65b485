//! How long futures may take, and where they run: time limits on backend calls that cost nothing if the
//! answer is ready at once, and work that goes on without its caller.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::catch_unwind;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::time::Instant;

use crate::error::{CRATE_NAME, Error, ErrorKind, Result};

const NO_TIMERS: &str = "the tokio runtime has no timers, which limit how long a backend may take: build the \
     runtime with `enable_time` or `enable_all`";

/// A limit beyond what the clock can represent is none. A year is as good.
const LIMIT_MAX: Duration = Duration::from_secs(365 * 86_400);

/// The time that a series of calls may take together. The time between the calls does not count.
#[derive(Debug)]
pub(crate) struct TimeBudget {
    left: Duration,
}

impl TimeBudget {
    pub(crate) const fn new(limit: Duration) -> Self {
        Self { left: limit }
    }

    /// Returns the outcome of `call`, or a timeout once the budget is used up. A call that is ready at once
    /// sets no timer and is never too late.
    ///
    /// The caller pins the call: a future that is passed by value is kept twice.
    pub(crate) async fn run<T>(
        &mut self,
        backend: &'static str,
        mut call: Pin<&mut (impl Future<Output = Result<T>> + Send)>,
    ) -> Result<T> {
        if let Poll::Ready(outcome) = poll_once(call.as_mut()).await {
            return outcome;
        }
        if !has_timers() {
            return Err(Error::configuration(CRATE_NAME, NO_TIMERS));
        }
        // tokio's time, which its tests can pause.
        let began = Instant::now();
        let deadline = began.checked_add(self.left).unwrap_or_else(|| began + LIMIT_MAX);
        let outcome = tokio::time::timeout_at(deadline, call).await;
        self.left = self.left.saturating_sub(began.elapsed());
        match outcome {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::new(ErrorKind::Timeout, backend)),
        }
    }
}

/// Moves the future of a step that a hit does not take to the heap.
///
/// A future has room for all its steps. Without this, the future of a hit would carry the state of a miss,
/// and every caller would move and initialise it. `groupcache-core/tests/future_sizes.rs` bounds the result.
pub(crate) fn off_hit_path<F: Future>(step: F) -> Pin<Box<F>> {
    Box::pin(step)
}

/// Runs `work` to completion even if the caller is cancelled: polled once here, and on a task of its own if
/// that is not enough.
///
/// Without a runtime, the work runs in the caller. If the runtime shuts down first, the outcome is unknown,
/// and callers on other threads get an error.
pub(crate) async fn run_detached<T: Send + 'static>(
    backend: &'static str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut work: Pin<Box<dyn Future<Output = Result<T>> + Send>> = Box::pin(work);
    if let Poll::Ready(outcome) = poll_once(work.as_mut()).await {
        return outcome;
    }
    let Ok(runtime) = Handle::try_current() else {
        return work.await;
    };
    match runtime.spawn(work).await {
        Ok(outcome) => outcome,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(failed) => {
            let error =
                Error::new(ErrorKind::Unavailable, backend).with_message("the runtime is shutting down");
            Err(error.with_source(failed))
        }
    }
}

/// Starts `work` without waiting for it. If it is ready at once, it is done before this returns; otherwise it
/// goes on in a task of its own.
pub(crate) async fn in_background(work: impl Future<Output = ()> + Send + 'static) {
    let mut work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
    if poll_once(work.as_mut()).await.is_ready() {
        return;
    }
    match Handle::try_current() {
        // Detached: the work reports through the counters.
        Ok(runtime) => drop(runtime.spawn(work)),
        Err(_) => work.await,
    }
}

/// Runs `work`. Calls `then` when it is done, or already after `time_limit`, if there is one.
pub(crate) async fn run_and_then<T>(
    work: impl Future<Output = T>,
    time_limit: Option<Duration>,
    then: impl FnOnce(),
) -> T {
    let mut work = pin!(work);
    let outcome = match (poll_once(work.as_mut()).await, time_limit) {
        (Poll::Ready(outcome), _) => Some(outcome),
        (Poll::Pending, None) => Some(work.as_mut().await),
        (Poll::Pending, Some(time_limit)) => within(time_limit, work.as_mut()).await,
    };
    then();
    match outcome {
        Some(outcome) => outcome,
        None => work.await,
    }
}

/// Returns the output of `work`, or `None` if it takes longer than `limit`. Without timers there is no limit.
pub(crate) async fn within<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
    if !has_timers() {
        return Some(work.await);
    }
    tokio::time::timeout(limit, work).await.ok()
}

/// Whether the current tokio runtime has timers. Logs an error for a runtime that has none, once for each
/// thread.
///
/// tokio has no other way to find out than to create a timer, which panics without.
pub(crate) fn has_timers() -> bool {
    thread_local! {
        static KNOWN: Cell<Option<(Id, bool)>> = const { Cell::new(None) };
    }
    let Ok(runtime) = Handle::try_current() else {
        return false;
    };
    match KNOWN.get() {
        Some((id, has_timers)) if id == runtime.id() => has_timers,
        _ => {
            let has_timers = catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_ok();
            if !has_timers {
                tracing::error!("{NO_TIMERS}");
            }
            KNOWN.set(Some((runtime.id(), has_timers)));
            has_timers
        }
    }
}

async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_that_outlives_the_runtime_gets_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let caller = std::thread::spawn(move || {
            let never = async move {
                begun.send(()).unwrap();
                std::future::pending::<Result<()>>().await
            };
            handle.block_on(run_detached("store", never))
        });
        has_begun.recv().unwrap();
        drop(runtime);
        let error = caller.join().unwrap().unwrap_err();
        assert_eq!((error.kind(), error.backend()), (ErrorKind::Unavailable, "store"));
    }
}
