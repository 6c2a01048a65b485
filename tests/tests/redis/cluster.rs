//! The Redis backend on a Redis Cluster of three primaries.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groupcache_conformance::{Expectations, violations};
use groupcache_core::backend::{Found, TimeLeft};
use groupcache_core::{Backend, Cache, Entry, ErrorKind, Group, Groups, Key};
use groupcache_redis::RedisBackend;
use groupcache_tests::redis_cluster::RedisCluster;
use groupcache_tests::redis_server::RedisServer;
use tokio::time::sleep;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn key() -> Key {
    Key::of("page").expect("a key")
}

fn groups(count: usize) -> Groups {
    (0..count).map(|id| Group::new("book").with("id", id)).collect()
}

/// The name of a generation in the store.
fn stored_name(group: &Group) -> String {
    let hex: String = group.hash().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("groupcache:g:{hex}")
}

/// Makes a backend that sends only the commands of its operations.
fn quiet(cluster: &RedisCluster) -> RedisBackend {
    cluster.builder().watch_interval(DAY).build().expect("builds")
}

async fn store(backend: &RedisBackend, groups: &Groups) {
    let vector = backend.mint(groups).await.expect("mints").vector;
    let entry = Entry::new(key(), groups.clone(), vector, Bytes::from_static(b"old"), Duration::ZERO);
    backend.store(&Arc::new(entry), None).await.expect("stores");
}

async fn is_hit(backend: &RedisBackend, groups: &Groups) -> bool {
    let lookup = backend.lookup(&key(), groups, TimeLeft::NotNeeded).await.expect("looks up");
    matches!(&lookup.found, Found::Entry(entry, _) if lookup.current.equals(entry.vector()))
}

