//! The text of everything that is installed.

use std::fmt::Write;

use groupcache_core::Result;

use crate::delivery::Delivery;
use crate::error::configuration;
use crate::watch::{Column, GroupColumns, Table, Watches};

/// The version of the tables and functions. Raise it when a release needs others.
pub(crate) const VERSION: i32 = 1;

/// The longest name that PostgreSQL keeps whole.
const NAME_BYTES_MAX: usize = 63;

/// The longest name of a schema whose triggers can be named after it.
const SCHEMA_BYTES_MAX: usize = NAME_BYTES_MAX - "_truncate".len();

/// The function that the triggers of one table call.
pub(crate) struct Handler {
    pub(crate) name: String,
    pub(crate) body: String,
    /// The expression that finds the table: its quoted name.
    pub(crate) table: String,
    pub(crate) display_name: String,
    /// The columns of groups.
    pub(crate) columns: Vec<Column>,
    /// Columns that only have to exist.
    pub(crate) shown: Vec<String>,
}

/// Everything that installs `watches`. To be run in one transaction.
pub(crate) fn install(schema: &str, delivery: Delivery, watches: &Watches) -> Result<String> {
    let handlers = handlers(schema, delivery, watches)?;
    let mut sql = with_schema(include_str!("base.sql"), schema, delivery);
    for (at, handler) in handlers.iter().enumerate() {
        sql.push_str(&install_table(schema, handler, &handlers[..at]));
    }
    let names: Vec<_> = handlers.iter().map(|handler| text(&handler.name)).collect();
    write!(sql, "\nSELECT {}.detach(ARRAY[{}]::text[]);\n", ident(schema), names.join(", "))
        .expect("a string takes any text");
    Ok(sql)
}

/// Everything that removes an installation.
pub(crate) fn uninstall(schema: &str) -> String {
    with_schema(include_str!("uninstall.sql"), schema, Delivery::Queue)
}

/// The functions that the triggers call, one for each table.
pub(crate) fn handlers(schema: &str, delivery: Delivery, watches: &Watches) -> Result<Vec<Handler>> {
    check_schema(schema)?;
    let tables = watches.by_table()?;
    Ok(tables.into_iter().map(|watches| handler(schema, delivery, &watches)).collect())
}

/// Whether the triggers can be named after the schema.
pub(crate) fn check_schema(schema: &str) -> Result<()> {
    // A dollar could end the quotes around a function.
    if schema.is_empty() || schema.len() > SCHEMA_BYTES_MAX || schema.contains(['\0', '$']) {
        let message = format!("`schema` is empty, longer than {SCHEMA_BYTES_MAX} bytes, or has a `$`");
        return Err(configuration(message));
    }
    Ok(())
}

/// A name as an identifier.
pub(crate) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a literal.
pub(crate) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn with_schema(template: &str, schema: &str, delivery: Delivery) -> String {
    let parts = [
        ("{schema_name}", text(schema)),
        ("{schema_text}", text(&ident(schema))),
        ("{schema}", ident(schema)),
        ("{version}", VERSION.to_string()),
        ("{delivery}", delivery.as_str().to_owned()),
    ];
    fill(template, &parts)
}

/// `before` are the handlers that are installed already.
fn install_table(schema: &str, handler: &Handler, before: &[Handler]) -> String {
    let name_of = |handler: &Handler| text(&format!("{}.{}()", ident(schema), ident(&handler.name)));
    let mut checks = String::new();
    for check in checks_of(schema, "watched", handler) {
        writeln!(checks, "    PERFORM {check};").expect("a string takes any text");
    }
    let mut parts = vec![
        ("{display_name}", handler.display_name.replace(['\n', '\r'], " ")),
        ("{schema_text}", text(&ident(schema))),
        ("{schema}", ident(schema)),
        ("{handler_text}", name_of(handler)),
        ("{before}", before.iter().map(name_of).collect::<Vec<_>>().join(", ")),
        ("{handler}", ident(&handler.name)),
        ("{table_text}", text(&handler.table)),
        ("{display_text}", text(&handler.display_name)),
        ("{checks}", checks),
        ("{body}", handler.body.clone()),
    ];
    let is_new = |tag: &String| !parts.iter().any(|(_, part)| part.contains(tag.as_str()));
    let tag = (0..).map(|n| format!("$groupcache_{n}$")).find(is_new).unwrap_or_default();
    parts.push(("{tag}", tag));
    fill(include_str!("table.sql"), &parts)
}

