//! Leases: of several processes that miss the same entry, one loads it, on one server and on a cluster.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use groupcache_core::backend::{CurrentGenerations, LeaseHolder, LeaseOwner, LeaseRequest, TimeLeft};
use groupcache_core::{Backend, Cache, EntryOptions, Group, Groups, Key};
use groupcache_redis::{RedisBackend, RedisBackendBuilder};
use groupcache_tests::redis_cluster::RedisCluster;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::turns;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::{DAY, connected, quiet};

fn groups() -> Groups {
    (0..3).map(|id| Group::new("book").with("id", id)).collect()
}

/// Caches with connections of their own, which the store takes for processes.
fn processes(duration: Duration, build: impl Fn() -> RedisBackendBuilder) -> Vec<Cache<RedisBackend>> {
    let options = EntryOptions::new().lease(duration);
    // A reader without a reply in time would load without a lease.
    let time_limit = Duration::from_secs(10);
    let process = || {
        let backend = build().response_time_limit(time_limit).build().expect("builds");
        Cache::builder(backend).read_time_limit(time_limit).build().with_options(options)
    };
    (0..3).map(|_| process()).collect()
}

/// Runs many concurrent reads in all processes, and returns the number of loads. A load ends when
/// `waiting` processes wait for it.
async fn loads(caches: &[Cache<RedisBackend>], page: u64, value: u64, waiting: u64) -> u64 {
    let waits =
        |caches: &[Cache<RedisBackend>]| caches.iter().map(|cache| cache.stats().lease_waits).sum::<u64>();
    let count = Arc::new(AtomicU64::new(0));
    let enough = waits(caches) + waiting;
    let mut readers = JoinSet::new();
    for reader in 0..60 {
        let (caches, count) = (caches.to_vec(), Arc::clone(&count));
        readers.spawn(async move {
            let load = async || {
                count.fetch_add(1, Ordering::SeqCst);
                let began = Instant::now();
                while waits(&caches) < enough && began.elapsed() < Duration::from_secs(8) {
                    sleep(Duration::from_millis(5)).await;
                }
                Ok::<_, Infallible>(value)
            };
            let cache = &caches[reader % caches.len()];
            let Ok(read) = cache.get_or_load(&("page", page), groups(), load).await;
            read
        });
    }
    while let Some(read) = readers.join_next().await {
        assert_eq!(read.expect("no panic"), value);
    }
    count.load(Ordering::SeqCst)
}

async fn one_of_three_loads(build: impl Fn() -> RedisBackendBuilder) {
    let caches = processes(Duration::from_secs(20), build);
    for cache in &caches {
        cache.backend().connect().await.expect("connects");
    }
    for round in 0..5 {
        assert_eq!(loads(&caches, 1, round, 2).await, 1, "cold, or after an invalidation");
        assert_eq!(loads(&caches, 1, round, 0).await, 0, "cached");
        caches[0].invalidate(groups()).await.expect("acknowledged");
        assert_eq!(loads(&caches, 2 + round, round, 2).await, 1, "another page of known groups");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_processes_loads() {
    let _turn = turns::timing().await;
    let Some(server) = RedisServer::start(&[]) else { return };
    one_of_three_loads(|| RedisBackend::builder(server.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_processes_on_a_cluster_loads() {
    let _turn = turns::timing().await;
    let Some(cluster) = RedisCluster::start(3, false) else { return };
    one_of_three_loads(|| cluster.builder()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_process_is_replaced_when_its_lease_ends() {
    let _turn = turns::timing().await;
    let Some(server) = RedisServer::start(&[]) else { return };
    // Longer than the reads take on a busy machine.
    let duration = Duration::from_secs(2);
    let caches = processes(duration, || RedisBackend::builder(server.url()));
    // The lease of a dead process, which never releases it.
    let dead = RedisBackend::builder(server.url()).build().expect("builds");
    let (key, groups) = (Key::of(&("page", 1_u64)).expect("a key"), groups());
    let current = dead.lookup(&key, &groups, TimeLeft::NotNeeded).await.expect("looks up").current;
    let request = LeaseRequest::new(&key, &groups, &current, LeaseOwner::random(), duration).expect("fits");
    assert_eq!(dead.lease(&request).await.expect("leases").holder, LeaseHolder::Ours);
    let began = Instant::now();
    assert_eq!(loads(&caches, 1, 7, 0).await, 1);
    assert!(
        began.elapsed() >= duration - Duration::from_millis(50),
        "the reader waited for the dead process"
    );
    assert!(began.elapsed() < 2 * duration + Duration::from_secs(5), "the wait has ended in time");
}

#[tokio::test]
async fn a_lease_has_one_holder_and_is_released() {
    let _turn = turns::timing().await;
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = RedisBackend::builder(server.url()).build().expect("builds");
    let (key, groups) = (Key::of("page").expect("a key"), groups());
    let (one, other) = (LeaseOwner::random(), LeaseOwner::random());
    let request = async |current: &CurrentGenerations, owner| {
        let request = LeaseRequest::new(&key, &groups, current, owner, DAY).expect("fits");
        backend.lease(&request).await.expect("leases")
    };
    let cold = [None; 3].into_iter().collect();
    let first = request(&cold, one).await;
    assert_eq!(first.holder, LeaseHolder::Ours);
    assert_eq!(request(&cold, other).await.holder, LeaseHolder::Unknown, "another owner won the generations");
    let current: CurrentGenerations = first.vector.iter().copied().map(Some).collect();
    assert_eq!(request(&current, other).await.holder, LeaseHolder::Other);
    assert_eq!(request(&current, one).await.holder, LeaseHolder::Ours, "a repeated request changes nothing");
    let repeated = LeaseRequest::new(&key, &groups, &current, one, DAY).expect("fits");
    let name = repeated.name(&first.vector);
    backend.release(&name, other).await.expect("has no effect");
    assert_eq!(request(&current, other).await.holder, LeaseHolder::Other);
    backend.release(&name, one).await.expect("releases");
    assert_eq!(request(&current, other).await.holder, LeaseHolder::Ours);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_miss_with_a_lease_is_three_round_trips() {
    let _turn = turns::timing().await;
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let options = EntryOptions::new().lease(Duration::from_secs(10));
    let cache = Cache::builder(backend).build().with_options(options);
    let reads = || {
        let count = server.info("stats", "total_reads_processed");
        count.and_then(|count| count.parse::<u64>().ok()).expect("a count")
    };
    let first = reads();
    let poll = reads() - first;
    server.run_command::<()>("CONFIG RESETSTAT");
    let before = reads();
    let load = || async { Ok::<_, Infallible>(1_u64) };
    let Ok(_) = cache.get_or_load("page", groups(), load).await;
    // The cache stores and releases in the background.
    server.wait_until("the lease is released", |server| server.calls("unlink") == 1);
    assert_eq!((server.calls("mget"), server.calls("set")), (1, 3 + 1 + 1), "groups, lease, entry");
    // The server has not counted this `INFO` yet, but the one of `before`. Each of the four requests confirms
    // the role of the server with another.
    let polls = server.calls("info") + 1 - 4;
    // Lookup, mint with lease, store and release, and the polls of this test.
    let trips = reads() - before;
    println!("{trips} reads, {polls} polls of {poll} reads each");
    assert_eq!(trips - polls * poll, 4);
}
