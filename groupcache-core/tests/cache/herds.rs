//! Of many readers of one key, at most one loads, and one waits to load next: also if the load fails.

use std::sync::atomic::{AtomicUsize, Ordering};

use groupcache_conformance::doubles::FailingBackend;
use groupcache_core::{ErrorKind, LoadContext};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::*;

const LOAD: Duration = Duration::from_millis(100);

/// How many loads run, and how many ran at once at most.
#[derive(Clone, Default)]
struct Loads(Arc<(AtomicUsize, AtomicUsize, AtomicUsize)>);

impl Loads {
    /// Takes `time`, as a load.
    async fn load(&self, time: Duration) {
        let (all, running, most) = &*self.0;
        all.fetch_add(1, Ordering::SeqCst);
        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        sleep(time).await;
        running.fetch_sub(1, Ordering::SeqCst);
    }

    fn all(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }

    fn most_at_once(&self) -> usize {
        self.0.2.load(Ordering::SeqCst)
    }
}

/// Starts `count` readers at once, each of which calls `read`, and returns what they return.
async fn readers<T, Fut>(count: usize, read: impl Fn(usize) -> Fut) -> Vec<T>
where
    T: Send + 'static,
    Fut: Future<Output = T> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for number in 0..count {
        tasks.spawn(read(number));
    }
    tasks.join_all().await
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_unavailable_one_load_runs_and_one_is_queued() {
    let cache = Cache::builder(FailingBackend(ErrorKind::Unavailable)).build();
    let loads = Loads::default();
    let values = readers(1000, |_| {
        let (cache, loads) = (cache.clone(), loads.clone());
        async move {
            load_with(&cache, "k", group("g"), || async move {
                loads.load(LOAD).await;
                u32::try_from(loads.all()).unwrap()
            })
            .await
        }
    })
    .await;
    assert_eq!((loads.all(), loads.most_at_once()), (2, 1));
    assert_eq!(values.iter().filter(|value| **value == 1).count(), 1, "the others may not share a load");
    assert_eq!((cache.stats().loads_not_stored, cache.stats().shared_loads), (2, 998));
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn readers_that_wait_for_a_failed_load_retry_one_at_a_time() {
    let cache = memory();
    let loads = Loads::default();
    let failures = readers(50, |_| {
        let (cache, loads) = (cache.clone(), loads.clone());
        async move {
            let load = || async {
                loads.load(LOAD).await;
                Err::<u32, _>("the database is down")
            };
            cache.get_or_load("k", group("g"), load).await
        }
    })
    .await;
    assert!(failures.iter().all(Result::is_err));
    assert_eq!((loads.all(), loads.most_at_once()), (50, 1));
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn readers_share_a_value_that_cannot_be_stored() {
    let cache = memory();
    let loads = Loads::default();
    readers(500, |_| {
        let (cache, loads) = (cache.clone(), loads.clone());
        async move {
            load_with(&cache, "k", group("g"), || async move {
                loads.load(LOAD).await;
                LoadContext::current().unwrap().depend_late(Group::new("late").with("n", loads.all() as u64));
                7
            })
            .await
        }
    })
    .await;
    // The readers with the vector of the first load cannot share it, as they may have joined too late.
    assert_eq!((loads.all(), loads.most_at_once()), (3, 1));
    assert_eq!(cache.stats().shared_loads, 497);
}

/// The cache does not know the groups of the value that a loader uses instead of a missing entry. That value is
/// not private.
#[tokio::test(start_paused = true)]
async fn readers_share_a_value_whose_load_found_no_other_entry() {
    let cache = memory();
    let loads = Loads::default();
    let values = readers(500, |_| {
        let (cache, loads) = (cache.clone(), loads.clone());
        async move {
            load_with(&cache, "k", group("g"), || async {
                loads.load(LOAD).await;
                cache.get("other", group("other")).await.unwrap_or(7)
            })
            .await
        }
    });
    assert!(values.await.iter().all(|value| *value == 7));
    assert_eq!((loads.all(), loads.most_at_once()), (3, 1));
    assert_eq!(cache.get::<u32, _, _>("k", group("g")).await, None);
}

#[tokio::test(start_paused = true)]
async fn readers_of_a_private_value_do_not_wait_for_each_other() {
    let cache = memory();
    let mut readers = JoinSet::new();
    for _ in 0..100 {
        let cache = cache.clone();
        readers.spawn(async move {
            let began = Instant::now();
            load_with(&cache, "k", group("g"), || async {
                sleep(2 * LOAD).await;
                LoadContext::current().unwrap().do_not_store();
                7
            })
            .await;
            began.elapsed()
        });
        sleep(LOAD / 4).await;
    }
    let mut waits = readers.join_all().await;
    waits.sort();
    assert!(waits[90] <= 2 * LOAD + Duration::from_millis(2), "90th percentile {:?}", waits[90]);
    // Once it may be shared, it is again.
    load(&cache, "k", group("g"), 8).await;
    assert_eq!(load(&cache, "k", group("g"), 9).await, 8);
}

/// A reader that comes after an invalidation may not share a load that began before it. Without a queue each
/// of these readers would load.
#[tokio::test(start_paused = true)]
async fn invalidations_during_loads_start_one_load_at_a_time() {
    let cache = memory();
    let loads = Loads::default();
    let version = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    for number in 1..=200 {
        version.store(number, Ordering::SeqCst);
        cache.invalidate(group("g")).await.unwrap();
        let (cache, loads, version) = (cache.clone(), loads.clone(), Arc::clone(&version));
        readers.spawn(async move {
            let read = load_with(&cache, "k", group("g"), || async move {
                let seen = version.load(Ordering::SeqCst);
                loads.load(2 * LOAD).await;
                u32::try_from(seen).unwrap()
            });
            assert!(read.await as usize >= number, "a value from before an invalidation");
        });
        sleep(Duration::from_millis(2)).await;
    }
    soon(readers.join_all()).await;
    assert_eq!(loads.most_at_once(), 1);
    assert!(loads.all() <= 5, "{} loads", loads.all());
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_two_panics_the_waiting_readers_load_at_once() {
    let cache = memory();
    let began = Instant::now();
    let mut readers = JoinSet::new();
    for _ in 0..10 {
        let cache = cache.clone();
        readers.spawn(async move {
            load_with(&cache, "k", group("g"), || async {
                sleep(2 * LOAD).await;
                panic!("the test fails here")
            })
            .await
        });
    }
    while let Some(outcome) = readers.join_next().await {
        assert!(outcome.unwrap_err().is_panic());
    }
    assert!(began.elapsed() <= 6 * LOAD + Duration::from_millis(10), "took {:?}", began.elapsed());
    assert_eq!(cache.loads_in_flight(), 0);
}
