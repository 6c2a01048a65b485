//! What the documentation of the Redis backend says, on real servers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::{
    Backend, Cache, Entry, ErrorKind, Found, Generation, Group, Groups, Key, Lookup, TimeLeft, Vector,
};
use groupcache_redis::{RedisBackend, RedisBackendBuilder};
use groupcache_tests::proxy::Proxy;
use groupcache_tests::servers::{RedisServer, free_port};
use tokio::time::{Instant, sleep};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Without the commands that the watch sends now and then.
fn quiet(server: &RedisServer) -> RedisBackendBuilder {
    RedisBackend::builder(server.url()).watch_interval(DAY)
}

async fn connected(builder: RedisBackendBuilder) -> RedisBackend {
    let backend = builder.build().expect("builds");
    backend.connect().await.expect("connects");
    // The advice, at the first connection, asks a few things.
    sleep(millis(50)).await;
    backend
}

fn key(name: &(impl ToString + ?Sized)) -> Key {
    Key::of(&name.to_string()).expect("a key")
}

fn groups(count: usize) -> Groups {
    (0..count).map(|id| Group::new("book").with("id", id)).collect()
}

fn entry(key: Key, groups: &Groups, vector: Vector, body: impl Into<Bytes>) -> Arc<Entry> {
    Arc::new(Entry::new(key, groups.clone(), vector, body.into(), Duration::ZERO))
}

async fn store(backend: &RedisBackend, key: Key, groups: &Groups, time_to_live: Option<Duration>) {
    let vector = backend.mint(groups).await.expect("mints").vector;
    backend.store(&entry(key, groups, vector, "body"), time_to_live).await.expect("stores");
}

async fn look(backend: &RedisBackend, key: &Key, groups: &Groups) -> Lookup {
    backend.lookup(key, groups, TimeLeft::NotNeeded).await.expect("looks up")
}

fn is_hit(lookup: &Lookup) -> bool {
    matches!(&lookup.found, Found::Entry(entry, _) if lookup.current.equals(entry.vector()))
}

async fn read(cache: &Cache<RedisBackend>, name: &str, value: u64) -> u64 {
    let load = || async move { Ok::<_, std::convert::Infallible>(value) };
    let Ok(value) = cache.get_or_load(name, Group::new("book"), load).await;
    value
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if holds().await {
            return;
        }
        sleep(millis(10)).await;
    }
    panic!("waited in vain until {what}");
}

/// All commands that the server has run, but `INFO` of whoever counts.
fn commands(server: &RedisServer) -> Vec<(String, u64)> {
    let stats: String = server.run_command("INFO commandstats");
    let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    let counted =
        lines.filter_map(|(name, rest)| Some((name.to_owned(), rest.split(',').next()?.parse().ok()?)));
    counted.filter(|(name, _)| !["info", "client|setinfo", "config|get"].contains(&&**name)).collect()
}

/// How often the server has read from a socket.
fn reads(server: &RedisServer) -> u64 {
    server.info("stats", "total_reads_processed").and_then(|count| count.parse().ok()).expect("a count")
}

#[tokio::test]
async fn a_hit_is_one_command_and_a_cold_miss_three_round_trips() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let cache = Cache::builder(connected(quiet(&server)).await).build();
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

/// How often the server had to read for this, the question itself not counted: once for each
/// pipeline that its buffer holds.
async fn round_trips(server: &RedisServer, work: impl Future<Output = ()>) -> u64 {
    let first = reads(server);
    let before = reads(server);
    work.await;
    reads(server) - before - (before - first)
}

#[tokio::test]
async fn an_invalidation_of_a_hundred_groups_is_one_pipeline() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(quiet(&server)).await;
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
    let backend = connected(quiet(&server)).await;
    let one = groups(1);
    store(&backend, key(&1), &one, None).await;
    let questions: Vec<_> = (0..20).map(|number| (key(&number), one.clone())).collect();
    let asked = async {
        let found = backend.lookup_many(&questions).await.expect("looks up");
        let hits: Vec<_> = found.iter().map(is_hit).collect();
        assert_eq!(hits, (0..20).map(|number| number == 1).collect::<Vec<_>>());
    };
    assert_eq!(round_trips(&server, asked).await, 1);
    assert!(backend.lookup_many(&[]).await.expect("nothing to do").is_empty());
}

