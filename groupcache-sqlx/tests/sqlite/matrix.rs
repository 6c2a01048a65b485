//! Every kind of statement against every outcome of its transaction: exactly the right groups are invalidated.

use groupcache_core::groups_of;
use groupcache_sqlx::{Column, SqliteOutbox, Watches, watch};
use sqlx::sqlite::SqliteJournalMode;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::support::{Book, File, Shop, names, watches};

const RESET: &str = "
DELETE FROM favorites; DELETE FROM books; DELETE FROM authors; DELETE FROM ratings;
INSERT INTO authors (id) VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9);
INSERT INTO books (id, author_id, isbn) VALUES
    (1, 1, 'i1'), (2, 1, 'i2'), (3, 2, 'i3'), (4, 2, 'i4'), (5, 3, 'i5'), (6, 3, NULL), (7, 4, NULL), (8, 4, NULL);
INSERT INTO favorites VALUES (1, 10), (2, 10), (1, 11);
";

/// The statement and the groups that it concerns.
const STATEMENTS: &[(&str, &str)] = &[
    (
        "INSERT INTO books (id, author_id, tags) VALUES (20, 5, '[\"poem\"]')",
        "book id=20 author_id=5 tag=poem",
    ),
    ("UPDATE books SET title = 'x' WHERE id = 1", "book id=1 author_id=1"),
    ("UPDATE books SET author_id = 9 WHERE id = 1", "book id=1 author_id=1 author_id=9"),
    ("UPDATE books SET id = 30 WHERE id = 1", "book id=1 id=30 author_id=1"),
    ("DELETE FROM books WHERE id = 3", "book id=3 author_id=2"),
    ("UPDATE books SET title = 'y' WHERE id <= 3", "book id=1 id=2 id=3 author_id=1 author_id=2"),
    ("UPDATE books SET title = 'y' WHERE id > 100", ""),
    (
        "INSERT INTO books (id, author_id) VALUES (1, 2), (21, 6)
         ON CONFLICT (id) DO UPDATE SET author_id = excluded.author_id",
        "book id=1 id=21 author_id=1 author_id=2 author_id=6",
    ),
    ("INSERT INTO books (id, author_id) VALUES (1, 2) ON CONFLICT DO NOTHING", ""),
    ("INSERT OR IGNORE INTO books (id, author_id, isbn) VALUES (50, 2, 'i4')", ""),
    // Removes one row by its key and one by its number, and fires no trigger for either.
    (
        "INSERT OR REPLACE INTO books (id, author_id, isbn) VALUES (1, 7, 'i5')",
        "book id=1 id=5 author_id=1 author_id=3 author_id=7",
    ),
    (
        "REPLACE INTO books (id, author_id, isbn) VALUES (60, 7, 'i5')",
        "book id=60 id=5 author_id=3 author_id=7",
    ),
    ("REPLACE INTO books (id, author_id, isbn) VALUES (61, 7, NULL)", "book id=61 author_id=7"),
    ("UPDATE OR REPLACE books SET isbn = 'i5' WHERE id = 1", "book id=1 id=5 author_id=1 author_id=3"),
    ("UPDATE OR IGNORE books SET isbn = 'i5' WHERE id = 1", ""),
    ("REPLACE INTO favorites VALUES (1, 10)", "book:id=1 user:id=10"),
    ("DELETE FROM favorites", "book:id=1 book:id=2 user:id=10 user:id=11"),
    ("DELETE FROM authors WHERE id = 1", "book id=1 id=2 author_id=1"),
    ("UPDATE authors SET id = 50 WHERE id = 2", "book id=3 id=4 author_id=2 author_id=50"),
    ("INSERT INTO ratings VALUES (5, 4)", "book id=5 author_id=3"),
    (
        "UPDATE books SET tags = '[\"a\",\"b\"]' WHERE id = 1; UPDATE books SET tags = '[\"b\"]' WHERE id = 1",
        "book id=1 author_id=1 tag=a tag=b",
    ),
];

const OTHER: &str = "UPDATE favorites SET user_id = 12 WHERE book_id = 2 AND user_id = 10";
const OTHER_GROUPS: &str = "book:id=2 user:id=10 user:id=12";

