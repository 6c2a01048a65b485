//! Opening the database: its tables, its books, the triggers, and the relay that delivers what they write.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use groupcache_core::{BoxBackend, Cache};
use groupcache_memory::MemoryBackend;
use groupcache_sqlx::{PgOutbox, SqliteOutbox};
use serde::Deserialize;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{PgPool, SqlitePool};
use tokio::task::JoinHandle;

use crate::database::Database;
use crate::error;
use crate::model::watches;

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// A file. Always absolute: SQLite takes some relative paths for something else.
    Sqlite(PathBuf),
    /// The URL of a PostgreSQL database.
    Postgres(String),
}

/// Without the password.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", ""));
                let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
                write!(f, "{scheme}://{}", place.split('?').next().unwrap_or_default())
            }
        }
    }
}

/// A database whose changes reach the cache.
pub(crate) struct Opened {
    pub(crate) database: Database,
    /// Ends when `shutdown` is ready.
    pub(crate) relay: JoinHandle<()>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("reading the list of books failed: {0}")]
    Csv(#[from] csv::Error),
    #[error("the database has one of the tables `authors` and `books`, but not both")]
    ForeignTables,
    #[error("installing the triggers failed: {0}")]
    Triggers(#[from] groupcache_core::Error),
}

/// Inserts the list of books, in either database.
macro_rules! fill {
    ($connection:expr) => {
        let list = BookList::read()?;
        for (name, id) in &list.authors {
            let insert = sqlx::query("INSERT INTO authors (id, name) VALUES ($1, $2)").bind(id).bind(name);
            insert.execute(&mut **$connection).await?;
        }
        for row in &list.books {
            sqlx::query("INSERT INTO books (id, title, author_id, genre, year) VALUES ($1, $2, $3, $4, $5)")
                .bind(row.id)
                .bind(&row.title)
                .bind(list.authors[&row.author])
                .bind(&row.genre)
                .bind(row.year)
                .execute(&mut **$connection)
                .await?;
        }
    };
}
/// Opens the database. Creates and fills it if it has no tables, installs the triggers, and starts the relay.
///
/// `memory` is the cache's backend if it is in this process: then every process has to see every change.
pub(crate) async fn open(
    location: &Location,
    cache: &Cache<BoxBackend>,
    memory: Option<MemoryBackend>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Opened, OpenError> {
    let (database, relay) = match location {
        Location::Sqlite(path) => {
            let pool = open_sqlite(path).await?;
            let mut outbox = SqliteOutbox::new(pool.clone(), cache.clone());
            let is_in_memory = memory.is_some();
            if let Some(memory) = memory {
                outbox = outbox.fan_out(move || memory.invalidate_all());
            }
            outbox.install(&watches()).await?;
            let relay = tokio::spawn(outbox.relay().run(shutdown));
            if is_in_memory {
                // The first read of the relay drops what was cached before it.
                outbox.flush_all().await?;
            }
            (Database::Sqlite { pool, outbox }, relay)
        }
        Location::Postgres(url) => {
            let pool = open_postgres(url).await?;
            let mut outbox = PgOutbox::new(pool.clone(), cache.clone());
            let is_in_memory = memory.is_some();
            if let Some(memory) = memory {
                outbox = outbox.fan_out(move || memory.invalidate_all());
            }
            outbox.install(&watches()).await?;
            let relay = tokio::spawn(outbox.relay().run(shutdown));
            if is_in_memory {
                outbox.flush_all().await?;
            }
            (Database::Postgres { pool, outbox }, relay)
        }
    };
    let relay = tokio::spawn(async move {
        if let Ok(Err(failure)) = relay.await {
            error::log(format_args!("bookstore: the relay ended: {failure}"));
        }
    });
    Ok(Opened { database, relay })
}

async fn open_sqlite(path: &Path) -> Result<SqlitePool, OpenError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(WAIT_LIMIT);
    let pool =
        SqlitePoolOptions::new().max_connections(8).acquire_timeout(WAIT_LIMIT).connect_with(options).await?;
    // Creates and fills the tables in one transaction. If the process is killed, the file has no tables, and the
    // next start fills it. If two processes start at once, the second one finds the tables.
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    let tables: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('authors', 'books')",
    )
    .fetch_one(&mut *transaction)
    .await?;
    if is_new(tables)? {
        sqlx::raw_sql(SQLITE_SCHEMA).execute(&mut *transaction).await?;
        fill!(&mut transaction);
        transaction.commit().await?;
    }
    Ok(pool)
}

