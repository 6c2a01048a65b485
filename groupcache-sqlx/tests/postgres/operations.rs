//! What happens to a database in operation: altered tables, killed connections, large changes, roles, settings.

use std::time::Duration;

use groupcache_core::{Cache, ErrorKind, Group, RecordingInvalidator};
use groupcache_memory::MemoryBackend;
use groupcache_sqlx::{CommitError, PgOutbox, Watches, watch};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection};

use crate::relay::Running;
use crate::server::Database;
use crate::support::{Shop, eventually, names, watches};

const BOOK_1: [&str; 3] = ["book", "book{author_id=1}", "book{id=1}"];

#[tokio::test]
async fn a_write_fails_if_a_grouped_column_is_gone_until_the_declaration_follows() {
    let Some(shop) = Shop::open().await else { return };
    for (alter, message) in [
        ("ALTER TABLE favorites RENAME COLUMN user_id TO reader_id", "user_id"),
        ("ALTER TABLE favorites DROP COLUMN book_id", "book_id"),
    ] {
        shop.database.run(alter).await;
        // A stale page would be worse.
        let error = shop.database.try_run("DELETE FROM favorites").await.unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        let error = shop.outbox.check(&watches()).await.unwrap_err().to_string();
        assert!(error.contains(&format!("has no column `{message}`")), "{error}");
        let error = shop.outbox.install(&watches()).await.unwrap_err().to_string();
        assert!(error.contains(&format!("has no column `{message}`")), "{error}");
        let other = if message == "user_id" { "book_id" } else { "reader_id" };
        let new = Watches::new().with(watch("favorites").group("favorite", [other]));
        if message == "user_id" {
            let both = watch("favorites").group("book", ["book_id"]).group("user", ["reader_id"]);
            shop.outbox.install(&Watches::new().with(both)).await.unwrap();
            shop.database.run("INSERT INTO favorites VALUES (7, 7)").await;
            assert_eq!(shop.delivered().await, ["book{book_id=7}", "user{reader_id=7}"]);
        } else {
            shop.outbox.install(&new).await.unwrap();
            shop.database.run("DELETE FROM favorites WHERE reader_id = 7").await;
            assert_eq!(shop.delivered().await, ["favorite{reader_id=7}"]);
        }
    }
}

#[tokio::test]
async fn a_renamed_table_is_still_watched() {
    let Some(shop) = Shop::open().await else { return };
    shop.database
        .run("ALTER TABLE books RENAME TO volumes; UPDATE volumes SET title = 'x' WHERE id = 1")
        .await;
    assert_eq!(shop.delivered().await, BOOK_1);
    shop.database.run("TRUNCATE volumes").await;
    assert!(shop.delivered().await.contains(&"book{id=8}".to_owned()));
    let error = shop.outbox.check(&watches()).await.unwrap_err().to_string();
    assert!(error.contains("table `books` does not exist"), "{error}");
}

#[tokio::test]
async fn a_table_that_is_declared_by_two_names_is_refused() {
    let Some(shop) = Shop::open().await else { return };
    shop.database
        .run(
            "CREATE TABLE parted (id int) PARTITION BY LIST (id);
             CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1)",
        )
        .await;
    let books = || watch("books").group("book", ["id"]);
    for (two, name) in [
        (Watches::new().with(books()).with(books().in_schema("public")), "table books is declared twice"),
        (
            Watches::new()
                .with(watch("parted").group("p", ["id"]))
                .with(watch("parted_1").group("p", ["id"])),
            "table parted_1 is declared twice",
        ),
        (
            Watches::new().with(watch("outbox").in_schema("groupcache").group("o", ["name"])),
            "`groupcache.outbox` belongs to groupcache itself",
        ),
    ] {
        let error = shop.outbox.install(&two).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(name), "{error}");
    }
    shop.outbox.check(&watches()).await.unwrap();
}

#[tokio::test]
async fn a_hundred_thousand_rows_are_delivered() {
    let Some(shop) = Shop::open().await else { return };
    shop.database.run("INSERT INTO books SELECT n, 1 FROM generate_series(1000, 100999) AS n").await;
    shop.outbox.flush_all().await.unwrap();
    let largest = shop.told.recorded().iter().map(|groups| groups.len()).max();
    assert!(largest <= Some(1000), "{largest:?} groups at once");

    let before = shop.told.recorded().len();
    let mut transaction = shop.outbox.begin().await.unwrap();
    let update = "UPDATE books SET title = 'x' WHERE id >= 1000";
    sqlx::query(update).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let told = names(&shop.told.recorded()[before..]);
    assert_eq!(told.len(), 100_002, "each row, its author, and all rows");
    eventually("nothing is left", async || shop.outbox.backlog().await.unwrap().rows == 0).await;
}

