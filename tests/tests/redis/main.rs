//! What the documentation of the Redis backend says, on real servers.

mod commands;
mod connection;
mod dead_node;
mod migrations;
mod refusals;
mod shared_reads;
mod values;

use std::time::Duration;

use groupcache_core::{Cache, Group};
use groupcache_redis::{RedisBackend, RedisBackendBuilder};
use groupcache_tests::asking::millis;
use groupcache_tests::servers::RedisServer;
use tokio::time::sleep;

const DAY: Duration = Duration::from_secs(24 * 3600);

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

async fn read(cache: &Cache<RedisBackend>, name: &str, value: u64) -> u64 {
    let load = || async move { Ok::<_, std::convert::Infallible>(value) };
    let Ok(value) = cache.get_or_load(name, Group::new("book"), load).await;
    value
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

/// How often the server had to read for this, the question itself not counted: once for each
/// pipeline that its buffer guards.
async fn round_trips(server: &RedisServer, work: impl Future<Output = ()>) -> u64 {
    let first = reads(server);
    let before = reads(server);
    work.await;
    reads(server) - before - (before - first)
}
