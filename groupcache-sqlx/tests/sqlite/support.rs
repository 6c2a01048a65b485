//! What the tests share: a file with a small schema, and what was invalidated.

use std::path::PathBuf;
use std::time::Duration;

use groupcache_core::{Group, Groups, Model, RecordingInvalidator};
use groupcache_sqlx::{Column, SqliteOutbox, Watch, Watches, watch};
use groupcache_tests::process::new_directory;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, SqlitePool};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Book {
    pub(crate) id: i64,
    pub(crate) author_id: i64,
}

impl Model for Book {
    const NAME: &'static str = "book";
    const GROUPS: &'static [&'static [&'static str]] = &[&["id"], &["author_id"]];
}

pub(crate) const TABLES: &str = "
CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT '');
CREATE TABLE books (
    id INTEGER PRIMARY KEY,
    author_id INTEGER NOT NULL REFERENCES authors ON DELETE CASCADE ON UPDATE CASCADE,
    title TEXT NOT NULL DEFAULT '',
    isbn TEXT UNIQUE,
    tags TEXT NOT NULL DEFAULT '[]'
);
CREATE TABLE favorites (book_id INTEGER NOT NULL, user_id INTEGER NOT NULL, PRIMARY KEY (book_id, user_id))
    WITHOUT ROWID;
CREATE TABLE ratings (book_id INTEGER, stars INTEGER);
CREATE TRIGGER rate AFTER INSERT ON ratings BEGIN
    UPDATE books SET title = title || new.stars WHERE id = new.book_id;
END;
INSERT INTO authors (id) VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9);
INSERT INTO books (id, author_id, isbn) VALUES
    (1, 1, 'i1'), (2, 1, 'i2'), (3, 2, 'i3'), (4, 2, 'i4'), (5, 3, 'i5'), (6, 3, NULL), (7, 4, NULL), (8, 4, NULL);
INSERT INTO favorites VALUES (1, 10), (2, 10), (1, 11);
";

pub(crate) fn watches() -> Watches {
    let tags = watch("books").group("tag", [Column::new("tags").field("name").elements()]);
    let favorites = watch("favorites")
        .group("book", [Column::new("book_id").field("id")])
        .group("user", [Column::new("user_id").field("id")]);
    Watches::new().with(Watch::<Book>::table("books")).with(tags).with(favorites)
}

/// A file of one test.
pub(crate) struct File {
    pub(crate) pool: SqlitePool,
    pub(crate) path: PathBuf,
}

impl File {
    pub(crate) async fn create(journal_mode: SqliteJournalMode) -> Self {
        let path = new_directory().join("data.sqlite");
        let pool = pool(&path, journal_mode).await;
        Self { pool, path }
    }

    pub(crate) async fn run(&self, sql: &str) {
        let outcome = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await;
        outcome.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _in_use = std::fs::remove_dir_all(self.path.parent().unwrap());
    }
}

pub(crate) async fn pool(path: &std::path::Path, journal_mode: SqliteJournalMode) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(journal_mode)
        .busy_timeout(Duration::from_secs(10));
    SqlitePoolOptions::new().max_connections(8).connect_with(options).await.unwrap()
}

/// A file with the tables, their triggers, and an outbox that records.
pub(crate) struct Shop {
    pub(crate) file: File,
    pub(crate) outbox: SqliteOutbox,
    pub(crate) told: RecordingInvalidator,
}

impl Shop {
    pub(crate) async fn open(journal_mode: SqliteJournalMode) -> Self {
        let file = File::create(journal_mode).await;
        file.run(TABLES).await;
        let told = RecordingInvalidator::default();
        let outbox = SqliteOutbox::new(file.pool.clone(), told.clone());
        outbox.install(&watches()).await.unwrap();
        Self { file, outbox, told }
    }

    /// The groups of everything that was written since the last call.
    pub(crate) async fn delivered(&self) -> Vec<String> {
        let before = self.told.recorded().len();
        self.outbox.flush_all().await.unwrap();
        assert_eq!(self.outbox.backlog().await.unwrap().rows, 0);
        names(&self.told.recorded()[before..])
    }
}

/// The groups of several invalidations, each once.
pub(crate) fn names(told: &[Groups]) -> Vec<String> {
    let groups: Groups = told.iter().flat_map(|groups| groups.iter().cloned()).collect();
    let mut names: Vec<_> = groups.iter().map(Group::to_string).collect();
    names.sort();
    names
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain until {what}");
}
