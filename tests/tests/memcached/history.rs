//! No read is stale or fails, whatever happens to the memcached servers.

use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use groupcache_core::Cache;
use groupcache_memcached::{MemcachedBackend, MemcachedBackendBuilder};
use groupcache_tests::broken::{ReadsGenerationsLate, Retry};
use groupcache_tests::broken_memcached::{NaiveMemcached, WhenDown};
use groupcache_tests::history::{Order, Plan, Report, finds_stale_reads, operations, run};
use groupcache_tests::memcached_server::{MemcachedServer, MemcachedServers};
use groupcache_tests::proxy::Proxy;
use groupcache_tests::shorthand::millis;
use groupcache_tests::turns;
use tokio::time::sleep;

fn builder(url: &str) -> MemcachedBackendBuilder {
    MemcachedBackend::builder(url).backoff(millis(5), millis(50))
}

/// Three caches with connections of their own, which stand for three processes.
fn caches(build: impl Fn() -> MemcachedBackendBuilder) -> Vec<Cache<MemcachedBackend>> {
    (0..3).map(|_| Cache::builder(build().build().expect("builds")).build()).collect()
}

async fn naive(url: &str, retry: Retry, when_down: WhenDown) -> Vec<Cache<NaiveMemcached>> {
    let mut caches = Vec::new();
    for _ in 0..3 {
        caches.push(Cache::builder(NaiveMemcached::new(url, retry, when_down).await).build());
    }
    caches
}

