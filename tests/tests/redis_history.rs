//! No read returns what was invalidated before it began, whatever happens to the Redis server; and
//! in each case reads go on being answered.

use std::time::Duration;

use groupcache_core::Cache;
use groupcache_redis::{RedisBackend, RedisBackendBuilder};
use groupcache_tests::broken::{Identity, PlainRedis, ReadsGenerationsLate, Retry};
use groupcache_tests::history::{Order, Plan, Report, run};
use groupcache_tests::proxy::Proxy;
use groupcache_tests::servers::RedisServer;
use tokio::time::sleep;

fn builder(url: &str) -> RedisBackendBuilder {
    RedisBackend::builder(url).backoff(Duration::from_millis(5), Duration::from_millis(50))
}

/// As many processes as three caches with connections of their own are.
fn caches(build: impl Fn() -> RedisBackendBuilder) -> Vec<Cache<RedisBackend>> {
    (0..3).map(|_| Cache::builder(build().build().expect("builds")).build()).collect()
}

fn plain(url: &str, identity: Identity, retry: Retry) -> Vec<Cache<PlainRedis>> {
    (0..3).map(|_| Cache::builder(PlainRedis::new(url, identity, retry)).build()).collect()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// For what is wrong on purpose: enough operations to find it.
fn short() -> Plan {
    Plan { operations: 5_000, time_limit: Duration::from_secs(20), ..Plan::default() }
}

/// Rows that are seldom read and seldom changed, whose entries come back long after.
fn cold(plan: Plan) -> Plan {
    Plan { rows: 2_000, pages: 1, ..plan }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_quiet_times() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let plan = Plan::default();
    run(&caches(|| builder(&server.url())), plan, async {}).await.assert_sound(&plan);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_and_restarts_empty() {
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
async fn crashes_and_restarts_from_an_old_snapshot() {
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
async fn stops_and_goes_on_amid_invalidations() {
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
    assert!(report.failed > 0, "no invalidation was caught: {report}");
    // The soft time limit of a cache is 250 ms; a lookup and a mint share it.
    assert!(report.slowest_read < millis(1500), "{report}");
}

/// What was sent on the old connections arrives much later, after others have sent more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_writes_arrive_late() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let proxy = Proxy::start(server.port()).await;
    let plan = retrying(Plan::default());
    let caches = caches(|| builder(&proxy.url()).response_time_limit(millis(60)));
    run(&caches, plan, hold_and_release(&proxy)).await.assert_sound(&plan);
}

/// Many invalidations under way at once, and pages that are not looked at for a while.
fn retrying(plan: Plan) -> Plan {
    Plan { writers: 12, pages: 24, pause: millis(15), ..plan }
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
    let Some(pair) = Pair::start().await else { return };
    let plan = cold(Plan::default());
    let caches = caches(|| builder(&pair.front.url()));
    run(&caches, plan, pair.fail_over_and_over()).await.assert_sound(&plan);
}

/// Two servers, behind an address that leads to the one that is the primary.
struct Pair {
    servers: [RedisServer; 2],
    /// Between a replica and its primary.
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

    /// Each time: a replica follows, is cut off, misses some invalidations, and becomes the primary
    /// that everybody is sent to. Nobody restarts.
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
            // What Sentinel does with the old primary's clients.
            self.front.cut();
            link.cut();
            link.release();
            sleep(millis(150)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_out_of_memory_and_evicts_nothing() {
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
    assert!(server.calls("unlink") > 100, "no invalidation met a full server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evicts_under_pressure() {
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
            // Refused now and then while it evicts.
            let _refused: Result<(), _> = set.query_async(&mut other).await;
        }
    };
    run(&caches, plan, pressure).await.assert_sound(&plan);
    let evicted = server.info("stats", "evicted_keys").and_then(|count| count.parse::<u64>().ok());
    assert!(evicted.is_some_and(|count| count > 1_000), "{evicted:?} evicted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_flushed() {
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
async fn kills_its_clients() {
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
    //! What is wrong on purpose. Without these, the tests above would prove nothing. Whether one run of a
    //! few seconds meets the moment at which it matters is up to chance, so each has several.

    use super::*;

    const ATTEMPTS: u32 = 6;

    async fn found(mut attempt: impl AsyncFnMut() -> Report) {
        for _ in 0..ATTEMPTS {
            let report = attempt().await;
            println!("{report}");
            if report.stale > 0 {
                return;
            }
        }
        panic!("nothing found in {ATTEMPTS} attempts");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_invalidation_before_the_commit() {
        let Some(server) = RedisServer::start(&[]) else { return };
        let plan = Plan { order: Order::InvalidateThenCommit, ..short() };
        found(async || run(&caches(|| builder(&server.url())), plan, async {}).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn generations_read_after_the_computation() {
        let Some(server) = RedisServer::start(&[]) else { return };
        let late: Vec<_> = caches(|| builder(&server.url()))
            .iter()
            .map(|cache| Cache::builder(ReadsGenerationsLate(cache.backend().clone())).build())
            .collect();
        found(async || run(&late, short(), async {}).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_identity_of_the_server_after_a_restart() {
        let Some(mut server) = RedisServer::start(&[]) else { return };
        let caches = plain(&server.url(), Identity::None, Retry::FreshToken);
        found(async || run(&caches, short(), async { restart_from_snapshots(&mut server).await }).await)
            .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_identity_that_a_promotion_does_not_change() {
        let Some(pair) = Pair::start().await else { return };
        let caches = plain(&pair.front.url(), Identity::RunId, Retry::FreshToken);
        found(async || run(&caches, cold(short()), pair.fail_over_and_over()).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_token_that_is_sent_twice() {
        if let Some(server) = RedisServer::start(&[]) {
            found(async || retried_while_delayed(&server, Retry::SameToken).await).await;
        }
    }

    /// The same in everything but the token.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_wrong_with_a_fresh_token() {
        let Some(server) = RedisServer::start(&[]) else { return };
        assert_eq!(retried_while_delayed(&server, Retry::FreshToken).await.stale, 0);
    }

    async fn retried_while_delayed(server: &RedisServer, retry: Retry) -> Report {
        let proxy = Proxy::start(server.port()).await;
        let caches = plain(&proxy.url(), Identity::RunId, retry);
        run(&caches, retrying(short()), hold_and_release(&proxy)).await
    }
}
