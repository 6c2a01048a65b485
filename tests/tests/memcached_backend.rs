//! What the documentation of the memcached backend says, on real servers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::{
    Backend, Cache, Entry, ErrorKind, Found, Generation, Group, Groups, Key, Lookup, TimeLeft, Vector,
};
use groupcache_memcached::{Advice, MemcachedBackend};
use groupcache_tests::memcached::{MemcachedServer, MemcachedServers};
use groupcache_tests::proxy::Proxy;
use groupcache_tests::servers::free_port;
use tokio::time::{Instant, sleep};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

async fn connected(url: &str) -> MemcachedBackend {
    let backend = MemcachedBackend::builder(url).build().expect("builds");
    backend.connect().await.expect("connects");
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

async fn store(backend: &MemcachedBackend, key: Key, groups: &Groups, time_to_live: Option<Duration>) {
    let vector = backend.mint(groups).await.expect("mints").vector;
    backend.store(&entry(key, groups, vector, "body"), time_to_live).await.expect("stores");
}

async fn look(backend: &MemcachedBackend, key: &Key, groups: &[Group]) -> Lookup {
    backend.lookup(key, groups, TimeLeft::NotNeeded).await.expect("looks up")
}

fn is_hit(lookup: &Lookup) -> bool {
    matches!(&lookup.found, Found::Entry(entry, _) if lookup.current.equals(entry.vector()))
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

fn name_of(kind: char, hash: [u8; 32]) -> String {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("groupcache:{kind}:{hex}")
}

/// Seconds left of this key.
fn left(server: &MemcachedServer, name: &str) -> u64 {
    let said = server.command(&format!("mg {name} t\r\nmn"), "MN");
    let seconds = said.strip_prefix("HD t").and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    seconds.unwrap_or_else(|| panic!("{name}: {said}"))
}

/// Whether the clocks of this test may show `seconds` of what was `asked` for a moment ago.
fn is_about(seconds: u64, asked: u64) -> bool {
    (asked.saturating_sub(3)..=asked + 1).contains(&seconds)
}

/// A group of which this one of the servers has the generation.
async fn group_on(servers: &MemcachedServers, backend: &MemcachedBackend, which: usize) -> Group {
    for id in 0.. {
        let group = Group::new("on").with("server", which).with("id", id);
        backend.mint(std::slice::from_ref(&group)).await.expect("mints");
        let name = name_of('g', group.hash());
        if servers.0[which].command(&format!("mg {name} s\r\nmn"), "MN").starts_with("HD") {
            return group;
        }
    }
    unreachable!("one of them is there")
}

#[tokio::test]
async fn a_hit_is_one_get_for_each_key_and_a_cold_miss_three_batches() {
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let cache = Cache::builder(connected(&servers.url()).await).build();
    // Each server is greeted twice, once for the advice.
    eventually("they are greeted", async || servers.stat("cmd_get") == 6).await;
    let page = || cache.get_or_load("page", groups(5), || async { Ok::<_, ()>(1_u64) });
    let counts = || ["cmd_get", "cmd_set", "cmd_touch", "delete_hits"].map(|name| servers.stat(name));

    let before = counts();
    assert_eq!(page().await, Ok(1));
    eventually("it is stored", async || cache.stats().stores == 1).await;
    let cold: Vec<_> = counts().iter().zip(before).map(|(now, before)| now - before).collect();
    // Six looked for, five minted and read back, one stored and the life of five looked at.
    assert_eq!(cold, [6 + 5 + 5, 5 + 1, 0, 0]);

    let before = counts();
    for _ in 0..10 {
        assert_eq!(page().await, Ok(1));
    }
    assert_eq!(cache.stats().hits, 10);
    let hits: Vec<_> = counts().iter().zip(before).map(|(now, before)| now - before).collect();
    assert_eq!(hits, [60, 0, 0, 0]);
}

/// A proxy before each of three servers.
struct Watched {
    _servers: MemcachedServers,
    proxies: Vec<Proxy>,
    backend: MemcachedBackend,
}

impl Watched {
    async fn start() -> Option<Self> {
        let servers = MemcachedServers::start(3, &[])?;
        let mut proxies = Vec::new();
        for server in &servers.0 {
            proxies.push(Proxy::start(server.port()).await);
        }
        let ports: Vec<_> = proxies.iter().map(|proxy| format!("127.0.0.1:{}", proxy.port())).collect();
        let backend = connected(&format!("memcached://{}", ports.join(","))).await;
        let watched = Self { _servers: servers, proxies, backend };
        // The advice is asked for at the first connection, and connections are made as they are needed.
        watched.backend.mint(&groups(50)).await.expect("mints");
        eventually("all is quiet", async || {
            let before = watched.pieces();
            sleep(millis(50)).await;
            watched.pieces() == before
        })
        .await;
        Some(watched)
    }

    fn pieces(&self) -> Vec<u64> {
        self.proxies.iter().map(Proxy::pieces).collect()
    }

    /// How many pieces each server got for this.
    async fn counting(&self, work: impl Future<Output = ()>) -> Vec<u64> {
        let before = self.pieces();
        work.await;
        self.pieces().iter().zip(before).map(|(now, before)| now - before).collect()
    }
}

#[tokio::test]
async fn every_operation_is_one_batch_to_each_server() {
    let Some(watched) = Watched::start().await else { return };
    let backend = &watched.backend;
    let (fifty, one) = (groups(50), [1, 1, 1]);
    let mint = async { drop(backend.mint(&fifty).await.expect("mints")) };
    assert_eq!(watched.counting(mint).await, one);
    let bump = async { backend.bump(&fifty).await.expect("bumps") };
    assert_eq!(watched.counting(bump).await, one);
    let vector = backend.mint(&fifty).await.expect("mints").vector;
    let page = entry(key("page"), &fifty, vector, "body");
    let stored = async { backend.store(&page, None).await.expect("stores") };
    assert_eq!(watched.counting(stored).await, one);
    let hit = async { assert!(is_hit(&look(backend, &key("page"), &fifty).await)) };
    assert_eq!(watched.counting(hit).await, one);
    let questions: Vec<_> = (0..50).map(|number| (key(&number), groups(3))).collect();
    let many = async { assert_eq!(backend.lookup_many(&questions).await.expect("looks up").len(), 50) };
    assert_eq!(watched.counting(many).await, one);
    let delete: u64 =
        watched.counting(async { backend.delete(&key("page")).await.expect("deletes") }).await.iter().sum();
    assert_eq!(delete, 1);
    assert!(backend.lookup_many(&[]).await.expect("nothing to do").is_empty());
    backend.bump(&[]).await.expect("nothing to do");
}

#[tokio::test]
async fn servers_are_asked_at_the_same_time() {
    let Some(watched) = Watched::start().await else { return };
    let fifty = groups(50);
    let before = watched.pieces();
    watched.proxies.iter().for_each(Proxy::hold_existing);
    let backend = watched.backend.clone();
    let looking = tokio::spawn(async move { look(&backend, &key("page"), &fifty).await });
    // None of them answers before all have been asked.
    eventually("all are asked", async || {
        watched.pieces().iter().zip(&before).all(|(now, before)| now == &(before + 1))
    })
    .await;
    watched.proxies.iter().for_each(Proxy::release);
    assert!(looking.await.expect("ends").current.complete().is_some());
}

/// Some ask directly, those who come meanwhile share.
#[tokio::test]
async fn many_readers_at_once_share_exchanges_and_each_gets_its_own_answer() {
    let Some(watched) = Watched::start().await else { return };
    let none = Groups::none();
    for number in 0..50 {
        let page = entry(key(&number), &none, Vector::default(), number.to_string());
        watched.backend.store(&page, None).await.expect("stores");
    }
    let reading = async {
        let mut readers = tokio::task::JoinSet::new();
        for reader in 0..900 {
            let backend = watched.backend.clone();
            readers.spawn(async move {
                let looked = look(&backend, &key(&(reader % 60)), &groups(reader % 3)).await;
                assert_eq!(looked.current.len(), reader % 3);
                assert!(looked.current.complete().is_some());
                match looked.found {
                    Found::Entry(entry, None) => assert_eq!(entry.body(), &(reader % 60).to_string()),
                    Found::Absent => assert!(reader % 60 >= 50),
                    other => panic!("{other:?}"),
                }
            });
        }
        readers.join_all().await;
    };
    let pieces: u64 = watched.counting(reading).await.iter().sum();
    assert!(pieces < 450, "{pieces} pieces for 900 readers");
}

#[tokio::test]
async fn a_bump_replaces_what_is_there_and_leaves_nothing_behind() {
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let backend = connected(&servers.url()).await;
    let three = groups(3);
    backend.bump(&three).await.expect("bumps");
    assert_eq!(servers.stat("curr_items"), 0, "groups never cached leave no keys");

    store(&backend, key("page"), &three, None).await;
    let before = look(&backend, &key("page"), &three).await;
    assert!(is_hit(&before));
    backend.bump(&three[..1]).await.expect("bumps");
    let after = look(&backend, &key("page"), &three).await;
    assert!(!is_hit(&after));
    assert_ne!(after.current[0], before.current[0]);
    assert!(after.current[0].is_some());
    assert_eq!(after.current[1..], before.current[1..], "other groups are untouched");
}

#[tokio::test]
async fn of_concurrent_mints_one_wins_and_all_return_it() {
    let Some(servers) = MemcachedServers::start(2, &[]) else { return };
    for round in 0..10 {
        let group = Group::new("race").with("round", round);
        let mut mints = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let backend = MemcachedBackend::builder(servers.url()).build().expect("builds");
            let group = group.clone();
            mints.spawn(async move { backend.mint(&[group]).await.expect("mints").vector[0] });
        }
        let minted: Vec<Generation> = mints.join_all().await;
        assert!(minted.iter().all(|generation| *generation == minted[0]), "{minted:?}");
        let current = look(&connected(&servers.url()).await, &key("none"), &[group]).await.current;
        assert_eq!(current[0], Some(minted[0]));
    }
}

#[tokio::test]
async fn keys_groups_and_bodies_of_any_size_work() {
    let Some(servers) = MemcachedServers::start(2, &["-I", "8m", "-m", "256"]) else { return };
    let backend = connected(&servers.url()).await;
    let names = ["", " ", "a\r\nb\0", "é", &"x".repeat(250), &"x".repeat(251), &"y".repeat(100_000)];
    for name in names {
        for size in [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
            let groups = Groups::from([Group::new(name), Group::new("of").with(name, name)]);
            let vector = backend.mint(&groups).await.expect("mints").vector;
            let body = Bytes::from(vec![b'\n'; size]);
            let stored = entry(key(name), &groups, vector, body.clone());
            backend.store(&stored, None).await.expect("stores");
            let lookup = look(&backend, &key(name), &groups).await;
            assert!(is_hit(&lookup));
            let Found::Entry(found, _) = lookup.found else { panic!("nothing found") };
            assert_eq!(found.body(), &body);
        }
    }
}

#[tokio::test]
async fn what_is_too_large_is_not_stored_counted_and_said_once() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let backend = connected(&server.url()).await;
    let log = Log::default();
    let _log = tracing::subscriber::set_default(log.clone());
    let cache = Cache::builder(backend.clone()).build();
    for round in 0..5 {
        let large = || async { Ok::<_, ()>(vec![b'x'; 1 << 20]) };
        let read: Vec<u8> = cache.get_or_load(&round, Group::new("g"), large).await.expect("computed");
        assert_eq!(read.len(), 1 << 20);
    }
    eventually("all are counted", async || cache.stats().store_failures == 5).await;
    assert_eq!(log.warnings("too large"), 1, "{log:?}");
    let one = groups(1);
    let vector = backend.mint(&one).await.expect("mints").vector;
    // Up to the very item limit, and a few bytes more.
    for (size, fits) in [(1_000_000, true), ((1 << 20) - 500, true), ((1 << 20) - 10, false)] {
        let stored = backend.store(&entry(key("page"), &one, vector.clone(), vec![b'x'; size]), None).await;
        match stored {
            Ok(()) => assert!(fits && is_hit(&look(&backend, &key("page"), &one).await), "{size}"),
            Err(error) => {
                assert!(!fits, "{size}: {error}");
                assert_eq!(error.kind(), ErrorKind::Capacity);
                assert!(error.to_string().contains("`-I`"), "{error}");
            }
        }
    }
    // None of it has troubled the server, or the connection.
    assert_eq!(server.stat("store_too_large"), 0);

    let small = MemcachedBackend::builder(server.url()).max_entry_bytes(10).build().expect("builds");
    small.store(&entry(key("ten"), &one, vector.clone(), vec![0; 10]), None).await.expect("fits");
    let error = small.store(&entry(key("eleven"), &one, vector, vec![0; 11]), None).await.expect_err("not");
    assert!(error.to_string().contains("`max_entry_bytes`"), "{error}");
}

