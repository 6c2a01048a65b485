//! Installing, removing and checking triggers.

use std::fmt::Write;

use groupcache_core::Result;
use sqlx::{AssertSqlSafe, Row, SqliteConnection};

use crate::error::{configuration, error_from};
use crate::sqlite::outbox::SqliteOutbox;
use crate::sqlite::sql::{self, KeyColumn, Shape, TRIGGER_PREFIX, Trigger, VERSION, ident};
use crate::watch::{Column, Table, Watches};

impl SqliteOutbox {
    /// Creates the outbox and the triggers of the watched tables, in one transaction.
    ///
    /// If all of it is there already, nothing is changed: call it at every start. Tables that are watched no longer
    /// lose their triggers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) names a table or column that does not
    /// exist, a column that has no canonical text, or a later version of the installation.
    /// [`ErrorKind::Refused`](groupcache_core::ErrorKind::Refused) if the file is read-only. Nothing is changed.
    pub async fn install(&self, watches: &Watches) -> Result<()> {
        if self.check(watches).await.is_ok() {
            return Ok(());
        }
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(error_from)?;
        if let Some(version) =
            installed_version(&mut transaction).await?.filter(|(version, _)| *version > VERSION)
        {
            return Err(configuration(later_version(version.0)));
        }
        let declared = declared_triggers(&mut transaction, watches).await?;
        for trigger in installed_triggers(&mut transaction).await? {
            execute(&mut transaction, format!("DROP TRIGGER {}", ident(&trigger.name))).await?;
        }
        execute(&mut transaction, sql::tables(self.delivery())).await?;
        for trigger in declared {
            execute(&mut transaction, trigger.sql).await?;
        }
        transaction.commit().await.map_err(error_from)
    }

    /// Returns what [`install`](Self::install) runs on a file without an installation, for a migration. The triggers
    /// depend on the types and keys of the tables in this file.
    ///
    /// # Errors
    ///
    /// As [`install`](Self::install).
    pub async fn sql(&self, watches: &Watches) -> Result<String> {
        let mut connection = self.pool.acquire().await.map_err(error_from)?;
        let mut sql = sql::tables(self.delivery());
        for trigger in declared_triggers(&mut connection, watches).await? {
            writeln!(sql, "{};", trigger.sql).expect("a string takes any text");
        }
        Ok(sql)
    }

    /// Compares what is installed with what is declared. Call it at start where a migration installs.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) names every difference.
    pub async fn check(&self, watches: &Watches) -> Result<()> {
        let mut connection = self.pool.acquire().await.map_err(error_from)?;
        self.check_version(&mut connection).await?;
        let installed = installed_triggers(&mut connection).await?;
        let declared = declared_triggers(&mut connection, watches).await?;
        let mut differences = Vec::new();
        for Trigger { name, sql } in &declared {
            match installed.iter().find(|trigger| trigger.name == *name) {
                None => differences.push(format!("the trigger `{name}` is missing")),
                Some(trigger) if trigger.sql != *sql => {
                    differences.push(format!("the trigger `{name}` is for another declaration or table"));
                }
                Some(_) => {}
            }
        }
        let undeclared =
            installed.iter().filter(|trigger| !declared.iter().any(|other| other.name == trigger.name));
        differences
            .extend(undeclared.map(|trigger| format!("the trigger `{}` is not declared", trigger.name)));
        if differences.is_empty() { Ok(()) } else { Err(configuration(differences.join("; "))) }
    }

    /// Removes triggers and outbox in one transaction. Changes that were not delivered yet are lost. Does nothing if
    /// nothing is installed.
    ///
    /// # Errors
    ///
    /// As [`install`](Self::install).
    pub async fn uninstall(&self) -> Result<()> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(error_from)?;
        if let Some((version, _)) =
            installed_version(&mut transaction).await?.filter(|(version, _)| *version > VERSION)
        {
            return Err(configuration(later_version(version)));
        }
        for trigger in installed_triggers(&mut transaction).await? {
            execute(&mut transaction, format!("DROP TRIGGER {}", ident(&trigger.name))).await?;
        }
        for table in ["installation", "outbox", "replaced"] {
            execute(&mut transaction, format!("DROP TABLE IF EXISTS groupcache_{table}")).await?;
        }
        transaction.commit().await.map_err(error_from)
    }

    /// Returns an error unless this release can work with what is installed.
    pub(crate) async fn check_version(&self, connection: &mut SqliteConnection) -> Result<()> {
        let wanted = self.delivery().as_str();
        match installed_version(connection).await? {
            None => Err(configuration("nothing is installed")),
            Some((version, _)) if version != VERSION => Err(configuration(later_version(version))),
            Some((_, delivery)) if delivery != wanted => {
                let message = format!("the installed delivery is {delivery}, the declared one {wanted}");
                Err(configuration(message))
            }
            Some(_) => Ok(()),
        }
    }
}

