//! The promise of the cache while everything goes wrong that can.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::sync::Arc;
use std::time::Duration;

use groupcache_conformance::{Fault, FaultBackend, FaultPlan, HistoryRecorder, Survived, under_faults};
use groupcache_core::{Backend, BoxBackend, Cache, Entry, EntryOptions, Group, Groups, Key};
use groupcache_memory::MemoryBackend;
use groupcache_tests::{Bug, PlainBackend, scale, seeds};

const OPERATIONS: usize = 2500;

async fn survives<B: Backend>(test: &str, make: impl Fn() -> B) {
    let mut operations = 0;
    let mut happened = [0; Fault::ALL.len()];
    for seed in seeds(40 * scale()) {
        let repeat =
            format!("GROUPCACHE_TEST_SEED={seed} cargo test -p groupcache-tests --test faults {test}");
        // From hardly any faults to one in every three operations.
        let per_mille = [2, 10, 33][usize::try_from(seed % 3).unwrap()];
        let plan = FaultPlan::all(seed, per_mille);
        match under_faults(make(), plan, seed, OPERATIONS, &repeat).await {
            Ok(Survived { checked, faulted, stats, .. }) => {
                operations += OPERATIONS;
                // Something did happen: a test in which all went well would show nothing.
                assert!(
                    checked.reads > OPERATIONS / 3 && checked.invalidations > OPERATIONS / 10,
                    "{checked:?}"
                );
                assert!(stats.hits > 0 && stats.loads > 0, "{stats:?}");
                for (fault, so_far) in Fault::ALL.iter().zip(&mut happened) {
                    *so_far += faulted.count(*fault);
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
    survives("memory_serves_nothing_stale_under_faults", || MemoryBackend::with_max_bytes(1 << 20)).await;
}

#[tokio::test]
async fn memory_that_is_too_small_serves_nothing_stale_under_faults() {
    survives("memory_that_is_too_small_serves_nothing_stale_under_faults", || {
        BoxBackend::new(Arc::new(MemoryBackend::with_max_bytes(2000)))
    })
    .await;
}

#[tokio::test]
async fn a_store_outside_the_process_serves_nothing_stale_under_faults() {
    survives("a_store_outside_the_process_serves_nothing_stale_under_faults", PlainBackend::new).await;
}

/// The checker finds what there is to find, and says how to see it again.
#[tokio::test]
async fn an_unsound_store_is_found_and_the_same_seed_finds_it_again() {
    for bug in [Bug::BumpOnlyOnce, Bug::BumpLater] {
        let run = |seed| async move {
            let plan = FaultPlan::all(seed, 2);
            under_faults(PlainBackend::with_bug(bug), plan, seed, 500, "cargo test again").await
        };
        let found = run(11).await.unwrap_err().to_string();
        assert!(found.contains("(seed 11; repeat with `cargo test again`"), "{found}");
        assert_eq!(run(11).await.unwrap_err().to_string(), found);
    }
}

#[tokio::test]
async fn every_single_fault_happens_as_planned_and_is_survived() {
    for fault in Fault::ALL {
        let plan = FaultPlan::new(5).with(fault, 200);
        let survived = under_faults(PlainBackend::new(), plan, 5, 1000, "").await.unwrap();
        assert!(survived.faulted.count(fault) > 10, "{fault:?}: {:?}", survived.faulted);
        assert_eq!(survived.faulted.total(), survived.faulted.count(fault));
    }
}

#[tokio::test]
async fn without_a_plan_nothing_happens() {
    let survived = under_faults(PlainBackend::new(), FaultPlan::new(1), 1, 1000, "").await.unwrap();
    assert_eq!(survived.faulted.total(), 0);
    assert_eq!(survived.stats.invalidation_failures + survived.stats.store_failures, 0);
}

async fn always(fault: Fault) -> (PlainBackend, FaultBackend<PlainBackend>) {
    let inner = PlainBackend::new();
    (inner.clone(), FaultBackend::new(inner, FaultPlan::new(1).with(fault, 1000)))
}

#[tokio::test]
async fn a_lost_request_has_no_effect_and_a_lost_reply_has_one() {
    let group = Groups::from(Group::new("g"));
    for (fault, generations) in [(Fault::DropRequest, 0), (Fault::DropReply, 1), (Fault::OutOfMemory, 0)] {
        let (inner, faulty) = always(fault).await;
        faulty.mint(&group).await.unwrap_err();
        assert_eq!(inner.size().1, generations, "{fault:?}");
    }
}

#[tokio::test]
async fn a_delayed_write_comes_after_later_ones() {
    let (inner, faulty) = always(Fault::Delay).await;
    let key = Key::of("k").unwrap();
    let entry = Entry::new(key, Groups::none(), Default::default(), "late".into(), Duration::ZERO);
    faulty.store(&Arc::new(entry), None).await.unwrap_err();
    assert_eq!(inner.size().0, 0);
    faulty.stop().await.unwrap();
    assert_eq!(inner.size().0, 1);
}

#[tokio::test]
async fn half_a_batch_is_done_and_the_rest_is_not() {
    let (inner, faulty) = always(Fault::PartOfBatch).await;
    let groups: Groups = (0..10).map(|id| Group::new("g").with("id", id)).collect();
    faulty.mint(&groups).await.unwrap_err();
    assert_eq!(inner.size().1, 5);
}

/// Threads instead of a seed: whatever the machine makes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_and_writers_on_several_threads_see_nothing_stale() {
    for (backend, seed) in [
        (BoxBackend::new(MemoryBackend::with_max_bytes(1 << 20)), 1),
        (BoxBackend::new(MemoryBackend::with_max_bytes(3000)), 2),
        (BoxBackend::new(PlainBackend::new()), 3),
    ] {
        // Two processes on one store that take turns to compute, where it gives leases.
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