#[tokio::test]
async fn entries_live_to_the_second_and_generations_longer() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let backend = connected(&server.url()).await;
    let one = groups(1);
    let entry_name = name_of('e', key("page").hash());
    let generation_name = name_of('g', one[0].hash());
    for (time_to_live, seconds) in [
        (Duration::from_nanos(1), 1),
        (millis(500), 1),
        (millis(1_500), 2),
        (30 * DAY, 2_592_000),
        (30 * DAY + Duration::from_secs(1), 2_592_001),
        (400 * DAY, 400 * 86_400),
    ] {
        store(&backend, key("page"), &one, Some(time_to_live)).await;
        // A second may be over already where there was only one.
        let said = server.command(&format!("mg {entry_name} t\r\nmn"), "MN");
        let over = seconds <= 2 && said.starts_with("EN");
        assert!(over || is_about(left(&server, &entry_name), seconds), "{time_to_live:?}: {said}");
        assert!(left(&server, &generation_name) > seconds + 3600, "{time_to_live:?}");
    }
    // A shorter-lived entry does not shorten the life of a generation, a bump keeps it long.
    let long = left(&server, &generation_name);
    store(&backend, key("page"), &one, Some(Duration::from_secs(60))).await;
    assert!(is_about(left(&server, &generation_name), long));
    backend.bump(&one).await.expect("bumps");
    assert!(is_about(left(&server, &generation_name), long));
    // Another process that knows of no such long lives.
    let other = connected(&server.url()).await;
    store(&other, key("page"), &one, None).await;
    assert!(is_about(left(&server, &generation_name), long));
    assert!(is_about(left(&server, &entry_name), 30 * 86_400));
    // For ever means as long as the server can count, which is until 2038.
    store(&backend, key("page"), &one, Some(Duration::MAX)).await;
    assert!(left(&server, &entry_name) > 3 * 365 * 86_400);
    assert_eq!(backend.default_time_to_live(), Some(30 * DAY));
    store(&backend, key("page"), &one, Some(Duration::ZERO)).await;
    assert!(matches!(look(&backend, &key("page"), &one).await.found, Found::Absent));
}

