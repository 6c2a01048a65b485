//! Times to live, and when a stale value is served.

use std::convert::Infallible;

use groupcache_conformance::doubles::{Bug, CountingBackend, PlainBackend, ScriptedBackend};
use groupcache_core::{Address, EntryOptions, Error, Key, Loaded, ManualClock, Served};

use crate::*;

const SECOND: Duration = Duration::from_secs(1);

fn timed(options: EntryOptions) -> (Cache<MemoryBackend>, ManualClock) {
    let clock = ManualClock::new();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    (Cache::builder(backend).clock(clock.clone()).options(options).build(), clock)
}

async fn failing<B: Backend>(cache: &Cache<B>) -> Result<u32, &'static str> {
    cache.get_or_load("k", group("g"), || async { Err("database is down") }).await
}

#[tokio::test]
async fn an_entry_is_a_hit_until_its_time_to_live_is_over() {
    let (cache, clock) = timed(EntryOptions::new().time_to_live(10 * SECOND));
    assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
    clock.advance(10 * SECOND - Duration::from_millis(1));
    assert_eq!(load(&cache, "k", group("g"), 2).await, 1);
    clock.advance(Duration::from_millis(1));
    assert_eq!(load(&cache, "k", group("g"), 3).await, 3);
    clock.advance(9 * SECOND);
    assert_eq!(load(&cache, "k", group("g"), 4).await, 3, "a load starts a new time to live");
}

#[tokio::test]
async fn without_a_time_to_live_an_entry_in_memory_lives_until_it_is_evicted() {
    let (cache, clock) = timed(EntryOptions::new());
    load(&cache, "k", group("g"), 1).await;
    clock.advance(Duration::from_secs(100 * 366 * 86_400));
    assert_eq!(load(&cache, "k", group("g"), 2).await, 1);
}

#[tokio::test]
async fn a_time_to_live_of_zero_stores_nothing() {
    let zero = EntryOptions::new().time_to_live(Duration::ZERO);
    // Not even for the stale windows.
    for options in [zero, zero.stale_while_revalidate(SECOND), zero.stale_if_error(SECOND)] {
        let (cache, _) = timed(options);
        assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
        assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
        assert_eq!(cache.stats().stores, 0, "{options:?}");
        assert!(!is_stored(&cache).await);
    }
    assert!(is_stored(&timed(EntryOptions::new()).0).await);
}

/// Whether the reader learns that its value is stored.
async fn is_stored<B: Backend>(cache: &Cache<B>) -> bool {
    let address = Address { key: Key::of("stored").unwrap(), groups: group("g") };
    let load = || async { Ok::<_, Error>(Loaded::store((), "body".into())) };
    match cache.read(&address, |_| Some(()), load).await.unwrap().served {
        Served::Loaded { stored, .. } => stored,
        Served::Entry(..) => panic!("there is no entry under this key"),
    }
}

#[tokio::test]
async fn a_time_to_live_beyond_the_range_of_the_clock_never_ends() {
    let eternal = EntryOptions::new().time_to_live(Duration::MAX);
    for options in [eternal, eternal.stale_while_revalidate(SECOND), eternal.stale_if_error(Duration::MAX)] {
        let (cache, clock) = timed(options);
        load(&cache, "k", group("g"), 1).await;
        clock.advance(Duration::from_secs(86_400));
        assert_eq!(load(&cache, "k", group("g"), 2).await, 1, "{options:?}");
    }
}

#[tokio::test]
async fn a_stale_window_beyond_the_range_of_the_clock_never_ends() {
    let (cache, clock) = timed(EntryOptions::new().time_to_live(10 * SECOND).stale_if_error(Duration::MAX));
    load(&cache, "k", group("g"), 1).await;
    assert_eq!(load(&cache, "k", group("g"), 2).await, 1);
    clock.advance(Duration::from_secs(50 * 366 * 86_400));
    assert_eq!(failing(&cache).await, Ok(1));
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
}

#[tokio::test]
async fn jitter_spreads_expiry_and_never_extends_a_time_to_live() {
    let (cache, clock) = timed(EntryOptions::new().time_to_live(100 * SECOND).jitter(0.5));
    for key in 0..200 {
        load(&cache, &key.to_string(), group("g"), 1).await;
    }
    let alive = || async {
        let keys: Vec<_> = (0..200).map(|key| (key.to_string(), group("g"))).collect();
        cache.get_many::<u32, _, _, _>(keys).await.iter().flatten().count()
    };
    clock.advance(49 * SECOND);
    assert_eq!(alive().await, 200);
    clock.advance(26 * SECOND);
    let half = alive().await;
    assert!((50..150).contains(&half), "{half} of 200 are left after three quarters of the time");
    clock.advance(25 * SECOND);
    assert_eq!(alive().await, 0);
}

