//! A failing store fails no read and serves no unvalidated value. A failing invalidation is an error.

use groupcache_conformance::doubles::{Bug, FailingBackend, Operation, PlainBackend, ScriptedBackend, Step};
use groupcache_core::{Address, Error, ErrorKind, Key, Miss, depend};
use tokio::time::Instant;

use crate::*;

const READ_LIMIT: Duration = Duration::from_millis(100);
const WRITE_LIMIT: Duration = Duration::from_millis(2000);

fn scripted() -> (ScriptedBackend<PlainBackend>, Cache<ScriptedBackend<PlainBackend>>) {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let cache =
        Cache::builder(backend.clone()).read_time_limit(READ_LIMIT).write_time_limit(WRITE_LIMIT).build();
    (backend, cache)
}

#[tokio::test]
async fn a_failing_store_fails_no_read_and_every_change() {
    for kind in [ErrorKind::Unavailable, ErrorKind::Timeout, ErrorKind::Refused, ErrorKind::Protocol] {
        let cache = Cache::builder(FailingBackend(kind)).build();
        assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
        assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
        assert_eq!(cache.get::<u32, _, _>("k", group("g")).await, None);
        assert_eq!(
            cache.get_many::<u32, _, _, _>([("k", group("g")), ("l", group("g"))]).await,
            [None, None]
        );
        assert_eq!(cache.invalidate(group("g")).await.unwrap_err().kind(), kind);
        assert_eq!(cache.delete("k").await.unwrap_err().kind(), kind);
        let inserted = cache.insert("k", group("g"), || async { Ok::<_, Error>(1) }).await;
        assert_eq!(inserted.unwrap_err().kind(), kind);
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.stores, stats.invalidations, stats.deletes), (0, 0, 0, 0));
        assert_eq!(stats.invalidation_failures, 1);
        assert_eq!(stats.misses_timeout + stats.misses_unavailable, 5);
    }
}

#[tokio::test]
async fn the_error_of_the_loader_is_returned_unchanged() {
    let (backend, cache) = scripted();
    for broken in [false, true] {
        if broken {
            backend.always(Operation::Lookup, Step::Fail(ErrorKind::Unavailable));
        }
        let read = cache.get_or_load("k", group("g"), || async { Err::<u32, _>("no such row") }).await;
        assert_eq!(read, Err("no such row"));
    }
}

#[tokio::test]
async fn a_store_that_fails_and_recovers_serves_nothing_that_was_invalidated_meanwhile() {
    let (backend, cache) = scripted();
    load(&cache, "k", group("g"), 1).await;
    backend.next(Operation::Lookup, Step::Fail(ErrorKind::Unavailable));
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2, "loaded, although there is an entry");
    assert_eq!(load(&cache, "k", group("g"), 3).await, 1, "the entry is still valid");
    backend.next(Operation::Bump, Step::Fail(ErrorKind::Unavailable));
    cache.invalidate(group("g")).await.unwrap_err();
    cache.invalidate(group("g")).await.unwrap();
    assert_eq!(load(&cache, "k", group("g"), 4).await, 4);
}

