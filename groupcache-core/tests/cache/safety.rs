//! No read returns a value whose load began before an invalidation that was acknowledged before the read.

use groupcache_conformance::doubles::{
    CountingBackend, Counts, Operation, PlainBackend, ScriptedBackend, Step,
};
use groupcache_core::{Error, ErrorKind};

use crate::*;

#[tokio::test]
async fn an_invalidated_entry_is_loaded_again() {
    let cache = memory();
    assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
    assert_eq!(load(&cache, "k", group("g"), 2).await, 1);
    cache.invalidate(group("g")).await.unwrap();
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
}

#[tokio::test]
async fn any_one_of_several_groups_makes_an_entry_stale() {
    let all = ["a", "b", "c", "d", "e", "f"];
    for name in all {
        let cache = memory();
        load(&cache, "k", groups(all), 1).await;
        cache.invalidate(group(name)).await.unwrap();
        assert_eq!(load(&cache, "k", groups(all), 2).await, 2, "after {name} was invalidated");
    }
}

#[tokio::test]
async fn one_invalidation_makes_all_entries_of_all_its_groups_stale() {
    let cache = memory();
    for (key, name) in [("1", "a"), ("2", "a"), ("3", "b"), ("4", "c")] {
        load(&cache, key, group(name), 1).await;
    }
    cache.invalidate(groups(["a", "b"])).await.unwrap();
    for (key, name, now) in [("1", "a", 2), ("2", "a", 2), ("3", "b", 2), ("4", "c", 1)] {
        assert_eq!(load(&cache, key, group(name), 2).await, now, "{key} in {name}");
    }
}

#[tokio::test]
async fn other_groups_make_no_entry_stale() {
    let cache = memory();
    let book = |id: &str| Group::new("book").with("id", id);
    load(&cache, "k", book("5"), 1).await;
    let others = [
        Group::new("book"),
        Group::new("Book").with("id", "5"),
        book("50"),
        book(""),
        Group::new("book").with("id", "5").with("shelf", "1"),
        Group::new("book").with_null("id"),
        Group::new("book").with("i", "d5"),
        Group::new("bookid5"),
    ];
    for other in others {
        // Caches an entry of this group, so that the invalidation replaces a generation.
        load(&cache, &other.to_string(), other.clone(), 1).await;
        cache.invalidate(other.clone()).await.unwrap();
        assert_eq!(load(&cache, "k", book("5"), 2).await, 1, "after {other} was invalidated");
    }
}

/// Rule 2: the vector is known before the load reads its data.
#[tokio::test]
async fn an_invalidation_during_a_load_makes_its_entry_stale() {
    for warm in [false, true] {
        let cache = memory();
        if warm {
            load(&cache, "another entry of the group", group("g"), 0).await;
        }
        let gate = Gate::new();
        let reader = load_behind(&cache, "k", group("g"), &gate, 1);
        gate.reached().await;
        cache.invalidate(group("g")).await.unwrap();
        gate.open();
        assert_eq!(soon(reader).await.unwrap(), 1, "the read began before the invalidation");
        assert_eq!(load(&cache, "k", group("g"), 2).await, 2, "group in use before: {warm}");
    }
}

#[tokio::test]
async fn an_insert_is_stale_if_its_group_is_invalidated_while_it_loads() {
    let cache = memory();
    let gate = Gate::new();
    let writer = tokio::spawn({
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        async move {
            let loader = || async move {
                gate.pass().await;
                Ok::<u32, Error>(1)
            };
            cache.insert("k", group("g"), loader).await.unwrap();
        }
    });
    gate.reached().await;
    cache.invalidate(group("g")).await.unwrap();
    gate.open();
    soon(writer).await.unwrap();
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
}

#[tokio::test]
async fn generations_are_known_before_the_load_and_the_entry_is_stored_after_it() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    let seen = backend.clone();
    load_with(&cache, "k", group("g"), || async move {
        assert_eq!(seen.seen(), [Operation::Lookup, Operation::Mint]);
        1
    })
    .await;
    assert_eq!(backend.seen(), [Operation::Lookup, Operation::Mint, Operation::Store]);
}

