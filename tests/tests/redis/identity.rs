//! Servers and services that hide who they are.

use groupcache_core::{Cache, ErrorKind};
use groupcache_redis::RedisBackend;
use groupcache_tests::fake_server::FakeServer;
use groupcache_tests::proxy::Proxy;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::millis;
use tokio::time::sleep;

use crate::read;

async fn refusal(url: &str) -> String {
    let backend = RedisBackend::builder(url).build().expect("builds");
    let error = backend.connect().await.expect_err("the server cannot be identified");
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    error.to_string()
}

#[tokio::test]
async fn an_identity_that_a_proxy_masks_is_refused_and_named() {
    let Some(server) = RedisServer::start(&[]) else { return };
    for fields in [&["run_id"][..], &["master_replid"][..], &["run_id", "master_replid"][..]] {
        let proxy = FakeServer::masking(server.port(), fields).await;
        let error = refusal(&format!("redis://{}/", proxy.address())).await;
        assert!(error.contains(&format!("`{}:000", fields[0])), "{error}");
    }
}

#[tokio::test]
async fn services_that_hide_it_are_named() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let without = Proxy::rewriting(server.port(), "\r\nrun_id:", "\r\nran_id:").await;
    let error = refusal(&without.url()).await;
    assert!(error.contains("no `run_id`") && error.contains("Dragonfly"), "{error}");
    let enterprise = Proxy::rewriting(server.port(), "redis_git_sha1:", "rlec_version:7.").await;
    let error = refusal(&enterprise.url()).await;
    assert!(error.contains("Redis Enterprise (`rlec_version`)"), "{error}");
}

/// What a masked identity would lead to.
#[tokio::test]
async fn nothing_is_stored_under_an_identity_that_outlives_the_server() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let proxy = FakeServer::masking(server.port(), &["run_id", "master_replid"]).await;
    let url = format!("redis://{}/", proxy.address());
    let cache = Cache::builder(RedisBackend::builder(url).build().expect("builds")).build();
    assert_eq!(read(&cache, "page", 1).await, 1);
    sleep(millis(50)).await;
    server.run_command::<()>("SAVE");
    // Whether this is acknowledged or fails: the reader sees the new value.
    let _outcome = cache.invalidate(groupcache_core::Group::new("book")).await;
    server.restart();
    sleep(millis(300)).await;
    assert_eq!(read(&cache, "page", 2).await, 2);
}