fn later_version(version: i64) -> String {
    format!("version {version} of the outbox is installed; this release knows version {VERSION}")
}

async fn installed_version(connection: &mut SqliteConnection) -> Result<Option<(i64, String)>> {
    let table =
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'groupcache_installation'";
    let tables: i64 = sqlx::query_scalar(table).fetch_one(&mut *connection).await.map_err(error_from)?;
    if tables == 0 {
        return Ok(None);
    }
    let query = "SELECT version, delivery FROM groupcache_installation";
    sqlx::query_as(query).fetch_optional(connection).await.map_err(error_from)
}

async fn installed_triggers(connection: &mut SqliteConnection) -> Result<Vec<Trigger>> {
    let query = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND substr(name, 1, ?) = ?";
    let length = i64::try_from(TRIGGER_PREFIX.len()).unwrap_or_default();
    let rows = sqlx::query(query)
        .bind(length)
        .bind(TRIGGER_PREFIX)
        .fetch_all(connection)
        .await
        .map_err(error_from)?;
    let trigger = |row: sqlx::sqlite::SqliteRow| Ok(Trigger { name: row.try_get(0)?, sql: row.try_get(1)? });
    rows.into_iter().map(trigger).collect::<sqlx::Result<_>>().map_err(error_from)
}

/// The triggers that the watches need on the tables of this file.
async fn declared_triggers(connection: &mut SqliteConnection, watches: &Watches) -> Result<Vec<Trigger>> {
    let encoding: String =
        sqlx::query_scalar("PRAGMA encoding").fetch_one(&mut *connection).await.map_err(error_from)?;
    if encoding != "UTF-8" {
        return Err(configuration(format!("the encoding of the file is {encoding}, not UTF-8")));
    }
    let (mut triggers, mut tables) = (Vec::new(), Vec::new());
    for watches in watches.by_table()? {
        let name = watches[0].name.to_ascii_lowercase();
        if tables.contains(&name) {
            return Err(configuration(format!(
                "table `{name}` is declared twice, with other upper and lower case: declare it by one name"
            )));
        }
        tables.push(name);
        let shape = shape(connection, &watches).await?;
        triggers.extend(sql::triggers(&watches, &shape));
    }
    Ok(triggers)
}

/// A column as the file declares it: name, type, and its place in the primary key.
type Declared = (String, String, i64);

async fn shape(connection: &mut SqliteConnection, watches: &[&Table]) -> Result<Shape> {
    let name = &watches[0].name;
    if watches[0].schema.is_some() {
        return Err(configuration(format!(
            "table `{name}` is declared with a schema: a watched table is in the file itself"
        )));
    }
    if name.to_ascii_lowercase().starts_with("groupcache_") {
        return Err(configuration(format!("`{name}` belongs to groupcache itself")));
    }
    let table: Option<(String, i64)> =
        sqlx::query_as("SELECT type, wr FROM pragma_table_list(?1) WHERE schema = 'main'")
            .bind(name)
            .fetch_optional(&mut *connection)
            .await
            .map_err(error_from)?;
    let Some((kind, without_rowid)) = table else {
        return Err(configuration(format!("table `{name}` does not exist")));
    };
    if kind != "table" {
        return Err(configuration(format!(
            "`{name}` is a {kind}: watch the tables that it takes its rows from"
        )));
    }
    let declared: Vec<Declared> = sqlx::query_as("SELECT name, type, pk FROM pragma_table_xinfo(?)")
        .bind(name)
        .fetch_all(&mut *connection)
        .await
        .map_err(error_from)?;
    let is_free = |name: &&str| !declared.iter().any(|(column, _, _)| column.eq_ignore_ascii_case(name));
    let mut shape = Shape {
        rowid: ["rowid", "_rowid_", "oid"].into_iter().filter(|_| without_rowid == 0).find(is_free),
        keys: keys(connection, name, &declared).await?,
        ..Shape::default()
    };
    for watch in watches {
        for column in watch.group_columns() {
            let kind = find(name, &declared, &column.name)?;
            let is_loose = !column.folds_case && is_compared_loosely(connection, name, &column.name).await?;
            check_column(name, column, kind, is_loose)?;
            if kind.to_ascii_uppercase().starts_with("BOOL") {
                shape.booleans.push(column.name.clone());
            }
        }
        for shown in watch.shown.iter().flatten() {
            find(name, &declared, shown)?;
        }
    }
    Ok(shape)
}

