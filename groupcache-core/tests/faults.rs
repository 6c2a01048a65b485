//! The promises of the cache while its backend suffers faults.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::sync::Arc;
use std::time::Duration;

use groupcache_conformance::doubles::PlainBackend;
use groupcache_conformance::{
    Fault, FaultBackend, FaultPlan, FaultRun, HistoryRecorder, scale, seeds, under_faults,
};
use groupcache_core::{Backend, BoxBackend, Cache, EntryOptions};
use groupcache_memory::MemoryBackend;

const OPERATIONS: usize = 2500;

async fn serves_nothing_stale<B: Backend>(test: &str, make: impl Fn() -> B) {
    let mut operations = 0;
    let mut happened = [0; Fault::ALL.len()];
    for seed in seeds(40 * scale()) {
        let repeat =
            format!("GROUPCACHE_TEST_SEED={seed} cargo test -p groupcache-core --test faults {test}");
        // A fault in one of fifty operations, in one of ten, or in one of three.
        let per_mille = [2, 10, 33][usize::try_from(seed % 3).unwrap()];
        let plan = FaultPlan::all(seed, per_mille);
        match under_faults(make(), plan, seed, OPERATIONS, &repeat).await {
            Ok(FaultRun { history, faults, stats, .. }) => {
                operations += OPERATIONS;
                // A run without hits, loads or invalidations would prove nothing.
                assert!(
                    history.reads > OPERATIONS / 3 && history.invalidations > OPERATIONS / 10,
                    "{history:?}"
                );
                assert!(stats.hits > 0 && stats.loads > 0, "{stats:?}");
                for (fault, so_far) in Fault::ALL.iter().zip(&mut happened) {
                    *so_far += faults.count(*fault);
                }
            }
            Err(violation) => panic!("{violation}"),
        }
    }
    if std::env::var("GROUPCACHE_TEST_SEED").is_err() {
        assert!(operations >= 100_000, "{operations} operations");
        assert!(happened.iter().all(|count| *count > 0), "{happened:?} of {:?}", Fault::ALL);
    }
}

#[tokio::test]
async fn memory_serves_nothing_stale_under_faults() {
    serves_nothing_stale("memory_serves_nothing_stale_under_faults", || {
        MemoryBackend::with_max_bytes(1 << 20)
    })
    .await;
}

#[tokio::test]
async fn memory_that_is_too_small_serves_nothing_stale_under_faults() {
    serves_nothing_stale("memory_that_is_too_small_serves_nothing_stale_under_faults", || {
        BoxBackend::new(Arc::new(MemoryBackend::with_max_bytes(2000)))
    })
    .await;
}

#[tokio::test]
async fn a_store_outside_the_process_serves_nothing_stale_under_faults() {
    serves_nothing_stale("a_store_outside_the_process_serves_nothing_stale_under_faults", PlainBackend::new)
        .await;
}

/// The scheduler interleaves threads, not a seed, so a run is not repeatable.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_and_writers_on_several_threads_see_nothing_stale() {
    for (backend, seed) in [
        (BoxBackend::new(MemoryBackend::with_max_bytes(1 << 20)), 1),
        (BoxBackend::new(MemoryBackend::with_max_bytes(3000)), 2),
        (BoxBackend::new(PlainBackend::new()), 3),
    ] {
        // Two processes on one store. Where the store grants leases, one of them loads at a time.
        let faulty = FaultBackend::new(backend, FaultPlan::all(seed, 5));
        let options = EntryOptions::new().lease(Duration::from_millis(5));
        let caches = [(); 2].map(|()| Cache::builder(faulty.clone()).options(options).build());
        let history = HistoryRecorder::new(seed);
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..8_u64 {
            let [one, other] = &caches;
            let cache = if task % 4 < 2 { one } else { other }.clone();
            let history = history.clone();
            tasks.spawn(async move {
                for round in 0..2000 * scale() as u64 {
                    let key = (task * 7 + round) % 3;
                    if task < 2 && round % 3 == 0 {
                        drop(history.write(&cache, key).await);
                    } else {
                        history.read(&cache, key).await;
                    }
                }
            });
        }
        tasks.join_all().await;
        let checked = history.check().unwrap_or_else(|stale| panic!("{stale}"));
        assert!(checked.reads > 10_000 && checked.invalidations > 500, "{checked:?}");
    }
}
