//! Installing, removing and checking triggers.

use groupcache_core::Result;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::error::{configuration, error_from};
use crate::postgres::outbox::PgOutbox;
use crate::postgres::sql::{self, Handler, VERSION, checks_of, ident};
use crate::watch::Watches;

impl PgOutbox {
    /// Creates the outbox, its functions, and the triggers of the watched tables, in one transaction.
    ///
    /// If all of it is there already, nothing is changed and nothing is locked: call it at every start. Tables
    /// that are watched no longer lose their triggers. Creating triggers locks a table against writes for a
    /// moment.
    ///
    /// The role must own the watched tables, and may create the schema or owns it. Roles that only write need no
    /// rights. A role that only runs the relay needs `USAGE` on the schema, `SELECT` on its tables, `DELETE` on
    /// `outbox`, and `UPDATE` on `outbox` and `installation`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) names a table or column that does
    /// not exist, a column that has no canonical text, or a later version of the installation.
    /// [`ErrorKind::Refused`](groupcache_core::ErrorKind::Refused) names a missing right. Nothing is changed.
    pub async fn install(&self, watches: &Watches) -> Result<()> {
        let sql = self.sql(watches)?;
        let mut connection = self.pool.acquire().await.map_err(error_from)?;
        if self.differences(&mut connection, watches).await.is_ok_and(|differences| differences.is_empty()) {
            return Ok(());
        }
        run(&mut connection, sql).await
    }

    /// Returns what [`install`](Self::install) runs, for a migration. Run it in one transaction.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if a watch or the name of the
    /// schema is wrong in itself. What only the database knows is an error when the migration runs.
    pub fn sql(&self, watches: &Watches) -> Result<String> {
        sql::install(&self.schema, self.delivery(), watches)
    }

    /// Compares what is installed with what is declared. Call it at start where a migration installs.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) names every difference: another
    /// version, a missing or disabled trigger (such as that of a new partition), a function of another
    /// declaration, a table that is watched but not declared, or a column that does not fit any more.
    pub async fn check(&self, watches: &Watches) -> Result<()> {
        let mut connection = self.pool.acquire().await.map_err(error_from)?;
        let differences = self.differences(&mut connection, watches).await?;
        if differences.is_empty() {
            return Ok(());
        }
        Err(configuration(format!("schema {}: {}", self.schema, differences.join("; "))))
    }

    /// Removes triggers, functions and outbox in one transaction, and the schema if `install` created it.
    /// Changes that were not delivered yet are lost. Does nothing if nothing is installed.
    ///
    /// # Errors
    ///
    /// As [`install`](Self::install).
    pub async fn uninstall(&self) -> Result<()> {
        sql::check_schema(&self.schema)?;
        let mut connection = self.pool.acquire().await.map_err(error_from)?;
        run(&mut connection, sql::uninstall(&self.schema)).await
    }

    /// Returns an error unless this release can work with what is installed.
    pub(crate) async fn check_version(&self, connection: &mut PgConnection) -> Result<()> {
        let query = format!("SELECT version, delivery FROM {}.installation", ident(&self.schema));
        let installed: (i32, String) =
            sqlx::query_as(AssertSqlSafe(query)).fetch_one(connection).await.map_err(error_from)?;
        match self.version_problem(&installed) {
            Some(problem) => Err(configuration(problem)),
            None => Ok(()),
        }
    }

    fn version_problem(&self, (version, delivery): &(i32, String)) -> Option<String> {
        if *version != VERSION {
            return Some(format!("version {version} is installed; this release needs version {VERSION}"));
        }
        let wanted = self.delivery().as_str();
        (delivery != wanted)
            .then(|| format!("the installed delivery is {delivery}, the declared one {wanted}"))
    }

