//! Connections to Redis that are closed, refused or hang.

use std::time::Duration;

use groupcache_core::backend::TimeLeft;
use groupcache_core::{Backend, Cache, ErrorKind, Group};
use groupcache_redis::RedisBackend;
use groupcache_tests::fake_server::FakeServer;
use groupcache_tests::log::Log;
use groupcache_tests::process::free_port;
use groupcache_tests::proxy::Proxy;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::{eventually, groups, is_hit, key, look, millis, store};
use groupcache_tests::turns;
use tokio::time::{Instant, sleep};

use crate::{connected, quiet, read};

#[tokio::test]
async fn no_token_is_sent_twice() {
    let Some(server) = RedisServer::start(&[]) else { return };
    for (command, mint) in [("KEEPTTL", false), ("NX", true)] {
        let proxy = Proxy::refusing(server.port(), command).await;
        let backend = RedisBackend::builder(proxy.url()).build().expect("builds");
        let one = groups(1);
        for _ in 0..2 {
            let failed = if mint {
                backend.mint(&one).await.map(drop).expect_err("closed")
            } else {
                backend.bump(&one).await.expect_err("closed")
            };
            assert!(failed.is_transient(), "{failed}");
        }
        // The backend sends each twice, as it finds the connection closed.
        let tokens: std::collections::BTreeSet<Vec<u8>> = proxy
            .refused()
            .iter()
            .map(|sent| {
                let length = b"$16\r\n";
                let at = sent.windows(length.len()).position(|window| window == length).expect("a token");
                sent[at + length.len()..][..16].to_vec()
            })
            .collect();
        assert_eq!(tokens.len(), 4, "{command}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_fails_nothing() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let one = groups(1);
    store(&backend, key("page"), &one, None).await;
    for round in 0..20 {
        server.run_command::<u64>("CLIENT KILL TYPE normal");
        if round % 2 == 0 {
            assert!(is_hit(&look(&backend, &key("page"), &one).await));
        } else {
            backend.bump(&one).await.expect("bumps");
            store(&backend, key("page"), &one, None).await;
        }
    }
}

#[tokio::test]
async fn reconnects_to_a_server_that_closes_every_connection_are_limited() {
    let _turn = turns::timing().await;
    let server = FakeServer::closing().await;
    let url = format!("redis://{}/", server.address());
    let never = groupcache_core::backend::CircuitBreaker::new("redis").failures_to_open(0);
    let backend = RedisBackend::builder(url).circuit_breaker(never).build().expect("builds");
    let (began, mut lookups) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(1) {
        assert!(backend.lookup(&key(&1), &groups(1), TimeLeft::NotNeeded).await.is_err());
        lookups += 1;
        tokio::task::yield_now().await;
    }
    // Each attempt makes two connections, one for entries and one for generations.
    let attempts = server.connections().div_ceil(2);
    // The backoff is 50, 100, 200 and 400 ms, each less up to a half.
    assert!((1..=8).contains(&attempts), "{attempts} attempts");
    assert!(lookups > 20, "{lookups} lookups");
}

#[tokio::test]
async fn the_error_names_a_wrong_password_address_or_server() {
    let Some(server) = RedisServer::start(&["--requirepass", "right"]) else { return };
    let port = server.port();
    connected(&server, quiet(&server)).await;
    for (url, kind, names) in [
        (format!("redis://:wrong@127.0.0.1:{port}/"), ErrorKind::Refused, "password in `url`"),
        (format!("redis://other:right@127.0.0.1:{port}/"), ErrorKind::Refused, "user name"),
        (format!("redis://127.0.0.1:{port}/"), ErrorKind::Refused, "no password"),
        (format!("redis://:right@127.0.0.1:{port}/9999"), ErrorKind::Protocol, "127.0.0.1"),
        (format!("redis://127.0.0.1:{}/", free_port()), ErrorKind::Unavailable, "127.0.0.1"),
        ("unix:///nowhere/at/all".to_owned(), ErrorKind::Unavailable, "/nowhere/at/all"),
    ] {
        let (log, _guard) = Log::start();
        let backend = RedisBackend::builder(&url).build().expect("builds");
        let error = backend.connect().await.expect_err(&url);
        assert_eq!(error.kind(), kind, "{url}: {error:?}");
        assert!(error.to_string().contains(names), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("wrong@"), "{error:?}");
        let one = groups(1);
        for _ in 0..5 {
            assert!(backend.lookup(&key(&1), &one, TimeLeft::NotNeeded).await.is_err());
            assert!(backend.bump(&one).await.is_err());
            sleep(millis(60)).await;
        }
        assert_eq!(log.warnings(""), 1, "{url}: the log has one warning");
    }
}

#[tokio::test]
async fn a_server_of_another_kind_is_an_error_and_no_hang() {
    for server in [
        FakeServer::replying(b"HTTP/1.1 400 Bad Request\r\n\r\n").await,
        FakeServer::replying(b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n").await,
        FakeServer::replying(b"$-9\r\n").await,
        FakeServer::silent().await,
    ] {
        let url = format!("redis://{}/", server.address());
        let backend = RedisBackend::builder(&url).connect_time_limit(millis(300)).build().expect("builds");
        let began = Instant::now();
        let error = backend.connect().await.expect_err("not a Redis server");
        assert!(began.elapsed() < Duration::from_secs(2));
        assert!(error.to_string().contains(&server.address()), "{error}");
    }
}

#[tokio::test]
async fn reads_stay_fast_while_the_server_hangs_or_is_down_and_use_it_again_afterwards() {
    let _turn = turns::timing().await;
    // The configuration causes no advice, so the log has nothing else.
    let arguments = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let Some(mut server) = RedisServer::start(&arguments) else { return };
    let (log, _guard) = Log::start();
    let limit = millis(250);
    let backend = connected(&server, RedisBackend::builder(server.url())).await;
    let cache =
        Cache::builder(backend).read_time_limit(limit).write_time_limit(Duration::from_secs(2)).build();
    assert_eq!(read(&cache, "page", 1).await, 1);
    eventually("it is stored", async || cache.stats().stores == 1).await;

    for (round, dies) in [false, true].into_iter().enumerate() {
        let round = round + 1;
        if dies {
            server.kill()
        } else {
            server.pause()
        }
        let mut took = Vec::new();
        let began = Instant::now();
        while took.len() < 2_000 || began.elapsed() < Duration::from_secs(3) {
            let began = Instant::now();
            assert_eq!(read(&cache, &format!("page {}", took.len()), 7).await, 7, "a read failed");
            took.push(began.elapsed());
            sleep(millis(1)).await;
        }
        took.sort();
        let (percentile, slowest) = (took[took.len() * 99 / 100], took[took.len() - 1]);
        println!("dies: {dies}, {} reads, 99 % within {percentile:?}, slowest {slowest:?}", took.len());
        assert!(percentile <= limit, "{percentile:?}");
        // Far below the time limit, which each read would take without the circuit breaker.
        assert!(percentile < limit / 2, "the circuit breaker has no effect: {percentile:?}");
        assert!(slowest < 4 * limit, "{slowest:?}");
        assert!(cache.backend().is_circuit_open());
        let error = cache.invalidate(Group::new("book")).await.expect_err("no acknowledgement");
        assert!(error.is_transient(), "{error}");
        assert_eq!(log.warnings(""), round, "the log has one warning for each failure");

        if dies {
            server.restart()
        } else {
            server.resume()
        }
        let stored = cache.stats().stores;
        let came_back = Instant::now();
        let mut page = 0;
        eventually("the backend uses the server again", async || {
            page += 1;
            read(&cache, &format!("again {page}"), 7).await;
            cache.stats().stores > stored
        })
        .await;
        println!("used again after {:?}", came_back.elapsed());
        cache.invalidate(Group::new("book")).await.expect("acknowledged");
        assert_eq!(log.infos(), round, "the log has one message for each recovery");
        assert_eq!(log.warnings(""), round);
    }
}
