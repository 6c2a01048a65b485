//! The backend in memory: nothing grows without bound.

use groupcache_core::backend::{Found, Generation, TimeLeft};

use groupcache_core::{Entry, EntryOptions, Error, ErrorKind, Key, ManualClock, SystemClock};

use crate::*;

fn entry(key: u32, body: usize) -> Arc<Entry> {
    let key = Key::of(&key).unwrap();
    Arc::new(Entry::new(key, Groups::none(), Default::default(), vec![0; body].into(), Duration::ZERO))
}

/// Waits until `expected` groups are left. moka frees evicted entries later, during other operations.
async fn in_use(cache: &Cache<MemoryBackend>, expected: usize, after: &str) {
    let mut left = usize::MAX;
    for _ in 0..2000 {
        cache.backend().run_pending_tasks();
        left = cache.backend().group_count();
        if left == expected {
            return;
        }
        cache.get::<u32, _, _>("none", Groups::none()).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{left} groups are left, not {expected}, after {after}");
}

#[tokio::test]
async fn a_group_disappears_with_its_last_entry() {
    let clock = ManualClock::new();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let cache = Cache::builder(backend).clock(clock.clone()).build();
    let brief = cache.with_options(EntryOptions::new().time_to_live(Duration::from_secs(1)));

    load(&cache, "k", groups(["a", "b"]), 1).await;
    assert_eq!(cache.backend().group_count(), 2);
    cache.delete("k").await.unwrap();
    in_use(&cache, 0, "the delete of its entry").await;

    load(&cache, "k", groups(["a", "b"]), 1).await;
    load(&cache, "k", groups(["c"]), 1).await;
    in_use(&cache, 1, "the replacement of its entry").await;

    load(&brief, "other", groups(["d", "e"]), 1).await;
    clock.advance(Duration::from_secs(2));
    load(&brief, "other", groups(["e"]), 1).await;
    in_use(&cache, 2, "the expiry and replacement of its entry").await;

    cache.get_or_load("failing", group("f"), || async { Err::<u32, _>(()) }).await.unwrap_err();
    in_use(&cache, 2, "the failure of its load").await;
}

#[tokio::test]
async fn a_group_disappears_when_its_last_entry_expires() {
    let options = EntryOptions::new().time_to_live(Duration::from_millis(20));
    let cache = Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).options(options).build();
    for key in 0..50 {
        load(&cache, &key.to_string(), Group::new("g").with("id", key), 1).await;
    }
    assert_eq!(cache.backend().group_count(), 50);
    let gone = async {
        while cache.backend().group_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            cache.backend().run_pending_tasks();
        }
    };
    soon(gone).await;
    assert_eq!(cache.backend().entry_count(), 0);
}

#[tokio::test]
async fn a_group_disappears_when_its_last_entry_is_evicted() {
    let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 10)).build();
    for key in 0..10_000 {
        load(&cache, &key.to_string(), Group::new("g").with("id", key), 1).await;
    }
    cache.backend().run_pending_tasks();
    let entries = usize::try_from(cache.backend().entry_count()).unwrap();
    assert!((10..1000).contains(&entries), "{entries} entries");
    in_use(&cache, entries, "the eviction of most entries").await;
}

#[tokio::test]
async fn a_group_that_disappeared_and_came_back_revives_no_entry() {
    let backend = MemoryBackend::with_max_bytes(1 << 20);
    let g = [Group::new("g")];
    let old = backend.mint(&g).await.unwrap();
    let old_vector = old.vector.clone();
    drop(old);
    assert_eq!(backend.group_count(), 0);
    let new = backend.mint(&g).await.unwrap();
    assert_ne!(new.vector, old_vector);
    let key = Key::of("k").unwrap();
    let stale = Entry::new(key.clone(), Groups::from(g.clone()), old_vector, "v".into(), Duration::ZERO);
    backend.store(&Arc::new(stale), None).await.unwrap();
    let lookup = backend.lookup(&key, &g, TimeLeft::NotNeeded).await.unwrap();
    if let Found::Entry(entry, _) = &lookup.found {
        assert!(!lookup.current.equals(entry.vector()));
    }
    assert_eq!(lookup.current.complete(), Some(new.vector));
}

#[tokio::test]
async fn generations_of_two_stores_are_never_equal() {
    let one = MemoryBackend::with_max_bytes(1 << 20);
    let other = MemoryBackend::with_max_bytes(1 << 20);
    let mut seen: Vec<Generation> = Vec::new();
    for backend in [&one, &other, &one.clone()] {
        for name in ["a", "b"] {
            let minted = backend.mint(&[Group::new(name)]).await.unwrap();
            assert!(!seen.contains(&minted.vector[0]));
            seen.push(minted.vector[0]);
        }
    }
}