#[tokio::test]
async fn a_value_that_cannot_be_stored_is_served_and_counted() {
    let (backend, cache) = scripted();
    backend.next(Operation::Store, Step::Fail(ErrorKind::Capacity));
    assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
    settle().await;
    assert_eq!(cache.stats().store_failures, 1);
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_delays_a_read_by_the_read_time_limit_in_total() {
    for operation in [Operation::Lookup, Operation::Mint] {
        let (backend, cache) = scripted();
        backend.always(operation, Step::Hang);
        let began = Instant::now();
        assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
        assert_eq!(began.elapsed(), READ_LIMIT, "{operation:?} hangs");
        assert_eq!(cache.stats().misses_timeout, 1);
    }
    let (backend, cache) = scripted();
    backend.always(Operation::LookupMany, Step::Hang);
    let began = Instant::now();
    assert_eq!(cache.get_many::<u32, _, _, _>([("k", group("g")), ("l", group("g"))]).await, [None, None]);
    assert_eq!(began.elapsed(), READ_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_beyond_the_range_of_the_clock_is_no_limit() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).read_time_limit(Duration::MAX).build();
    assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
    let slow = Gate::new();
    backend.next(Operation::Lookup, Step::WaitBefore(Arc::clone(&slow)));
    let reader = tokio::spawn(async move { load(&cache, "k", group("g"), 2).await });
    slow.reached().await;
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    slow.open();
    assert_eq!(reader.await.unwrap(), 1);
}

/// A lookup that takes half of the time leaves the other half for the mint.
#[tokio::test(start_paused = true)]
async fn the_round_trips_of_a_read_share_the_read_time_limit() {
    let (backend, cache) = scripted();
    let slow = Gate::new();
    backend.next(Operation::Lookup, Step::WaitBefore(Arc::clone(&slow)));
    backend.next(Operation::Mint, Step::Hang);
    let began = Instant::now();
    let reader = tokio::spawn({
        let cache = cache.clone();
        async move { load(&cache, "k", group("g"), 1).await }
    });
    slow.reached().await;
    tokio::time::sleep(READ_LIMIT / 2).await;
    slow.open();
    assert_eq!(reader.await.unwrap(), 1);
    assert_eq!(began.elapsed(), READ_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_follower_waits_for_the_store_no_longer_than_the_time_limit() {
    let (backend, cache) = scripted();
    let gate = Gate::new();
    let leader = tokio::spawn({
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        async move {
            load_with(&cache, "k", group("g"), || async move {
                depend(group("discovered")).await;
                gate.pass().await;
                1
            })
            .await
        }
    });
    gate.reached().await;
    let reader = tokio::spawn({
        let cache = cache.clone();
        async move { load(&cache, "k", group("g"), 2).await }
    });
    settle().await;
    // The time limit is for the store, not for the loader.
    tokio::time::sleep(10 * READ_LIMIT).await;
    backend.always(Operation::Lookup, Step::Hang);
    let began = Instant::now();
    gate.open();
    assert_eq!(leader.await.unwrap(), 1);
    assert_eq!(reader.await.unwrap(), 2);
    assert_eq!(began.elapsed(), READ_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_reader_does_not_wait_for_its_value_to_be_stored() {
    let (backend, cache) = scripted();
    backend.next(Operation::Store, Step::Hang);
    let began = Instant::now();
    assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
    assert_eq!(began.elapsed(), Duration::ZERO);
    tokio::time::sleep(WRITE_LIMIT).await;
    settle().await;
    assert_eq!(cache.stats().store_failures, 1, "cancelled after the write time limit");
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_the_store_does_not_acknowledge_in_time_is_an_error() {
    let (backend, cache) = scripted();
    for operation in [Operation::Bump, Operation::Delete] {
        backend.always(operation, Step::Hang);
    }
    let began = Instant::now();
    assert_eq!(cache.invalidate(group("g")).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(began.elapsed(), WRITE_LIMIT);
    assert_eq!(cache.delete("k").await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(began.elapsed(), 2 * WRITE_LIMIT);
    assert_eq!(cache.stats().invalidation_failures, 1);
}

#[tokio::test]
async fn a_panic_in_the_store_reaches_the_caller_of_invalidate() {
    let (backend, cache) = scripted();
    load(&cache, "k", group("g"), 1).await;
    backend.next(Operation::Bump, Step::Panic);
    let caller = tokio::spawn(cache.invalidate(group("g")));
    assert!(soon(caller).await.unwrap_err().is_panic());
}

#[tokio::test]
async fn an_invalidation_continues_when_its_caller_is_cancelled() {
    let (backend, cache) = scripted();
    load(&cache, "k", group("g"), 1).await;
    let gate = Gate::new();
    backend.next(Operation::Bump, Step::WaitBefore(Arc::clone(&gate)));
    let caller = tokio::spawn(cache.invalidate(group("g")));
    gate.reached().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    gate.open();
    settle().await;
    assert_eq!(cache.stats().invalidations, 1);
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
}

#[tokio::test]
async fn a_store_that_returns_too_few_lookups_validates_none() {
    let backend = PlainBackend::with_bug(Bug::BatchLeavesOutMisses);
    let cache = Cache::builder(backend).build();
    load(&cache, "b", group("g"), 2).await;
    let address = |key| Address { key: Key::of(key).unwrap(), groups: group("g") };
    let found = cache.find_many(&[address("a"), address("b")], |_| Some(())).await;
    assert_eq!(found, [Err(Miss::Unavailable); 2]);
}

#[tokio::test]
async fn a_store_that_returns_lookups_in_the_wrong_order_serves_no_value_of_another_key() {
    let backend = PlainBackend::with_bug(Bug::BatchOutOfOrder);
    let cache = Cache::builder(backend).build();
    load(&cache, "a", group("g"), 1).await;
    load(&cache, "b", group("g"), 2).await;
    let found = cache.get_many::<u32, _, _, _>([("a", group("g")), ("b", group("g"))]).await;
    assert_eq!(found, [None, None]);
}
