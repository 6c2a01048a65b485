//! Every kind of statement against every outcome of its transaction: exactly the right groups are invalidated.

use groupcache_sqlx::{CommitError, PgOutbox, watch};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::server::Database;
use crate::support::{Shop, TABLES, eventually, names, watches};

/// What is added to the tables of the shop.
const MORE: &str = "
CREATE TABLE events (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE events_north PARTITION OF events FOR VALUES IN ('north');
CREATE TABLE events_south (region text, id int NOT NULL, PRIMARY KEY (id, region));
ALTER TABLE events ATTACH PARTITION events_south FOR VALUES IN ('south');
CREATE TABLE ratings (book_id bigint, stars int);
CREATE FUNCTION rate() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN UPDATE books SET title = title || new.stars WHERE id = new.book_id; RETURN NULL; END';
CREATE TRIGGER rate AFTER INSERT ON ratings FOR EACH ROW EXECUTE FUNCTION rate();
CREATE TABLE orders (book_id bigint, stars int DEFAULT 0);
CREATE CONSTRAINT TRIGGER rate AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION rate();
CREATE TABLE conflict (n int);
INSERT INTO conflict VALUES (1);
";

const RESET: &str = "
TRUNCATE authors, books, favorites, events, ratings, orders;
INSERT INTO authors SELECT n FROM generate_series(1, 9) AS n;
INSERT INTO books SELECT n, (n - 1) / 2 + 1 FROM generate_series(1, 8) AS n;
INSERT INTO favorites VALUES (1, 10), (2, 10), (1, 11);
INSERT INTO events VALUES (1, 'north'), (2, 'south');
";

/// What, the statement, and the groups that it concerns. A `COPY` has its data after a line feed.
const STATEMENTS: &[(&str, &str, &str)] = &[
    ("insert", "INSERT INTO books VALUES (20, 5, 'x', '{poem}')", "book id=20 author_id=5 tag=poem"),
    ("update", "UPDATE books SET title = 'x' WHERE id = 1", "book id=1 author_id=1"),
    ("moved row", "UPDATE books SET author_id = 9 WHERE id = 1", "book id=1 author_id=1 author_id=9"),
    ("renamed row", "UPDATE books SET id = 30 WHERE id = 1", "book id=1 id=30 author_id=1"),
    ("delete", "DELETE FROM books WHERE id = 3", "book id=3 author_id=2"),
    (
        "bulk update",
        "UPDATE books SET title = 'y' WHERE id <= 3",
        "book id=1 id=2 id=3 author_id=1 author_id=2",
    ),
    ("nothing", "UPDATE books SET title = 'y' WHERE id > 100", ""),
    (
        "upsert",
        "INSERT INTO books VALUES (1, 2), (21, 6) ON CONFLICT (id) DO UPDATE SET author_id = excluded.author_id",
        "book id=1 id=21 author_id=1 author_id=2 author_id=6",
    ),
    ("upsert of nothing", "INSERT INTO books VALUES (1, 2) ON CONFLICT DO NOTHING", ""),
    (
        "merge",
        "MERGE INTO books USING (VALUES (1), (2), (22)) AS v (id) ON books.id = v.id
         WHEN MATCHED AND v.id = 1 THEN DELETE
         WHEN MATCHED THEN UPDATE SET author_id = 4
         WHEN NOT MATCHED THEN INSERT VALUES (v.id, 7)",
        "book id=1 id=2 id=22 author_id=1 author_id=4 author_id=7",
    ),
    (
        "writing query",
        "WITH gone AS (DELETE FROM books WHERE id = 1 RETURNING *) INSERT INTO books SELECT 40, 8 FROM gone",
        "book id=1 id=40 author_id=1 author_id=8",
    ),
    ("copy", "COPY books (id, author_id) FROM STDIN\n41\t5\n42\t5\n", "book id=41 id=42 author_id=5"),
    ("truncate", "TRUNCATE favorites", "book:id=1 book:id=2 user:id=10 user:id=11"),
    (
        "truncate cascade",
        "TRUNCATE authors CASCADE",
        "book id=1 id=2 id=3 id=4 id=5 id=6 id=7 id=8 author_id=1 author_id=2 author_id=3 author_id=4",
    ),
    ("join table", "DELETE FROM favorites WHERE user_id = 11", "book:id=1 user:id=11"),
    ("cascading delete", "DELETE FROM authors WHERE id = 1", "book id=1 id=2 author_id=1"),
    (
        "cascading update",
        "UPDATE authors SET id = 50 WHERE id = 2",
        "book id=3 id=4 author_id=2 author_id=50",
    ),
    ("change by a trigger", "INSERT INTO ratings VALUES (5, 4)", "book id=5 author_id=3"),
    ("change by a deferred trigger", "INSERT INTO orders VALUES (6)", "book id=6 author_id=3"),
    ("partitioned insert", "INSERT INTO events VALUES (3, 'north'), (4, 'south')", "event:id=3 event:id=4"),
    ("insert into a partition", "INSERT INTO events_south VALUES ('south', 5)", "event:id=5"),
    ("moved between partitions", "UPDATE events SET region = 'south' WHERE id = 1", "event:id=1"),
    ("moved in a partition", "UPDATE events_north SET id = 9 WHERE id = 1", "event:id=1 event:id=9"),
    ("partitioned delete", "DELETE FROM events", "event:id=1 event:id=2"),
    ("truncate of a partition", "TRUNCATE events_south", "event:id=2"),
    ("truncate of partitions", "TRUNCATE events", "event:id=1 event:id=2"),
    (
        "change as a replica",
        "SET LOCAL session_replication_role = replica; DELETE FROM books WHERE id = 3",
        "book id=3 author_id=2",
    ),
    (
        "code",
        "DO 'BEGIN FOR n IN 1..2 LOOP UPDATE books SET title = n::text WHERE id = n; END LOOP; END'",
        "book id=1 id=2 author_id=1",
    ),
];

/// What else is written where a part of a transaction is rolled back.
const OTHER: &str = "UPDATE favorites SET user_id = 12 WHERE book_id = 2";
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
    names
}

