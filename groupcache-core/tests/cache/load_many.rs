//! Loads of several keys with one call of the loader.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};

use groupcache_conformance::doubles::{
    CountingBackend, Counts, Operation, PlainBackend, ScriptedBackend, Step,
};
use groupcache_core::{EntryOptions, ErrorKind, LoadContext, ManualClock, depend};

use crate::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A loader of several keys, whose value is ten times the key, that records its calls.
#[derive(Default)]
struct Loader {
    calls: std::sync::Mutex<Vec<Vec<u32>>>,
}

impl Loader {
    async fn load(&self, keys: Vec<u32>) -> Result<Vec<(u32, u32)>, &'static str> {
        self.calls.lock().unwrap().push(keys.clone());
        // In any order, and with a value that no reader asked for.
        Ok(keys.into_iter().rev().map(|key| (key, key * 10)).chain([(99, 99)]).collect())
    }

    fn calls(&self) -> Vec<Vec<u32>> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

pub(crate) fn row(key: u32) -> (u32, Group) {
    (key, Group::new("row").with("id", key))
}

#[tokio::test]
async fn the_keys_that_miss_are_loaded_with_one_call_and_three_round_trips() {
    let backend = CountingBackend::new(PlainBackend::new());
    let (cache, loader) = (Cache::builder(backend.clone()).build(), Loader::default());
    let read = async |keys: &[u32]| {
        let keys = keys.iter().map(|key| row(*key)).collect::<Vec<_>>();
        cache.get_many_or_load(keys, |keys| loader.load(keys)).await.unwrap()
    };
    let counts =
        backend.counting(async { assert_eq!(read(&[1, 2, 3]).await, [Some(10), Some(20), Some(30)]) });
    assert_eq!(counts.await, Counts { lookups_of_many: 1, mints: 1, stores: 3, ..Counts::default() });
    let counts = backend.counting(async {
        assert_eq!(read(&[4, 1, 5, 4, 2]).await, [Some(40), Some(10), Some(50), Some(40), Some(20)]);
    });
    assert_eq!(counts.await, Counts { lookups_of_many: 1, mints: 1, stores: 2, ..Counts::default() });
    assert_eq!(loader.calls(), [vec![1, 2, 3], vec![4, 5]]);
    cache.invalidate(row(2).1).await.unwrap();
    let counts = backend.counting(async { assert_eq!(read(&[1, 2]).await, [Some(10), Some(20)]) });
    assert_eq!(counts.await, Counts { lookups_of_many: 1, stores: 1, ..Counts::default() });
    assert_eq!(loader.calls(), [vec![2]], "and no other is stale");
    assert_eq!(cache.get(&3, row(3).1).await, Some(30), "single reads find them");
    let counts = backend.counting(async { assert_eq!(read(&[]).await, []) });
    assert_eq!(counts.await, Counts::default());
    assert_eq!(loader.calls(), [] as [Vec<u32>; 0]);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses(), stats.loads, stats.stores), (4, 6, 3, 6));
}

