//! What the Redis backend stores, how long, and under which names.

use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::{Found, TimeLeft};
use groupcache_core::{Backend, ErrorKind, Group, Groups};
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::{entry, groups, is_hit, key, look, millis, store};
use groupcache_tests::turns;
use tokio::time::{Instant, sleep};

use crate::{DAY, connected, quiet};

#[tokio::test]
async fn keys_groups_and_bodies_of_any_size_work() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let names = ["", " ", "a\r\nb\0", "é", &"x".repeat(250), &"x".repeat(251), &"y".repeat(100_000)];
    for name in names {
        for size in [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
            let groups = Groups::from([Group::new(name), Group::new("of").with(name, name)]);
            let vector = backend.mint(&groups).await.expect("mints").vector;
            let body = Bytes::from(vec![7; size]);
            let stored = entry(key(name), &groups, vector, body.clone());
            backend.store(&stored, None).await.expect("stores");
            let lookup = look(&backend, &key(name), &groups).await;
            assert!(is_hit(&lookup));
            let Found::Entry(found, _) = lookup.found else { panic!("nothing found") };
            assert_eq!(found.body(), &body);
        }
    }
    for (at, name) in names.iter().enumerate() {
        for other in &names[at + 1..] {
            let (one, other) = (Group::new(name), Group::new(other));
            let both = look(&backend, &key("none"), &Groups::from([one, other])).await.current;
            assert_ne!(both[0], both[1]);
        }
    }
}

#[tokio::test]
async fn an_entry_that_is_too_large_is_refused_and_disturbs_nothing_else() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let one = groups(1);
    store(&backend, key("page"), &one, None).await;
    let vector = backend.mint(&one).await.expect("mints").vector;
    let connections = || {
        let count = server.info("stats", "total_connections_received");
        count.and_then(|count| count.parse::<u64>().ok()).expect("a count")
    };
    let before = connections();
    // Untouched zeroes take no memory.
    let huge = entry(key("huge"), &one, vector.clone(), vec![0; 512 << 20]);
    let error = backend.store(&huge, None).await.expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::Capacity);
    assert!(error.to_string().contains("`max_entry_bytes`"), "{error}");
    assert!(is_hit(&look(&backend, &key("page"), &one).await));
    assert_eq!(connections(), before + 1, "reconnected");

    let small = connected(&server, quiet(&server).max_entry_bytes(10)).await;
    small.store(&entry(key("ten"), &one, vector.clone(), vec![0; 10]), None).await.expect("fits");
    assert!(small.store(&entry(key("eleven"), &one, vector, vec![0; 11]), None).await.is_err());
}

#[tokio::test]
async fn entries_live_to_the_millisecond_and_generations_longer() {
    let _turn = turns::timing().await;
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let one = groups(1);
    let generation_key = || {
        let keys: Vec<String> = server.run_command("KEYS *:g:*");
        keys.into_iter().next().expect("a generation")
    };
    let left = |key: &str| Duration::from_millis(server.run_command(&format!("PTTL {key}")));
    for time_to_live in [30 * DAY, 30 * DAY + Duration::from_secs(1), 400 * DAY, 100_000 * DAY] {
        store(&backend, key("page"), &one, Some(time_to_live)).await;
        let keys: Vec<String> = server.run_command("KEYS *:e:*");
        let (entry, generation) = (left(&keys[0]), left(&generation_key()));
        let requested = time_to_live.min(36_500 * DAY);
        assert!(
            entry <= requested && entry + Duration::from_secs(5) > requested,
            "{entry:?} for {time_to_live:?}"
        );
        assert!(generation > entry + Duration::from_secs(3600), "{generation:?}");
    }
    // A bump keeps the time left of a generation, and a shorter-lived entry does not shorten it.
    let long = left(&generation_key());
    backend.bump(&one).await.expect("bumps");
    assert!(left(&generation_key()) + Duration::from_secs(5) > long);
    store(&backend, key("page"), &one, Some(millis(100))).await;
    assert!(left(&generation_key()) + Duration::from_secs(5) > long);
    assert!(is_hit(&look(&backend, &key("page"), &one).await));
    sleep(millis(120)).await;
    assert!(matches!(look(&backend, &key("page"), &one).await.found, Found::Absent));

    // Less than a millisecond counts as one, an overwrite starts a new time to live, an entry with zero is
    // absent at once, and no time to live means the default.
    store(&backend, key("page"), &one, Some(Duration::from_nanos(1))).await;
    store(&backend, key("page"), &one, Some(DAY)).await;
    sleep(millis(20)).await;
    assert!(is_hit(&look(&backend, &key("page"), &one).await));
    store(&backend, key("page"), &one, Some(Duration::ZERO)).await;
    assert!(matches!(look(&backend, &key("page"), &one).await.found, Found::Absent));
    store(&backend, key("page"), &one, None).await;
    let keys: Vec<String> = server.run_command("KEYS *:e:*");
    assert!(left(&keys[0]) <= 30 * DAY && left(&keys[0]) > 29 * DAY);
    assert_eq!(backend.default_time_to_live(), Some(30 * DAY));
}