/// Rule 1: a generation whose write was not acknowledged is never used.
#[tokio::test]
async fn a_value_loaded_without_an_acknowledged_mint_is_not_stored() {
    for step in [Step::Fail(ErrorKind::Unavailable), Step::LoseReply(ErrorKind::Timeout)] {
        let backend = ScriptedBackend::new(PlainBackend::new());
        let cache = Cache::builder(backend.clone()).build();
        backend.next(Operation::Mint, step.clone());
        assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
        assert!(!backend.seen().contains(&Operation::Store), "after {step:?}");
        assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
        assert_eq!(load(&cache, "k", group("g"), 3).await, 2);
    }
}

/// Rule 3: a missing generation is a miss, never "not invalidated yet".
#[tokio::test]
async fn an_entry_whose_generation_was_lost_is_a_miss_and_stays_one() {
    let backend = PlainBackend::new();
    let cache = Cache::builder(backend.clone()).build();
    load(&cache, "k", groups(["a", "b"]), 1).await;
    backend.lose_group(&Group::new("b"));
    assert_eq!(cache.get::<u32, _, _>("k", groups(["a", "b"])).await, None);
    // A load of another entry mints the group again, which must not revive the old entry.
    load(&cache, "another", group("b"), 1).await;
    assert_eq!(load(&cache, "k", groups(["a", "b"]), 2).await, 2);
}

#[tokio::test]
async fn an_entry_is_no_hit_for_a_read_that_names_more_groups() {
    let cache = memory();
    load(&cache, "k", group("a"), 1).await;
    load(&cache, "other", group("b"), 1).await;
    assert_eq!(load(&cache, "k", groups(["a", "b"]), 2).await, 2);
    assert_eq!(cache.stats().misses_groups_changed, 1);
    cache.invalidate(group("b")).await.unwrap();
    assert_eq!(load(&cache, "k", groups(["a", "b"]), 3).await, 3);
}

/// Rule 4: `Ok` comes after the effect.
#[tokio::test]
async fn an_invalidation_is_acknowledged_by_the_store_before_it_returns() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    let gate = Gate::new();
    backend.next(Operation::Bump, Step::WaitAfter(Arc::clone(&gate)));
    let invalidation = tokio::spawn(cache.invalidate(group("g")));
    gate.reached().await;
    settle().await;
    assert!(!invalidation.is_finished());
    gate.open();
    soon(invalidation).await.unwrap().unwrap();
}

#[tokio::test]
async fn invalidating_no_groups_makes_no_round_trip() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    cache.invalidate(Groups::none()).await.unwrap();
    assert_eq!(backend.seen(), []);
}

#[tokio::test]
async fn invalidating_groups_that_were_never_cached_stores_nothing() {
    let backend = PlainBackend::new();
    let cache = Cache::builder(backend.clone()).build();
    for id in 0..100 {
        cache.invalidate(Group::new("book").with("id", id)).await.unwrap();
    }
    assert_eq!(backend.size(), (0, 0));
}

#[tokio::test]
async fn an_entry_without_groups_is_a_hit_until_it_is_deleted() {
    let cache = memory();
    load(&cache, "k", Groups::none(), 1).await;
    assert_eq!(load(&cache, "k", Groups::none(), 2).await, 1);
    cache.delete("k").await.unwrap();
    assert_eq!(load(&cache, "k", Groups::none(), 2).await, 2);
}

#[tokio::test]
async fn a_hit_is_one_round_trip_and_so_is_an_invalidation() {
    let backend = CountingBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    let many: Groups = (0..20).map(|id| Group::new("g").with("id", id)).collect();
    for key in 0..20 {
        load(&cache, &key.to_string(), many.clone(), 1).await;
    }
    let hit = backend.counting(async { assert_eq!(load(&cache, "7", many.clone(), 2).await, 1) }).await;
    assert_eq!(hit, Counts { lookups: 1, ..Default::default() });
    let invalidation = backend.counting(async { cache.invalidate(many.clone()).await.unwrap() }).await;
    assert_eq!(invalidation, Counts { bumps: 1, ..Default::default() });
    let miss = backend.counting(async { assert_eq!(load(&cache, "7", many.clone(), 2).await, 2) }).await;
    assert_eq!(miss, Counts { lookups: 1, stores: 1, ..Default::default() });
}
