//! The text of everything that is installed.

use std::fmt::Write;

use crate::delivery::Delivery;
use crate::sqlite::rows::encode;
use crate::watch::{Column, GroupColumns, Table};

/// The version of the tables and triggers. Raise it when a release needs others.
pub(crate) const VERSION: i64 = 1;

/// What the names of all triggers begin with.
pub(crate) const TRIGGER_PREFIX: &str = "groupcache on ";

/// What the triggers need to know of a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    /// Columns that hold truth values.
    pub(crate) booleans: Vec<String>,
    /// The columns of each key: rows that a `REPLACE` may remove agree in one of them.
    pub(crate) keys: Vec<Vec<KeyColumn>>,
    /// What the number of a row is called, if rows have one and it has a name that no column has.
    pub(crate) rowid: Option<&'static str>,
}

/// A column of a key, and the collation that the key compares it with, if not that of the column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyColumn {
    pub(crate) name: String,
    pub(crate) collation: Option<String>,
}

/// A trigger: its name, and the statement that creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trigger {
    pub(crate) name: String,
    pub(crate) sql: String,
}

/// The statements that create the tables, if they are missing.
pub(crate) fn tables(delivery: Delivery) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS groupcache_installation (
    only_row  INTEGER PRIMARY KEY CHECK (only_row = 1),
    version   INTEGER NOT NULL,
    delivery  TEXT NOT NULL,
    pruned_to INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS groupcache_outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    written_at REAL NOT NULL DEFAULT (julianday('now')),
    held_until REAL,
    name       TEXT NOT NULL,
    fields     TEXT NOT NULL,
    texts      TEXT NOT NULL,
    folded     TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS groupcache_replaced (
    watched TEXT NOT NULL,
    name    TEXT NOT NULL,
    fields  TEXT NOT NULL,
    texts   TEXT NOT NULL,
    folded  TEXT NOT NULL
);
INSERT INTO groupcache_installation (only_row, version, delivery) VALUES (1, {VERSION}, '{delivery}')
    ON CONFLICT DO UPDATE SET version = excluded.version, delivery = excluded.delivery;
",
        delivery = delivery.as_str()
    )
}

/// The triggers of one table.
pub(crate) fn triggers(watches: &[&Table], shape: &Shape) -> Vec<Trigger> {
    let table = &watches[0].name;
    let all = |row: &str, source: &str, target: &str| -> String {
        watches.iter().map(|watch| inserts(watch, shape, row, source, target)).collect()
    };
    let outbox = "groupcache_outbox (name, fields, texts, folded) SELECT";
    let release = format!(
        "INSERT INTO {outbox} name, fields, texts, folded FROM groupcache_replaced WHERE watched = {0};\n    \
         DELETE FROM groupcache_replaced WHERE watched = {0};\n    ",
        text(table)
    );
    let mut triggers = vec![
        trigger(table, "insert", "AFTER INSERT", "", &(release.clone() + &all("NEW", "", outbox))),
        trigger(table, "delete", "AFTER DELETE", "", &all("OLD", "", outbox)),
        trigger(table, "replaced by update", "AFTER UPDATE", "", &release),
    ];
    for (at, watch) in watches.iter().enumerate() {
        let inserts = |row| inserts(watch, shape, row, "", outbox);
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("old_row_forgotten") {
            triggers.push(trigger(
                table,
                &format!("update {at}"),
                "AFTER UPDATE",
                &differs(watch),
                &inserts("NEW"),
            ));
            continue;
        }
        let statements = inserts("OLD") + &moved(watch, shape, outbox);
        triggers.push(trigger(table, &format!("update {at}"), "AFTER UPDATE", &differs(watch), &statements));
    }
    let keep = format!("groupcache_replaced (watched, name, fields, texts, folded) SELECT {},", text(table));
    let forget = format!("DELETE FROM groupcache_replaced WHERE watched = {};\n    ", text(table));
    let other_row =
        shape.rowid.map(|rowid| format!(" AND old_row.{rowid} IS NOT OLD.{rowid}")).unwrap_or_default();
    for (event, other_row) in [("INSERT", ""), ("UPDATE", &*other_row)] {
        let source = format!(" FROM {} AS old_row WHERE ({}){other_row}", ident(table), same_key(shape));
        let statements = forget.clone() + &all("old_row", &source, &keep);
        triggers.push(trigger(
            table,
            &format!("before {}", event.to_lowercase()),
            &format!("BEFORE {event}"),
            "",
            &statements,
        ));
    }
    triggers
}

