//! How long loads and stores may take, and how a load goes on after its reader was dropped.

use std::sync::atomic::{AtomicUsize, Ordering};

use groupcache_conformance::doubles::{Operation, PlainBackend, ScriptedBackend, Step};
use groupcache_core::{EntryOptions, Error, ErrorKind, LoadContext, ManualClock};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::*;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

fn with(options: EntryOptions) -> Cache<MemoryBackend> {
    Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).options(options).build()
}

/// Returns a cache with an expired entry of 1 at `k`.
async fn with_expired(options: EntryOptions) -> Cache<MemoryBackend> {
    let clock = ManualClock::new();
    let options = options.time_to_live(10 * SECOND).stale_if_error(60 * SECOND);
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let cache = Cache::builder(backend).clock(clock.clone()).options(options).build();
    load(&cache, "k", group("g"), 1).await;
    clock.advance(11 * SECOND);
    cache
}

/// Reads `k`, whose load takes `time`.
async fn load_slowly(cache: &Cache<MemoryBackend>, time: Duration, value: u32) -> u32 {
    load_with(cache, "k", group("g"), || async move {
        sleep(time).await;
        value
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn at_the_soft_timeout_every_reader_gets_the_expired_value() {
    let cache = with_expired(EntryOptions::new().load_soft_timeout(50 * MILLISECOND)).await;
    let began = Instant::now();
    let readers = (0..10).map(|_| load_slowly(&cache, SECOND, 2));
    assert_eq!(futures_util::future::join_all(readers).await, [1; 10]);
    assert_eq!(began.elapsed(), 50 * MILLISECOND);
    let stats = cache.stats();
    assert_eq!((stats.load_timeouts, stats.stale_if_error, stats.misses_expired), (10, 10, 10));
    assert_eq!(cache.loads_in_flight(), 0);
    assert_eq!(load_slowly(&cache, 10 * MILLISECOND, 3).await, 3);
}

#[tokio::test(start_paused = true)]
async fn without_an_expired_value_the_soft_timeout_has_no_effect() {
    let cache = with(EntryOptions::new().load_soft_timeout(50 * MILLISECOND));
    assert_eq!(load_slowly(&cache, SECOND, 2).await, 2);
    assert_eq!(cache.stats().load_timeouts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_goes_on_after_the_soft_timeout_is_there_for_the_next_reader() {
    let cache = with_expired(EntryOptions::new().load_soft_timeout(50 * MILLISECOND)).await;
    let read = |value| {
        cache.get_or_revalidate("k", group("g"), async move || {
            sleep(SECOND).await;
            Ok::<u32, Infallible>(value)
        })
    };
    assert_eq!(read(2).await, Ok(1));
    sleep(2 * SECOND).await;
    assert_eq!(read(3).await, Ok(2));
    assert_eq!((cache.stats().loads, cache.stats().loads_detached), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn at_the_hard_timeout_a_read_fails_whoever_loads() {
    let cache = with(EntryOptions::new().load_hard_timeout(50 * MILLISECOND));
    let read = || async {
        let load = async || {
            sleep(SECOND).await;
            Ok::<u32, Error>(1)
        };
        cache.try_get_or_load("k", group("g"), load).await.map_err(|error| error.kind())
    };
    let (one, other) = tokio::join!(read(), read());
    assert_eq!([one, other], [Err(ErrorKind::LoadTimeout); 2]);
    let inserted = cache.insert("k", group("g"), async || {
        sleep(SECOND).await;
        Ok::<u32, Error>(1)
    });
    assert_eq!(inserted.await.unwrap_err().kind(), ErrorKind::LoadTimeout);
    assert_eq!((cache.stats().load_timeouts, cache.loads_in_flight()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn at_the_hard_timeout_an_expired_value_is_served() {
    let cache = with_expired(EntryOptions::new().load_hard_timeout(50 * MILLISECOND)).await;
    assert_eq!(load_slowly(&cache, SECOND, 2).await, 1);
}

/// Clients give up after 100 ms, and the load takes 80. The first one leaves at 75 ms.
#[tokio::test(start_paused = true)]
async fn a_load_whose_reader_leaves_goes_on_for_the_others() {
    let cache = memory();
    let mut clients = JoinSet::new();
    for client in 0..60 {
        let cache = cache.clone();
        let patience = if client == 0 { 75 } else { 100 };
        clients.spawn(async move {
            let load = async || {
                sleep(80 * MILLISECOND).await;
                Ok::<u32, Infallible>(7)
            };
            timeout(patience * MILLISECOND, cache.get_or_revalidate("k", group("g"), load)).await.is_ok()
        });
        sleep(10 * MILLISECOND).await;
    }
    let answered = clients.join_all().await.into_iter().filter(|answered| *answered).count();
    assert_eq!((answered, cache.stats().loads), (59, 1));
    assert_eq!((cache.stats().loads_detached, cache.stats().loads_cancelled), (1, 0));
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn loads_without_readers_are_bounded_in_number_and_time() {
    let options = EntryOptions::new().detached_load_time_limit(SECOND);
    let cache =
        Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).options(options).detached_loads_max(2).build();
    for key in 0..5 {
        let load = async || {
            sleep(60 * SECOND).await;
            Ok::<u32, Infallible>(7)
        };
        timeout(MILLISECOND, cache.get_or_revalidate(&key, group("g"), load)).await.unwrap_err();
    }
    assert_eq!((cache.stats().loads_detached, cache.stats().loads_cancelled), (2, 3));
    assert_eq!(cache.loads_in_flight(), 2);
    sleep(2 * SECOND).await;
    assert_eq!((cache.stats().loads_cancelled, cache.loads_in_flight()), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn with_a_limit_of_zero_a_load_is_cancelled_with_its_reader() {
    let cache = with(EntryOptions::new().detached_load_time_limit(Duration::ZERO));
    let load = async || {
        sleep(SECOND).await;
        Ok::<u32, Infallible>(7)
    };
    timeout(MILLISECOND, cache.get_or_revalidate("k", group("g"), load)).await.unwrap_err();
    assert_eq!((cache.stats().loads_detached, cache.stats().loads_cancelled), (0, 1));
}

/// Only the reader that runs the loader leaves something to go on.
#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_and_leaves_does_not_load() {
    let cache = memory();
    let gate = Gate::new();
    let leader = load_behind(&cache, "k", group("g"), &gate, 1);
    gate.reached().await;
    let load = async || Ok::<u32, Infallible>(2);
    timeout(MILLISECOND, cache.get_or_revalidate("k", group("g"), load)).await.unwrap_err();
    gate.open();
    assert_eq!(leader.await.unwrap(), 1);
    assert_eq!((cache.stats().loads, cache.stats().loads_detached), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn stores_in_the_background_are_bounded() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    backend.always(Operation::Store, Step::Hang);
    let cache = Cache::builder(backend).background_stores_max(10).build();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for key in 0..500_u32 {
        load(&cache, &key.to_string(), group("g"), key).await;
    }
    assert!(tasks() <= before + 10, "{} tasks", tasks());
    assert_eq!((cache.stats().stores_skipped, cache.loads_in_flight()), (490, 10));
    sleep(6 * SECOND).await;
    assert_eq!((cache.stats().store_failures, cache.loads_in_flight()), (10, 0));
}

#[tokio::test]
async fn no_earlier_load_stores_its_value_after_an_insert() {
    let cache = memory();
    let gate = Gate::new();
    let flight = load_behind(&cache, "k", group("g"), &gate, 1);
    gate.reached().await;
    cache.insert("k", group("g"), async || Ok::<u32, Error>(2)).await.unwrap();
    assert_eq!(load(&cache, "k", group("g"), 9).await, 2);
    gate.open();
    assert_eq!(flight.await.unwrap(), 1);
    settle().await;
    assert_eq!(load(&cache, "k", group("g"), 9).await, 2);
    assert_eq!(cache.stats().stores_superseded, 1);
}

/// The store of an earlier load is in flight already: the insert waits for it.
#[tokio::test]
async fn an_insert_is_stored_after_an_earlier_load_that_is_being_stored() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    let storing = Gate::new();
    backend.next(Operation::Store, Step::WaitBefore(Arc::clone(&storing)));
    load(&cache, "k", group("g"), 1).await;
    storing.reached().await;
    let insert = tokio::spawn({
        let cache = cache.clone();
        async move { cache.insert("k", group("g"), async || Ok::<u32, Error>(2)).await }
    });
    settle().await;
    assert!(!insert.is_finished());
    storing.open();
    insert.await.unwrap().unwrap();
    assert_eq!(load(&cache, "k", group("g"), 9).await, 2);
}

#[tokio::test]
async fn an_insert_knows_the_groups_that_were_found_too_late_before() {
    let [outer, inner] = [memory(), memory()];
    let insert = || {
        let inner = inner.clone();
        outer.insert("k", group("outer"), || async move {
            let value = load_with(&inner, "inner", group("inner"), || async {
                groupcache_core::depend(group("deep")).await;
                1
            });
            Ok::<u32, Error>(value.await)
        })
    };
    let error = insert().await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::LateGroups, true));
    assert_eq!(insert().await.unwrap(), 1);
    assert_eq!(outer.get("k", group("outer")).await, Some(1));
    outer.invalidate(group("deep")).await.unwrap();
    assert_eq!(outer.get::<u32, _, _>("k", group("outer")).await, None);
}

#[tokio::test]
async fn an_insert_of_a_private_value_says_so() {
    let load = async || {
        LoadContext::current().unwrap().do_not_store();
        Ok::<u32, Error>(1)
    };
    let error = memory().insert("k", group("g"), load).await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Private, false));
}

#[tokio::test(start_paused = true)]
async fn readers_of_a_failed_load_share_its_error() {
    let cache = memory();
    let loads = AtomicUsize::new(0);
    let read = |_| {
        let loads = &loads;
        cache.try_get_or_load("k", group("g"), move || async move {
            loads.fetch_add(1, Ordering::SeqCst);
            sleep(100 * MILLISECOND).await;
            Err::<u32, _>(Error::new(ErrorKind::Refused, "database"))
        })
    };
    let errors = futures_util::future::join_all((0..1000).map(read)).await;
    assert!(errors.iter().all(|error| error.as_ref().unwrap_err().kind() == ErrorKind::Refused));
    assert_eq!((loads.load(Ordering::SeqCst), cache.stats().load_failures), (1, 1));
    // A failure is not stored, and a value is.
    for _ in 0..2 {
        assert_eq!(cache.try_get_or_load("k", group("g"), async || Ok::<u32, Error>(2)).await.unwrap(), 2);
    }
    assert_eq!(cache.stats().hits, 1);
}

/// A backend that is pending once, on a runtime without timers.
#[test]
fn without_timers_a_read_loads_and_a_change_says_why() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let backend = ScriptedBackend::new(PlainBackend::new());
    let gate = Gate::new();
    backend.next(Operation::Lookup, Step::WaitBefore(Arc::clone(&gate)));
    backend.next(Operation::Bump, Step::WaitBefore(gate));
    let cache = Cache::builder(backend).build();
    runtime.block_on(async {
        assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
        let error = cache.invalidate(group("g")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("enable_time"), "{error}");
    });
}