#[tokio::test]
async fn keys_without_a_value_are_none_and_loaded_again() {
    let cache = memory();
    let load = |keys: Vec<u32>| async move {
        Ok::<_, Infallible>(
            keys.into_iter().filter(|key| *key != 2).map(|key| (key, key)).collect::<Vec<_>>(),
        )
    };
    for loads in 1..3 {
        assert_eq!(cache.get_many_or_load([1, 2].map(row), load).await, Ok(vec![Some(1), None]));
        assert_eq!(cache.stats().loads, loads);
    }
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test]
async fn a_key_that_occurs_twice_depends_on_the_groups_of_both() {
    let (cache, loader) = (memory(), Loader::default());
    let keys = || [(1, group("a")), (1, group("b"))];
    for other in ["a", "b"] {
        assert_eq!(
            cache.get_many_or_load(keys(), |keys| loader.load(keys)).await,
            Ok(vec![Some(10), Some(10)])
        );
        assert_eq!(loader.calls(), [vec![1]]);
        cache.invalidate(group(other)).await.unwrap();
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_encoded_is_none_and_the_others_are_loaded() {
    #[derive(Clone)]
    struct Fragile(u32);
    impl serde::Serialize for Fragile {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if self.0 == 0 { Err(serde::ser::Error::custom("no")) } else { serializer.serialize_u32(self.0) }
        }
    }
    let cache = memory();
    let load = |keys: Vec<Fragile>| async move {
        Ok::<_, Infallible>(keys.into_iter().map(|key| (key.clone(), key.0)).collect::<Vec<_>>())
    };
    let keys = [1, 0, 2].map(|key| (Fragile(key), group("g")));
    assert_eq!(cache.get_many_or_load(keys, load).await, Ok(vec![Some(1), None, Some(2)]));
}

#[tokio::test]
async fn an_invalidation_during_the_load_makes_its_value_stale_and_no_other() {
    let (cache, gate) = (memory(), Gate::new());
    let reader = tokio::spawn({
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        async move {
            let load = |keys: Vec<u32>| {
                let gate = Arc::clone(&gate);
                async move {
                    gate.pass().await;
                    Ok::<_, Infallible>(keys.into_iter().map(|key| (key, key)).collect::<Vec<_>>())
                }
            };
            cache.get_many_or_load([1, 2].map(row), load).await
        }
    });
    gate.reached().await;
    cache.invalidate(row(1).1).await.unwrap();
    gate.open();
    assert_eq!(soon(reader).await.unwrap(), Ok(vec![Some(1), Some(2)]));
    let found: Vec<Option<u32>> = cache.get_many([1, 2].map(row)).await;
    assert_eq!(found, [None, Some(2)]);
}

#[tokio::test]
async fn all_values_depend_on_what_the_load_discovers() {
    for late in [false, true] {
        let cache = memory();
        let load = |keys: Vec<u32>| async move {
            match late {
                true => LoadContext::current().unwrap().depend_late(group("shop")),
                false => depend(group("shop")).await,
            }
            Ok::<_, Infallible>(keys.into_iter().map(|key| (key, key)).collect::<Vec<_>>())
        };
        let read = async || cache.get_many_or_load([1, 2].map(row), load).await.unwrap();
        read().await;
        assert_eq!(cache.stats().loads_not_stored, if late { 2 } else { 0 });
        read().await;
        assert_eq!(cache.stats().loads, if late { 2 } else { 1 }, "the second load begins with the group");
        read().await;
        assert_eq!(cache.stats().hits, if late { 2 } else { 4 });
        cache.invalidate(group("shop")).await.unwrap();
        let found: Vec<Option<u32>> = cache.get_many([1, 2].map(row)).await;
        assert_eq!(found, [None, None]);
    }
}

#[tokio::test]
async fn readers_of_one_key_share_the_load_of_many_and_it_shares_theirs() {
    let (cache, loader, gate) = (memory(), Arc::new(Loader::default()), Gate::new());
    let of_many = |keys: [u32; 2]| {
        let (cache, gate, loader) = (cache.clone(), Arc::clone(&gate), Arc::clone(&loader));
        tokio::spawn(async move {
            let load = |keys| {
                let (gate, loader) = (&gate, &loader);
                async move {
                    gate.pass().await;
                    loader.load(keys).await
                }
            };
            cache.get_many_or_load(keys.map(row), load).await
        })
    };
    let first = of_many([1, 2]);
    gate.reached().await;
    let second = of_many([2, 3]);
    gate.reached().await;
    let single = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get_or_load(&3, row(3).1, || async { Ok::<u32, &str>(0) }).await }
    });
    settle().await;
    gate.open();
    assert_eq!(soon(first).await.unwrap(), Ok(vec![Some(10), Some(20)]));
    assert_eq!(soon(second).await.unwrap(), Ok(vec![Some(20), Some(30)]));
    assert_eq!(soon(single).await.unwrap(), Ok(30));
    assert_eq!(loader.calls(), [vec![1, 2], vec![3]]);
}