#[tokio::test]
async fn a_bump_replaces_what_is_there_and_leaves_nothing_behind() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(quiet(&server)).await;
    let three = groups(3);
    backend.bump(&three).await.expect("bumps");
    assert_eq!(server.run_command::<u64>("DBSIZE"), 0, "groups never cached leave no keys");

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
    assert_eq!(server.calls("get"), 0, "this server has SET with NX and GET");
}

#[tokio::test]
async fn a_server_older_than_seven_is_asked_in_another_way() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let version = server.info("server", "redis_version").expect("a version");
    // Of the same length, as the protocol counts bytes.
    let older = format!("6.2.{:0>width$}", 9, width = version.len() - 4);
    let said: &'static str = format!("redis_version:{version}").leak();
    let heard: &'static str = format!("redis_version:{older}").leak();
    let proxy = Proxy::rewriting(server.port(), said, heard).await;
    one_mint_wins(&proxy.url()).await;
    assert!(server.calls("get") >= 80, "asked as a newer one");
}

async fn one_mint_wins(url: &str) {
    for round in 0..10 {
        let group = Group::new("race").with("round", round);
        let mut mints = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let backend = RedisBackend::builder(url).build().expect("builds");
            let group = group.clone();
            mints.spawn(async move { backend.mint(&[group]).await.expect("mints").vector[0] });
        }
        let minted: Vec<Generation> = mints.join_all().await;
        assert!(minted.iter().all(|generation| *generation == minted[0]), "{minted:?}");
        let backend = RedisBackend::builder(url).build().expect("builds");
        let current = look(&backend, &key("none"), &group.into()).await.current;
        assert_eq!(current[0], Some(minted[0]));
    }
}

#[tokio::test]
async fn keys_groups_and_bodies_of_any_size_work() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(quiet(&server)).await;
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
            let both = look(&backend, &key("none"), &[one, other].into()).await.current;
            assert_ne!(both[0], both[1]);
        }
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_nothing_else_suffers() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(quiet(&server)).await;
    let one = groups(1);
    store(&backend, key("page"), &one, None).await;
    let vector = backend.mint(&one).await.expect("mints").vector;
    let connections = || {
        let count = server.info("stats", "total_connections_received");
        count.and_then(|count| count.parse::<u64>().ok()).expect("a count")
    };
    let before = connections();
    // Zeroes that nobody looks at take no memory.
    let huge = entry(key("huge"), &one, vector.clone(), vec![0; 512 << 20]);
    let error = backend.store(&huge, None).await.expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::Capacity);
    assert!(error.to_string().contains("`max_entry_bytes`"), "{error}");
    assert!(is_hit(&look(&backend, &key("page"), &one).await));
    assert_eq!(connections(), before + 1, "reconnected");

    let small = connected(quiet(&server).max_entry_bytes(10)).await;
    small.store(&entry(key("ten"), &one, vector.clone(), vec![0; 10]), None).await.expect("fits");
    assert!(small.store(&entry(key("eleven"), &one, vector, vec![0; 11]), None).await.is_err());
}

