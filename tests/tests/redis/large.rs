//! Large bodies, and what does not wait for them.

use groupcache_core::backend::TimeLeft;
use groupcache_core::{Backend, ErrorKind};
use groupcache_redis::RedisBackend;
use groupcache_tests::proxy::Proxy;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::{entry, groups, key, millis, store};
use tokio::time::sleep;

use crate::{opened, quiet};

#[tokio::test]
async fn a_body_that_takes_too_long_is_refused_unless_the_limit_is_raised() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let one = groups(1);
    let backend = opened(quiet(&server)).await;
    let vector = backend.mint(&one).await.expect("mints").vector;
    let of = |bytes: usize| entry(key("page"), &one, vector.clone(), vec![b'x'; bytes]);
    backend.store(&of(8 << 20), None).await.expect("8 MiB");
    let refused = backend.store(&of((8 << 20) + 1), None).await.expect_err("a byte more");
    assert_eq!(refused.kind(), ErrorKind::Capacity);
    assert!(refused.to_string().contains("`max_entry_bytes`"), "{refused}");
    let raised = opened(quiet(&server).max_entry_bytes(9 << 20)).await;
    raised.store(&of((8 << 20) + 1), None).await.expect("a byte more");
}

/// The replies to the lookups are held back, as those with large bodies are on a slow network.
#[tokio::test]
async fn an_invalidation_does_not_wait_for_bodies() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let proxy = Proxy::holding(server.port(), "MGET").await;
    let backend = opened(RedisBackend::builder(proxy.url()).watch_interval(crate::DAY)).await;
    let two = groups(2);
    store(&backend, key("page"), &two, None).await;
    let reader = backend.clone();
    let looking =
        tokio::spawn(
            async move { reader.lookup(&key("page"), &groups(1), TimeLeft::NotNeeded).await.map(drop) },
        );
    sleep(millis(100)).await;
    backend.bump(&two[1..]).await.expect("acknowledged meanwhile");
    backend.mint(&groups(3)[2..]).await.expect("minted meanwhile");
    backend.delete(&key("other")).await.expect("deleted meanwhile");
    assert!(!looking.is_finished(), "the reply is held back");
    looking.abort();
}
