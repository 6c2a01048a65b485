//! Sentinels that disagree, played by the tests.

use std::sync::Arc;

use groupcache_core::Backend;
use groupcache_redis::{RedisBackend, RedisBackendBuilder};
use groupcache_tests::fake_server::{FakeServer, NamedPrimary};
use groupcache_tests::process::free_port;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::{eventually, groups, is_hit, key, look, millis, store};

use crate::opened;

fn builder<'a>(sentinels: impl IntoIterator<Item = &'a FakeServer>) -> RedisBackendBuilder {
    let urls = sentinels.into_iter().map(|sentinel| format!("redis://{}", sentinel.address()));
    RedisBackend::builder("redis://primary").sentinel("main", urls).watch_interval(millis(50))
}

/// The first sentinel is cut off from the others. It names the old primary, which lives.
#[tokio::test]
async fn a_sentinel_that_knows_of_no_failover_is_not_believed() {
    let (Some(old), Some(new)) = (RedisServer::start(&[]), RedisServer::start(&[])) else { return };
    for by_epoch in [true, false] {
        let (isolated, told) = (NamedPrimary::new(old.port(), 4), NamedPrimary::new(old.port(), 4));
        let sentinels = [
            FakeServer::sentinel(Arc::clone(&isolated)).await,
            FakeServer::sentinel(Arc::clone(&told)).await,
            FakeServer::sentinel(if by_epoch { Arc::clone(&isolated) } else { Arc::clone(&told) }).await,
        ];
        let reader = opened(builder(&sentinels)).await;
        let one = groups(1);
        store(&reader, key("page"), &one, None).await;
        // By epoch, one that knows is enough. Otherwise two of three say it.
        told.set(new.port(), if by_epoch { 5 } else { 4 });
        let late = opened(builder(&sentinels)).await;
        let before = new.calls("set");
        late.bump(&one).await.expect("acknowledged");
        assert!(new.calls("set") > before, "the new primary");
        eventually("nothing old is served", async || !is_hit(&look(&reader, &key("page"), &one).await)).await;
    }
}

#[tokio::test]
async fn a_minority_of_the_sentinels_is_not_believed() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let sentinel = FakeServer::sentinel(NamedPrimary::new(server.port(), 1)).await;
    let no_server = || format!("redis://127.0.0.1:{}", free_port());
    let urls = [format!("redis://{}", sentinel.address()), no_server(), no_server()];
    let backend = RedisBackend::builder("redis://primary").sentinel("main", urls).build().expect("builds");
    let error = backend.connect().await.expect_err("two of three do not answer");
    assert!(error.is_transient() && error.to_string().contains("sentinel"), "{error}");
    opened(builder([&sentinel])).await;
}

#[tokio::test]
async fn a_sentinel_that_hangs_costs_part_of_the_time_to_connect() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let named = NamedPrimary::new(server.port(), 1);
    let sentinels = [
        FakeServer::silent().await,
        FakeServer::sentinel(Arc::clone(&named)).await,
        FakeServer::sentinel(named).await,
    ];
    let limit = std::time::Duration::from_secs(4);
    let backend = builder(&sentinels).connect_time_limit(limit).build().expect("builds");
    backend.connect().await.expect("connects");
}
