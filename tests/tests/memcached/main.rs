//! What the documentation of the memcached backend says, on real servers.

mod commands;
mod connection;
mod dropped;
mod moving_names;
mod names;
mod refusals;
mod secrets;
mod values;

use std::time::Duration;

use groupcache_core::{Backend, Group};
use groupcache_memcached::{Advice, MemcachedBackend};
use groupcache_tests::asking::stored_name;
use groupcache_tests::memcached::{MemcachedServer, MemcachedServers};

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn connected(url: &str) -> MemcachedBackend {
    let backend = MemcachedBackend::builder(url).build().expect("builds");
    backend.connect().await.expect("connects");
    backend
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
        let name = stored_name('g', group.hash());
        if servers.0[which].command(&format!("mg {name} s\r\nmn"), "MN").starts_with("HD") {
            return group;
        }
    }
    unreachable!("one of them is there")
}

/// The settings that there is something to say about.
async fn settings(backend: &MemcachedBackend) -> Vec<&'static str> {
    backend.advice().await.expect("answers").iter().map(Advice::setting).collect()
}
