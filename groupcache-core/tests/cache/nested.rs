//! Reads inside loads: the outer value depends on all groups of the inner value.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};

use groupcache_conformance::doubles::{Operation, PlainBackend, ScriptedBackend, Step};
use groupcache_core::{
    Address, EntryOptions, Error, ErrorKind, Invalidator, Key, KeyStrategy, ManualClock, Result, depend,
};

use crate::*;

/// An outer value of group `outer` that shows an inner one of group `inner`.
async fn outer<A: Backend, B: Backend>(outer: &Cache<A>, inner: &Cache<B>, data: &AtomicU32) -> u32 {
    load_with(outer, "outer", group("outer"), || async {
        load_with(inner, "inner", group("inner"), || async {
            depend(group("deep")).await;
            data.load(Ordering::SeqCst)
        })
        .await
    })
    .await
}

async fn groups_bubble_up<A: Backend, B: Backend>(one: &Cache<A>, other: &Cache<B>, reads_to_store: usize) {
    // Invalidates the inner cache first, so that the outer load does not find the old inner value.
    let both = (other.clone(), one.clone());
    let data = AtomicU32::new(0);
    let changes = [groups(["inner"]), groups(["deep"]), groups(["inner", "outer"]), groups(["deep"])];
    for (round, names) in (1..).zip(changes) {
        data.store(round, Ordering::SeqCst);
        both.invalidate(&names).await.unwrap();
        for _ in 0..reads_to_store {
            assert_eq!(outer(one, other, &data).await, round, "after an invalidation of {names:?}");
        }
        data.store(round + 100, Ordering::SeqCst);
        assert_eq!(outer(one, other, &data).await, round, "no invalidation after that of {names:?}");
    }
}

#[tokio::test]
async fn groups_of_an_inner_value_bubble_up_within_one_cache() {
    let cache = memory();
    groups_bubble_up(&cache, &cache.clone(), 1).await;
    let cache = Cache::builder(PlainBackend::new()).build();
    groups_bubble_up(&cache, &cache.clone(), 1).await;
}

#[tokio::test]
async fn groups_of_an_inner_value_bubble_up_between_different_caches() {
    // The outer load discovers the inner groups late, the first time.
    groups_bubble_up(&memory(), &memory(), 2).await;
    groups_bubble_up(&memory(), &Cache::builder(PlainBackend::new()).build(), 2).await;
}

#[tokio::test]
async fn groups_of_an_inner_hit_bubble_up() {
    let cache = memory();
    load(&cache, "inner", group("inner"), 1).await;
    let read = |now| {
        let cache = cache.clone();
        async move {
            let inner = cache.clone();
            load_with(&cache, "outer", group("outer"), || async move {
                load(&inner, "inner", group("inner"), now).await
            })
            .await
        }
    };
    assert_eq!(read(2).await, 1);
    assert_eq!(read(2).await, 1);
    cache.invalidate(group("inner")).await.unwrap();
    assert_eq!(read(3).await, 3);
}

#[tokio::test]
async fn groups_of_a_shared_inner_value_bubble_up() {
    let cache = memory();
    let gate = Gate::new();
    let leader = load_behind(&cache, "inner", group("inner"), &gate, 1);
    gate.reached().await;
    let read = tokio::spawn({
        let cache = cache.clone();
        async move {
            let inner = cache.clone();
            let loader = || async move { load(&inner, "inner", group("inner"), 2).await };
            load_with(&cache, "outer", group("outer"), loader).await
        }
    });
    settle().await;
    gate.open();
    soon(leader).await.unwrap();
    assert_eq!(soon(read).await.unwrap(), 1);
    assert_eq!(load(&cache, "outer", group("outer"), 3).await, 1);
    cache.invalidate(group("inner")).await.unwrap();
    assert_eq!(load(&cache, "outer", group("outer"), 3).await, 3);
}

