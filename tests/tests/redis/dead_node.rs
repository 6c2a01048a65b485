//! A Redis Cluster one of whose primaries does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::{Address, Backend, Cache, Entry, Group, Groups, Key, Loaded};
use groupcache_redis::RedisBackend;
use groupcache_tests::history::{Plan, run};
use groupcache_tests::redis_cluster::RedisCluster;
use groupcache_tests::shorthand::millis;
use tokio::time::{Instant, sleep};

const DEAD: usize = 2;

/// How the node goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Killed,
    /// Connections stay open, and nothing answers.
    Hangs,
}

/// Entries whose keys and groups are all on nodes that live, and the others.
struct Pages {
    alive: Vec<Address>,
    touched: Vec<Address>,
}

fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn fill(cluster: &RedisCluster, backend: &RedisBackend) -> Pages {
    let mut pages = Pages { alive: Vec::new(), touched: Vec::new() };
    for number in 0..300 {
        let key = Key::of(&("page", number)).expect("a key");
        let group = Group::new("book").with("id", number);
        let names =
            [format!("groupcache:e:{}", hex(&key.hash())), format!("groupcache:g:{}", hex(&group.hash()))];
        let is_touched = names.iter().any(|name| cluster.owner(cluster.slot(name)) == DEAD);
        let groups = Groups::from(group);
        let vector = backend.mint(&groups).await.expect("mints").vector;
        let entry =
            Entry::new(key.clone(), groups.clone(), vector, Bytes::from_static(b"page"), Duration::ZERO);
        backend.store(&Arc::new(entry), None).await.expect("stores");
        if is_touched { &mut pages.touched } else { &mut pages.alive }.push(Address { key, groups });
    }
    pages
}

/// The share of hits among the reads that need nodes only that live, beside reads that need the other too.
async fn share_of_hits(death: Death) -> Option<f64> {
    let mut cluster = RedisCluster::start(3, false)?;
    let backend = cluster.builder().build().expect("builds");
    let pages = Arc::new(fill(&cluster, &backend).await);
    let cache = Cache::builder(backend.clone()).build();
    match death {
        Death::Killed => cluster.nodes[DEAD].kill(),
        Death::Hangs => cluster.nodes[DEAD].pause(),
    }
    let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let _turn = groupcache_tests::turns::timing().await;
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8_usize {
        let (cache, pages, counts) = (cache.clone(), Arc::clone(&pages), Arc::clone(&counts));
        tasks.spawn(async move {
            let mut number = task;
            while began.elapsed() < Duration::from_secs(5) {
                number += 8;
                let is_alive = number % 3 != 0;
                let from = if is_alive { &pages.alive } else { &pages.touched };
                let load = || async { Err::<Loaded<()>, _>("a miss") };
                let address = &from[number % from.len()];
                let outcome = cache.read(address, |entry| Some(entry.body().clone()), load).await;
                if is_alive {
                    counts[usize::from(outcome.is_ok())].fetch_add(1, Ordering::Relaxed);
                }
                sleep(millis(2)).await;
            }
        });
    }
    tasks.join_all().await;
    let [misses, hits] = [0, 1].map(|at| counts[at].load(Ordering::Relaxed));
    println!("{death:?}: {hits} hits, {misses} misses where all nodes live");

    // What is invalidated at live nodes is acknowledged; what is not is an error.
    let changed = backend.bump(&pages.alive[0].groups).await;
    changed.expect("live nodes acknowledge");
    let group_of = |address: &Address| address.groups.iter().next().cloned().expect("has a group");
    let is_there =
        |group: &Group| cluster.slot(&format!("groupcache:g:{}", hex(&group.hash()))) >= 2 * (16_384 / 3) + 2;
    let lost = pages.touched.iter().map(group_of).find(is_there).expect("a group on the dead node");
    let refused = backend.bump(&[group_of(&pages.alive[1]), lost]).await;
    assert!(refused.expect_err("a part is not acknowledged").is_transient());

    // Later it is found again.
    match death {
        Death::Killed => cluster.nodes[DEAD].restart(),
        Death::Hangs => cluster.nodes[DEAD].resume(),
    }
    for _ in 0..500 {
        if backend.mint(&pages.touched[0].groups).await.is_ok() && !backend.is_circuit_open() {
            return Some(hits as f64 / (hits + misses) as f64);
        }
        sleep(millis(10)).await;
    }
    panic!("the node is not found again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_of_the_nodes_that_live_goes_on_when_one_is_killed() {
    let Some(share) = share_of_hits(Death::Killed).await else { return };
    assert!(share > 0.95, "{share:.3} of the reads were hits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_of_the_nodes_that_live_goes_on_while_one_hangs() {
    let Some(share) = share_of_hits(Death::Hangs).await else { return };
    assert!(share > 0.9, "{share:.3} of the reads were hits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stale_is_served_while_a_node_is_dead() {
    let Some(mut cluster) = RedisCluster::start(3, false) else { return };
    let plan = Plan::default();
    let build = || {
        let builder = cluster.builder().backoff(millis(5), millis(50));
        builder.watch_interval(millis(300)).response_time_limit(millis(300)).build().expect("builds")
    };
    let caches: Vec<_> = (0..3).map(|_| Cache::builder(build()).build()).collect();
    let faults = async {
        for round in 0..4 {
            sleep(millis(300)).await;
            let node = round % 3;
            if round % 2 == 0 {
                cluster.nodes[node].kill();
                sleep(millis(1_500)).await;
                cluster.nodes[node].restart();
            } else {
                cluster.nodes[node].pause();
                sleep(millis(1_500)).await;
                cluster.nodes[node].resume();
            }
        }
        sleep(millis(1_000)).await;
    };
    let _turn = groupcache_tests::turns::history().await;
    let report = run(&caches, plan, faults).await;
    report.assert_sound(&plan);
    assert!(report.failed > 0, "no death was noticed: {report}");
}
