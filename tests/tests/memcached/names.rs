//! Names of servers that lead to several servers, or elsewhere after a while.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use groupcache_core::{Backend, Cache, ErrorKind, Group};
use groupcache_memcached::{MemcachedBackend, MemcachedBackendBuilder};
use groupcache_tests::log::Log;
use groupcache_tests::memcached_server::{MemcachedServer, MemcachedServers};
use groupcache_tests::process::free_port;
use groupcache_tests::proxy::Proxy;
use groupcache_tests::shorthand::{eventually, groups, is_hit, key, look, millis, store};
use tokio::time::sleep;

/// What a name resolves to. Clones are the same name. Empty if it cannot be resolved.
#[derive(Debug, Clone, Default)]
pub(crate) struct Name(Arc<Mutex<Vec<SocketAddr>>>);

impl Name {
    pub(crate) fn of<const COUNT: usize>(addresses: [SocketAddr; COUNT]) -> Self {
        let name = Self::default();
        name.lead_to(addresses);
        name
    }

    pub(crate) fn lead_to<const COUNT: usize>(&self, addresses: [SocketAddr; COUNT]) {
        *self.0.lock().expect("no panic") = addresses.to_vec();
    }

    pub(crate) fn builder(&self) -> MemcachedBackendBuilder {
        let name = self.clone();
        MemcachedBackend::builder("memcached://cache").backoff(millis(1), millis(5)).resolver(move |asked| {
            assert_eq!(asked, "cache:11211");
            let addresses = name.0.lock().expect("no panic").clone();
            let unknown = || io::Error::other("no such host");
            async move { if addresses.is_empty() { Err(unknown()) } else { Ok(addresses) } }
        })
    }

    fn backend(&self) -> MemcachedBackend {
        self.builder().resolve_interval(INTERVAL).build().expect("builds")
    }
}

const INTERVAL: std::time::Duration = millis(200);

pub(crate) fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn two_servers() -> Option<(MemcachedServers, SocketAddr, SocketAddr)> {
    let servers = MemcachedServers::start(2, &[])?;
    let (one, other) = (at(servers.0[0].port()), at(servers.0[1].port()));
    Some((servers, one, other))
}

#[tokio::test]
async fn a_name_of_several_servers_is_an_error_that_names_their_addresses() {
    let Some((servers, one, other)) = two_servers() else { return };
    let (log, _guard) = Log::start();
    let backend = Name::of([one, other]).backend();
    let error = backend.connect().await.expect_err("several servers");
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(!error.is_transient());
    let (first, second) = (one.min(other), one.max(other));
    let instead = format!("memcached://{first},{second}");
    for part in ["cache:11211", "`servers`", &format!("{first}, {second}"), &instead] {
        assert!(error.to_string().contains(part), "{error} lacks {part}");
    }
    for _ in 0..5 {
        assert!(backend.bump(&groups(1)).await.is_err());
        assert!(backend.mint(&groups(1)).await.is_err());
        sleep(millis(5)).await;
    }
    assert_eq!(log.warnings("several servers"), 1, "{log:?}");
    assert_eq!(servers.stat("curr_items"), 0);
    connected_to_both(&instead).await;
}

/// What the error advises works.
async fn connected_to_both(list: &str) {
    let backend = crate::connected(list).await;
    backend.bump(&groups(8)).await.expect("acknowledged");
}

/// Each process has the addresses in another order, as name servers return them by turns.
#[tokio::test]
async fn processes_with_one_name_for_several_servers_read_nothing_stale() {
    let Some((_servers, one, other)) = two_servers() else { return };
    let cache = |name: Name| Cache::builder(name.backend()).build();
    let (reader, writer) = (cache(Name::of([one, other])), cache(Name::of([other, one])));
    let book = Group::new("book");
    let read = async |value: u64| {
        reader.get_or_load("page", book.clone(), || async move { Ok::<_, ()>(value) }).await
    };
    assert_eq!(read(1).await, Ok(1));
    sleep(millis(50)).await;
    let acknowledged = writer.invalidate(book.clone()).await.is_ok();
    let read = read(2).await;
    assert!(!acknowledged || read == Ok(2), "acknowledged, and then {read:?}");
}

