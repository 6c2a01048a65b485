//! Whether the future of a load is polled when it is woken.
//!
//! A future that is kept and not polled makes no progress: one that `tokio::time::timeout` was given by
//! reference, or one in a buffered stream whose body reads the same key. Such a future is woken and stays so.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// What a leader and its followers know of the leader's future.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    polls: AtomicU64,
    woken: AtomicBool,
}

impl Progress {
    /// Returns a number for the wake that no poll has followed yet, if there is one.
    pub(crate) fn unanswered_wake(&self) -> Option<u64> {
        let polls = self.polls.load(Ordering::SeqCst);
        self.woken.load(Ordering::SeqCst).then_some(polls)
    }

    /// Forgets the future of an earlier leader.
    pub(crate) fn reset(&self) {
        self.woken.store(false, Ordering::SeqCst);
    }

    /// Returns `future`, whose progress is noted here.
    pub(crate) fn of<F: Future>(self: Arc<Self>, future: Pin<Box<F>>) -> Watched<F> {
        Self::of_all([self].into(), future)
    }

    /// Returns `future`, which leads several flights: its progress is noted for each.
    pub(crate) fn of_all<F: Future>(all: Arc<[Arc<Self>]>, future: Pin<Box<F>>) -> Watched<F> {
        Watched { progress: all, waker: None, future }
    }
}

/// A future whose progress is noted.
pub(crate) struct Watched<F> {
    progress: Arc<[Arc<Progress>]>,
    /// The last waker, and the one that was made of it.
    waker: Option<(Waker, Waker)>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        // Before the poll: a wake during the poll asks for another one.
        for progress in &*this.progress {
            progress.woken.store(false, Ordering::SeqCst);
            progress.polls.fetch_add(1, Ordering::SeqCst);
        }
        let outer = context.waker();
        let (_, waker) = match &mut this.waker {
            Some(known) if known.0.will_wake(outer) => known,
            known => {
                let watching = WatchingWaker { progress: Arc::clone(&this.progress), waker: outer.clone() };
                known.insert((outer.clone(), Waker::from(Arc::new(watching))))
            }
        };
        this.future.as_mut().poll(&mut Context::from_waker(waker))
    }
}

struct WatchingWaker {
    progress: Arc<[Arc<Progress>]>,
    waker: Waker,
}

impl Wake for WatchingWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        for progress in &*self.progress {
            progress.woken.store(true, Ordering::SeqCst);
        }
        self.waker.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_wake_is_unanswered_until_the_next_poll() {
        let progress = Arc::new(Progress::default());
        let (send, receive) = oneshot::channel();
        let mut watched = Arc::clone(&progress).of(Box::pin(receive));
        let pending = poll_fn(|context| Poll::Ready(Pin::new(&mut watched).poll(context).is_pending()));
        assert!(pending.await);
        assert_eq!(progress.unanswered_wake(), None);
        send.send(7).unwrap();
        let wake = progress.unanswered_wake();
        assert!(wake.is_some() && progress.unanswered_wake() == wake);
        assert_eq!(watched.await, Ok(7));
        assert_eq!(progress.unanswered_wake(), None);
    }
}