async fn open_postgres(url: &str) -> Result<PgPool, OpenError> {
    let options: PgConnectOptions = url.parse()?;
    let pool =
        PgPoolOptions::new().max_connections(16).acquire_timeout(WAIT_LIMIT).connect_with(options).await?;
    let mut transaction = pool.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('bookstore'))").execute(&mut *transaction).await?;
    let tables: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM unnest(ARRAY[to_regclass('authors'), to_regclass('books')]) AS found
         WHERE found IS NOT NULL",
    )
    .fetch_one(&mut *transaction)
    .await?;
    if is_new(tables)? {
        sqlx::raw_sql(POSTGRES_SCHEMA).execute(&mut *transaction).await?;
        fill!(&mut transaction);
        let next = "SELECT setval('authors_id_seq', max(id)) FROM authors";
        sqlx::query(next).execute(&mut *transaction).await?;
        let next = "SELECT setval('books_id_seq', max(id)) FROM books";
        sqlx::query(next).execute(&mut *transaction).await?;
        transaction.commit().await?;
    }
    Ok(pool)
}

fn is_new(tables: i64) -> Result<bool, OpenError> {
    match tables {
        0 => Ok(true),
        2 => Ok(false),
        _ => Err(OpenError::ForeignTables),
    }
}

/// A row of the list of books.
#[derive(Deserialize)]
struct Row {
    id: i64,
    title: String,
    author: String,
    genre: String,
    year: i64,
}

/// The list of books. Authors get ids in the order of their first appearance.
struct BookList {
    authors: HashMap<String, i64>,
    books: Vec<Row>,
}

impl BookList {
    fn read() -> Result<Self, csv::Error> {
        let books: Vec<Row> =
            csv::Reader::from_reader(BOOKS_CSV.as_bytes()).into_deserialize().collect::<Result<_, _>>()?;
        let mut authors = HashMap::new();
        let mut last_id = 0;
        for row in &books {
            authors.entry(row.author.clone()).or_insert_with(|| {
                last_id += 1;
                last_id
            });
        }
        Ok(Self { authors, books })
    }
}

const BOOKS_CSV: &str = include_str!("books.csv");

/// `AUTOINCREMENT` never reuses the id of a deleted book: a URL shows the same book for ever, or none.
const SQLITE_SCHEMA: &str = "
CREATE TABLE authors (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE books (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    title     TEXT NOT NULL,
    author_id INTEGER NOT NULL REFERENCES authors (id),
    genre     TEXT NOT NULL,
    year      INTEGER NOT NULL
) STRICT;
CREATE INDEX books_by_author ON books (author_id, year, id);
CREATE INDEX books_by_genre ON books (genre, year DESC, id DESC);
";

const POSTGRES_SCHEMA: &str = "
CREATE TABLE authors (
    id   bigint PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
    name text NOT NULL UNIQUE
);
CREATE TABLE books (
    id        bigint PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
    title     text NOT NULL,
    author_id bigint NOT NULL REFERENCES authors (id),
    genre     text NOT NULL,
    year      bigint NOT NULL
);
CREATE INDEX books_by_author ON books (author_id, year, id);
CREATE INDEX books_by_genre ON books (genre, year DESC, id DESC);
";

/// How long to wait for the write of another connection, or for a free connection.
const WAIT_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::is_slug;

    #[test]
    fn the_list_of_books_is_valid() {
        let list = BookList::read().expect("the rows are valid");
        let mut books_of_genre = HashMap::new();
        for (row, id) in list.books.into_iter().zip(1..) {
            assert_eq!(row.id, id, "ids have no gaps");
            assert!(is_slug(&row.genre), "{} is a slug", row.genre);
            for text in [&row.title, &row.author] {
                assert!(!text.is_empty() && text.trim() == text, "{text:?}");
            }
            *books_of_genre.entry(row.genre).or_insert(0) += 1;
        }
        for (genre, books) in books_of_genre {
            assert!(books >= 5, "{genre} has only {books} books");
        }
    }
}
