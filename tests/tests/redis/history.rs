//! No read is stale or fails, whatever happens to the Redis server.

use std::time::Duration;

use groupcache_core::Cache;
use groupcache_redis::{RedisBackend, RedisBackendBuilder};
use groupcache_tests::broken::{ReadsGenerationsLate, Retry};
use groupcache_tests::broken_redis::{Identity, NaiveRedis};
use groupcache_tests::history::{Order, Plan, Report, finds_stale_reads, run};
use groupcache_tests::proxy::Proxy;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::millis;
use groupcache_tests::turns;
use tokio::time::sleep;

fn builder(url: &str) -> RedisBackendBuilder {
    RedisBackend::builder(url).backoff(Duration::from_millis(5), Duration::from_millis(50))
}

/// Three caches with connections of their own, which stand for three processes.
fn caches(build: impl Fn() -> RedisBackendBuilder) -> Vec<Cache<RedisBackend>> {
    (0..3).map(|_| Cache::builder(build().build().expect("builds")).build()).collect()
}

fn naive(url: &str, identity: Identity, retry: Retry) -> Vec<Cache<NaiveRedis>> {
    (0..3).map(|_| Cache::builder(NaiveRedis::new(url, identity, retry)).build()).collect()
}

/// Rows that are seldom read and seldom changed, so that an old entry can return long after.
fn cold(plan: Plan) -> Plan {
    Plan { rows: 2_000, pages: 1, ..plan }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_faults() {
    let _turn = turns::history().await;
    let Some(server) = RedisServer::start(&[]) else { return };
    let plan = Plan::default();
    run(&caches(|| builder(&server.url())), plan, async {}).await.assert_sound(&plan);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_crashes_and_restarts_empty() {
    let _turn = turns::history().await;
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let plan = Plan::default();
    let caches = caches(|| builder(&server.url()));
    let faults = async {
        for _ in 0..8 {
            sleep(millis(300)).await;
            server.kill();
            sleep(millis(50)).await;
            server.restart();
        }
    };
    run(&caches, plan, faults).await.assert_sound(&plan);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_crashes_and_restarts_from_an_old_snapshot() {
    let _turn = turns::history().await;
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let plan = Plan::default();
    let caches = caches(|| builder(&server.url()));
    let faults = async { restart_from_snapshots(&mut server).await };
    run(&caches, plan, faults).await.assert_sound(&plan);
}

async fn restart_from_snapshots(server: &mut RedisServer) {
    for _ in 0..8 {
        sleep(millis(150)).await;
        server.run_command::<()>("SAVE");
        sleep(millis(150)).await;
        server.restart();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_paused_during_invalidations() {
    let _turn = turns::history().await;
    let Some(server) = RedisServer::start(&[]) else { return };
    let plan = Plan::default();
    let caches = caches(|| builder(&server.url()).response_time_limit(millis(100)));
    let faults = async {
        for round in 0..12 {
            sleep(millis(200)).await;
            server.pause();
            sleep(millis(20 + 40 * round)).await;
            server.resume();
        }
    };
    let report = run(&caches, plan, faults).await;
    report.assert_sound(&plan);
    assert!(report.failed > 0, "no invalidation failed: {report}");
    // The read time limit of a cache is 250 ms. A lookup and a mint share it.
    assert!(report.slowest_read < millis(1500), "{report}");
}

/// Writes on the old connections arrive late, after later writes on new connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_writes_arrive_late() {
    let _turn = turns::history().await;
    let Some(server) = RedisServer::start(&[]) else { return };
    let proxy = Proxy::start(server.port()).await;
    let plan = Plan::default().with_many_writers();
    let caches = caches(|| builder(&proxy.url()).response_time_limit(millis(60)));
    run(&caches, plan, hold_and_release(&proxy)).await.assert_sound(&plan);
}

async fn hold_and_release(proxy: &Proxy) {
    for _ in 0..15 {
        sleep(millis(100)).await;
        proxy.hold_existing();
        sleep(millis(450)).await;
        proxy.release();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fails_over_to_a_replica_without_the_last_invalidations() {
    let _turn = turns::history().await;
    let Some(pair) = Pair::start().await else { return };
    let plan = cold(Plan::default());
    let caches = caches(|| builder(&pair.front.url()));
    run(&caches, plan, pair.fail_over_and_over()).await.assert_sound(&plan);
}

/// Two servers behind a proxy that leads to the primary.
struct Pair {
    servers: [RedisServer; 2],
    /// The proxies between a replica and its primary.
    links: [Proxy; 2],
    front: Proxy,
}

impl Pair {
    async fn start() -> Option<Self> {
        let settings = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        let servers = [RedisServer::start(&settings)?, RedisServer::start(&settings)?];
        let links = [Proxy::start(servers[0].port()).await, Proxy::start(servers[1].port()).await];
        let front = Proxy::start(servers[0].port()).await;
        Some(Self { servers, links, front })
    }

    /// Fails over several times without a restart. Each time a replica follows, is disconnected, misses
    /// some invalidations, and becomes the primary.
    async fn fail_over_and_over(&self) {
        for round in 0..6 {
            let (primary, replica) = (round % 2, (round + 1) % 2);
            let link = &self.links[primary];
            self.servers[replica].run_command::<()>(&format!("REPLICAOF 127.0.0.1 {}", link.port()));
            for _ in 0..300 {
                let status = self.servers[replica].info("replication", "master_link_status");
                if status.as_deref() == Some("up") {
                    break;
                }
                sleep(millis(10)).await;
            }
            sleep(millis(200)).await;
            link.hold_existing();
            sleep(millis(200)).await;
            self.servers[replica].run_command::<()>("REPLICAOF NO ONE");
            self.front.redirect(self.servers[replica].port());
            // Sentinel closes the connections of the old primary too.
            self.front.cut();
            link.cut();
            link.release();
            sleep(millis(150)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_out_of_memory_and_evicts_nothing() {
    let _turn = turns::history().await;
    let Some(server) = RedisServer::start(&["--maxmemory-policy", "noeviction"]) else { return };
    let plan = Plan::default();
    let caches = caches(|| builder(&server.url()));
    let faults = async {
        for _ in 0..8 {
            sleep(millis(150)).await;
            server.run_command::<()>("CONFIG SET maxmemory 1");
            sleep(millis(150)).await;
            server.run_command::<()>("CONFIG SET maxmemory 0");
        }
    };
    run(&caches, plan, faults).await.assert_sound(&plan);
    assert!(server.calls("unlink") > 100, "too few invalidations met a full server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_evicts_under_pressure() {
    let _turn = turns::history().await;
    let arguments = ["--maxmemory-policy", "allkeys-lru", "--maxmemory", "3mb"];
    let Some(server) = RedisServer::start(&arguments) else { return };
    let plan = Plan::default();
    let caches = caches(|| builder(&server.url()));
    let pressure = async {
        let client = groupcache_redis::redis::Client::open(server.url()).expect("a client");
        let mut other = client.get_multiplexed_async_connection().await.expect("connects");
        let padding = vec![b'x'; 10_000];
        for number in 0..6_000 {
            let mut set = groupcache_redis::redis::cmd("SET");
            set.arg(format!("padding{number}")).arg(&padding);
            // The server may refuse a write while it evicts.
            let _refused: Result<(), _> = set.query_async(&mut other).await;
        }
    };
    run(&caches, plan, pressure).await.assert_sound(&plan);
    let evicted = server.info("stats", "evicted_keys").and_then(|count| count.parse::<u64>().ok());
    assert!(evicted.is_some_and(|count| count > 1_000), "{evicted:?} evicted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_flushed() {
    let _turn = turns::history().await;
    let Some(server) = RedisServer::start(&[]) else { return };
    let plan = Plan::default();
    let caches = caches(|| builder(&server.url()));
    let faults = async {
        for _ in 0..60 {
            sleep(millis(30)).await;
            server.run_command::<()>("FLUSHALL");
        }
    };
    run(&caches, plan, faults).await.assert_sound(&plan);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_disconnects_its_clients() {
    let _turn = turns::history().await;
    let Some(server) = RedisServer::start(&[]) else { return };
    let plan = Plan::default();
    let caches = caches(|| builder(&server.url()));
    let faults = async {
        for _ in 0..60 {
            sleep(millis(30)).await;
            server.run_command::<u64>("CLIENT KILL TYPE normal");
        }
    };
    run(&caches, plan, faults).await.assert_sound(&plan);
}

mod the_check_finds {
    //! Mistakes that the check must find. Without these, the tests above would prove nothing.

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_invalidation_before_the_commit() {
        let _turn = turns::history().await;
        let Some(server) = RedisServer::start(&[]) else { return };
        let plan = Plan { order: Order::InvalidateThenCommit, ..Plan::short() };
        finds_stale_reads(async || run(&caches(|| builder(&server.url())), plan, async {}).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn generations_read_after_the_load() {
        let _turn = turns::history().await;
        let Some(server) = RedisServer::start(&[]) else { return };
        let late: Vec<_> = caches(|| builder(&server.url()))
            .iter()
            .map(|cache| Cache::builder(ReadsGenerationsLate(cache.backend().clone())).build())
            .collect();
        finds_stale_reads(async || run(&late, Plan::short(), async {}).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_identity_of_the_server_after_a_restart() {
        let _turn = turns::history().await;
        let Some(mut server) = RedisServer::start(&[]) else { return };
        let caches = naive(&server.url(), Identity::None, Retry::FreshToken);
        finds_stale_reads(async || {
            run(&caches, Plan::short(), async { restart_from_snapshots(&mut server).await }).await
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_identity_that_a_promotion_does_not_change() {
        let _turn = turns::history().await;
        let Some(pair) = Pair::start().await else { return };
        let caches = naive(&pair.front.url(), Identity::RunId, Retry::FreshToken);
        finds_stale_reads(async || run(&caches, cold(Plan::short()), pair.fail_over_and_over()).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_token_that_is_sent_twice() {
        let _turn = turns::history().await;
        if let Some(server) = RedisServer::start(&[]) {
            finds_stale_reads(async || retried_while_delayed(&server, Retry::SameToken).await).await;
        }
    }

    /// Differs from the test above in the token only.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_stale_with_a_fresh_token() {
        let _turn = turns::history().await;
        let Some(server) = RedisServer::start(&[]) else { return };
        assert_eq!(retried_while_delayed(&server, Retry::FreshToken).await.stale, 0);
    }

    async fn retried_while_delayed(server: &RedisServer, retry: Retry) -> Report {
        let proxy = Proxy::start(server.port()).await;
        let caches = naive(&proxy.url(), Identity::RunId, retry);
        run(&caches, Plan::short().with_many_writers(), hold_and_release(&proxy)).await
    }
}
