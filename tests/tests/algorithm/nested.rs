//! Reads inside computations: whoever shows a value depends on all that the value depends on.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};

use groupcache_core::{
    Address, EntryOptions, Error, ErrorKind, Invalidator, Key, KeyStrategy, ManualClock, Result, depend,
};
use groupcache_tests::{Operation, PlainBackend, ScriptedBackend, Step};

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

async fn bubbles<A: Backend, B: Backend>(one: &Cache<A>, other: &Cache<B>, reads_to_store: usize) {
    // The other cache first: the outer one must not find the inner value before that is stale.
    let both = (other.clone(), one.clone());
    let data = AtomicU32::new(0);
    let changes = [groups(["inner"]), groups(["deep"]), groups(["inner", "outer"]), groups(["deep"])];
    for (round, names) in (1..).zip(changes) {
        data.store(round, Ordering::SeqCst);
        both.invalidate(&names).await.unwrap();
        for _ in 0..reads_to_store {
            assert_eq!(outer(one, other, &data).await, round, "after {names:?} were invalidated");
        }
        data.store(round + 100, Ordering::SeqCst);
        assert_eq!(outer(one, other, &data).await, round, "nothing was invalidated after {names:?}");
    }
}

#[tokio::test]
async fn groups_of_an_inner_value_bubble_up_within_one_cache() {
    let cache = memory();
    bubbles(&cache, &cache.clone(), 1).await;
    let cache = Cache::builder(PlainBackend::new()).build();
    bubbles(&cache, &cache.clone(), 1).await;
}

#[tokio::test]
async fn groups_of_an_inner_value_bubble_up_between_different_caches() {
    // What only the inner computation knows is late for the outer one, the first time.
    bubbles(&memory(), &memory(), 2).await;
    bubbles(&memory(), &Cache::builder(PlainBackend::new()).build(), 2).await;
}

#[tokio::test]
async fn an_inner_hit_bubbles_up_like_an_inner_computation() {
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
async fn an_inner_value_shared_with_another_reader_bubbles_up_too() {
    let cache = memory();
    let gate = Gate::new();
    let leader = load_behind(&cache, "inner", group("inner"), &gate, 1);
    gate.reached().await;
    let read = tokio::spawn({
        let cache = cache.clone();
        async move {
            let inner = cache.clone();
            let compute = || async move { load(&inner, "inner", group("inner"), 2).await };
            load_with(&cache, "outer", group("outer"), compute).await
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
async fn what_get_found_bubbles_up_and_what_it_did_not_find_is_not_stored_around() {
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

/// A row that is not there yet is an `Err` of many a loader; the page that says so depends on it.
#[tokio::test]
async fn what_takes_the_place_of_a_failed_inner_computation_is_not_stored() {
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
async fn what_takes_the_place_of_an_inner_computation_without_the_store_is_not_stored() {
    let (one, other) =
        (memory(), Cache::builder(groupcache_tests::FailingBackend(ErrorKind::Unavailable)).build());
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
async fn what_takes_the_place_of_an_inner_read_that_took_too_long_is_not_stored() {
    let cache = memory();
    let inner = cache.clone();
    let impatient = load_with(&cache, "outer", group("outer"), || async move {
        let read = load_with(&inner, "inner", group("inner"), std::future::pending);
        tokio::time::timeout(Duration::from_millis(5), read).await.unwrap_or(0)
    });
    assert_eq!(impatient.await, 0);
    assert_eq!(load(&cache, "outer", group("outer"), 1).await, 1);
}

#[tokio::test]
async fn what_an_inner_call_without_a_key_computed_is_not_stored_around() {
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
            let inner = cache.keyed(NoKey);
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
            let inner = cache.keyed(NoKey);
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
            let inner = cache.keyed(NoKey);
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
async fn an_inner_insert_bubbles_up_like_a_read() {
    let cache = memory();
    let read = |value: u32| {
        let cache = cache.clone();
        async move {
            let inner = cache.clone();
            load_with(&cache, "outer", group("outer"), || async move {
                let compute = || async move { Ok::<_, Error>(value) };
                inner.insert("inner", group("inner"), compute).await.unwrap_or(0)
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
async fn what_takes_the_place_of_a_failed_inner_insert_is_not_stored() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    let read = |value: u32| {
        let cache = cache.clone();
        async move {
            let inner = cache.clone();
            load_with(&cache, "outer", group("outer"), || async move {
                let compute = || async move { Ok::<_, Error>(value) };
                inner.insert("inner", group("inner"), compute).await.unwrap_or(0)
            })
            .await
        }
    };
    backend.next(Operation::Store, Step::Fail(ErrorKind::Capacity));
    assert_eq!(read(1).await, 0);
    assert_eq!(read(2).await, 2);
}

#[tokio::test]
async fn a_value_of_another_cache_is_stored_at_once_if_its_groups_were_named() {
    let (one, other) = (memory(), memory());
    let read = |value| {
        let (one, other) = (one.clone(), other.clone());
        async move {
            let compute = || async move { load(&other, "inner", group("inner"), value).await };
            load_with(&one, "outer", group("outer"), compute).await
        }
    };
    assert_eq!(read(1).await, 1);
    other.delete("inner").await.unwrap();
    assert_eq!(read(2).await, 1);
    one.invalidate(group("inner")).await.unwrap();
    assert_eq!(read(3).await, 3);
}

/// The inner value is from before an invalidation, the generation that the computation knows from
/// after it.
#[tokio::test]
async fn a_computation_that_depends_on_a_group_while_an_older_inner_value_is_computed_is_not_stored() {
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

/// It has seen both the state before and the one after.
#[tokio::test]
async fn a_computation_that_saw_two_generations_of_a_group_is_not_stored() {
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

/// The store tells the time left of an entry only where it is asked for it.
#[tokio::test]
async fn a_computation_that_saw_one_generation_of_a_group_several_times_is_stored() {
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
    // Kept longer for use as stale, which the outer value must not be.
    for options in [fresh, fresh.stale_if_error(60 * second)] {
        for way in ["computed", "hit", "one of many", "shared"] {
            let clock = ManualClock::new();
            let memory = MemoryBackend::builder().clock(clock.clone()).build();
            outlives_nothing(memory, &clock, options, way).await;
            outlives_nothing(PlainBackend::with_clock(clock.clone()), &clock, options, way).await;
        }
    }
}

async fn outlives_nothing<B: Backend>(backend: B, clock: &ManualClock, options: EntryOptions, way: &str) {
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
    assert_eq!(read(2).await, 1, "the inner value is fresh, having been {way}");
    assert_eq!(cache.stats().loads, loads, "and so is the outer one, having been {way}");
    clock.advance(2 * second);
    assert_eq!(read(3).await, 3, "the inner value has expired, having been {way}");
}

/// What the reader of the inner value says it depends on is what counts around it.
#[tokio::test]
async fn a_read_now_inside_a_computation_bubbles_up() {
    let cache = memory();
    load(&cache, "inner", group("inner"), 1).await;
    let address = Address { key: Key::of("inner").unwrap(), groups: group("inner") };
    let inner = cache.clone();
    load_with(&cache, "outer", group("outer"), || async move {
        inner.read_now(&address, |entry| Some(u32::from(entry.body()[0]))).unwrap()
    })
    .await;
    assert_eq!(load(&cache, "outer", group("outer"), 2).await, 1);
    cache.invalidate(group("inner")).await.unwrap();
    assert_eq!(load(&cache, "outer", group("outer"), 3).await, 3);
}
