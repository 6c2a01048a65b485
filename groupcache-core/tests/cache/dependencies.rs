//! Groups that a load discovers while it runs.

use std::sync::atomic::{AtomicU32, Ordering};

use groupcache_conformance::doubles::{
    CountingBackend, Counts, Operation, PlainBackend, ScriptedBackend, Step,
};
use groupcache_core::{LoadContext, depend};

use crate::*;

/// A page of group `page` whose loader depends on the group `author`.
async fn page<B: Backend>(cache: &Cache<B>, author: &AtomicU32) -> u32 {
    load_with(cache, "page", group("page"), || async {
        depend(group("author")).await;
        author.load(Ordering::SeqCst)
    })
    .await
}

/// The same, but the loader depends on `author` after it has read the data.
async fn late_page<B: Backend>(cache: &Cache<B>, author: &AtomicU32) -> u32 {
    load_with(cache, "page", group("page"), || async {
        let author = author.load(Ordering::SeqCst);
        LoadContext::current().unwrap().depend_late(group("author"));
        author
    })
    .await
}

#[tokio::test]
async fn a_discovered_group_makes_the_entry_stale() {
    let (cache, author) = (memory(), AtomicU32::new(1));
    assert_eq!(page(&cache, &author).await, 1);
    author.store(2, Ordering::SeqCst);
    assert_eq!(page(&cache, &author).await, 1);
    cache.invalidate(group("author")).await.unwrap();
    assert_eq!(page(&cache, &author).await, 2);
    author.store(3, Ordering::SeqCst);
    cache.invalidate(group("page")).await.unwrap();
    assert_eq!(page(&cache, &author).await, 3);
}

#[tokio::test]
async fn a_group_invalidated_after_depend_makes_the_entry_stale() {
    let cache = memory();
    let gate = Gate::new();
    let reader = tokio::spawn({
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        async move {
            load_with(&cache, "page", group("page"), || async move {
                depend(group("author")).await;
                gate.pass().await;
                1
            })
            .await
        }
    });
    gate.reached().await;
    cache.invalidate(group("author")).await.unwrap();
    gate.open();
    assert_eq!(soon(reader).await.unwrap(), 1);
    assert_eq!(page(&cache, &AtomicU32::new(2)).await, 2);
}

#[tokio::test]
async fn a_process_that_knows_the_entry_makes_one_round_trip_and_another_two() {
    let backend = CountingBackend::new(PlainBackend::new());
    let author = AtomicU32::new(1);
    let cache = Cache::builder(backend.clone()).build();
    page(&cache, &author).await;
    let hit = |cache: Cache<_>| {
        let (backend, author) = (&backend, &author);
        async move { backend.counting(async { assert_eq!(page(&cache, author).await, 1) }).await }
    };
    let one = Counts { lookups: 1, ..Counts::default() };
    assert_eq!(hit(cache.clone()).await, one);
    let other_process = Cache::builder(backend.clone()).build();
    assert_eq!(hit(other_process.clone()).await, Counts { lookups: 2, ..Counts::default() });
    assert_eq!(hit(other_process).await, one, "it has seen the entry by now");
}

#[tokio::test]
async fn an_entry_of_unknown_groups_is_validated_against_all_of_them() {
    let backend = PlainBackend::new();
    let author = AtomicU32::new(1);
    page(&Cache::builder(backend.clone()).build(), &author).await;
    author.store(2, Ordering::SeqCst);
    let other_process = Cache::builder(backend.clone()).build();
    assert_eq!(page(&other_process, &author).await, 1);
    let third = Cache::builder(backend.clone()).build();
    third.invalidate(group("author")).await.unwrap();
    assert_eq!(third.get::<u32, _, _>("page", group("page")).await, None);
    assert_eq!(page(&third, &author).await, 2);
}