#[tokio::test]
async fn a_mint_and_a_store_lengthen_the_life_of_a_generation_that_is_there() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let backend = connected(&server.url()).await;
    let one = groups(1);
    let minted = backend.mint(&one).await.expect("mints").vector;
    let name = name_of('g', one[0].hash());
    let shorten = || {
        assert!(server.command(&format!("mg {name} T5\r\nmn"), "MN").starts_with("HD"));
        assert!(left(&server, &name) <= 5);
    };
    shorten();
    assert_eq!(backend.mint(&one).await.expect("mints").vector, minted);
    assert!(is_about(left(&server, &name), 31 * 86_400));
    shorten();
    backend.store(&entry(key("page"), &one, minted, "body"), None).await.expect("stores");
    assert!(is_about(left(&server, &name), 31 * 86_400));
}

#[tokio::test]
async fn what_others_wrote_under_the_prefix_is_a_miss_or_a_clear_error() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let backend = connected(&server.url()).await;
    let one = groups(1);
    store(&backend, key("page"), &one, None).await;
    let spoil = |name: &str| assert_eq!(server.command(&format!("ms {name} 7\r\nrubbish"), "HD"), "HD\r\n");
    spoil(&name_of('e', key("page").hash()));
    assert!(matches!(look(&backend, &key("page"), &one).await.found, Found::Undecodable));
    store(&backend, key("page"), &one, None).await;
    assert!(is_hit(&look(&backend, &key("page"), &one).await), "replaced");

    spoil(&name_of('g', one[0].hash()));
    assert_eq!(look(&backend, &key("page"), &one).await.current[0], None);
    let error = backend.mint(&one).await.expect_err("no generation");
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("`key_prefix`"), "{error}");
    backend.bump(&one).await.expect("replaces whatever is there");
    backend.mint(&one).await.expect("mints");
}

