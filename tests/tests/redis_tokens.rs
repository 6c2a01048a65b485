//! What becomes of a token that was sent and not acknowledged, and of one that comes back with an
//! older life of its server. What is sent twice is in `redis_backend.rs`.

use std::sync::Arc;
use std::time::Duration;

use groupcache_core::backend::{Found, GenerationVector, Lookup, TimeLeft};

use groupcache_core::{Backend, Entry, ErrorKind, Group, Groups, Key};
use groupcache_redis::RedisBackend;
use groupcache_tests::proxy::Proxy;
use groupcache_tests::servers::RedisServer;

fn group() -> Groups {
    Group::new("book").into()
}

fn entry(vector: GenerationVector) -> Arc<Entry> {
    let key = Key::of("page").expect("a key");
    Arc::new(Entry::new(key, group(), vector, "old".into(), Duration::ZERO))
}

async fn look(backend: &RedisBackend) -> Lookup {
    let key = Key::of("page").expect("a key");
    backend.lookup(&key, &group(), TimeLeft::NotNeeded).await.expect("looks up")
}

fn is_hit(lookup: &Lookup) -> bool {
    matches!(&lookup.found, Found::Entry(entry, _) if lookup.current.equals(entry.vector()))
}

fn builder(url: String) -> RedisBackend {
    RedisBackend::builder(url).response_time_limit(Duration::from_millis(60)).build().expect("builds")
}

/// A mint that arrives only after an invalidation, which found nothing to replace.
#[tokio::test]
async fn a_token_that_was_not_acknowledged_makes_nothing_valid_when_it_arrives_late() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let proxy = Proxy::start(server.port()).await;
    let (slow, quick) = (builder(proxy.url()), builder(server.url()));
    slow.connect().await.expect("connects");
    quick.connect().await.expect("connects");
    proxy.hold_all();
    let minted = slow.mint(&group()).await;
    if let Ok(minted) = &minted {
        quick.store(&entry(minted.vector.clone()), None).await.expect("stores");
    }
    quick.bump(&group()).await.expect("bumps");
    proxy.release();
    for _ in 0..500 {
        if look(&quick).await.current.complete().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let now = look(&quick).await;
    assert!(now.current.complete().is_some(), "the mint has arrived");
    assert!(!is_hit(&now), "what was computed before the invalidation is valid after it");
    assert_eq!(minted.expect_err("not acknowledged").kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn an_entry_that_comes_back_with_an_older_life_of_its_server_is_no_hit() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let backend = builder(server.url());
    let vector = backend.mint(&group()).await.expect("mints").vector;
    backend.store(&entry(vector), None).await.expect("stores");
    assert!(is_hit(&look(&backend).await));
    server.run_command::<()>("SAVE");
    backend.bump(&group()).await.expect("bumps");
    server.restart();
    let again = builder(server.url());
    let now = look(&again).await;
    assert!(matches!(now.found, Found::Entry(..)), "the snapshot has it");
    assert!(!is_hit(&now), "the invalidation is forgotten");
}
