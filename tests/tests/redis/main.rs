//! The Redis backend on real servers.

mod addresses;
mod bookstore;
mod cluster;
mod cluster_history;
mod commands;
mod conformance;
mod connection;
mod dead_node;
mod history;
mod identity;
mod large;
mod lease;
mod migrations;
mod permissions;
mod refusals;
mod replicas;
mod roles;
mod secrets;
mod sentinel;
mod sentinels;
mod shared_reads;
mod tls;
mod tokens;
mod values;

use std::time::Duration;

use groupcache_core::{Cache, Group};
use groupcache_redis::{RedisBackend, RedisBackendBuilder};
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::shorthand::eventually;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Long, so that a busy machine fails no operation.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Sets up a backend for a test that is not about time limits.
fn patient(url: &str) -> RedisBackendBuilder {
    RedisBackend::builder(url).connect_time_limit(TIME_LIMIT).response_time_limit(TIME_LIMIT)
}

/// The same, but the backend sends no commands of its own, such as those of the watch.
fn quiet(server: &RedisServer) -> RedisBackendBuilder {
    patient(&server.url()).watch_interval(DAY)
}

/// Connects a backend, and waits for the commands of the advice, which follow the first connection.
async fn connected(server: &RedisServer, builder: RedisBackendBuilder) -> RedisBackend {
    // The last of them is `CONFIG GET`.
    let before = server.calls("config|get");
    let backend = builder.build().expect("builds");
    backend.connect().await.expect("connects");
    eventually("the advice has ended", async || server.calls("config|get") > before).await;
    backend
}

/// Connects a backend with long time limits, so that a busy machine fails no operation.
async fn opened(builder: RedisBackendBuilder) -> RedisBackend {
    let builder = builder.connect_time_limit(TIME_LIMIT).response_time_limit(TIME_LIMIT);
    let backend = builder.build().expect("builds");
    backend.connect().await.expect("connects");
    backend
}

async fn read(cache: &Cache<RedisBackend>, name: &str, value: u64) -> u64 {
    let load = || async move { Ok::<_, std::convert::Infallible>(value) };
    let Ok(value) = cache.get_or_load(name, Group::new("book"), load).await;
    value
}

/// The commands that the server has run, without those of a connection and of this function.
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

/// How often the server had to read during `work`: once for each pipeline that fits into its buffer.
///
/// Subtracts the reads of the measurement itself.
async fn round_trips(server: &RedisServer, work: impl Future<Output = ()>) -> u64 {
    let first = reads(server);
    let before = reads(server);
    work.await;
    reads(server) - before - (before - first)
}
