//! Tables and sessions that are out of the ordinary.

use groupcache_core::{ArgumentText, ErrorKind, Model, RecordingInvalidator};
use groupcache_sqlx::{Column, PgOutbox, Watch, Watches, watch};
use serde::{Deserialize, Serialize};

use crate::server::Database;
use crate::support::names;

/// A database with these tables and watches, and what was told after these statements.
async fn told(tables: &str, watches: Watches, statements: &str) -> Option<Vec<String>> {
    let database = Database::create().await?;
    database.run(tables).await;
    let told = RecordingInvalidator::default();
    let outbox = PgOutbox::new(database.pool.clone(), told.clone());
    outbox.install(&watches).await.unwrap();
    outbox.check(&watches).await.unwrap();
    database.run(statements).await;
    outbox.flush_all().await.unwrap();
    Some(names(&told.recorded()))
}

#[tokio::test]
async fn settings_of_a_session_hide_no_change_of_a_shown_column() {
    let Some(told) = told(
        "CREATE TABLE sensors (id int PRIMARY KEY, value float8); INSERT INTO sensors VALUES (1, 1.2345678)",
        Watches::new().with(watch("sensors").group("sensor", ["id"]).shows(["value"])),
        "BEGIN; SET LOCAL extra_float_digits = -15; UPDATE sensors SET value = 1.2345679; COMMIT",
    )
    .await
    else {
        return;
    };
    assert_eq!(told, ["sensor{id=1}"]);
}

#[tokio::test]
async fn a_column_may_have_any_name() {
    let Some(told) = told(
        "CREATE TABLE odd (t0 int, e0 int, wrote int, changed int, name text, tags text[]);
         INSERT INTO odd VALUES (1, 2, 3, 4, 'a', '{x}')",
        Watches::new().with(
            watch("odd")
                .group("odd", ["t0", "e0", "wrote", "changed"])
                .group("tag", [Column::new("tags").field("name").elements()])
                .shows(["name"]),
        ),
        "UPDATE odd SET name = 'b'",
    )
    .await
    else {
        return;
    };
    assert_eq!(told, ["odd{changed=4,e0=2,t0=1,wrote=3}", "tag{name=x}"]);
}

#[tokio::test]
async fn a_table_with_a_dot_in_its_name_is_no_table_of_another_schema() {
    let Some(told) = told(
        "CREATE SCHEMA a; CREATE TABLE a.b (id int); CREATE TABLE \"a.b\" (id int)",
        Watches::new()
            .with(watch("a.b").group("plain", ["id"]))
            .with(watch("b").in_schema("a").group("other", ["id"])),
        "INSERT INTO a.b VALUES (1); INSERT INTO \"a.b\" VALUES (2)",
    )
    .await
    else {
        return;
    };
    assert_eq!(told, ["other{id=1}", "plain{id=2}"]);
}

#[tokio::test]
async fn domains_over_every_kind_of_type_have_a_text() {
    let Some(told) = told(
        "CREATE TYPE mood AS ENUM ('sad', 'glad');
         CREATE DOMAIN of_enum AS mood; CREATE DOMAIN of_text AS text; CREATE DOMAIN of_domain AS of_text;
         CREATE DOMAIN of_array AS text[]; CREATE DOMAIN of_padded AS char(3);
         CREATE TABLE domains (e of_enum, t of_domain, a of_array, d of_text[], p of_padded, m of_enum[])",
        Watches::new().with(
            watch("domains")
                .group("e", ["e"])
                .group("t", ["t"])
                .group("p", ["p"])
                .group("a", [Column::new("a").elements()])
                .group("d", [Column::new("d").elements()])
                .group("m", [Column::new("m").elements()]),
        ),
        "INSERT INTO domains VALUES ('glad', 'x', '{y}', '{z}', 'w', '{sad}')",
    )
    .await
    else {
        return;
    };
    assert_eq!(told, ["a{a=y}", "d{d=z}", "e{e=glad}", "m{m=sad}", "p{p=w  }", "t{t=x}"]);
}

#[tokio::test]
async fn policies_hide_no_row_that_a_truncate_removes() {
    let Some(database) = Database::create().await else { return };
    database
        .run(
            "DROP ROLE IF EXISTS landlord; CREATE ROLE landlord LOGIN;
             GRANT ALL ON SCHEMA public TO landlord;",
        )
        .await;
    let name: String =
        sqlx::query_scalar("SELECT current_database()::text").fetch_one(&database.pool).await.unwrap();
    database.run(&format!("GRANT CREATE ON DATABASE {name} TO landlord")).await;
    let options = database.options.clone().username("landlord");
    let pool = sqlx::postgres::PgPoolOptions::new().connect_with(options).await.unwrap();
    let run = async |sql: &'static str| sqlx::raw_sql(sql).execute(&pool).await.map(drop);
    run("CREATE TABLE flats (id int); INSERT INTO flats VALUES (1), (2);
         ALTER TABLE flats ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE POLICY first_flat ON flats USING (id = 1)")
    .await
    .unwrap();
    let told = RecordingInvalidator::default();
    let outbox = PgOutbox::new(pool.clone(), told.clone());
    outbox.install(&Watches::new().with(watch("flats").group("flat", ["id"]))).await.unwrap();
    // Whoever may truncate, the triggers run as their owner.
    let outcome = sqlx::raw_sql("TRUNCATE flats").execute(&database.pool).await;
    outbox.flush_all().await.unwrap();
    let told = names(&told.recorded());
    assert!(outcome.is_err() || told == ["flat{id=1}", "flat{id=2}"], "{outcome:?}: {told:?}");
}

#[derive(Serialize, Deserialize)]
struct Reader {
    name: String,
}

impl Model for Reader {
    const NAME: &'static str = "reader";
    const GROUPS: &'static [&'static [&'static str]] = &[&["name"]];

    // Leaves É as it is, which the relay folds.
    fn argument(_: &str, text: &str) -> ArgumentText {
        ArgumentText::Is(text.to_ascii_lowercase())
    }
}

#[tokio::test]
async fn a_model_that_folds_less_than_the_relay_is_refused() {
    let Some(database) = Database::create().await else { return };
    database.run("CREATE TABLE readers (name text)").await;
    let outbox = PgOutbox::new(database.pool.clone(), RecordingInvalidator::default());
    let error = outbox.install(&Watches::new().with(Watch::<Reader>::table("readers"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("folds the case of the field `name`"), "{error}");
}

#[tokio::test]
async fn a_database_whose_texts_may_be_no_unicode_is_refused() {
    let Some(database) = Database::create().await else { return };
    database.run("DROP DATABASE IF EXISTS bytes").await;
    database.run("CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0").await;
    let options = database.options.clone().database("bytes");
    let pool = sqlx::postgres::PgPoolOptions::new().connect_with(options).await.unwrap();
    sqlx::raw_sql("CREATE TABLE words (word text)").execute(&pool).await.unwrap();
    let outbox = PgOutbox::new(pool, RecordingInvalidator::default());
    let watches = Watches::new().with(watch("words").group("word", ["word"]));
    let error = outbox.install(&watches).await.unwrap_err();
    assert!(error.to_string().contains("SQL_ASCII"), "{error}");
}
