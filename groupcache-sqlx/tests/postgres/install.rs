//! Installing, checking and removing triggers.

use groupcache_core::{ErrorKind, RecordingInvalidator};
use groupcache_sqlx::{Column, PgOutbox, Watch, Watches, watch};
use sqlx::postgres::PgPoolOptions;

use crate::server::Database;
use crate::support::{Book, Shop, TABLES, names, watches};

/// Everything that is not in the tables of the application.
async fn objects(database: &Database) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT nspname::text FROM pg_namespace WHERE nspname NOT LIKE 'pg%' AND nspname <> 'information_schema'
         UNION ALL SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal
         UNION ALL SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace::regnamespace::text NOT IN
             ('pg_catalog', 'information_schema')
         UNION ALL SELECT oid::regclass::text FROM pg_class WHERE relnamespace::regnamespace::text NOT IN
             ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn installing_again_changes_and_locks_nothing_and_uninstalling_leaves_nothing() {
    let Some(database) = Database::create().await else { return };
    database.run(TABLES).await;
    let before = objects(&database).await;
    let outbox =
        PgOutbox::new(database.pool.clone(), RecordingInvalidator::default()).schema("in\"valid ation");
    outbox.uninstall().await.unwrap();
    outbox.install(&watches()).await.unwrap();
    let installed = objects(&database).await;
    outbox.check(&watches()).await.unwrap();

    // A reader holds a lock that a `CREATE TRIGGER` waits for.
    let mut reader = database.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE books IN ROW EXCLUSIVE MODE").execute(&mut *reader).await.unwrap();
    outbox.install(&watches()).await.unwrap();
    reader.rollback().await.unwrap();
    assert_eq!(objects(&database).await, installed);

    // Even a change of the declaration keeps what is the same.
    outbox.install(&Watches::new().with(Watch::<Book>::table("books"))).await.unwrap();
    outbox.install(&watches()).await.unwrap();
    assert_eq!(objects(&database).await, installed);
    outbox.uninstall().await.unwrap();
    assert_eq!(objects(&database).await, before);
}

#[tokio::test]
async fn many_processes_install_at_once() {
    let Some(database) = Database::create().await else { return };
    database.run(TABLES).await;
    let outbox = PgOutbox::new(database.pool.clone(), RecordingInvalidator::default());
    let installs = (0..8).map(|_| {
        let outbox = outbox.clone();
        tokio::spawn(async move { outbox.install(&watches()).await })
    });
    for install in installs.collect::<Vec<_>>() {
        install.await.unwrap().unwrap();
    }
    outbox.check(&watches()).await.unwrap();
}

#[tokio::test]
async fn the_text_for_a_migration_installs_the_same() {
    let Some(database) = Database::create().await else { return };
    database.run(TABLES).await;
    let outbox = PgOutbox::new(database.pool.clone(), RecordingInvalidator::default());
    database.run(&format!("BEGIN; {} COMMIT", outbox.sql(&watches()).unwrap())).await;
    outbox.check(&watches()).await.unwrap();
}