#[tokio::test]
async fn a_group_discovered_late_is_remembered_and_the_next_value_is_stored() {
    let (cache, author) = (memory(), AtomicU32::new(1));
    assert_eq!(late_page(&cache, &author).await, 1);
    author.store(2, Ordering::SeqCst);
    assert_eq!(late_page(&cache, &author).await, 2, "the first was not stored");
    author.store(3, Ordering::SeqCst);
    assert_eq!(late_page(&cache, &author).await, 2, "the second was stored");
    cache.invalidate(group("author")).await.unwrap();
    assert_eq!(late_page(&cache, &author).await, 3);
}

#[tokio::test]
async fn a_group_that_the_next_load_does_not_depend_on_is_forgotten() {
    let backend = CountingBackend::new(PlainBackend::new());
    let (cache, author) = (Cache::builder(backend.clone()).build(), AtomicU32::new(1));
    page(&cache, &author).await;
    cache.invalidate(group("page")).await.unwrap();
    assert_eq!(load(&cache, "page", group("page"), 2).await, 2);
    cache.invalidate(group("author")).await.unwrap();
    assert_eq!(load(&cache, "page", group("page"), 3).await, 2);
}

/// The flight began before an invalidation of a group that it discovers.
#[tokio::test]
async fn followers_check_the_groups_discovered_meanwhile() {
    let cache = memory();
    let author = Arc::new(AtomicU32::new(1));
    let gate = Gate::new();
    let leader = tokio::spawn({
        let (cache, gate, author) = (cache.clone(), Arc::clone(&gate), Arc::clone(&author));
        async move {
            load_with(&cache, "page", group("page"), || async move {
                depend(group("author")).await;
                let author = author.load(Ordering::SeqCst);
                gate.pass().await;
                author
            })
            .await
        }
    });
    gate.reached().await;
    author.store(2, Ordering::SeqCst);
    cache.invalidate(group("author")).await.unwrap();
    let follower = tokio::spawn({
        let (cache, author) = (cache.clone(), Arc::clone(&author));
        async move { page(&cache, &author).await }
    });
    settle().await;
    assert!(!follower.is_finished(), "it joined the flight, as their vectors are equal so far");
    gate.open();
    assert_eq!(soon(leader).await.unwrap(), 1);
    assert_eq!(soon(follower).await.unwrap(), 2);
    assert_eq!(page(&cache, &author).await, 2);
}

#[tokio::test]
async fn followers_that_may_not_share_load_once_together() {
    let cache = memory();
    let author = Arc::new(AtomicU32::new(1));
    let gate = Gate::new();
    let leader = tokio::spawn({
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        async move {
            load_with(&cache, "page", group("page"), || async move {
                depend(group("author")).await;
                gate.pass().await;
                1
            })
            .await
        }
    });
    gate.reached().await;
    author.store(2, Ordering::SeqCst);
    cache.invalidate(group("author")).await.unwrap();
    let followers: Vec<_> = (0..10)
        .map(|_| {
            let (cache, author) = (cache.clone(), Arc::clone(&author));
            tokio::spawn(async move { page(&cache, &author).await })
        })
        .collect();
    settle().await;
    gate.open();
    assert_eq!(soon(leader).await.unwrap(), 1);
    for follower in followers {
        assert_eq!(soon(follower).await.unwrap(), 2);
    }
    assert_eq!(cache.stats().loads, 2);
}

#[tokio::test]
async fn followers_share_a_value_whose_discovered_groups_are_current() {
    let backend = CountingBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    let gate = Gate::new();
    let leader = tokio::spawn({
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        async move {
            load_with(&cache, "page", group("page"), || async move {
                depend(group("author")).await;
                gate.pass().await;
                1
            })
            .await
        }
    });
    gate.reached().await;
    let follower = load_behind(&cache, "page", group("page"), &gate, 2);
    settle().await;
    let counts = backend
        .counting(async {
            gate.open();
            assert_eq!(soon(leader).await.unwrap(), 1);
            assert_eq!(soon(follower).await.unwrap(), 1);
        })
        .await;
    assert_eq!(counts.lookups, 1, "the follower looks up the discovered group");
    assert_eq!(cache.stats().loads, 1);
}

