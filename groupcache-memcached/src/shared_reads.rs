//! Combines the reads of concurrent callers into few exchanges.
//!
//! Each exchange occupies a connection for as long as it takes. With many concurrent readers most of the
//! work would be the operating system's: sending and receiving small packets. So a few readers exchange
//! directly, and the readers that arrive meanwhile wait and share the next exchange. With few readers none
//! waits.
//!
//! Only reads are shared. A write that the server refuses ends its exchange, and would fail the requests of
//! other callers with it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use groupcache_core::ErrorKind;
use memcache::exp::{MetaCommand, MetaCommandResult as Response};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::Failure;
use crate::evidence::{Progress, SharedProgress};
use crate::pool::Pool;

/// The reads from one server.
pub(crate) struct SharedReads {
    pool: Pool,
    /// For callers outside a runtime.
    runtime: Handle,
    queue: Mutex<Queue>,
    /// A moving average of the bytes that a caller reads.
    average_bytes: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    /// The number of permits.
    running: usize,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    commands: Vec<MetaCommand>,
    progress: SharedProgress,
    /// The runtime of the caller, which drives a task spawned there at least as long as the caller waits.
    runtime: Handle,
    responses: oneshot::Sender<Result<Vec<Response>, Failure>>,
}

/// How a read is served.
enum Admission {
    /// By an exchange of its own, under a permit that is already counted.
    Direct(Vec<MetaCommand>),
    /// By an exchange that it shares.
    Queued(oneshot::Receiver<Result<Vec<Response>, Failure>>),
}

/// The right to one exchange. When dropped, it passes to the callers that wait.
struct ExchangePermit(Arc<SharedReads>);

impl SharedReads {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(pool: Pool) -> Arc<Self> {
        Arc::new(Self {
            pool,
            runtime: Handle::current(),
            queue: Mutex::default(),
            average_bytes: AtomicUsize::new(0),
        })
    }

    /// Sends the commands, which must only read, and returns one response for each, in order.
    pub(crate) async fn exchange(
        self: &Arc<Self>,
        commands: Vec<MetaCommand>,
        progress: &Progress,
    ) -> Result<Vec<Response>, Failure> {
        match self.admit(commands, progress) {
            Admission::Direct(commands) => {
                let permit = ExchangePermit(Arc::clone(self));
                let responses =
                    permit.0.pool.exchange(commands, |is_waiting| progress.set_waiting(is_waiting)).await;
                self.record_size(&responses);
                responses
            }
            Admission::Queued(responses) => responses.await.unwrap_or_else(|_| {
                // The exchange ran on the runtime of another caller.
                let message = "the runtime of a shared read was shut down";
                let mut failure = Failure::new(ErrorKind::Unavailable, message);
                failure.retry = true;
                Err(failure)
            }),
        }
    }

    fn admit(&self, commands: Vec<MetaCommand>, progress: &Progress) -> Admission {
        let mut queue = self.queue();
        let is_large = self.average_bytes.load(Ordering::Relaxed) > SHARED_BYTES_MAX;
        if queue.running < DIRECT_EXCHANGES_MAX || is_large {
            queue.running += 1;
            return Admission::Direct(commands);
        }
        let (sender, receiver) = oneshot::channel();
        let runtime = Handle::try_current().unwrap_or_else(|_| self.runtime.clone());
        let progress = progress.share();
        // Until an exchange takes it from the queue.
        progress.set_waiting(true);
        queue.waiting.push_back(Waiting { commands, progress, runtime, responses: sender });
        Admission::Queued(receiver)
    }

    /// Performs one exchange for several callers.
    async fn exchange_for(&self, mut callers: Vec<Waiting>) {
        let counts: Vec<_> = callers.iter().map(|caller| caller.commands.len()).collect();
        let commands = callers.iter_mut().flat_map(|caller| std::mem::take(&mut caller.commands)).collect();
        let set_waiting = |is_waiting| {
            callers.iter().for_each(|caller| caller.progress.set_waiting(is_waiting));
        };
        let mut responses = self.pool.exchange(commands, set_waiting).await.map(Vec::into_iter);
        for (caller, count) in callers.into_iter().zip(counts) {
            let own = responses.as_mut().map(|responses| responses.take(count).collect());
            let own = own.map_err(|failure| failure.clone());
            self.record_size(&own);
            // Fails if the caller was cancelled.
            let _cancelled = caller.responses.send(own);
        }
    }

    /// Updates the average with what one caller read.
    fn record_size(&self, responses: &Result<Vec<Response>, Failure>) {
        let Ok(responses) = responses else { return };
        let bytes: usize = responses.iter().filter_map(|response| Some(response.value.as_ref()?.len())).sum();
        let before = self.average_bytes.load(Ordering::Relaxed);
        // Concurrent updates may be lost; an average of most is good enough.
        self.average_bytes.store((7 * (before / 8)).saturating_add(bytes / 8), Ordering::Relaxed);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Takes the callers that share the next exchange. If there are none, ends the permit.
    fn next_callers(&mut self) -> Vec<Waiting> {
        let (mut callers, mut reads) = (Vec::new(), 0);
        while reads < SHARED_READS_MAX
            && let Some(caller) = self.waiting.pop_front()
        {
            let is_cancelled = caller.responses.is_closed();
            if !is_cancelled {
                reads += caller.commands.len();
                callers.push(caller);
            }
        }
        if callers.is_empty() {
            self.running -= 1;
        }
        callers
    }
}

impl Drop for ExchangePermit {
    fn drop(&mut self) {
        let callers = self.0.queue().next_callers();
        if let Some(first) = callers.first() {
            let (permit, runtime) = (Self(Arc::clone(&self.0)), first.runtime.clone());
            drop(runtime.spawn(async move { permit.0.exchange_for(callers).await }));
        }
    }
}

/// The number of concurrent exchanges from which on reads are shared.
const DIRECT_EXCHANGES_MAX: usize = 8;
/// The number of reads up to which callers join an exchange. The first of them gets its responses only when
/// the last does.
const SHARED_READS_MAX: usize = 64;
/// The average size of what a caller reads above which nothing is shared: then the transfer is the cost, not
/// the number of packets.
const SHARED_BYTES_MAX: usize = 16 << 10;
