//! Commands that Redis servers refuse, and dangerous configurations.

use groupcache_core::backend::TimeLeft;
use groupcache_core::{Backend, ErrorKind, Group};
use groupcache_redis::RedisBackend;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::{entry, eventually, groups, is_hit, key, look, millis, store};
use groupcache_tests::turns;
use tokio::time::Instant;

use crate::{connected, quiet};

#[tokio::test]
async fn an_invalidation_without_free_memory_removes_the_generation() {
    let Some(server) = RedisServer::start(&["--maxmemory-policy", "noeviction"]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let three = groups(3);
    store(&backend, key("page"), &three, None).await;
    server.run_command::<()>("CONFIG SET maxmemory 1");
    let vector = look(&backend, &key("page"), &three).await.current.complete().expect("complete");
    let full = backend.store(&entry(key("other"), &three, vector, "body"), None).await.expect_err("full");
    assert_eq!((full.kind(), full.is_transient()), (ErrorKind::Capacity, false));
    assert!(full.to_string().contains("`maxmemory`"), "{full}");
    assert_eq!(backend.mint(&[Group::new("new")]).await.expect_err("full").kind(), ErrorKind::Capacity);

    backend.bump(&three[1..2]).await.expect("bumps without memory");
    let after = look(&backend, &key("page"), &three).await;
    assert_eq!(after.current[1], None);
    assert!(after.current[0].is_some() && after.current[2].is_some());
    assert!(!backend.is_circuit_open(), "the server replies");
}

#[tokio::test]
async fn an_invalidation_waits_for_replicas_if_configured() {
    let _turn = turns::timing().await;
    let Some(primary) = RedisServer::start(&["--repl-diskless-sync-delay", "0"]) else { return };
    let backend = connected(&primary, quiet(&primary).wait_for_replicas(1, millis(100))).await;
    let one = groups(1);
    backend.mint(&one).await.expect("mints");
    let error = backend.bump(&one).await.expect_err("there is no replica");
    assert!(error.is_transient() && error.to_string().contains("`wait_for_replicas`"), "{error}");

    let Some(replica) = RedisServer::start(&[]) else { return };
    replica.run_command::<()>(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
    let up = |server: &RedisServer| server.info("replication", "master_link_status").as_deref() == Some("up");
    replica.wait_until("the replica is connected", up);
    eventually("the replica acknowledges", async || backend.bump(&one).await.is_ok()).await;
    replica.pause();
    assert!(backend.bump(&one).await.is_err(), "the replica is paused");
    // A lookup does not wait for the replica.
    let (waiting, looked) = tokio::join!(backend.bump(&one), async {
        let began = Instant::now();
        look(&backend, &key("page"), &one).await;
        began.elapsed()
    });
    assert!(waiting.is_err());
    assert!(looked < millis(90), "{looked:?}");
    replica.resume();
}

#[tokio::test]
async fn generations_are_not_read_from_a_replica() {
    let Some(primary) = RedisServer::start(&["--repl-diskless-sync-delay", "0"]) else { return };
    let Some(replica) = RedisServer::start(&["--repl-diskless-sync-delay", "0"]) else { return };
    replica.run_command::<()>(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
    let backend = quiet(&replica).build().expect("builds");
    let error = backend.connect().await.expect_err("a replica");
    assert!(error.is_transient() && error.to_string().contains("replica"), "{error}");

    // A server that becomes a replica while the backend is connected.
    let watching = RedisBackend::builder(primary.url()).watch_interval(millis(50));
    let backend = watching.build().expect("builds");
    let one = groups(1);
    store(&backend, key("page"), &one, None).await;
    replica.run_command::<()>("REPLICAOF NO ONE");
    primary.run_command::<()>(&format!("REPLICAOF 127.0.0.1 {}", replica.port()));
    // The error is not that the replica is loading the data of its primary.
    let refused = async || {
        let looked = backend.lookup(&key("page"), &one, TimeLeft::NotNeeded).await;
        looked.is_err_and(|error| error.to_string().contains("is a replica; generations"))
    };
    eventually("lookups fail", refused).await;
    assert!(backend.bump(&one).await.expect_err("read-only").is_transient());
}

#[tokio::test]
async fn a_refused_write_is_an_error_that_says_why() {
    let Some(server) = RedisServer::start(&["--save", "3600 1"]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let one = groups(1);
    backend.mint(&one).await.expect("mints");
    // Without its directory the server cannot save, and refuses every later write.
    std::fs::remove_dir_all(server.directory()).expect("removed");
    let _fails: Result<(), _> = server.try_command("SAVE");
    server.run_command::<groupcache_redis::redis::Value>("BGSAVE");
    server.wait_until("the save has failed", |server| {
        server.info("persistence", "rdb_last_bgsave_status").as_deref() == Some("err")
    });
    let error = backend.bump(&one).await.expect_err("MISCONF");
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Refused, false), "{error}");
    let advice = backend.advice().await.expect("answers");
    assert!(advice.iter().any(|advice| advice.setting() == "stop-writes-on-bgsave-error"), "{advice:?}");
}

#[tokio::test]
async fn advice_names_dangerous_settings() {
    let Some(server) = RedisServer::start(&["--save", "3600 1"]) else { return };
    let backend = connected(&server, quiet(&server)).await;
    let settings = async || -> Vec<&str> {
        backend.advice().await.expect("answers").iter().map(groupcache_redis::Advice::setting).collect()
    };
    assert_eq!(settings().await, ["maxmemory", "save"]);
    server.run_command::<()>("CONFIG SET maxmemory 100mb");
    assert_eq!(settings().await, ["maxmemory-policy", "save"]);
    server.run_command::<()>("CONFIG SET maxmemory-policy allkeys-lru");
    server.run_command::<()>("CONFIG SET appendonly yes");
    assert_eq!(settings().await, ["appendonly"]);
    let no_saving = server.try_command::<()>("CONFIG SET save ");
    assert!(no_saving.is_ok());
    server.run_command::<()>("CONFIG SET appendonly no");
    assert_eq!(settings().await, [""; 0]);
}

#[tokio::test]
async fn a_node_of_a_cluster_is_refused() {
    let Some(server) = RedisServer::start(&["--cluster-enabled", "yes"]) else { return };
    let error = quiet(&server).build().expect("builds").connect().await.expect_err("a cluster");
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("`url`"), "{error}");
}

#[tokio::test]
async fn a_unix_socket_works() {
    let path = groupcache_tests::process::new_directory().join("redis.sock");
    let path = path.to_str().expect("a path");
    let Some(server) = RedisServer::start(&["--unixsocket", path]) else { return };
    let backend = connected(&server, RedisBackend::builder(format!("unix://{path}"))).await;
    let one = groups(1);
    store(&backend, key("page"), &one, None).await;
    assert!(is_hit(&look(&backend, &key("page"), &one).await));
}
