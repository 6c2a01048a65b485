//! A process that writes is killed at a random moment, again and again.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use groupcache_conformance::scale;
use groupcache_redis::RedisBackend;
use groupcache_tests::process::kill;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::turns;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::process::{Page, Process, open, random, watches};
use crate::relay::Running;
use crate::support::eventually;

const DATABASE: &str = "GROUPCACHE_TEST_DATABASE";
const REDIS: &str = "GROUPCACHE_TEST_REDIS";
/// What the connections of the other process call themselves.
const NAME: &str = "groupcache-crash";

/// Writes, and delivers, until it is killed. Does nothing but in the process that the next test starts.
#[tokio::test]
async fn in_another_process() {
    let (Ok(database), Ok(redis)) = (std::env::var(DATABASE), std::env::var(REDIS)) else { return };
    let options: PgConnectOptions = database.parse().unwrap();
    let options = options.application_name(NAME);
    let pool = PgPoolOptions::new().max_connections(12).connect_with(options).await.unwrap();
    let process = Process::new(&pool, RedisBackend::builder(redis).build().unwrap());
    let mut tasks = JoinSet::new();
    let relay = process.outbox.relay();
    tasks.spawn(async move { relay.run(std::future::pending()).await.unwrap() });
    for n in 0..6 {
        let process = process.clone();
        tasks.spawn(async move {
            loop {
                if n < 4 {
                    drop(process.write_and_invalidate().await);
                } else {
                    drop(process.write_plainly().await);
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

fn another_process(database: &str, redis: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "crash::in_another_process"]).env(DATABASE, database).env(REDIS, redis);
    child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

async fn count(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_process_is_killed_around_its_commits_no_page_is_older_than_the_database() {
    let _turn = turns::history().await;
    let (Some(database), Some(server)) = (open().await, RedisServer::start(&[])) else { return };
    let process = Process::new(&database.pool, RedisBackend::builder(server.url()).build().unwrap());
    process.outbox.install(&watches()).await.unwrap();
    let (mut left, mut longest) = (0, Duration::ZERO);
    for _ in 0..5 * scale() {
        let versions = "SELECT sum(version)::bigint FROM books";
        let before = count(&database.pool, versions).await;
        let mut child = another_process(&database.url, &server.url());
        eventually("it writes", async || count(&database.pool, versions).await > before).await;
        // The pages are in the cache, and are read by another process all the time.
        let end = Instant::now() + Duration::from_micros(random(0..60_000).unsigned_abs());
        while Instant::now() < end {
            process.read(Page::random()).await.unwrap();
        }
        kill(&mut child);
        // What the server had received is still executed.
        let connections = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'groupcache-crash'";
        eventually("it is gone", async || count(&database.pool, connections).await == 0).await;
        left += process.outbox.backlog().await.unwrap().rows;

        let restarted = Instant::now();
        let relay = Running::spawn(process.outbox.relay());
        eventually("nothing is left", async || process.outbox.backlog().await.unwrap().rows == 0).await;
        longest = longest.max(restarted.elapsed());
        relay.stop().await;
        for page in Page::all() {
            assert_eq!(process.read(page).await.unwrap(), process.current(page).await.unwrap(), "{page:?}");
        }
    }
    println!("changes that dead processes left: {left}; delivered after {longest:?} at most");
    assert!(left > 0, "no crash came between a commit and its invalidation");
}