/// A plan for a fault that happens within the first few thousand operations.
fn modest() -> Plan {
    Plan { operations: operations(15_000), time_limit: Duration::from_secs(600), ..Plan::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_faults() {
    let _turn = turns::history().await;
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let plan = modest();
    run(&caches(|| builder(&servers.url())), plan, async {}).await.assert_sound(&plan);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_crashes_and_restarts() {
    let _turn = turns::history().await;
    let Some(mut servers) = MemcachedServers::start(3, &[]) else { return };
    let plan = modest();
    let caches = caches(|| builder(&servers.url()));
    let faults = async {
        for round in 0..9 {
            sleep(millis(250)).await;
            servers.0[round % 3].kill();
            sleep(millis(80)).await;
            servers.0[round % 3].restart();
        }
    };
    let report = run(&caches, plan, faults).await;
    report.assert_sound(&plan);
    assert!(report.failed > 0, "no invalidation failed: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_is_paused_during_invalidations() {
    let _turn = turns::history().await;
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let plan = modest();
    let caches = caches(|| builder(&servers.url()).response_time_limit(millis(100)));
    let report = run(&caches, plan, pause_and_resume(&servers)).await;
    report.assert_sound(&plan);
    assert!(report.failed > 0, "no invalidation failed: {report}");
    // The read time limit of a cache is 250 ms. A lookup and a mint share it.
    assert!(report.slowest_read < millis(1500), "{report}");
}

/// A server after a network partition looks the same: it returns with all its memory.
async fn pause_and_resume(servers: &MemcachedServers) {
    for round in 0..12 {
        let server = &servers.0[round % 3];
        sleep(millis(200)).await;
        server.pause();
        sleep(millis(20 + 40 * round as u64)).await;
        server.resume();
    }
}

/// Writes on the old connections arrive late, after later writes on new connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_writes_arrive_late() {
    let _turn = turns::history().await;
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let proxy = Proxy::start(server.port()).await;
    // Fewer pages than a mistake needs to be found, so that enough reads are hits.
    let plan = Plan { pages: 6, ..modest().with_many_writers() };
    let caches = caches(|| builder(&url_of(&proxy)).response_time_limit(millis(60)));
    run(&caches, plan, hold_and_release(&proxy)).await.assert_sound(&plan);
}

fn url_of(proxy: &Proxy) -> String {
    format!("memcached://127.0.0.1:{}", proxy.port())
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
async fn generations_are_evicted_all_the_time() {
    let _turn = turns::history().await;
    // The minimum: one page for the items of each size, and a read does not keep an item longer.
    let arguments = ["-m", "1", "-I", "512k", "-o", "no_lru_maintainer"];
    let Some(servers) = MemcachedServers::start(3, &arguments) else { return };
    let plan = Plan { rows: 600, pages: 1, ..modest() };
    let caches = caches(|| builder(&servers.url()));
    let three_seconds = sleep(Duration::from_secs(3));
    let report = tokio::select! {
        report = run(&caches, plan, three_seconds) => report,
        () = press(&servers) => unreachable!("it never ends"),
    };
    report.assert_sound(&plan);
    let mints: u64 = caches.iter().map(|cache| cache.stats().mints).sum();
    println!("{mints} mints, {} evictions", servers.stat("evictions"));
    assert!(mints > 2 * plan.rows as u64, "too few generations were evicted: {mints} mints");
}

/// Stores items of the sizes of generations and entries, many more than the servers have memory for.
async fn press(servers: &MemcachedServers) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let press_one = async |server: &MemcachedServer| {
        let address = (Ipv4Addr::LOCALHOST, server.port());
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
        let mut number = 0_u64;
        loop {
            let mut batch = String::new();
            for _ in 0..300 {
                number += 1;
                for size in [16, 100, 130, 160, 200] {
                    // The names have the length of those of the backend.
                    let (name, value) = (format!("{size}:{number}"), "x".repeat(size));
                    batch.push_str(&format!("ms {name:p>77} {size} q\r\n{value}\r\n"));
                }
            }
            batch.push_str("mn\r\n");
            stream.write_all(batch.as_bytes()).await.expect("sent");
            let mut reply = Vec::new();
            while !reply.ends_with(b"MN\r\n") {
                let read = stream.read_buf(&mut reply).await.expect("a reply");
                assert!(read > 0, "closed");
            }
            sleep(millis(1)).await;
        }
    };
    futures_util::future::join_all(servers.0.iter().map(press_one)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_are_flushed() {
    let _turn = turns::history().await;
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let plan = modest();
    let caches = caches(|| builder(&servers.url()));
    let faults = async {
        for round in 0..60 {
            sleep(millis(30)).await;
            servers.0[round % 3].flush_all();
        }
    };
    run(&caches, plan, faults).await.assert_sound(&plan);
    assert_eq!(servers.stat("cmd_flush"), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_has_no_connections_left() {
    let _turn = turns::history().await;
    // The server needs some of these connections for itself.
    let Some(servers) = MemcachedServers::start(3, &["-c", "60"]) else { return };
    let plan = modest();
    let caches = caches(|| builder(&servers.url()));
    let faults = async {
        for round in 0..15 {
            sleep(millis(100)).await;
            let address = (Ipv4Addr::LOCALHOST, servers.0[round % 3].port());
            let others: Vec<_> = (0..80).filter_map(|_| TcpStream::connect(address).ok()).collect();
            sleep(millis(100)).await;
            drop(others);
        }
    };
    run(&caches, plan, faults).await.assert_sound(&plan);
    // Frees the connections that the next command needs.
    drop(caches);
    sleep(millis(300)).await;
    assert!(servers.stat("rejected_connections") > 100);
}

mod the_check_finds {
    //! Mistakes that the check must find. Without these, the tests above would prove nothing.

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_invalidation_before_the_commit() {
        let _turn = turns::history().await;
        let Some(servers) = MemcachedServers::start(3, &[]) else { return };
        let plan = Plan { order: Order::InvalidateThenCommit, ..Plan::short() };
        finds_stale_reads(async || run(&caches(|| builder(&servers.url())), plan, async {}).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn generations_read_after_the_load() {
        let _turn = turns::history().await;
        let Some(servers) = MemcachedServers::start(3, &[]) else { return };
        let late: Vec<_> = caches(|| builder(&servers.url()))
            .iter()
            .map(|cache| Cache::builder(ReadsGenerationsLate(cache.backend().clone())).build())
            .collect();
        finds_stale_reads(async || run(&late, Plan::short(), async {}).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn generations_on_another_server_while_theirs_is_down() {
        let _turn = turns::history().await;
        let Some(servers) = MemcachedServers::start(3, &[]) else { return };
        finds_stale_reads(async || paused(&servers, WhenDown::NextServer).await).await;
    }

    /// Differs from the test above in that only.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_stale_if_generations_stay_on_their_server() {
        let _turn = turns::history().await;
        let Some(servers) = MemcachedServers::start(3, &[]) else { return };
        assert_eq!(paused(&servers, WhenDown::Err).await.stale, 0);
    }

    async fn paused(servers: &MemcachedServers, when_down: WhenDown) -> Report {
        let caches = naive(&servers.url(), Retry::FreshToken, when_down).await;
        run(&caches, Plan { pages: 24, ..Plan::short() }, pause_and_resume(servers)).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_token_that_is_sent_twice() {
        let _turn = turns::history().await;
        if let Some(server) = MemcachedServer::start(&[]) {
            finds_stale_reads(async || retried_while_delayed(&server, Retry::SameToken).await).await;
        }
    }

    /// Differs from the test above in the token only.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_stale_with_a_fresh_token() {
        let _turn = turns::history().await;
        let Some(server) = MemcachedServer::start(&[]) else { return };
        assert_eq!(retried_while_delayed(&server, Retry::FreshToken).await.stale, 0);
    }

    async fn retried_while_delayed(server: &MemcachedServer, retry: Retry) -> Report {
        let proxy = Proxy::start(server.port()).await;
        let caches = naive(&url_of(&proxy), retry, WhenDown::Err).await;
        run(&caches, Plan::short().with_many_writers(), hold_and_release(&proxy)).await
    }
}
