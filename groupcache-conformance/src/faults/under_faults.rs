//! Readers and writers of a cache under faults, interleaved by a seed.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use groupcache_core::{Backend, Cache, Key, Stats};

use crate::faults::backend::FaultBackend;
use crate::faults::plan::{FaultCounts, FaultPlan, SplitMix};
use crate::history::{CheckedHistory, HistoryRecorder};
use crate::kit::Violation;

/// How many reads and writes are in flight at once.
const CONCURRENCY: usize = 8;
const KEYS: u64 = 5;

type Operation = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What happened during [`under_faults`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FaultRun {
    /// The reads and invalidations that were checked.
    pub history: CheckedHistory,
    /// The faults that the backend suffered.
    pub faults: FaultCounts,
    /// The counters of the cache.
    pub stats: Stats,
}

/// Runs readers and writers of a cache on `backend` while the faults of `plan` happen.
///
/// Starts `operations` reads, writes and deletions of five keys, with up to eight in flight. `seed`
/// chooses which one takes the next step and which ones are cancelled half-way. Then the faults end, and
/// the cache has to work again.
///
/// On one thread, with a backend in this process, the same seed repeats everything. A failure prints
/// `repeat_with`, the command that repeats the run. Use one number for `seed` and for the seed of `plan`.
/// Needs a tokio runtime with its timer.
///
/// 10,000 operations take a few seconds on a backend in memory in a debug build. If the store evicts, run it
/// on a backend with room for two entries and two generations too.
///
/// # Errors
///
/// Returns the broken promise:
///
/// * a read returned a value loaded before an invalidation that was acknowledged before the read;
/// * after the faults had ended, an invalidation failed, or an untouched entry was not a hit.
pub async fn under_faults<B: Backend>(
    backend: B,
    plan: FaultPlan,
    seed: u64,
    operations: usize,
    repeat_with: &str,
) -> Result<FaultRun, Violation> {
    let faulty = FaultBackend::new(backend, plan);
    let cache = Cache::builder(faulty.clone()).build();
    let history = HistoryRecorder::new(seed).repeat_with(repeat_with);
    let broken = |promise, found: String| {
        Violation::new("under_faults", promise, format!("{found} (seed {seed}; repeat with `{repeat_with}`)"))
    };
    interleave(&cache, &history, &mut SplitMix::new(seed), operations).await;
    let stopped = faulty.stop().await;
    stopped.map_err(|error| broken("a backend works once the faults have ended", error.to_string()))?;
    works_again(&cache, &history).await.map_err(|(promise, found)| broken(promise, found))?;
    let checked = history.check().map_err(|stale| {
        broken(
            "no read returns a value loaded before an invalidation that was acknowledged before the read",
            stale.to_string(),
        )
    })?;
    Ok(FaultRun { history: checked, faults: faulty.counts(), stats: cache.stats() })
}

/// Starts operations, and lets one of those in flight take a step at a time.
async fn interleave<B: Backend>(
    cache: &Cache<B>,
    history: &HistoryRecorder,
    random: &mut SplitMix,
    operations: usize,
) {
    let mut in_flight: Vec<Operation> = Vec::new();
    let mut begun = 0;
    while begun < operations || !in_flight.is_empty() {
        if begun < operations
            && (in_flight.is_empty() || in_flight.len() < CONCURRENCY && random.below(3) == 0)
        {
            begun += 1;
            in_flight.push(operation(cache, history, random));
            continue;
        }
        let at = random.index(in_flight.len());
        if begun < operations && random.below(50) == 0 {
            // Its caller cancels it.
            drop(in_flight.swap_remove(at));
            continue;
        }
        let done = poll_fn(|context| Poll::Ready(in_flight[at].as_mut().poll(context).is_ready())).await;
        if done {
            drop(in_flight.swap_remove(at));
        } else {
            // Background tasks of the cache take steps too.
            tokio::task::yield_now().await;
        }
    }
}

/// Checks a cache whose faults have ended. The error is a promise and what was found instead.
async fn works_again<B: Backend>(
    cache: &Cache<B>,
    history: &HistoryRecorder,
) -> Result<(), (&'static str, String)> {
    for key in 0..KEYS {
        let version = history.write(cache, key).await;
        let version =
            version.map_err(|error| ("a backend works once the faults have ended", error.to_string()))?;
        let first = history.read(cache, key).await;
        let loads = cache.stats().loads;
        history.read(cache, key).await;
        if first != version || cache.stats().loads != loads {
            return Err((
                "an entry whose groups are untouched is a hit, once the faults have ended",
                format!("key {key} of version {version} was read as {first}, and then loaded again"),
            ));
        }
    }
    Ok(())
}

fn operation<B: Backend>(cache: &Cache<B>, history: &HistoryRecorder, random: &mut SplitMix) -> Operation {
    let (cache, history, key) = (cache.clone(), history.clone(), random.below(KEYS));
    match random.below(20) {
        0..12 => Box::pin(async move {
            history.read(&cache, key).await;
        }),
        // A write that fails promises nothing, so the history leaves it out.
        12..16 => Box::pin(async move { drop(history.write(&cache, key).await) }),
        16..18 => Box::pin(async move { drop(history.write_many(&cache, key..KEYS).await) }),
        18 => Box::pin(async move {
            if let Ok(key) = Key::of(&("history", key)) {
                drop(cache.delete_at(&key).await);
            }
        }),
        _ => Box::pin(async move { history.read_many(&cache, 0..KEYS).await }),
    }
}
