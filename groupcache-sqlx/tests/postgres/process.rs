//! One process of an application, as the histories and the crashes have it: a cache, an outbox, reads and writes.
//!
//! Each book and each shelf has a version. A page shows the version of a book, or of a shelf. A book that moves
//! raises the version of both shelves in its transaction; only the table of books is watched.

use std::ops::Range;

use groupcache_core::{Backend, BoxBackend, Cache, Group};
use groupcache_memory::MemoryBackend;
use groupcache_sqlx::{PgOutbox, Watches, watch};
use rand::RngExt;
use sqlx::{PgConnection, PgPool};

use crate::server::Database;

pub(crate) const BOOKS: i64 = 24;
const SHELVES: i64 = 4;
/// What the key of a shelf in a history is more than its id.
const SHELF_KEYS: i64 = 1000;

/// A page.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Page {
    Book(i64),
    Shelf(i64),
}

/// A page that a write changed, and its new version.
pub(crate) type Written = Vec<(Page, i64)>;

/// A cache and an outbox.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) cache: Cache,
    pub(crate) outbox: PgOutbox,
    pub(crate) pool: PgPool,
}

impl Page {
    pub(crate) fn random() -> Self {
        if random(0..4) == 0 { Self::Shelf(random(1..SHELVES + 1)) } else { Self::Book(random(1..BOOKS + 1)) }
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (1..=BOOKS).map(Self::Book).chain((1..=SHELVES).map(Self::Shelf))
    }

    pub(crate) fn key(self) -> u64 {
        match self {
            Self::Book(id) => id.unsigned_abs(),
            Self::Shelf(id) => (id + SHELF_KEYS).unsigned_abs(),
        }
    }

    fn group(self) -> Group {
        match self {
            Self::Book(id) => Group::new("book").with("id", id),
            Self::Shelf(id) => Group::new("book").with("shelf", id),
        }
    }
}

impl Process {
    pub(crate) fn new(pool: &PgPool, backend: impl Backend) -> Self {
        let cache = Cache::builder(BoxBackend::new(backend)).build();
        let outbox = PgOutbox::new(pool.clone(), cache.clone());
        Self { cache, outbox, pool: pool.clone() }
    }

    /// A process with a cache in its own memory, one of several.
    pub(crate) fn in_memory(pool: &PgPool) -> Self {
        let backend = MemoryBackend::with_max_bytes(16 << 20);
        let mut process = Self::new(pool, backend.clone());
        process.outbox = process.outbox.fan_out(move || backend.invalidate_all());
        process
    }

    /// Returns the version that the cached page shows.
    pub(crate) async fn read(&self, page: Page) -> sqlx::Result<i64> {
        self.cache.get_or_load(&page.key(), page.group(), async || self.current(page).await).await
    }

    /// Returns the version in the database.
    pub(crate) async fn current(&self, page: Page) -> sqlx::Result<i64> {
        let query = match page {
            Page::Book(id) => sqlx::query_scalar("SELECT version FROM books WHERE id = $1").bind(id),
            Page::Shelf(id) => sqlx::query_scalar("SELECT version FROM shelves WHERE id = $1").bind(id),
        };
        query.fetch_one(&self.pool).await
    }

    /// Writes through a transaction that waits for its own invalidation.
    pub(crate) async fn write_and_invalidate(&self) -> Option<Written> {
        let mut transaction = self.outbox.begin().await.ok()?;
        let written = write(&mut transaction).await.ok()?;
        transaction.commit().await.ok().map(|()| written)
    }

    /// Writes as any SQL client does. Returns the number of the transaction too.
    pub(crate) async fn write_plainly(&self) -> sqlx::Result<(Written, i64)> {
        let mut transaction = self.pool.begin().await?;
        let written = write(&mut transaction).await?;
        let number = sqlx::query_scalar("SELECT pg_current_xact_id()::text::bigint")
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok((written, number))
    }
}

/// Creates the tables.
pub(crate) async fn open() -> Option<Database> {
    let database = Database::create().await?;
    database
        .run(&format!(
            "CREATE TABLE shelves (id bigint PRIMARY KEY, version bigint DEFAULT 0);
             CREATE TABLE books (id bigint PRIMARY KEY, shelf bigint, version bigint DEFAULT 0);
             INSERT INTO shelves SELECT n FROM generate_series(1, {SHELVES}) AS n;
             INSERT INTO books SELECT n, n % {SHELVES} + 1 FROM generate_series(1, {BOOKS}) AS n"
        ))
        .await;
    Some(database)
}

pub(crate) fn watches() -> Watches {
    Watches::new().with(watch("books").group("book", ["id"]).group("book", ["shelf"]).shows(["version"]))
}

pub(crate) fn random(range: Range<i64>) -> i64 {
    rand::rng().random_range(range)
}

/// Changes a book, or moves it to another shelf.
async fn write(connection: &mut PgConnection) -> sqlx::Result<Written> {
    let id = random(1..BOOKS + 1);
    let raise = "UPDATE books SET version = version + 1 WHERE id = $1 RETURNING version, shelf";
    if random(0..2) == 0 {
        // The page of its shelf shows no book's version.
        let (version, _): (i64, i64) = sqlx::query_as(raise).bind(id).fetch_one(connection).await?;
        return Ok(vec![(Page::Book(id), version)]);
    }
    let from: i64 = sqlx::query_scalar("SELECT shelf FROM books WHERE id = $1")
        .bind(id)
        .fetch_one(&mut *connection)
        .await?;
    let to = from % SHELVES + 1;
    let mut written = Vec::new();
    // Shelves first and in order, so that no two transactions wait for each other.
    for shelf in [from.min(to), from.max(to)] {
        let raise = "UPDATE shelves SET version = version + 1 WHERE id = $1 RETURNING version";
        let version = sqlx::query_scalar(raise).bind(shelf).fetch_one(&mut *connection).await?;
        written.push((Page::Shelf(shelf), version));
    }
    let to_shelf =
        "UPDATE books SET version = version + 1, shelf = $2 WHERE id = $1 AND shelf = $3 RETURNING version";
    // No row: another transaction has moved it meanwhile, and this one rolls back.
    let version = sqlx::query_scalar(to_shelf).bind(id).bind(to).bind(from).fetch_one(connection).await?;
    written.push((Page::Book(id), version));
    Ok(written)
}