#[tokio::test]
async fn entries_live_to_the_millisecond_and_generations_longer() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(quiet(&server)).await;
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
        let asked = time_to_live.min(36_500 * DAY);
        assert!(entry <= asked && entry + Duration::from_secs(5) > asked, "{entry:?} for {time_to_live:?}");
        assert!(generation > entry + Duration::from_secs(3600), "{generation:?}");
    }
    // A bump keeps what is left, a shorter-lived entry does not shorten it.
    let long = left(&generation_key());
    backend.bump(&one).await.expect("bumps");
    assert!(left(&generation_key()) + Duration::from_secs(5) > long);
    store(&backend, key("page"), &one, Some(millis(100))).await;
    assert!(left(&generation_key()) + Duration::from_secs(5) > long);
    assert!(is_hit(&look(&backend, &key("page"), &one).await));
    sleep(millis(120)).await;
    assert!(matches!(look(&backend, &key("page"), &one).await.found, Found::Absent));

    // Less than a millisecond is one, an overwrite starts anew, zero is at once, none is the default.
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
async fn a_mint_lengthens_the_life_of_a_generation_that_is_there() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(quiet(&server)).await;
    let one = groups(1);
    let minted = backend.mint(&one).await.expect("mints").vector;
    let keys: Vec<String> = server.run_command("KEYS *:g:*");
    server.run_command::<()>(&format!("PEXPIRE {} 5000", keys[0]));
    assert_eq!(backend.mint(&one).await.expect("mints").vector, minted);
    assert!(server.run_command::<u64>(&format!("PTTL {}", keys[0])) > 30 * 24 * 3600 * 1000);
}

#[tokio::test]
async fn the_time_left_is_told_where_it_is_needed() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(quiet(&server)).await;
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
async fn prefixes_never_meet_and_equal_ones_do() {
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
    assert!(is_hit(&look(&of("a:e"), &key("page"), &one).await), "another process sees the same");
    backends[1].delete(&key("page")).await.expect("deletes");
    backends[1].delete(&key("page")).await.expect("there being none is fine");
    assert!(matches!(look(&of("a:e"), &key("page"), &one).await.found, Found::Absent));
}

#[tokio::test]
async fn what_others_wrote_under_the_prefix_is_a_miss_or_a_clear_error() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(quiet(&server)).await;
    let one = groups(1);
    store(&backend, key("page"), &one, None).await;
    let entries: Vec<String> = server.run_command("KEYS *:e:*");
    let generations: Vec<String> = server.run_command("KEYS *:g:*");

    server.run_command::<()>(&format!("SET {} rubbish", entries[0]));
    assert!(matches!(look(&backend, &key("page"), &one).await.found, Found::Undecodable));
    server.run_command::<()>(&format!("DEL {}", entries[0]));
    server.run_command::<u64>(&format!("LPUSH {} rubbish", entries[0]));
    assert!(matches!(look(&backend, &key("page"), &one).await.found, Found::Absent));
    store(&backend, key("page"), &one, None).await;
    assert!(is_hit(&look(&backend, &key("page"), &one).await), "replaced");

    server.run_command::<()>(&format!("SET {} rubbish", generations[0]));
    assert_eq!(look(&backend, &key("page"), &one).await.current[0], None);
    let error = backend.mint(&one).await.expect_err("no generation");
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("`key_prefix`"), "{error}");
    server.run_command::<()>(&format!("DEL {}", generations[0]));
    server.run_command::<u64>(&format!("LPUSH {} rubbish", generations[0]));
    assert_eq!(look(&backend, &key("page"), &one).await.current[0], None);
    let error = backend.mint(&one).await.expect_err("a list");
    assert!(error.to_string().contains("`key_prefix`"), "{error}");
    backend.bump(&one).await.expect("replaces whatever is there");
    backend.mint(&one).await.expect("mints");
}

#[tokio::test]
async fn an_invalidation_that_finds_no_memory_removes_the_generation() {
    let Some(server) = RedisServer::start(&["--maxmemory-policy", "noeviction"]) else { return };
    let backend = connected(quiet(&server)).await;
    let three = groups(3);
    store(&backend, key("page"), &three, None).await;
    server.run_command::<()>("CONFIG SET maxmemory 1");
    let vector = look(&backend, &key("page"), &three).await.current.complete().expect("complete");
    let full = backend.store(&entry(key("other"), &three, vector, "body"), None).await.expect_err("full");
    assert_eq!((full.kind(), full.is_transient()), (ErrorKind::Capacity, false));
    assert!(full.to_string().contains("`maxmemory`"), "{full}");
    assert_eq!(backend.mint(&[Group::new("new")]).await.expect_err("full").kind(), ErrorKind::Capacity);

    backend.bump(&three[1..2]).await.expect("bumps all the same");
    let after = look(&backend, &key("page"), &three).await;
    assert_eq!(after.current[1], None);
    assert!(after.current[0].is_some() && after.current[2].is_some());
    assert!(!backend.is_circuit_open(), "a full server answers");
}

