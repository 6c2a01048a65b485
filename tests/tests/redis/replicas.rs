//! Invalidations that wait for replicas.

use groupcache_core::Backend;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::{groups, is_hit, key, look, millis, store};

use crate::{opened, quiet};

#[tokio::test]
async fn replicas_that_do_not_acknowledge_are_no_reason_not_to_read() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = opened(quiet(&server).wait_for_replicas(1, millis(10))).await;
    let two = groups(2);
    store(&backend, key("page"), &two, None).await;
    for _ in 0..10 {
        let error = backend.bump(&groups(3)[2..]).await.expect_err("there is no replica");
        assert!(error.is_transient() && error.to_string().contains("`wait_for_replicas`"), "{error}");
        assert!(!backend.is_circuit_open());
        assert!(is_hit(&look(&backend, &key("page"), &two).await));
    }
    // It is not acknowledged, but it has happened.
    assert!(backend.bump(&two[..1]).await.is_err());
    assert!(!is_hit(&look(&backend, &key("page"), &two).await));
}

#[tokio::test]
async fn a_server_that_is_gone_is_one() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let backend = opened(quiet(&server).wait_for_replicas(1, millis(10))).await;
    server.kill();
    for _ in 0..10 {
        assert!(backend.bump(&groups(1)).await.is_err());
    }
    assert!(backend.is_circuit_open());
}