#[tokio::test]
async fn while_one_reader_refreshes_the_others_get_the_expired_value() {
    let options = EntryOptions::new().time_to_live(10 * SECOND).stale_while_revalidate(30 * SECOND);
    let (cache, clock) = timed(options);
    load(&cache, "k", group("g"), 1).await;
    clock.advance(11 * SECOND);
    let gate = Gate::new();
    let refresher = load_behind(&cache, "k", group("g"), &gate, 2);
    gate.reached().await;
    for _ in 0..10 {
        assert_eq!(soon(load(&cache, "k", group("g"), 3)).await, 1);
    }
    assert_eq!(cache.stats().loads, 2, "the first, and the one that refreshes");
    assert_eq!(cache.stats().stale_while_revalidate, 11);
    gate.open();
    assert_eq!(soon(refresher).await.unwrap(), 2);
    assert_eq!(load(&cache, "k", group("g"), 4).await, 2);
}

#[tokio::test]
async fn the_window_of_stale_while_revalidate_ends() {
    let options = EntryOptions::new().time_to_live(10 * SECOND).stale_while_revalidate(30 * SECOND);
    let (cache, clock) = timed(options.stale_if_error(60 * SECOND));
    load(&cache, "k", group("g"), 1).await;
    clock.advance(41 * SECOND);
    let gate = Gate::new();
    let refresher = load_behind(&cache, "k", group("g"), &gate, 2);
    gate.reached().await;
    let reader = load_behind(&cache, "k", group("g"), &gate, 3);
    settle().await;
    assert!(!reader.is_finished(), "the value is too old to be served during the refresh");
    gate.open();
    soon(refresher).await.unwrap();
    assert_eq!(soon(reader).await.unwrap(), 2);
}

/// At the end of its time to live a value is no hit, and at the end of a window it is not served.
#[tokio::test]
async fn a_time_to_live_and_its_windows_end_to_the_millisecond() {
    let options = EntryOptions::new().time_to_live(10 * SECOND);
    for (revalidate, error) in [(20, 30), (30, 20)] {
        let options = options.stale_while_revalidate(revalidate * SECOND).stale_if_error(error * SECOND);
        let stored = || async {
            let (cache, clock) = timed(options);
            load(&cache, "k", group("g"), 1).await;
            (cache, clock)
        };
        let nearly = |moment: u32| moment * SECOND - Duration::from_millis(1);

        let (cache, clock) = stored().await;
        clock.advance(nearly(10));
        assert_eq!(load(&cache, "k", group("g"), 2).await, 1);
        clock.advance(Duration::from_millis(1));
        assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
        assert_eq!(cache.stats().stale_while_revalidate, 1);

        let (cache, clock) = stored().await;
        clock.advance(nearly(10 + revalidate));
        assert_eq!(failing(&cache).await, Ok(1), "either window is enough");
        assert_eq!(cache.stats().stale_while_revalidate, 1);
        clock.advance(Duration::from_millis(1));
        load(&cache, "k", group("g"), 2).await;
        assert_eq!(cache.stats().stale_while_revalidate, 1, "the window is over");

        let (cache, clock) = stored().await;
        clock.advance(nearly(10 + error.max(revalidate)));
        assert_eq!(failing(&cache).await, Ok(1));
        clock.advance(Duration::from_millis(1));
        assert_eq!(failing(&cache).await, Err("database is down"), "both windows are over");
    }
}

#[tokio::test]
async fn a_store_that_never_returns_the_time_left_is_looked_up_once_and_has_no_hit() {
    let backend = CountingBackend::new(PlainBackend::with_bug(Bug::TimeLeftMissing));
    let options = EntryOptions::new().time_to_live(10 * SECOND).stale_if_error(SECOND);
    let cache = Cache::builder(backend.clone()).options(options).build();
    assert_eq!(load(&cache, "k", group("g"), 1).await, 1);
    let again = backend.counting(async { assert_eq!(load(&cache, "k", group("g"), 2).await, 2) });
    assert_eq!(soon(Box::pin(again)).await.lookups, 1);
}

#[tokio::test]
async fn an_invalidated_value_is_not_served_while_revalidating() {
    let options = EntryOptions::new().time_to_live(10 * SECOND);
    let options = options.stale_while_revalidate(30 * SECOND).stale_if_error(30 * SECOND);
    for expired in [false, true] {
        let (cache, clock) = timed(options);
        load(&cache, "k", group("g"), 1).await;
        if expired {
            clock.advance(11 * SECOND);
        }
        cache.invalidate(group("g")).await.unwrap();
        assert_eq!(failing(&cache).await, Err("database is down"));
        assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
    }
}