#[tokio::test]
async fn an_invalidation_waits_for_replicas_if_told_to() {
    let Some(primary) = RedisServer::start(&["--repl-diskless-sync-delay", "0"]) else { return };
    let patient = connected(quiet(&primary).wait_for_replicas(1, millis(100))).await;
    let one = groups(1);
    patient.mint(&one).await.expect("mints");
    let error = patient.bump(&one).await.expect_err("there is no replica");
    assert!(error.is_transient() && error.to_string().contains("`wait_for_replicas`"), "{error}");

    let Some(replica) = RedisServer::start(&[]) else { return };
    replica.run_command::<()>(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
    let up = |server: &RedisServer| server.info("replication", "master_link_status").as_deref() == Some("up");
    replica.wait_until("it follows", up);
    eventually("the replica acknowledges", async || patient.bump(&one).await.is_ok()).await;
    replica.pause();
    assert!(patient.bump(&one).await.is_err(), "the replica hangs");
    // A lookup does not wait behind it.
    let (waiting, looked) = tokio::join!(patient.bump(&one), async {
        let began = Instant::now();
        look(&patient, &key("page"), &one).await;
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

    // One that becomes a replica behind the connection's back.
    let watching = RedisBackend::builder(primary.url()).watch_interval(millis(50));
    let backend = watching.build().expect("builds");
    let one = groups(1);
    store(&backend, key("page"), &one, None).await;
    replica.run_command::<()>("REPLICAOF NO ONE");
    primary.run_command::<()>(&format!("REPLICAOF 127.0.0.1 {}", replica.port()));
    // Not just because it is loading what the other one sent.
    let refused = async || {
        let looked = backend.lookup(&key("page"), &one, TimeLeft::NotNeeded).await;
        looked.is_err_and(|error| error.to_string().contains("is a replica; generations"))
    };
    eventually("reads stop", refused).await;
    assert!(backend.bump(&one).await.expect_err("read-only").is_transient());
}

#[tokio::test]
async fn a_refused_write_is_an_error_that_says_why() {
    let Some(server) = RedisServer::start(&["--save", "3600 1"]) else { return };
    let backend = connected(quiet(&server)).await;
    let one = groups(1);
    backend.mint(&one).await.expect("mints");
    // A directory that is gone: the save fails, and with it every write afterwards.
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
async fn the_server_is_judged() {
    let Some(server) = RedisServer::start(&["--save", "3600 1"]) else { return };
    let backend = connected(quiet(&server)).await;
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
async fn a_wrong_password_address_or_server_is_said_so() {
    let Some(server) = RedisServer::start(&["--requirepass", "right"]) else { return };
    let port = server.port();
    connected(quiet(&server)).await;
    let logged = Arc::new(Logged::default());
    let _log = tracing::subscriber::set_default(Log(Arc::clone(&logged)));
    let warnings = || logged.warnings.swap(0, std::sync::atomic::Ordering::SeqCst);
    for (url, kind, names) in [
        (format!("redis://:wrong@127.0.0.1:{port}/"), ErrorKind::Refused, "password in `url`"),
        (format!("redis://nobody:right@127.0.0.1:{port}/"), ErrorKind::Refused, "user name"),
        (format!("redis://127.0.0.1:{port}/"), ErrorKind::Refused, "no password"),
        (format!("redis://:right@127.0.0.1:{port}/9999"), ErrorKind::Protocol, "127.0.0.1"),
        (format!("redis://127.0.0.1:{}/", free_port()), ErrorKind::Unavailable, "127.0.0.1"),
        ("unix:///nowhere/at/all".to_owned(), ErrorKind::Unavailable, "/nowhere/at/all"),
    ] {
        let backend = RedisBackend::builder(&url).build().expect("builds");
        let error = backend.connect().await.expect_err(&url);
        assert_eq!(error.kind(), kind, "{url}: {error:?}");
        assert!(error.to_string().contains(names), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("wrong@"), "{error:?}");
        let one = groups(1);
        for _ in 0..5 {
            assert!(backend.lookup(&key(&1), &one, TimeLeft::NotNeeded).await.is_err());
            assert!(backend.bump(&one).await.is_err());
            sleep(millis(60)).await;
        }
        assert_eq!(warnings(), 1, "{url}: the log says it once");
    }
}

#[tokio::test]
async fn a_server_of_another_kind_is_no_reason_to_panic_or_to_hang() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    for answer in
        [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n", b"$-9\r\n", b""]
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("redis://127.0.0.1:{}/", listener.local_addr().expect("an address").port());
        let answering = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                let _read = stream.read(&mut buffer).await;
                let _written = stream.write_all(answer).await;
                // An empty answer is one that never comes.
                if answer.is_empty() {
                    sleep(Duration::from_secs(5)).await;
                }
            }
        });
        let backend = RedisBackend::builder(&url).connect_time_limit(millis(300)).build().expect("builds");
        let began = Instant::now();
        let error = backend.connect().await.expect_err("not a Redis server");
        assert!(began.elapsed() < Duration::from_secs(2));
        assert!(error.to_string().contains(&url[8..url.len() - 1]), "{error}");
        answering.abort();
    }
}

#[tokio::test]
async fn a_node_of_a_cluster_is_refused() {
    let Some(server) = RedisServer::start(&["--cluster-enabled", "yes"]) else { return };
    let error = quiet(&server).build().expect("builds").connect().await.expect_err("a cluster");
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("`url`"), "{error}");
}