#[tokio::test]
async fn two_calls_of_the_same_keys_in_two_orders_do_not_wait_for_each_other() {
    let cache = memory();
    let read = |keys: [u32; 3]| {
        let cache = cache.clone();
        tokio::spawn(async move {
            let load = |keys: Vec<u32>| async move {
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(keys.into_iter().map(|key| (key, key)).collect::<Vec<_>>())
            };
            cache.get_many_or_load(keys.map(row), load).await.unwrap()
        })
    };
    let readers: Vec<_> = [[1, 2, 3], [3, 1, 2], [4, 3, 2], [2, 4, 1]].map(read).into();
    for reader in readers {
        assert!(soon(reader).await.unwrap().into_iter().all(|value| value.is_some()));
    }
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test]
async fn a_load_of_many_that_fails_is_an_error_and_its_followers_load_for_themselves() {
    let (cache, gate) = (memory(), Gate::new());
    let failing = tokio::spawn({
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        async move {
            let load = |_: Vec<u32>| {
                let gate = &gate;
                async move {
                    gate.pass().await;
                    Err::<Vec<(u32, u32)>, _>("the source is down")
                }
            };
            cache.get_many_or_load([1, 2].map(row), load).await
        }
    });
    gate.reached().await;
    let loader = Arc::new(Loader::default());
    let other = tokio::spawn({
        let (cache, loader) = (cache.clone(), Arc::clone(&loader));
        async move { cache.get_many_or_load([1, 2].map(row), |keys| loader.load(keys)).await }
    });
    settle().await;
    gate.open();
    assert_eq!(soon(failing).await.unwrap(), Err("the source is down"));
    assert_eq!(soon(other).await.unwrap(), Ok(vec![Some(10), Some(20)]));
    assert_eq!(loader.calls().concat().len(), 2);
}

#[tokio::test]
async fn a_cancelled_load_of_many_hands_over() {
    let (cache, loader) = (memory(), Loader::default());
    let forever = |_: Vec<u32>| std::future::pending::<Result<Vec<(u32, u32)>, &str>>();
    let waiting = cache.get_many_or_load([1, 2].map(row), forever);
    assert!(tokio::time::timeout(Duration::from_millis(1), waiting).await.is_err());
    assert_eq!(cache.loads_in_flight(), 0);
    let read = cache.get_many_or_load([1, 2].map(row), |keys| loader.load(keys));
    assert_eq!(soon(read).await, Ok(vec![Some(10), Some(20)]));
    assert_eq!(loader.calls(), [vec![1, 2]]);
}

#[tokio::test]
async fn without_the_backend_many_keys_are_loaded_and_not_stored() {
    for operation in [Operation::LookupMany, Operation::Mint] {
        let backend = ScriptedBackend::new(PlainBackend::new());
        let (cache, loader) = (Cache::builder(backend.clone()).build(), Loader::default());
        backend.next(operation, Step::Fail(ErrorKind::Unavailable));
        for stores in [0, 2] {
            let read = cache.get_many_or_load([1, 2].map(row), |keys| loader.load(keys));
            assert_eq!(read.await, Ok(vec![Some(10), Some(20)]));
            assert_eq!(loader.calls(), [vec![1, 2]]);
            assert_eq!(cache.stats().stores, stores);
        }
        assert_eq!(cache.stats().loads_not_stored, 2);
    }
}

#[tokio::test]
async fn expired_values_are_served_if_the_load_of_all_of_them_fails() {
    let clock = ManualClock::new();
    let options = EntryOptions::new().time_to_live(MINUTE).stale_if_error(MINUTE);
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let cache = Cache::builder(backend).clock(clock.clone()).options(options).build();
    let loader = Loader::default();
    cache.get_many_or_load([1, 2].map(row), |keys| loader.load(keys)).await.unwrap();
    clock.advance(MINUTE);
    let failing = |_: Vec<u32>| async { Err::<Vec<(u32, u32)>, _>("the source is down") };
    assert_eq!(cache.get_many_or_load([1, 2].map(row), failing).await, Ok(vec![Some(10), Some(20)]));
    assert_eq!(cache.get_many_or_load([1, 2, 3].map(row), failing).await, Err("the source is down"));
    let gone = |_: Vec<u32>| async { Ok::<_, &str>(Vec::<(u32, u32)>::new()) };
    assert_eq!(cache.get_many_or_load([1].map(row), gone).await, Ok(vec![None]));
    assert_eq!(
        cache.get_many_or_load([1].map(row), failing).await,
        Err("the source is down"),
        "gone is gone"
    );
}

