//! No read is stale, whatever happens to a Redis Cluster.

use std::time::Duration;

use groupcache_core::Cache;
use groupcache_redis::RedisBackend;
use groupcache_tests::history::{Plan, run};
use groupcache_tests::redis_cluster::{RedisCluster, wait_until_follows};
use groupcache_tests::turns;
use tokio::time::sleep;

fn caches(cluster: &RedisCluster) -> Vec<Cache<RedisBackend>> {
    let build = || {
        let builder = cluster.builder().backoff(Duration::from_millis(5), Duration::from_millis(50));
        builder.watch_interval(Duration::from_millis(300)).response_time_limit(Duration::from_millis(300))
    };
    (0..3).map(|_| Cache::builder(build().build().expect("builds")).build()).collect()
}

/// The slots of the rows of a history.
fn slots(cluster: &RedisCluster, rows: usize) -> Vec<u16> {
    let name = |row: usize| {
        let hash = groupcache_core::Group::new("row").with("id", row).hash();
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("groupcache:g:{hex}")
    };
    (0..rows).map(|row| cluster.slot(&name(row))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_all_the_time() {
    let _turn = turns::history().await;
    let Some(cluster) = RedisCluster::start(3, false) else { return };
    let plan = Plan::default();
    let caches = caches(&cluster);
    let slots = slots(&cluster, plan.rows);
    let faults = async {
        for round in 0..3 {
            for slot in &slots {
                let from = cluster.owner(*slot);
                let to = (from + 1 + round % 2) % 3;
                cluster.begin_migration(*slot, from, to);
                sleep(Duration::from_millis(5)).await;
                cluster.move_keys(*slot, from, to);
                sleep(Duration::from_millis(5)).await;
                cluster.end_migration(*slot, from, to);
            }
        }
    };
    run(&caches, plan, faults).await.assert_sound(&plan);
}

/// A primary crashes, or hangs and is replaced by hand. Its replica lacks the last invalidations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fails_over_to_replicas_without_the_last_invalidations() {
    let _turn = turns::history().await;
    let Some(mut cluster) = RedisCluster::start(3, true) else { return };
    let plan = Plan { rows: 400, pages: 1, ..Plan::default() };
    let caches = caches(&cluster);
    let faults = async {
        for round in 0..3 {
            let pair = round % 3;
            let (one, other) = (pair, pair + 3);
            let (primary, replica) = if cluster.is_primary(one) { (one, other) } else { (other, one) };
            sleep(Duration::from_millis(300)).await;
            cluster.cut_off_replica(primary);
            sleep(Duration::from_millis(300)).await;
            let hangs = round % 2 == 1;
            if hangs {
                cluster.nodes[primary].pause();
                cluster.nodes[replica].run_command::<()>("CLUSTER FAILOVER TAKEOVER");
            } else {
                cluster.nodes[primary].kill();
            }
            while !cluster.is_primary(replica) {
                sleep(Duration::from_millis(20)).await;
            }
            sleep(Duration::from_millis(1_500)).await;
            if hangs {
                cluster.nodes[primary].resume();
            } else {
                cluster.nodes[primary].restart();
            }
            wait_until_follows(&cluster.nodes[primary]);
            if hangs {
                cluster.nodes[primary].run_command::<()>("ACL SETUSER default +psync +sync");
            }
        }
    };
    let report = run(&caches, plan, faults).await;
    report.assert_sound(&plan);
    assert!(report.failed > 0, "no invalidation failed during a failover: {report}");
    for cache in &caches {
        cache.invalidate(groupcache_core::Group::new("row")).await.expect("the caches use the new primaries");
    }
}
