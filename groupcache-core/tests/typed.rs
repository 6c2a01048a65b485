//! Keyed caches, background refreshes, shared values, and times to live that loaders set.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use groupcache_core::{
    Address, ByArguments, ByModel, ByTag, Cache, EntryOptions, Error, ErrorKind, Expiring, Group, Groups,
    Key, ManualClock, Model, NamedCall, groups_of,
};
use groupcache_memory::MemoryBackend;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

const SECOND: Duration = Duration::from_secs(1);

fn memory() -> Cache<MemoryBackend> {
    Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build()
}

fn timed(options: EntryOptions) -> (Cache<MemoryBackend>, ManualClock) {
    let clock = ManualClock::new();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    (Cache::builder(backend).clock(clock.clone()).options(options).build(), clock)
}

/// An entry of the group `g` under `k` that has expired, and is within the window of stale values.
async fn expired(value: u32) -> (Cache<MemoryBackend>, ManualClock) {
    let options = EntryOptions::new().time_to_live(10 * SECOND).stale_while_revalidate(60 * SECOND);
    let (cache, clock) = timed(options);
    cache.insert("k", "g", async || Ok::<_, Error>(value)).await.unwrap();
    clock.advance(11 * SECOND);
    (cache, clock)
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), work).await.expect("hangs")
}

#[derive(Serialize, Deserialize)]
struct Book {
    id: i64,
    title: String,
}

impl Model for Book {
    const NAME: &'static str = "book";
    const GROUPS: &'static [&'static [&'static str]] = &[&["id"]];
}

#[test]
fn a_keyed_cache_with_a_wrong_strategy_is_an_error() {
    let cache = memory();
    let refusal = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Configuration);
        error.to_string()
    };
    let undeclared = cache.keyed::<NamedCall, _>(ByModel::<Book>::new().on(["title"]), &["id", "title"]);
    assert!(refusal(undeclared.unwrap_err()).contains("no group by the fields [title]"));
    let missing = cache.keyed::<NamedCall, _>(ByArguments::of(["year"]), &["month"]);
    assert!(refusal(missing.unwrap_err()).contains("no argument `year`; there are: month"));
    let empty = cache.keyed::<NamedCall, _>(ByTag::new(""), &[]);
    assert!(refusal(empty.unwrap_err()).contains("the tag is empty"));
    cache.keyed::<NamedCall, _>(ByModel::<Book>::new(), &["id"]).unwrap();
    cache.keyed::<NamedCall, _>(ByArguments::all(), &[]).unwrap();
}

#[tokio::test]
async fn invalidating_a_call_without_groups_is_an_error() {
    let cache = memory();
    let strategy = |call: &u32| Ok(Address { key: Key::of(call)?, groups: Groups::none() });
    let keyed = cache.keyed(strategy, &[]).unwrap();
    keyed.get_or_load(&5, async || Ok::<_, Infallible>(1)).await.unwrap();
    assert_eq!(keyed.invalidate(&5).await.unwrap_err().kind(), ErrorKind::Configuration);
    keyed.delete(&5).await.unwrap();
    assert_eq!(keyed.get::<u32>(&5).await, None);
}

/// A call may have more arguments than the keyed cache was told.
#[tokio::test]
async fn a_call_by_an_undeclared_field_is_not_cached() {
    let cache = memory();
    let keyed = cache.keyed(ByModel::<Book>::new(), &["id"]).unwrap();
    let call = NamedCall::new("book").with("id", 1).with("title", "Emma");
    for value in [1, 2] {
        assert_eq!(keyed.get_or_load(&call, async || Ok::<_, Infallible>(value)).await, Ok(value));
        cache.invalidate(groups_of(&Book { id: 1, title: "Emma".into() }).unwrap()).await.unwrap();
    }
    assert_eq!((cache.stats().loads_not_stored, cache.stats().stores), (2, 0));
    keyed.invalidate(&call).await.unwrap_err();
}