    async fn differences(&self, connection: &mut PgConnection, watches: &Watches) -> Result<Vec<String>> {
        let handlers = sql::handlers(&self.schema, self.delivery(), watches)?;
        let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(format!("{}.installation", ident(&self.schema)))
            .fetch_one(&mut *connection)
            .await
            .map_err(error_from)?;
        if !exists {
            return Ok(vec!["nothing is installed".to_owned()]);
        }
        let query = format!("SELECT version, delivery FROM {}.installation", ident(&self.schema));
        let installed: (i32, String) =
            sqlx::query_as(AssertSqlSafe(query)).fetch_one(&mut *connection).await.map_err(error_from)?;
        if let Some(problem) = self.version_problem(&installed) {
            return Ok(vec![problem]);
        }
        let mut differences = Vec::new();
        for handler in &handlers {
            self.compare(connection, handler, &mut differences).await.map_err(error_from)?;
        }
        self.find_undeclared(connection, &handlers, &mut differences).await.map_err(error_from)?;
        Ok(differences)
    }

    /// Adds what differs between a table and its declaration.
    async fn compare(
        &self,
        connection: &mut PgConnection,
        handler: &Handler,
        differences: &mut Vec<String>,
    ) -> sqlx::Result<()> {
        let table = &handler.display_name;
        let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(&handler.table)
            .fetch_one(&mut *connection)
            .await?;
        if !exists {
            differences.push(format!("table `{table}` does not exist"));
            return Ok(());
        }
        let installed: Option<String> = sqlx::query_scalar(
            "SELECT prosrc FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
             WHERE nspname = $1 AND proname = $2",
        )
        .bind(&*self.schema)
        .bind(&handler.name)
        .fetch_optional(&mut *connection)
        .await?;
        match installed {
            None => {
                differences.push(format!("table `{table}` is not watched"));
                return Ok(());
            }
            Some(body) if body != handler.body => {
                differences.push(format!("table `{table}` is watched for other groups than declared"));
            }
            Some(_) => {}
        }
        for check in checks_of(&self.schema, "to_regclass($1)", handler) {
            let check = sqlx::query(AssertSqlSafe(format!("SELECT {check}"))).bind(&handler.table);
            match check.execute(&mut *connection).await {
                Err(sqlx::Error::Database(error)) => differences.push(error.message().to_owned()),
                other => {
                    other?;
                }
            }
        }
        differences.extend(self.missing_triggers(connection, handler).await?);
        Ok(())
    }

    async fn missing_triggers(
        &self,
        connection: &mut PgConnection,
        handler: &Handler,
    ) -> sqlx::Result<Vec<String>> {
        let query = format!(
            "SELECT format('the trigger `%s` on %s is missing or disabled', wanted, member)
             FROM {schema}.family(to_regclass($1)) AS member,
                 unnest(ARRAY['insert', 'update', 'delete', 'truncate']) AS event,
                 LATERAL (SELECT $2 || '_' || event AS wanted) AS names
             WHERE NOT EXISTS (
                 SELECT FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
                 JOIN pg_namespace ON pg_namespace.oid = pronamespace
                 WHERE tgrelid = member AND tgname = wanted AND nspname = $2 AND proname = $3
                     AND tgenabled = 'A')",
            schema = ident(&self.schema)
        );
        sqlx::query_scalar(AssertSqlSafe(query))
            .bind(&handler.table)
            .bind(&*self.schema)
            .bind(&handler.name)
            .fetch_all(connection)
            .await
    }

    async fn find_undeclared(
        &self,
        connection: &mut PgConnection,
        handlers: &[Handler],
        differences: &mut Vec<String>,
    ) -> sqlx::Result<()> {
        let undeclared: Vec<String> = sqlx::query_scalar(
            "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
             JOIN pg_namespace ON pg_namespace.oid = pronamespace
             WHERE nspname = $1 AND proname LIKE 'on %' AND proname <> ALL ($2)
                 AND strpos(prosrc, 'INSERT INTO ' || $3 || '.outbox (') > 0",
        )
        .bind(&*self.schema)
        .bind(handlers.iter().map(|handler| handler.name.clone()).collect::<Vec<_>>())
        .bind(ident(&self.schema))
        .fetch_all(connection)
        .await?;
        differences
            .extend(undeclared.into_iter().map(|table| format!("table {table} is watched but not declared")));
        Ok(())
    }
}

/// Runs statements in one transaction.
async fn run(connection: &mut PgConnection, sql: String) -> Result<()> {
    let mut transaction = connection.begin().await.map_err(error_from)?;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(error_from)?;
    transaction.commit().await.map_err(error_from)
}