#[tokio::test]
async fn a_socket_file_will_do() {
    let path = groupcache_tests::servers::new_directory().join("redis.sock");
    let path = path.to_str().expect("a path");
    let Some(_server) = RedisServer::start(&["--unixsocket", path]) else { return };
    let backend = connected(RedisBackend::builder(format!("unix://{path}"))).await;
    let one = groups(1);
    store(&backend, key("page"), &one, None).await;
    assert!(is_hit(&look(&backend, &key("page"), &one).await));
}

#[tokio::test]
async fn no_token_is_sent_twice() {
    let Some(server) = RedisServer::start(&[]) else { return };
    for (command, mint) in [("KEEPTTL", false), ("NX", true)] {
        let proxy = Proxy::refusing(server.port(), command).await;
        let backend = RedisBackend::builder(proxy.url()).build().expect("builds");
        let one = groups(1);
        for _ in 0..2 {
            let failed = if mint {
                backend.mint(&one).await.map(drop).expect_err("closed")
            } else {
                backend.bump(&one).await.expect_err("closed")
            };
            assert!(failed.is_transient(), "{failed}");
        }
        // Each is tried twice, as the connection was found closed.
        let tokens: std::collections::BTreeSet<Vec<u8>> = proxy
            .refused()
            .iter()
            .map(|sent| {
                let length = b"$16\r\n";
                let at = sent.windows(length.len()).position(|window| window == length).expect("a token");
                sent[at + length.len()..][..16].to_vec()
            })
            .collect();
        assert_eq!(tokens.len(), 4, "{command}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_fails_nothing() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = connected(quiet(&server)).await;
    let one = groups(1);
    store(&backend, key("page"), &one, None).await;
    for round in 0..20 {
        server.run_command::<u64>("CLIENT KILL TYPE normal");
        if round % 2 == 0 {
            assert!(is_hit(&look(&backend, &key("page"), &one).await));
        } else {
            backend.bump(&one).await.expect("bumps");
            store(&backend, key("page"), &one, None).await;
        }
    }
}

#[tokio::test]
async fn a_server_that_closes_every_connection_is_not_hammered() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}/", listener.local_addr().expect("an address"));
    let attempts = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counting = Arc::clone(&attempts);
    let closing = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counting.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            drop(stream);
        }
    });
    let never = groupcache_core::CircuitBreaker::new("redis").failures_to_open(0);
    let backend = RedisBackend::builder(url).circuit_breaker(never).build().expect("builds");
    let (began, mut asked) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(1) {
        assert!(backend.lookup(&key(&1), &groups(1), TimeLeft::NotNeeded).await.is_err());
        asked += 1;
        tokio::task::yield_now().await;
    }
    let attempts = attempts.load(std::sync::atomic::Ordering::SeqCst);
    // 50, 100, 200 and 400 ms, less up to half.
    assert!((1..=8).contains(&attempts), "{attempts} attempts");
    assert!(asked > 20, "{asked} asked");
    closing.abort();
}

