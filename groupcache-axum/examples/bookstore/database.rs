//! Reading and writing the data, in SQLite or PostgreSQL.
//!
//! A write is a transaction of the outbox: its commit returns once the pages that show the row are stale. The
//! triggers in the database know which pages these are, so nothing here does.

use groupcache_sqlx::{CommitError, PgOutbox, SqliteOutbox};
use sqlx::{PgPool, SqlitePool};

use crate::model::{Author, Book, BookWithAuthor, NewBook};

/// The database: its connections, and the changes that triggers write down.
#[derive(Clone)]
pub(crate) enum Database {
    Sqlite { pool: SqlitePool, outbox: SqliteOutbox },
    Postgres { pool: PgPool, outbox: PgOutbox },
}

/// What a committed write returns.
pub(crate) struct Written {
    /// The book as it is now, or as it was when it was deleted.
    pub(crate) book: Book,
    /// Whether the cache acknowledged that the pages are stale. If it did not, the relay tries again.
    pub(crate) invalidated: groupcache_core::Result<()>,
}

/// Runs a query of either database. Both take the same statements.
macro_rules! on_pool {
    ($database:expr, $pool:ident => $query:expr) => {
        match $database {
            Database::Sqlite { pool: $pool, .. } => $query,
            Database::Postgres { pool: $pool, .. } => $query,
        }
    };
}

/// Runs a transaction of either database.
macro_rules! on_outbox {
    ($database:expr, $outbox:ident => $transaction:expr) => {
        match $database {
            Database::Sqlite { outbox: $outbox, .. } => $transaction,
            Database::Postgres { outbox: $outbox, .. } => $transaction,
        }
    };
}

impl Database {
    pub(crate) async fn book(&self, id: i64) -> sqlx::Result<Option<Book>> {
        let sql = "SELECT id, title, author_id, genre, year FROM books WHERE id = $1";
        on_pool!(self, pool => sqlx::query_as(sql).bind(id).fetch_optional(pool).await)
    }

    pub(crate) async fn author(&self, id: i64) -> sqlx::Result<Option<Author>> {
        let sql = "SELECT id, name FROM authors WHERE id = $1";
        on_pool!(self, pool => sqlx::query_as(sql).bind(id).fetch_optional(pool).await)
    }

    /// Returns all books, by title.
    pub(crate) async fn books_with_authors(&self) -> sqlx::Result<Vec<BookWithAuthor>> {
        let sql = "SELECT books.id, title, author_id, genre, year, authors.name AS author
                   FROM books JOIN authors ON authors.id = author_id
                   ORDER BY lower(title), books.id";
        on_pool!(self, pool => sqlx::query_as(sql).fetch_all(pool).await)
    }

    /// Returns the books of an author, oldest first.
    pub(crate) async fn books_of_author(&self, author_id: i64) -> sqlx::Result<Vec<Book>> {
        let sql = "SELECT id, title, author_id, genre, year FROM books
                   WHERE author_id = $1 ORDER BY year, id";
        on_pool!(self, pool => sqlx::query_as(sql).bind(author_id).fetch_all(pool).await)
    }

    /// Returns the `limit` newest books of a genre, newest first, or none if there is no such genre.
    pub(crate) async fn newest_books_of_genre(
        &self,
        genre: &str,
        limit: u32,
    ) -> sqlx::Result<Vec<BookWithAuthor>> {
        let sql = "SELECT books.id, title, author_id, genre, year, authors.name AS author
                   FROM books JOIN authors ON authors.id = author_id
                   WHERE genre = $1 ORDER BY year DESC, books.id DESC LIMIT $2";
        let limit = i64::from(limit);
        on_pool!(self, pool => sqlx::query_as(sql).bind(genre).bind(limit).fetch_all(pool).await)
    }

    /// Returns the authors of these books, each once.
    pub(crate) async fn authors_of_newest_books(&self, genre: &str, limit: u32) -> sqlx::Result<Vec<i64>> {
        let sql = "SELECT DISTINCT author_id FROM (SELECT author_id FROM books
                   WHERE genre = $1 ORDER BY year DESC, id DESC LIMIT $2) AS newest";
        let limit = i64::from(limit);
        on_pool!(self, pool => sqlx::query_scalar(sql).bind(genre).bind(limit).fetch_all(pool).await)
    }

    /// Returns the genres that have books, by name.
    pub(crate) async fn genres(&self) -> sqlx::Result<Vec<String>> {
        let sql = "SELECT DISTINCT genre FROM books ORDER BY genre";
        on_pool!(self, pool => sqlx::query_scalar(sql).fetch_all(pool).await)
    }

    /// Inserts a book.
    pub(crate) async fn insert_book(&self, new: NewBook) -> sqlx::Result<Written> {
        let sql = "INSERT INTO books (title, author_id, genre, year) VALUES ($1, $2, $3, $4)
                   RETURNING id, title, author_id, genre, year";
        on_outbox!(self, outbox => {
            let mut transaction = outbox.begin().await?;
            let query = sqlx::query_as(sql).bind(&new.title).bind(new.author_id).bind(&new.genre).bind(new.year);
            let book = query.fetch_one(&mut *transaction).await?;
            Written::after(book, transaction.commit().await)
        })
    }

    /// Replaces the book `id`. Returns `None` if there is no such book.
    pub(crate) async fn replace_book(&self, id: i64, new: NewBook) -> sqlx::Result<Option<Written>> {
        let sql = "UPDATE books SET title = $1, author_id = $2, genre = $3, year = $4 WHERE id = $5
                   RETURNING id, title, author_id, genre, year";
        on_outbox!(self, outbox => {
            let mut transaction = outbox.begin().await?;
            let query = sqlx::query_as(sql).bind(&new.title).bind(new.author_id).bind(&new.genre).bind(new.year);
            match query.bind(id).fetch_optional(&mut *transaction).await? {
                Some(book) => Written::after(book, transaction.commit().await).map(Some),
                None => Ok(None),
            }
        })
    }

    /// Deletes the book `id`. Returns `None` if there is no such book.
    pub(crate) async fn delete_book(&self, id: i64) -> sqlx::Result<Option<Written>> {
        let sql = "DELETE FROM books WHERE id = $1 RETURNING id, title, author_id, genre, year";
        on_outbox!(self, outbox => {
            let mut transaction = outbox.begin().await?;
            match sqlx::query_as(sql).bind(id).fetch_optional(&mut *transaction).await? {
                Some(book) => Written::after(book, transaction.commit().await).map(Some),
                None => Ok(None),
            }
        })
    }

    pub(crate) async fn close(&self) {
        on_pool!(self, pool => pool.close().await);
    }
}

impl Written {
    fn after(book: Book, committed: Result<(), CommitError>) -> sqlx::Result<Self> {
        match committed {
            Ok(()) => Ok(Self { book, invalidated: Ok(()) }),
            Err(CommitError::NotInvalidated(error)) => Ok(Self { book, invalidated: Err(error) }),
            Err(CommitError::NotCommitted(error)) => Err(error),
        }
    }
}