#[tokio::test]
async fn several_addresses_of_one_server_are_one_server() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let proxy = Proxy::start(server.port()).await;
    let (direct, through) = (at(server.port()), at(proxy.port()));
    for name in [Name::of([direct, through]), Name::of([through, direct]), Name::of([direct, direct])] {
        let backend = name.backend();
        backend.connect().await.expect("one server");
        store(&backend, key("page"), &groups(1), None).await;
        // Only one of them is resolved for a while.
        name.lead_to([direct]);
        sleep(INTERVAL).await;
        assert!(is_hit(&look(&backend, &key("page"), &groups(1)).await));
        name.lead_to([direct, through]);
        sleep(INTERVAL).await;
        assert!(is_hit(&look(&backend, &key("page"), &groups(1)).await));
    }
    assert_eq!(server.keys().iter().filter(|key| key.contains("handshake")).count(), 0);
    // A minimal system has no `/etc/hosts`.
    if tokio::net::lookup_host(("localhost", server.port())).await.is_err() {
        eprintln!("`localhost` does not resolve here: not tested");
        return;
    }
    let localhost = format!("memcached://localhost:{}", server.port());
    connected_to_both(&localhost).await;
}

#[tokio::test]
async fn an_address_without_a_server_is_ignored_only_if_it_is_of_the_other_protocol_family() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let there = at(server.port());
    // As `localhost` resolves.
    let ipv6 = SocketAddr::from((Ipv6Addr::LOCALHOST, server.port()));
    for name in [Name::of([ipv6, there]), Name::of([there, ipv6])] {
        let backend = name.backend();
        backend.connect().await.expect("one server");
        store(&backend, key("page"), &groups(1), None).await;
        sleep(INTERVAL).await;
        assert!(is_hit(&look(&backend, &key("page"), &groups(1)).await));
    }
    // It may be a server that is down, and that others use.
    let gone = at(free_port());
    for name in [Name::of([gone, there]), Name::of([there, gone])] {
        let error = name.backend().connect().await.expect_err("one may be down");
        assert!(error.is_transient(), "{error}");
        for address in [gone, there] {
            assert!(error.to_string().contains(&address.to_string()), "{error}");
        }
    }
    let neither = Name::of([gone, SocketAddr::from((Ipv6Addr::LOCALHOST, gone.port()))]);
    assert!(neither.backend().connect().await.expect_err("nothing is there").is_transient());
}

#[tokio::test]
async fn a_name_that_comes_to_lead_to_several_servers_is_an_error_from_then_on() {
    let Some((_servers, one, other)) = two_servers() else { return };
    let name = Name::of([one]);
    let backend = name.backend();
    store(&backend, key("page"), &groups(1), None).await;
    name.lead_to([one, other]);
    // Whether the process is idle or not.
    for idle in [true, false] {
        if idle {
            sleep(INTERVAL).await;
        } else {
            eventually("it is noticed", async || backend.bump(&groups(1)).await.is_err()).await;
        }
        let error = backend.bump(&groups(1)).await.expect_err("several servers");
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        // And back.
        name.lead_to([one]);
        eventually("it is used again", async || backend.bump(&groups(1)).await.is_ok()).await;
        name.lead_to([one, other]);
    }
}

#[tokio::test]
async fn a_process_that_was_idle_while_the_name_moved_reads_nothing_from_the_old_server() {
    let Some((_servers, one, other)) = two_servers() else { return };
    let name = Name::of([one]);
    let idle = name.backend();
    store(&idle, key("page"), &groups(1), None).await;
    assert!(is_hit(&look(&idle, &key("page"), &groups(1)).await));
    name.lead_to([other]);
    name.backend().bump(&groups(1)).await.expect("acknowledged");
    sleep(INTERVAL).await;
    assert!(!is_hit(&look(&idle, &key("page"), &groups(1)).await), "invalidated");
}

