//! The database's text of a value is what serde writes in Rust, for every type that groups can use.

use groupcache_core::{ArgumentText, Group, Model, groups_of};
use groupcache_sqlx::{Column, PgOutbox, Watch, Watches, fold_case, watch};
use serde::{Deserialize, Serialize};
use sqlx::types::chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use sqlx::types::{Decimal, Uuid};

use crate::server::Database;
use crate::support::names;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::Type)]
#[sqlx(type_name = "genre", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
enum Genre {
    Novel,
    Play,
}

/// One column of each type. sqlx reads it, serde writes it.
#[derive(Debug, Serialize, Deserialize, sqlx::FromRow)]
struct Row {
    key: i32,
    small: Option<i16>,
    medium: Option<i32>,
    large: Option<i64>,
    truth: Option<bool>,
    free: Option<String>,
    bounded: Option<String>,
    padded: Option<String>,
    amount: Option<Decimal>,
    uuid: Option<Uuid>,
    day: Option<NaiveDate>,
    hour: Option<NaiveTime>,
    moment: Option<NaiveDateTime>,
    instant: Option<DateTime<Utc>>,
    genre: Option<Genre>,
    domain: Option<i32>,
}

const COLUMNS: &str = "
    key integer PRIMARY KEY, small smallint, medium integer, large bigint, truth boolean, free text,
    bounded varchar(20), padded char(6), amount numeric(12, 3), uuid uuid, day date, hour time, moment timestamp,
    instant timestamptz, genre genre, domain positive";

impl Model for Row {
    const NAME: &'static str = "row";
    const GROUPS: &'static [&'static [&'static str]] = &[
        &["small"],
        &["medium"],
        &["large"],
        &["truth"],
        &["free"],
        &["bounded"],
        &["padded"],
        &["amount"],
        &["uuid"],
        &["day"],
        &["hour"],
        &["moment"],
        &["instant"],
        &["genre"],
        &["domain"],
        &["truth", "free", "day"],
    ];

    fn argument(field: &str, argument: &str) -> ArgumentText {
        match field {
            "amount" | "uuid" | "day" | "hour" | "moment" | "instant" => {
                ArgumentText::Is(argument.to_owned())
            }
            _ => ArgumentText::ByType,
        }
    }
}

/// Values of every type, the odd ones too, as SQL.
const VALUES: &[&str] = &[
    "DEFAULT, DEFAULT, DEFAULT, DEFAULT, DEFAULT, DEFAULT, DEFAULT, DEFAULT, DEFAULT, DEFAULT, DEFAULT, DEFAULT,
     DEFAULT, DEFAULT, DEFAULT",
    "-32768, -2147483648, -9223372036854775808, true, '', '', '', -0.001, '00000000-0000-0000-0000-000000000000',
     '0001-01-01', '00:00', '0001-01-01', '0001-01-01 UTC', 'novel', 1",
    "32767, 2147483647, 9223372036854775807, false, E'a''\"\\\\b\\n\\t\\x01 {},NULL', 'null', 'a  b', 999999999.999,
     'FFFFFFFF-ffff-ffff-ffff-ffffffffffff', '9999-12-31', '23:59:59.999999', '9999-12-31 23:59:59.999999',
     '9999-12-31 23:59:59.999999 UTC', 'play', 5",
    "0, 0, 0, true, 'É𝄞 ', ' ', ' x', 0, '67e55044-10b1-426f-9247-bb680e5fe0c8', '2024-02-29', '01:02:03.1',
     '2024-02-29 01:02:03.12', '2024-02-29 23:30:00.123 America/New_York', 'novel', 7",
    "1, 1, 1, true, '{\"a\": 1}', '5', '5', 10, '67e55044-10b1-426f-9247-bb680e5fe0c9', '1969-12-31', '01:02:03.0001',
     '1969-12-31 23:59:59.5', '1969-12-31 23:59:59.25+05:30', 'novel', 8",
];

#[tokio::test]
async fn the_database_and_rust_write_one_text_for_every_type() {
    let Some(database) = Database::create().await else { return };
    database.run("CREATE TYPE genre AS ENUM ('novel', 'play'); CREATE DOMAIN positive AS integer CHECK (value > 0)").await;
    database.run(&format!("CREATE TABLE rows ({COLUMNS})")).await;
    let told = groupcache_core::RecordingInvalidator::default();
    let outbox = PgOutbox::new(database.pool.clone(), told.clone());
    outbox.install(&Watches::new().with(Watch::<Row>::table("rows"))).await.unwrap();
    // What a session sets changes nothing.
    let session = "SET datestyle = 'German, DMY'; SET timezone = 'Asia/Kolkata'; SET bytea_output = 'escape';
                   SET intervalstyle = 'sql_standard'; SET lc_numeric = 'C'";
    for (key, values) in VALUES.iter().enumerate() {
        let before = told.recorded().len();
        database.run(&format!("{session}; INSERT INTO rows VALUES ({key}, {values}); RESET ALL")).await;
        let row: Row = sqlx::query_as("SELECT * FROM rows WHERE key = $1")
            .bind(i32::try_from(key).unwrap())
            .fetch_one(&database.pool)
            .await
            .unwrap();
        outbox.flush_all().await.unwrap();
        let rust = groups_of(&row).unwrap();
        assert_eq!(names(&told.recorded()[before..]), names(&[rust]), "{values}");
    }
}

