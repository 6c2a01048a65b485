//! Clearing a whole cache.

use std::convert::Infallible;

use groupcache_conformance::doubles::{CountingBackend, Counts, PlainBackend};
use groupcache_core::{Error, ErrorKind, depend};

use crate::*;

/// A cache of each kind that can be cleared.
fn both() -> [Cache; 2] {
    let plain = groupcache_core::BoxBackend::new(PlainBackend::new());
    let memory = groupcache_core::BoxBackend::new(MemoryBackend::with_max_bytes(1 << 20));
    [plain, memory].map(|backend| Cache::builder(backend).clearable().build())
}

#[tokio::test]
async fn every_entry_is_stale_after_a_clear_however_it_was_stored() {
    for cache in both() {
        for value in [1, 2] {
            assert_eq!(load(&cache, "a", group("g"), value).await, value);
            assert_eq!(load(&cache, "ungrouped", Groups::none(), value).await, value);
            let insert = || async move { Ok::<_, Error>(value) };
            assert_eq!(cache.insert("inserted", group("g"), insert).await.unwrap(), value);
            let found = load_with(&cache, "found", group("g"), || async {
                depend(group("found")).await;
                value
            });
            assert_eq!(found.await, value);
            let many = |keys: Vec<&'static str>| async move {
                Ok::<_, Infallible>(keys.into_iter().map(|key| (key, value)).collect::<Vec<_>>())
            };
            let keys = [("many", Groups::none()), ("a", group("g"))];
            assert_eq!(cache.get_many_or_load(keys, many).await, Ok(vec![Some(value); 2]));
            let all = ["a", "ungrouped", "inserted", "found", "many"];
            for expected in [Some(value), None] {
                for key in all {
                    assert_eq!(cache.get::<u32, _, _>(key, Groups::none()).await, expected, "{key}");
                }
                let found: Vec<Option<u32>> = cache.get_many(all.map(|key| (key, Groups::none()))).await;
                assert_eq!(found, vec![expected; all.len()]);
                cache.clear().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_clear_is_one_round_trip_and_a_hit_no_more_than_without() {
    let backend = CountingBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).clearable().build();
    let hit = async || assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
    let miss = backend.counting(hit()).await;
    assert_eq!(miss, Counts { lookups: 1, mints: 1, stores: 1, ..Counts::default() });
    assert_eq!(backend.counting(hit()).await, Counts { lookups: 1, ..Counts::default() });
    let clear = backend.counting(async { cache.clear().await.unwrap() }).await;
    assert_eq!(clear, Counts { bumps: 1, ..Counts::default() });
    let miss = backend.counting(hit()).await;
    assert_eq!(miss, Counts { lookups: 1, stores: 1, ..Counts::default() });
    assert_eq!(cache.stats().discovered_groups_bytes, 0, "nothing has to be remembered for each key");
}

#[tokio::test]
async fn a_clear_reaches_other_processes_and_loads_in_flight() {
    let backend = PlainBackend::new();
    let cache = || Cache::builder(backend.clone()).clearable().build();
    let (one, other, gate) = (cache(), cache(), Gate::new());
    load(&one, "k", group("g"), 1).await;
    let loading = load_behind(&one, "slow", group("g"), &gate, 1);
    gate.reached().await;
    other.clear().await.unwrap();
    gate.open();
    assert_eq!(soon(loading).await.unwrap(), 1);
    for key in ["k", "slow"] {
        assert_eq!(load(&one, key, group("g"), 2).await, 2);
    }
}

#[tokio::test]
async fn entries_of_a_cache_that_cannot_be_cleared_are_misses_of_one_that_can() {
    let plain = PlainBackend::new();
    let memory = MemoryBackend::with_max_bytes(1 << 20);
    async fn check<B: Backend + Clone>(backend: B) {
        let without = Cache::builder(backend.clone()).build();
        load(&without, "k", group("g"), 1).await;
        let with = Cache::builder(backend).clearable().build();
        with.clear().await.unwrap();
        assert_eq!(with.get::<u32, _, _>("k", group("g")).await, None);
        assert_eq!(load(&with, "k", group("g"), 2).await, 2);
        assert_eq!(load(&without, "k", group("g"), 3).await, 2, "the other way round it is one more group");
        with.clear().await.unwrap();
        assert_eq!(load(&without, "k", group("g"), 3).await, 3);
    }
    check(plain).await;
    check(memory).await;
}

#[tokio::test]
async fn a_cache_that_is_not_clearable_says_so() {
    let cache = memory();
    load(&cache, "k", group("g"), 1).await;
    let error = cache.clear().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("`clearable`"), "{error}");
    assert_eq!(load(&cache, "k", group("g"), 2).await, 1);
}

#[tokio::test]
async fn a_value_around_another_one_is_cleared_with_it() {
    for cache in both() {
        let outer = async |value| {
            load_with(&cache, "outer", group("outer"), || load(&cache, "inner", group("inner"), value)).await
        };
        assert_eq!(outer(1).await, 1);
        assert_eq!(outer(2).await, 1);
        cache.clear().await.unwrap();
        assert_eq!(outer(3).await, 3);
    }
}
