//! Loads of several keys beside other reads, inserts and invalidations of these keys.

use groupcache_core::{Error, LoadContext};

use crate::load_many::row;
use crate::*;

/// Starts a read of keys 1 and 2 whose loader waits at `gate`.
fn load_two_behind<B: Backend>(
    cache: &Cache<B>,
    gate: &Arc<Gate>,
) -> JoinHandle<Result<Vec<Option<u32>>, Infallible>>
where
    Cache<B>: Clone,
{
    let (cache, gate) = (cache.clone(), Arc::clone(gate));
    tokio::spawn(async move {
        let load = |keys: Vec<u32>| {
            let gate = &gate;
            async move {
                gate.pass().await;
                Ok(keys.into_iter().map(|key| (key, key * 10)).collect::<Vec<_>>())
            }
        };
        cache.get_many_or_load([1, 2].map(row), load).await
    })
}

async fn read_one<B: Backend>(cache: &Cache<B>, key: u32, value: u32) -> u32 {
    let load = || async move { Ok::<_, Infallible>(value) };
    cache.get_or_load(&key, row(key).1, load).await.unwrap()
}

#[tokio::test]
async fn no_earlier_load_of_many_stores_its_value_after_an_insert() {
    let (cache, gate) = (memory(), Gate::new());
    let many = load_two_behind(&cache, &gate);
    gate.reached().await;
    cache.insert(&1, row(1).1, async || Ok::<u32, Error>(7)).await.unwrap();
    gate.open();
    assert_eq!(soon(many).await.unwrap(), Ok(vec![Some(10), Some(20)]));
    assert_eq!(cache.get(&1, row(1).1).await, Some(7));
    assert_eq!(cache.get(&2, row(2).1).await, Some(20));
    assert_eq!((cache.stats().stores, cache.stats().stores_superseded), (2, 1));
}

#[tokio::test]
async fn a_reader_after_an_invalidation_does_not_share_the_load_of_many_from_before_it() {
    let (cache, gate) = (memory(), Gate::new());
    let many = load_two_behind(&cache, &gate);
    gate.reached().await;
    cache.invalidate(row(1).1).await.unwrap();
    let later = tokio::spawn({
        let cache = cache.clone();
        async move { (read_one(&cache, 1, 11).await, read_one(&cache, 2, 21).await) }
    });
    settle().await;
    gate.open();
    assert_eq!(soon(later).await.unwrap(), (11, 20));
    assert_eq!(soon(many).await.unwrap(), Ok(vec![Some(10), Some(20)]));
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test]
async fn a_load_of_many_may_read_its_own_keys() {
    let cache = memory();
    let load = |keys: Vec<u32>| {
        let cache = &cache;
        async move {
            let one = read_one(cache, 1, 5).await;
            Ok::<_, Infallible>(keys.into_iter().map(|key| (key, key + one)).collect::<Vec<_>>())
        }
    };
    let read = cache.get_many_or_load([1, 2].map(row), load);
    assert_eq!(soon(read).await, Ok(vec![Some(6), Some(7)]));
    assert_eq!((cache.stats().wait_cycles, cache.loads_in_flight()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_load_of_many_that_is_kept_and_not_polled_blocks_no_reader_of_its_keys() {
    let cache = memory();
    let load_slowly = |keys: Vec<u32>| async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok::<_, Infallible>(keys.into_iter().map(|key| (key, key)).collect::<Vec<_>>())
    };
    let mut kept = std::pin::pin!(cache.get_many_or_load([1, 2].map(row), load_slowly));
    tokio::time::timeout(Duration::from_millis(5), &mut kept).await.unwrap_err();
    let others = futures_util::future::join(read_one(&cache, 1, 7), read_one(&cache, 2, 8));
    assert_eq!(soon(others).await, (7, 8));
    assert_eq!(cache.stats().stalled_loads, 2);
    assert_eq!(soon(kept).await, Ok(vec![Some(1), Some(2)]));
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test]
async fn the_entries_of_one_load_of_many_are_stored_under_one_permit() {
    for (stores_max, stored) in [(0, 0), (1, 100)] {
        let backend = MemoryBackend::with_max_bytes(1 << 20);
        let cache = Cache::builder(backend).background_stores_max(stores_max).build();
        let load = async |keys: Vec<u32>| Ok::<_, Infallible>(keys.into_iter().map(|key| (key, key)));
        cache.get_many_or_load((0..100).map(row), load).await.unwrap();
        assert_eq!((cache.stats().stores, cache.stats().stores_skipped), (stored, 100 - stored));
        assert_eq!(cache.loads_in_flight(), 0);
    }
}

#[tokio::test]
async fn a_placeholder_does_not_replace_a_value_that_was_inserted_during_the_load() {
    let (cache, gate) = (memory(), Gate::new());
    let late = tokio::spawn({
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        async move {
            load_with(&cache, "k", group("g"), || async move {
                gate.pass().await;
                LoadContext::current().unwrap().depend_late(group("late"));
                1
            })
            .await
        }
    });
    gate.reached().await;
    cache.insert("k", group("g"), async || Ok::<u32, Error>(2)).await.unwrap();
    gate.open();
    assert_eq!(soon(late).await.unwrap(), 1);
    assert_eq!(cache.get("k", group("g")).await, Some(2));
    assert_eq!((cache.stats().placeholders_stored, cache.stats().stores_superseded), (0, 0));
}