/// A name as an identifier.
pub(crate) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a literal.
pub(crate) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn trigger(table: &str, what: &str, event: &str, when: &str, statements: &str) -> Trigger {
    let name = format!("{TRIGGER_PREFIX}{table} {what}");
    let sql = format!(
        "CREATE TRIGGER {} {event} ON {} FOR EACH ROW{when} BEGIN\n    {}\nEND",
        ident(&name),
        ident(table),
        statements.trim_end()
    );
    Trigger { name, sql }
}

/// The statements that write the groups of one row. `source` is where the row comes from, if not from the trigger.
fn inserts(watch: &Table, shape: &Shape, row: &str, source: &str, target: &str) -> String {
    let of_group = |group: &GroupColumns| {
        let texts: Vec<_> =
            group.columns.iter().enumerate().map(|(at, column)| list_item(at, column, shape, row)).collect();
        let texts = if texts.is_empty() { "''".to_owned() } else { texts.join(" || ") };
        let fields = encode(group.columns.iter().map(|column| &*column.field));
        let folds = group.columns.iter().filter(|column| column.folds_case).map(|column| &*column.field);
        format!(
            "INSERT INTO {target} {}, '{fields}', {texts}, '{}'{};\n    ",
            text(&group.name),
            encode(folds),
            from(group, row, source)
        )
    };
    watch.groups.iter().map(of_group).collect()
}

/// The statements that write the groups of a new row that the old row did not belong to.
fn moved(watch: &Table, shape: &Shape, target: &str) -> String {
    let is_other = |column: &Column| format!("OLD.{0} IS NOT NEW.{0} COLLATE BINARY", ident(&column.name));
    let of_group = |group: &GroupColumns| {
        let one = Table { groups: vec![group.clone()], ..watch.clone() };
        let statement = inserts(&one, shape, "NEW", "", target);
        let differs = group.columns.iter().map(is_other).collect::<Vec<_>>().join(" OR ");
        format!("{} WHERE {differs};\n    ", statement.trim_end().trim_end_matches(';'))
    };
    // The group of all rows is the same.
    watch.groups.iter().filter(|group| !group.columns.is_empty()).map(of_group).collect()
}

/// A column's text and its comma.
fn list_item(at: usize, column: &Column, shape: &Shape, row: &str) -> String {
    let value =
        if column.is_array { format!("e{at}.value") } else { format!("{row}.{}", ident(&column.name)) };
    let value_text = if shape.booleans.contains(&column.name) {
        format!("CASE WHEN {value} THEN 'true' ELSE 'false' END")
    } else {
        format!("CAST({value} AS TEXT)")
    };
    format!("CASE WHEN {value} IS NULL THEN '-' ELSE hex({value_text}) END || ','")
}

/// Where a group's row comes from, with one more source for each array.
fn from(group: &GroupColumns, row: &str, source: &str) -> String {
    let mut arrays = String::new();
    for (at, column) in group.columns.iter().enumerate().filter(|(_, column)| column.is_array) {
        let separator = if source.is_empty() && arrays.is_empty() { " FROM" } else { "," };
        write!(arrays, "{separator} json_each({row}.{}) AS e{at}", ident(&column.name))
            .expect("a string takes any text");
    }
    match source.split_once(" WHERE ") {
        Some((table, condition)) => format!("{table}{arrays} WHERE {condition}"),
        None => arrays,
    }
}

/// Whether `old_row` agrees with the new row in a key.
fn same_key(shape: &Shape) -> String {
    let same = |column: &KeyColumn| {
        let collation = column.collation.iter().map(|collation| format!(" COLLATE {}", ident(collation)));
        format!("old_row.{0} = NEW.{0}{1}", ident(&column.name), collation.collect::<String>())
    };
    let key = |columns: &Vec<KeyColumn>| columns.iter().map(same).collect::<Vec<_>>().join(" AND ");
    let number = shape.rowid.map(|rowid| format!("old_row.{rowid} = NEW.{rowid}"));
    let keys: Vec<_> = number.into_iter().chain(shape.keys.iter().map(key)).collect();
    if keys.is_empty() { "0".to_owned() } else { keys.join(" OR ") }
}

/// The condition of a trigger for updates, if only some columns count.
fn differs(watch: &Table) -> String {
    let Some(shown) = &watch.shown else { return String::new() };
    let columns = watch.group_columns().into_iter().map(|column| &column.name).chain(shown);
    let differs = columns.map(|column| format!("OLD.{0} IS NOT NEW.{0} COLLATE BINARY", ident(column)));
    format!(" WHEN {}", differs.collect::<Vec<_>>().join(" OR "))
}
