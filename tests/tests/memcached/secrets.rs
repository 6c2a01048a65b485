//! A user name or password in the list of servers is refused, and shown nowhere.

use std::error::Error;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use groupcache_core::{Backend, ErrorKind};
use groupcache_memcached::{MemcachedBackend, MemcachedBackendBuilder};
use groupcache_tests::fake_server::FakeServer;
use groupcache_tests::shorthand::groups;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

const SECRET: &str = "hunter2";

/// Where people put passwords, by intent or by mistake.
const WITH_SECRET: [&str; 14] = [
    "memcached://user:hunter2@cache-1:11211",
    "memcached://:hunter2@cache-1",
    "memcached://hunter2@cache-1",
    "memcached://cache-1,user:hunter2@cache-2",
    "memcached://user:hunter2,x@cache-1",
    "memcached://user:hun@hunter2@cache-1",
    "memcached://user:hunter2%40@cache-1",
    "memcached://user:hunter2/@cache-1",
    "memcached://cache-1:11211/?password=hunter2",
    "memcached://cache-1:hunter2",
    "memcached://cache-1:11211#hunter2",
    "memcacheds://user:hunter2@cache-1",
    "redis://user:hunter2@cache-1",
    "user:hunter2@cache-1",
];

fn assert_secret_is_not_in(text: &str, of: &str) {
    assert!(!text.contains(SECRET) && !text.contains("hunter"), "{of} shows the secret: {text}");
}

fn shown(value: &dyn Debug) -> String {
    format!("{value:?} {value:#?}")
}

#[tokio::test]
async fn a_password_in_a_list_is_refused_and_shown_nowhere() {
    let log = Everything::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    for url in WITH_SECRET {
        let valid = || MemcachedBackend::builder("memcached://cache-1");
        let builders: [MemcachedBackendBuilder; 2] = [MemcachedBackend::builder(url), valid().overlap(url)];
        for builder in builders {
            assert_secret_is_not_in(&shown(&builder), url);
            let error = builder.build().map(drop).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert_secret_is_not_in(&format!("{error} {}", shown(&error)), url);
            let mut source = error.source();
            while let Some(cause) = source {
                assert_secret_is_not_in(&format!("{cause} {cause:?}"), url);
                source = cause.source();
            }
        }
    }
    assert_secret_is_not_in(&log.text(), "the log");
}

#[tokio::test]
async fn a_list_with_a_password_is_said_to_have_one() {
    for url in &WITH_SECRET[..8] {
        let error = MemcachedBackend::builder(*url).build().map(drop).expect_err(url).to_string();
        assert!(error.contains("password") && error.contains("`servers`"), "{url}: {error}");
    }
    let error = MemcachedBackend::builder("memcached://cache-1,a b").build().map(drop).expect_err("a space");
    assert!(error.to_string().contains("position 2"), "{error}");
}

/// A server that asks for a password, and one that is none at all, are refused in words of this crate.
#[tokio::test]
async fn what_a_server_says_that_refuses_is_not_repeated() {
    let log = Everything::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    for fake in [
        FakeServer::replying(b"CLIENT_ERROR unauthenticated hunter2\r\n").await,
        FakeServer::replying(b"ERROR hunter2 is wrong\r\n").await,
    ] {
        let backend = MemcachedBackend::builder(format!("memcached://{}", fake.address()));
        let backend = backend.build().expect("builds");
        for error in [
            backend.connect().await.expect_err("refused"),
            backend.advice().await.map(drop).expect_err("refused"),
            backend.bump(&groups(1)).await.expect_err("refused"),
        ] {
            assert_secret_is_not_in(&format!("{error} {}", shown(&error)), "the error");
        }
        assert_secret_is_not_in(&shown(&backend), "the backend");
    }
    assert!(log.text().contains("password"), "{}", log.text());
    assert_secret_is_not_in(&log.text(), "the log");
}

/// Everything that is logged, at any level.
#[derive(Clone, Default)]
struct Everything(Arc<Mutex<String>>);

impl Everything {
    fn text(&self) -> String {
        self.0.lock().expect("no panic").clone()
    }
}

impl Visit for Everything {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.lock().expect("no panic").push_str(&format!("{field}={value:?}\n"));
    }
}

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        attributes.record(&mut self.clone());
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