/// The calls that raise if a column does not fit.
pub(crate) fn checks_of(schema: &str, table: &str, handler: &Handler) -> Vec<String> {
    let schema = ident(schema);
    let columns = handler.columns.iter().map(|column| {
        let Column { name, is_array, folds_case, .. } = column;
        format!("{schema}.check_column({table}, {}, {is_array}, {folds_case})", text(name))
    });
    let shown = handler.shown.iter().map(|name| format!("{schema}.check_exists({table}, {})", text(name)));
    columns.chain(shown).collect()
}

/// Replaces each placeholder once from left to right, so that no name is taken for one.
fn fill(template: &str, parts: &[(&str, String)]) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        match parts.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, value)) => {
                filled.push_str(value);
                rest = &rest[name.len()..];
            }
            None => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled.push_str(rest);
    filled
}

fn handler(schema: &str, delivery: Delivery, watches: &[&Table]) -> Handler {
    let table = watches[0];
    let mut columns: Vec<Column> = Vec::new();
    for column in watches.iter().flat_map(|watch| watch.group_columns()) {
        if !columns.contains(column) {
            columns.push(column.clone());
        }
    }
    let table_ident = match &table.schema {
        Some(schema) => format!("{}.{}", ident(schema), ident(&table.name)),
        None => ident(&table.name),
    };
    Handler {
        name: handler_name(&table.display_name()),
        body: body(schema, delivery, watches),
        table: table_ident,
        display_name: table.display_name(),
        columns,
        shown: watches.iter().flat_map(|watch| watch.shown.iter().flatten().cloned()).collect(),
    }
}

/// `on books`; shortened where PostgreSQL would shorten it.
fn handler_name(table: &str) -> String {
    let name = format!("on {table}");
    if name.len() <= NAME_BYTES_MAX {
        return name;
    }
    let hash = &blake3::hash(name.as_bytes()).to_hex()[..16];
    let cut = (0..=NAME_BYTES_MAX - 17).rev().find(|at| name.is_char_boundary(*at)).unwrap_or_default();
    format!("{} {hash}", &name[..cut])
}

fn body(schema: &str, delivery: Delivery, watches: &[&Table]) -> String {
    let outbox = format!("{}.outbox", ident(schema));
    // A transaction that notifies cannot be prepared for a two-phase commit. Where there are such transactions,
    // the relay polls. What a process delivers itself wakes no relay, unless every process has to know.
    let held = match delivery {
        Delivery::Queue => " AND coalesce(current_setting('groupcache.hold', true), '') = ''",
        Delivery::FanOut => "",
    };
    let mut body = format!(
        "
#variable_conflict use_column
DECLARE
    wrote boolean := false;
BEGIN
    IF TG_OP = 'INSERT' THEN
{}    ELSIF TG_OP = 'UPDATE' THEN
{}    ELSIF TG_OP = 'DELETE' THEN
{}    ELSE
",
        branch(schema, &outbox, watches, |watch| rows_of(watch, "new_rows")),
        branch(schema, &outbox, watches, updated_rows),
        branch(schema, &outbox, watches, |watch| rows_of(watch, "old_rows")),
    );
    for watch in watches {
        // The rows are still there before a `TRUNCATE`, and nobody else can change them.
        let insert = insert(schema, &outbox, watch, "SELECT * FROM ONLY \u{0}");
        let insert = text(&insert.replace('%', "%%").replace('\u{0}', "%s"));
        write!(body, "        EXECUTE format({insert}, TG_RELID::regclass);\n        wrote := true;\n")
            .expect("a string takes any text");
    }
    write!(
        body,
        "    END IF;
    IF wrote AND current_setting('max_prepared_transactions') = '0'{held} THEN
        PERFORM pg_notify({}, '');
    END IF;
    RETURN NULL;
END
",
        text(schema)
    )
    .expect("a string takes any text");
    body
}

