//! What is remembered of the groups that loads discover: in the process, within bounds, and in the entry.

use std::convert::Infallible;

use groupcache_conformance::doubles::{CountingBackend, Counts, PlainBackend};
use groupcache_core::{
    Address, CacheBuilder, EntryOptions, Key, LoadContext, Loaded, ManualClock, Served, ServedFrom, depend,
};

use crate::*;

const KEYS: u32 = 20_000;

/// A value of the group `page`, which also depends on a group of its own.
async fn discovering<B: Backend>(cache: &Cache<B>, key: u32) {
    let load = || async {
        depend(Group::new("author").with("id", key)).await;
        Ok::<_, Infallible>(key)
    };
    assert_eq!(cache.get_or_load(&key, group("page"), load).await, Ok(key));
}

/// The same, but the loader names the group after it has read the data.
async fn late<B: Backend>(cache: &Cache<B>, key: u32) {
    let load = || async {
        LoadContext::current().unwrap().depend_late(Group::new("author").with("id", key));
        Ok::<_, Infallible>(key)
    };
    assert_eq!(cache.get_or_load(&key, group("page"), load).await, Ok(key));
}

/// Returns the loads of each pass over all keys.
async fn loads_of_passes<B: Backend>(cache: &Cache<B>, keys: u32, read: impl AsyncFn(u32)) -> [u64; 3] {
    let mut loads = [0; 3];
    for pass in &mut loads {
        let before = cache.stats().loads;
        for key in 0..keys {
            read(key).await;
        }
        *pass = cache.stats().loads - before;
    }
    loads
}

fn large_memory() -> Cache<MemoryBackend> {
    Cache::builder(MemoryBackend::with_max_bytes(1 << 30)).build()
}

fn forgetful<B: Backend>(builder: CacheBuilder<B>) -> Cache<B> {
    builder.discovered_groups_bytes_max(0).build()
}

#[tokio::test]
async fn pages_over_another_cache_are_hits_in_the_third_pass() {
    let (pages, rows) = (large_memory(), large_memory());
    let read = async |page: u32| {
        let rows = rows.clone();
        let load = || async move {
            discovering(&rows, page).await;
            Ok::<_, Infallible>(page)
        };
        let view = Group::new("view").with("page", page);
        assert_eq!(pages.get_or_load(&("page", page), view, load).await, Ok(page));
    };
    // The groups of the inner entry are found too late in the first pass.
    assert_eq!(loads_of_passes(&pages, 2000, read).await, [2000, 2000, 0]);
}

#[tokio::test]
async fn any_number_of_keys_with_late_groups_are_hits_in_the_third_pass() {
    let cache = large_memory();
    let read = async |key| late(&cache, key).await;
    assert_eq!(loads_of_passes(&cache, KEYS, read).await, [u64::from(KEYS), u64::from(KEYS), 0]);
}

#[tokio::test]
async fn a_process_without_memory_of_groups_stores_the_second_value() {
    let memory = forgetful(Cache::builder(MemoryBackend::with_max_bytes(64 << 20)));
    assert_eq!(loads_of_passes(&memory, 1000, async |key| late(&memory, key).await).await, [1000, 1000, 0]);
    let plain = forgetful(Cache::builder(PlainBackend::new()));
    assert_eq!(loads_of_passes(&plain, 1000, async |key| late(&plain, key).await).await, [1000, 1000, 0]);
    assert_eq!((memory.stats().placeholders_stored, plain.stats().placeholders_stored), (1000, 1000));
    assert_eq!((memory.stats().stores, plain.stats().stores), (1000, 1000));
    assert_eq!((memory.stats().discovered_groups_bytes, plain.stats().discovered_groups_bytes), (0, 0));
}

#[tokio::test]
async fn any_number_of_keys_with_discovered_groups_are_hits_of_one_round_trip() {
    let backend = CountingBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    let read = async |key| discovering(&cache, key).await;
    assert_eq!(loads_of_passes(&cache, KEYS, read).await, [u64::from(KEYS), 0, 0]);
    let third = backend.counting(async {
        for key in 0..KEYS {
            discovering(&cache, key).await;
        }
    });
    assert_eq!(third.await, Counts { lookups: KEYS as usize, ..Counts::default() });
    let remembered = cache.stats().discovered_groups_bytes;
    assert!((u64::from(KEYS) * 100..16 << 20).contains(&remembered), "{remembered} bytes");
}

#[tokio::test]
async fn a_hit_of_a_forgotten_key_is_two_round_trips() {
    let backend = CountingBackend::new(PlainBackend::new());
    let cache = forgetful(Cache::builder(backend.clone()));
    discovering(&cache, 5).await;
    for _ in 0..2 {
        let hit = backend.counting(discovering(&cache, 5)).await;
        assert_eq!(hit, Counts { lookups: 2, ..Counts::default() });
    }
    assert_eq!(cache.stats().loads, 1);
}