#[tokio::test]
async fn groups_of_an_inner_get_bubble_up_and_a_value_after_its_miss_is_not_stored() {
    let cache = memory();
    let read = |fallback| {
        let cache = cache.clone();
        async move {
            let inner = cache.clone();
            load_with(&cache, "outer", group("outer"), || async move {
                inner.get("inner", group("inner")).await.unwrap_or(fallback)
            })
            .await
        }
    };
    assert_eq!(read(10).await, 10);
    assert_eq!(read(11).await, 11);
    load(&cache, "inner", group("inner"), 1).await;
    assert_eq!(read(12).await, 1);
    assert_eq!(read(12).await, 1);
    cache.invalidate(group("inner")).await.unwrap();
    assert_eq!(read(13).await, 13);
}

/// Many loaders return `Err` for a row that does not exist yet. A page about the missing row depends on it.
#[tokio::test]
async fn a_fallback_for_a_failed_inner_load_is_not_stored() {
    let cache = memory();
    let read = |found: Result<u32, &'static str>| {
        let cache = cache.clone();
        async move {
            let inner = cache.clone();
            load_with(&cache, "outer", group("outer"), || async move {
                inner.get_or_load("inner", group("inner"), || async move { found }).await.unwrap_or(0)
            })
            .await
        }
    };
    assert_eq!(read(Err("no such row")).await, 0);
    cache.invalidate(group("inner")).await.unwrap();
    assert_eq!(read(Ok(1)).await, 1);
}

#[tokio::test]
async fn a_fallback_for_a_failed_inner_load_without_a_store_is_not_stored() {
    let (one, other) = (
        memory(),
        Cache::builder(groupcache_conformance::doubles::FailingBackend(ErrorKind::Unavailable)).build(),
    );
    let read = |found: Result<u32, &'static str>| {
        let (one, other) = (one.clone(), other.clone());
        async move {
            load_with(&one, "outer", group("outer"), || async move {
                other.get_or_load("inner", group("inner"), || async move { found }).await.unwrap_or(0)
            })
            .await
        }
    };
    assert_eq!(read(Err("no such row")).await, 0);
    assert_eq!(read(Ok(1)).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_fallback_for_a_cancelled_inner_read_is_not_stored() {
    let cache = memory();
    let inner = cache.clone();
    let outer = load_with(&cache, "outer", group("outer"), || async move {
        let read = load_with(&inner, "inner", group("inner"), std::future::pending);
        tokio::time::timeout(Duration::from_millis(5), read).await.unwrap_or(0)
    });
    assert_eq!(outer.await, 0);
    assert_eq!(load(&cache, "outer", group("outer"), 1).await, 1);
}

#[tokio::test]
async fn a_value_made_of_an_inner_call_without_a_key_is_not_stored() {
    struct NoKey;
    impl KeyStrategy<u32> for NoKey {
        fn key(&self, _: &u32) -> Result<Key> {
            Err(Error::configuration("test", "no key"))
        }
        fn groups(&self, _: &u32) -> Result<Groups> {
            Ok(group("inner"))
        }
    }
    let cache = memory();
    let read = |value: u32| {
        let cache = cache.clone();
        async move {
            let inner = cache.keyed(NoKey, &[]).unwrap();
            load_with(&cache, "outer", group("outer"), || async move {
                inner.get_or_load(&value, || async move { Ok::<_, Infallible>(value) }).await.unwrap()
            })
            .await
        }
    };
    assert_eq!(read(1).await, 1);
    assert_eq!(read(2).await, 2);

    let get = |fallback: u32| {
        let cache = cache.clone();
        async move {
            let inner = cache.keyed(NoKey, &[]).unwrap();
            load_with(&cache, "outer of get", group("outer"), || async move {
                inner.get(&fallback).await.unwrap_or(fallback)
            })
            .await
        }
    };
    assert_eq!(get(1).await, 1);
    assert_eq!(get(2).await, 2);

    let get_many = |fallback: u32| {
        let cache = cache.clone();
        async move {
            let inner = cache.keyed(NoKey, &[]).unwrap();
            load_with(&cache, "outer of get_many", group("outer"), || async move {
                inner.get_many(&[&fallback]).await[0].unwrap_or(fallback)
            })
            .await
        }
    };
    assert_eq!(get_many(1).await, 1);
    assert_eq!(get_many(2).await, 2);
}

#[tokio::test]
async fn groups_of_an_inner_insert_bubble_up() {
    let cache = memory();
    let read = |value: u32| {
        let cache = cache.clone();
        async move {
            let inner = cache.clone();
            load_with(&cache, "outer", group("outer"), || async move {
                let loader = || async move { Ok::<_, Error>(value) };
                inner.insert("inner", group("inner"), loader).await.unwrap_or(0)
            })
            .await
        }
    };
    assert_eq!(read(1).await, 1);
    assert_eq!(read(2).await, 1);
    cache.invalidate(group("inner")).await.unwrap();
    assert_eq!(read(3).await, 3);
}

#[tokio::test]
async fn a_fallback_for_a_failed_inner_insert_is_not_stored() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    let read = |value: u32| {
        let cache = cache.clone();
        async move {
            let inner = cache.clone();
            load_with(&cache, "outer", group("outer"), || async move {
                let loader = || async move { Ok::<_, Error>(value) };
                inner.insert("inner", group("inner"), loader).await.unwrap_or(0)
            })
            .await
        }
    };
    backend.next(Operation::Store, Step::Fail(ErrorKind::Capacity));
    assert_eq!(read(1).await, 0);
    assert_eq!(read(2).await, 2);
}