/// Counts what is logged at each level.
#[derive(Default)]
struct Logged {
    warnings: std::sync::atomic::AtomicU64,
    recoveries: std::sync::atomic::AtomicU64,
}

struct Log(Arc<Logged>);

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO && metadata.target().starts_with("groupcache")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let is_warning = *event.metadata().level() == tracing::Level::WARN;
        let counter = if is_warning { &self.0.warnings } else { &self.0.recoveries };
        counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_server_that_hangs_or_dies_costs_little_and_comes_back_by_itself() {
    // A configuration without advice, so that nothing else is logged.
    let arguments = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let Some(mut server) = RedisServer::start(&arguments) else { return };
    let logged = Arc::new(Logged::default());
    let _log = tracing::subscriber::set_default(Log(Arc::clone(&logged)));
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::SeqCst);
    let soft = millis(250);
    let backend = connected(RedisBackend::builder(server.url())).await;
    let cache = Cache::builder(backend).soft_time_limit(soft).hard_time_limit(Duration::from_secs(2)).build();
    assert_eq!(read(&cache, "page", 1).await, 1);
    eventually("it is stored", async || cache.stats().stores == 1).await;

    for (round, dies) in [false, true].into_iter().enumerate() {
        let round = round as u64 + 1;
        if dies {
            server.kill()
        } else {
            server.pause()
        }
        let mut took = Vec::new();
        let began = Instant::now();
        while took.len() < 2_000 || began.elapsed() < Duration::from_secs(3) {
            let began = Instant::now();
            assert_eq!(read(&cache, &format!("page {}", took.len()), 7).await, 7, "a read failed");
            took.push(began.elapsed());
            sleep(millis(1)).await;
        }
        took.sort();
        let (percentile, slowest) = (took[took.len() * 99 / 100], took[took.len() - 1]);
        println!("dies: {dies}, {} reads, 99 % within {percentile:?}, slowest {slowest:?}", took.len());
        assert!(percentile <= soft, "{percentile:?}");
        // Far below what a read without it would take each time.
        assert!(percentile < soft / 2, "the circuit breaker is no use: {percentile:?}");
        assert!(slowest < 4 * soft, "{slowest:?}");
        assert!(cache.backend().is_circuit_open());
        let error = cache.invalidate(Group::new("book")).await.expect_err("nobody acknowledged");
        assert!(error.is_transient(), "{error}");
        assert_eq!(count(&logged.warnings), round, "the log says it once");

        if dies {
            server.restart()
        } else {
            server.resume()
        }
        let stored = cache.stats().stores;
        let came_back = Instant::now();
        let mut page = 0;
        eventually("it is used again", async || {
            page += 1;
            read(&cache, &format!("again {page}"), 7).await;
            cache.stats().stores > stored
        })
        .await;
        println!("used again after {:?}", came_back.elapsed());
        cache.invalidate(Group::new("book")).await.expect("acknowledged");
        assert_eq!(count(&logged.recoveries), round, "and that it is over");
        assert_eq!(count(&logged.warnings), round);
    }
}
