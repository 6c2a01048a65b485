//! What the examples share: a shop whose database invalidates the cache of titles.

use groupcache_core::{Cache, Group};
use groupcache_memory::MemoryBackend;
use groupcache_sqlx::{PgOutbox, Watches, watch};
use groupcache_tests::postgres_server::PostgresServer;
use sqlx::PgPool;

/// A table of books, its outbox with a relay, and a cache.
pub struct Shop {
    pub outbox: PgOutbox,
    pub url: String,
    cache: Cache<MemoryBackend>,
    pool: PgPool,
    _server: PostgresServer,
}

impl Shop {
    /// Opens the shop on a server of its own. Returns `None` if PostgreSQL is not installed.
    pub async fn open() -> Option<Self> {
        let server = PostgresServer::start(0)?;
        let url = server.url("postgres");
        let pool = PgPool::connect(&url).await.expect("connects");
        let tables = "CREATE TABLE books (id bigint PRIMARY KEY, title text NOT NULL);
                      INSERT INTO books VALUES (5, 'Emma'), (6, 'Persuasion')";
        sqlx::raw_sql(tables).execute(&pool).await.expect("creates the table");
        let cache = Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build();
        let outbox = PgOutbox::new(pool.clone(), cache.clone());
        let watches = Watches::new().with(watch("books").group("book", ["id"]));
        outbox.install(&watches).await.expect("installs the triggers");
        tokio::spawn(outbox.relay().run(std::future::pending()));
        Some(Self { outbox, url, cache, pool, _server: server })
    }

    /// Returns the cached title of a book.
    pub async fn title(&self, id: i64) -> String {
        let load = async || {
            let query = sqlx::query_scalar("SELECT title FROM books WHERE id = $1");
            query.bind(id).fetch_one(&self.pool).await
        };
        let group = Group::new("book").with("id", id);
        self.cache.get_or_load(&("title", id), group, load).await.expect("there is such a book")
    }

    /// Returns how often a title came from the cache.
    pub fn hits(&self) -> u64 {
        self.cache.stats().hits
    }
}