#[tokio::test]
async fn a_value_made_of_another_cache_is_stored_if_its_groups_were_named() {
    let (one, other) = (memory(), memory());
    let read = |value| {
        let (one, other) = (one.clone(), other.clone());
        async move {
            let loader = || async move { load(&other, "inner", group("inner"), value).await };
            load_with(&one, "outer", group("outer"), loader).await
        }
    };
    assert_eq!(read(1).await, 1);
    other.delete("inner").await.unwrap();
    assert_eq!(read(2).await, 1);
    one.invalidate(group("inner")).await.unwrap();
    assert_eq!(read(3).await, 3);
}

/// The inner value is from before an invalidation, the generation of the outer load from after it.
#[tokio::test]
async fn a_load_that_depends_on_a_group_during_an_older_inner_load_is_not_stored() {
    let cache = memory();
    let gate = Gate::new();
    let inner = cache.clone();
    let torn = load_with(&cache, "outer", group("outer"), || async move {
        let old = load_with(&inner, "inner", group("inner"), || async {
            gate.pass().await;
            1
        });
        let meanwhile = async {
            gate.reached().await;
            inner.invalidate(group("inner")).await.unwrap();
            depend(group("inner")).await;
            gate.open();
        };
        futures_util::future::join(old, meanwhile).await.0
    });
    assert_eq!(soon(Box::pin(torn)).await, 1);
    assert_eq!(load(&cache, "outer", group("outer"), 2).await, 2);
}

/// The load has seen the data from before and from after the invalidation.
#[tokio::test]
async fn a_load_that_saw_two_generations_of_a_group_is_not_stored() {
    let cache = memory();
    let inner = cache.clone();
    let torn = load_with(&cache, "outer", group("outer"), || async move {
        let before = load(&inner, "inner", group("inner"), 1).await;
        inner.invalidate(group("inner")).await.unwrap();
        10 * before + load(&inner, "inner", group("inner"), 2).await
    });
    assert_eq!(torn.await, 12);
    assert_eq!(load(&cache, "outer", group("outer"), 22).await, 22);
}

#[tokio::test]
async fn a_load_that_saw_one_generation_of_a_group_several_times_is_stored() {
    let cache = memory();
    let inner = cache.clone();
    load_with(&cache, "outer", group("g"), || async move {
        load(&inner, "one", group("g"), 1).await + load(&inner, "other", group("g"), 1).await
    })
    .await;
    assert_eq!(load(&cache, "outer", group("g"), 3).await, 2);
}

#[tokio::test]
async fn an_outer_value_does_not_outlive_the_inner_one() {
    let second = Duration::from_secs(1);
    let fresh = EntryOptions::new().time_to_live(10 * second);
    // The store keeps the inner value for the stale window. The outer value must not live that long.
    for options in [fresh, fresh.stale_if_error(60 * second)] {
        for way in ["loaded", "hit", "one of many", "shared"] {
            let clock = ManualClock::new();
            let memory = MemoryBackend::builder().clock(clock.clone()).build();
            expires_with_the_inner_value(memory, &clock, options, way).await;
            expires_with_the_inner_value(PlainBackend::with_clock(clock.clone()), &clock, options, way).await;
        }
    }
}