#[tokio::test]
async fn a_mint_extends_the_time_to_live_of_an_existing_generation() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let one = groups(1);
    let minted = backend.mint(&one).await.expect("mints").vector;
    let keys: Vec<String> = server.run_command("KEYS *:g:*");
    server.run_command::<()>(&format!("PEXPIRE {} 5000", keys[0]));
    assert_eq!(backend.mint(&one).await.expect("mints").vector, minted);
    assert!(server.run_command::<u64>(&format!("PTTL {}", keys[0])) > 30 * 24 * 3600 * 1000);
}

#[tokio::test]
async fn the_time_left_is_returned_where_it_is_needed() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let one = groups(1);
    store(&backend, key("page"), &one, Some(Duration::from_secs(60))).await;
    let lookup = backend.lookup(&key("page"), &one, TimeLeft::Needed).await.expect("looks up");
    let after = Instant::now().into_std();
    assert!(is_hit(&lookup));
    let Found::Entry(_, Some(expires_at)) = lookup.found else { panic!("no time left: {:?}", lookup.found) };
    let left = expires_at - after;
    assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(55), "{left:?}");
    let absent = backend.lookup(&key("none"), &one, TimeLeft::Needed).await.expect("looks up");
    assert!(matches!(absent.found, Found::Absent));
}

#[tokio::test]
async fn different_key_prefixes_are_isolated_and_equal_ones_are_not() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let one = groups(1);
    let of = |prefix: &str| quiet(&server).key_prefix(prefix).build().expect("builds");
    let backends = [of("a"), of("a:e"), of(""), of("a\r\n")];
    for backend in &backends {
        assert!(matches!(look(backend, &key("page"), &one).await.found, Found::Absent));
        store(backend, key("page"), &one, None).await;
    }
    backends[0].bump(&one).await.expect("bumps");
    for (at, backend) in backends.iter().enumerate() {
        assert_eq!(is_hit(&look(backend, &key("page"), &one).await), at > 0);
    }
    assert!(
        is_hit(&look(&of("a:e"), &key("page"), &one).await),
        "another backend with the same prefix finds the entry"
    );
    backends[1].delete(&key("page")).await.expect("deletes");
    backends[1].delete(&key("page")).await.expect("a delete of no entry works");
    assert!(matches!(look(&of("a:e"), &key("page"), &one).await.found, Found::Absent));
}

#[tokio::test]
async fn foreign_data_under_the_key_prefix_is_a_miss_or_a_clear_error() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let one = groups(1);
    store(&backend, key("page"), &one, None).await;
    let entries: Vec<String> = server.run_command("KEYS *:e:*");
    let generations: Vec<String> = server.run_command("KEYS *:g:*");

    server.run_command::<()>(&format!("SET {} garbage", entries[0]));
    assert!(matches!(look(&backend, &key("page"), &one).await.found, Found::Undecodable));
    server.run_command::<()>(&format!("DEL {}", entries[0]));
    server.run_command::<u64>(&format!("LPUSH {} garbage", entries[0]));
    assert!(matches!(look(&backend, &key("page"), &one).await.found, Found::Absent));
    store(&backend, key("page"), &one, None).await;
    assert!(is_hit(&look(&backend, &key("page"), &one).await), "replaced");

    server.run_command::<()>(&format!("SET {} garbage", generations[0]));
    assert_eq!(look(&backend, &key("page"), &one).await.current[0], None);
    let error = backend.mint(&one).await.expect_err("no generation");
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("`key_prefix`"), "{error}");
    server.run_command::<()>(&format!("DEL {}", generations[0]));
    server.run_command::<u64>(&format!("LPUSH {} garbage", generations[0]));
    assert_eq!(look(&backend, &key("page"), &one).await.current[0], None);
    let error = backend.mint(&one).await.expect_err("a list");
    assert!(error.to_string().contains("`key_prefix`"), "{error}");
    backend.bump(&one).await.expect("replaces foreign data");
    backend.mint(&one).await.expect("mints");
}
