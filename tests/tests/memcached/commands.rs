//! The cost of each operation of the memcached backend, in commands and batches.

use std::time::Duration;

use groupcache_core::backend::{Found, Generation, GenerationVector};
use groupcache_core::{Backend, Cache, Group, Groups};
use groupcache_memcached::MemcachedBackend;
use groupcache_tests::memcached_server::MemcachedServers;
use groupcache_tests::proxy::Proxy;
use groupcache_tests::shorthand::{entry, eventually, groups, is_hit, key, look, millis, store};
use tokio::time::sleep;

use crate::{connected, patient};

#[tokio::test]
async fn a_hit_is_one_get_for_each_key_and_a_cold_miss_three_batches() {
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let cache = Cache::builder(connected(&servers.url()).await).build();
    // There are two handshakes with each server, one of them for the advice.
    eventually("the handshakes are done", async || servers.stat("cmd_get") == 6).await;
    let page = || cache.get_or_load("page", groups(5), || async { Ok::<_, ()>(1_u64) });
    let counts = || ["cmd_get", "cmd_set", "cmd_touch", "delete_hits"].map(|name| servers.stat(name));

    let before = counts();
    assert_eq!(page().await, Ok(1));
    eventually("the entry is stored", async || cache.stats().stores == 1).await;
    let cold: Vec<_> = counts().iter().zip(before).map(|(now, before)| now - before).collect();
    // Reads six keys, mints five and reads them back, stores one, and reads the time left of five.
    assert_eq!(cold, [6 + 5 + 5, 5 + 1, 0, 0]);

    let before = counts();
    for _ in 0..10 {
        assert_eq!(page().await, Ok(1));
    }
    assert_eq!(cache.stats().hits, 10);
    let hits: Vec<_> = counts().iter().zip(before).map(|(now, before)| now - before).collect();
    assert_eq!(hits, [60, 0, 0, 0]);
}

#[tokio::test]
async fn a_time_to_live_longer_than_servers_can_count_is_set_once() {
    let Some(servers) = MemcachedServers::start(1, &[]) else { return };
    let backend = connected(&servers.url()).await;
    let vector = backend.mint(&groups(5)).await.expect("mints").vector;
    for name in ["first", "second", "third"] {
        let page = entry(key(name), &groups(5), vector.clone(), "body");
        backend.store(&page, Some(Duration::MAX)).await.expect("stores");
        backend.mint(&groups(5)).await.expect("mints");
        // The mint set 30 days, and the first store extended it.
        assert_eq!(servers.stat("cmd_touch"), 5, "{name}");
    }
}

/// Three servers, each behind a proxy that counts.
struct Proxied {
    _servers: MemcachedServers,
    proxies: Vec<Proxy>,
    backend: MemcachedBackend,
}

impl Proxied {
    async fn start() -> Option<Self> {
        let servers = MemcachedServers::start(3, &[])?;
        let mut proxies = Vec::new();
        for server in &servers.0 {
            proxies.push(Proxy::start(server.port()).await);
        }
        let ports: Vec<_> = proxies.iter().map(|proxy| format!("127.0.0.1:{}", proxy.port())).collect();
        let backend = connected(&format!("memcached://{}", ports.join(","))).await;
        let proxied = Self { _servers: servers, proxies, backend };
        // Makes the connections, and waits for the advice, which follows the first connection.
        proxied.backend.mint(&groups(50)).await.expect("mints");
        eventually("the advice has ended", async || {
            let before = proxied.chunks();
            sleep(millis(50)).await;
            proxied.chunks() == before
        })
        .await;
        Some(proxied)
    }

    fn chunks(&self) -> Vec<u64> {
        self.proxies.iter().map(Proxy::chunks).collect()
    }

    /// Returns how many chunks each server got during `work`.
    async fn counting(&self, work: impl Future<Output = ()>) -> Vec<u64> {
        let before = self.chunks();
        work.await;
        self.chunks().iter().zip(before).map(|(now, before)| now - before).collect()
    }
}

