//! What the user of the cache must be allowed to do.

use groupcache_core::backend::{Found, LeaseHolder, LeaseOwner, LeaseRequest, TimeLeft};
use groupcache_core::{Backend, ErrorKind};
use groupcache_redis::RedisBackend;
use groupcache_tests::redis_cluster::RedisCluster;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::{entry, groups, is_hit, key, look, millis, store};

use crate::opened;

/// As the documentation of the crate has it.
const LEAST: [&str; 6] = ["mget", "get", "set", "pexpire", "unlink", "info"];

/// Makes a user that has these commands, on the keys of the cache. Returns the URL.
fn user(server: &RedisServer, name: &str, commands: &str) -> String {
    server.run_command::<()>(&format!("ACL SETUSER {name} on >pw ~groupcache:* {commands}"));
    format!("redis://{name}:pw@127.0.0.1:{}/", server.port())
}

fn least() -> String {
    LEAST.map(|command| format!("+{command}")).join(" ")
}

#[tokio::test]
async fn the_least_permissions_are_enough() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = opened(RedisBackend::builder(user(&server, "least", &least()))).await;
    let two = groups(2);
    store(&backend, key("page"), &two, Some(millis(60_000))).await;
    assert!(is_hit(&look(&backend, &key("page"), &two).await));
    backend.bump(&two[..1]).await.expect("bumps");
    assert!(!is_hit(&look(&backend, &key("page"), &two).await));
    backend.delete(&key("page")).await.expect("deletes");
    assert!(matches!(look(&backend, &key("page"), &two).await.found, Found::Absent));

    // A lease is granted. To return it takes EVAL; without, it expires.
    let lookup = look(&backend, &key("page"), &two).await;
    let owner = LeaseOwner::random();
    let page = key("page");
    let request = LeaseRequest::new(&page, &two, &lookup.current, owner, millis(50)).expect("complete");
    let leased = backend.lease(&request).await.expect("leases");
    assert_eq!(leased.holder, LeaseHolder::Ours);
    let released = backend.release(&request.name(&leased.vector), owner).await;
    assert_eq!(released.expect_err("no EVAL").kind(), ErrorKind::Refused);

    // Advice does not need CONFIG either.
    assert!(backend.advice().await.expect("advises").iter().any(|advice| advice.setting() == "maxmemory"));
    let vector = backend.mint(&two).await.expect("mints").vector;
    backend.store(&entry(key("page"), &two, vector, "body"), None).await.expect("stores");
    assert!(!backend.is_circuit_open());
}

/// Without `MULTI`; without `PTTL` it counts as over, and advice says so.
#[tokio::test]
async fn the_time_left_of_an_entry_takes_one_permission_more() {
    let Some(server) = RedisServer::start(&[]) else { return };
    for knows in [true, false] {
        let commands = if knows { least() + " +pttl" } else { least() + " -pttl" };
        let backend = opened(RedisBackend::builder(user(&server, "user", &commands))).await;
        let one = groups(1);
        let began = tokio::time::Instant::now().into_std();
        store(&backend, key("page"), &one, Some(millis(60_000))).await;
        let lookup = backend.lookup(&key("page"), &one, TimeLeft::Needed).await.expect("looks up");
        assert!(is_hit(&lookup));
        let Found::Entry(_, Some(expires_at)) = lookup.found else { panic!("a time, known or not") };
        assert_eq!(expires_at > began + millis(50_000), knows);
        let advice = backend.advice().await.expect("advises");
        assert_eq!(advice.iter().any(|advice| advice.to_string().contains("PTTL")), !knows);
    }
}

#[tokio::test]
async fn a_missing_permission_is_named_when_the_backend_connects() {
    let Some(server) = RedisServer::start(&[]) else { return };
    for missing in LEAST {
        let url = user(&server, missing, &format!("{} -{missing}", least()));
        let backend = RedisBackend::builder(url).build().expect("builds");
        let error = backend.connect().await.expect_err(missing);
        assert_eq!(error.kind(), ErrorKind::Refused, "{missing}: {error}");
        let named = format!("no permission for {}", missing.to_uppercase());
        assert!(error.to_string().contains(&named), "{missing}: {error}");
    }
    let url = user(&server, "other", &least());
    let backend = RedisBackend::builder(url).key_prefix("shop").build().expect("builds");
    let error = backend.connect().await.expect_err("not its keys");
    assert!(error.to_string().contains("`key_prefix`"), "{error}");

    let waits = RedisBackend::builder(user(&server, "waits", &least())).wait_for_replicas(1, millis(100));
    let error = waits.build().expect("builds").connect().await.expect_err("no WAIT");
    assert!(error.to_string().contains("no permission for WAIT"), "{error}");
}

#[tokio::test]
async fn a_command_that_the_server_does_not_have_is_named_when_the_backend_connects() {
    let Some(server) = RedisServer::start(&["--rename-command", "UNLINK", ""]) else { return };
    let error =
        RedisBackend::builder(server.url()).build().expect("builds").connect().await.expect_err("gone");
    assert!(error.to_string().contains("no command UNLINK"), "{error}");
}

#[tokio::test]
async fn trying_the_permissions_changes_nothing() {
    let Some(server) = RedisServer::start(&[]) else { return };
    opened(RedisBackend::builder(server.url())).await;
    assert_eq!(server.run_command::<u64>("DBSIZE"), 0);
    assert_eq!(server.info("persistence", "rdb_changes_since_last_save").as_deref(), Some("0"));
}

#[tokio::test]
async fn the_least_permissions_are_enough_in_a_cluster() {
    let Some(cluster) = RedisCluster::start(3, false) else { return };
    let commands = least().replace("+mget", "+cluster|slots +cluster|info +asking");
    for missing in ["", "asking", "cluster|info", "cluster|slots"] {
        let denied = if missing.is_empty() { String::new() } else { format!(" -{missing}") };
        let denied = format!("{commands}{denied}");
        let urls: Vec<_> = cluster.nodes.iter().map(|node| user(node, "least", &denied)).collect();
        let backend = RedisBackend::builder(&urls[0]).cluster([""; 0]).build().expect("builds");
        let connected = backend.connect().await;
        if missing.is_empty() {
            connected.expect("connects");
            let ten = groups(10);
            store(&backend, key("page"), &ten, None).await;
            assert!(is_hit(&look(&backend, &key("page"), &ten).await));
            backend.bump(&ten).await.expect("bumps");
            assert!(!is_hit(&look(&backend, &key("page"), &ten).await));
        } else {
            let error = connected.expect_err(missing);
            assert_eq!(error.kind(), ErrorKind::Refused, "{missing}: {error}");
            let name = missing.replace('|', " ").to_uppercase();
            assert!(error.to_string().contains(&name), "{missing}: {error}");
        }
    }
}
