//! Installing, checking and removing triggers.

use groupcache_core::{ErrorKind, RecordingInvalidator};
use groupcache_sqlx::{Column, SqliteOutbox, Watch, Watches, watch};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};

use crate::support::{Book, File, Shop, TABLES, names, watches};

async fn objects(file: &File) -> Vec<(String, Option<String>)> {
    let query = "SELECT name, sql FROM sqlite_schema WHERE name <> 'sqlite_sequence' ORDER BY name";
    sqlx::query_as(query).fetch_all(&file.pool).await.unwrap()
}

#[tokio::test]
async fn installing_again_changes_nothing_and_uninstalling_leaves_nothing() {
    let file = File::create(SqliteJournalMode::Wal).await;
    file.run(TABLES).await;
    let before = objects(&file).await;
    let outbox = SqliteOutbox::new(file.pool.clone(), RecordingInvalidator::default());
    outbox.uninstall().await.unwrap();
    assert!(outbox.check(&watches()).await.unwrap_err().to_string().contains("nothing is installed"));
    outbox.install(&watches()).await.unwrap();
    let installed = objects(&file).await;
    outbox.install(&watches()).await.unwrap();
    outbox.install(&Watches::new().with(Watch::<Book>::table("books"))).await.unwrap();
    assert!(outbox.check(&watches()).await.is_err());
    outbox.install(&watches()).await.unwrap();
    assert_eq!(objects(&file).await, installed);
    outbox.check(&watches()).await.unwrap();
    file.run("DROP TRIGGER \"groupcache on books delete\"").await;
    let error = outbox.check(&watches()).await.unwrap_err().to_string();
    assert!(error.contains("the trigger `groupcache on books delete` is missing"), "{error}");
    outbox.uninstall().await.unwrap();
    assert_eq!(objects(&file).await, before);

    let sql = outbox.sql(&watches()).await.unwrap();
    file.run(&format!("BEGIN; {sql} COMMIT")).await;
    outbox.check(&watches()).await.unwrap();
    assert_eq!(objects(&file).await, installed);
}

#[tokio::test]
async fn what_does_not_fit_is_named_and_nothing_is_half_installed() {
    let file = File::create(SqliteJournalMode::Wal).await;
    file.run(TABLES).await;
    file.run("CREATE VIEW shelf AS SELECT * FROM books; CREATE TABLE odd (id INTEGER, price REAL, data BLOB, day DATE, name TEXT COLLATE NOCASE)").await;
    let before = objects(&file).await;
    let outbox = SqliteOutbox::new(file.pool.clone(), RecordingInvalidator::default());
    for (wrong, message) in [
        (watch("no\"table").group("g", ["id"]), "table `no\"table` does not exist"),
        (watch("odd").in_schema("main").group("g", ["id"]), "declared with a schema"),
        (watch("shelf").group("g", ["id"]), "`shelf` is a view"),
        (
            watch("odd").group("g", ["size"]),
            "table `odd` has no column `size`; it has: id, price, data, day, name",
        ),
        (watch("odd").group("g", ["id"]).shows(["size"]), "has no column `size`"),
        (watch("odd").group("g", ["price"]), "column `price` of table `odd`, a REAL, has no canonical text"),
        (watch("odd").group("g", ["data"]), "a BLOB, has no canonical text"),
        (watch("odd").group("g", ["day"]), "a DATE, has no canonical text"),
        (watch("odd").group("g", ["name"]), "is compared without case"),
        (watch("odd").group("g", [Column::new("id").case_insensitive()]), "is no text"),
        (watch("odd").group("g", [Column::new("id").elements()]), "neither TEXT nor JSON"),
        (watch("odd"), "is watched for no group"),
    ] {
        let error = outbox
            .install(&Watches::new().with(Watch::<Book>::table("books")).with(wrong))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        assert!(error.to_string().contains(message), "{message}: {error}");
        assert_eq!(objects(&file).await, before, "{message}");
    }
}

#[tokio::test]
async fn a_file_that_can_only_be_read_is_refused() {
    let file = File::create(SqliteJournalMode::Delete).await;
    file.run(TABLES).await;
    let options = SqliteConnectOptions::new().filename(&file.path).read_only(true);
    let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
    let error =
        SqliteOutbox::new(pool, RecordingInvalidator::default()).install(&watches()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

#[tokio::test]
async fn a_file_of_a_later_release_is_left_alone() {
    let shop = Shop::open(SqliteJournalMode::Wal).await;
    shop.file.run("UPDATE groupcache_installation SET version = 99").await;
    for error in [
        shop.outbox.install(&watches()).await.unwrap_err(),
        shop.outbox.check(&watches()).await.unwrap_err(),
        shop.outbox.uninstall().await.unwrap_err(),
        shop.outbox.relay().run(std::future::pending()).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("version 99"), "{error}");
    }
}

#[tokio::test]
async fn names_with_quotes_work() {
    let file = File::create(SqliteJournalMode::Delete).await;
    file.run("CREATE TABLE \"we\"\"ird 'x'\" (\"i'd\" INTEGER PRIMARY KEY, \"b \"\"c\" TEXT UNIQUE)").await;
    let told = RecordingInvalidator::default();
    let outbox = SqliteOutbox::new(file.pool.clone(), told.clone());
    let weird = watch("we\"ird 'x'").group("it's", ["i'd"]).group("b", [Column::new("b \"c").field("f")]);
    let weird = Watches::new().with(weird);
    outbox.install(&weird).await.unwrap();
    outbox.check(&weird).await.unwrap();
    file.run("INSERT INTO \"we\"\"ird 'x'\" VALUES (1, 'x'); REPLACE INTO \"we\"\"ird 'x'\" VALUES (2, 'x')")
        .await;
    outbox.flush_all().await.unwrap();
    assert_eq!(names(&told.recorded()), ["b{f=x}", "it's{i'd=1}", "it's{i'd=2}"]);
}

#[tokio::test]
async fn a_column_that_ignores_case_is_found_however_it_is_declared() {
    let file = File::create(SqliteJournalMode::Wal).await;
    file.run(
        "CREATE TABLE odd (id INTEGER, kind TEXT CHECK (kind IN ('x', 'y')) COLLATE NOCASE, -- a comment
         tail TEXT COLLATE RTRIM, word TEXT COLLATE NOCASE DEFAULT 'binary', plain TEXT DEFAULT 'collate')",
    )
    .await;
    let outbox = SqliteOutbox::new(file.pool.clone(), RecordingInvalidator::default());
    for (table, column) in [("odd", "kind"), ("odd", "tail"), ("odd", "word"), ("ODD", "WORD")] {
        let error =
            outbox.install(&Watches::new().with(watch(table).group("g", [column]))).await.unwrap_err();
        assert!(error.to_string().contains("is compared without case or padding"), "{column}: {error}");
    }
    outbox.install(&Watches::new().with(watch("odd").group("g", ["plain"]))).await.unwrap();
    let twice = Watches::new().with(watch("odd").group("g", ["id"])).with(watch("ODD").group("h", ["id"]));
    let error = outbox.install(&twice).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("declared twice"), "{error}");
}
