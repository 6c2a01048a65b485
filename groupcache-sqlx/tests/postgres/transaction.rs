//! Transactions that wait for their own invalidations.

use std::time::Duration;

use futures_util::FutureExt;
use groupcache_core::{Cache, Error, ErrorKind, Group, Groups, Invalidator, Result};
use groupcache_memory::MemoryBackend;
use groupcache_sqlx::{CommitError, PgOutbox};
use sqlx::{Connection, PgConnection};

use crate::relay::Running;
use crate::support::{Shop, eventually, names};

const BOOK_1: [&str; 3] = ["book", "book{author_id=1}", "book{id=1}"];

async fn write(connection: &mut PgConnection, title: &str) {
    sqlx::query("UPDATE books SET title = $1 WHERE id = 1").bind(title).execute(connection).await.unwrap();
}

async fn title(connection: &mut PgConnection) -> sqlx::Result<String> {
    sqlx::query_scalar("SELECT title FROM books WHERE id = 1").fetch_one(connection).await
}

fn memory() -> Cache<MemoryBackend> {
    Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build()
}

fn group() -> Group {
    Group::new("book").with("id", 1)
}

/// The cached title.
async fn read(shop: &Shop, cache: &Cache<MemoryBackend>) -> String {
    let load = async || title(&mut *shop.database.pool.acquire().await?).await;
    cache.get_or_load("title", group(), load).await.unwrap()
}

#[tokio::test]
async fn own_writes_are_visible_when_the_commit_returns() {
    let Some(shop) = Shop::open().await else { return };
    let cache = memory();
    let outbox = PgOutbox::new(shop.database.pool.clone(), cache.clone());
    for n in 0..50 {
        let before = read(&shop, &cache).await;
        let new = format!("title {n}");
        let mut transaction = outbox.begin().await.unwrap();
        write(&mut transaction, &new).await;
        assert_eq!(read(&shop, &cache).await, before);
        transaction.commit().await.unwrap();
        assert_eq!(read(&shop, &cache).await, new);
    }
    eventually("nothing is left", async || shop.outbox.backlog().await.unwrap().rows == 0).await;
}

#[tokio::test]
async fn a_commit_whose_caller_goes_away_still_invalidates() {
    let Some(shop) = Shop::open().await else { return };
    let mut transaction = shop.outbox.begin().await.unwrap();
    write(&mut transaction, "x").await;
    assert!(transaction.commit().now_or_never().is_none());
    eventually("the invalidation", async || names(&shop.told.recorded()) == BOOK_1).await;
}

#[tokio::test]
async fn what_is_rolled_back_or_dropped_invalidates_nothing() {
    let Some(shop) = Shop::open().await else { return };
    let mut transaction = shop.outbox.begin().await.unwrap();
    write(&mut transaction, "x").await;
    transaction.rollback().await.unwrap();
    let mut transaction = shop.outbox.begin().await.unwrap();
    write(&mut transaction, "x").await;
    drop(transaction);
    let transaction = shop.outbox.begin().await.unwrap();
    // Never polled.
    drop(transaction.commit());
    let mut transaction = shop.outbox.begin().await.unwrap();
    let mut savepoint = transaction.begin().await.unwrap();
    write(&mut savepoint, "x").await;
    savepoint.rollback().await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(shop.delivered().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_failed_statement_fails_the_commit() {
    let Some(shop) = Shop::open().await else { return };
    let mut transaction = shop.outbox.begin().await.unwrap();
    write(&mut transaction, "x").await;
    sqlx::query("SELECT 1 / 0").execute(&mut *transaction).await.unwrap_err();
    let error = transaction.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::NotCommitted(_)), "{error:?}");
    assert_eq!(shop.delivered().await, Vec::<String>::new());
}

struct Failing;

impl Invalidator for Failing {
    async fn invalidate(&self, _: &Groups) -> Result<()> {
        Err(Error::new(ErrorKind::Unavailable, "failing"))
    }
}

#[tokio::test]
async fn if_the_cache_fails_the_commit_says_so_and_the_relay_delivers() {
    let Some(shop) = Shop::open().await else { return };
    let running = Running::spawn(shop.outbox.relay());
    let failing = PgOutbox::new(shop.database.pool.clone(), Failing);
    let mut transaction = failing.begin().await.unwrap();
    write(&mut transaction, "x").await;
    let error = transaction.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::NotInvalidated(_)), "{error:?}");
    assert_eq!(title(&mut shop.database.pool.acquire().await.unwrap()).await.unwrap(), "x");
    eventually("the delivery", async || names(&shop.told.recorded()) == BOOK_1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_relay_leaves_a_transaction_to_its_own_process_for_a_moment() {
    let Some(shop) = Shop::open().await else { return };
    let running = Running::spawn(shop.outbox.relay().poll_interval(Duration::from_millis(1)));
    for n in 0..100 {
        let mut transaction = shop.outbox.begin().await.unwrap();
        write(&mut transaction, &n.to_string()).await;
        transaction.commit().await.unwrap();
    }
    eventually("nothing is left", async || shop.outbox.backlog().await.unwrap().rows == 0).await;
    assert!(shop.told.recorded().len() <= 102, "{} invalidations of 100 changes", shop.told.recorded().len());
    // The setting ends with the transaction: the next one on this connection is the relay's.
    let told = shop.told.recorded().len();
    let mut plain = shop.database.pool.acquire().await.unwrap();
    write(&mut plain, "plain").await;
    eventually("the delivery", async || shop.told.recorded().len() > told).await;
    running.stop().await;
}

#[tokio::test]
async fn after_its_first_write_a_transaction_reads_past_the_cache() {
    let Some(shop) = Shop::open().await else { return };
    let cache = memory();
    let outbox = PgOutbox::new(shop.database.pool.clone(), cache.clone());
    assert_eq!(read(&shop, &cache).await, "");
    let mut transaction = outbox.begin().await.unwrap();
    let own = async |transaction: &mut groupcache_sqlx::PgCacheTransaction| {
        transaction.get_or_load(&cache, "title", group(), title).await.unwrap()
    };
    let loads = cache.stats().hits;
    assert_eq!(own(&mut transaction).await, "");
    assert_eq!(cache.stats().hits, loads + 1, "nothing is written yet");
    write(&mut transaction, "mine").await;
    assert_eq!(own(&mut transaction).await, "mine");
    assert_eq!(read(&shop, &cache).await, "", "not committed yet");
    transaction.rollback().await.unwrap();
    assert_eq!(read(&shop, &cache).await, "");
}

#[tokio::test]
async fn a_load_through_a_transaction_is_never_stored() {
    let Some(shop) = Shop::open().await else { return };
    let cache = memory();
    let mut transaction = shop.outbox.begin().await.unwrap();
    write(&mut transaction, "mine").await;
    let load = async || title(&mut transaction).await;
    let own: String = cache.get_or_load("title", group(), load).await.unwrap();
    assert_eq!(own, "mine");
    transaction.rollback().await.unwrap();
    assert_eq!(read(&shop, &cache).await, "");
}
