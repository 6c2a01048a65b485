//! Servers that crash, hang, close connections and return.

use std::time::Duration;

use futures_util::future::join_all;
use groupcache_core::backend::{Found, GenerationVector, TimeLeft};
use groupcache_core::{Backend, Cache, Group, Groups};
use groupcache_memcached::MemcachedBackend;
use groupcache_tests::fake_server::FakeServer;
use groupcache_tests::log::Log;
use groupcache_tests::memcached_server::{MemcachedServer, MemcachedServers};
use groupcache_tests::proxy::Proxy;
use groupcache_tests::shorthand::{entry, eventually, groups, is_hit, key, look, millis, store};
use groupcache_tests::turns;
use tokio::time::{Instant, sleep};

use crate::{connected, group_on, patient, settings};

#[tokio::test]
async fn the_keys_of_a_server_that_is_down_are_misses_and_the_others_keep_working() {
    let Some(mut servers) = MemcachedServers::start(3, &[]) else { return };
    let backend = connected(&servers.url()).await;
    let here = group_on(&servers, &backend, 0).await;
    let there = group_on(&servers, &backend, 1).await;
    let both = [here.clone(), there.clone()];
    let before = look(&backend, &key("page"), &both).await.current;
    servers.0[0].kill();
    let entries = || servers.0[1..].iter().map(|server| server.stat("curr_items")).sum::<u64>();
    let items = entries();

    let looked = look(&backend, &key("page"), &both).await;
    assert_eq!(looked.current[..], [None, before[1]]);
    backend.bump(std::slice::from_ref(&there)).await.expect("the other servers work");
    for _ in 0..20 {
        let error = backend.bump(&both).await.expect_err("no acknowledgement");
        assert!(error.is_transient(), "{error}");
        assert!(error.to_string().contains(&servers.0[0].port().to_string()), "{error}");
        assert!(backend.mint(std::slice::from_ref(&here)).await.is_err());
    }
    assert_eq!(entries(), items, "no other server has the new items");
    let address = format!("127.0.0.1:{}", servers.0[0].port());
    assert_eq!(backend.open_circuits(), [address.as_str()]);
    assert_ne!(look(&backend, &key("page"), &both).await.current[1], before[1]);
    let only_there = backend.lookup(&key("page"), std::slice::from_ref(&here), TimeLeft::NotNeeded).await;
    assert!(only_there.is_err() || only_there.is_ok_and(|lookup| lookup.current[0].is_none()));

    servers.0[0].restart();
    eventually("the backend uses the server again", async || backend.mint(&both).await.is_ok()).await;
    backend.bump(&both).await.expect("acknowledged");
    assert!(backend.open_circuits().is_empty());
}

#[tokio::test]
async fn a_lookup_is_an_error_only_if_no_server_answered() {
    let Some(mut server) = MemcachedServer::start(&[]) else { return };
    let backend = connected(&server.url()).await;
    server.kill();
    let error = backend.lookup(&key("page"), &groups(3), TimeLeft::NotNeeded).await.expect_err("no reply");
    assert!(error.is_transient(), "{error}");
}

/// A cancelled caller may leave a reply on its connection, which must not reach the next request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_gets_the_reply_to_another() {
    let _turn = turns::timing().await;
    let Some(servers) = MemcachedServers::start(2, &[]) else { return };
    let mut proxies = Vec::new();
    for server in &servers.0 {
        proxies.push(Proxy::start(server.port()).await);
    }
    let ports: Vec<_> = proxies.iter().map(|proxy| format!("127.0.0.1:{}", proxy.port())).collect();
    let url = format!("memcached://{}", ports.join(","));
    let backend = patient(&url).max_connections(4).build().expect("builds");
    let none = Groups::none();
    for number in 0..50 {
        let body = format!("body of {number}").repeat(1 + number * 20);
        backend
            .store(&entry(key(&number), &none, GenerationVector::default(), body), None)
            .await
            .expect("stores");
    }
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..32_u64 {
        let backend = backend.clone();
        readers.spawn(async move {
            let (mut completed, mut cancelled) = (0, 0);
            for round in 0..200_u64 {
                let number = ((reader * 7_919 + round * 104_729) % 50) as usize;
                let time_limit = Duration::from_micros((reader * 31 + round * 97) % 3_000);
                let time_limit = if round % 3 == 0 { Duration::from_secs(5) } else { time_limit };
                let (wanted, groups) = (key(&number), groups(number % 4));
                let looking = backend.lookup(&wanted, &groups, TimeLeft::NotNeeded);
                match tokio::time::timeout(time_limit, looking).await {
                    Err(_) => cancelled += 1,
                    Ok(looked) => {
                        let looked = looked.expect("looks up");
                        let Found::Entry(found, _) = looked.found else { panic!("{number} is not there") };
                        assert_eq!(found.key(), &wanted, "the reply to another request");
                        assert_eq!(looked.current.len(), groups.len());
                        completed += 1;
                    }
                }
            }
            (completed, cancelled)
        });
    }
    let counts = readers.join_all().await;
    let (completed, cancelled) = counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    assert!(completed > 1_600 && cancelled > 400, "{completed} completed, {cancelled} cancelled");
}

#[tokio::test]
async fn connections_that_were_closed_while_idle_fail_nothing() {
    let Some(mut server) = MemcachedServer::start(&[]) else { return };
    let backend = connected(&server.url()).await;
    let (page, one) = (key("page"), groups(1));
    for round in 0..6 {
        // Each lookup uses a connection of its own.
        join_all((0..4).map(|_| look(&backend, &page, &one))).await;
        server.restart();
        if round % 2 == 0 {
            assert!(matches!(look(&backend, &page, &one).await.found, Found::Absent));
        } else {
            backend.bump(&one).await.expect("bumps");
        }
        store(&backend, page.clone(), &one, None).await;
    }
}

