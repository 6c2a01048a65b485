//! Databases on a PostgreSQL server of this test binary's own.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use groupcache_tests::postgres_server::PostgresServer;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgPool};

/// A database of one test.
pub(crate) struct Database {
    pub(crate) pool: PgPool,
    pub(crate) options: PgConnectOptions,
    pub(crate) url: String,
}

impl Database {
    /// Creates a database. Returns `None` if there is no PostgreSQL.
    pub(crate) async fn create() -> Option<Self> {
        static SERVER: OnceLock<Option<PostgresServer>> = OnceLock::new();
        Self::on(SERVER.get_or_init(|| PostgresServer::start(0)).as_ref()?).await
    }

    /// Does the same on a server that allows two-phase commits.
    pub(crate) async fn create_with_two_phase_commit() -> Option<Self> {
        static SERVER: OnceLock<Option<PostgresServer>> = OnceLock::new();
        Self::on(SERVER.get_or_init(|| PostgresServer::start(10)).as_ref()?).await
    }

    /// Creates a database on a server that no other test uses, which it may crash.
    pub(crate) async fn create_alone() -> Option<Self> {
        static SERVER: OnceLock<Option<PostgresServer>> = OnceLock::new();
        Self::on(SERVER.get_or_init(|| PostgresServer::start(0)).as_ref()?).await
    }

    async fn on(server: &PostgresServer) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let admin: PgConnectOptions = server.url("postgres").parse().unwrap();
        let mut admin = admin.disable_statement_logging().connect().await.unwrap();
        let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(create).execute(&mut admin).await.unwrap();
        admin.close().await.unwrap();
        let url = server.url(&name);
        let options: PgConnectOptions = url.parse().unwrap();
        let options = options.disable_statement_logging();
        let pool = PgPoolOptions::new().max_connections(40).connect_with(options.clone()).await.unwrap();
        Some(Self { pool, options, url })
    }

    /// Runs statements, each on its own unless they begin a transaction.
    pub(crate) async fn run(&self, sql: &str) {
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub(crate) async fn try_run(&self, sql: &str) -> sqlx::Result<()> {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.map(drop)
    }
}
