//! Relays, transactions, and writers in other processes.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use groupcache_core::{Cache, Error, ErrorKind, Group, Groups, Invalidator, RecordingInvalidator, Result};
use groupcache_memory::MemoryBackend;
use groupcache_sqlx::{CommitError, SqliteOutbox, SqliteRelay};
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteJournalMode;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::{Shop, eventually, names, pool, watches};

const FILE: &str = "GROUPCACHE_TEST_FILE";
const MODES: [SqliteJournalMode; 2] = [SqliteJournalMode::Wal, SqliteJournalMode::Delete];
const BOOK_1: [&str; 3] = ["book", "book{author_id=1}", "book{id=1}"];

pub(crate) struct Running(oneshot::Sender<()>, JoinHandle<Result<()>>);

impl Running {
    pub(crate) fn spawn(relay: SqliteRelay) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self(stop, tokio::spawn(relay.run(async move { drop(stopped.await) })))
    }

    pub(crate) async fn stop(self) {
        drop(self.0);
        self.1.await.unwrap().unwrap();
    }
}

async fn title(connection: &mut SqliteConnection) -> sqlx::Result<String> {
    sqlx::query_scalar("SELECT title FROM books WHERE id = 1").fetch_one(connection).await
}

/// Does nothing but in the process that `another_process` starts.
#[tokio::test]
async fn in_another_process() {
    let Ok(file) = std::env::var(FILE) else { return };
    let pool = pool(std::path::Path::new(&file), SqliteJournalMode::Wal).await;
    sqlx::query("UPDATE books SET title = 'theirs' WHERE id = 1").execute(&pool).await.unwrap();
    pool.close().await;
}

fn another_process(shop: &Shop) {
    let mut writer = Command::new(std::env::current_exe().unwrap());
    writer.args(["--exact", "delivery::in_another_process"]).env(FILE, &shop.file.path).stdout(Stdio::null());
    assert!(writer.status().unwrap().success());
}