async fn open(database: Option<Database>) -> Option<Shop> {
    let database = database?;
    database.run(MORE).await;
    let shop = Shop::with(database).await?;
    shop.outbox.install(&watches().with(watch("events").group("event", ["id"]))).await.unwrap();
    Some(shop)
}

async fn reset(shop: &Shop) {
    shop.database.run(RESET).await;
    drop(shop.delivered().await);
}

async fn run(connection: &mut PgConnection, statement: &str) {
    let outcome = match statement.strip_prefix("COPY").and_then(|_| statement.split_once('\n')) {
        Some((copy, data)) => {
            let mut copy = connection.copy_in_raw(copy).await.unwrap();
            copy.send(data.as_bytes()).await.unwrap();
            copy.finish().await.map(drop)
        }
        None => sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.map(drop),
    };
    outcome.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

/// Runs every statement in a transaction that ends as `outcome` says.
async fn for_every_statement(shop: &Shop, outcome: impl AsyncFn(&Shop, &str) -> &'static str) {
    for (what, statement, groups) in STATEMENTS {
        reset(shop).await;
        let others = outcome(shop, statement).await;
        let groups = if others.contains("none") { "" } else { groups };
        let mut expected = [expected(groups), expected(others.trim_start_matches("none"))].concat();
        expected.sort();
        expected.dedup();
        assert_eq!(shop.delivered().await, expected, "{what}");
    }
}

#[tokio::test]
async fn a_commit_invalidates_exactly_the_groups_of_its_statement() {
    let Some(shop) = open(Database::create().await).await else { return };
    for_every_statement(&shop, async |shop, statement| {
        let mut transaction = shop.database.pool.begin().await.unwrap();
        run(&mut transaction, statement).await;
        transaction.commit().await.unwrap();
        ""
    })
    .await;
}

#[tokio::test]
async fn a_rollback_invalidates_nothing() {
    let Some(shop) = open(Database::create().await).await else { return };
    for_every_statement(&shop, async |shop, statement| {
        let mut transaction = shop.database.pool.begin().await.unwrap();
        run(&mut transaction, statement).await;
        transaction.rollback().await.unwrap();
        "none"
    })
    .await;
}

#[tokio::test]
async fn a_savepoint_counts_if_it_is_released_and_not_if_it_is_rolled_back() {
    let Some(shop) = open(Database::create().await).await else { return };
    for_every_statement(&shop, async |shop, statement| {
        let mut transaction = shop.database.pool.begin().await.unwrap();
        run(&mut transaction, OTHER).await;
        let mut savepoint = transaction.begin().await.unwrap();
        if statement.starts_with("TRUNCATE favorites") {
            // The rows are other ones by now.
            savepoint.rollback().await.unwrap();
            transaction.commit().await.unwrap();
            return const { "none book:id=2 user:id=10 user:id=12" };
        }
        run(&mut savepoint, statement).await;
        savepoint.commit().await.unwrap();
        transaction.commit().await.unwrap();
        OTHER_GROUPS
    })
    .await;
    for_every_statement(&shop, async |shop, statement| {
        let mut transaction = shop.database.pool.begin().await.unwrap();
        run(&mut transaction, OTHER).await;
        let mut savepoint = transaction.begin().await.unwrap();
        run(&mut savepoint, statement).await;
        savepoint.rollback().await.unwrap();
        transaction.commit().await.unwrap();
        const { "none book:id=2 user:id=10 user:id=12" }
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_fails_to_serialise_invalidates_nothing_until_it_is_retried() {
    let Some(shop) = open(Database::create().await).await else { return };
    for_every_statement(&shop, async |shop, statement| {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ";
        let mut transaction = shop.outbox.begin_with(begin).await.unwrap();
        run(&mut transaction, statement).await;
        shop.database.run("UPDATE conflict SET n = n + 1").await;
        let conflict =
            sqlx::query("UPDATE conflict SET n = n + 1").execute(&mut *transaction).await.unwrap_err();
        assert_eq!(conflict.as_database_error().and_then(|error| error.code()).as_deref(), Some("40001"));
        let failed = transaction.commit().await;
        assert!(matches!(failed, Err(CommitError::NotCommitted(_))), "{failed:?}");
        assert_eq!(shop.delivered().await, Vec::<String>::new());
        let mut transaction = shop.outbox.begin_with(begin).await.unwrap();
        run(&mut transaction, statement).await;
        transaction.rollback().await.unwrap();
        let mut transaction = shop.database.pool.begin_with(begin).await.unwrap();
        run(&mut transaction, statement).await;
        transaction.commit().await.unwrap();
        ""
    })
    .await;
}

#[tokio::test]
async fn a_prepared_transaction_invalidates_when_it_is_committed() {
    let Some(shop) = open(Database::create_with_two_phase_commit().await).await else { return };
    for (end, others) in [("COMMIT PREPARED 'p'", ""), ("ROLLBACK PREPARED 'p'", "none")] {
        for_every_statement(&shop, async |shop, statement| {
            let mut connection = shop.database.pool.acquire().await.unwrap();
            run(&mut connection, "BEGIN").await;
            run(&mut connection, statement).await;
            run(&mut connection, "PREPARE TRANSACTION 'p'").await;
            assert_eq!(shop.delivered().await, Vec::<String>::new());
            run(&mut connection, end).await;
            others
        })
        .await;
    }
}

#[tokio::test]
async fn a_cache_transaction_has_invalidated_exactly_its_groups_when_its_commit_returns() {
    let Some(shop) = open(Database::create().await).await else { return };
    for (what, statement, groups) in STATEMENTS {
        reset(&shop).await;
        // Somebody else's change, which nobody has delivered yet.
        shop.database.run("INSERT INTO books VALUES (90, 9)").await;
        let before = shop.told.recorded().len();
        let mut transaction = shop.outbox.begin().await.unwrap();
        run(&mut transaction, statement).await;
        transaction.commit().await.unwrap();
        assert_eq!(shop.told.recorded().len() - before, usize::from(!groups.is_empty()), "{what}");
        let mut names = names(&shop.told.recorded()[before..]);
        // The rows of a truncated table are whatever is there.
        names.retain(|name| {
            !statement.starts_with("TRUNCATE") || (name != "book{id=90}" && name != "book{author_id=9}")
        });
        assert_eq!(names, expected(groups), "{what}");
        eventually("its changes are removed", async || shop.outbox.backlog().await.unwrap().rows <= 3).await;
        assert_eq!(shop.delivered().await, expected("book id=90 author_id=9"), "{what}");
    }
}

#[tokio::test]
async fn an_update_that_changes_nothing_that_is_shown_invalidates_nothing() {
    let Some(database) = Database::create().await else { return };
    database.run(TABLES).await;
    database.run("ALTER TABLE books ADD COLUMN views json, ADD COLUMN price float8 DEFAULT 0").await;
    let told = groupcache_core::RecordingInvalidator::default();
    let outbox = PgOutbox::new(database.pool.clone(), told.clone());
    let books = watch("books").group("book", ["id"]).group("author", ["author_id"]).shows(["title", "price"]);
    let tags =
        watch("books").group("tag", [groupcache_sqlx::Column::new("tags").elements()]).shows::<&str>([]);
    outbox.install(&groupcache_sqlx::Watches::new().with(books).with(tags)).await.unwrap();
    for (update, groups) in [
        ("SET views = '{}' WHERE id = 1", ""),
        ("SET title = title, id = id, views = '[]'", ""),
        ("SET title = CASE id WHEN 1 THEN 'new' ELSE title END", "book:id=1 author:author_id=1"),
        ("SET author_id = 9 WHERE id = 1", "book:id=1 author:author_id=1 author:author_id=9"),
        ("SET price = '-0' WHERE id = 3", "book:id=3 author:author_id=2"),
        ("SET tags = '{a}' WHERE id = 3", "tags:tags=a"),
        ("SET tags = '{a,b}' WHERE id = 3", "tags:tags=a tags:tags=b"),
        // Each has the id of the other: what is shown of both has changed.
        (
            "SET title = 'x' || (9 - id), id = 9 - id WHERE id IN (4, 5)",
            "book:id=4 book:id=5 author:author_id=2 author:author_id=3",
        ),
    ] {
        let before = told.recorded().len();
        database.run("ALTER TABLE books DROP CONSTRAINT IF EXISTS books_pkey").await;
        database.run(&format!("UPDATE books {update}")).await;
        outbox.flush_all().await.unwrap();
        let groups = groups.replace("tags:tags", "tag:tags");
        assert_eq!(names(&told.recorded()[before..]), expected(&groups), "{update}");
    }
}