#[tokio::test]
async fn an_expired_value_is_served_at_once_and_refreshed_in_the_background() {
    let (cache, _clock) = expired(1).await;
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let load = {
        let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
        move || async move {
            begun.notify_one();
            go_on.notified().await;
            Ok::<_, Infallible>(2)
        }
    };
    assert_eq!(soon(cache.get_or_revalidate("k", "g", load)).await, Ok(1));
    soon(begun.notified()).await;
    // One refresh at a time.
    for _ in 0..3 {
        let load = async || -> Result<u32, Infallible> { panic!("a second refresh") };
        assert_eq!(soon(cache.get_or_revalidate("k", "g", load)).await, Ok(1));
    }
    go_on.notify_one();
    soon(async {
        while cache.get::<u32, _, _>("k", "g").await != Some(2) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((cache.stats().loads, cache.stats().stale_while_revalidate), (2, 4));
}

#[tokio::test]
async fn a_failed_background_refresh_is_counted_and_tried_again() {
    let (cache, clock) = expired(1).await;
    for failures in 1..4 {
        let load = async || Err::<u32, _>("the database is down");
        assert_eq!(cache.get_or_revalidate("k", "g", load).await, Ok(1));
        soon(async {
            while cache.stats().load_failures < failures || cache.loads_in_flight() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    clock.advance(60 * SECOND);
    let load = async || Err::<u32, _>("the database is down");
    assert_eq!(cache.get_or_revalidate("k", "g", load).await, Err("the database is down"));
}

#[tokio::test]
async fn a_background_refresh_outlives_its_caller_and_serves_nothing_invalidated() {
    let (cache, _clock) = expired(1).await;
    let load = async || {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(2)
    };
    let reader = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get_or_revalidate("k", "g", load).await }
    });
    assert_eq!(reader.await.unwrap(), Ok(1));
    cache.invalidate("g").await.unwrap();
    let load = async || Ok::<_, Infallible>(3);
    assert_eq!(cache.get_or_revalidate("k", "g", load).await, Ok(3));
}

#[test]
fn without_a_runtime_the_reader_refreshes() {
    let (cache, _clock) = futures_executor(expired(1));
    let refresh =
        |loaded: Result<u32, ()>| futures_executor(cache.get_or_revalidate("k", "g", async move || loaded));
    assert_eq!(refresh(Err(())), Ok(1));
    assert_eq!(refresh(Ok(2)), Ok(2));
    assert_eq!(refresh(Ok(3)), Ok(2));
}

/// Runs a future on this thread, without tokio.
fn futures_executor<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

/// A loader that borrows cannot run in the background: its reader waits, but does not fail.
#[tokio::test]
async fn a_failed_refresh_by_the_reader_serves_the_expired_value() {
    let (cache, clock) = expired(1).await;
    let error = "the database is down".to_owned();
    for _ in 0..3 {
        assert_eq!(cache.get_or_load("k", "g", async || Err::<u32, _>(&error)).await, Ok(1));
    }
    assert_eq!(cache.stats().load_failures, 3);
    assert_eq!(cache.get_or_load("k", "g", async || Ok::<u32, &String>(2)).await, Ok(2));
    clock.advance(70 * SECOND);
    assert_eq!(cache.get_or_load("k", "g", async || Err::<u32, _>(&error)).await, Err(&error));
}

#[tokio::test]
async fn a_loader_sets_how_long_its_value_lives() {
    let (cache, clock) = timed(EntryOptions::new().time_to_live(10 * SECOND));
    let read = async |value: u32, seconds: u32| {
        let load = async || Ok::<_, Infallible>(Expiring::new(value, seconds * SECOND));
        cache.get_or_load_expiring("k", "g", load).await.unwrap()
    };
    assert_eq!(read(1, 5).await, 1);
    clock.advance(4 * SECOND);
    assert_eq!(read(2, 20).await, 1);
    clock.advance(SECOND);
    assert_eq!(read(3, 20).await, 3);
    clock.advance(19 * SECOND);
    assert_eq!(read(4, 5).await, 3, "longer than the options of the cache say");
    clock.advance(SECOND);
    assert_eq!(read(5, 0).await, 5);
    assert_eq!(read(6, 0).await, 6, "a time to live of zero stores nothing");
}

/// Says how often it was decoded.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Counted(u32);

static DECODED: AtomicU32 = AtomicU32::new(0);

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "Counted")]
        struct Inner(u32);
        DECODED.fetch_add(1, Ordering::Relaxed);
        Inner::deserialize(deserializer).map(|Inner(number)| Self(number))
    }
}