#[tokio::test]
async fn writers_in_this_process_and_in_others_are_noticed() {
    for mode in MODES {
        let shop = Shop::open(mode).await;
        let relay = shop.outbox.relay();
        let stats = relay.stats();
        let running = Running::spawn(relay);
        shop.file.run("UPDATE books SET title = 'ours' WHERE id = 1").await;
        eventually("the delivery", async || names(&shop.told.recorded()) == BOOK_1).await;
        // An idle relay leaves the outbox empty and is woken by nothing but the file.
        eventually("nothing is left", async || shop.outbox.backlog().await.unwrap().rows == 0).await;
        let before = shop.told.recorded().len();
        another_process(&shop);
        eventually("the delivery", async || names(&shop.told.recorded()[before..]) == BOOK_1).await;
        // The relay counts after it has removed the rows.
        eventually("the count", async || stats.changes() >= 6).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn own_writes_are_visible_when_the_commit_returns() {
    for mode in MODES {
        let shop = Shop::open(mode).await;
        let cache = Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build();
        let outbox = SqliteOutbox::new(shop.file.pool.clone(), cache.clone());
        let group = || Group::new("book").with("id", 1);
        let read = async || {
            let load = async || title(&mut *shop.file.pool.acquire().await?).await;
            let title: String = cache.get_or_load("title", group(), load).await.unwrap();
            title
        };
        for n in 0..20 {
            let before = read().await;
            let mut transaction = outbox.begin().await.unwrap();
            let own: String = transaction.get_or_load(&cache, "title", group(), title).await.unwrap();
            assert_eq!(own, before);
            let update = sqlx::query("UPDATE books SET title = ? WHERE id = 1").bind(n.to_string());
            update.execute(&mut *transaction).await.unwrap();
            let own: String = transaction.get_or_load(&cache, "title", group(), title).await.unwrap();
            assert_eq!(own, n.to_string());
            let stored: String =
                cache.get_or_load("other", group(), async || title(&mut transaction).await).await.unwrap();
            assert_eq!(stored, n.to_string());
            if n % 3 == 0 {
                transaction.rollback().await.unwrap();
                assert_eq!(read().await, before);
                let stored: Option<String> = cache.get("other", group()).await;
                assert_eq!(stored, None, "it was never committed");
            } else {
                transaction.commit().await.unwrap();
                assert_eq!(read().await, n.to_string());
            }
        }
        eventually("nothing is left", async || outbox.backlog().await.unwrap().rows == 0).await;
    }
}

struct Failing;

impl Invalidator for Failing {
    async fn invalidate(&self, _: &Groups) -> Result<()> {
        Err(Error::new(ErrorKind::Unavailable, "failing"))
    }
}

#[tokio::test]
async fn a_commit_whose_caller_goes_away_or_whose_cache_fails_is_delivered() {
    let shop = Shop::open(SqliteJournalMode::Wal).await;
    let write = async |outbox: &SqliteOutbox| {
        let mut transaction = outbox.begin().await.unwrap();
        let update = sqlx::query("UPDATE books SET title = 'x' WHERE id = 1");
        update.execute(&mut *transaction).await.unwrap();
        transaction
    };
    assert!(write(&shop.outbox).await.commit().now_or_never().is_none());
    eventually("the invalidation", async || names(&shop.told.recorded()) == BOOK_1).await;

    let before = shop.told.recorded().len();
    let failing = SqliteOutbox::new(shop.file.pool.clone(), Failing);
    let error = write(&failing).await.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::NotInvalidated(_)), "{error:?}");
    let running = Running::spawn(shop.outbox.relay());
    eventually("the delivery", async || names(&shop.told.recorded()[before..]) == BOOK_1).await;
    running.stop().await;
    drop(write(&shop.outbox).await);
    drop(write(&shop.outbox).await.commit());
    assert_eq!(shop.delivered().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_change_is_removed_only_after_its_invalidation_was_acknowledged() {
    let shop = Shop::open(SqliteJournalMode::Wal).await;
    shop.file.run("UPDATE books SET title = 'x' WHERE id = 1").await;
    let failing = SqliteOutbox::new(shop.file.pool.clone(), Failing).relay();
    let stats = failing.stats();
    let running = Running::spawn(failing);
    eventually("an attempt", async || stats.failures() > 0).await;
    running.stop().await;
    assert_eq!(shop.delivered().await, BOOK_1);
}

#[tokio::test]
async fn every_process_sees_every_change_and_drops_everything_if_it_was_away_too_long() {
    let shop = Shop::open(SqliteJournalMode::Wal).await;
    let process = || {
        let (told, resets) = (RecordingInvalidator::default(), Arc::new(AtomicU64::new(0)));
        let counter = Arc::clone(&resets);
        let outbox = SqliteOutbox::new(shop.file.pool.clone(), told.clone()).fan_out(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        (outbox, told, resets)
    };
    let (one, told_one, resets_one) = process();
    let (two, told_two, resets_two) = process();
    one.install(&watches()).await.unwrap();
    assert!(shop.outbox.check(&watches()).await.unwrap_err().to_string().contains("fan-out"));
    let running =
        [&one, &two].map(|outbox| Running::spawn(outbox.relay().retention(Duration::from_millis(100))));
    eventually("both read", async || {
        resets_one.load(Ordering::SeqCst) + resets_two.load(Ordering::SeqCst) == 2
    })
    .await;
    for n in 0..5 {
        shop.file.run(&format!("UPDATE books SET title = '{n}' WHERE id = 1")).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    one.flush_all().await.unwrap();
    two.flush_all().await.unwrap();
    assert_eq!(
        (names(&told_one.recorded()), names(&told_two.recorded())),
        (BOOK_1.map(str::to_owned).to_vec(), BOOK_1.map(str::to_owned).to_vec())
    );
    eventually("old changes are removed", async || {
        tokio::time::sleep(Duration::from_millis(150)).await;
        shop.file.run("UPDATE books SET title = 'z' WHERE id = 1").await;
        one.backlog().await.unwrap().rows <= 9
    })
    .await;
    assert_eq!(resets_one.load(Ordering::SeqCst), 1);
    // What this process has not read is gone.
    let resets = resets_one.load(Ordering::SeqCst);
    shop.file.run("UPDATE groupcache_installation SET pruned_to = 1000000; UPDATE sqlite_sequence SET seq = 1000001 WHERE name = 'groupcache_outbox'").await;
    eventually("it drops everything", async || resets_one.load(Ordering::SeqCst) > resets).await;
    for running in running {
        running.stop().await;
    }
}