/// `book id=1 user:id=2` as names of groups, sorted.
fn expected(groups: &str) -> Vec<String> {
    let mut names: Vec<String> = groups
        .split_whitespace()
        .map(|group| match (group.split_once(':'), group.split_once('=')) {
            (Some((name, field)), _) => format!("{name}{{{field}}}"),
            (None, Some(("tag", tag))) => format!("tag{{name={tag}}}"),
            (None, Some(_)) => format!("book{{{group}}}"),
            (None, None) => group.to_owned(),
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

async fn run(connection: &mut SqliteConnection, sql: &str) {
    let outcome = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    outcome.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn reset(shop: &Shop) {
    shop.file.run(RESET).await;
    drop(shop.delivered().await);
}

#[tokio::test]
async fn exactly_the_groups_of_what_was_committed_are_invalidated() {
    for journal_mode in [SqliteJournalMode::Wal, SqliteJournalMode::Delete] {
        let shop = Shop::open(journal_mode).await;
        for (statement, groups) in STATEMENTS {
            reset(&shop).await;
            shop.file.run(statement).await;
            assert_eq!(shop.delivered().await, expected(groups), "{statement}");

            reset(&shop).await;
            let mut transaction = shop.file.pool.begin().await.unwrap();
            run(&mut transaction, statement).await;
            transaction.rollback().await.unwrap();
            assert_eq!(shop.delivered().await, expected(""), "{statement}");

            for release in [true, false] {
                reset(&shop).await;
                let mut transaction = shop.file.pool.begin().await.unwrap();
                run(&mut transaction, OTHER).await;
                let mut savepoint = transaction.begin().await.unwrap();
                let is_other = statement.contains("favorites");
                run(&mut savepoint, if is_other { "SELECT 1" } else { statement }).await;
                let groups = if release && !is_other { groups } else { "" };
                if release {
                    savepoint.commit().await.unwrap()
                } else {
                    savepoint.rollback().await.unwrap()
                }
                transaction.commit().await.unwrap();
                assert_eq!(
                    shop.delivered().await,
                    expected(&format!("{groups} {OTHER_GROUPS}")),
                    "{statement}"
                );
            }

            reset(&shop).await;
            shop.file.run("INSERT INTO books (id, author_id) VALUES (90, 9)").await;
            let before = shop.told.recorded().len();
            let mut transaction = shop.outbox.begin().await.unwrap();
            run(&mut transaction, statement).await;
            transaction.commit().await.unwrap();
            assert_eq!(names(&shop.told.recorded()[before..]), expected(groups), "{statement}");
            shop.outbox.flush_all().await.unwrap();
        }
    }
}

#[tokio::test]
async fn texts_are_those_of_rust() {
    let file = File::create(SqliteJournalMode::Wal).await;
    file.run("CREATE TABLE t (id INTEGER PRIMARY KEY, free TEXT, bounded VARCHAR(9), truth BOOLEAN, name TEXT COLLATE NOCASE)").await;
    let told = groupcache_core::RecordingInvalidator::default();
    let outbox = SqliteOutbox::new(file.pool.clone(), told.clone());
    let columns = [
        Column::new("id"),
        "free".into(),
        "bounded".into(),
        "truth".into(),
        Column::new("name").case_insensitive(),
    ];
    outbox.install(&Watches::new().with(watch("t").group("t", columns))).await.unwrap();
    for (id, free, truth) in [(i64::MIN, "", true), (0, "É𝄞 ,-'\"\0x", false), (i64::MAX, "null", true)] {
        let before = told.recorded().len();
        sqlx::query("INSERT INTO t VALUES (?, ?, NULL, ?, 'ÀB')")
            .bind(id)
            .bind(free)
            .bind(truth)
            .execute(&file.pool)
            .await
            .unwrap();
        outbox.flush_all().await.unwrap();
        let group = groupcache_core::Group::new("t").with("id", id).with("free", free).with("truth", truth);
        let group = group.with_null("bounded").with("name", "àb");
        assert_eq!(told.recorded()[before..], [group.into()]);
    }
}

#[tokio::test]
async fn rows_of_the_model_and_of_the_file_have_the_same_groups() {
    let shop = Shop::open(SqliteJournalMode::Wal).await;
    shop.file.run("INSERT INTO books (id, author_id) VALUES (-7, 8)").await;
    let rust = groups_of(&Book { id: -7, author_id: 8 }).unwrap();
    assert_eq!(shop.delivered().await, names(&[rust]));
}

#[tokio::test]
async fn an_update_that_changes_nothing_that_is_shown_invalidates_nothing() {
    let shop = Shop::open(SqliteJournalMode::Wal).await;
    shop.file.run("ALTER TABLE books ADD COLUMN views INTEGER DEFAULT 0").await;
    let books = watch("books").group("book", ["id"]).shows(["title"]);
    shop.outbox.install(&Watches::new().with(books)).await.unwrap();
    shop.file.run("UPDATE books SET views = views + 1, title = title").await;
    assert_eq!(shop.delivered().await, expected(""));
    shop.file.run("UPDATE books SET title = CASE id WHEN 1 THEN 'x' ELSE title END").await;
    assert_eq!(shop.delivered().await, expected("book id=1").split_off(1));
    // The installation of all watches is another one.
    assert!(shop.outbox.check(&watches()).await.is_err());
}

#[tokio::test]
async fn rows_that_agree_by_the_collation_of_an_index_or_in_their_number_are_seen_when_replaced() {
    let file = File::create(SqliteJournalMode::Wal).await;
    file.run(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
         CREATE UNIQUE INDEX users_name ON users (name COLLATE NOCASE);
         CREATE TABLE logs (rowid TEXT, line INTEGER);
         INSERT INTO users VALUES (1, 'ABC'); INSERT INTO logs VALUES ('same', 1), ('same', 2)",
    )
    .await;
    let told = groupcache_core::RecordingInvalidator::default();
    let outbox = SqliteOutbox::new(file.pool.clone(), told.clone());
    let watches =
        Watches::new().with(watch("users").group("user", ["id"])).with(watch("logs").group("line", ["line"]));
    outbox.install(&watches).await.unwrap();
    for (statement, groups) in [
        ("REPLACE INTO users VALUES (2, 'abc')", vec!["user{id=1}", "user{id=2}"]),
        ("REPLACE INTO logs (_rowid_, line) VALUES (1, 3)", vec!["line{line=1}", "line{line=3}"]),
        ("UPDATE OR REPLACE logs SET oid = 1 WHERE line = 2", vec!["line{line=2}", "line{line=3}"]),
    ] {
        let before = told.recorded().len();
        file.run(statement).await;
        outbox.flush_all().await.unwrap();
        assert_eq!(names(&told.recorded()[before..]), groups, "{statement}");
    }
}
