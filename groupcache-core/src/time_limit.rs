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
/// that was not enough. Without a runtime the caller has to stay. If the runtime goes first nobody knows
/// what became of it, and that is an error to callers who live longer, such as threads of its own.
pub(crate) async fn detached<T: Send + 'static>(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_outlives_the_runtime_is_told_so() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let caller = std::thread::spawn(move || {
            let never = async move {
                begun.send(()).unwrap();
                std::future::pending::<Result<()>>().await
            };
            handle.block_on(detached("store", never))
        });
        has_begun.recv().unwrap();
        drop(runtime);
        let error = caller.join().unwrap().unwrap_err();
        assert_eq!((error.kind(), error.backend()), (ErrorKind::Unavailable, "store"));
    }
}