#[tokio::test]
async fn a_load_keeps_its_groups_until_its_entry_is_stored() {
    let cache = memory();
    let gate = Gate::new();
    load(&cache, "old", group("g"), 0).await;
    let reader = load_behind(&cache, "k", group("g"), &gate, 1);
    gate.reached().await;
    // Deletes the only entry of the group.
    cache.delete("old").await.unwrap();
    cache.backend().run_pending_tasks();
    assert_eq!(cache.backend().group_count(), 1);
    gate.open();
    assert_eq!(soon(reader).await.unwrap(), 1);
    assert_eq!(load(&cache, "k", group("g"), 2).await, 1, "stored, and valid");
}

#[tokio::test]
async fn a_load_keeps_the_groups_of_the_entry_that_it_replaces() {
    let cache = memory();
    let gate = Gate::new();
    load(&cache, "k", group("g"), 0).await;
    cache.invalidate(group("g")).await.unwrap();
    let reader = load_behind(&cache, "k", group("g"), &gate, 1);
    gate.reached().await;
    cache.delete("k").await.unwrap();
    // Long enough to free a group without a guard.
    for _ in 0..30 {
        cache.backend().run_pending_tasks();
        cache.get::<u32, _, _>("none", Groups::none()).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(cache.backend().group_count(), 1);
    gate.open();
    assert_eq!(soon(reader).await.unwrap(), 1);
    assert_eq!(load(&cache, "k", group("g"), 2).await, 1, "stored, and valid");
}

#[tokio::test]
async fn the_bytes_of_all_entries_stay_within_the_bound() {
    let backend = MemoryBackend::with_max_bytes(100_000);
    for key in 0..1000 {
        backend.store(&entry(key, 1000), None).await.unwrap();
    }
    backend.run_pending_tasks();
    assert!(backend.size_bytes() <= 100_000, "{}", backend.size_bytes());
    assert!((20..100).contains(&backend.entry_count()), "{} entries", backend.entry_count());
}

#[tokio::test]
async fn an_entry_larger_than_the_whole_cache_is_refused_and_removes_its_predecessor() {
    let backend = MemoryBackend::with_max_bytes(10_000);
    backend.store(&entry(1, 100), None).await.unwrap();
    let refused = backend.store(&entry(1, 10_000), None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Capacity);
    assert!(!refused.is_transient());
    let lookup = backend.lookup(entry(1, 0).key(), &[], TimeLeft::NotNeeded).await.unwrap();
    assert!(matches!(lookup.found, Found::Absent));

    let cache = Cache::builder(backend).build();
    let loader = || async { Ok::<_, Error>("x".repeat(10_000)) };
    assert_eq!(cache.get_or_load("k", group("g"), loader).await.unwrap().len(), 10_000);
    assert_eq!(cache.stats().store_failures, 1);
    in_use(&cache, 0, "the refusal of its entry").await;
}

#[tokio::test]
async fn any_time_to_live_works_on_the_system_clock() {
    let backend = MemoryBackend::with_max_bytes(1 << 20);
    let key = entry(1, 0).key().clone();
    for time in [Duration::MAX, Duration::from_secs(u64::MAX / 4), Duration::from_secs(31_536_000_000)] {
        backend.store(&entry(1, 1), Some(time)).await.unwrap();
        backend.run_pending_tasks();
        let lookup = backend.lookup(&key, &[], TimeLeft::Needed).await.unwrap();
        assert!(matches!(lookup.found, Found::Entry(..)), "after {time:?}");
    }
    backend.store(&entry(1, 1), Some(Duration::from_nanos(1))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let lookup = backend.lookup(&key, &[], TimeLeft::NotNeeded).await.unwrap();
    assert!(matches!(lookup.found, Found::Absent));
}

#[tokio::test]
async fn clones_are_the_same_store() {
    let backend = MemoryBackend::with_max_bytes(1 << 20);
    let one = Cache::builder(backend.clone()).clock(SystemClock).build();
    let other = Cache::builder(backend).build();
    load(&one, "k", group("g"), 1).await;
    assert_eq!(load(&other, "k", group("g"), 2).await, 1);
    other.invalidate(group("g")).await.unwrap();
    assert_eq!(load(&one, "k", group("g"), 3).await, 3);
}