/// The slot of a group, its owner, and another node.
fn placement(cluster: &RedisCluster, group: &Group) -> (u16, usize, usize) {
    let slot = cluster.slot(&stored_name(group));
    let owner = cluster.owner(slot);
    (slot, owner, (owner + 1) % cluster.primaries())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_of_the_kit_holds() {
    let Some(cluster) = RedisCluster::start(3, false) else { return };
    let redis = |key_prefix: String| {
        let builder = cluster.builder().key_prefix(key_prefix).response_time_limit(Duration::from_secs(5));
        let backend = builder.build().expect("builds");
        async move { Some(backend) }
    };
    let found = violations(&redis, Expectations::new().shared().leases()).await;
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn a_hit_is_one_command_for_each_key_and_one_round() {
    let Some(cluster) = RedisCluster::start(3, false) else { return };
    let backend = cluster.builder().watch_interval(DAY).cluster_check_interval(DAY).build().expect("builds");
    backend.connect().await.expect("connects");
    let twenty = groups(20);
    store(&backend, &twenty).await;
    let count = |command: &str| cluster.nodes.iter().map(|node| node.calls(command)).sum::<u64>();
    let (gets, sets, infos) = (count("get"), count("set"), count("cluster|info"));
    assert!(is_hit(&backend, &twenty).await);
    assert_eq!(count("get") - gets, 21);
    backend.bump(&twenty).await.expect("bumps");
    assert_eq!(count("set") - sets, 20);
    assert_eq!(count("cluster|info"), infos, "the check is not due yet");
    assert!(!is_hit(&backend, &twenty).await);
    for node in &cluster.nodes {
        assert!(node.calls("get") > 0, "the keys are on all nodes");
    }
}

#[tokio::test]
async fn operations_follow_a_slot_before_during_and_after_its_move() {
    let Some(cluster) = RedisCluster::start(3, false) else { return };
    // `old` knows the slots from before the migration, and `new` connects after it.
    let old = quiet(&cluster);
    let one = groups(1);
    store(&old, &one).await;
    assert!(is_hit(&old, &one).await);
    let (slot, from, to) = placement(&cluster, &one[0]);

    cluster.begin_migration(slot, from, to);
    assert!(is_hit(&old, &one).await, "its keys have not moved yet");
    cluster.move_keys(slot, from, to);
    let there = old.lookup(&key(), &one, TimeLeft::NotNeeded).await.expect("looks up");
    assert!(there.current[0].is_none(), "a generation behind a redirect is missing");
    old.bump(&one).await.expect("follows the key");
    cluster.end_migration(slot, from, to);
    assert!(!is_hit(&old, &one).await, "the token on another node is another generation");

    store(&old, &one).await;
    old.bump(&one).await.expect("follows the slot");
    let new = quiet(&cluster);
    assert!(!is_hit(&new, &one).await, "the new owner has the bump");
    store(&new, &one).await;
    assert!(is_hit(&old, &one).await && is_hit(&new, &one).await);
    new.bump(&one).await.expect("bumps");
    assert!(!is_hit(&old, &one).await);
}

/// Where the slot is when the reader looks it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    /// The first owner has its keys, but not the slot.
    OnTheWay,
    /// The first owner has the slot.
    Arrived,
}

/// Moves a slot to another node, which acknowledges an invalidation and loses it in a crash, and moves the
/// slot back. The first owner is the same process as before, and the token is the old one.
///
/// Returns whether the reader is served the stale entry.
async fn is_stale_after_a_slot_was_away(check_interval: Duration, back: Back) -> Option<bool> {
    let mut cluster = RedisCluster::start(3, false)?;
    let build = || {
        let builder = cluster.builder().watch_interval(DAY);
        builder.cluster_check_interval(check_interval).build().expect("builds")
    };
    let (reader, writer) = (build(), build());
    let one = groups(1);
    let (slot, first, second) = placement(&cluster, &one[0]);
    // Keeps the entry off the node that crashes, as a crash changes the incarnation.
    let entry = cluster.slot(&format!("groupcache:e:{}", hex(&key().hash())));
    if cluster.owner(entry) == second {
        cluster.migrate(entry, second, first);
    }
    store(&reader, &one).await;
    assert!(is_hit(&reader, &one).await);

    cluster.migrate(slot, first, second);
    cluster.nodes[second].run_command::<()>("SAVE");
    writer.bump(&one).await.expect("acknowledged");
    cluster.nodes[second].restart();
    cluster.nodes[second].wait_until("the node has restarted", |node| {
        node.try_command::<String>("CLUSTER INFO").is_ok_and(|info| info.contains("cluster_state:ok"))
    });
    cluster.begin_migration(slot, second, first);
    cluster.move_keys(slot, second, first);
    if back == Back::Arrived {
        cluster.end_migration(slot, second, first);
        let name = stored_name(&one[0]);
        assert_eq!(
            cluster.nodes[first].run_command::<u64>(&format!("EXISTS {name}")),
            1,
            "the token has returned"
        );
    }
    Some(is_hit(&reader, &one).await)
}

fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_slot_that_returns_without_an_invalidation_revives_no_entry() {
    assert_ne!(is_stale_after_a_slot_was_away(Duration::ZERO, Back::Arrived).await, Some(true));
}

#[tokio::test]
async fn a_slot_on_its_way_back_without_an_invalidation_revives_no_entry() {
    assert_ne!(is_stale_after_a_slot_was_away(Duration::ZERO, Back::OnTheWay).await, Some(true));
}

/// A backend that checks the epoch of the node only once uses an outdated one.
#[tokio::test]
async fn without_the_epoch_of_the_node_a_stale_entry_would_return() {
    assert_ne!(is_stale_after_a_slot_was_away(DAY, Back::Arrived).await, Some(false));
}

#[tokio::test]
async fn a_dead_node_fails_only_its_own_keys() {
    let Some(mut cluster) = RedisCluster::start(3, false) else { return };
    let backend = cluster.builder().build().expect("builds");
    backend.connect().await.expect("connects");
    let many = groups(60);
    backend.mint(&many).await.expect("mints");
    cluster.nodes[2].kill();
    let mut answered = 0;
    for group in &many {
        let one: Groups = group.clone().into();
        let looked = backend.lookup(&key(), &one, TimeLeft::NotNeeded).await;
        answered += u32::from(looked.is_ok());
        if let Err(error) = looked {
            assert!(error.is_transient(), "{error}");
        }
    }
    let entry_is_there = cluster.slot(&format!("groupcache:e:{}", hex(&key().hash()))) < 10_923;
    assert!(!entry_is_there || answered > 10, "{answered} of {} answered", many.len());
    assert!(backend.bump(&many).await.expect_err("one node is dead").is_transient());
    let cache = Cache::builder(backend).build();
    let value = cache.get_or_load("page", many.clone(), || async { Ok::<_, ()>(1_u64) }).await;
    assert_eq!(value, Ok(1), "a read works without the node");
    cluster.nodes[2].restart();
    for _ in 0..500 {
        if cache.invalidate(many.clone()).await.is_ok() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the backend does not use the node again");
}

#[tokio::test]
async fn the_error_names_what_is_wrong_with_the_cluster() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = RedisBackend::builder(server.url()).cluster([""; 0]).build().expect("builds");
    let error = backend.connect().await.expect_err("no cluster");
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(error.to_string().contains("`cluster`"), "{error}");

    let Some(empty) = RedisServer::start(&["--cluster-enabled", "yes"]) else { return };
    let backend = RedisBackend::builder(empty.url()).cluster([""; 0]).build().expect("builds");
    let error = backend.connect().await.expect_err("no slots");
    assert!(error.is_transient() && error.to_string().contains("slot"), "{error}");
    let error = RedisBackend::builder(empty.url()).build().expect("builds").connect().await;
    let error = error.expect_err("one node of many");
    assert!(error.to_string().contains("`cluster`"), "{error}");
}
