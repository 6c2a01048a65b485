//! A cache under faults, its readers and writers interleaved by a seed.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use super::faults::{FaultBackend, FaultPlan, Faulted, SplitMix};
use super::history::{Checked, HistoryRecorder};
use super::kit::Violation;
use groupcache_core::Backend;
use groupcache_core::Cache;
use groupcache_core::Error;
use groupcache_core::Key;
use groupcache_core::Stats;

/// How many readers and writers are under way at once.
const AT_ONCE: usize = 8;
const KEYS: u64 = 5;

/// What a cache went through without a stale read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Survived {
    /// What was read and invalidated.
    pub checked: Checked,
    /// What happened to the backend.
    pub faulted: Faulted,
    /// What the cache did.
    pub stats: Stats,
}

/// Lets readers and writers of a cache on `backend` run for this many operations while the faults of
/// `plan` happen, some of them dropped half-way, each step taken by one that `seed` chooses. Then
/// lets the faults end.
///
/// On one thread and a backend in this process the same seed repeats everything. Needs a tokio
/// runtime with its timer.
///
/// # Errors
///
/// * No read returns what was computed before an invalidation that was acknowledged before the read.
/// * After the faults have ended, an invalidation is acknowledged, and what nobody touches is a hit.
pub async fn under_faults<B: Backend>(
    backend: B,
    plan: FaultPlan,
    seed: u64,
    operations: usize,
    repeat_with: &str,
) -> Result<Survived, Violation> {
    let faulty = FaultBackend::new(backend, plan);
    let cache = Cache::builder(faulty.clone()).build();
    let history = HistoryRecorder::new(seed).repeat_with(repeat_with);
    let broken = |promise, found: String| {
        Violation::new("under_faults", promise, format!("{found} (seed {seed}; repeat with `{repeat_with}`)"))
    };
    let mut random = SplitMix::new(seed);
    let mut under_way: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
    let mut begun = 0;
    while begun < operations || !under_way.is_empty() {
        if begun < operations && (under_way.is_empty() || under_way.len() < AT_ONCE && random.below(3) == 0) {
            begun += 1;
            under_way.push(operation(&cache, &history, &mut random));
            continue;
        }
        let at = random.index(under_way.len());
        if begun < operations && random.below(50) == 0 {
            // Its caller has gone away.
            drop(under_way.swap_remove(at));
            continue;
        }
        let done = poll_fn(|context| Poll::Ready(under_way[at].as_mut().poll(context).is_ready())).await;
        if done {
            drop(under_way.swap_remove(at));
        } else {
            // What runs on tasks of its own goes on too.
            tokio::task::yield_now().await;
        }
    }
    let ended = |error: Error| broken("a backend without faults works", error.to_string());
    faulty.stop().await.map_err(ended)?;
    for key in 0..KEYS {
        let version = history.write(&cache, key).await.map_err(ended)?;
        let first = history.read(&cache, key).await;
        let loads = cache.stats().loads;
        history.read(&cache, key).await;
        if first != version || cache.stats().loads != loads {
            return Err(broken(
                "an entry whose groups are untouched is a hit, once the faults have ended",
                format!("key {key} of version {version} was read as {first}, and then computed again"),
            ));
        }
    }
    let checked = history.check().map_err(|stale| {
        broken(
            "no read returns what was computed before an invalidation acknowledged before the read",
            stale.to_string(),
        )
    })?;
    Ok(Survived { checked, faulted: faulty.faulted(), stats: cache.stats() })
}

fn operation<B: Backend>(
    cache: &Cache<B>,
    history: &HistoryRecorder,
    random: &mut SplitMix,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let (cache, history, key) = (cache.clone(), history.clone(), random.below(KEYS));
    match random.below(20) {
        0..12 => Box::pin(async move {
            history.read(&cache, key).await;
        }),
        // A failure is none of the history's business: it promises nothing.
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
