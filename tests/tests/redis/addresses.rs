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
use tokio::time::sleep;

use crate::opened;

#[tokio::test]
async fn a_connection_is_left_when_its_address_leads_elsewhere() {
    let (Some(old), Some(new)) = (RedisServer::start(&[]), RedisServer::start(&[])) else { return };
    let proxy = Proxy::start(old.port()).await;
    let builder = || RedisBackend::builder(proxy.url()).watch_interval(millis(100));
    let reader = opened(builder()).await;
    let one = groups(1);
    store(&reader, key("page"), &one, None).await;
    proxy.redirect(new.port());
    opened(builder()).await.bump(&one).await.expect("acknowledged");
    eventually("nothing old is served", async || !is_hit(&look(&reader, &key("page"), &one).await)).await;
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
    let process = opened(builder.watch_interval(crate::DAY)).await;
    let one = groups(1);
    store(&process, key("page"), &one, None).await;
    // The connection outlives this.
    proxy.redirect(new.port());
    process.bump(&one).await.expect("acknowledged");
    assert!(!is_hit(&look(&process, &key("page"), &one).await));
    store(&process, key("page"), &one, None).await;
    proxy.cut();
    process.bump(&one).await.expect("acknowledged");
    assert!(!is_hit(&look(&process, &key("page"), &one).await));
    assert!(new.calls("mget") > 1, "the lookups followed the bumps");
}

/// A name that is moved for a while, and back, while both servers live.
#[tokio::test]
async fn an_address_that_leads_back_to_a_server_that_missed_invalidations_is_an_error() {
    let (Some(mut first), Some(second)) = (RedisServer::start(&[]), RedisServer::start(&[])) else { return };
    let proxy = Proxy::start(first.port()).await;
    let backoff = RedisBackend::builder(proxy.url()).backoff(millis(1), millis(10));
    let process = opened(backoff.watch_interval(crate::DAY)).await;
    let one = groups(1);
    store(&process, key("page"), &one, None).await;
    proxy.redirect(second.port());
    proxy.cut();
    process.bump(&one).await.expect("acknowledged");
    proxy.redirect(first.port());
    proxy.cut();
    let error = process.lookup(&key("page"), &one, TimeLeft::NotNeeded).await.expect_err("may be stale");
    assert!(error.to_string().contains("may lack invalidations"), "{error}");
    assert!(process.bump(&one).await.is_err());
    first.restart();
    eventually("a restarted server is used", async || {
        process.lookup(&key("page"), &one, TimeLeft::NotNeeded).await.is_ok()
    })
    .await;
    assert!(!is_hit(&look(&process, &key("page"), &one).await));
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
    let backend = opened(limits).await;
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

/// The name moves to a server that others use from then on, with all processes connected. Each time, no
/// process invalidates until the processes have had the time that they need to notice. The server that it moves to is
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
