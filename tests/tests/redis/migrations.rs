//! Slots of a Redis Cluster whose migration is begun, cancelled and begun again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::{Found, TimeLeft};
use groupcache_core::{Backend, Cache, Entry, Group, Groups, Key};
use groupcache_redis::RedisBackend;
use groupcache_redis::redis::Value;
use groupcache_tests::history::{Plan, run};
use groupcache_tests::redis_cluster::RedisCluster;
use tokio::time::sleep;

/// How an operator cancels a migration.
#[derive(Debug, Clone, Copy)]
enum Cancelled {
    /// `SETSLOT STABLE` on both nodes.
    Stable,
    /// `SETSLOT NODE` on both nodes, with the node that has the slot.
    StaysWithItsOwner,
}

/// A group, and the way of its slot.
struct Moving {
    group: Group,
    slot: u16,
    from: usize,
    to: usize,
}

impl Moving {
    fn new(cluster: &RedisCluster, group: Group) -> Self {
        let slot = cluster.slot(&stored_name(&group));
        let from = cluster.owner(slot);
        Self { group, slot, from, to: (from + 1) % cluster.primaries() }
    }

    fn begin(&self, cluster: &RedisCluster) {
        cluster.begin_migration(self.slot, self.from, self.to);
    }

    fn cancel(&self, cluster: &RedisCluster, how: Cancelled) {
        let state = match how {
            Cancelled::Stable => "STABLE".to_owned(),
            Cancelled::StaysWithItsOwner => format!("NODE {}", cluster.id(self.from)),
        };
        for at in [self.to, self.from] {
            cluster.nodes[at].run_command::<()>(&format!("CLUSTER SETSLOT {} {state}", self.slot));
        }
    }

    /// What the node to which the slot moves has under the name of the group.
    fn token_at_target(&self, cluster: &RedisCluster) -> Option<Vec<u8>> {
        cluster.ask(self.to, &format!("GET {}", stored_name(&self.group)))
    }
}

fn stored_name(group: &Group) -> String {
    let hex: String = group.hash().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("groupcache:g:{hex}")
}

fn cache(cluster: &RedisCluster) -> Cache<RedisBackend> {
    let backend = cluster.builder().build().expect("builds");
    Cache::builder(backend).read_time_limit(Duration::from_secs(5)).build()
}

/// Reads, and gives the entry time to be stored.
async fn read(cache: &Cache<RedisBackend>, page: &str, group: &Group, value: &'static str) -> String {
    let load = || async move { Ok::<_, std::convert::Infallible>(value.to_owned()) };
    let Ok(read) = cache.get_or_load(page, group.clone(), load).await;
    sleep(Duration::from_millis(30)).await;
    read
}

