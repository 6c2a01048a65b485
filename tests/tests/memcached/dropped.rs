//! Connections that a network drops silently, and connections that are all in use: neither says that the
//! server is down.

use std::time::Duration;

use futures_util::future::join_all;
use groupcache_core::backend::{CircuitBreaker, GenerationVector};
use groupcache_core::{Backend, Cache, Group, Groups};
use groupcache_memcached::{MemcachedBackend, MemcachedBackendBuilder};
use groupcache_tests::memcached_server::MemcachedServer;
use groupcache_tests::proxy::Proxy;
use groupcache_tests::shorthand::{entry, eventually, groups, key, look, millis};
use groupcache_tests::turns;
use tokio::time::{Instant, sleep, timeout};

fn builder(proxy: &Proxy) -> MemcachedBackendBuilder {
    MemcachedBackend::builder(format!("memcached://127.0.0.1:{}", proxy.port()))
}

/// A cache with many idle connections and a page of this size.
async fn busy_cache(proxy: &Proxy, bytes: usize) -> Cache<MemcachedBackend> {
    let cache = Cache::builder(builder(proxy).build().expect("builds")).build();
    let load = || async move { Ok::<_, ()>("x".repeat(bytes)) };
    // Again if the machine is too busy to store it within the time limits.
    eventually("it is stored", async || {
        cache.get_or_load("page", Group::new("book"), load).await.is_ok() && is_hit(&cache).await
    })
    .await;
    for _ in 0..20 {
        join_all((0..64).map(|_| is_hit(&cache))).await;
    }
    cache
}

async fn is_hit(cache: &Cache<MemcachedBackend>) -> bool {
    let page: Option<String> = cache.get("page", Group::new("book")).await;
    page.is_some()
}

/// How many reads, one after another, fail until fifty in a row succeed.
async fn failed_reads(cache: &Cache<MemcachedBackend>) -> u32 {
    let (mut failed, mut succeeded) = (0, 0);
    let until = Instant::now() + Duration::from_secs(100);
    while succeeded < 50 && Instant::now() < until {
        if is_hit(cache).await {
            succeeded += 1;
        } else {
            (failed, succeeded) = (failed + 1, 0);
        }
        sleep(millis(5)).await;
    }
    assert_eq!(succeeded, 50, "reads never succeed again");
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_were_dropped_silently_cost_few_reads() {
    let _turn = turns::timing().await;
    let Some(server) = MemcachedServer::start(&[]) else { return };
    // Lookups of small pages share exchanges, so there are fewer connections.
    for bytes in [1_000, 30_000] {
        let proxy = Proxy::start(server.port()).await;
        let cache = busy_cache(&proxy, bytes).await;
        cache.invalidate(Group::new("other")).await.expect("acknowledged");
        proxy.hold_existing();
        let (connections, began) = (proxy.connections(), Instant::now());
        let failed = failed_reads(&cache).await;
        println!("{failed} reads failed with {connections} connections, in {:?}", began.elapsed());
        assert!(failed <= 5, "{failed} reads failed");
        assert!(cache.backend().open_circuits().is_empty());
        cache.invalidate(Group::new("other")).await.expect("acknowledged");
        drop(cache);
        server.flush_all();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_were_dropped_silently_under_load_cost_the_reads_in_flight() {
    let _turn = turns::timing().await;
    let Some(server) = MemcachedServer::start(&[]) else { return };
    for bytes in [1_000, 30_000] {
        let proxy = Proxy::start(server.port()).await;
        let cache = busy_cache(&proxy, bytes).await;
        proxy.hold_existing();
        let readers = (0..64).map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { failed_reads(&cache).await })
        });
        let failed: Vec<u32> = join_all(readers).await.into_iter().map(|read| read.expect("ends")).collect();
        println!("failed reads of each reader: {failed:?}");
        assert!(failed.iter().all(|failed| *failed <= 5), "{failed:?}");
        assert!(cache.backend().open_circuits().is_empty());
        drop(cache);
        server.flush_all();
    }
}

/// An invalidation is sent whether or not there is a response to others, and fails visibly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_were_dropped_silently_cost_one_invalidation() {
    let _turn = turns::timing().await;
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let proxy = Proxy::start(server.port()).await;
    let cache = busy_cache(&proxy, 30_000).await;
    proxy.hold_existing();
    let mut failed = 0;
    for _ in 0..20 {
        failed += u32::from(cache.invalidate(Group::new("book")).await.is_err());
    }
    assert!(failed <= 1, "{failed} invalidations failed");
    assert!(!is_hit(&cache).await);
}

/// Silence on an old connection is no evidence about the server. Silence on a new one is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_drops_everything_opens_the_circuit_breaker() {
    let _turn = turns::timing().await;
    let Some(server) = MemcachedServer::start(&[]) else { return };
    for bytes in [1_000, 30_000] {
        let proxy = Proxy::start(server.port()).await;
        let cache = busy_cache(&proxy, bytes).await;
        proxy.hold_all();
        for _ in 0..12 {
            join_all((0..20).map(|_| is_hit(&cache))).await;
        }
        assert_eq!(cache.backend().open_circuits().len(), 1);
        proxy.release();
        eventually("it is used again", async || is_hit(&cache).await).await;
        assert!(cache.backend().open_circuits().is_empty());
        drop(cache);
        server.flush_all();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_all_in_use_do_not_open_the_circuit_breaker() {
    let _turn = turns::timing().await;
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let proxy = Proxy::start(server.port()).await;
    let sensitive = || CircuitBreaker::new("memcached").failures_to_open(1).slow_call(millis(50));
    let build = |wait: u64| {
        let builder = builder(&proxy).max_connections(2).circuit_breaker(sensitive);
        builder.connect_time_limit(millis(wait)).response_time_limit(Duration::from_secs(10)).build()
    };
    let (impatient, patient) = (build(100).expect("builds"), build(10_000).expect("builds"));
    for backend in [&impatient, &patient] {
        look(backend, &key("page"), &groups(1)).await;
    }
    proxy.hold_all();
    let in_use: Vec<_> = [&impatient, &impatient, &patient, &patient]
        .map(|backend| {
            let backend = backend.clone();
            tokio::spawn(async move { backend.mint(&groups(2)).await })
        })
        .into_iter()
        .collect();
    sleep(millis(50)).await;
    for _ in 0..4 {
        let error = impatient.mint(&groups(1)).await.expect_err("all are in use");
        assert!(error.to_string().contains("`max_connections`"), "{error}");
        // The caller's own time limit is shorter.
        let none = Groups::none();
        let page = entry(key("page"), &none, GenerationVector::default(), "body");
        timeout(millis(100), patient.store(&page, None)).await.expect_err("all are in use");
    }
    let (page, one) = (key("page"), groups(1));
    let reads = (0..30).map(|_| timeout(millis(100), look(&patient, &page, &one)));
    assert!(join_all(reads).await.iter().all(Result::is_err));
    for backend in [&impatient, &patient] {
        assert!(backend.open_circuits().is_empty());
    }
    proxy.release();
    for mint in in_use {
        mint.await.expect("no panic").expect("mints");
    }
    for backend in [&impatient, &patient] {
        look(backend, &key("page"), &groups(1)).await;
    }
}
