//! Operations on values, and the counters.

use std::convert::Infallible;

use groupcache_conformance::doubles::{CountingBackend, Counts, PlainBackend};
use groupcache_core::{Address, Error, Key, Miss, Stats};
use serde::{Deserialize, Serialize};

use crate::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Book {
    title: String,
    #[serde(default)]
    pages: u32,
}

#[tokio::test]
async fn what_was_inserted_is_found_and_what_was_deleted_is_not() {
    let cache = memory();
    assert_eq!(cache.get::<u32, _, _>("k", group("g")).await, None);
    let value = cache.insert("k", group("g"), || async { Ok::<_, Error>(1) }).await.unwrap();
    assert_eq!(value, 1);
    assert_eq!(cache.get("k", group("g")).await, Some(1));
    cache.insert("k", group("g"), || async { Ok::<_, Error>(2) }).await.unwrap();
    assert_eq!(cache.get("k", group("g")).await, Some(2));
    cache.delete("k").await.unwrap();
    cache.delete("k").await.unwrap();
    assert_eq!(cache.get::<u32, _, _>("k", group("g")).await, None);
}

#[tokio::test]
async fn several_values_are_found_in_order_in_one_round_trip() {
    let backend = CountingBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    for key in [1_u32, 3, 5] {
        cache.insert(&key, group("g"), || async move { Ok::<_, Error>(key * 10) }).await.unwrap();
    }
    let counts = backend
        .counting(async {
            let found = cache.get_many((0..7).rev().map(|key: u32| (key, group("g")))).await;
            assert_eq!(found, [None, Some(50_u32), None, Some(30), None, Some(10), None]);
        })
        .await;
    assert_eq!(counts, Counts { lookups_of_many: 1, ..Counts::default() });
    assert_eq!(cache.get_many::<u32, u32, Groups, _>([]).await, []);
}

#[tokio::test]
async fn keys_of_different_types_are_distinct() {
    let cache = memory();
    cache.insert(&1, group("g"), || async { Ok::<_, Error>(1) }).await.unwrap();
    cache.insert("1", group("g"), || async { Ok::<_, Error>(2) }).await.unwrap();
    cache.insert(&("1", "1"), group("g"), || async { Ok::<_, Error>(3) }).await.unwrap();
    cache.insert("11", group("g"), || async { Ok::<_, Error>(4) }).await.unwrap();
    cache.insert("", group("g"), || async { Ok::<_, Error>(5) }).await.unwrap();
    assert_eq!(cache.get(&1, group("g")).await, Some(1));
    assert_eq!(cache.get("1", group("g")).await, Some(2));
    assert_eq!(cache.get(&("1", "1"), group("g")).await, Some(3));
    assert_eq!(cache.get("11", group("g")).await, Some(4));
    assert_eq!(cache.get("", group("g")).await, Some(5));
}

#[tokio::test]
async fn a_field_added_with_a_default_reads_old_values() {
    #[derive(Serialize, Deserialize)]
    struct OldBook {
        title: String,
    }
    let cache = memory();
    let old = || async { Ok::<_, Error>(OldBook { title: "Emma".into() }) };
    cache.insert("k", group("g"), old).await.unwrap();
    assert_eq!(cache.get("k", group("g")).await, Some(Book { title: "Emma".into(), pages: 0 }));
}

#[tokio::test]
async fn a_value_of_another_type_is_a_counted_miss_and_is_replaced() {
    let cache = memory();
    load(&cache, "k", group("g"), 1).await;
    assert_eq!(cache.get::<Book, _, _>("k", group("g")).await, None);
    assert_eq!(cache.stats().misses_undecodable, 1);
    let book = || async { Ok::<_, Infallible>(Book { title: "Emma".into(), pages: 474 }) };
    let read = cache.get_or_load("k", group("g"), book).await.unwrap();
    assert_eq!(read.pages, 474);
    assert_eq!(cache.stats().misses_undecodable, 2);
    assert_eq!(cache.get::<Book, _, _>("k", group("g")).await, Some(read));
}

#[tokio::test]
async fn bytes_that_are_no_entry_are_a_counted_miss_and_are_replaced() {
    let backend = PlainBackend::new();
    let cache = Cache::builder(backend.clone()).build();
    load(&cache, "k", group("g"), 1).await;
    backend.corrupt(&Key::of("k").unwrap());
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
    assert_eq!(cache.stats().misses_undecodable, 1);
    assert_eq!(load(&cache, "k", group("g"), 3).await, 2);
}