#[tokio::test]
async fn an_invalidation_that_finds_no_memory_removes_the_generation() {
    let Some(server) = MemcachedServer::start(&["-M", "-m", "2"]) else { return };
    let backend = connected(&server.url()).await;
    // As many generations as there is room for.
    let mut all = Vec::new();
    let full = loop {
        let more: Groups = (0..500).map(|id| Group::new("g").with("at", all.len()).with("id", id)).collect();
        match backend.mint(&more).await {
            Ok(_) => all.push(more),
            Err(error) => break error,
        }
        assert!(all.len() < 1_000, "never full");
    };
    assert_eq!((full.kind(), full.is_transient()), (ErrorKind::Capacity, false));
    assert!(full.to_string().contains("`-m`"), "{full}");
    let before = look(&backend, &key("page"), &all[0]).await.current;
    assert!(before.complete().is_some(), "nothing is evicted");

    backend.bump(&all[0]).await.expect("bumps all the same");
    let after = look(&backend, &key("page"), &all[0]).await.current;
    assert!(before.iter().zip(after.iter()).all(|(before, after)| before != after), "{after:?}");
    // This server drops by itself what it has no memory to replace; that is not relied upon.
    assert!(server.stat("delete_misses") + server.stat("delete_hits") >= all[0].len() as u64);
    assert!(backend.open_circuits().is_empty(), "a full server answers");
}