#[tokio::test]
async fn every_operation_is_one_batch_to_each_server() {
    let Some(proxied) = Proxied::start().await else { return };
    let backend = &proxied.backend;
    let (fifty, one) = (groups(50), [1, 1, 1]);
    let mint = async { drop(backend.mint(&fifty).await.expect("mints")) };
    assert_eq!(proxied.counting(mint).await, one);
    let bump = async { backend.bump(&fifty).await.expect("bumps") };
    assert_eq!(proxied.counting(bump).await, one);
    let vector = backend.mint(&fifty).await.expect("mints").vector;
    let page = entry(key("page"), &fifty, vector, "body");
    let stored = async { backend.store(&page, None).await.expect("stores") };
    assert_eq!(proxied.counting(stored).await, one);
    let hit = async { assert!(is_hit(&look(backend, &key("page"), &fifty).await)) };
    assert_eq!(proxied.counting(hit).await, one);
    let requests: Vec<_> = (0..50).map(|number| (key(&number), groups(3))).collect();
    let many = async { assert_eq!(backend.lookup_many(&requests).await.expect("looks up").len(), 50) };
    assert_eq!(proxied.counting(many).await, one);
    let delete: u64 =
        proxied.counting(async { backend.delete(&key("page")).await.expect("deletes") }).await.iter().sum();
    assert_eq!(delete, 1);
    assert!(backend.lookup_many(&[]).await.expect("nothing to do").is_empty());
    backend.bump(&[]).await.expect("nothing to do");
}

#[tokio::test]
async fn requests_to_several_servers_are_concurrent() {
    let Some(proxied) = Proxied::start().await else { return };
    let fifty = groups(50);
    let before = proxied.chunks();
    proxied.proxies.iter().for_each(Proxy::hold_existing);
    let backend = proxied.backend.clone();
    let looking = tokio::spawn(async move { look(&backend, &key("page"), &fifty).await });
    // No server replies before all have a request.
    eventually("all servers have a request", async || {
        proxied.chunks().iter().zip(&before).all(|(now, before)| now == &(before + 1))
    })
    .await;
    proxied.proxies.iter().for_each(Proxy::release);
    assert!(looking.await.expect("ends").current.complete().is_some());
}

/// Some readers send their own request. Readers that come meanwhile share one.
#[tokio::test]
async fn many_readers_at_once_share_exchanges_and_each_gets_its_own_answer() {
    let Some(proxied) = Proxied::start().await else { return };
    let none = Groups::none();
    for number in 0..50 {
        let page = entry(key(&number), &none, GenerationVector::default(), number.to_string());
        proxied.backend.store(&page, None).await.expect("stores");
    }
    let reading = async {
        let mut readers = tokio::task::JoinSet::new();
        for reader in 0..900 {
            let backend = proxied.backend.clone();
            readers.spawn(async move {
                let looked = look(&backend, &key(&(reader % 60)), &groups(reader % 3)).await;
                assert_eq!(looked.current.len(), reader % 3);
                assert!(looked.current.complete().is_some());
                match looked.found {
                    Found::Entry(entry, None) => assert_eq!(entry.body(), &(reader % 60).to_string()),
                    Found::Absent => assert!(reader % 60 >= 50),
                    other => panic!("{other:?}"),
                }
            });
        }
        readers.join_all().await;
    };
    let chunks: u64 = proxied.counting(reading).await.iter().sum();
    assert!(chunks < 450, "{chunks} chunks for 900 readers");
}

#[tokio::test]
async fn a_bump_replaces_existing_generations_and_creates_none() {
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let backend = connected(&servers.url()).await;
    let three = groups(3);
    backend.bump(&three).await.expect("bumps");
    assert_eq!(servers.stat("curr_items"), 0, "groups never cached leave no keys");

    store(&backend, key("page"), &three, None).await;
    let before = look(&backend, &key("page"), &three).await;
    assert!(is_hit(&before));
    backend.bump(&three[..1]).await.expect("bumps");
    let after = look(&backend, &key("page"), &three).await;
    assert!(!is_hit(&after));
    assert_ne!(after.current[0], before.current[0]);
    assert!(after.current[0].is_some());
    assert_eq!(after.current[1..], before.current[1..], "other groups are untouched");
}

#[tokio::test]
async fn of_concurrent_mints_one_wins_and_all_return_it() {
    let Some(servers) = MemcachedServers::start(2, &[]) else { return };
    for round in 0..10 {
        let group = Group::new("race").with("round", round);
        let mut mints = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let backend = patient(&servers.url()).build().expect("builds");
            let group = group.clone();
            mints.spawn(async move { backend.mint(&[group]).await.expect("mints").vector[0] });
        }
        let minted: Vec<Generation> = mints.join_all().await;
        assert!(minted.iter().all(|generation| *generation == minted[0]), "{minted:?}");
        let current = look(&connected(&servers.url()).await, &key("none"), &[group]).await.current;
        assert_eq!(current[0], Some(minted[0]));
    }
}
