//! Combines the reads of concurrent callers into few exchanges.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::sync::Mutex;

/// Reads from one server, for [`SharedReads`].
pub trait ReadExchange: Send + Sync + 'static {
    /// What one caller reads.
    type Read: Send + 'static;
    /// What one caller gets.
    type Reply: Send + 'static;
    /// Why an exchange failed. The callers that share the exchange share the failure.
    type Failure: Clone + Send + 'static;

    /// Performs the reads of several callers in one exchange, and returns one reply for each, in order.
    ///
    /// # Errors
    ///
    /// If the server did not reply.
    fn exchange(
        &self,
        reads: Vec<Self::Read>,
    ) -> impl Future<Output = Result<Vec<Self::Reply>, Self::Failure>> + Send;

    /// Returns the number of keys in a read, which limits how many reads share an exchange.
    fn keys(read: &Self::Read) -> usize;

    /// Returns the number of bytes of a reply, approximately.
    fn bytes(reply: &Self::Reply) -> usize;

    /// Returns the failure of an exchange that ran on the runtime of another caller, which was shut down.
    fn lost() -> Self::Failure;
}

/// Combines the reads of concurrent callers into few exchanges, for backends.
///
/// Each exchange costs client, server and operating system some work, however little it reads. With many
/// concurrent readers that would be most of the work. So a few readers exchange directly, and the readers
/// that arrive meanwhile wait and share the next exchange. With few readers none waits.
///
/// A reader never joins an exchange that was sent before the reader came: that one may return a generation
/// from before an invalidation that the reader must see.
///
/// Only reads are shared. If a server refuses one write, the writes of other callers would fail with it. Large
/// values are not shared either: their transfer is the cost, and the first caller would wait for the last.
pub struct SharedReads<E: ReadExchange> {
    exchange: E,
    limits: ReadLimits,
    queue: Mutex<Queue<E>>,
    /// A moving average of the bytes that a caller reads.
    average_bytes: AtomicUsize,
}

/// When [`SharedReads`] shares an exchange.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "backends build it")]
pub struct ReadLimits {
    /// The number of concurrent exchanges from which on reads are shared.
    pub exchanges_max: usize,
    /// The number of keys up to which callers join an exchange. The first of them gets its reply only when the
    /// last does.
    pub keys_max: usize,
    /// The average size of what a caller reads above which nothing is shared.
    pub bytes_max: usize,
}

struct Queue<E: ReadExchange> {
    /// The number of permits.
    running: usize,
    waiting: VecDeque<Waiting<E>>,
}

struct Waiting<E: ReadExchange> {
    read: E::Read,
    /// The runtime of the caller, which drives a task spawned there at least as long as the caller waits.
    runtime: Handle,
    reply: oneshot::Sender<Result<E::Reply, E::Failure>>,
}

/// How a read is served.
enum Admission<E: ReadExchange> {
    /// By an exchange of its own, under a permit that is already counted.
    Direct(E::Read),
    /// By an exchange that it shares.
    Queued(oneshot::Receiver<Result<E::Reply, E::Failure>>),
}

/// The right to one exchange. When dropped, it passes to the callers that wait.
struct ExchangePermit<E: ReadExchange>(Arc<SharedReads<E>>);

impl<E: ReadExchange> SharedReads<E> {
    /// Returns shared reads that `exchange` performs.
    pub fn new(exchange: E, limits: ReadLimits) -> Arc<Self> {
        Arc::new(Self {
            exchange,
            limits,
            queue: Mutex::new(Queue { running: 0, waiting: VecDeque::new() }),
            average_bytes: AtomicUsize::new(0),
        })
    }

    /// Returns what performs the exchanges.
    pub const fn exchange(&self) -> &E {
        &self.exchange
    }

    /// Reads, in an exchange that is sent after this call.
    ///
    /// # Errors
    ///
    /// If the exchange failed.
    pub async fn read(self: &Arc<Self>, read: E::Read) -> Result<E::Reply, E::Failure> {
        match self.admit(read) {
            Admission::Direct(read) => {
                let permit = ExchangePermit(Arc::clone(self));
                let replies = permit.0.exchange.exchange(vec![read]).await?;
                let reply = replies.into_iter().next().ok_or_else(E::lost)?;
                self.record_size(&reply);
                Ok(reply)
            }
            Admission::Queued(reply) => reply.await.unwrap_or_else(|_| Err(E::lost())),
        }
    }

    fn admit(&self, read: E::Read) -> Admission<E> {
        let is_large = self.average_bytes.load(Ordering::Relaxed) > self.limits.bytes_max;
        let mut queue = self.queue.lock();
        let runtime = match Handle::try_current() {
            Ok(runtime) if queue.running >= self.limits.exchanges_max && !is_large => runtime,
            _ => {
                queue.running += 1;
                return Admission::Direct(read);
            }
        };
        let (reply, receiver) = oneshot::channel();
        queue.waiting.push_back(Waiting { read, runtime, reply });
        Admission::Queued(receiver)
    }

    /// Performs one exchange for several callers.
    async fn exchange_for(&self, callers: Vec<Waiting<E>>) {
        let (reads, replies): (Vec<_>, Vec<_>) =
            callers.into_iter().map(|caller| (caller.read, caller.reply)).unzip();
        // A caller that was cancelled takes no reply.
        match self.exchange.exchange(reads).await {
            Ok(own) => {
                for (to, reply) in replies.into_iter().zip(own) {
                    self.record_size(&reply);
                    let _cancelled = to.send(Ok(reply));
                }
            }
            Err(failure) => {
                for to in replies {
                    let _cancelled = to.send(Err(failure.clone()));
                }
            }
        }
    }