#[tokio::test]
async fn the_keys_of_a_server_that_is_down_are_misses_and_the_others_go_on() {
    let Some(mut servers) = MemcachedServers::start(3, &[]) else { return };
    let backend = connected(&servers.url()).await;
    let here = group_on(&servers, &backend, 0).await;
    let there = group_on(&servers, &backend, 1).await;
    let both = [here.clone(), there.clone()];
    let before = look(&backend, &key("page"), &both).await.current;
    servers.0[0].kill();
    let entries = || servers.0[1..].iter().map(|server| server.stat("curr_items")).sum::<u64>();
    let items = entries();

    let looked = look(&backend, &key("page"), &both).await;
    assert_eq!(looked.current[..], [None, before[1]]);
    backend.bump(std::slice::from_ref(&there)).await.expect("the others go on");
    for _ in 0..20 {
        let error = backend.bump(&both).await.expect_err("nobody acknowledged");
        assert!(error.is_transient(), "{error}");
        assert!(error.to_string().contains(&servers.0[0].port().to_string()), "{error}");
        assert!(backend.mint(std::slice::from_ref(&here)).await.is_err());
    }
    assert_eq!(entries(), items, "nothing of it went to another server");
    let address = format!("127.0.0.1:{}", servers.0[0].port());
    assert_eq!(backend.open_circuits(), [address.as_str()]);
    assert_ne!(look(&backend, &key("page"), &both).await.current[1], before[1]);
    let only_there = backend.lookup(&key("page"), std::slice::from_ref(&here), TimeLeft::NotNeeded).await;
    assert!(only_there.is_err() || only_there.is_ok_and(|lookup| lookup.current[0].is_none()));

    servers.0[0].restart();
    eventually("it is used again", async || backend.mint(&both).await.is_ok()).await;
    backend.bump(&both).await.expect("acknowledged");
    assert!(backend.open_circuits().is_empty());
}

