//! Of several processes that share a store and miss the same entry, one loads it. Each cache stands for
//! a process.

use std::sync::atomic::{AtomicU32, Ordering};

use groupcache_conformance::doubles::{
    CountingBackend, Counts, Operation, PlainBackend, ScriptedBackend, Step,
};
use groupcache_core::backend::{LeaseHolder, LeaseOwner, LeaseRequest, TimeLeft};
use groupcache_core::{EntryOptions, Error, Key};
use tokio::task::JoinSet;

use crate::*;

const HOUR: Duration = Duration::from_secs(3600);

fn process<B: Backend + Clone>(store: &B, duration: Duration) -> Cache<B> {
    Cache::builder(store.clone()).options(EntryOptions::new().lease(duration)).build()
}

/// Takes the lease on `key` and `groups` for a process that dies.
async fn lease_of_a_dead_process(store: &PlainBackend, key: &str, groups: &Groups, duration: Duration) {
    let key = Key::of(key).unwrap();
    let current = store.lookup(&key, groups, TimeLeft::NotNeeded).await.unwrap().current;
    let request = LeaseRequest::new(&key, groups, &current, LeaseOwner::random(), duration).unwrap();
    assert_eq!(store.lease(&request).await.unwrap().holder, LeaseHolder::Ours);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cold_value_is_loaded_by_one_of_all_processes_also_after_an_invalidation() {
    let store = PlainBackend::new();
    let processes = [(); 3].map(|()| process(&store, HOUR));
    let loads = Arc::new(AtomicU32::new(0));
    for round in 0..10 {
        let mut readers = JoinSet::new();
        for reader in 0..300 {
            let (cache, loads) = (processes[reader % 3].clone(), Arc::clone(&loads));
            readers.spawn(async move {
                load_with(&cache, "k", groups(["a", "b"]), || async move {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    loads.fetch_add(1, Ordering::SeqCst)
                })
                .await
            });
        }
        let values = soon(readers.join_all()).await;
        assert_eq!(values, [round; 300]);
        processes[0].invalidate(group("b")).await.unwrap();
    }
    let by_process: Vec<_> = processes.iter().map(|process| process.stats().loads).collect();
    assert_eq!(by_process.iter().sum::<u64>(), 10, "{by_process:?}");
}

#[tokio::test]
async fn without_the_option_no_lease_is_requested_and_each_process_loads() {
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
async fn a_waiting_process_is_served_what_the_other_stored() {
    let store = PlainBackend::new();
    let [one, other] = [(); 2].map(|()| process(&store, HOUR));
    let gate = Gate::new();
    let first = load_behind(&one, "k", group("g"), &gate, 1);
    gate.reached().await;
    // Several readers wait in the other process.
    let waiting: Vec<_> = (2..6).map(|value| load_behind(&other, "k", group("g"), &gate, value)).collect();
    settle().await;
    gate.open();
    assert_eq!(soon(first).await.unwrap(), 1);
    for reader in waiting {
        assert_eq!(soon(reader).await.unwrap(), 1);
    }
    let stats = other.stats();
    assert_eq!((stats.loads, stats.shared_loads, stats.lease_waits), (0, 4, 1));
    assert_eq!(other.loads_in_flight(), 0);
}

#[tokio::test]
async fn a_dead_process_is_replaced_when_its_lease_ends() {
    let store = PlainBackend::new();
    lease_of_a_dead_process(&store, "k", &group("g"), Duration::from_millis(50)).await;
    let cache = process(&store, HOUR);
    assert_eq!(soon(load(&cache, "k", group("g"), 1)).await, 1);
    assert_eq!(cache.stats().lease_waits, 1);
}

#[tokio::test(start_paused = true)]
async fn no_reader_waits_much_longer_than_twice_the_duration_of_a_lease() {
    let store = PlainBackend::new();
    lease_of_a_dead_process(&store, "k", &group("g"), HOUR).await;
    let cache = process(&store, Duration::from_secs(1));
    let began = tokio::time::Instant::now();
    let open = Gate::new();
    open.open();
    let first = load_behind(&cache, "k", group("g"), &open, 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let later: Vec<_> = (1..4).map(|value| load_behind(&cache, "k", group("g"), &open, value)).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The reader that takes over from a cancelled leader does not begin its wait again.
    first.abort();
    for reader in later {
        assert!(reader.await.unwrap() > 0);
    }
    let waited = began.elapsed();
    assert!((2000..2200).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!(cache.stats().loads, 1);
}

/// The pauses grow from 5 ms by half each time, up to 100 ms.
#[tokio::test(start_paused = true)]
async fn a_waiting_process_looks_up_often_at_first_and_seldom_later() {
    let store = PlainBackend::new();
    lease_of_a_dead_process(&store, "k", &group("g"), HOUR).await;
    let counting = CountingBackend::new(store);
    let cache = process(&counting, Duration::from_millis(500));
    load(&cache, "k", group("g"), 1).await;
    let lookups = counting.counts().lookups;
    assert!((16..=20).contains(&lookups), "{lookups} lookups in a second");
}

#[tokio::test(start_paused = true)]
async fn after_invalidations_during_the_wait_one_reader_of_the_process_loads() {
    let store = PlainBackend::new();
    let groups = group("g");
    lease_of_a_dead_process(&store, "k", &groups, HOUR).await;
    let cache = process(&store, Duration::from_secs(60));
    let open = Gate::new();
    open.open();
    let readers: Vec<_> = (0..50).map(|_| load_behind(&cache, "k", groups.clone(), &open, 1)).collect();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cache.invalidate(groups.clone()).await.unwrap();
        lease_of_a_dead_process(&store, "k", &groups, HOUR).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    cache.invalidate(groups.clone()).await.unwrap();
    for reader in readers {
        assert_eq!(soon(reader).await.unwrap(), 1);
    }
    assert_eq!(cache.stats().loads, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_passes_from_a_cancelled_leader_to_the_next_of_its_process() {
    let shared = PlainBackend::new();
    let store = CountingBackend::new(shared.clone());
    let one = process(&store, Duration::from_secs(60));
    let other = process(&shared, Duration::from_secs(60));
    let gate = Gate::new();
    let leader = load_behind(&one, "k", group("g"), &gate, 1);
    gate.reached().await;
    let next: Vec<_> = (2..5).map(|value| load_behind(&one, "k", group("g"), &gate, value)).collect();
    let elsewhere = load_behind(&other, "k", group("g"), &gate, 9);
    settle().await;
    leader.abort();
    gate.reached().await;
    // Gives the other process time to take the lease, which it must not.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((store.counts().leases, store.counts().releases), (1, 0));
    gate.open();
    let value = soon(elsewhere).await.unwrap();
    assert!((2..5).contains(&value), "{value}");
    for reader in next {
        assert_eq!(soon(reader).await.unwrap(), value);
    }
    assert_eq!((one.stats().loads, other.stats().loads), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_value_stored_elsewhere_is_not_shared_with_a_follower_that_names_more_groups() {
    let store = PlainBackend::new();
    let [one, two] = [(); 2].map(|()| process(&store, Duration::from_secs(1)));
    // One process has learned that a load of `a` may discover `b`.
    load_with(&one, "k", group("a"), || async {
        groupcache_core::depend(group("b")).await;
        0
    })
    .await;
    one.delete("k").await.unwrap();
    let gate = Gate::new();
    let old = load_behind(&two, "k", group("a"), &gate, 1);
    gate.reached().await;
    two.invalidate(group("b")).await.unwrap();
    lease_of_a_dead_process(&store, "k", &groups(["a", "b"]), HOUR).await;
    let open = Gate::new();
    open.open();
    let names_a = load_behind(&one, "k", group("a"), &open, 2);
    settle().await;
    let names_both = load_behind(&one, "k", groups(["a", "b"]), &open, 3);
    settle().await;
    gate.open();
    assert_eq!(soon(old).await.unwrap(), 1);
    assert_eq!(soon(names_a).await.unwrap(), 1, "it names `a` alone");
    assert_ne!(soon(names_both).await.unwrap(), 1, "loaded before `b` was invalidated");
}

#[tokio::test]
async fn a_value_loaded_from_one_stored_elsewhere_depends_on_it() {
    let store = PlainBackend::new();
    let [one, other] = [(); 2].map(|()| process(&store, HOUR));
    let gate = Gate::new();
    let inner = tokio::spawn({
        let (cache, gate) = (one.clone(), Arc::clone(&gate));
        async move {
            load_with(&cache, "inner", group("g"), || async move {
                groupcache_core::depend(group("discovered")).await;
                gate.pass().await;
                1
            })
            .await
        }
    });
    gate.reached().await;
    let outer = async |value| {
        load_with(&other, "outer", group("outer"), || async {
            value + load(&other, "inner", group("g"), 50).await
        })
        .await
    };
    let opens = async {
        settle().await;
        gate.open();
    };
    let (first, ()) = Box::pin(soon(async { tokio::join!(outer(100), opens) })).await;
    assert_eq!((first, soon(inner).await.unwrap()), (101, 1));
    assert_eq!(other.stats().lease_waits, 1);
    assert_eq!(outer(200).await, 101);
    one.invalidate(group("discovered")).await.unwrap();
    assert_eq!(outer(200).await, 250);
}

#[tokio::test(start_paused = true)]
async fn an_undecodable_value_of_another_release_does_not_end_the_wait() {
    let store = PlainBackend::new();
    let cache = process(&store, Duration::from_secs(60));
    cache.insert("k", group("g"), || async { Ok::<_, Error>("text".to_owned()) }).await.unwrap();
    lease_of_a_dead_process(&store, "k", &group("g"), HOUR).await;
    let began = tokio::time::Instant::now();
    assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
    assert!(began.elapsed() >= Duration::from_secs(120));
}

#[tokio::test]
async fn a_value_is_stored_although_its_lease_failed() {
    let store = PlainBackend::new();
    let scripted = ScriptedBackend::new(store.clone());
    let cache = process(&scripted, HOUR);
    load(&cache, "k", group("g"), 1).await;
    cache.invalidate(group("g")).await.unwrap();
    scripted.always(Operation::Lease, Step::Fail(groupcache_core::ErrorKind::Unavailable));
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
    assert_eq!(load(&cache, "k", group("g"), 3).await, 2);
}

#[tokio::test]
async fn a_lease_of_any_duration_works() {
    for duration in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let cache = process(&PlainBackend::new(), duration);
        assert_eq!(load(&cache, "k", group("g"), 1).await, 1, "{duration:?}");
        assert_eq!(load(&cache, "k", group("g"), 2).await, 1, "{duration:?}");
    }
}

#[tokio::test]
async fn a_cancelled_load_releases_its_lease_at_once() {
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

#[tokio::test(start_paused = true)]
async fn a_new_leader_requests_again_a_lease_that_has_ended() {
    for (waited, leases) in [(Duration::from_millis(900), 1), (Duration::from_millis(1100), 2)] {
        let store = CountingBackend::new(PlainBackend::new());
        let cache = process(&store, Duration::from_secs(1));
        let gate = Gate::new();
        let first = load_behind(&cache, "k", group("g"), &gate, 1);
        gate.reached().await;
        let second = load_behind(&cache, "k", group("g"), &gate, 2);
        settle().await;
        tokio::time::sleep(waited).await;
        first.abort();
        gate.reached().await;
        assert_eq!(store.counts().leases, leases, "after {waited:?}");
        gate.open();
        assert_eq!(second.await.unwrap(), 2);
    }
}

#[tokio::test]
async fn a_failed_load_releases_its_lease_at_once() {
    let store = PlainBackend::new();
    let [one, other] = [(); 2].map(|()| process(&store, HOUR));
    let failed: Result<u32, _> = one.get_or_load("k", group("g"), || async { Err("failed") }).await;
    assert_eq!(failed, Err("failed"));
    assert_eq!(soon(load(&other, "k", group("g"), 2)).await, 2);
}

#[tokio::test]
async fn after_an_invalidation_no_reader_waits_for_a_load_from_before_it() {
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
    assert_eq!(
        load(&other, "k", group("g"), 3).await,
        3,
        "the value stored last was loaded before the invalidation"
    );
}

#[tokio::test]
async fn an_invalidation_ends_the_wait_of_all_readers_of_a_process() {
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
async fn a_waiting_reader_is_served_a_newer_valid_value() {
    let store = PlainBackend::new();
    let [one, other, third] = [(); 3].map(|()| process(&store, HOUR));
    let gate = Gate::new();
    let old = load_behind(&one, "k", group("g"), &gate, 1);
    gate.reached().await;
    // Waits for the old value, while a third process stores a new one.
    let waiting = load_behind(&other, "k", group("g"), &gate, 2);
    settle().await;
    third.invalidate(group("g")).await.unwrap();
    assert_eq!(load(&third, "k", group("g"), 3).await, 3);
    // The lookup that found it valid began after the read.
    assert_eq!(soon(waiting).await.unwrap(), 3);
    gate.open();
    soon(old).await.unwrap();
}

#[tokio::test]
async fn a_failing_store_keeps_no_reader_waiting() {
    let store = PlainBackend::new();
    lease_of_a_dead_process(&store, "k", &group("g"), HOUR).await;
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
async fn a_value_is_not_stored_if_the_mint_failed_with_its_lease() {
    let store = PlainBackend::new();
    let scripted = ScriptedBackend::new(store.clone());
    let cache = process(&scripted, HOUR);
    scripted.always(Operation::Lease, Step::LoseReply(groupcache_core::ErrorKind::Timeout));
    assert_eq!(soon(load(&cache, "k", group("g"), 1)).await, 1);
    assert_eq!(store.size().0, 0);
    assert_eq!(cache.stats().mint_failures, 1);
}

#[tokio::test]
async fn a_lease_costs_no_round_trip_where_a_group_is_minted_and_two_elsewhere() {
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
    assert_eq!(invalidated, Counts { lookups: 2, ..with_lease });
    let hit = store.counting(async { assert_eq!(load(&cache, "k", groups(["a", "b"]), 3).await, 2) }).await;
    assert_eq!(hit, Counts { lookups: 1, ..Counts::default() });
}

#[tokio::test]
async fn an_expired_value_is_refreshed_by_one_process() {
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
        // A load would wait at the gate.
        assert_eq!(soon(load_behind(process, "k", group("g"), &gate, 3)).await.unwrap(), 1);
    }
    gate.open();
    assert_eq!(soon(first).await.unwrap(), 2);
}

/// Of many readers that are served the expired value while another process loads, few request the lease.
#[tokio::test(start_paused = true)]
async fn while_another_process_refreshes_readers_seldom_request_its_lease() {
    let store = CountingBackend::new(PlainBackend::new());
    let options = EntryOptions::new()
        .time_to_live(Duration::from_millis(1))
        .stale_while_revalidate(HOUR)
        .lease(Duration::from_secs(60));
    let [one, other] = [(); 2].map(|()| Cache::builder(store.clone()).options(options).build());
    load(&one, "k", group("g"), 1).await;
    // Entries expire by the system clock, which does not pause.
    std::thread::sleep(Duration::from_millis(5));
    let gate = Gate::new();
    let first = load_behind(&one, "k", group("g"), &gate, 2);
    soon(gate.reached()).await;
    let before = store.counts().leases;
    for _ in 0..10 {
        assert_eq!(load(&other, "k", group("g"), 3).await, 1);
        settle().await;
    }
    assert_eq!(store.counts().leases - before, 1);
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(load(&other, "k", group("g"), 3).await, 1);
    settle().await;
    assert_eq!(store.counts().leases - before, 2, "after some time one more request");
    gate.open();
    first.await.unwrap();
}
