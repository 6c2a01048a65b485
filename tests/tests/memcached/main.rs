//! The memcached backend on real servers.

mod bookstore;
mod commands;
mod conformance;
mod connection;
mod dropped;
mod history;
mod lease;
mod list_change;
mod moving_names;
mod names;
mod refusals;
mod secrets;
mod values;

use std::time::Duration;

use groupcache_core::{Backend, Group};
use groupcache_memcached::{Advice, MemcachedBackend, MemcachedBackendBuilder};
use groupcache_tests::memcached_server::{MemcachedServer, MemcachedServers};
use groupcache_tests::shorthand::stored_name;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Long, so that a busy machine fails no operation.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Sets up a backend for a test that is not about time limits.
fn patient(url: &str) -> MemcachedBackendBuilder {
    MemcachedBackend::builder(url).connect_time_limit(TIME_LIMIT).response_time_limit(TIME_LIMIT)
}

async fn connected(url: &str) -> MemcachedBackend {
    let backend = patient(url).build().expect("builds");
    backend.connect().await.expect("connects");
    backend
}

/// The time left of a key, in seconds.
fn left(server: &MemcachedServer, name: &str) -> u64 {
    let reply = server.command(&format!("mg {name} t\r\nmn"), "MN");
    let seconds = reply.strip_prefix("HD t").and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    seconds.unwrap_or_else(|| panic!("{name}: {reply}"))
}

/// Whether `seconds` are left of a time to live of `requested` seconds that began a moment ago.
fn is_about(seconds: u64, requested: u64) -> bool {
    (requested.saturating_sub(3)..=requested + 1).contains(&seconds)
}

/// Returns a group whose generation is on this server.
async fn group_on(servers: &MemcachedServers, backend: &MemcachedBackend, which: usize) -> Group {
    for id in 0.. {
        let group = Group::new("on").with("server", which).with("id", id);
        backend.mint(std::slice::from_ref(&group)).await.expect("mints");
        let name = stored_name('g', group.hash());
        if servers.0[which].command(&format!("mg {name} s\r\nmn"), "MN").starts_with("HD") {
            return group;
        }
    }
    unreachable!("some group is on each server")
}

/// The settings that the advice names.
async fn settings(backend: &MemcachedBackend) -> Vec<&'static str> {
    backend.advice().await.expect("answers").iter().map(Advice::setting).collect()
}