#[tokio::test]
async fn a_failing_lookup_is_an_error_only_if_nobody_answered() {
    let Some(mut server) = MemcachedServer::start(&[]) else { return };
    let backend = connected(&server.url()).await;
    server.kill();
    let error = backend.lookup(&key("page"), &groups(3), TimeLeft::NotNeeded).await.expect_err("nobody");
    assert!(error.is_transient(), "{error}");
}

/// What a caller that went away has left on a connection is no answer to the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_taken_for_that_to_another_request() {
    let Some(servers) = MemcachedServers::start(2, &[]) else { return };
    let mut proxies = Vec::new();
    for server in &servers.0 {
        proxies.push(Proxy::start(server.port()).await);
    }
    let ports: Vec<_> = proxies.iter().map(|proxy| format!("127.0.0.1:{}", proxy.port())).collect();
    let url = format!("memcached://{}", ports.join(","));
    let backend = MemcachedBackend::builder(url).max_connections(4).build().expect("builds");
    let none = Groups::none();
    for number in 0..50 {
        let body = format!("body of {number}").repeat(1 + number * 20);
        backend.store(&entry(key(&number), &none, Vector::default(), body), None).await.expect("stores");
    }
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..32_u64 {
        let backend = backend.clone();
        readers.spawn(async move {
            let (mut answered, mut dropped) = (0, 0);
            for round in 0..200_u64 {
                let number = ((reader * 7_919 + round * 104_729) % 50) as usize;
                let patience = Duration::from_micros((reader * 31 + round * 97) % 3_000);
                let patience = if round % 3 == 0 { Duration::from_secs(5) } else { patience };
                let (wanted, groups) = (key(&number), groups(number % 4));
                let looking = backend.lookup(&wanted, &groups, TimeLeft::NotNeeded);
                match tokio::time::timeout(patience, looking).await {
                    Err(_) => dropped += 1,
                    Ok(looked) => {
                        let looked = looked.expect("looks up");
                        let Found::Entry(found, _) = looked.found else { panic!("{number} is not there") };
                        assert_eq!(found.key(), &wanted, "the answer to another question");
                        assert_eq!(looked.current.len(), groups.len());
                        answered += 1;
                    }
                }
            }
            (answered, dropped)
        });
    }
    let counts = readers.join_all().await;
    let (answered, dropped) = counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    assert!(answered > 1_600 && dropped > 400, "{answered} answered, {dropped} dropped");
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_fails_nothing() {
    let Some(mut server) = MemcachedServer::start(&[]) else { return };
    let backend = connected(&server.url()).await;
    let one = groups(1);
    for round in 0..6 {
        server.restart();
        if round % 2 == 0 {
            assert!(matches!(look(&backend, &key("page"), &one).await.found, Found::Absent));
        } else {
            backend.bump(&one).await.expect("bumps");
        }
        store(&backend, key("page"), &one, None).await;
    }
}

