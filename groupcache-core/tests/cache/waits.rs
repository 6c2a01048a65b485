//! No reader waits without end for the load of another one.

use futures_util::StreamExt;
use tokio::sync::Barrier;
use tokio::time::{sleep, timeout};

use crate::*;

#[tokio::test(start_paused = true)]
async fn two_loads_that_read_each_other_end() {
    let cache = memory();
    let both = Arc::new(Barrier::new(2));
    let read = |one: &'static str, other: &'static str| {
        let (cache, both) = (cache.clone(), Arc::clone(&both));
        tokio::spawn(async move {
            load_with(&cache, one, group(one), || async {
                both.wait().await;
                load(&cache, other, group(other), 7).await
            })
            .await
        })
    };
    let (a, b) = (read("a", "b"), read("b", "a"));
    assert_eq!((soon(a).await.unwrap(), soon(b).await.unwrap()), (7, 7));
    assert!(cache.stats().wait_cycles >= 1);
    assert_eq!((cache.stats().stalled_loads, cache.loads_in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn three_loads_that_read_each_other_end() {
    let cache = memory();
    let all = Arc::new(Barrier::new(3));
    let read = |one: &'static str, other: &'static str| {
        let (cache, all) = (cache.clone(), Arc::clone(&all));
        tokio::spawn(async move {
            load_with(&cache, one, group(one), || async {
                all.wait().await;
                // The cycle leads through a load within this one.
                let within = format!("within {one}");
                load_with(&cache, &within, group(one), || load(&cache, other, group(other), 7)).await
            })
            .await
        })
    };
    for reader in [read("a", "b"), read("b", "c"), read("c", "a")] {
        assert_eq!(soon(reader).await.unwrap(), 7);
    }
    assert_eq!((cache.stats().stalled_loads, cache.loads_in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_load_that_reads_its_own_key_ends() {
    let cache = memory();
    let read = load_with(&cache, "k", group("g"), || async {
        let before = load(&cache, "k", group("g"), 1).await;
        cache.invalidate(group("g")).await.unwrap();
        before + load(&cache, "k", group("g"), 2).await
    });
    assert_eq!(soon(read).await, 3);
    assert_eq!(cache.stats().wait_cycles, 2);
}

/// The futures of a buffered stream are polled only while the stream is.
#[tokio::test(start_paused = true)]
async fn the_body_of_a_stream_may_read_what_the_stream_loads() {
    let cache = memory();
    let work = async {
        let mut values = futures_util::stream::iter([("a", 5), ("b", 50), ("c", 50)])
            .map(|(key, milliseconds)| {
                load_with(&cache, key, group(key), move || async move {
                    sleep(Duration::from_millis(milliseconds)).await;
                    1
                })
            })
            .buffered(3);
        (values.next().await.unwrap(), load(&cache, "b", group("b"), 2).await)
    };
    assert_eq!(soon(work).await, (1, 2));
    assert_eq!((cache.stats().stalled_loads, cache.loads_in_flight()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_kept_after_a_timeout_does_not_block_the_next_read() {
    let cache = memory();
    let load_slowly = || async {
        sleep(Duration::from_millis(50)).await;
        1
    };
    let mut kept = std::pin::pin!(load_with(&cache, "k", group("g"), load_slowly));
    timeout(Duration::from_millis(5), &mut kept).await.unwrap_err();
    let others: Vec<_> = (2..5).map(|value| load(&cache, "k", group("g"), value)).collect();
    let values = soon(futures_util::future::join_all(others)).await;
    assert!(values[0] > 1 && values.iter().all(|value| *value == values[0]), "{values:?}");
    assert_eq!(cache.stats().stalled_loads, 1);
    // The load that was left alone goes on when it is polled.
    assert_eq!(soon(kept).await, 1);
    assert_eq!(cache.loads_in_flight(), 0);
}

/// A follower that takes over, and is not polled, blocks no other.
#[tokio::test(start_paused = true)]
async fn a_follower_that_is_not_polled_does_not_block_the_others() {
    let cache = memory();
    let gate = Gate::new();
    let leader = load_behind(&cache, "k", group("g"), &gate, 1);
    gate.reached().await;
    let mut kept = std::pin::pin!(load(&cache, "k", group("g"), 2));
    timeout(Duration::from_millis(5), &mut kept).await.unwrap_err();
    let cached = cache.clone();
    let other = tokio::spawn(async move { load(&cached, "k", group("g"), 3).await });
    settle().await;
    leader.abort();
    drop(leader.await);
    assert_eq!(soon(other).await.unwrap(), 3);
    assert_eq!(soon(kept).await, 3);
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_load_that_hangs_is_bounded() {
    let limit = Duration::from_secs(2);
    let cache = Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).load_wait_limit(limit).build();
    let gate = Gate::new();
    let hanging = load_behind(&cache, "k", group("g"), &gate, 1);
    gate.reached().await;
    let began = tokio::time::Instant::now();
    let others: Vec<_> = (2..5).map(|value| load(&cache, "k", group("g"), value)).collect();
    let values = soon(futures_util::future::join_all(others)).await;
    assert!(values.iter().all(|value| *value == values[0] && *value > 1), "{values:?}");
    assert!(began.elapsed() >= limit && began.elapsed() < 2 * limit, "waited {:?}", began.elapsed());
    assert_eq!((cache.stats().stalled_loads, cache.stats().loads), (1, 2));
    gate.open();
    assert_eq!(hanging.await.unwrap(), 1);
    assert_eq!(cache.loads_in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_long_load_that_makes_progress_is_not_loaded_twice() {
    let cache = memory();
    let leader = tokio::spawn({
        let cache = cache.clone();
        async move {
            load_with(&cache, "k", group("g"), || async {
                for _ in 0..100 {
                    sleep(Duration::from_millis(100)).await;
                }
                1
            })
            .await
        }
    });
    settle().await;
    assert_eq!(load(&cache, "k", group("g"), 2).await, 1);
    assert_eq!(leader.await.unwrap(), 1);
    assert_eq!((cache.stats().loads, cache.stats().stalled_loads), (1, 0));
}