#[tokio::test]
async fn followers_of_a_flight_with_a_late_group_retry_together() {
    let cache = memory();
    let gate = Gate::new();
    let read = |value| {
        let (cache, gate) = (cache.clone(), Arc::clone(&gate));
        tokio::spawn(async move {
            load_with(&cache, "page", group("page"), || async move {
                gate.pass().await;
                LoadContext::current().unwrap().depend_late(group("author"));
                value
            })
            .await
        })
    };
    let leader = read(1);
    gate.reached().await;
    let followers: Vec<_> = (2..12).map(&read).collect();
    settle().await;
    gate.open();
    assert_eq!(soon(leader).await.unwrap(), 1);
    for follower in followers {
        soon(follower).await.unwrap();
    }
    assert_eq!(cache.stats().loads, 2, "one for the leader, and one for all followers");
}

#[tokio::test]
async fn without_the_generation_of_a_discovered_group_the_value_is_served_and_not_stored() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let (cache, author) = (Cache::builder(backend.clone()).build(), AtomicU32::new(1));
    backend.next(Operation::Mint, Step::Pass);
    backend.next(Operation::Mint, Step::LoseReply(groupcache_core::ErrorKind::Timeout));
    assert_eq!(page(&cache, &author).await, 1);
    author.store(2, Ordering::SeqCst);
    assert_eq!(page(&cache, &author).await, 2);
    assert_eq!(cache.stats().mint_failures, 1);
}

/// The loader may have read the data of the group without its generation.
#[tokio::test]
async fn a_load_that_cancelled_depend_is_not_stored() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    backend.next(Operation::Mint, Step::Pass);
    backend.next(Operation::Mint, Step::Hang);
    load_with(&cache, "k", group("g"), || async {
        let waiting = depend(group("slow"));
        assert!(tokio::time::timeout(Duration::from_millis(1), waiting).await.is_err());
        1
    })
    .await;
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
}

#[tokio::test]
async fn a_dependency_after_the_end_of_the_load_changes_nothing() {
    let backend = ScriptedBackend::new(PlainBackend::new());
    let cache = Cache::builder(backend.clone()).build();
    let gate = Gate::new();
    backend.next(Operation::Mint, Step::Pass);
    backend.next(Operation::Mint, Step::WaitAfter(Arc::clone(&gate)));
    let late = Arc::new(std::sync::Mutex::new(None));
    load_with(&cache, "k", group("g"), || {
        let late = Arc::clone(&late);
        let gate = Arc::clone(&gate);
        async move {
            let context = LoadContext::current().unwrap();
            *late.lock().unwrap() =
                Some((context.clone(), tokio::spawn(async move { context.depend(group("late")).await })));
            gate.reached().await;
            1
        }
    })
    .await;
    let (context, waiting) = late.lock().unwrap().take().unwrap();
    gate.open();
    soon(waiting).await.unwrap();
    assert!(format!("{context:?}").contains("groups: []"), "{context:?}");
    soon(context.depend(group("later still"))).await;
    let mints = backend.seen().into_iter().filter(|seen| *seen == Operation::Mint).count();
    assert_eq!(mints, 2, "the load has ended, so its context mints nothing");
    assert_eq!(load(&cache, "k", group("g"), 2).await, 1);
}

#[tokio::test]
async fn depend_outside_a_load_does_nothing() {
    depend(group("g")).await;
    assert!(LoadContext::current().is_none());
}

#[tokio::test]
async fn a_spawned_task_can_depend_through_the_load_context() {
    let cache = memory();
    load_with(&cache, "k", group("g"), || async {
        let context = LoadContext::current().unwrap();
        tokio::spawn(async move { context.depend(group("elsewhere")).await }).await.unwrap();
        1
    })
    .await;
    assert_eq!(load(&cache, "k", group("g"), 2).await, 1);
    cache.invalidate(group("elsewhere")).await.unwrap();
    assert_eq!(load(&cache, "k", group("g"), 2).await, 2);
}