#[tokio::test]
async fn no_token_is_sent_twice() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    for (mode, mint) in [(" MR ", false), (" ME ", true)] {
        let proxy = Proxy::refusing(server.port(), mode).await;
        let url = format!("memcached://127.0.0.1:{}", proxy.port());
        let backend = connected(&url).await;
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
                let at = sent.windows(2).position(|window| window == b"\r\n").expect("a line");
                sent[at + 2..][..16].to_vec()
            })
            .collect();
        assert_eq!(tokens.len(), 4, "{mode}");
    }
}

#[tokio::test]
async fn a_server_that_is_too_old_or_none_is_said_so() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let version = server.command("version\r\nmn", "MN");
    let version = version.lines().next().and_then(|line| line.strip_prefix("VERSION ")).expect("a version");
    let older: &'static str = format!("VERSION 1.5.{:0>width$}", 9, width = version.len() - 4).leak();
    let said: &'static str = format!("VERSION {version}").leak();
    let old = Proxy::rewriting(server.port(), said, older).await;
    let unmarked = Proxy::rewriting(server.port(), "EN O7\r\n", "EN   \r\n").await;
    for (port, kind, names) in [
        (old.port(), ErrorKind::Configuration, "1.6 or later"),
        (unmarked.port(), ErrorKind::Configuration, "before it was declared stable"),
        (free_port(), ErrorKind::Unavailable, "127.0.0.1"),
    ] {
        let log = Log::default();
        let _log = tracing::subscriber::set_default(log.clone());
        let backend =
            MemcachedBackend::builder(format!("memcached://127.0.0.1:{port}")).build().expect("builds");
        let error = backend.connect().await.expect_err("will not do");
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(
            error.to_string().contains(names) && error.to_string().contains(&port.to_string()),
            "{error}"
        );
        assert_eq!(error.to_string().contains("`servers`"), kind == ErrorKind::Configuration, "{error}");
        let one = groups(1);
        for _ in 0..5 {
            assert!(backend.lookup(&key(&1), &one, TimeLeft::NotNeeded).await.is_err());
            assert!(backend.bump(&one).await.is_err());
            sleep(millis(60)).await;
        }
        assert_eq!(log.warnings(""), 1, "the log says it once: {log:?}");
    }
}

#[tokio::test]
async fn a_server_of_another_kind_is_no_reason_to_panic_or_to_hang() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"-ERR unknown command\r\n",
        b"VERSION 1.6.18\r\nEN O7\r\nEND\r\n\r\nEND\r\n",
        b"",
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
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
        let url = format!("memcached://{address}");
        let backend = MemcachedBackend::builder(url).connect_time_limit(millis(300)).build().expect("builds");
        let began = Instant::now();
        let error = backend.connect().await.expect_err("not a memcached server");
        assert!(began.elapsed() < Duration::from_secs(2));
        assert!(error.to_string().contains(&address), "{error}");
        answering.abort();
    }
}

#[tokio::test]
async fn a_server_that_closes_every_connection_is_not_hammered() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("memcached://{}", listener.local_addr().expect("an address"));
    let attempts = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counting = Arc::clone(&attempts);
    let closing = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counting.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            drop(stream);
        }
    });
    let never = || groupcache_core::CircuitBreaker::new("memcached").failures_to_open(0);
    let backend = MemcachedBackend::builder(url).circuit_breaker(never).build().expect("builds");
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

