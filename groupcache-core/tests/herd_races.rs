//! Readers that are cancelled, fail, panic, read within loads and are kept unpolled, while groups are
//! invalidated: no read returns a value from before an invalidation, no reader hangs, nothing is left behind.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use groupcache_conformance::doubles::PlainBackend;
use groupcache_conformance::scale;
use groupcache_core::{Backend, Cache, EntryOptions, Error, ErrorKind, Group, Groups, LoadContext, depend};
use groupcache_memory::MemoryBackend;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const KEYS: usize = 3;
const MILLISECOND: Duration = Duration::from_millis(1);

/// The versions of the data of each key, and of those whose invalidation was acknowledged.
#[derive(Default)]
struct Data {
    written: [AtomicU64; KEYS],
    acknowledged: [AtomicU64; KEYS],
}

fn group(key: usize) -> Groups {
    Group::new("row").with("key", key as u64).into()
}

/// One run of the loader of `key`, which does one of many things.
fn load<B: Backend>(
    cache: Cache<B>,
    data: Arc<Data>,
    key: usize,
    seed: u64,
    depth: u32,
) -> std::pin::Pin<Box<dyn Future<Output = Result<u64, Error>> + Send>> {
    Box::pin(async move {
        let mut random = StdRng::seed_from_u64(seed);
        let seen = data.written[key].load(Ordering::SeqCst);
        let pause = random.random_range(0..20) * MILLISECOND;
        match random.random_range(0..12) {
            0 => return Err(Error::new(ErrorKind::Unavailable, "database")),
            1 => panic!("the test panics here"),
            2 => LoadContext::current().unwrap().do_not_store(),
            3 => LoadContext::current().unwrap().depend_late(Group::new("late").with("n", seed % 4)),
            4 => depend(Group::new("found").with("n", seed % 4)).await,
            // Any key, also this one: the loads may wait for each other.
            5 | 6 if depth < 3 => {
                let inner = random.random_range(0..KEYS);
                let next = load(cache.clone(), data, inner, seed.wrapping_mul(31), depth + 1);
                let read = cache.get_or_load(&inner, group(inner), || next);
                let limit = random.random_range(1..50) * MILLISECOND;
                let _any_outcome = timeout(limit, read).await;
            }
            7 => sleep(400 * MILLISECOND).await,
            _ => {}
        }
        sleep(pause).await;
        Ok(seen)
    })
}

async fn read<B: Backend>(cache: &Cache<B>, data: &Arc<Data>, random: &mut StdRng) {
    let key = random.random_range(0..KEYS);
    let must_see = data.acknowledged[key].load(Ordering::SeqCst);
    let loader = load(cache.clone(), Arc::clone(data), key, random.random(), 0);
    let value = match random.random_range(0..5) {
        0 => cache.get_or_load(&key, group(key), || loader).await.ok(),
        1 => cache.try_get_or_load(&key, group(key), || loader).await.ok(),
        2 => cache.get_or_revalidate(&key, group(key), || loader).await.ok(),
        3 => cache.insert(&key, group(key), || loader).await.ok(),
        // Kept unpolled for a while, and dropped then or polled again.
        _ => {
            let mut kept = Box::pin(cache.get_or_load(&key, group(key), || loader));
            match timeout(random.random_range(0..5) * MILLISECOND, &mut kept).await {
                Ok(value) => value.ok(),
                Err(_) => {
                    sleep(random.random_range(0..900) * MILLISECOND).await;
                    if random.random() { kept.await.ok() } else { None }
                }
            }
        }
    };
    assert!(value.is_none_or(|value| value >= must_see), "{value:?} of {key}, after {must_see}");
}

async fn races<B: Backend>(backend: B, options: EntryOptions, seed: u64) {
    let limit = Duration::from_secs(2);
    let cache = Cache::builder(backend).options(options).load_wait_limit(limit).build();
    let data = Arc::new(Data::default());
    let mut tasks = JoinSet::new();
    for reader in 0..30 {
        let (cache, data) = (cache.clone(), Arc::clone(&data));
        tasks.spawn(async move {
            let mut random = StdRng::seed_from_u64(seed * 1000 + reader);
            for _ in 0..20 {
                let cancelled_after = random.random_range(0..200) * MILLISECOND;
                let is_cancelled = random.random_range(0..4) == 0;
                let mut own = StdRng::seed_from_u64(random.random());
                let (cache, data) = (cache.clone(), Arc::clone(&data));
                // A panic of a loader ends this task only.
                let task = tokio::spawn(async move { read(&cache, &data, &mut own).await });
                if is_cancelled {
                    sleep(cancelled_after).await;
                    task.abort();
                }
                if let Err(error) = task.await
                    && error.is_panic()
                {
                    let panic = error.into_panic();
                    let is_planned = panic.downcast_ref::<&str>() == Some(&"the test panics here");
                    assert!(is_planned, "{:?}", panic.downcast_ref::<String>());
                }
            }
        });
    }
    let writer = tokio::spawn({
        let (cache, data) = (cache.clone(), Arc::clone(&data));
        async move {
            let mut random = StdRng::seed_from_u64(seed);
            loop {
                let key = random.random_range(0..KEYS);
                let version = data.written[key].fetch_add(1, Ordering::SeqCst) + 1;
                cache.invalidate(group(key)).await.unwrap();
                data.acknowledged[key].store(version, Ordering::SeqCst);
                sleep(random.random_range(0..40) * MILLISECOND).await;
            }
        }
    });
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap()
        }
    };
    timeout(Duration::from_secs(600), all).await.expect("a reader hangs");
    writer.abort();
    // The loads that go on without a reader.
    for _ in 0..100 {
        sleep(10 * MILLISECOND).await;
    }
    assert_eq!(cache.loads_in_flight(), 0, "seed {seed}: a flight is left behind; {:?}", cache.stats());
}

fn options(seed: u64) -> EntryOptions {
    match seed % 3 {
        0 => EntryOptions::new(),
        1 => EntryOptions::new().load_hard_timeout(30 * MILLISECOND),
        _ => EntryOptions::new().time_to_live(5 * MILLISECOND).detached_load_time_limit(15 * MILLISECOND),
    }
}

#[tokio::test(start_paused = true)]
async fn readers_in_one_thread_hang_never_and_see_nothing_stale() {
    for seed in 0..4 * scale() as u64 {
        races(MemoryBackend::with_max_bytes(1 << 20), options(seed), seed).await;
        races(PlainBackend::new(), options(seed), seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_in_several_threads_hang_never_and_see_nothing_stale() {
    for seed in 0..scale() as u64 {
        races(MemoryBackend::with_max_bytes(1 << 20), options(seed), seed).await;
    }
}