fn branch(schema: &str, outbox: &str, watches: &[&Table], rows: impl Fn(&Table) -> String) -> String {
    let inserts = watches.iter().map(|watch| {
        format!(
            "        {};\n        wrote := wrote OR FOUND;\n",
            insert(schema, outbox, watch, &rows(watch))
        )
    });
    inserts.collect()
}

/// The statement that writes the groups of `rows`.
fn insert(schema: &str, outbox: &str, watch: &Table, rows: &str) -> String {
    let groups: Vec<_> = watch.groups.iter().map(|group| select(schema, group)).collect();
    format!(
        "WITH changed AS MATERIALIZED ({rows})
        INSERT INTO {outbox} (name, fields, texts, folded)
        {}",
        groups.join("\n        UNION ALL ")
    )
}

/// The groups of one kind that the changed rows belong to, each once.
fn select(schema: &str, group: &GroupColumns) -> String {
    let name = text(&group.name);
    if group.columns.is_empty() {
        return format!(
            "SELECT {name}, '{{}}'::text[], '{{}}'::text[], '{{}}'::text[] WHERE EXISTS (SELECT FROM changed)"
        );
    }
    let array = |texts: Vec<String>| format!("ARRAY[{}]::text[]", texts.join(", "));
    let (mut texts, mut joins) = (Vec::new(), String::new());
    for (at, column) in group.columns.iter().enumerate() {
        let value = format!("changed.{}", ident(&column.name));
        if column.is_array {
            write!(joins, " CROSS JOIN LATERAL unnest({value}) AS e{at} (element)")
                .expect("a string takes any text");
            texts.push(format!("{}.group_text(e{at}.element)", ident(schema)));
        } else {
            texts.push(format!("{}.group_text({value})", ident(schema)));
        }
    }
    let fields = group.columns.iter().map(|column| text(&column.field)).collect();
    let folded =
        group.columns.iter().filter(|column| column.folds_case).map(|column| text(&column.field)).collect();
    format!(
        "SELECT DISTINCT {name}, {}, {}, {} FROM changed{joins}",
        array(fields),
        array(texts),
        array(folded)
    )
}

fn rows_of(watch: &Table, rows: &str) -> String {
    let columns: Vec<_> = watch.group_columns().iter().map(|column| ident(&column.name)).collect();
    format!("SELECT {} FROM {rows}", columns.join(", "))
}

/// The old and the new rows of an update; only those that differ, if the watch asks for it.
///
/// Rows are compared as bags: which old row became which new one does not matter to values that show neither.
fn updated_rows(watch: &Table) -> String {
    #[cfg(groupcache_mutants)]
    if groupcache_core::mutants::is_on("old_row_forgotten") {
        return rows_of(watch, "new_rows");
    }
    let Some(shown) = &watch.shown else {
        return format!("{} UNION ALL {}", rows_of(watch, "old_rows"), rows_of(watch, "new_rows"));
    };
    let grouped = watch.group_columns();
    let mut columns: Vec<_> = grouped.iter().map(|column| ident(&column.name)).collect();
    // Compared by their text: equal values of some types look different.
    let names = grouped.iter().map(|column| &column.name).chain(shown);
    // An alias that is no name of a column, which may be anything.
    let is_free = |prefix: &String| !columns.iter().any(|column| column.starts_with(&format!("\"{prefix}")));
    let prefix = (0..).map(|n| format!("text_{n}_")).find(is_free).unwrap_or_default();
    columns.extend(names.enumerate().map(|(at, name)| format!("{}::text AS {prefix}{at}", ident(name))));
    let columns = columns.join(", ");
    let differ = |these: &str, others: &str| {
        format!("(SELECT {columns} FROM {these} EXCEPT ALL SELECT {columns} FROM {others})")
    };
    format!("{} UNION ALL {}", differ("old_rows", "new_rows"), differ("new_rows", "old_rows"))
}
