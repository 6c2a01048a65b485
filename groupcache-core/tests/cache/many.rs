//! Reads of several keys at once.

use std::convert::Infallible;

use groupcache_conformance::doubles::{
    CountingBackend, Counts, Operation, PlainBackend, ScriptedBackend, Step,
};
use groupcache_core::backend::{Lookup, Minted, StoreOutcome, TimeLeft};
use groupcache_core::{Address, Entry, EntryOptions, ErrorKind, Key, ManualClock, Miss, depend};

use crate::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Loads the values of `keys`. Each depends on the group `page`, and on one that its load discovers.
async fn load_all<B: Backend>(cache: &Cache<B>, keys: u32) {
    for key in 0..keys {
        let load = || async {
            depend(Group::new("author").with("id", key)).await;
            Ok::<_, Infallible>(key)
        };
        assert_eq!(cache.get_or_load(&key, group("page"), load).await, Ok(key));
    }
}

async fn get_all<B: Backend>(cache: &Cache<B>, keys: u32) -> Vec<Option<u32>> {
    cache.get_many((0..keys).map(|key| (key, group("page")))).await
}

#[tokio::test]
async fn many_keys_are_one_round_trip_whatever_the_options() {
    let plain = EntryOptions::new().time_to_live(MINUTE);
    for options in [plain, plain.stale_if_error(MINUTE), plain.stale_while_revalidate(MINUTE)] {
        let backend = CountingBackend::new(PlainBackend::new());
        let cache = Cache::builder(backend.clone()).options(options).build();
        load_all(&cache, 300).await;
        let counts = backend.counting(async {
            assert_eq!(get_all(&cache, 300).await, (0..300).map(Some).collect::<Vec<_>>());
        });
        assert_eq!(counts.await, Counts { lookups_of_many: 1, ..Counts::default() });
        assert_eq!((cache.stats().hits, cache.stats().misses_timeout), (300, 0));
    }
}

#[tokio::test]
async fn many_keys_with_groups_that_the_process_has_not_seen_are_two_round_trips() {
    let inner = PlainBackend::new();
    let stored = EntryOptions::new().time_to_live(MINUTE).stale_if_error(MINUTE);
    load_all(&Cache::builder(inner.clone()).options(stored).build(), 300).await;
    // Of the readers one has stale windows, and the other reads entries that have a grace period all the same.
    for options in [stored, EntryOptions::new()] {
        let backend = CountingBackend::new(inner.clone());
        let cache = Cache::builder(backend.clone()).options(options).build();
        for round_trips in [2, 1] {
            let counts = backend.counting(async {
                assert_eq!(get_all(&cache, 300).await.into_iter().flatten().count(), 300);
            });
            let more = usize::from(options == EntryOptions::new() && round_trips == 1);
            let expected = Counts { lookups_of_many: round_trips + more, ..Counts::default() };
            assert_eq!(counts.await, expected);
        }
    }
}

#[tokio::test]
async fn many_keys_in_a_load_are_one_mint_and_one_round_trip() {
    let backend = CountingBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    load_all(&cache, 100).await;
    let outer = async || {
        load_with(&cache, "outer", group("outer"), || async {
            get_all(&cache, 100).await.into_iter().flatten().sum()
        })
        .await
    };
    let counts = backend.counting(async { assert_eq!(outer().await, 4950) }).await;
    let expected = Counts { lookups: 1, mints: 1, lookups_of_many: 1, stores: 1, ..Counts::default() };
    assert_eq!(counts, expected);
    assert_eq!(outer().await, 4950);
    cache.invalidate(Group::new("author").with("id", 42)).await.unwrap();
    assert_eq!(cache.get::<u32, _, _>("outer", group("outer")).await, None, "it depends on all of them");
}

/// The groups of another cache are found late otherwise.
#[tokio::test]
async fn many_keys_of_another_cache_are_one_mint() {
    let inner = Cache::builder(PlainBackend::new()).build();
    for key in 0..50_u32 {
        let own = Group::new("row").with("id", key);
        inner.get_or_load(&key, own, || async { Ok::<_, Infallible>(key) }).await.unwrap();
    }
    let backend = CountingBackend::new(PlainBackend::new());
    let outer = Cache::builder(backend.clone()).build();
    let read = || async {
        let of_row = |key: u32| (key, Group::new("row").with("id", key));
        let rows: Vec<Option<u32>> = inner.get_many((0..50).map(of_row)).await;
        rows.into_iter().flatten().sum()
    };
    let counts = backend.counting(async {
        assert_eq!(load_with(&outer, "sum", group("outer"), read).await, 1225);
    });
    let expected = Counts { lookups: 1, mints: 2, stores: 1, ..Counts::default() };
    assert_eq!(counts.await, expected, "one mint before the load, one for all groups inside");
}