#[tokio::test]
async fn no_token_is_sent_twice() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    for (mode, mint) in [(" MR ", false), (" ME ", true)] {
        let proxy = Proxy::refusing(server.port(), mode).await;
        let url = format!("memcached://127.0.0.1:{}", proxy.port());
        let backend = connected(&url).await;
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
                let at = sent.windows(2).position(|window| window == b"\r\n").expect("a line");
                sent[at + 2..][..16].to_vec()
            })
            .collect();
        assert_eq!(tokens.len(), 4, "{mode}");
    }
}

#[tokio::test]
async fn reconnects_to_a_server_that_closes_every_connection_are_limited() {
    let _turn = turns::timing().await;
    let server = FakeServer::closing().await;
    let url = format!("memcached://{}", server.address());
    let never = || groupcache_core::backend::CircuitBreaker::new("memcached").failures_to_open(0);
    let backend = MemcachedBackend::builder(url).circuit_breaker(never).build().expect("builds");
    let (began, mut lookups) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(1) {
        assert!(backend.lookup(&key(&1), &groups(1), TimeLeft::NotNeeded).await.is_err());
        lookups += 1;
        tokio::task::yield_now().await;
    }
    let attempts = server.connections();
    // The backoff is 50, 100, 200 and 400 ms, each less up to a half.
    assert!((1..=8).contains(&attempts), "{attempts} attempts");
    assert!(lookups > 20, "{lookups} lookups");
}

#[tokio::test]
async fn reads_stay_fast_while_a_server_hangs_and_use_it_again_afterwards() {
    let _turn = turns::timing().await;
    let Some(servers) = MemcachedServers::start(3, &["-c", "1024"]) else { return };
    let (log, _guard) = Log::start();
    let backend = MemcachedBackend::builder(servers.url()).build().expect("builds");
    backend.connect().await.expect("connects");
    let cache = Cache::builder(backend).build();
    let read = async |page: u64| {
        let load = || async move { Ok::<_, ()>(page) };
        let group = Group::new("page").with("id", page);
        assert_eq!(cache.get_or_load(&page, group, load).await, Ok(page), "a read failed");
    };
    for page in 0..100 {
        read(page).await;
    }
    eventually("the entries are stored", async || cache.stats().stores == 100).await;
    servers.0[1].pause();
    let mut took = Vec::new();
    while took.len() < 2_000 {
        let began = Instant::now();
        read(took.len() as u64 % 100).await;
        took.push(began.elapsed());
    }
    took.sort();
    let (median, slowest) = (took[1_000], took[1_999]);
    println!("median {median:?}, slowest {slowest:?}, {} hits", cache.stats().hits);
    // Of four in nine pages, both the entry and the generation are on the other servers.
    assert!(cache.stats().hits > 500, "the cache does not use the other servers: {:?}", cache.stats());
    assert!(median < millis(50), "the circuit breaker has no effect: {median:?}");
    assert!(slowest < millis(1_000), "{slowest:?}");
    assert_eq!(cache.backend().open_circuits().len(), 1);
    assert_eq!(log.warnings("the store fails"), 1, "{log:?}");
    servers.0[1].resume();
    let all: Groups = (0..100).map(|id| Group::new("page").with("id", id)).collect();
    eventually("invalidations are acknowledged", async || cache.invalidate(all.clone()).await.is_ok()).await;
    assert!(cache.backend().open_circuits().is_empty());
}

#[tokio::test]
async fn a_server_that_keeps_its_memory_over_an_orderly_restart_is_safe() {
    let directory = groupcache_tests::process::new_directory();
    let file = directory.join("memory").to_str().expect("a path").to_owned();
    let Some(mut server) = MemcachedServer::start(&["-e", &file, "-m", "64"]) else { return };
    let backend = connected(&server.url()).await;
    let two = groups(2);
    store(&backend, key("page"), &two, None).await;
    let settings: Vec<_> = settings(&backend).await;
    assert_eq!(settings, ["-e"]);
    backend.bump(&two[..1]).await.expect("bumps");
    store(&backend, key("other"), &two, None).await;
    server.stop();
    assert!(backend.bump(&two[1..]).await.is_err(), "no acknowledgement while the server is down");
    // The server does not restore its memory within the same second.
    sleep(millis(2_100)).await;
    server.restart();
    assert!(is_hit(&look(&backend, &key("other"), &two).await), "the valid entry is still valid");
    assert!(!is_hit(&look(&backend, &key("page"), &two).await), "the stale entry is still stale");
    backend.bump(&two[1..]).await.expect("bumps");
    assert!(!is_hit(&look(&backend, &key("other"), &two).await));
    drop(server);
    std::fs::remove_dir_all(directory).expect("removed");
}

#[test]
fn an_idle_runtime_blocks_no_reader() {
    let Some(servers) = MemcachedServers::start(1, &[]) else { return };
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let connects = runtime();
    let backend = connects.block_on(connected(&servers.url()));
    // So many readers that some share a request.
    let reads = (0..200).map(|number| {
        let backend = backend.clone();
        async move { look(&backend, &key(&number), &groups(2)).await }
    });
    let all = runtime().block_on(async { tokio::time::timeout(millis(10_000), join_all(reads)).await });
    assert_eq!(all.expect("all readers get a reply").len(), 200);
    drop(connects);
}