#[tokio::test]
async fn a_value_that_cannot_be_serialized_is_served_and_not_stored() {
    #[derive(Deserialize)]
    struct Unserializable;
    impl Serialize for Unserializable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("the test fails here"))
        }
    }
    let cache = memory();
    for _ in 0..2 {
        cache.get_or_load("k", group("g"), || async { Ok::<_, Infallible>(Unserializable) }).await.unwrap();
    }
    assert_eq!((cache.stats().loads, cache.stats().loads_not_stored), (2, 2));
    assert!(cache.insert("k", group("g"), || async { Ok::<_, Error>(Unserializable) }).await.is_err());
}

#[tokio::test]
async fn a_value_whose_key_cannot_be_serialized_is_loaded_and_not_stored() {
    struct Unserializable;
    impl Serialize for Unserializable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("the test fails here"))
        }
    }
    let cache = memory();
    for value in 1..3_u32 {
        let loader = || async move { Ok::<_, Infallible>(value) };
        assert_eq!(cache.get_or_load(&Unserializable, group("g"), loader).await.unwrap(), value);
    }
    assert_eq!(cache.get::<u32, _, _>(&Unserializable, group("g")).await, None);
    let many =
        cache.get_many::<u32, _, _, _>([(Unserializable, group("g")), (Unserializable, group("g"))]).await;
    assert_eq!(many, [None, None]);
    cache.delete(&Unserializable).await.unwrap_err();
}

#[tokio::test]
async fn find_returns_the_reason_of_a_miss() {
    let backend = PlainBackend::new();
    let cache = Cache::builder(backend.clone()).build();
    let address = Address { key: Key::of("k").unwrap(), groups: group("g") };
    let find = || cache.find(&address, |_| Some(()));
    assert_eq!(find().await, Err(Miss::Absent));
    load(&cache, "k", group("g"), 1).await;
    assert_eq!(find().await, Ok(()));
    cache.invalidate(group("g")).await.unwrap();
    assert_eq!(find().await, Err(Miss::Invalidated));
    backend.lose_group(&Group::new("g"));
    assert_eq!(find().await, Err(Miss::GroupMissing));
    backend.corrupt(&address.key);
    assert_eq!(find().await, Err(Miss::Undecodable));
    backend.evict(&address.key);
    assert_eq!(find().await, Err(Miss::Absent));
}

#[tokio::test]
async fn a_cache_reports_its_backend_and_its_loads_in_flight() {
    let cache = memory();
    assert_eq!(cache.backend_name(), "memory");
    let gate = Gate::new();
    let one = load_behind(&cache, "one", group("g"), &gate, 1);
    gate.reached().await;
    assert_eq!(cache.loads_in_flight(), 1);
    let other = load_behind(&cache, "other", group("g"), &gate, 2);
    gate.reached().await;
    assert_eq!(cache.loads_in_flight(), 2);
    gate.open();
    assert_eq!((soon(one).await.unwrap(), soon(other).await.unwrap()), (1, 2));
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test]
async fn a_valid_entry_in_this_process_is_read_by_its_key_alone() {
    let cache = memory();
    let now = || cache.read_now_by_key(&Key::of("k").unwrap(), |entry| Some(entry.groups().clone()));
    assert_eq!(now(), None);
    load(&cache, "k", group("g"), 1).await;
    assert_eq!(now(), Some(group("g")));
    assert_eq!(cache.stats().hits, 1);
    cache.invalidate(group("g")).await.unwrap();
    assert_eq!(now(), None);
}

#[tokio::test]
async fn the_counters_count_what_happened() {
    let cache = memory();
    load(&cache, "k", group("g"), 1).await;
    load(&cache, "k", group("g"), 1).await;
    cache.get::<u32, _, _>("k", group("g")).await;
    cache.invalidate(groups(["g", "h"])).await.unwrap();
    load(&cache, "k", group("g"), 1).await;
    cache.get_or_load("k2", group("g"), || async { Err::<u32, _>(()) }).await.unwrap_err();
    cache.delete("k").await.unwrap();
    let mut expected = Stats::default();
    expected.hits = 2;
    expected.misses_absent = 2;
    expected.misses_invalidated = 1;
    expected.loads = 3;
    expected.load_failures = 1;
    expected.stores = 2;
    expected.mints = 1;
    expected.invalidations = 1;
    expected.invalidated_groups = 2;
    expected.deletes = 1;
    assert_eq!(cache.stats(), expected);
    assert_eq!(cache.stats().misses(), 3);
}
