//! Passwords, which no error, log line, advice or debug output shows.

use std::error::Error;
use std::fmt::Debug;

use groupcache_core::{Backend, Cache};
use groupcache_redis::{RedisBackend, RedisBackendBuilder};
use groupcache_tests::fake_server::FakeServer;
use groupcache_tests::log::Log;
use groupcache_tests::process::free_port;
use groupcache_tests::proxy::Proxy;
use groupcache_tests::redis_cluster::RedisCluster;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::{groups, key, millis};
use tokio::time::sleep;

const SECRET: &str = "hunter2";

/// Everything that a process shows of a backend, while it is built, used and fails.
#[derive(Default)]
struct Shown(Vec<String>);

impl Shown {
    fn debug(&mut self, value: &impl Debug) {
        self.0.push(format!("{value:?} {value:#?}"));
    }

    fn error(&mut self, error: &groupcache_core::Error) {
        self.debug(error);
        let mut cause: Option<&dyn Error> = Some(error);
        while let Some(error) = cause {
            self.0.push(format!("{error} {error:#}"));
            cause = error.source();
        }
    }

    fn outcome<T>(&mut self, outcome: groupcache_core::Result<T>) {
        if let Err(error) = outcome {
            self.error(&error);
        }
    }

    async fn everything(&mut self, builder: RedisBackendBuilder) {
        self.debug(&builder);
        let backend = match builder.build() {
            Ok(backend) => backend,
            Err(error) => return self.error(&error),
        };
        self.debug(&backend);
        self.outcome(backend.connect().await);
        match backend.advice().await {
            Ok(advice) => advice.iter().for_each(|advice| {
                self.debug(advice);
                self.0.push(advice.to_string());
            }),
            Err(error) => self.error(&error),
        }
        let one = groups(1);
        for _ in 0..6 {
            self.outcome(
                backend.lookup(&key("page"), &one, groupcache_core::backend::TimeLeft::Needed).await,
            );
            self.outcome(backend.mint(&one).await);
            self.outcome(backend.bump(&one).await);
            self.outcome(backend.delete(&key("page")).await);
        }
        self.debug(&backend);
        let cache = Cache::builder(backend).build();
        self.debug(&cache);
        self.outcome(cache.invalidate(one).await);
        sleep(millis(50)).await;
    }

    fn assert_without_secret(&self) {
        for shown in &self.0 {
            assert!(!shown.contains(SECRET), "{shown}");
        }
    }
}

#[tokio::test]
async fn nothing_shows_a_password() {
    let Some(server) = RedisServer::start(&["--requirepass", SECRET]) else { return };
    server.run_command::<()>(&format!("ACL SETUSER weak on >{SECRET} ~* +info"));
    let port = server.port();
    let proxy = Proxy::start(port).await;
    let (silent, rude) = (FakeServer::silent().await, FakeServer::replying(b"-ERR what hunt\r\n").await);
    let (log, _guard) = Log::start_with_everything();
    let mut shown = Shown::default();
    let at = |address: &str| RedisBackend::builder(format!("redis://user:{SECRET}@{address}/"));
    let quick = |builder: RedisBackendBuilder| {
        builder.connect_time_limit(millis(150)).watch_interval(millis(20)).backoff(millis(1), millis(5))
    };
    for builder in [
        RedisBackend::builder(format!("redis://:{SECRET}@127.0.0.1:{port}/")),
        RedisBackend::builder(format!("redis://weak:{SECRET}@127.0.0.1:{port}/")),
        RedisBackend::builder(format!("redis://:{SECRET}@127.0.0.1:{port}/99")),
        at(&format!("127.0.0.1:{port}")),
        at(&format!("127.0.0.1:{}", free_port())),
        at(&silent.address()),
        at(&rude.address()),
        at("no.such.host.invalid"),
        RedisBackend::builder(format!("redis://:{SECRET}@primary/")).sentinel(
            "main",
            [format!("redis://:{SECRET}@127.0.0.1:{port}"), format!("redis://:{SECRET}@nowhere.invalid")],
        ),
        RedisBackend::builder(format!("redis://:{SECRET}@127.0.0.1:{port}/"))
            .cluster([format!("redis://:{SECRET}@127.0.0.1:{}", free_port())]),
        RedisBackend::builder("redis://127.0.0.1").adjust_connection(|info| {
            let login = info.redis_settings().clone().set_username("u").set_password(SECRET);
            info.set_redis_settings(login)
        }),
    ] {
        shown.everything(quick(builder)).await;
    }

    // The connection is lost, and made again.
    let builder = quick(RedisBackend::builder(format!("redis://:{SECRET}@127.0.0.1:{}/", proxy.port())));
    let backend = builder.build().expect("builds");
    backend.connect().await.expect("connects");
    proxy.redirect(free_port());
    proxy.cut();
    for _ in 0..10 {
        shown.outcome(backend.bump(&groups(1)).await);
        sleep(millis(10)).await;
    }
    shown.debug(&backend);
    assert!(shown.0.len() > 100, "little was shown: {}", shown.0.len());
    shown.assert_without_secret();
    assert!(log.lines().len() > 5, "{:?}", log.lines());
    assert_eq!(log.lines().into_iter().find(|line| line.contains(SECRET)), None);
}

