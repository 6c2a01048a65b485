//! Concurrent misses load once, and no reader hangs when a load is cancelled.

use std::sync::atomic::{AtomicUsize, Ordering};

use groupcache_conformance::doubles::{CountingBackend, Operation, PlainBackend, ScriptedBackend, Step};
use groupcache_core::{Address, Error, ErrorKind, Key, Loaded};
use tokio::task::JoinSet;

use crate::*;

const READERS: usize = 1000;

async fn first_reads_load_once<B: Backend + Clone>(backend: B) {
    let backend = CountingBackend::new(backend);
    let cache = Cache::builder(backend.clone()).build();
    let loads = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let (cache, backend, loads) = (cache.clone(), backend.clone(), Arc::clone(&loads));
        readers.spawn(async move {
            load_with(&cache, "k", groups(["a", "b"]), || async move {
                // Waits until all readers have missed.
                while backend.counts().lookups < READERS {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                u32::try_from(loads.fetch_add(1, Ordering::SeqCst)).unwrap()
            })
            .await
        });
    }
    let values = soon(readers.join_all()).await;
    assert_eq!(loads.load(Ordering::SeqCst), 1);
    assert_eq!(values, [0; READERS]);
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test]
async fn followers_make_one_lookup_each() {
    let store = CountingBackend::new(PlainBackend::new());
    let cache = Cache::builder(store.clone()).build();
    let gate = Gate::new();
    let readers: Vec<_> =
        (0..10).map(|value| load_behind(&cache, "k", groups(["a", "b"]), &gate, value)).collect();
    soon(gate.reached()).await;
    settle().await;
    gate.open();
    for reader in readers {
        soon(reader).await.unwrap();
    }
    assert_eq!(cache.stats().shared_loads, 9);
    assert_eq!(store.counts().lookups, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_concurrent_first_reads_load_once_in_memory() {
    first_reads_load_once(MemoryBackend::with_max_bytes(1 << 20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_concurrent_first_reads_load_once_in_a_shared_store() {
    first_reads_load_once(PlainBackend::new()).await;
}

#[tokio::test]
async fn a_read_that_looked_up_just_before_another_stored_does_not_load_again() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    // Gives the group a generation, so that both reads have the same vector.
    load(&cache, "other", group("g"), 0).await;
    let gate = Gate::new();
    backend.next(Operation::Lookup, Step::WaitAfter(Arc::clone(&gate)));
    let late = tokio::spawn({
        let cache = cache.clone();
        async move { load(&cache, "k", group("g"), 1).await }
    });
    gate.reached().await;
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
    gate.open();
    assert_eq!(soon(late).await.unwrap(), 2);
}

#[tokio::test]
async fn a_follower_takes_over_from_a_cancelled_leader() {
    let cache = memory();
    let gate = Gate::new();
    let leader = load_behind(&cache, "k", group("g"), &gate, 1);
    gate.reached().await;
    let waiters: Vec<_> = (2..12).map(|value| load_behind(&cache, "k", group("g"), &gate, value)).collect();
    settle().await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    soon(gate.reached()).await;
    gate.open();
    let mut values = Vec::new();
    for waiter in waiters {
        values.push(soon(waiter).await.unwrap());
    }
    assert!(values.iter().all(|value| *value == values[0] && *value > 1), "{values:?}");
    assert_eq!(cache.stats().loads, 2);
    assert_eq!(cache.stats().loads_cancelled, 1);
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test]
async fn a_follower_takes_over_from_a_leader_that_panics() {
    let cache = memory();
    let gate = Gate::new();
    let leader = tokio::spawn({
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        async move {
            let loader = || async move {
                gate.pass().await;
                panic!("the test fails here")
            };
            load_with(&cache, "k", group("g"), loader).await
        }
    });
    gate.reached().await;
    let waiter = load_behind(&cache, "k", group("g"), &gate, 2);
    settle().await;
    gate.open();
    assert!(soon(leader).await.unwrap_err().is_panic());
    assert_eq!(soon(waiter).await.unwrap(), 2);
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test]
async fn a_cancelled_follower_disturbs_no_other_reader() {
    let cache = memory();
    let gate = Gate::new();
    let leader = load_behind(&cache, "k", group("g"), &gate, 1);
    gate.reached().await;
    let waiter = load_behind(&cache, "k", group("g"), &gate, 2);
    settle().await;
    waiter.abort();
    drop(waiter.await);
    gate.open();
    assert_eq!(soon(leader).await.unwrap(), 1);
    assert_eq!(cache.stats().loads, 1);
}

/// An equal key is not enough: the load may have begun before an invalidation that this reader must see.
#[tokio::test]
async fn a_load_that_began_before_an_invalidation_is_not_joined_after_it() {
    let cache = memory();
    let gate = Gate::new();
    let old = load_behind(&cache, "k", group("g"), &gate, 1);
    gate.reached().await;
    cache.invalidate(group("g")).await.unwrap();
    loads_for_itself(&cache, 2, &gate).await;
    assert_eq!(soon(old).await.unwrap(), 1);
    assert_ne!(load(&cache, "k", group("g"), 3).await, 1, "the older value was stored last, and is no hit");
}

/// Equal missing generations are not enough: minted, evicted and bumped in between, they look equal.
#[tokio::test]
async fn a_load_under_a_lost_generation_is_not_joined() {
    let backend = PlainBackend::new();
    let cache = Cache::builder(backend.clone()).build();
    let gate = Gate::new();
    let old = load_behind(&cache, "k", group("g"), &gate, 1);
    gate.reached().await;
    backend.lose_group(&Group::new("g"));
    cache.invalidate(group("g")).await.unwrap();
    loads_for_itself(&cache, 2, &gate).await;
    assert_eq!(soon(old).await.unwrap(), 1);
}

/// Checks that a read which begins now waits for its turn after the load at `gate`, and does not get its
/// value.
async fn loads_for_itself<B: Backend>(cache: &Cache<B>, value: u32, gate: &Gate) {
    let open = Gate::new();
    open.open();
    let new = load_behind(cache, "k", group("g"), &open, value);
    settle().await;
    assert!(!new.is_finished(), "two loads of one key at once");
    gate.open();
    assert_eq!(soon(new).await.unwrap(), value);
}

#[tokio::test]
async fn readers_share_the_value_while_its_entry_is_being_stored() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    let storing = Gate::new();
    backend.next(Operation::Store, Step::WaitBefore(Arc::clone(&storing)));
    assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
    storing.reached().await;
    assert_eq!(soon(load(&cache, "k", group("g"), 2)).await, 1);
    assert_eq!(cache.stats().shared_loads, 1);
    storing.open();
    settle().await;
    assert_eq!(cache.loads_in_flight(), 0);
    assert_eq!(load(&cache, "k", group("g"), 3).await, 1);
}

#[tokio::test]
async fn a_failed_load_fails_its_own_reader_only() {
    let cache = memory();
    let gate = Gate::new();
    let failing = tokio::spawn({
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        async move {
            let loader = || async move {
                gate.pass().await;
                Err::<u32, _>(Error::new(ErrorKind::Unavailable, "database"))
            };
            cache.get_or_load("k", group("g"), loader).await
        }
    });
    gate.reached().await;
    let waiter = load_behind(&cache, "k", group("g"), &gate, 2);
    settle().await;
    gate.open();
    assert_eq!(soon(failing).await.unwrap().unwrap_err().backend(), "database");
    assert_eq!(soon(waiter).await.unwrap(), 2);
    assert_eq!(cache.stats().load_failures, 1);
}

#[tokio::test]
async fn a_private_value_is_not_shared() {
    let cache = memory();
    let gate = Gate::new();
    let address = Address { key: Key::of("k").unwrap(), groups: group("g") };
    let private = tokio::spawn({
        let (cache, gate, address) = (cache.clone(), Arc::clone(&gate), address.clone());
        async move {
            let loader = || async move {
                gate.pass().await;
                Ok::<_, Infallible>(Loaded::private(1))
            };
            cache.read(&address, |_| None::<u32>, loader).await.map(drop)
        }
    });
    gate.reached().await;
    let waiter = load_behind(&cache, "k", group("g"), &gate, 2);
    settle().await;
    gate.open();
    soon(private).await.unwrap().unwrap();
    assert_eq!(soon(waiter).await.unwrap(), 2);
    assert_eq!(load(&cache, "k", group("g"), 3).await, 2, "the value of the follower is not private");
}
