//! Addresses that lead to another server from some moment on, while the old server lives: a name that is
//! resolved anew, or a virtual address.

use groupcache_core::backend::TimeLeft;
use groupcache_core::{Backend, Cache};
use groupcache_redis::RedisBackend;
use groupcache_tests::fake_server::FakeServer;
use groupcache_tests::history::{Plan, run};
use groupcache_tests::proxy::Proxy;
use groupcache_tests::redis_cluster::wait_until_follows;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::{eventually, groups, is_hit, key, look, millis, store};
use tokio::time::{Instant, sleep};

use crate::connected;

#[tokio::test]
async fn a_connection_is_left_when_its_address_leads_elsewhere() {
    let (Some(old), Some(new)) = (RedisServer::start(&[]), RedisServer::start(&[])) else { return };
    let proxy = Proxy::start(old.port()).await;
    let builder = || RedisBackend::builder(proxy.url()).watch_interval(millis(100));
    let reader = connected(builder()).await;
    let one = groups(1);
    store(&reader, key("page"), &one, None).await;
    proxy.redirect(new.port());
    connected(builder()).await.bump(&one).await.expect("acknowledged");
    let moved_at = Instant::now();
    eventually("nothing old is served", async || !is_hit(&look(&reader, &key("page"), &one).await)).await;
    // The interval and the time of the check, on a machine that does other things too.
    assert!(moved_at.elapsed() < millis(1500), "{:?}", moved_at.elapsed());
    let reads = old.calls("mget");
    look(&reader, &key("page"), &one).await;
    assert_eq!(old.calls("mget"), reads, "the old server is left alone");
}

#[tokio::test]
async fn a_process_reads_where_it_invalidates() {
    let quick = ["--repl-diskless-sync-delay", "0"];
    let (Some(old), Some(new)) = (RedisServer::start(&quick), RedisServer::start(&quick)) else { return };
    let replicas: Vec<_> = [&old, &new]
        .map(|primary| RedisServer::start(&["--replicaof", "127.0.0.1", &primary.port().to_string()]))
        .into_iter()
        .flatten()
        .collect();
    replicas.iter().for_each(wait_until_follows);
    for primary in [&old, &new] {
        primary.wait_until("it acknowledges", |primary| primary.run_command::<u64>("WAIT 1 100") == 1);
    }
    let proxy = Proxy::start(old.port()).await;
    // The bumps have a connection of their own.
    let builder = RedisBackend::builder(proxy.url()).wait_for_replicas(1, millis(4000));
    let process = connected(builder.watch_interval(crate::DAY)).await;
    let one = groups(1);
    for _ in 0..3 {
        store(&process, key("page"), &one, None).await;
        proxy.redirect(new.port());
        process.bump(&one).await.expect("acknowledged");
        assert!(!is_hit(&look(&process, &key("page"), &one).await));
        store(&process, key("page"), &one, None).await;
        proxy.cut();
        process.bump(&one).await.expect("acknowledged");
        assert!(!is_hit(&look(&process, &key("page"), &one).await));
        proxy.redirect(old.port());
    }
}

#[tokio::test]
async fn an_address_that_leads_to_several_servers_by_turns_is_an_error() {
    let (Some(one), Some(other)) = (RedisServer::start(&[]), RedisServer::start(&[])) else { return };
    let proxy = FakeServer::by_turns(vec![one.port(), other.port()]).await;
    let backend = RedisBackend::builder(format!("redis://{}/", proxy.address())).build().expect("builds");
    let error = backend.connect().await.expect_err("two servers");
    assert!(error.to_string().contains("different servers"), "{error}");
}

#[tokio::test]
async fn an_address_that_leads_nowhere_does_not_keep_an_old_connection_alive() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let proxy = Proxy::start(server.port()).await;
    let limits =
        RedisBackend::builder(proxy.url()).watch_interval(millis(50)).connect_time_limit(millis(200));
    let backend = connected(limits).await;
    let one = groups(1);
    store(&backend, key("page"), &one, None).await;
    proxy.redirect(groupcache_tests::process::free_port());
    eventually("it stops reading there", async || {
        backend.lookup(&key("page"), &one, TimeLeft::NotNeeded).await.is_err()
    })
    .await;
    proxy.redirect(server.port());
    eventually("it comes back", async || {
        backend.lookup(&key("page"), &one, TimeLeft::NotNeeded).await.is_ok()
    })
    .await;
}

/// The name moves to a server that others use from then on, with all processes connected. Each time, nobody
/// invalidates until the processes have had the time that they need to notice. The server that it moves to is
/// empty, or has lost its memory since the name led there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_moves_again_and_again() {
    let (Some(mut one), Some(mut other)) = (RedisServer::start(&[]), RedisServer::start(&[])) else { return };
    let proxy = Proxy::start(one.port()).await;
    let plan = Plan::default();
    let build = || {
        let builder = RedisBackend::builder(proxy.url()).watch_interval(millis(50));
        Cache::builder(builder.backoff(millis(5), millis(20)).build().expect("builds")).build()
    };
    // One process: what it invalidates and what it reads is in one place at any time.
    let caches = vec![build()];
    let faults = async {
        for _ in 0..8 {
            sleep(millis(250)).await;
            other.restart();
            proxy.redirect(other.port());
            sleep(millis(250)).await;
            one.restart();
            proxy.redirect(one.port());
        }
    };
    run(&caches, plan, faults).await.assert_sound(&plan);
}
