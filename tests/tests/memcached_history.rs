//! No read returns what was invalidated before it began, whatever happens to the memcached servers; and
//! in each case reads go on being answered.

use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use groupcache_core::Cache;
use groupcache_memcached::{MemcachedBackend, MemcachedBackendBuilder};
use groupcache_tests::broken::{ReadsGenerationsLate, Retry};
use groupcache_tests::broken_memcached::{PlainMemcached, WhenDown};
use groupcache_tests::history::{Order, Plan, Report, finds_stale_reads, operations, run};
use groupcache_tests::memcached::{MemcachedServer, MemcachedServers};
use groupcache_tests::proxy::Proxy;
use tokio::time::sleep;

fn builder(url: &str) -> MemcachedBackendBuilder {
    MemcachedBackend::builder(url).backoff(millis(5), millis(50))
}

/// As many processes as three caches with connections of their own are.
fn caches(build: impl Fn() -> MemcachedBackendBuilder) -> Vec<Cache<MemcachedBackend>> {
    (0..3).map(|_| Cache::builder(build().build().expect("builds")).build()).collect()
}

async fn plain(url: &str, retry: Retry, when_down: WhenDown) -> Vec<Cache<PlainMemcached>> {
    let mut caches = Vec::new();
    for _ in 0..3 {
        caches.push(Cache::builder(PlainMemcached::new(url, retry, when_down).await).build());
    }
    caches
}

/// There are many of them, and each has its faults within the first few thousand operations.
fn modest() -> Plan {
    Plan { operations: operations(15_000), time_limit: Duration::from_secs(600), ..Plan::default() }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_quiet_times() {
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let plan = modest();
    run(&caches(|| builder(&servers.url())), plan, async {}).await.assert_sound(&plan);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_crashes_and_restarts() {
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
    assert!(report.failed > 0, "no invalidation was caught: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_stops_and_goes_on_amid_invalidations() {
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let plan = modest();
    let caches = caches(|| builder(&servers.url()).response_time_limit(millis(100)));
    let report = run(&caches, plan, stop_and_go_on(&servers)).await;
    report.assert_sound(&plan);
    assert!(report.failed > 0, "no invalidation was caught: {report}");
    // The soft time limit of a cache is 250 ms; a lookup and a mint share it.
    assert!(report.slowest_read < millis(1500), "{report}");
}

/// Which is also how a server looks whose network was cut: it comes back with all its memory.
async fn stop_and_go_on(servers: &MemcachedServers) {
    for round in 0..12 {
        let server = &servers.0[round % 3];
        sleep(millis(200)).await;
        server.pause();
        sleep(millis(20 + 40 * round as u64)).await;
        server.resume();
    }
}

/// What was sent on the old connections arrives much later, after others have sent more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_writes_arrive_late() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let proxy = Proxy::start(server.port()).await;
    // Fewer pages than what is wrong needs to be found, so that enough of the reads are hits.
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
async fn evicts_generations_all_the_time() {
    // As little as there is: one page for the items of each size, and those that are read do not stay
    // any longer for it.
    let arguments = ["-m", "1", "-I", "512k", "-o", "no_lru_maintainer"];
    let Some(servers) = MemcachedServers::start(3, &arguments) else { return };
    let plan = Plan { rows: 600, pages: 1, ..modest() };
    let caches = caches(|| builder(&servers.url()));
    let three_seconds = sleep(Duration::from_secs(3));
    let report = tokio::select! {
        report = run(&caches, plan, three_seconds) => report,
        () = press(&servers) => unreachable!("it goes on for ever"),
    };
    report.assert_sound(&plan);
    let mints: u64 = caches.iter().map(|cache| cache.stats().mints).sum();
    println!("{mints} mints, {} evictions", servers.stat("evictions"));
    assert!(mints > 2 * plan.rows as u64, "hardly a generation was evicted: {mints} mints");
}

/// Items of the size of generations and of entries, many more than there is room for.
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
                    // As long as the names that the backend gives.
                    let (name, value) = (format!("{size}:{number}"), "x".repeat(size));
                    batch.push_str(&format!("ms {name:p>77} {size} q\r\n{value}\r\n"));
                }
            }
            batch.push_str("mn\r\n");
            stream.write_all(batch.as_bytes()).await.expect("sent");
            let mut answer = Vec::new();
            while !answer.ends_with(b"MN\r\n") {
                let read = stream.read_buf(&mut answer).await.expect("an answer");
                assert!(read > 0, "closed");
            }
            sleep(millis(1)).await;
        }
    };
    futures_util::future::join_all(servers.0.iter().map(press_one)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_flushed() {
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
async fn has_no_connections_left() {
    // Of these the server needs some for itself.
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
    // None of ours may keep it from answering.
    drop(caches);
    sleep(millis(300)).await;
    assert!(servers.stat("rejected_connections") > 100);
}

mod the_check_finds {
    //! What is wrong on purpose. Without these, the tests above would prove nothing.

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_invalidation_before_the_commit() {
        let Some(servers) = MemcachedServers::start(3, &[]) else { return };
        let plan = Plan { order: Order::InvalidateThenCommit, ..Plan::short() };
        finds_stale_reads(async || run(&caches(|| builder(&servers.url())), plan, async {}).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn generations_read_after_the_computation() {
        let Some(servers) = MemcachedServers::start(3, &[]) else { return };
        let late: Vec<_> = caches(|| builder(&servers.url()))
            .iter()
            .map(|cache| Cache::builder(ReadsGenerationsLate(cache.backend().clone())).build())
            .collect();
        finds_stale_reads(async || run(&late, Plan::short(), async {}).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn generations_on_another_server_while_theirs_is_down() {
        let Some(servers) = MemcachedServers::start(3, &[]) else { return };
        finds_stale_reads(async || stopped(&servers, WhenDown::NextServer).await).await;
    }

    /// The same in everything but that.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_wrong_with_generations_that_stay_where_they_are() {
        let Some(servers) = MemcachedServers::start(3, &[]) else { return };
        assert_eq!(stopped(&servers, WhenDown::Err).await.stale, 0);
    }

    async fn stopped(servers: &MemcachedServers, when_down: WhenDown) -> Report {
        let caches = plain(&servers.url(), Retry::FreshToken, when_down).await;
        run(&caches, Plan { pages: 24, ..Plan::short() }, stop_and_go_on(servers)).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_token_that_is_sent_twice() {
        if let Some(server) = MemcachedServer::start(&[]) {
            finds_stale_reads(async || retried_while_delayed(&server, Retry::SameToken).await).await;
        }
    }

    /// The same in everything but the token.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_wrong_with_a_fresh_token() {
        let Some(server) = MemcachedServer::start(&[]) else { return };
        assert_eq!(retried_while_delayed(&server, Retry::FreshToken).await.stale, 0);
    }

    async fn retried_while_delayed(server: &MemcachedServer, retry: Retry) -> Report {
        let proxy = Proxy::start(server.port()).await;
        let caches = plain(&url_of(&proxy), retry, WhenDown::Err).await;
        run(&caches, Plan::short().with_many_writers(), hold_and_release(&proxy)).await
    }
}