async fn expires_with_the_inner_value<B: Backend>(
    backend: B,
    clock: &ManualClock,
    options: EntryOptions,
    way: &str,
) {
    let second = Duration::from_secs(1);
    let cache = Cache::builder(backend).clock(clock.clone()).build();
    let inner = cache.with_options(options);
    let gate = Gate::new();
    let read = |value| {
        let (cache, inner, one_of_many) = (cache.clone(), inner.clone(), way == "one of many");
        async move {
            load_with(&cache, "outer", group("outer"), || async move {
                if one_of_many {
                    let found = inner.get_many::<u32, _, _, _>([("inner", group("inner"))]).await;
                    found[0].unwrap_or(value)
                } else {
                    load(&inner, "inner", group("inner"), value).await
                }
            })
            .await
        }
    };
    match way {
        "hit" | "one of many" => drop(load(&inner, "inner", group("inner"), 1).await),
        "shared" => {
            let leader = load_behind(&inner, "inner", group("inner"), &gate, 1);
            gate.reached().await;
            let reader = tokio::spawn(read(9));
            settle().await;
            gate.open();
            soon(leader).await.unwrap();
            assert_eq!(soon(reader).await.unwrap(), 1);
        }
        _ => {}
    }
    assert_eq!(read(1).await, 1);
    clock.advance(9 * second);
    let loads = cache.stats().loads;
    assert_eq!(read(2).await, 1, "the inner value is fresh ({way})");
    assert_eq!(cache.stats().loads, loads, "the outer value is fresh ({way})");
    clock.advance(2 * second);
    assert_eq!(read(3).await, 3, "the inner value has expired ({way})");
}

#[tokio::test]
async fn groups_of_an_inner_read_now_bubble_up() {
    let cache = memory();
    load(&cache, "inner", group("inner"), 1).await;
    let address = Address { key: Key::of("inner").unwrap(), groups: group("inner") };
    let inner = cache.clone();
    load_with(&cache, "outer", group("outer"), || async move {
        inner.read_now(&address, |entry| entry.body().last().copied().map(u32::from)).unwrap()
    })
    .await;
    assert_eq!(load(&cache, "outer", group("outer"), 2).await, 1);
    cache.invalidate(group("inner")).await.unwrap();
    assert_eq!(load(&cache, "outer", group("outer"), 3).await, 3);
}

#[tokio::test]
async fn an_outer_value_lives_no_longer_than_an_inner_value_of_another_cache() {
    let clock = ManualClock::new();
    let cache = |time_to_live| {
        Cache::builder(PlainBackend::with_clock(clock.clone()))
            .clock(clock.clone())
            .options(EntryOptions::new().time_to_live(time_to_live))
            .build()
    };
    let (one, other) = (cache(Duration::from_secs(3600)), cache(Duration::from_secs(10)));
    let data = AtomicU32::new(1);
    // The first outer load discovers the inner groups late and is not stored.
    outer(&one, &other, &data).await;
    assert_eq!(outer(&one, &other, &data).await, 1);
    data.store(2, Ordering::SeqCst);
    assert_eq!(outer(&one, &other, &data).await, 1, "both are stored");
    clock.advance(Duration::from_secs(11));
    assert_eq!(outer(&one, &other, &data).await, 2);
}

#[tokio::test]
async fn a_load_may_depend_on_very_many_groups() {
    let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
    let ids = |range: std::ops::Range<u32>| range.map(|id| Group::new("row").with("id", id));
    let total = load_with(&cache, "rows", group("rows"), || async {
        for start in (0..16_000).step_by(1_000) {
            depend(ids(start..start + 1_000).collect::<Groups>()).await;
        }
        16_000
    });
    assert_eq!(total.await, 16_000);
    assert_eq!(load(&cache, "rows", group("rows"), 0).await, 16_000);
    cache.invalidate(Group::new("row").with("id", 15_999)).await.unwrap();
    assert_eq!(load(&cache, "rows", group("rows"), 1).await, 1);
}