#[tokio::test]
async fn a_shared_value_is_not_decoded_at_a_hit() {
    let cache = memory();
    let read = || cache.get_or_load_shared("k", "g", async || Ok::<_, Infallible>(Counted(1)));
    let first = read().await.unwrap();
    let decoded = DECODED.load(Ordering::Relaxed);
    for _ in 0..3 {
        assert!(Arc::ptr_eq(&first, &read().await.unwrap()));
        assert!(Arc::ptr_eq(&first, &cache.get_shared("k", "g").await.unwrap()));
    }
    assert_eq!(DECODED.load(Ordering::Relaxed), decoded);
    // As another type, and not shared.
    assert_eq!(*cache.get_shared::<u64, _, _>("k", "g").await.unwrap(), 1);
    assert_eq!(cache.get::<u64, _, _>("k", "g").await, Some(1));
    cache.invalidate("g").await.unwrap();
    assert!(!Arc::ptr_eq(&first, &read().await.unwrap()));
    assert_eq!(cache.stats().loads, 2);
}

#[tokio::test]
async fn what_was_not_stored_as_shared_is_read_as_shared() {
    let cache = memory();
    cache.insert("k", "g", async || Ok::<_, Error>("Emma".to_owned())).await.unwrap();
    let read = async || cache.get_shared::<String, _, _>("k", "g").await.unwrap();
    let (one, other) = (read().await, read().await);
    assert_eq!((&**one, &**other), ("Emma", "Emma"));
    assert!(!Arc::ptr_eq(&one, &other), "memory would be used that is not counted");
}

#[tokio::test]
async fn the_memory_of_a_shared_value_is_counted() {
    let value = || vec!["x".repeat(100); 100];
    let size_of = async |is_shared: bool| {
        let cache = memory();
        if is_shared {
            cache.get_or_load_shared("k", "g", async || Ok::<_, Infallible>(value())).await.unwrap();
        } else {
            cache.get_or_load("k", "g", async || Ok::<_, Infallible>(value())).await.unwrap();
        }
        cache.backend().run_pending_tasks();
        cache.backend().size_bytes()
    };
    let more = size_of(true).await - size_of(false).await;
    assert!((10_000..20_000).contains(&more), "{more} bytes are counted for a value of about 13,000");
}

#[tokio::test]
async fn a_keyed_cache_has_the_variants_too() {
    let (cache, clock) = timed(EntryOptions::new().stale_while_revalidate(60 * SECOND));
    let books = cache.keyed(ByArguments::all(), &["id"]).unwrap();
    let call = NamedCall::new("book").with("id", 5);
    let load = async || Ok::<_, Infallible>(Expiring::new("Emma".to_owned(), 10 * SECOND));
    assert_eq!(books.get_or_load_expiring(&call, load).await.unwrap(), "Emma");
    let shared = books.get_or_load_shared(&call, async || Ok::<_, Infallible>(String::new())).await.unwrap();
    assert_eq!(*shared, "Emma");
    clock.advance(11 * SECOND);
    let load = async || Ok::<_, Infallible>("Persuasion".to_owned());
    assert_eq!(books.get_or_revalidate(&call, load).await.unwrap(), "Emma");
    soon(async {
        while books.get::<String>(&call).await.as_deref() != Some("Persuasion") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    books.invalidate(&call).await.unwrap();
    assert_eq!(books.get::<String>(&call).await, None);
}

#[test]
fn a_text_is_the_group_of_that_name() {
    assert_eq!(Groups::from("book"), Groups::from(Group::new("book")));
}