#[tokio::test]
async fn a_name_that_moves_while_in_use_is_noticed_within_the_interval() {
    let Some((_servers, one, other)) = two_servers() else { return };
    let name = Name::of([one]);
    let busy = name.backend();
    store(&busy, key("page"), &groups(1), None).await;
    name.lead_to([other]);
    let until = tokio::time::Instant::now() + INTERVAL;
    while tokio::time::Instant::now() < until {
        look(&busy, &key("page"), &groups(1)).await;
    }
    assert!(!is_hit(&look(&busy, &key("page"), &groups(1)).await), "still on the old server");
}

/// The old server is cut off when the name moves, and answers again after the interval.
#[tokio::test]
async fn a_late_response_of_the_old_server_is_not_accepted() {
    let Some((_servers, one, other)) = two_servers() else { return };
    let proxy = Proxy::start(one.port()).await;
    let name = Name::of([at(proxy.port())]);
    let backend = || {
        let builder = name.builder().resolve_interval(millis(1_000));
        builder.response_time_limit(crate::TIME_LIMIT).build().expect("builds")
    };
    let (old, group) = (backend(), groups(1));
    store(&old, key("page"), &group, None).await;
    let on_old_server = look(&old, &key("page"), &group).await.current;
    proxy.hold_all();
    name.lead_to([other]);
    let new = backend();
    new.bump(&group).await.expect("acknowledged");
    store(&new, key("page"), &group, None).await;
    // Both begin while the name need not be resolved again.
    let page = key("page");
    let late_lookup = look(&old, &page, &group);
    let late_bump = old.bump(&group);
    let release = async {
        sleep(millis(1_100)).await;
        proxy.release();
    };
    let (late_lookup, late_bump, ()) = tokio::join!(late_lookup, late_bump, release);
    late_bump.expect("acknowledged by the new server");
    assert!(!is_hit(&look(&new, &page, &group).await), "acknowledged by the old server only");
    assert_ne!(late_lookup.current, on_old_server, "read from the old server");
}

#[tokio::test]
async fn a_server_that_the_name_led_away_from_is_used_again_only_once_it_is_empty() {
    let Some((servers, one, other)) = two_servers() else { return };
    let mut servers = servers.0;
    let name = Name::of([one]);
    let (stays, moves) = (name.backend(), name.backend());
    store(&stays, key("page"), &groups(1), None).await;
    let moved_to = async |address: SocketAddr| {
        name.lead_to([address]);
        sleep(INTERVAL).await;
        moves.bump(&groups(1)).await
    };
    moved_to(one).await.expect("acknowledged");
    store(&stays, key("page"), &groups(1), None).await;
    moved_to(other).await.expect("acknowledged");
    for _ in 0..2 {
        let error = moved_to(one).await.expect_err("it may lack invalidations");
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        for part in [&one.to_string(), "`flush_all`", "in turn"] {
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        }
    }
    // The other one too: processes that started meanwhile use this one.
    moved_to(other).await.expect_err("it may lack invalidations");
    servers[0].flush_all();
    moved_to(one).await.expect("it is empty");
    servers[1].restart();
    moved_to(other).await.expect("it is empty");
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_any_more_leads_where_it_led() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let name = Name::of([at(server.port())]);
    let backend = name.backend();
    store(&backend, key("page"), &groups(1), None).await;
    name.lead_to([]);
    for _ in 0..3 {
        sleep(INTERVAL).await;
        assert!(is_hit(&look(&backend, &key("page"), &groups(1)).await));
    }
    assert!(name.backend().connect().await.expect_err("no such host").is_transient());
}