#[tokio::test]
async fn another_process_learns_the_late_groups_from_the_store() {
    let backend = PlainBackend::new();
    late(&Cache::builder(backend.clone()).build(), 5).await;
    let other_process = Cache::builder(backend.clone()).build();
    assert_eq!(other_process.get::<u32, _, _>(&5, group("page")).await, None, "it has no value");
    late(&other_process, 5).await;
    assert_eq!(other_process.stats().misses_groups_changed, 2);
    assert_eq!((other_process.stats().stores, other_process.stats().placeholders_stored), (1, 0));
    assert_eq!(Cache::builder(backend).build().get(&5, group("page")).await, Some(5));
}

#[tokio::test]
async fn an_invalidated_entry_names_the_groups_of_the_next_load() {
    for named in [true, false] {
        let backend = PlainBackend::new();
        let cache = Cache::builder(backend.clone()).build();
        late(&cache, 5).await;
        late(&cache, 5).await;
        let author = Group::new("author").with("id", 5);
        cache.invalidate(if named { group("page") } else { author.into() }).await.unwrap();
        let other_process = forgetful(Cache::builder(backend));
        late(&other_process, 5).await;
        assert_eq!((other_process.stats().loads, other_process.stats().stores), (1, 1));
    }
}

/// What is read late may have changed since the generation of the group was.
#[tokio::test]
async fn a_late_group_that_is_invalidated_during_the_load_makes_the_value_stale() {
    for backend in [PlainBackend::new(), PlainBackend::new()] {
        let cache = forgetful(Cache::builder(backend));
        late(&cache, 5).await;
        let invalidating = || async {
            cache.invalidate(Group::new("author").with("id", 5)).await.unwrap();
            LoadContext::current().unwrap().depend_late(Group::new("author").with("id", 5));
            Ok::<_, Infallible>(1)
        };
        assert_eq!(cache.get_or_load(&5, group("page"), invalidating).await, Ok(1));
        assert_eq!(cache.get::<u32, _, _>(&5, group("page")).await, None);
    }
}

/// A reader of bytes accepts any body, and these options serve invalidated entries.
#[tokio::test]
async fn a_placeholder_is_never_served() {
    let minute = Duration::from_secs(60);
    let options = EntryOptions::new().time_to_live(minute).stale_if_error(minute);
    let options = options.stale_while_revalidate(minute).serve_invalidated_entries_while_stale();
    let address = Address { key: Key::of("page").unwrap(), groups: group("page") };
    async fn check<B: Backend>(cache: &Cache<B>, address: &Address) {
        let load = |late: bool| async move {
            if late {
                LoadContext::current().unwrap().depend_late(group("late"));
            }
            if late { Ok(Loaded::store(1, "body".into())) } else { Err("the source is down") }
        };
        let accept = |entry: &Arc<groupcache_core::Entry>| Some(entry.body().len());
        let first = cache.read(address, accept, || load(true)).await.unwrap();
        assert!(matches!(first.served, Served::Loaded { stored: false, .. }));
        cache.invalidate(groups(["page", "late"])).await.unwrap();
        assert_eq!(cache.find(address, accept).await.ok(), None);
        assert_eq!(cache.read_now(address, accept), None);
        assert!(cache.read(address, accept, || load(false)).await.is_err());
        let second = cache.read(address, accept, || load(true)).await.unwrap();
        assert!(matches!(second.served, Served::Loaded { stored: true, .. }));
        let hit = cache.read(address, accept, || load(false)).await.unwrap();
        assert!(matches!(hit.served, Served::Entry(4, ServedFrom::Hit)));
    }
    check(&forgetful(Cache::builder(PlainBackend::new()).options(options)), &address).await;
    check(&forgetful(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).options(options)), &address)
        .await;
}

#[tokio::test]
async fn a_placeholder_replaces_an_expired_value_and_no_valid_one() {
    let clock = ManualClock::new();
    let minute = Duration::from_secs(60);
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let options = EntryOptions::new().time_to_live(minute).stale_if_error(60 * minute);
    let cache = Cache::builder(backend).clock(clock.clone()).options(options).build();
    load(&cache, "k", group("g"), 1).await;
    let gate = Gate::new();
    let slow = tokio::spawn({
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        async move {
            load_with(&cache, "k", groups(["g", "other"]), || async move {
                gate.pass().await;
                LoadContext::current().unwrap().depend_late(group("late"));
                2
            })
            .await
        }
    });
    gate.reached().await;
    gate.open();
    assert_eq!(slow.await.unwrap(), 2);
    assert_eq!(load(&cache, "k", group("g"), 3).await, 1, "the valid value stays");
    clock.advance(2 * minute);
    let late = || async {
        LoadContext::current().unwrap().depend_late(group("later"));
        Ok::<_, &str>(4)
    };
    assert_eq!(cache.get_or_load("k", group("g"), late).await, Ok(4));
    clock.advance(Duration::from_secs(1));
    let failing = || async { Err::<u32, _>("the source is down") };
    let read = cache.get_or_load("k", group("g"), failing).await;
    assert_eq!(read, Err("the source is down"), "readers have seen a newer value than the expired one");
}