#[tokio::test]
async fn check_names_every_difference() {
    let Some(shop) = Shop::open().await else { return };
    shop.database.run("CREATE TABLE parted (id int) PARTITION BY LIST (id)").await;
    let parted = watches().with(watch("parted").group("parted", ["id"]));
    shop.outbox.install(&parted).await.unwrap();
    shop.database
        .run(
            "DROP TRIGGER groupcache_update ON books; ALTER TABLE books DISABLE TRIGGER groupcache_delete;
             CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
             ALTER TABLE favorites RENAME COLUMN user_id TO reader_id",
        )
        .await;
    let declared = parted.with(watch("authors").group("author", ["id"]));
    let error = shop.outbox.check(&declared).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let error = error.to_string();
    for difference in [
        "trigger `groupcache_update` on books is missing",
        "trigger `groupcache_delete` on books is missing or disabled",
        "trigger `groupcache_insert` on parted_1 is missing",
        "table favorites has no column `user_id`; it has: book_id, reader_id",
        "table `authors` is not watched",
    ] {
        assert!(error.contains(difference), "{difference}: {error}");
    }
    let fewer = Watches::new().with(Watch::<Book>::table("books"));
    let error = shop.outbox.check(&fewer).await.unwrap_err().to_string();
    assert!(error.contains("table `books` is watched for other groups"), "{error}");
    assert!(error.contains("table favorites is watched but not declared"), "{error}");

    shop.database.run("ALTER TABLE favorites RENAME COLUMN reader_id TO user_id").await;
    shop.outbox.install(&declared).await.unwrap();
    shop.outbox.check(&declared).await.unwrap();
    // What is declared no longer is removed.
    shop.outbox.install(&fewer).await.unwrap();
    shop.outbox.check(&fewer).await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_is_named_and_nothing_is_half_installed() {
    let Some(database) = Database::create().await else { return };
    database.run(TABLES).await;
    database
        .run(
            "CREATE VIEW shelf AS SELECT * FROM books;
             CREATE TABLE odd (id int, price float8, data jsonb, exact numeric, tags text[], padded bpchar)",
        )
        .await;
    let before = objects(&database).await;
    let outbox = PgOutbox::new(database.pool.clone(), RecordingInvalidator::default());
    let good = || Watches::new().with(Watch::<Book>::table("books"));
    for (wrong, message) in [
        (watch("shop.books").group("g", ["id"]), "table `\"shop.books\"` does not exist"),
        (watch("books").in_schema("shop").group("g", ["id"]), "table `shop.books` does not exist"),
        (watch("we\"ird").group("g", ["id"]), "table `\"we\"\"ird\"` does not exist"),
        (watch("shelf").group("g", ["id"]), "`shelf` is no table"),
        (watch("odd").group("g", ["size"]), "table odd has no column `size`; it has: id, price"),
        (watch("odd").group("g", ["id\"; DROP TABLE odd; --"]), "has no column `id\"; DROP TABLE odd; --`"),
        (watch("odd").group("g", ["id"]).shows(["size"]), "table odd has no column `size`"),
        (
            watch("odd").group("g", ["price"]),
            "column `price` of table odd, a double precision, has no canonical text",
        ),
        (watch("odd").group("g", ["data"]), "`data` of table odd, a jsonb, has no canonical text"),
        (watch("odd").group("g", ["exact"]), "give it a scale"),
        (watch("odd").group("g", ["padded"]), "give it a length"),
        (watch("odd").group("g", ["tags"]), "declare it with `elements`"),
        (watch("odd").group("g", [Column::new("id").elements()]), "is no array"),
        (watch("odd").group("g", [Column::new("id").case_insensitive()]), "is no text"),
        (watch("odd").group("g", ["id", "id"]), "the field `id` twice"),
        (watch("odd").group("g", [""]), "a name in the watch of table `odd` is empty"),
        (watch("odd"), "table `odd` is watched for no group"),
    ] {
        let error = outbox.install(&good().with(wrong)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        assert!(error.to_string().contains(message), "{message}: {error}");
        assert_eq!(objects(&database).await, before, "{message}");
    }
    for schema in ["", "a$b", &"x".repeat(60)] {
        let error = outbox.clone().schema(schema).install(&good()).await.unwrap_err();
        assert!(error.to_string().contains("`schema`"), "{error}");
    }
    let model = Watches::new().with(Watch::<Book>::table("books").column(Column::new("title")));
    let error = outbox.install(&model).await.unwrap_err().to_string();
    assert!(error.contains("model `book` has no group by the field `title`"), "{error}");
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let Some(database) = Database::create().await else { return };
    database.run(TABLES).await;
    database.run("DROP ROLE IF EXISTS clerk; CREATE ROLE clerk LOGIN; GRANT ALL ON books TO clerk").await;
    let pool = PgPoolOptions::new().connect_with(database.options.clone().username("clerk")).await.unwrap();
    let outbox = PgOutbox::new(pool, RecordingInvalidator::default());
    let before = objects(&database).await;
    let books = Watches::new().with(Watch::<Book>::table("books"));
    let error = outbox.install(&books).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("permission denied for database"), "{error}");
    database.run("CREATE SCHEMA groupcache AUTHORIZATION clerk").await;
    let error = outbox.install(&books).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("role `clerk` does not own table `books`"), "{error}");
    database.run("DROP SCHEMA groupcache").await;
    assert_eq!(objects(&database).await, before);
}

