//! A process that writes is killed at a random moment, again and again.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use groupcache_conformance::scale;
use groupcache_core::{Cache, Group};
use groupcache_redis::RedisBackend;
use groupcache_sqlx::{SqliteOutbox, Watches, watch};
use groupcache_tests::process::kill;
use groupcache_tests::redis_server::RedisServer;
use rand::RngExt;
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteJournalMode;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::delivery::Running;
use crate::support::{File, eventually, pool};

const FILE: &str = "GROUPCACHE_TEST_CRASH_FILE";
const REDIS: &str = "GROUPCACHE_TEST_CRASH_REDIS";
const ROWS: i64 = 16;
const RAISE: &str = "UPDATE pages SET version = version + 1 WHERE id = ?";

#[derive(Clone)]
struct Process {
    cache: Cache<RedisBackend>,
    outbox: SqliteOutbox,
    pool: SqlitePool,
}

impl Process {
    fn new(pool: &SqlitePool, redis: &str) -> Self {
        let cache = Cache::builder(RedisBackend::builder(redis).build().unwrap()).build();
        let outbox = SqliteOutbox::new(pool.clone(), cache.clone());
        Self { cache, outbox, pool: pool.clone() }
    }

    async fn current(&self, id: i64) -> sqlx::Result<i64> {
        sqlx::query_scalar("SELECT version FROM pages WHERE id = ?").bind(id).fetch_one(&self.pool).await
    }

    async fn read(&self, id: i64) -> i64 {
        let group = Group::new("page").with("id", id);
        self.cache.get_or_load(&("page", id), group, async || self.current(id).await).await.unwrap()
    }

    async fn write_and_invalidate(&self) -> sqlx::Result<()> {
        let mut transaction = self.outbox.begin().await?;
        sqlx::query(RAISE).bind(random_row()).execute(&mut *transaction).await?;
        transaction.commit().await.map_err(|error| sqlx::Error::Decode(error.into()))
    }
}

fn random_row() -> i64 {
    rand::rng().random_range(1..=ROWS)
}

/// Writes, and delivers, until it is killed. Does nothing but in the process that the next test starts.
#[tokio::test]
async fn in_another_process() {
    let (Ok(file), Ok(redis)) = (std::env::var(FILE), std::env::var(REDIS)) else { return };
    let process = Process::new(&pool(Path::new(&file), SqliteJournalMode::Wal).await, &redis);
    let mut tasks = JoinSet::new();
    let relay = process.outbox.relay();
    tasks.spawn(async move { relay.run(std::future::pending()).await.unwrap() });
    for n in 0..3 {
        let process = process.clone();
        tasks.spawn(async move {
            loop {
                if n < 2 {
                    drop(process.write_and_invalidate().await);
                } else {
                    drop(sqlx::query(RAISE).bind(random_row()).execute(&process.pool).await);
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

fn another_process(file: &Path, redis: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "crash::in_another_process"]).env(FILE, file).env(REDIS, redis);
    child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_process_is_killed_around_its_commits_no_page_is_older_than_the_file() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let file = File::create(SqliteJournalMode::Wal).await;
    file.run("CREATE TABLE pages (id INTEGER PRIMARY KEY, version INTEGER NOT NULL DEFAULT 0)").await;
    for id in 1..=ROWS {
        file.run(&format!("INSERT INTO pages (id) VALUES ({id})")).await;
    }
    let process = Process::new(&file.pool, &server.url());
    let watches = Watches::new().with(watch("pages").group("page", ["id"]));
    process.outbox.install(&watches).await.unwrap();
    let total = async || {
        let total = sqlx::query_scalar("SELECT sum(version) FROM pages").fetch_one(&file.pool).await;
        total.unwrap_or(0_i64)
    };
    let mut left = 0;
    for _ in 0..4 * scale() {
        let before = total().await;
        let mut child = another_process(&file.path, &server.url());
        eventually("it writes", async || total().await > before).await;
        let wait = rand::rng().random_range(0..60_000);
        let end = Instant::now() + Duration::from_micros(wait);
        while Instant::now() < end {
            process.read(random_row()).await;
        }
        kill(&mut child);
        left += process.outbox.backlog().await.unwrap().rows;

        let relay = Running::spawn(process.outbox.relay());
        eventually("nothing is left", async || process.outbox.backlog().await.unwrap().rows == 0).await;
        relay.stop().await;
        for id in 1..=ROWS {
            assert_eq!(process.read(id).await, process.current(id).await.unwrap(), "page {id}");
        }
    }
    println!("changes that dead processes left: {left}");
    assert!(left > 0, "no crash came between a commit and its invalidation");
}
