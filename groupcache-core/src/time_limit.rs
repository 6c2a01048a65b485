//! Time limits on backend calls that cost nothing where the answer is already there.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};

/// How long a series of calls may take in all. What happens between them does not count.
#[derive(Debug)]
pub(crate) struct Budget {
    left: Duration,
}

impl Budget {
    pub(crate) const fn new(limit: Duration) -> Self {
        Self { left: limit }
    }

    /// The outcome of `call`, or a timeout once the budget is used up. A call that is ready at once
    /// sets no timer and is never too late. Pinned by the caller: what is passed by value is kept
    /// twice.
    pub(crate) async fn run<T>(
        &mut self,
        backend: &'static str,
        mut call: Pin<&mut (impl Future<Output = Result<T>> + Send)>,
    ) -> Result<T> {
        if let Poll::Ready(outcome) = poll_once(call.as_mut()).await {
            return outcome;
        }
        // tokio's own time, which its tests can move.
        let began = Instant::now();
        // A limit beyond what the clock can count is none; a year is as good.
        let deadline =
            began.checked_add(self.left).unwrap_or_else(|| began + Duration::from_secs(31_536_000));
        let outcome = tokio::time::timeout_at(deadline, call).await;
        self.left = self.left.saturating_sub(began.elapsed());
        match outcome {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::new(ErrorKind::Timeout, backend)),
        }
    }
}

/// Runs `work` to its end even if the caller goes away: polled once here, on a task of its own if
/// that was not enough. Without a runtime the caller has to stay.
pub(crate) async fn detached<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let mut work: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(work);
    if let Poll::Ready(outcome) = poll_once(work.as_mut()).await {
        return outcome;
    }
    let Ok(runtime) = Handle::try_current() else {
        return work.await;
    };
    match runtime.spawn(work).await {
        Ok(outcome) => outcome,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // The runtime is shutting down and this task with it.
        Err(_) => std::future::pending().await,
    }
}

/// Starts `work` and does not wait for it: done before this returns if it is ready at once, on a
/// task of its own otherwise.
pub(crate) async fn in_background(work: impl Future<Output = ()> + Send + 'static) {
    let mut work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
    if poll_once(work.as_mut()).await.is_ready() {
        return;
    }
    match Handle::try_current() {
        // Nobody waits for the task; it reports through the counters.
        Ok(runtime) => drop(runtime.spawn(work)),
        Err(_) => work.await,
    }
}

async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