#[tokio::test]
async fn the_text_is_golden() {
    let Some(database) = Database::create().await else { return };
    database.run("CREATE TABLE t (a int)").await;
    let outbox = PgOutbox::new(database.pool.clone(), groupcache_core::RecordingInvalidator::default());
    outbox.install(&Watches::new().with(watch("t").group("t", ["a"]))).await.unwrap();
    for (sql, golden) in [
        ("5::smallint", "5"),
        ("(-5)::bigint", "-5"),
        ("true", "true"),
        ("'A b'::text", "A b"),
        ("'ab'::char(4)", "ab  "),
        ("1.5::numeric(5, 2)", "1.50"),
        ("'2024-02-29'::date", "2024-02-29"),
        ("'01:02:03'::time", "01:02:03"),
        ("'01:02:03.004'::time", "01:02:03.004"),
        ("'01:02:03.000004'::time", "01:02:03.000004"),
        ("'2024-02-29 01:02:03'::timestamp", "2024-02-29T01:02:03"),
        ("'2024-02-29 01:02:03.5+01'::timestamptz", "2024-02-29T00:02:03.500Z"),
        ("'infinity'::timestamptz", "infinityZ"),
        ("'67E5504410B1426F9247BB680E5FE0C8'::uuid", "67e55044-10b1-426f-9247-bb680e5fe0c8"),
    ] {
        let query = sqlx::AssertSqlSafe(format!("SELECT groupcache.group_text({sql})"));
        let text: String = sqlx::query_scalar(query).fetch_one(&database.pool).await.unwrap();
        assert_eq!(text, golden, "{sql}");
    }
}

#[derive(Serialize, Deserialize)]
struct User {
    name: String,
}

impl Model for User {
    const NAME: &'static str = "user";
    const GROUPS: &'static [&'static [&'static str]] = &[&["name"]];

    fn argument(_: &str, argument: &str) -> ArgumentText {
        ArgumentText::Is(fold_case(argument))
    }
}

#[tokio::test]
async fn columns_that_are_compared_without_case_are_folded_in_one_place() {
    let Some(database) = Database::create().await else { return };
    database
        .run("CREATE EXTENSION citext; CREATE TABLE users (name citext); CREATE TABLE logins (name citext)")
        .await;
    let told = groupcache_core::RecordingInvalidator::default();
    let outbox = PgOutbox::new(database.pool.clone(), told.clone());
    let logins = watch("logins").group("login", [Column::new("name").case_insensitive()]);
    outbox.install(&Watches::new().with(Watch::<User>::table("users")).with(logins)).await.unwrap();
    database.run("INSERT INTO users VALUES ('ZoË'); INSERT INTO logins VALUES ('Ann'), ('ANN')").await;
    outbox.flush_all().await.unwrap();
    assert_eq!(names(&told.recorded()), ["login{name=ann}", "user", "user{name=zoë}"]);

    let plain = Watches::new().with(watch("logins").group("login", ["name"]));
    let error = outbox.install(&plain).await.unwrap_err().to_string();
    assert!(error.contains("`name`") && error.contains("case_insensitive"), "{error}");
}

#[tokio::test]
async fn elements_of_arrays_are_groups_of_their_own() {
    let Some(database) = Database::create().await else { return };
    database.run("CREATE TABLE t (id int, tags text[], ids bigint[])").await;
    let told = groupcache_core::RecordingInvalidator::default();
    let outbox = PgOutbox::new(database.pool.clone(), told.clone());
    let pairs = [Column::new("id"), Column::new("tags").field("tag").elements()];
    let table = watch("t").group("tagged", pairs).group("n", [Column::new("ids").field("id").elements()]);
    outbox.install(&Watches::new().with(table)).await.unwrap();
    database.run("INSERT INTO t VALUES (1, '{a,NULL,a}', '{}'), (2, NULL, '{5,6}')").await;
    outbox.flush_all().await.unwrap();
    let null = Group::new("tagged").with("id", 1).with_null("tag").to_string();
    assert_eq!(names(&told.recorded()), ["n{id=5}", "n{id=6}", "tagged{id=1,tag=a}", &null]);
    database.run("UPDATE t SET tags = '{b}' WHERE id = 1").await;
    outbox.flush_all().await.unwrap();
    let last = &told.recorded()[1..];
    assert_eq!(names(last), ["tagged{id=1,tag=a}", "tagged{id=1,tag=b}", &null]);
}
