//! Lookups that concurrent readers share.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::{CircuitBreaker, Found, Lookup, TimeLeft};
use groupcache_core::{Backend, Entry, Group, Groups, Key};
use groupcache_redis::{RedisBackend, RedisBackendBuilder};
use groupcache_tests::proxy::Proxy;
use groupcache_tests::redis_cluster::RedisCluster;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::millis;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::{DAY, connected, quiet};

/// Whatever else the machine does meanwhile, nothing here takes too long.
fn patient(builder: RedisBackendBuilder) -> RedisBackendBuilder {
    let builder = builder.circuit_breaker(CircuitBreaker::new("redis").failures_to_open(0));
    builder.watch_interval(DAY).connect_time_limit(millis(10_000)).response_time_limit(millis(10_000))
}

fn page(number: usize) -> (Key, Groups) {
    (Key::of(&("page", number)).expect("a key"), Group::new("book").with("id", number).into())
}

fn body(number: usize) -> Bytes {
    Bytes::from(format!("{number}-").repeat(1 + number % 50))
}

async fn store(backend: &RedisBackend, number: usize) {
    let (key, groups) = page(number);
    let vector = backend.mint(&groups).await.expect("mints").vector;
    let entry = Entry::new(key, groups, vector, body(number), Duration::ZERO);
    backend.store(&Arc::new(entry), None).await.expect("stores");
}

fn start(backend: &RedisBackend, number: usize) -> JoinHandle<Lookup> {
    let (backend, (key, groups)) = (backend.clone(), page(number));
    tokio::spawn(async move { backend.lookup(&key, &groups, TimeLeft::NotNeeded).await.expect("looks up") })
}

fn is_hit(lookup: &Lookup) -> bool {
    matches!(&lookup.found, Found::Entry(entry, _) if lookup.current.equals(entry.vector()))
}

/// The replies of requests from before an invalidation are on their way while readers come after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reader_joins_a_request_that_is_on_its_way() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let proxy = Proxy::start(server.port()).await;
    let build = |url: String| patient(RedisBackend::builder(url)).build().expect("builds");
    let (reader, writer) = (build(proxy.url()), build(server.url()));
    store(&reader, 0).await;
    assert!(is_hit(&start(&reader, 0).await.expect("ends")));
    let before = server.calls("mget");
    proxy.hold_replies();
    let early: Vec<_> = (0..4).map(|_| start(&reader, 0)).collect();
    server.wait_until("some of them are on their way back", |server| server.calls("mget") > before);
    sleep(millis(20)).await;
    writer.bump(&page(0).1).await.expect("acknowledged");
    let late: Vec<_> = (0..8).map(|_| start(&reader, 0)).collect();
    sleep(millis(50)).await;
    proxy.release();
    let mut hits = 0;
    for task in early {
        hits += usize::from(is_hit(&task.await.expect("ends")));
    }
    assert!(hits > 0, "they began before the invalidation");
    for task in late {
        assert!(!is_hit(&task.await.expect("ends")), "an invalidated entry");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_share_few_requests_and_each_gets_its_own_replies() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(&server, patient(quiet(&server))).await;
    all_get_their_own(&backend).await;
    let before = server.calls("mget");
    let lookups: Vec<_> = (0..256).map(|number| start(&backend, number % 100)).collect();
    for lookup in lookups {
        lookup.await.expect("ends");
    }
    let requests = server.calls("mget") - before;
    assert!(requests < 128, "{requests} requests for 256 lookups");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_cluster_share_the_query_for_the_epoch() {
    let Some(cluster) = RedisCluster::start(3, false) else { return };
    let backend = patient(cluster.builder()).build().expect("builds");
    all_get_their_own(&backend).await;
    let count = |command: &str| cluster.nodes.iter().map(|node| node.calls(command)).sum::<u64>();
    let (infos, gets) = (count("cluster|info"), count("get"));
    let lookups: Vec<_> = (0..256).map(|number| start(&backend, number % 100)).collect();
    for lookup in lookups {
        lookup.await.expect("ends");
    }
    let (infos, gets) = (count("cluster|info") - infos, count("get") - gets);
    assert_eq!(gets, 2 * 256);
    assert!(infos < 128, "{infos} queries for 256 lookups");
}

#[tokio::test]
async fn an_entry_without_groups_needs_no_epoch() {
    let Some(cluster) = RedisCluster::start(3, false) else { return };
    let backend = patient(cluster.builder()).build().expect("builds");
    backend.connect().await.expect("connects");
    sleep(millis(50)).await;
    let count = || cluster.nodes.iter().map(|node| node.calls("cluster|info")).sum::<u64>();
    let before = count();
    backend.lookup(&page(0).0, &[], TimeLeft::NotNeeded).await.expect("looks up");
    assert_eq!(count(), before);
    backend.lookup(&page(0).0, &page(0).1, TimeLeft::NotNeeded).await.expect("looks up");
    assert_eq!(count(), before + 1, "of the node that has the generation");
}

/// Some of them are cancelled at any time.
async fn all_get_their_own(backend: &RedisBackend) {
    for number in 0..100 {
        store(backend, number).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64_usize {
        let backend = backend.clone();
        tasks.spawn(async move {
            let mut right = 0;
            for round in 0..200_usize {
                let number = (task * 37 + round * 11) % 100;
                let limit = if round % 4 == 0 { Duration::from_micros(round as u64 * 5) } else { DAY };
                let (key, groups) = page(number);
                let lookup = backend.lookup(&key, &groups, TimeLeft::NotNeeded);
                let Ok(lookup) = tokio::time::timeout(limit, lookup).await else { continue };
                let lookup = lookup.expect("looks up");
                assert!(is_hit(&lookup));
                let Found::Entry(entry, _) = &lookup.found else { unreachable!() };
                assert_eq!((entry.key(), entry.body()), (&key, &body(number)));
                right += 1;
            }
            right
        });
    }
    let right: usize = tasks.join_all().await.into_iter().sum();
    assert!(right >= 64 * 150, "{right}");
}
