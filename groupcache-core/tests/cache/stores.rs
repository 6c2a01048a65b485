//! Which loaded values the backend stores, and what the cache reports to readers and counters.

use std::convert::Infallible;

use groupcache_conformance::doubles::{Operation, PlainBackend, ScriptedBackend, Step};
use groupcache_core::{Address, EntryOptions, ErrorKind, Key, Loaded, ManualClock, Served};

use crate::*;

const SECOND: Duration = Duration::from_secs(1);

/// Loads a body of this many bytes, and returns whether the reader is told that it is stored.
async fn is_stored<B: Backend>(
    cache: &Cache<B>,
    bytes: usize,
    during: impl Future<Output = ()> + Send,
) -> bool {
    let address = Address { key: Key::of("k").unwrap(), groups: group("g") };
    let loader = || async {
        during.await;
        Ok::<_, Infallible>(Loaded::store((), vec![0; bytes].into()))
    };
    match cache.read(&address, |_| Some(()), loader).await.unwrap().served {
        Served::Loaded { stored, .. } => stored,
        Served::Entry(..) => panic!("a hit"),
    }
}

#[tokio::test]
async fn a_value_that_was_invalidated_meanwhile_is_reported_as_not_stored() {
    let cache = memory();
    let invalidate = async { cache.invalidate(group("g")).await.unwrap() };
    assert!(!is_stored(&cache, 10, invalidate).await);
    let stats = cache.stats();
    assert_eq!((stats.stores, stats.stores_outdated, stats.store_failures), (0, 1, 0));
    assert!(is_stored(&cache, 10, async {}).await);
    let stats = cache.stats();
    assert_eq!((stats.stores, stats.stores_outdated, stats.store_failures), (1, 1, 0));
}

#[tokio::test]
async fn a_value_that_is_too_large_is_reported_as_not_stored() {
    let cache = memory();
    assert!(!is_stored(&cache, 2 << 20, async {}).await);
    let stats = cache.stats();
    assert_eq!((stats.stores, stats.stores_outdated, stats.store_failures), (0, 0, 1));
}

#[tokio::test]
async fn a_value_whose_store_fails_is_reported_as_not_stored_and_one_on_its_way_as_stored() {
    let (backend, gate) = (ScriptedBackend::new(PlainBackend::new()), Gate::new());
    let cache = Cache::builder(backend.clone()).build();
    backend.next(Operation::Store, Step::Fail(ErrorKind::Unavailable));
    backend.next(Operation::Store, Step::WaitBefore(Arc::clone(&gate)));
    assert!(!is_stored(&cache, 10, async {}).await);
    assert!(is_stored(&cache, 10, async {}).await);
    assert_eq!(cache.stats().stores, 0, "not yet");
    gate.open();
    settle().await;
    assert_eq!(cache.stats().stores, 1);
}

#[tokio::test]
async fn a_value_that_grew_too_old_while_it_was_stored_is_not_served() {
    let (clock, gate) = (ManualClock::new(), Gate::new());
    let backend = ScriptedBackend::new(PlainBackend::with_clock(clock.clone()));
    let options = EntryOptions::new().time_to_live(10 * SECOND);
    let cache = Cache::builder(backend.clone()).clock(clock.clone()).options(options).build();
    backend.next(Operation::Store, Step::WaitBefore(Arc::clone(&gate)));
    assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
    clock.advance(9 * SECOND);
    assert_eq!(soon(load(&cache, "k", group("g"), 2)).await, 1, "shared, as it is being stored");
    clock.advance(SECOND);
    assert_eq!(soon(load(&cache, "k", group("g"), 2)).await, 2);
    gate.open();
    settle().await;
    assert_ne!(cache.get("k", group("g")).await, Some(1), "its time to live does not begin at the store");
    assert_eq!(cache.stats().stores, 2);
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test]
async fn a_value_that_is_too_old_keeps_no_reader_from_loading_while_its_store_hangs() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let options = EntryOptions::new().time_to_live(Duration::from_millis(20));
    let cache =
        Cache::builder(backend.clone()).options(options).write_time_limit(Duration::from_secs(60)).build();
    backend.next(Operation::Store, Step::Hang);
    assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
    assert_eq!(cache.loads_in_flight(), 1);
    let ended = async {
        while cache.loads_in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(ended).await;
    let readers: Vec<_> = (2..12)
        .map(|value| {
            let cache = cache.clone();
            tokio::spawn(async move {
                load_with(&cache, "k", group("g"), || async move {
                    tokio::task::yield_now().await;
                    value
                })
                .await
            })
        })
        .collect();
    for reader in readers {
        assert_ne!(soon(reader).await.unwrap(), 1);
    }
    assert_eq!(cache.stats().loads, 2, "the readers share one load");
}
