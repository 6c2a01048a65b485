//! What the memcached backend stores, and for how long.

use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::Found;
use groupcache_core::{Backend, Cache, ErrorKind, Group, Groups};
use groupcache_memcached::MemcachedBackend;
use groupcache_tests::log::Log;
use groupcache_tests::memcached_server::{MemcachedServer, MemcachedServers};
use groupcache_tests::shorthand::{entry, eventually, groups, is_hit, key, look, millis, store, stored_name};

use crate::{DAY, connected, is_about, left};

#[tokio::test]
async fn keys_groups_and_bodies_of_any_size_work() {
    let Some(servers) = MemcachedServers::start(2, &["-I", "8m", "-m", "256"]) else { return };
    let backend = connected(&servers.url()).await;
    let names = ["", " ", "a\r\nb\0", "é", &"x".repeat(250), &"x".repeat(251), &"y".repeat(100_000)];
    for name in names {
        for size in [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
            let groups = Groups::from([Group::new(name), Group::new("of").with(name, name)]);
            let vector = backend.mint(&groups).await.expect("mints").vector;
            let body = Bytes::from(vec![b'\n'; size]);
            let stored = entry(key(name), &groups, vector, body.clone());
            backend.store(&stored, None).await.expect("stores");
            let lookup = look(&backend, &key(name), &groups).await;
            assert!(is_hit(&lookup));
            let Found::Entry(found, _) = lookup.found else { panic!("nothing found") };
            assert_eq!(found.body(), &body);
        }
    }
}

#[tokio::test]
async fn a_value_that_is_too_large_is_counted_and_logged_once() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let backend = connected(&server.url()).await;
    let (log, _guard) = Log::start();
    let cache = Cache::builder(backend.clone()).build();
    for round in 0..5 {
        let large = || async { Ok::<_, ()>(vec![b'x'; 1 << 20]) };
        let read: Vec<u8> = cache.get_or_load(&round, Group::new("g"), large).await.expect("loaded");
        assert_eq!(read.len(), 1 << 20);
    }
    eventually("all failures are counted", async || cache.stats().store_failures == 5).await;
    assert_eq!(log.warnings("too large"), 1, "{log:?}");
    let one = groups(1);
    let vector = backend.mint(&one).await.expect("mints").vector;
    // Sizes up to the item limit and a few bytes more.
    for (size, fits) in [(1_000_000, true), ((1 << 20) - 500, true), ((1 << 20) - 10, false)] {
        let stored = backend.store(&entry(key("page"), &one, vector.clone(), vec![b'x'; size]), None).await;
        match stored {
            Ok(()) => assert!(fits && is_hit(&look(&backend, &key("page"), &one).await), "{size}"),
            Err(error) => {
                assert!(!fits, "{size}: {error}");
                assert_eq!(error.kind(), ErrorKind::Capacity);
                assert!(error.to_string().contains("`-I`"), "{error}");
            }
        }
    }
    // The backend has sent none of it to the server.
    assert_eq!(server.stat("store_too_large"), 0);

    let small = MemcachedBackend::builder(server.url()).max_entry_bytes(10).build().expect("builds");
    small.store(&entry(key("ten"), &one, vector.clone(), vec![0; 10]), None).await.expect("fits");
    let error = small.store(&entry(key("eleven"), &one, vector, vec![0; 11]), None).await.expect_err("not");
    assert!(error.to_string().contains("`max_entry_bytes`"), "{error}");
}