#[tokio::test]
async fn an_invalidated_value_is_served_stale_only_with_the_option() {
    let options = EntryOptions::new().time_to_live(100 * SECOND);
    let options = options.stale_while_revalidate(30 * SECOND).serve_invalidated_entries_while_stale();
    let (cache, _) = timed(options);
    load(&cache, "k", group("g"), 1).await;
    load(&cache, "other", group("g"), 1).await;
    cache.invalidate(group("g")).await.unwrap();
    let gate = Gate::new();
    let refresher = load_behind(&cache, "k", group("g"), &gate, 2);
    gate.reached().await;
    assert_eq!(soon(load(&cache, "k", group("g"), 3)).await, 1);
    gate.open();
    assert_eq!(soon(refresher).await.unwrap(), 2);

    let (cache, _) = timed(EntryOptions::new().serve_invalidated_entries_while_stale());
    load(&cache, "k", group("g"), 1).await;
    cache.invalidate(group("g")).await.unwrap();
    assert_eq!(failing(&cache).await, Err("database is down"), "without a window no stale value is served");
}

#[tokio::test]
async fn a_dropped_refresh_is_left_to_the_next_reader() {
    let options = EntryOptions::new().time_to_live(10 * SECOND).stale_while_revalidate(30 * SECOND);
    let (cache, clock) = timed(options);
    load(&cache, "k", group("g"), 1).await;
    clock.advance(11 * SECOND);
    let gate = Gate::new();
    let refresher = load_behind(&cache, "k", group("g"), &gate, 2);
    gate.reached().await;
    refresher.abort();
    drop(refresher.await);
    assert_eq!(soon(load(&cache, "k", group("g"), 3)).await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_never_ends_gives_way_to_waiting_readers() {
    let options = EntryOptions::new().time_to_live(10 * SECOND).stale_while_revalidate(60 * SECOND);
    let (cache, clock) = timed(options);
    load(&cache, "k", group("g"), 1).await;
    clock.advance(11 * SECOND);
    let address = Address { key: Key::of("k").unwrap(), groups: group("g") };
    let never = || std::future::pending::<Result<Loaded<()>, Infallible>>();
    let refresh = cache.read(&address, |_| Some(()), never).await.unwrap().refresh;
    let background = tokio::spawn(refresh.unwrap().run_in_background(|_| Some(())));
    // The window is over, so readers wait.
    clock.advance(60 * SECOND);
    let began = tokio::time::Instant::now();
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
    assert_eq!(began.elapsed().as_secs(), 30, "no longer than for any load");
    background.await.unwrap();
    assert_eq!(cache.stats().loads_cancelled, 1);
}

#[tokio::test]
async fn an_expired_value_is_served_if_the_load_fails() {
    let (cache, clock) = timed(EntryOptions::new().time_to_live(10 * SECOND).stale_if_error(30 * SECOND));
    load(&cache, "k", group("g"), 1).await;
    clock.advance(39 * SECOND);
    assert_eq!(failing(&cache).await, Ok(1));
    assert_eq!(cache.stats().stale_if_error, 1);
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2, "the next reader loads again");
    clock.advance(41 * SECOND);
    assert_eq!(failing(&cache).await, Err("database is down"));
}

#[tokio::test]
async fn a_failed_refresh_serves_the_expired_value_until_both_windows_have_ended() {
    let options = EntryOptions::new().time_to_live(10 * SECOND);
    for (revalidate, error) in [(60, 30), (30, 60), (60, 0)] {
        let options = options.stale_while_revalidate(revalidate * SECOND).stale_if_error(error * SECOND);
        let (cache, clock) = timed(options);
        load(&cache, "k", group("g"), 1).await;
        clock.advance(69 * SECOND);
        assert_eq!(failing(&cache).await, Ok(1));
        clock.advance(SECOND);
        assert_eq!(failing(&cache).await, Err("database is down"));
    }
}

#[tokio::test]
async fn followers_of_a_failed_load_get_the_expired_value_too() {
    let (cache, clock) = timed(EntryOptions::new().time_to_live(10 * SECOND).stale_if_error(30 * SECOND));
    load(&cache, "k", group("g"), 1).await;
    clock.advance(11 * SECOND);
    let gate = Gate::new();
    let read = || {
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        tokio::spawn(async move {
            let loader = || async move {
                gate.pass().await;
                Err::<u32, _>("database is down")
            };
            cache.get_or_load("k", group("g"), loader).await
        })
    };
    let readers: Vec<_> = (0..10).map(|_| read()).collect();
    gate.reached().await;
    settle().await;
    gate.open();
    for reader in readers {
        assert_eq!(soon(reader).await.unwrap(), Ok(1));
    }
    assert_eq!(cache.stats().load_failures, 1);
}

#[tokio::test]
async fn an_absent_value_is_cached_for_the_negative_time_to_live() {
    let options = EntryOptions::new().time_to_live(100 * SECOND).negative_time_to_live(5 * SECOND);
    let (cache, clock) = timed(options);
    let find = |value: Option<u32>| {
        let cache = cache.clone();
        async move {
            let loader = || async move { Ok::<_, Infallible>(value) };
            cache.get_or_load_optional("k", group("g"), loader).await.unwrap()
        }
    };
    assert_eq!(find(None).await, None);
    clock.advance(4 * SECOND);
    assert_eq!(find(Some(1)).await, None);
    clock.advance(SECOND);
    assert_eq!(find(Some(1)).await, Some(1));
    clock.advance(99 * SECOND);
    assert_eq!(find(None).await, Some(1));
    cache.invalidate(group("g")).await.unwrap();
    assert_eq!(find(None).await, None);
    cache.invalidate(group("g")).await.unwrap();
    assert_eq!(find(Some(2)).await, Some(2), "created, and its group invalidated");
}

#[tokio::test]
async fn an_absent_value_is_not_cached_by_default() {
    let cache = memory();
    let find = |value: Option<u32>| {
        let cache = cache.clone();
        async move {
            let loader = || async move { Ok::<_, Infallible>(value) };
            cache.get_or_load_optional("k", group("g"), loader).await.unwrap()
        }
    };
    assert_eq!(find(None).await, None);
    assert_eq!(find(Some(1)).await, Some(1));
    assert_eq!(find(None).await, Some(1));
}

/// A store may return the time left only where the caller needs it.
#[tokio::test]
async fn an_entry_kept_for_stale_use_is_a_hit_for_readers_without_the_option() {
    let clock = ManualClock::new();
    let backend = ScriptedBackend::new(PlainBackend::with_clock(clock.clone()));
    let with_window = EntryOptions::new().time_to_live(10 * SECOND).stale_if_error(30 * SECOND);
    let cache = Cache::builder(backend).clock(clock.clone()).options(with_window).build();
    load(&cache, "k", group("g"), 1).await;
    let without = cache.with_options(EntryOptions::new());
    assert_eq!(load(&without, "k", group("g"), 2).await, 1);
    for cache in [&cache, &without] {
        assert_eq!(cache.get::<u32, _, _>("k", group("g")).await, Some(1));
        assert_eq!(cache.get_many::<u32, _, _, _>([("k", group("g"))]).await, [Some(1)]);
    }
    clock.advance(11 * SECOND);
    assert_eq!(cache.get_many::<u32, _, _, _>([("k", group("g"))]).await, [None]);
    assert_eq!(load(&without, "k", group("g"), 3).await, 3);
}

/// A value that is gone, or that became private, does not come back when a later load fails.
#[tokio::test]
async fn a_value_that_was_replaced_without_a_store_is_not_served_after_an_error() {
    let options = EntryOptions::new().time_to_live(SECOND).stale_if_error(60 * SECOND);
    let (cache, clock) = timed(options);
    let read = async |loaded: Result<Option<u32>, &'static str>| {
        cache.get_or_load_optional("k", group("g"), || async move { loaded }).await
    };
    assert_eq!(read(Ok(Some(1))).await, Ok(Some(1)));
    clock.advance(2 * SECOND);
    assert_eq!(read(Err("down")).await, Ok(Some(1)), "the expired value, as the options say");
    assert_eq!(read(Ok(None)).await, Ok(None));
    assert_eq!(read(Err("down")).await, Err("down"), "the value is gone");

    let address = Address { key: Key::of("private").unwrap(), groups: group("g") };
    let load = |loaded: Loaded<u32>| async move { Ok::<_, &'static str>(loaded) };
    let served = cache.read(&address, |_| Some(1), || load(Loaded::store(1, "1".into()))).await;
    assert!(matches!(served.unwrap().served, Served::Loaded { stored: true, .. }));
    clock.advance(2 * SECOND);
    let served = cache.read(&address, |_| Some(1), || load(Loaded::private(2))).await;
    assert!(matches!(served.unwrap().served, Served::Loaded { stored: false, .. }));
    let failing = || async { Err::<Loaded<u32>, _>("down") };
    assert!(matches!(cache.read(&address, |_| Some(1), failing).await, Err("down")));
}
