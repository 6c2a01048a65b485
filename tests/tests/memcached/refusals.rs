//! Servers that the backend refuses, and advice about the others.

use std::time::Duration;

use groupcache_core::backend::TimeLeft;
use groupcache_core::{Backend, ErrorKind};
use groupcache_memcached::MemcachedBackend;
use groupcache_tests::fake_server::FakeServer;
use groupcache_tests::log::Log;
use groupcache_tests::memcached_server::MemcachedServer;
use groupcache_tests::process::free_port;
use groupcache_tests::proxy::Proxy;
use groupcache_tests::shorthand::{groups, key, millis};
use tokio::time::{Instant, sleep};

use crate::{connected, settings};

#[tokio::test]
async fn the_error_names_a_server_that_is_too_old_or_missing() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    let version = server.command("version\r\nmn", "MN");
    let version = version.lines().next().and_then(|line| line.strip_prefix("VERSION ")).expect("a version");
    let older: &'static str = format!("VERSION 1.5.{:0>width$}", 9, width = version.len() - 4).leak();
    let original: &'static str = format!("VERSION {version}").leak();
    let old = Proxy::rewriting(server.port(), original, older).await;
    let unmarked = Proxy::rewriting(server.port(), "EN O7\r\n", "EN   \r\n").await;
    for (port, kind, names) in [
        (old.port(), ErrorKind::Configuration, "1.6 or later"),
        (unmarked.port(), ErrorKind::Configuration, "before it was declared stable"),
        (free_port(), ErrorKind::Unavailable, "127.0.0.1"),
    ] {
        let (log, _guard) = Log::start();
        let backend =
            MemcachedBackend::builder(format!("memcached://127.0.0.1:{port}")).build().expect("builds");
        let error = backend.connect().await.expect_err("refused");
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
        assert_eq!(log.warnings(""), 1, "the log has one warning: {log:?}");
    }
}

#[tokio::test]
async fn a_server_of_another_kind_is_an_error_and_no_hang() {
    for server in [
        FakeServer::replying(b"HTTP/1.1 400 Bad Request\r\n\r\n").await,
        FakeServer::replying(b"-ERR unknown command\r\n").await,
        FakeServer::replying(b"VERSION 1.6.18\r\nEN O7\r\nEND\r\n\r\nEND\r\n").await,
        FakeServer::silent().await,
    ] {
        let address = server.address();
        let url = format!("memcached://{address}");
        let backend = MemcachedBackend::builder(url).connect_time_limit(millis(300)).build().expect("builds");
        let began = Instant::now();
        let error = backend.connect().await.expect_err("not a memcached server");
        assert!(began.elapsed() < Duration::from_secs(2));
        assert!(error.to_string().contains(&address), "{error}");
    }
}

#[tokio::test]
async fn advice_names_dangerous_settings() {
    let Some(server) = MemcachedServer::start(&[]) else { return };
    assert_eq!(settings(&connected(&server.url()).await).await, [""; 0]);
    let Some(odd) = MemcachedServer::start(&["-M", "-c", "200"]) else { return };
    let both = connected(&groupcache_tests::memcached_server::url_of([&server, &odd])).await;
    assert_eq!(settings(&both).await, ["-M", "-c"]);
    let advice = both.advice().await.expect("answers");
    assert!(advice.iter().all(|advice| advice.server() == format!("127.0.0.1:{}", odd.port())), "{advice:?}");

    // The advice names a server that joins and is not empty.
    let joining = MemcachedBackend::builder(server.url()).overlap(odd.url()).max_connections(10);
    let joining = joining.build().expect("builds");
    assert_eq!(settings(&joining).await, ["-M"]);
    connected(&odd.url()).await.mint(&groups(1)).await.expect("mints");
    assert_eq!(settings(&joining).await, ["-M", "overlap"]);
}
