//! What the tests share: a small schema, and what was invalidated.

use std::time::Duration;

use groupcache_core::{Group, Groups, Model, RecordingInvalidator};
use groupcache_sqlx::{Column, PgOutbox, Watch, Watches, watch};
use serde::{Deserialize, Serialize};

use crate::server::Database;

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
CREATE TABLE authors (id bigint PRIMARY KEY, name text NOT NULL DEFAULT '');
CREATE TABLE books (
    id bigint PRIMARY KEY,
    author_id bigint NOT NULL REFERENCES authors ON DELETE CASCADE ON UPDATE CASCADE,
    title text NOT NULL DEFAULT '',
    tags text[] NOT NULL DEFAULT '{}'
);
CREATE TABLE favorites (book_id bigint NOT NULL, user_id bigint NOT NULL, PRIMARY KEY (book_id, user_id));
INSERT INTO authors SELECT n FROM generate_series(1, 9) AS n;
INSERT INTO books SELECT n, (n - 1) / 2 + 1 FROM generate_series(1, 8) AS n;
INSERT INTO favorites VALUES (1, 10), (2, 10), (1, 11);
";

pub(crate) fn watches() -> Watches {
    let tags = watch("books").group("tag", [Column::new("tags").field("name").elements()]);
    let favorites = watch("favorites")
        .group("book", [Column::new("book_id").field("id")])
        .group("user", [Column::new("user_id").field("id")]);
    Watches::new().with(Watch::<Book>::table("books")).with(tags).with(favorites)
}

/// A database with the tables, their triggers, and an outbox that records.
pub(crate) struct Shop {
    pub(crate) database: Database,
    pub(crate) outbox: PgOutbox,
    pub(crate) told: RecordingInvalidator,
}

impl Shop {
    pub(crate) async fn open() -> Option<Self> {
        Self::with(Database::create().await?).await
    }

    pub(crate) async fn with(database: Database) -> Option<Self> {
        database.run(TABLES).await;
        let told = RecordingInvalidator::default();
        let outbox = PgOutbox::new(database.pool.clone(), told.clone());
        outbox.install(&watches()).await.unwrap();
        Some(Self { database, outbox, told })
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