#[tokio::test]
async fn a_load_around_a_load_of_many_depends_on_all_of_its_keys() {
    for changed in [1, 2, 3] {
        let cache = memory();
        let outer = async || {
            load_with(&cache, "outer", group("outer"), || async {
                let load = |keys: Vec<u32>| async move {
                    let found = keys.into_iter().filter(|key| *key != 3);
                    Ok::<_, Infallible>(found.map(|key| (key, key)).collect::<Vec<_>>())
                };
                let values = cache.get_many_or_load([1, 2, 3].map(row), load).await.unwrap();
                values.into_iter().flatten().sum()
            })
            .await
        };
        load(&cache, "unused", group("unused"), 1).await;
        cache.get_or_load(&1, row(1).1, || async { Ok::<u32, Infallible>(1) }).await.unwrap();
        assert_eq!(outer().await, 3);
        assert_eq!(cache.get("outer", group("outer")).await, Some(3));
        cache.invalidate(row(changed).1).await.unwrap();
        assert_eq!(cache.get::<u32, _, _>("outer", group("outer")).await, None, "{changed}");
    }
}

/// Readers of many keys and of single ones, and writers that invalidate after they have written. A value is the
/// version of its row when the loader read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_many_keys_see_every_acknowledged_change() {
    const ROWS: u32 = 4;
    let cache = memory();
    let rows: Arc<[AtomicU32; ROWS as usize]> = Arc::default();
    let acknowledged: Arc<[AtomicU32; ROWS as usize]> = Arc::default();
    let writers = (0..ROWS).map(|at| {
        let (cache, rows, acknowledged) = (cache.clone(), Arc::clone(&rows), Arc::clone(&acknowledged));
        tokio::spawn(async move {
            for _ in 0..300 {
                let version = rows[at as usize].fetch_add(1, Ordering::SeqCst) + 1;
                cache.invalidate(row(at).1).await.unwrap();
                acknowledged[at as usize].store(version, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        })
    });
    let readers = (0..4).map(|reader| {
        let (cache, rows, acknowledged) = (cache.clone(), Arc::clone(&rows), Arc::clone(&acknowledged));
        tokio::spawn(async move {
            for round in 0..300 {
                let keys = [0, 1, 2].map(|offset| (reader + round + offset) % ROWS);
                let at_least = keys.map(|key| acknowledged[key as usize].load(Ordering::SeqCst));
                let load = |keys: Vec<u32>| {
                    let rows = &rows;
                    async move {
                        let read = |key: u32| (key, rows[key as usize].load(Ordering::SeqCst));
                        let values: Vec<_> = keys.into_iter().map(read).collect();
                        tokio::task::yield_now().await;
                        Ok::<_, Infallible>(values)
                    }
                };
                // Some of them give up.
                let reading = cache.get_many_or_load(keys.map(row), load);
                let values = match round % 7 {
                    0 => match tokio::time::timeout(Duration::from_micros(50), reading).await {
                        Ok(values) => values,
                        Err(_) => continue,
                    },
                    _ => reading.await,
                };
                for ((value, at_least), key) in values.unwrap().into_iter().zip(at_least).zip(keys) {
                    assert!(value.is_some_and(|value| value >= at_least), "{key}: {value:?} < {at_least}");
                }
            }
        })
    });
    let all: Vec<_> = writers.collect::<Vec<_>>().into_iter().chain(readers.collect::<Vec<_>>()).collect();
    for task in all {
        soon(task).await.unwrap();
    }
    assert_eq!(cache.loads_in_flight(), 0);
    assert!(cache.stats().hits > 0 && cache.stats().loads > 0);
}

#[tokio::test]
async fn a_loader_of_many_keys_that_panics_leaves_no_flight() {
    let (cache, loader) = (memory(), Loader::default());
    let panicking = tokio::spawn({
        let cache = cache.clone();
        async move {
            let load = |_: Vec<u32>| async { panic!("the loader panics") };
            let read =
                cache.get_many_or_load::<_, _, u32, Vec<(u32, u32)>, (), _, _, _>([1, 2].map(row), load);
            read.await
        }
    });
    assert!(panicking.await.unwrap_err().is_panic());
    assert_eq!(cache.loads_in_flight(), 0);
    let read = cache.get_many_or_load([1, 2].map(row), |keys| loader.load(keys));
    assert_eq!(soon(read).await, Ok(vec![Some(10), Some(20)]));
}
