//! Tokens that are not acknowledged, and tokens that return with an older incarnation of their server.
//!
//! That no token is sent twice is tested in `connection.rs`.

use std::sync::Arc;
use std::time::Duration;

use groupcache_core::backend::{Found, GenerationVector, Lookup, TimeLeft};
use groupcache_core::{Backend, Entry, ErrorKind, Group, Groups, Key};
use groupcache_redis::RedisBackend;
use groupcache_tests::proxy::Proxy;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::turns;

use crate::patient;

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

/// The mint arrives after an invalidation that found no generation to replace.
#[tokio::test]
async fn a_token_that_was_not_acknowledged_makes_nothing_valid_when_it_arrives_late() {
    let _turn = turns::timing().await;
    let Some(server) = RedisServer::start(&[]) else { return };
    let proxy = Proxy::start(server.port()).await;
    let slow = patient(&proxy.url()).response_time_limit(Duration::from_secs(1)).build().expect("builds");
    let quick = patient(&server.url()).build().expect("builds");
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
    assert!(!is_hit(&now), "an entry from before the invalidation is valid after it");
    assert_eq!(minted.expect_err("not acknowledged").kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn an_entry_that_returns_with_an_older_incarnation_of_its_server_is_no_hit() {
    let _turn = turns::timing().await;
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let before = patient(&server.url()).build().expect("builds");
    let vector = before.mint(&group()).await.expect("mints").vector;
    before.store(&entry(vector), None).await.expect("stores");
    assert!(is_hit(&look(&before).await));
    server.run_command::<()>("SAVE");
    before.bump(&group()).await.expect("bumps");
    server.restart();
    let after = patient(&server.url()).build().expect("builds");
    let now = look(&after).await;
    assert!(matches!(now.found, Found::Entry(..)), "the snapshot has the entry");
    assert!(!is_hit(&now), "the invalidation is lost");
}
