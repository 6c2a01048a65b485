//! Servers whose roles change while connections stay open.

use groupcache_core::{Backend, Cache};
use groupcache_redis::RedisBackend;
use groupcache_tests::history::{Plan, run};
use groupcache_tests::proxy::Proxy;
use groupcache_tests::redis_cluster::wait_until_follows;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::{groups, is_hit, key, look, millis, store};
use tokio::time::sleep;

use crate::{DAY, opened};

/// A primary and its replica, behind an address that leads to the primary.
struct Pair {
    servers: [RedisServer; 2],
    front: Proxy,
}

impl Pair {
    async fn start() -> Option<Self> {
        let quick = ["--repl-diskless-sync-delay", "0"];
        let servers = [RedisServer::start(&quick)?, RedisServer::start(&quick)?];
        let front = Proxy::start(servers[0].port()).await;
        let pair = Self { servers, front };
        pair.follow(1, pair.servers[0].port());
        wait_until_follows(&pair.servers[1]);
        Some(pair)
    }

    fn follow(&self, which: usize, port: u16) {
        self.servers[which].run_command::<()>(&format!("REPLICAOF 127.0.0.1 {port}"));
    }

    fn promote(&self, which: usize) {
        self.servers[which].run_command::<()>("REPLICAOF NO ONE");
    }

    /// Makes the second server the primary. The first is demoted, and does not reach the second yet.
    fn switch(&self) {
        self.promote(1);
        self.follow(0, 1);
        self.front.redirect(self.servers[1].port());
    }

    /// A process that never checks its connection by itself.
    async fn process(&self) -> RedisBackend {
        opened(RedisBackend::builder(self.front.url()).watch_interval(DAY)).await
    }
}

#[tokio::test]
async fn a_primary_that_was_demoted_serves_nothing_more() {
    let Some(pair) = Pair::start().await else { return };
    let reader = pair.process().await;
    let one = groups(1);
    store(&reader, key("page"), &one, None).await;
    assert!(is_hit(&look(&reader, &key("page"), &one).await));
    wait_until_caught_up(&pair);
    pair.switch();
    let writer = pair.process().await;
    writer.bump(&one).await.expect("acknowledged");
    for _ in 0..10 {
        assert!(!is_hit(&look(&reader, &key("page"), &one).await));
    }
}

#[tokio::test]
async fn a_primary_that_was_demoted_and_promoted_again_serves_nothing_old() {
    let Some(pair) = Pair::start().await else { return };
    let reader = pair.process().await;
    let one = groups(1);
    store(&reader, key("page"), &one, None).await;
    wait_until_caught_up(&pair);
    pair.switch();
    pair.process().await.bump(&one).await.expect("acknowledged");
    // The first server never heard of it, and the reader read nothing in the meantime.
    pair.promote(0);
    pair.front.redirect(pair.servers[0].port());
    assert!(!is_hit(&look(&reader, &key("page"), &one).await));
}

#[tokio::test]
async fn a_replica_that_takes_writes_acknowledges_no_invalidation() {
    let Some(pair) = Pair::start().await else { return };
    pair.servers[0].run_command::<()>("CONFIG SET replica-read-only no");
    let (one, process) = (groups(1), pair.process().await);
    store(&process, key("page"), &one, None).await;
    wait_until_caught_up(&pair);
    let before = pair.servers[1].calls("set");
    pair.switch();
    process.bump(&one).await.expect("acknowledged by the new primary");
    assert!(pair.servers[1].calls("set") > before);
    assert!(!is_hit(&look(&process, &key("page"), &one).await));
}

fn wait_until_caught_up(pair: &Pair) {
    let offset = |server: &RedisServer| server.info("replication", "master_repl_offset");
    let written = offset(&pair.servers[0]);
    pair.servers[1].wait_until("it has all", |replica| offset(replica) >= written);
}

/// No connection is closed, and no process checks one by itself. Processes know a server by its address, so
/// that only one is a primary while others are connected to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_change_by_hand_again_and_again() {
    let Some(pair) = Pair::start().await else { return };
    let plan = Plan { rows: 400, pages: 2, ..Plan::default() };
    let build = || {
        let builder = RedisBackend::builder(pair.front.url()).watch_interval(DAY);
        Cache::builder(builder.backoff(millis(5), millis(20)).build().expect("builds")).build()
    };
    let caches: Vec<_> = (0..3).map(|_| build()).collect();
    let faults = async {
        let mut primary = 0;
        for round in 0..20 {
            sleep(millis(150)).await;
            let other = 1 - primary;
            // First the old one stops being a primary, then others are sent to the new one.
            pair.follow(primary, 1);
            pair.promote(other);
            pair.front.redirect(pair.servers[other].port());
            primary = other;
            sleep(millis(150)).await;
            if round % 3 != 2 {
                // Otherwise it comes back with what it had.
                pair.follow(1 - primary, pair.servers[primary].port());
            }
        }
    };
    run(&caches, plan, faults).await.assert_sound(&plan);
}