#[tokio::test]
async fn a_role_that_only_writes_needs_no_rights_on_the_outbox() {
    let Some(shop) = Shop::open().await else { return };
    shop.database
        .run("DROP ROLE IF EXISTS writer; CREATE ROLE writer LOGIN; GRANT ALL ON books TO writer")
        .await;
    let options = shop.database.options.clone().username("writer");
    let pool = PgPoolOptions::new().connect_with(options).await.unwrap();
    sqlx::query("UPDATE books SET title = 'x' WHERE id = 1").execute(&pool).await.unwrap();
    assert_eq!(shop.delivered().await, ["book", "book{author_id=1}", "book{id=1}"]);
}

#[tokio::test]
async fn a_schema_of_a_later_release_or_of_somebody_else_is_left_alone() {
    let Some(shop) = Shop::open().await else { return };
    shop.database.run("UPDATE groupcache.installation SET version = 99").await;
    for error in [
        shop.outbox.install(&watches()).await.unwrap_err(),
        shop.outbox.check(&watches()).await.unwrap_err(),
        shop.outbox.uninstall().await.unwrap_err(),
        shop.outbox.relay().run(std::future::pending()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("version 99"), "{error}");
    }
    shop.database.run("CREATE SCHEMA other; CREATE TABLE other.outbox (id int)").await;
    let error = shop.outbox.clone().schema("other").install(&watches()).await.unwrap_err().to_string();
    assert!(error.contains("not from groupcache"), "{error}");
}

#[tokio::test]
async fn names_with_quotes_dollars_and_percent_signs_work() {
    let Some(database) = Database::create().await else { return };
    let table = "we\"ird $groupcache_0$ {tag} 100%s 'x'";
    let quoted = table.replace('"', "\"\"");
    database
        .run(&format!("CREATE TABLE \"{quoted}\" (\"i'd\" int, \"wrote\" int, \"a {{schema}} \"\"%\" text)"))
        .await;
    let told = RecordingInvalidator::default();
    let outbox = PgOutbox::new(database.pool.clone(), told.clone());
    let columns = [Column::new("i'd"), Column::new("wrote"), Column::new("a {schema} \"%")];
    let weird = Watches::new().with(watch(table).group("it's {schema} %", columns).shows(["wrote"]));
    outbox.install(&weird).await.unwrap();
    outbox.check(&weird).await.unwrap();
    database
        .run(&format!("INSERT INTO \"{quoted}\" VALUES (1, 2, 'x'); UPDATE \"{quoted}\" SET wrote = 3"))
        .await;
    database.run(&format!("TRUNCATE \"{quoted}\"")).await;
    outbox.flush_all().await.unwrap();
    let expected =
        ["2", "3"].map(|wrote| format!("it's {{schema}} %{{a {{schema}} \"%=x,i'd=1,wrote={wrote}}}"));
    assert_eq!(names(&told.recorded()), expected);
    let long = "x".repeat(63);
    database.run(&format!("CREATE TABLE {long} (id int)")).await;
    let long = Watches::new().with(watch(&long).group("long", ["id"]));
    outbox.install(&long).await.unwrap();
    outbox.check(&long).await.unwrap();
}

#[tokio::test]
async fn functions_of_the_application_in_the_same_schema_are_left_alone() {
    let Some(database) = Database::create().await else { return };
    database.run(TABLES).await;
    database
        .run(
            "CREATE FUNCTION \"on save\"() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER save BEFORE UPDATE ON books FOR EACH ROW EXECUTE FUNCTION \"on save\"()",
        )
        .await;
    let before = objects(&database).await;
    let outbox = PgOutbox::new(database.pool.clone(), RecordingInvalidator::default()).schema("public");
    outbox.install(&watches()).await.unwrap();
    outbox.check(&watches()).await.unwrap();
    outbox.install(&Watches::new().with(watch("favorites").group("user", ["user_id"]))).await.unwrap();
    outbox.uninstall().await.unwrap();
    assert_eq!(objects(&database).await, before);
}