#[tokio::test]
async fn entries_live_to_the_second_and_generations_longer() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let backend = connected(&server.url()).await;
    let one = groups(1);
    let entry_name = stored_name('e', key("page").hash());
    let generation_name = stored_name('g', one[0].hash());
    for (time_to_live, seconds) in [
        (Duration::from_nanos(1), 1),
        (millis(500), 1),
        (millis(1_500), 2),
        (30 * DAY, 2_592_000),
        (30 * DAY + Duration::from_secs(1), 2_592_001),
        (400 * DAY, 400 * 86_400),
    ] {
        store(&backend, key("page"), &one, Some(time_to_live)).await;
        // A time to live of a second or two may be over already.
        let reply = server.command(&format!("mg {entry_name} t\r\nmn"), "MN");
        let over = seconds <= 2 && reply.starts_with("EN");
        assert!(over || is_about(left(&server, &entry_name), seconds), "{time_to_live:?}: {reply}");
        assert!(left(&server, &generation_name) > seconds + 3600, "{time_to_live:?}");
    }
    // A shorter-lived entry does not shorten the time to live of a generation, and a bump keeps it.
    let long = left(&server, &generation_name);
    store(&backend, key("page"), &one, Some(Duration::from_secs(60))).await;
    assert!(is_about(left(&server, &generation_name), long));
    backend.bump(&one).await.expect("bumps");
    assert!(is_about(left(&server, &generation_name), long));
    // A process that has stored no entry with a long time to live.
    let other = connected(&server.url()).await;
    store(&other, key("page"), &one, None).await;
    assert!(is_about(left(&server, &generation_name), long));
    assert!(is_about(left(&server, &entry_name), 30 * 86_400));
    // The maximum is as long as the server can count, which is until 2038.
    store(&backend, key("page"), &one, Some(Duration::MAX)).await;
    assert!(left(&server, &entry_name) > 3 * 365 * 86_400);
    assert_eq!(backend.default_time_to_live(), Some(30 * DAY));
    store(&backend, key("page"), &one, Some(Duration::ZERO)).await;
    assert!(matches!(look(&backend, &key("page"), &one).await.found, Found::Absent));
}

#[tokio::test]
async fn a_mint_and_a_store_extend_the_time_to_live_of_an_existing_generation() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let backend = connected(&server.url()).await;
    let one = groups(1);
    let minted = backend.mint(&one).await.expect("mints").vector;
    let name = stored_name('g', one[0].hash());
    let shorten = || {
        assert!(server.command(&format!("mg {name} T5\r\nmn"), "MN").starts_with("HD"));
        assert!(left(&server, &name) <= 5);
    };
    shorten();
    assert_eq!(backend.mint(&one).await.expect("mints").vector, minted);
    assert!(is_about(left(&server, &name), 31 * 86_400));
    shorten();
    backend.store(&entry(key("page"), &one, minted, "body"), None).await.expect("stores");
    assert!(is_about(left(&server, &name), 31 * 86_400));
}

#[tokio::test]
async fn foreign_data_under_the_key_prefix_is_a_miss_or_a_clear_error() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let backend = connected(&server.url()).await;
    let one = groups(1);
    store(&backend, key("page"), &one, None).await;
    let spoil = |name: &str| assert_eq!(server.command(&format!("ms {name} 7\r\ngarbage"), "HD"), "HD\r\n");
    spoil(&stored_name('e', key("page").hash()));
    assert!(matches!(look(&backend, &key("page"), &one).await.found, Found::Undecodable));
    store(&backend, key("page"), &one, None).await;
    assert!(is_hit(&look(&backend, &key("page"), &one).await), "replaced");

    spoil(&stored_name('g', one[0].hash()));
    assert_eq!(look(&backend, &key("page"), &one).await.current[0], None);
    let error = backend.mint(&one).await.expect_err("no generation");
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("`key_prefix`"), "{error}");
    backend.bump(&one).await.expect("replaces foreign data");
    backend.mint(&one).await.expect("mints");
}

#[tokio::test]
async fn an_invalidation_without_free_memory_removes_the_generation() {
    let Some(server) = MemcachedServer::start(&["-M", "-m", "2"]) else { return };
    let backend = connected(&server.url()).await;
    // Fills the memory with generations.
    let mut all = Vec::new();
    let full = loop {
        let more: Groups = (0..500).map(|id| Group::new("g").with("at", all.len()).with("id", id)).collect();
        match backend.mint(&more).await {
            Ok(_) => all.push(more),
            Err(error) => break error,
        }
        assert!(all.len() < 1_000, "the server is never full");
    };
    assert_eq!((full.kind(), full.is_transient()), (ErrorKind::Capacity, false));
    assert!(full.to_string().contains("`-m`"), "{full}");
    let before = look(&backend, &key("page"), &all[0]).await.current;
    assert!(before.complete().is_some(), "the server evicts nothing");

    backend.bump(&all[0]).await.expect("bumps without memory");
    let after = look(&backend, &key("page"), &all[0]).await.current;
    assert!(before.iter().zip(after.iter()).all(|(before, after)| before != after), "{after:?}");
    // This server drops an item that it has no memory to replace. The backend does not rely on that.
    assert!(server.stat("delete_misses") + server.stat("delete_hits") >= all[0].len() as u64);
    assert!(backend.open_circuits().is_empty(), "the server replies");
}