#[tokio::test]
async fn a_server_that_hangs_costs_little_and_comes_back_by_itself() {
    let Some(servers) = MemcachedServers::start(3, &["-c", "1024"]) else { return };
    let log = Log::default();
    let _log = tracing::subscriber::set_default(log.clone());
    let cache = Cache::builder(connected(&servers.url()).await).build();
    let read = async |page: u64| {
        let load = || async move { Ok::<_, ()>(page) };
        let group = Group::new("page").with("id", page);
        assert_eq!(cache.get_or_load(&page, group, load).await, Ok(page), "a read failed");
    };
    for page in 0..100 {
        read(page).await;
    }
    eventually("they are stored", async || cache.stats().stores == 100).await;
    servers.0[1].pause();
    let mut took = Vec::new();
    while took.len() < 2_000 {
        let began = Instant::now();
        read(took.len() as u64 % 100).await;
        took.push(began.elapsed());
    }
    took.sort();
    let (median, slowest) = (took[1_000], took[1_999]);
    println!("median {median:?}, slowest {slowest:?}, {} hits", cache.stats().hits);
    // Entry and generation are on one of the others with four out of nine pages.
    assert!(cache.stats().hits > 500, "the other servers are not used: {:?}", cache.stats());
    assert!(median < millis(50), "the circuit breaker is no use: {median:?}");
    assert!(slowest < millis(1_000), "{slowest:?}");
    assert_eq!(cache.backend().open_circuits().len(), 1);
    assert_eq!(log.warnings("the store fails"), 1, "{log:?}");
    servers.0[1].resume();
    let all: Groups = (0..100).map(|id| Group::new("page").with("id", id)).collect();
    eventually("invalidations are acknowledged", async || cache.invalidate(all.clone()).await.is_ok()).await;
    assert!(cache.backend().open_circuits().is_empty());
}

#[tokio::test]
async fn a_server_that_keeps_its_memory_over_an_orderly_restart_is_safe() {
    let directory = groupcache_tests::servers::new_directory();
    let file = directory.join("memory").to_str().expect("a path").to_owned();
    let Some(mut server) = MemcachedServer::start(&["-e", &file, "-m", "64"]) else { return };
    let backend = connected(&server.url()).await;
    let two = groups(2);
    store(&backend, key("page"), &two, None).await;
    let settings: Vec<_> = settings(&backend).await;
    assert_eq!(settings, ["-e"]);
    backend.bump(&two[..1]).await.expect("bumps");
    store(&backend, key("other"), &two, None).await;
    server.stop();
    assert!(backend.bump(&two[1..]).await.is_err(), "nobody acknowledges meanwhile");
    // It does not take its memory back within the same second.
    sleep(millis(2_100)).await;
    server.restart();
    assert!(is_hit(&look(&backend, &key("other"), &two).await), "what was valid is");
    assert!(!is_hit(&look(&backend, &key("page"), &two).await), "what was not is not");
    backend.bump(&two[1..]).await.expect("bumps");
    assert!(!is_hit(&look(&backend, &key("other"), &two).await));
    drop(server);
    std::fs::remove_dir_all(directory).expect("removed");
}

async fn settings(backend: &MemcachedBackend) -> Vec<&'static str> {
    backend.advice().await.expect("answers").iter().map(Advice::setting).collect()
}

#[tokio::test]
async fn the_servers_are_judged() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    assert_eq!(settings(&connected(&server.url()).await).await, [""; 0]);
    let Some(odd) = MemcachedServer::start(&["-M", "-c", "200"]) else { return };
    let both = connected(&groupcache_tests::memcached::url_of([&server, &odd])).await;
    assert_eq!(settings(&both).await, ["-M", "-c"]);
    let advice = both.advice().await.expect("answers");
    assert!(advice.iter().all(|advice| advice.server() == format!("127.0.0.1:{}", odd.port())), "{advice:?}");

    // A server that joins should be empty.
    let joining = MemcachedBackend::builder(server.url()).overlap(odd.url()).max_connections(10);
    let joining = joining.build().expect("builds");
    assert_eq!(settings(&joining).await, ["-M"]);
    connected(&odd.url()).await.mint(&groups(1)).await.expect("mints");
    assert_eq!(settings(&joining).await, ["-M", "overlap"]);
}

/// What is logged, at warning level or above.
#[derive(Debug, Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<String>>>);

impl Log {
    fn warnings(&self, about: &str) -> usize {
        self.0.lock().expect("no panic").iter().filter(|line| line.contains(about)).count()
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN && metadata.target().starts_with("groupcache")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{field}={value:?} "));
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().expect("no panic").push(text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
