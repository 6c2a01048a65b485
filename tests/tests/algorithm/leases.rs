//! Of several processes that share a store and miss the same entry, one computes it. Each cache here
//! stands for a process.

use std::sync::atomic::{AtomicU32, Ordering};

use groupcache_core::{EntryOptions, Key, LeaseHolder, LeaseOwner, LeaseRequest, TimeLeft};
use groupcache_tests::{CountingBackend, Counts, Operation, PlainBackend, ScriptedBackend, Step};
use tokio::task::JoinSet;

use crate::*;

const HOUR: Duration = Duration::from_secs(3600);

fn process<B: Backend + Clone>(store: &B, lasts: Duration) -> Cache<B> {
    Cache::builder(store.clone()).options(EntryOptions::new().lease(lasts)).build()
}

/// Another process asks for the lease that a reader of `key` and `groups` would ask for, and dies.
async fn lease_of_one_who_died(store: &PlainBackend, key: &str, groups: &Groups, lasts: Duration) {
    let key = Key::of(key).unwrap();
    let current = store.lookup(&key, groups, TimeLeft::NotNeeded).await.unwrap().current;
    let request = LeaseRequest::new(&key, groups, &current, LeaseOwner::random(), lasts).unwrap();
    assert_eq!(store.lease(&request).await.unwrap().holder, LeaseHolder::Ours);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cold_value_is_computed_once_by_all_processes_together_also_after_an_invalidation() {
    let store = PlainBackend::new();
    let processes = [(); 3].map(|()| process(&store, HOUR));
    let computed = Arc::new(AtomicU32::new(0));
    for round in 0..10 {
        let mut readers = JoinSet::new();
        for reader in 0..300 {
            let (cache, computed) = (processes[reader % 3].clone(), Arc::clone(&computed));
            readers.spawn(async move {
                load_with(&cache, "k", groups(["a", "b"]), || async move {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    computed.fetch_add(1, Ordering::SeqCst)
                })
                .await
            });
        }
        let values = soon(readers.join_all()).await;
        assert_eq!(values, [round; 300]);
        processes[0].invalidate(group("b")).await.unwrap();
    }
    let loads: Vec<_> = processes.iter().map(|process| process.stats().loads).collect();
    assert_eq!(loads.iter().sum::<u64>(), 10, "{loads:?}");
}

#[tokio::test]
async fn without_the_option_no_lease_is_asked_for_and_each_process_computes() {
    let store = CountingBackend::new(PlainBackend::new());
    let processes = [(); 2].map(|()| Cache::builder(store.clone()).build());
    let gate = Gate::new();
    let readers: Vec<_> =
        processes.iter().map(|process| load_behind(process, "k", group("g"), &gate, 1)).collect();
    soon(gate.reached()).await;
    soon(gate.reached()).await;
    gate.open();
    for reader in readers {
        soon(reader).await.unwrap();
    }
    assert_eq!(store.counts().leases, 0);
}

#[tokio::test]
async fn one_that_waits_is_served_what_the_other_process_stored() {
    let store = PlainBackend::new();
    let [one, other] = [(); 2].map(|()| process(&store, HOUR));
    let gate = Gate::new();
    let first = load_behind(&one, "k", group("g"), &gate, 1);
    gate.reached().await;
    // All who wait in the other process, too.
    let waiting: Vec<_> = (2..6).map(|value| load_behind(&other, "k", group("g"), &gate, value)).collect();
    settle().await;
    gate.open();
    assert_eq!(soon(first).await.unwrap(), 1);
    for reader in waiting {
        assert_eq!(soon(reader).await.unwrap(), 1);
    }
    let stats = other.stats();
    assert_eq!((stats.loads, stats.shared, stats.lease_waits), (0, 4, 1));
    assert_eq!(other.loads_under_way(), 0);
}

#[tokio::test]
async fn one_that_died_is_replaced_when_its_lease_runs_out() {
    let store = PlainBackend::new();
    lease_of_one_who_died(&store, "k", &group("g"), Duration::from_millis(50)).await;
    let cache = process(&store, HOUR);
    assert_eq!(soon(load(&cache, "k", group("g"), 1)).await, 1);
    assert_eq!(cache.stats().lease_waits, 1);
}

#[tokio::test]
async fn nobody_waits_much_longer_than_twice_the_time_that_a_lease_lasts() {
    let store = PlainBackend::new();
    lease_of_one_who_died(&store, "k", &group("g"), HOUR).await;
    let cache = process(&store, Duration::from_millis(20));
    assert_eq!(soon(load(&cache, "k", group("g"), 1)).await, 1);
    assert_eq!(cache.stats().lease_waits, 1);
}

#[tokio::test]
async fn one_that_is_cancelled_gives_its_lease_back_at_once() {
    let store = PlainBackend::new();
    let [one, other] = [(); 2].map(|()| process(&store, HOUR));
    let gate = Gate::new();
    let first = load_behind(&one, "k", group("g"), &gate, 1);
    gate.reached().await;
    let second = load_behind(&other, "k", group("g"), &gate, 2);
    settle().await;
    first.abort();
    soon(gate.reached()).await;
    gate.open();
    assert_eq!(soon(second).await.unwrap(), 2);
}

#[tokio::test]
async fn one_that_fails_gives_its_lease_back_at_once() {
    let store = PlainBackend::new();
    let [one, other] = [(); 2].map(|()| process(&store, HOUR));
    let failed: Result<u32, _> = one.get_or_load("k", group("g"), || async { Err("failed") }).await;
    assert_eq!(failed, Err("failed"));
    assert_eq!(soon(load(&other, "k", group("g"), 2)).await, 2);
}

#[tokio::test]
async fn after_an_invalidation_nobody_waits_for_a_computation_from_before_it() {
    let store = PlainBackend::new();
    let [one, other] = [(); 2].map(|()| process(&store, HOUR));
    let gate = Gate::new();
    let old = load_behind(&one, "k", group("g"), &gate, 1);
    gate.reached().await;
    other.invalidate(group("g")).await.unwrap();
    assert_eq!(soon(load(&other, "k", group("g"), 2)).await, 2);
    assert_eq!(other.stats().lease_waits, 0);
    gate.open();
    assert_eq!(soon(old).await.unwrap(), 1);
    assert_eq!(load(&other, "k", group("g"), 3).await, 3, "what was stored last is from before");
}

#[tokio::test]
async fn an_invalidation_ends_the_waiting_of_all_readers_of_a_process() {
    let store = PlainBackend::new();
    let [one, other] = [(); 2].map(|()| process(&store, HOUR));
    let gate = Gate::new();
    let old = load_behind(&one, "k", group("g"), &gate, 1);
    gate.reached().await;
    let open = Gate::new();
    open.open();
    let waiting: Vec<_> = (2..6).map(|_| load_behind(&other, "k", group("g"), &open, 2)).collect();
    settle().await;
    one.invalidate(group("g")).await.unwrap();
    for reader in waiting {
        assert_eq!(soon(reader).await.unwrap(), 2);
    }
    assert_eq!(other.stats().loads, 1);
    gate.open();
    soon(old).await.unwrap();
}

#[tokio::test]
async fn what_is_stored_under_other_generations_is_not_what_one_waited_for() {
    let store = PlainBackend::new();
    let [one, other, third] = [(); 3].map(|()| process(&store, HOUR));
    let gate = Gate::new();
    let old = load_behind(&one, "k", group("g"), &gate, 1);
    gate.reached().await;
    // Waits for the old one; meanwhile a third process stores a new one.
    let waiting = load_behind(&other, "k", group("g"), &gate, 2);
    settle().await;
    third.invalidate(group("g")).await.unwrap();
    assert_eq!(load(&third, "k", group("g"), 3).await, 3);
    // Valid when it was found, after the read began.
    assert_eq!(soon(waiting).await.unwrap(), 3);
    gate.open();
    soon(old).await.unwrap();
}

#[tokio::test]
async fn a_store_that_fails_keeps_nobody_waiting() {
    let store = PlainBackend::new();
    lease_of_one_who_died(&store, "k", &group("g"), HOUR).await;
    for operation in [Operation::Lookup, Operation::Lease] {
        let scripted = ScriptedBackend::new(store.clone());
        let cache = process(&scripted, HOUR);
        scripted.next(operation, Step::Pass);
        scripted.always(operation, Step::Fail(groupcache_core::ErrorKind::Unavailable));
        let value = soon(load(&cache, "k", group("g"), 7)).await;
        assert_eq!(value, 7, "{operation:?}");
    }
}

#[tokio::test]
async fn a_mint_that_fails_with_its_lease_leaves_the_value_unstored() {
    let store = PlainBackend::new();
    let scripted = ScriptedBackend::new(store.clone());
    let cache = process(&scripted, HOUR);
    scripted.always(Operation::Lease, Step::LoseReply(groupcache_core::ErrorKind::Timeout));
    assert_eq!(soon(load(&cache, "k", group("g"), 1)).await, 1);
    assert_eq!(store.size().0, 0);
    assert_eq!(cache.stats().mint_failures, 1);
}

#[tokio::test]
async fn a_lease_costs_nothing_where_a_group_is_minted_and_one_round_trip_elsewhere() {
    let store = CountingBackend::new(PlainBackend::new());
    let cache = process(&store, HOUR);
    let released = async |count| {
        while store.counts().releases < count {
            tokio::task::yield_now().await;
        }
    };
    let cold = store
        .counting(async {
            load(&cache, "k", groups(["a", "b"]), 1).await;
            soon(released(1)).await;
        })
        .await;
    let with_lease = Counts { lookups: 1, leases: 1, stores: 1, releases: 1, ..Counts::default() };
    assert_eq!(cold, with_lease);
    cache.invalidate(group("a")).await.unwrap();
    let invalidated = store
        .counting(async {
            load(&cache, "k", groups(["a", "b"]), 2).await;
            soon(released(2)).await;
        })
        .await;
    assert_eq!(invalidated, with_lease);
    let hit = store.counting(async { assert_eq!(load(&cache, "k", groups(["a", "b"]), 3).await, 2) }).await;
    assert_eq!(hit, Counts { lookups: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_value_that_expired_is_refreshed_by_one_process() {
    let store = PlainBackend::new();
    let options = EntryOptions::new()
        .time_to_live(Duration::from_millis(1))
        .stale_while_revalidate(HOUR)
        .lease(Duration::from_secs(60));
    let processes = [(); 3].map(|()| Cache::builder(store.clone()).options(options).build());
    load(&processes[0], "k", group("g"), 1).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let gate = Gate::new();
    let first = load_behind(&processes[0], "k", group("g"), &gate, 2);
    soon(gate.reached()).await;
    for process in &processes[1..] {
        // A computation would stop at the gate.
        assert_eq!(soon(load_behind(process, "k", group("g"), &gate, 3)).await.unwrap(), 1);
    }
    gate.open();
    assert_eq!(soon(first).await.unwrap(), 2);
}