#[tokio::test]
async fn a_transaction_whose_connection_is_killed_is_not_committed() {
    let Some(shop) = Shop::open().await else { return };
    let mut transaction = shop.outbox.begin().await.unwrap();
    sqlx::query("UPDATE books SET title = 'x' WHERE id = 1").execute(&mut *transaction).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *transaction).await.unwrap();
    shop.database.run(&format!("SELECT pg_terminate_backend({pid}, 5000)")).await;
    let error = transaction.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::NotCommitted(_)), "{error:?}");
    assert_eq!(shop.delivered().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_transaction_that_a_statement_has_ended_reports_it_and_the_relay_delivers() {
    let Some(shop) = Shop::open().await else { return };
    for (end, delivered) in [("COMMIT", &BOOK_1[..]), ("ROLLBACK", &[])] {
        let mut transaction = shop.outbox.begin().await.unwrap();
        sqlx::query("UPDATE books SET title = 'x' WHERE id = 1").execute(&mut *transaction).await.unwrap();
        sqlx::raw_sql(end).execute(&mut *transaction).await.unwrap();
        let error = transaction.commit().await.unwrap_err();
        assert!(
            matches!(&error, CommitError::NotCommitted(sqlx::Error::Protocol(text)) if text.contains("ended")),
            "{error:?}"
        );
        assert_eq!(shop.delivered().await, delivered);
    }
}

#[tokio::test]
async fn a_writer_can_neither_redirect_nor_hold_back_its_changes() {
    let Some(shop) = Shop::open().await else { return };
    shop.database
        .run(
            "DROP ROLE IF EXISTS mallory; CREATE ROLE mallory LOGIN; GRANT INSERT, UPDATE, SELECT ON books TO mallory;
             CREATE SCHEMA AUTHORIZATION mallory",
        )
        .await;
    let options = shop.database.options.clone().username("mallory");
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let run = async |sql: &'static str| sqlx::raw_sql(sql).execute(&pool).await.map(drop);
    run("CREATE TABLE mallory.outbox (xid xid8, id bigint, name text, fields text[], texts text[], folded text[]);
         CREATE TABLE mallory.books (id bigint);
         CREATE TEMP TABLE outbox (name text, fields text[], texts text[], folded text[]);
         CREATE FUNCTION mallory.to_char(timestamp, text) RETURNS text LANGUAGE sql AS 'SELECT ''x''';
         CREATE FUNCTION mallory.current_setting(text, boolean) RETURNS text LANGUAGE sql AS 'SELECT ''x''';
         SET search_path = mallory, pg_temp, pg_catalog, public; SET groupcache.hold = '100 years'")
    .await
    .unwrap();
    // Its own table of the same name concerns nobody.
    run("INSERT INTO books VALUES (1)").await.unwrap();
    let running = Running::spawn(shop.outbox.relay().poll_interval(Duration::from_millis(20)));
    run("UPDATE public.books SET title = 'x' WHERE id = 1").await.unwrap();
    let held = "SELECT coalesce(max(held_until) <= clock_timestamp() + interval '10 seconds', true) FROM groupcache.outbox";
    let within: bool = sqlx::query_scalar(held).fetch_one(&shop.database.pool).await.unwrap();
    assert!(within);
    assert_eq!(shop.delivered().await, BOOK_1);
    running.stop().await;
    for denied in ["SELECT * FROM groupcache.outbox", "DELETE FROM groupcache.outbox"] {
        assert!(run(denied).await.unwrap_err().to_string().contains("permission denied"), "{denied}");
    }
}

#[tokio::test]
async fn savepoints_nested_and_reused_count_as_they_end() {
    let Some(shop) = Shop::open().await else { return };
    let mut transaction = shop.outbox.begin().await.unwrap();
    let mut outer = transaction.begin().await.unwrap();
    sqlx::query("UPDATE books SET title = 'x' WHERE id = 1").execute(&mut *outer).await.unwrap();
    let mut inner = outer.begin().await.unwrap();
    sqlx::query("UPDATE books SET title = 'x' WHERE id = 3").execute(&mut *inner).await.unwrap();
    inner.rollback().await.unwrap();
    let mut inner = outer.begin().await.unwrap();
    sqlx::query("UPDATE books SET title = 'x' WHERE id = 2").execute(&mut *inner).await.unwrap();
    inner.commit().await.unwrap();
    let mut failed = outer.begin().await.unwrap();
    sqlx::query("UPDATE books SET title = 'x' WHERE id = 5").execute(&mut *failed).await.unwrap();
    sqlx::query("SELECT 1 / 0").execute(&mut *failed).await.unwrap_err();
    failed.rollback().await.unwrap();
    outer.commit().await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(names(&shop.told.recorded()), ["book", "book{author_id=1}", "book{id=1}", "book{id=2}"]);
}

#[tokio::test]
async fn a_read_through_a_transaction_can_be_spawned() {
    let Some(shop) = Shop::open().await else { return };
    let cache = Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build();
    let outbox = shop.outbox.clone();
    let read = tokio::spawn(async move {
        let mut transaction = outbox.begin().await?;
        let title = async |connection: &mut PgConnection| {
            let query = sqlx::query_scalar("SELECT title FROM books WHERE id = 1");
            query.fetch_one(connection).await
        };
        let title: sqlx::Result<String> =
            transaction.get_or_load(&cache, "title", Group::new("book"), title).await;
        title
    });
    assert_eq!(read.await.unwrap().unwrap(), "");
}

#[tokio::test]
async fn rows_that_were_restored_from_another_server_are_not_delivered_again_and_again() {
    let Some(database) = Database::create().await else { return };
    database.run(crate::support::TABLES).await;
    let told = RecordingInvalidator::default();
    let outbox = PgOutbox::new(database.pool.clone(), told.clone()).fan_out(|| {});
    outbox.install(&watches()).await.unwrap();
    let running = Running::spawn(outbox.relay().poll_interval(Duration::from_millis(5)));
    outbox.flush_all().await.unwrap();
    database
        .run(
            "INSERT INTO groupcache.outbox (xid, name, fields, texts, folded)
             VALUES ('1000000000', 'restored', '{}', '{}', '{}')",
        )
        .await;
    for _ in 0..5 {
        outbox.flush_all().await.unwrap();
    }
    assert!(told.recorded().len() <= 1, "{:?}", told.recorded());
    running.stop().await;
}