/// What some take for a password in a URL is not one, by the rules of URLs.
#[tokio::test]
async fn a_url_that_is_wrong_shows_no_password_either() {
    let (log, _guard) = Log::start_with_everything();
    let mut shown = Shown::default();
    for url in [
        format!("redis://user:{SECRET}@host:port/"),
        format!("redis://user:{SECRET}@host/database"),
        format!("redis://user:{SECRET}@"),
        format!("redis://user:{SECRET}"),
        format!("redis://user:9{SECRET}@[::1/"),
        format!("redis://user:12/{SECRET}@host/"),
        format!("redis://user:12?{SECRET}@host/"),
        format!("redis://user:12#{SECRET}@host/"),
        format!("redis://:/{SECRET}@host/"),
        format!("redis://{SECRET}/x@host/"),
        format!("redis://{SECRET}#x@host/"),
        format!("redis://user@{SECRET}@host/"),
        format!("redis:user:{SECRET}@host/"),
        format!("user:{SECRET}@host"),
        format!("http://user:{SECRET}@host"),
        format!("unix:///nowhere?pass={SECRET}"),
        format!("unix:///nowhere?db=x&pass={SECRET}"),
        format!("rediss://user:{SECRET}@127.0.0.1:1/#insecure"),
    ] {
        let limit = millis(100);
        shown.everything(RedisBackend::builder(&url).connect_time_limit(limit)).await;
        let whole = || RedisBackend::builder("redis://127.0.0.1:1").connect_time_limit(limit);
        shown.everything(whole().sentinel("main", [url.clone()])).await;
        shown.everything(whole().cluster([url.clone()])).await;
    }
    shown.assert_without_secret();
    assert_eq!(log.lines().into_iter().find(|line| line.contains(SECRET)), None);
}

#[tokio::test]
async fn the_nodes_of_a_cluster_show_no_password() {
    let Some(mut cluster) = RedisCluster::start(3, false) else { return };
    for node in &cluster.nodes {
        node.run_command::<()>(&format!("ACL SETUSER user on >{SECRET} ~* &* +@all"));
    }
    let (log, _guard) = Log::start_with_everything();
    let mut shown = Shown::default();
    let url = format!("redis://user:{SECRET}@127.0.0.1:{}", cluster.nodes[0].port());
    let builder = || RedisBackend::builder(&url).cluster([&url]).watch_interval(millis(50));
    shown.everything(builder()).await;
    cluster.nodes[2].kill();
    shown.everything(builder()).await;
    shown.assert_without_secret();
    assert_eq!(log.lines().into_iter().find(|line| line.contains(SECRET)), None);
}
