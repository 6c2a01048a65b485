//! SharedReads of many callers in few exchanges.
//!
//! Each exchange has a connection of its own for as long as it takes. So with many readers
//! at once most of the work would be that of the system's, to send and receive small pieces. Here some
//! of them read at once and directly; those who come while all of these are busy wait together and share
//! the next exchange. Nobody waits where few read.
//!
//! Only reads are shared. A write that a server refuses ends its exchange, and would end that of others.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use groupcache_core::ErrorKind;
use memcache::exp::{MetaCommand, MetaCommandResult as Answer};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::Failure;
use crate::pool::Pool;

/// How many exchanges of readers there are at a time.
const DIRECT_EXCHANGES_MAX: usize = 8;
/// How many reads an exchange is filled up to: the first answer comes with the last.
const SHARED_READS_MAX: usize = 64;
/// Callers who read more than this, on average, share nothing: to carry it is the work then.
const SHARED_BYTES_MAX: usize = 16 << 10;

/// The reads from one server.
pub(crate) struct SharedReads {
    pool: Pool,
    /// For callers outside any.
    runtime: Handle,
    queue: Mutex<Queue>,
    /// ServerInfo how many bytes one caller reads.
    bytes: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    running: usize,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    commands: Vec<MetaCommand>,
    /// Where the caller runs, and so somebody drives what is spawned.
    runtime: Handle,
    answer: oneshot::Sender<Result<Vec<Answer>, Failure>>,
}

/// The right to one exchange. Whoever waits when it is dropped has the next.
struct ExchangePermit(Arc<SharedReads>);

impl SharedReads {
    /// Must be called within a runtime.
    pub(crate) fn new(pool: Pool) -> Arc<Self> {
        Arc::new(Self {
            pool,
            runtime: Handle::current(),
            queue: Mutex::default(),
            bytes: AtomicUsize::new(0),
        })
    }

    pub(crate) async fn run(self: &Arc<Self>, commands: Vec<MetaCommand>) -> Result<Vec<Answer>, Failure> {
        let answered = {
            let mut queue = self.lock();
            if queue.running < DIRECT_EXCHANGES_MAX || self.bytes.load(Ordering::Relaxed) > SHARED_BYTES_MAX {
                queue.running += 1;
                Err(commands)
            } else {
                let (answer, answered) = oneshot::channel();
                let runtime = Handle::try_current().unwrap_or_else(|_| self.runtime.clone());
                queue.waiting.push_back(Waiting { commands, runtime, answer });
                Ok(answered)
            }
        };
        match answered {
            Err(commands) => {
                let line = ExchangePermit(Arc::clone(self));
                let answers = line.0.pool.exchange(commands).await;
                self.weigh(&answers);
                answers
            }
            Ok(answered) => answered.await.unwrap_or_else(|_| {
                // That of another caller: their reads were to go out together.
                let message = "the runtime that read from it is gone";
                let mut gone = Failure::new(ErrorKind::Unavailable, message);
                gone.retry = true;
                Err(gone)
            }),
        }
    }

    /// An average over the last few callers.
    fn weigh(&self, answers: &Result<Vec<Answer>, Failure>) {
        let Ok(answers) = answers else { return };
        let bytes: usize = answers.iter().filter_map(|answer| Some(answer.value.as_ref()?.len())).sum();
        let before = self.bytes.load(Ordering::Relaxed);
        // Of two who weigh at the same time one may be forgotten.
        self.bytes.store((7 * (before / 8)).saturating_add(bytes / 8), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Those who share the next exchange; if there are none, there is one less.
    fn next(&mut self) -> Vec<Waiting> {
        let (mut next, mut reads) = (Vec::new(), 0);
        while reads < SHARED_READS_MAX
            && let Some(waiting) = self.waiting.pop_front()
        {
            // Who went away needs no answer.
            if !waiting.answer.is_closed() {
                reads += waiting.commands.len();
                next.push(waiting);
            }
        }
        if next.is_empty() {
            self.running -= 1;
        }
        next
    }
}

impl Drop for ExchangePermit {
    fn drop(&mut self) {
        let next = self.0.lock().next();
        if let Some(first) = next.first() {
            let (line, runtime) = (Self(Arc::clone(&self.0)), first.runtime.clone());
            drop(runtime.spawn(async move { line.0.answer(next).await }));
        }
    }
}

impl SharedReads {
    async fn answer(&self, mut all: Vec<Waiting>) {
        let counts: Vec<_> = all.iter().map(|waiting| waiting.commands.len()).collect();
        let commands = all.iter_mut().flat_map(|waiting| std::mem::take(&mut waiting.commands)).collect();
        let mut answers = self.pool.exchange(commands).await.map(Vec::into_iter);
        for (waiting, count) in all.into_iter().zip(counts) {
            let own = answers.as_mut().map(|answers| answers.take(count).collect());
            let own = own.map_err(|failure| failure.clone());
            self.weigh(&own);
            // It may have gone away meanwhile.
            let _gone = waiting.answer.send(own);
        }
    }
}
