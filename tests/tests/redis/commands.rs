//! The cost of each operation of the Redis backend, counted by the server.

use groupcache_core::backend::Generation;
use groupcache_core::{Backend, Cache, Group, Groups};
use groupcache_tests::proxy::Proxy;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::{eventually, groups, is_hit, key, look, store};

use crate::{commands, connected, patient, quiet, round_trips};

#[tokio::test]
async fn a_hit_is_one_command_and_a_cold_miss_three_round_trips() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let cache = Cache::builder(connected(&server, quiet(&server)).await).build();
    let group = || groups(5);
    let page = || cache.get_or_load("page", group(), || async { Ok::<_, ()>(1_u64) });

    server.run_command::<()>("CONFIG RESETSTAT");
    assert_eq!(page().await, Ok(1));
    eventually("it is stored", async || cache.stats().stores == 1).await;
    let mut cold = commands(&server);
    cold.sort();
    let expected = [("config|resetstat", 1), ("mget", 1), ("pexpire", 10), ("set", 6)];
    assert_eq!(cold, expected.map(|(name, count)| (name.to_owned(), count)));

    server.run_command::<()>("CONFIG RESETSTAT");
    for _ in 0..10 {
        assert_eq!(page().await, Ok(1));
    }
    assert_eq!(cache.stats().hits, 10);
    let mut hits = commands(&server);
    hits.sort();
    assert_eq!(hits, [("config|resetstat".to_owned(), 1), ("mget".to_owned(), 10)]);
}

#[tokio::test]
async fn an_invalidation_of_a_hundred_groups_is_one_pipeline() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let hundred = groups(100);
    backend.mint(&hundred).await.expect("mints");
    let sets = server.calls("set");
    let bumped = async { backend.bump(&hundred).await.expect("bumps") };
    assert_eq!(round_trips(&server, bumped).await, 1);
    assert_eq!(server.calls("set") - sets, 100);
}

#[tokio::test]
async fn several_lookups_are_one_round_trip() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let one = groups(1);
    store(&backend, key(&1), &one, None).await;
    let requests: Vec<_> = (0..20).map(|number| (key(&number), one.clone())).collect();
    let lookups = async {
        let found = backend.lookup_many(&requests).await.expect("looks up");
        let hits: Vec<_> = found.iter().map(is_hit).collect();
        assert_eq!(hits, (0..20).map(|number| number == 1).collect::<Vec<_>>());
    };
    assert_eq!(round_trips(&server, lookups).await, 1);
    assert!(backend.lookup_many(&[]).await.expect("nothing to do").is_empty());
}

#[tokio::test]
async fn a_bump_replaces_existing_generations_and_creates_none() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let three = groups(3);
    backend.bump(&three).await.expect("bumps");
    assert_eq!(server.run_command::<u64>("DBSIZE"), 0, "groups that were never cached have no keys");

    store(&backend, key("page"), &three, None).await;
    let before = look(&backend, &key("page"), &three).await;
    assert!(is_hit(&before));
    backend.bump(&three[..1]).await.expect("bumps");
    let after = look(&backend, &key("page"), &three).await;
    assert!(!is_hit(&after));
    assert_ne!(after.current[0], before.current[0]);
    assert!(after.current[0].is_some());
    assert_eq!(after.current[1..], before.current[1..], "other groups are untouched");
    backend.bump(&[]).await.expect("nothing to do");
}

#[tokio::test]
async fn of_concurrent_mints_one_wins_and_all_return_it() {
    let Some(server) = RedisServer::start(&[]) else { return };
    one_mint_wins(&server.url()).await;
    assert_eq!(server.calls("get"), 90, "a trial per backend: this server supports SET with NX and GET");
}

#[tokio::test]
async fn a_server_older_than_seven_gets_other_commands() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let version = server.info("server", "redis_version").expect("a version");
    // The versions have the same length, as the protocol counts bytes.
    let older = format!("6.2.{:0>width$}", 9, width = version.len() - 4);
    let original: &'static str = format!("redis_version:{version}").leak();
    let replacement: &'static str = format!("redis_version:{older}").leak();
    let proxy = Proxy::rewriting(server.port(), original, replacement).await;
    one_mint_wins(&proxy.url()).await;
    assert!(server.calls("get") >= 90 + 80, "the backend used the commands for a newer server");
}

async fn one_mint_wins(url: &str) {
    for round in 0..10 {
        let group = Group::new("race").with("round", round);
        let mut mints = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let backend = patient(url).build().expect("builds");
            let group = group.clone();
            mints.spawn(async move { backend.mint(&[group]).await.expect("mints").vector[0] });
        }
        let minted: Vec<Generation> = mints.join_all().await;
        assert!(minted.iter().all(|generation| *generation == minted[0]), "{minted:?}");
        let backend = patient(url).build().expect("builds");
        let current = look(&backend, &key("none"), &Groups::from(group)).await.current;
        assert_eq!(current[0], Some(minted[0]));
    }
}
