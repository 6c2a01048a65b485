//! A failing store fails no read and serves nothing unvalidated; a failing invalidation is an error.

use groupcache_core::{Address, Error, ErrorKind, Key, Miss, depend};
use groupcache_tests::{FailingBackend, Operation, PlainBackend, ScriptedBackend, Step};
use tokio::time::Instant;

use crate::*;

const SOFT: Duration = Duration::from_millis(100);
const HARD: Duration = Duration::from_millis(2000);

fn scripted() -> (ScriptedBackend<PlainBackend>, Cache<ScriptedBackend<PlainBackend>>) {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).read_time_limit(SOFT).write_time_limit(HARD).build();
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
async fn a_computations_own_error_is_returned_as_it_is() {
    let (backend, cache) = scripted();
    for broken in [false, true] {
        if broken {
            backend.always(Operation::Lookup, Step::Fail(ErrorKind::Unavailable));
        }
        let read = cache.get_or_load("k", group("g"), || async { Err::<u32, _>("its own") }).await;
        assert_eq!(read, Err("its own"));
    }
}

#[tokio::test]
async fn a_store_that_fails_and_recovers_serves_nothing_that_was_invalidated_meanwhile() {
    let (backend, cache) = scripted();
    load(&cache, "k", group("g"), 1).await;
    backend.next(Operation::Lookup, Step::Fail(ErrorKind::Unavailable));
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2, "computed, though an entry is there");
    assert_eq!(load(&cache, "k", group("g"), 3).await, 1, "valid as ever");
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
async fn a_store_that_hangs_delays_a_read_by_the_soft_limit_in_all() {
    for operation in [Operation::Lookup, Operation::Mint] {
        let (backend, cache) = scripted();
        backend.always(operation, Step::Hang);
        let began = Instant::now();
        assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
        assert_eq!(began.elapsed(), SOFT, "{operation:?} hangs");
        assert_eq!(cache.stats().misses_timeout, 1);
    }
    let (backend, cache) = scripted();
    backend.always(Operation::LookupMany, Step::Hang);
    let began = Instant::now();
    assert_eq!(cache.get_many::<u32, _, _, _>([("k", group("g")), ("l", group("g"))]).await, [None, None]);
    assert_eq!(began.elapsed(), SOFT);
}

#[tokio::test(start_paused = true)]
async fn a_limit_beyond_all_clocks_is_none() {
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

/// Half the time for the lookup leaves half of it for the mint.
#[tokio::test(start_paused = true)]
async fn the_round_trips_of_a_read_share_the_soft_limit() {
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
    tokio::time::sleep(SOFT / 2).await;
    slow.open();
    assert_eq!(reader.await.unwrap(), 1);
    assert_eq!(began.elapsed(), SOFT);
}

#[tokio::test(start_paused = true)]
async fn one_who_waited_for_another_reader_still_waits_for_the_store_no_longer_than_the_limit() {
    let (backend, cache) = scripted();
    let gate = Gate::new();
    let leader = tokio::spawn({
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        async move {
            load_with(&cache, "k", group("g"), || async move {
                depend(group("found out")).await;
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
    // A computation may take longer than the store may.
    tokio::time::sleep(10 * SOFT).await;
    backend.always(Operation::Lookup, Step::Hang);
    let began = Instant::now();
    gate.open();
    assert_eq!(leader.await.unwrap(), 1);
    assert_eq!(reader.await.unwrap(), 2);
    assert_eq!(began.elapsed(), SOFT);
}

#[tokio::test(start_paused = true)]
async fn a_reader_does_not_wait_for_its_value_to_be_stored() {
    let (backend, cache) = scripted();
    backend.next(Operation::Store, Step::Hang);
    let began = Instant::now();
    assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
    assert_eq!(began.elapsed(), Duration::ZERO);
    tokio::time::sleep(HARD).await;
    settle().await;
    assert_eq!(cache.stats().store_failures, 1, "given up after the hard limit");
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
    assert_eq!(began.elapsed(), HARD);
    assert_eq!(cache.delete("k").await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(began.elapsed(), 2 * HARD);
    assert_eq!(cache.stats().invalidation_failures, 1);
}

#[tokio::test]
async fn who_invalidates_hears_of_a_panic_in_the_store() {
    let (backend, cache) = scripted();
    load(&cache, "k", group("g"), 1).await;
    backend.next(Operation::Bump, Step::Panic);
    let caller = tokio::spawn(cache.invalidate(group("g")));
    assert!(soon(caller).await.unwrap_err().is_panic());
}

#[tokio::test]
async fn an_invalidation_goes_on_when_its_caller_goes_away() {
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
async fn a_store_that_answers_fewer_questions_than_asked_validates_none() {
    let backend = PlainBackend::with_bug(groupcache_tests::Bug::BatchLeavesOutMisses);
    let cache = Cache::builder(backend).build();
    load(&cache, "b", group("g"), 2).await;
    let address = |key| Address { key: Key::of(key).unwrap(), groups: group("g") };
    let found = cache.find_many(&[address("a"), address("b")], |_| Some(())).await;
    assert_eq!(found, [Err(Miss::Unavailable); 2]);
}

#[tokio::test]
async fn a_store_that_answers_in_the_wrong_order_serves_nobody_the_value_of_another() {
    let backend = PlainBackend::with_bug(groupcache_tests::Bug::BatchOutOfOrder);
    let cache = Cache::builder(backend).build();
    load(&cache, "a", group("g"), 1).await;
    load(&cache, "b", group("g"), 2).await;
    let found = cache.get_many::<u32, _, _, _>([("a", group("g")), ("b", group("g"))]).await;
    assert_eq!(found, [None, None]);
}