#[tokio::test]
async fn many_keys_at_two_milliseconds_a_round_trip_are_all_hits() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let options = EntryOptions::new().time_to_live(MINUTE).stale_if_error(MINUTE);
    let cache = Cache::builder(Slow(backend)).options(options).build();
    load_all(&cache, 300).await;
    assert_eq!(get_all(&cache, 300).await.into_iter().flatten().count(), 300);
    let other_process = Cache::builder(Arc::new(Slow(cache.backend().0.clone()))).build();
    assert_eq!(get_all(&other_process, 300).await.into_iter().flatten().count(), 300);
}

/// A store whose every lookup takes two milliseconds.
#[derive(Debug)]
struct Slow(ScriptedBackend<PlainBackend>);

impl Slow {
    async fn delay() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl Backend for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    async fn lookup(
        &self,
        key: &Key,
        groups: &[Group],
        time_left: TimeLeft,
    ) -> groupcache_core::Result<Lookup> {
        Self::delay().await;
        self.0.lookup(key, groups, time_left).await
    }

    async fn lookup_many(
        &self,
        requests: &[(Key, Groups)],
        time_left: TimeLeft,
    ) -> groupcache_core::Result<Vec<Lookup>> {
        Self::delay().await;
        self.0.lookup_many(requests, time_left).await
    }

    async fn mint(&self, groups: &[Group]) -> groupcache_core::Result<Minted> {
        self.0.mint(groups).await
    }

    async fn bump(&self, groups: &[Group]) -> groupcache_core::Result<()> {
        self.0.bump(groups).await
    }

    async fn store(
        &self,
        entry: &Arc<Entry>,
        time: Option<Duration>,
    ) -> groupcache_core::Result<StoreOutcome> {
        self.0.store(entry, time).await
    }

    async fn delete(&self, key: &Key) -> groupcache_core::Result<()> {
        self.0.delete(key).await
    }
}

#[tokio::test]
async fn no_keys_are_no_round_trip() {
    let backend = CountingBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    let counts = backend.counting(async { assert_eq!(get_all(&cache, 0).await, []) });
    assert_eq!(counts.await, Counts::default());
}

#[tokio::test]
async fn duplicates_and_misses_are_returned_in_order() {
    let cache = memory();
    load(&cache, "a", group("g"), 1).await;
    load(&cache, "b", group("g"), 2).await;
    let keys = ["b", "none", "a", "b"].map(|key| (key, group("g")));
    assert_eq!(cache.get_many(keys).await, [Some(2), None, Some(1), Some(2)]);
}

#[tokio::test]
async fn an_expired_value_is_a_miss_of_many_with_and_without_a_window() {
    let clock = ManualClock::new();
    let options = EntryOptions::new().time_to_live(MINUTE).stale_if_error(MINUTE);
    let backend = PlainBackend::with_clock(clock.clone());
    let cache = Cache::builder(backend).clock(clock.clone()).options(options).build();
    load_all(&cache, 3).await;
    clock.advance(MINUTE);
    for cache in [cache.clone(), cache.with_options(EntryOptions::new())] {
        assert_eq!(get_all(&cache, 3).await, [None; 3]);
    }
    assert_eq!(cache.stats().misses_expired, 6);
}

#[tokio::test]
async fn of_two_round_trips_the_first_keeps_its_hits_if_the_second_fails() {
    let plain = PlainBackend::new();
    let one = Cache::builder(plain.clone()).build();
    load_all(&one, 2).await;
    let named = groups(["g"]);
    load(&one, "named", named.clone(), 7).await;
    let backend = ScriptedBackend::new(plain);
    let cache = Cache::builder(backend.clone()).build();
    backend.next(Operation::LookupMany, Step::Pass);
    backend.next(Operation::LookupMany, Step::Fail(ErrorKind::Unavailable));
    let address = |key: Key, groups| Address { key, groups };
    let of = |key: u32| address(Key::of(&key).unwrap(), group("page"));
    let all = [of(0), address(Key::of("named").unwrap(), named), of(1)];
    let found = cache.find_many(&all, |entry| Some(entry.body().len())).await;
    assert_eq!(found[0], Err(Miss::Unavailable));
    assert!(found[1].is_ok());
    assert_eq!(found[2], Err(Miss::Unavailable));
}