    /// Updates the average with what one caller read.
    fn record_size(&self, reply: &E::Reply) {
        let before = self.average_bytes.load(Ordering::Relaxed);
        // Concurrent updates may be lost; an average of most is good enough.
        let average = (7 * (before / 8)).saturating_add(E::bytes(reply) / 8);
        self.average_bytes.store(average, Ordering::Relaxed);
    }
}

impl<E: ReadExchange> Queue<E> {
    /// Takes the callers that share the next exchange. If there are none, ends the permit.
    fn next_callers(&mut self, keys_max: usize) -> Vec<Waiting<E>> {
        let (mut callers, mut keys) = (Vec::new(), 0);
        while keys < keys_max
            && let Some(caller) = self.waiting.pop_front()
        {
            let is_cancelled = caller.reply.is_closed();
            if !is_cancelled {
                keys += E::keys(&caller.read);
                callers.push(caller);
            }
        }
        if callers.is_empty() {
            self.running -= 1;
        }
        callers
    }
}

impl<E: ReadExchange> Drop for ExchangePermit<E> {
    fn drop(&mut self) {
        let callers = self.0.queue.lock().next_callers(self.0.limits.keys_max);
        if let Some(first) = callers.first() {
            let (permit, runtime) = (Self(Arc::clone(&self.0)), first.runtime.clone());
            drop(runtime.spawn(async move { permit.0.exchange_for(callers).await }));
        }
    }
}

impl<E: ReadExchange> fmt::Debug for SharedReads<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.queue.lock();
        f.debug_struct("SharedReads")
            .field("limits", &self.limits)
            .field("running", &queue.running)
            .field("waiting", &queue.waiting.len())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(groupcache_shuttle)))]
mod tests {
    use super::*;

    /// Replies with the number of the exchange, once that is released.
    struct Held {
        exchanges: Mutex<Vec<Vec<u32>>>,
        release: tokio::sync::Semaphore,
    }

    impl ReadExchange for Arc<Held> {
        type Read = u32;
        type Reply = (usize, u32);
        type Failure = ();

        async fn exchange(&self, reads: Vec<u32>) -> Result<Vec<(usize, u32)>, ()> {
            let number = {
                let mut exchanges = self.exchanges.lock();
                exchanges.push(reads.clone());
                exchanges.len()
            };
            self.release.acquire().await.map_err(drop)?.forget();
            Ok(reads.into_iter().map(|read| (number, read)).collect())
        }

        fn keys(_: &u32) -> usize {
            1
        }

        fn bytes((_, read): &(usize, u32)) -> usize {
            usize::try_from(*read).unwrap()
        }

        fn lost() {}
    }

    fn shared() -> (Arc<SharedReads<Arc<Held>>>, Arc<Held>) {
        let held = Held { exchanges: Mutex::default(), release: tokio::sync::Semaphore::new(0) };
        let held = Arc::new(held);
        let limits = ReadLimits { exchanges_max: 1, keys_max: 3, bytes_max: 1_000 };
        (SharedReads::new(Arc::clone(&held), limits), held)
    }

    fn start(
        reads: &Arc<SharedReads<Arc<Held>>>,
        read: u32,
    ) -> tokio::task::JoinHandle<Result<(usize, u32), ()>> {
        let reads = Arc::clone(reads);
        tokio::spawn(async move { reads.read(read).await })
    }

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn readers_share_the_exchange_after_the_one_that_they_found() {
        let (reads, held) = shared();
        let first = start(&reads, 1);
        settle().await;
        let others: Vec<_> = (2..6).map(|read| start(&reads, read)).collect();
        settle().await;
        assert_eq!(*held.exchanges.lock(), [vec![1]], "no reader joins it, and none sends another");
        held.release.add_permits(3);
        assert_eq!(first.await.unwrap(), Ok((1, 1)));
        let mut replies = Vec::new();
        for other in others {
            replies.push(other.await.unwrap().unwrap());
        }
        assert_eq!(replies, [(2, 2), (2, 3), (2, 4), (3, 5)], "up to the limit of keys");
    }

    #[tokio::test]
    async fn a_reader_that_is_cancelled_holds_nobody_up() {
        let (reads, held) = shared();
        let first = start(&reads, 1);
        settle().await;
        let second = start(&reads, 2);
        settle().await;
        let third = start(&reads, 3);
        settle().await;
        second.abort();
        first.abort();
        settle().await;
        assert_eq!(*held.exchanges.lock(), [vec![1], vec![3]]);
        held.release.add_permits(2);
        assert_eq!(third.await.unwrap(), Ok((2, 3)));
        settle().await;
        assert_eq!(reads.queue.lock().running, 0);
        assert!(format!("{reads:?}").contains("running: 0"));
    }

    #[tokio::test]
    async fn large_replies_are_not_shared() {
        let (reads, held) = shared();
        held.release.add_permits(1);
        assert_eq!(reads.read(1 << 20).await, Ok((1, 1 << 20)));
        let both = [start(&reads, 1), start(&reads, 2)];
        settle().await;
        assert_eq!(held.exchanges.lock().len(), 3, "each sends its own at once");
        held.release.add_permits(2);
        for one in both {
            one.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_failure_is_that_of_all_who_share_it() {
        let (reads, held) = shared();
        let tasks: Vec<_> = (0..3).map(|read| start(&reads, read)).collect();
        settle().await;
        held.release.close();
        for task in tasks {
            assert_eq!(task.await.unwrap(), Err(()));
        }
        settle().await;
        assert_eq!(reads.queue.lock().running, 0);
    }
}