async fn cached(cache: &Cache<RedisBackend>, page: &str, group: &Group) -> Option<String> {
    cache.get(page, group.clone()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_is_cancelled_and_begun_again_revives_nothing() {
    let Some(cluster) = RedisCluster::start(3, false) else { return };
    let (reader, writer) = (cache(&cluster), cache(&cluster));
    let mut stale = 0;
    for id in 0..30 {
        let moving = Moving::new(&cluster, Group::new("book").with("id", id));
        let (page, group) = (format!("page{id}"), &moving.group);
        let how = if id % 2 == 0 { Cancelled::Stable } else { Cancelled::StaysWithItsOwner };
        moving.begin(&cluster);
        read(&reader, &page, group, "old").await;
        moving.cancel(&cluster, how);
        writer.invalidate(group.clone()).await.expect("acknowledged");
        moving.begin(&cluster);
        stale += usize::from(cached(&reader, &page, group).await.is_some());
        cluster.move_keys(moving.slot, moving.from, moving.to);
        stale += usize::from(cached(&reader, &page, group).await.is_some());
        cluster.end_migration(moving.slot, moving.from, moving.to);
        stale += usize::from(cached(&reader, &page, group).await.is_some());
    }
    assert_eq!(stale, 0, "of 90 reads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_that_the_owner_evicted_is_not_replaced_by_one_of_a_cancelled_migration() {
    let Some(cluster) = RedisCluster::start(3, false) else { return };
    let cache = cache(&cluster);
    for (id, how) in [Cancelled::Stable, Cancelled::StaysWithItsOwner].into_iter().enumerate() {
        let moving = Moving::new(&cluster, Group::new("book").with("id", id));
        let group = &moving.group;
        moving.begin(&cluster);
        read(&cache, "first", group, "old").await;
        moving.cancel(&cluster, how);
        read(&cache, "second", group, "minted by the owner").await;
        cache.invalidate(group.clone()).await.expect("acknowledged");
        moving.begin(&cluster);
        cluster.nodes[moving.from].run_command::<()>(&format!("UNLINK {}", stored_name(group)));
        assert_eq!(cached(&cache, "first", group).await, None, "{how:?}");
        assert_eq!(cached(&cache, "second", group).await, None, "{how:?}");
        moving.cancel(&cluster, how);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_on_its_way_is_missing_and_refuses_to_be_minted() {
    let Some(cluster) = RedisCluster::start(3, false) else { return };
    let cache = cache(&cluster);
    let backend = cache.backend();
    let moving = Moving::new(&cluster, Group::new("book"));
    let (group, groups) = (&moving.group, Groups::from(moving.group.clone()));
    let key = Key::of("page").expect("a key");
    let vector = backend.mint(&groups).await.expect("mints").vector;
    let entry = Entry::new(key.clone(), groups.clone(), vector, Bytes::from_static(b"old"), Duration::ZERO);
    backend.store(&Arc::new(entry), None).await.expect("stores");

    moving.begin(&cluster);
    cluster.move_keys(moving.slot, moving.from, moving.to);
    let lookup = backend.lookup(&key, &groups, TimeLeft::NotNeeded).await.expect("looks up");
    assert_eq!(lookup.current.iter().collect::<Vec<_>>(), [&None]);
    assert!(matches!(lookup.found, Found::Entry(..)), "of an entry it does not matter where it is");
    let refused = backend.mint(&groups).await.expect_err("refused");
    assert!(refused.is_transient() && refused.to_string().contains("moving"), "{refused}");
    for page in 0..20 {
        assert_eq!(read(&cache, &format!("page {page}"), group, "loaded").await, "loaded");
    }
    assert!(!backend.is_circuit_open(), "the nodes answer");

    // Invalidations follow it, so that what comes back with it is stale.
    let before = moving.token_at_target(&cluster).expect("moved");
    backend.bump(&groups).await.expect("follows");
    let bumped = moving.token_at_target(&cluster).expect("is still there");
    assert_ne!(before, bumped);
    cluster.move_keys_back(moving.slot, moving.from, moving.to);
    moving.cancel(&cluster, Cancelled::Stable);
    let lookup = backend.lookup(&key, &groups, TimeLeft::NotNeeded).await.expect("looks up");
    let Found::Entry(entry, _) = &lookup.found else { panic!("an entry was stored") };
    assert!(lookup.current.iter().all(Option::is_some), "the owner has it again");
    assert!(!lookup.current.equals(entry.vector()), "but another one");
}

/// In some of them the owner evicts the generation, so that it redirects; in some all keys move, and are removed
/// where they have moved to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_are_begun_cancelled_and_begun_again_all_the_time() {
    let Some(cluster) = RedisCluster::start(3, false) else { return };
    let plan = Plan { rows: 12, writers: 6, ..Plan::default().with_many_writers() };
    let build = || cluster.builder().watch_interval(Duration::from_millis(300)).build().expect("builds");
    let caches: Vec<_> = (0..3).map(|_| Cache::builder(build()).build()).collect();
    let groups = (0..plan.rows).map(|row| Group::new("row").with("id", row));
    let all: Vec<_> = groups.map(|group| Moving::new(&cluster, group)).collect();
    let faults = async {
        for round in 0..4 {
            for (row, moving) in all.iter().enumerate() {
                let how = if row % 2 == 0 { Cancelled::Stable } else { Cancelled::StaysWithItsOwner };
                for again in 0..8 {
                    moving.begin(&cluster);
                    if (again + round) % 4 == 3 {
                        cluster.move_keys(moving.slot, moving.from, moving.to);
                        sleep(Duration::from_millis(5)).await;
                        cluster.remove_moved_keys(moving.slot, moving.to);
                    } else {
                        let unlink = format!("UNLINK {}", stored_name(&moving.group));
                        // Redirects if there is nothing to evict.
                        let _redirect = cluster.nodes[moving.from].try_command::<Value>(&unlink);
                        sleep(Duration::from_millis(20)).await;
                    }
                    moving.cancel(&cluster, how);
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
    };
    let _turn = groupcache_tests::turns::history().await;
    run(&caches, plan, faults).await.assert_sound(&plan);
}