/// The primary key and the unique indexes that are of columns.
async fn keys(
    connection: &mut SqliteConnection,
    table: &str,
    declared: &[Declared],
) -> Result<Vec<Vec<KeyColumn>>> {
    let mut primary: Vec<_> = declared.iter().filter(|(_, _, place)| *place > 0).collect();
    primary.sort_by_key(|(_, _, place)| *place);
    let primary =
        primary.into_iter().map(|(name, _, _)| KeyColumn { name: name.clone(), collation: None }).collect();
    let mut keys: Vec<Vec<KeyColumn>> = vec![primary];
    let indexes: Vec<String> =
        sqlx::query_scalar("SELECT name FROM pragma_index_list(?) WHERE \"unique\" ORDER BY name")
            .bind(table)
            .fetch_all(&mut *connection)
            .await
            .map_err(error_from)?;
    for index in indexes {
        let columns: Vec<(Option<String>, Option<String>)> =
            sqlx::query_as("SELECT name, coll FROM pragma_index_xinfo(?) WHERE \"key\" ORDER BY seqno")
                .bind(index)
                .fetch_all(&mut *connection)
                .await
                .map_err(error_from)?;
        // An index of an expression has a column without a name.
        let key = columns.into_iter().map(|(name, collation)| Some(KeyColumn { name: name?, collation }));
        keys.extend(key.collect::<Option<Vec<_>>>());
    }
    keys.retain(|key| !key.is_empty());
    keys.sort();
    keys.dedup();
    Ok(keys)
}

fn find<'a>(table: &str, declared: &'a [Declared], wanted: &str) -> Result<&'a str> {
    let found = declared.iter().find(|(name, _, _)| name.eq_ignore_ascii_case(wanted));
    found.map(|(_, kind, _)| &**kind).ok_or_else(|| {
        let names: Vec<_> = declared.iter().map(|(name, _, _)| &**name).collect();
        configuration(format!("table `{table}` has no column `{wanted}`; it has: {}", names.join(", ")))
    })
}

/// Whether the column has one text for each value, which serde writes too.
fn check_column(table: &str, column: &Column, kind: &str, is_loose: bool) -> Result<()> {
    let upper = kind.to_ascii_uppercase();
    let is_text = ["CHAR", "CLOB", "TEXT"].iter().any(|word| upper.contains(word)) && !upper.contains("INT");
    let problem = if column.is_array {
        (!is_text && upper != "JSON")
            .then_some("is declared with `elements`, but its type is neither TEXT nor JSON")
    } else if column.folds_case && !is_text {
        Some("is no text, but is declared as `case_insensitive`")
    } else if is_text && is_loose {
        Some(
            "is compared without case or padding: declare it with `case_insensitive`, or fold the case in \
             `Model::argument`",
        )
    } else if is_text || upper.contains("INT") || upper.starts_with("BOOL") {
        None
    } else {
        Some("has no canonical text: group by a column whose type is an INTEGER, TEXT or BOOLEAN")
    };
    match problem {
        Some(problem) => {
            Err(configuration(format!("column `{}` of table `{table}`, a {kind}, {problem}", column.name)))
        }
        None => Ok(()),
    }
}

/// Whether the column has another collation than `BINARY`. SQLite does not tell it, so this compares with it.
async fn is_compared_loosely(connection: &mut SqliteConnection, table: &str, column: &str) -> Result<bool> {
    // A column of a union has the collation of the first part.
    let query = format!(
        "SELECT count(*) > 0 FROM (SELECT {} AS text FROM {} WHERE 0 UNION ALL SELECT 'a')
         WHERE text = 'A' OR text = 'a '",
        ident(column),
        ident(table)
    );
    match sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(connection).await {
        // The application has a collation of its own.
        Err(sqlx::Error::Database(error)) if error.message().contains("no such collation") => Ok(true),
        outcome => outcome.map_err(error_from),
    }
}

async fn execute(connection: &mut SqliteConnection, sql: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop).map_err(error_from)
}
