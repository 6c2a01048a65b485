//! The SQLite database: opening, filling, reading and writing it.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{Sqlite, SqliteConnection, SqlitePool, Transaction};

use crate::model::{Author, Book, BookWithAuthor, NewBook};

#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Sqlite(#[from] sqlx::Error),
    #[error("reading the list of books failed: {0}")]
    Csv(#[from] csv::Error),
    #[error("the file has one of the tables `authors` and `books`, but not both")]
    ForeignTables,
}

/// Opens the database file. Creates and fills it if it has no tables.
pub(crate) async fn open(path: &Path) -> Result<SqlitePool, OpenError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(WAIT_LIMIT);
    let pool =
        SqlitePoolOptions::new().max_connections(8).acquire_timeout(WAIT_LIMIT).connect_with(options).await?;
    fill_if_empty(&pool).await?;
    Ok(pool)
}

pub(crate) async fn book(pool: &SqlitePool, id: i64) -> sqlx::Result<Option<Book>> {
    sqlx::query_as("SELECT id, title, author_id, genre, year FROM books WHERE id = ?")
        .bind(id)
        .fetch_optional(pool)
        .await
}

pub(crate) async fn author(pool: &SqlitePool, id: i64) -> sqlx::Result<Option<Author>> {
    sqlx::query_as("SELECT id, name FROM authors WHERE id = ?").bind(id).fetch_optional(pool).await
}

/// Returns all books, by title.
pub(crate) async fn books_with_authors(pool: &SqlitePool) -> sqlx::Result<Vec<BookWithAuthor>> {
    sqlx::query_as(
        "SELECT books.id, title, author_id, genre, year, authors.name AS author
         FROM books JOIN authors ON authors.id = author_id
         ORDER BY title COLLATE NOCASE, books.id",
    )
    .fetch_all(pool)
    .await
}

/// Returns the books of an author, oldest first.
pub(crate) async fn books_of_author(pool: &SqlitePool, author_id: i64) -> sqlx::Result<Vec<Book>> {
    sqlx::query_as(
        "SELECT id, title, author_id, genre, year FROM books
         WHERE author_id = ? ORDER BY year, id",
    )
    .bind(author_id)
    .fetch_all(pool)
    .await
}

/// Returns the `limit` newest books of a genre, newest first, or none if there is no such genre.
pub(crate) async fn newest_books_of_genre(
    pool: &SqlitePool,
    genre: &str,
    limit: u32,
) -> sqlx::Result<Vec<BookWithAuthor>> {
    sqlx::query_as(
        "SELECT books.id, title, author_id, genre, year, authors.name AS author
         FROM books JOIN authors ON authors.id = author_id
         WHERE genre = ? ORDER BY year DESC, books.id DESC LIMIT ?",
    )
    .bind(genre)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Returns the genres that have books, by name.
pub(crate) async fn genres(pool: &SqlitePool) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("SELECT DISTINCT genre FROM books ORDER BY genre").fetch_all(pool).await
}

/// Replaces the book `id`. Returns the old and the new book after the commit, or `None` if there is no such
/// book.
pub(crate) async fn replace_book(
    pool: &SqlitePool,
    id: i64,
    new: NewBook,
) -> sqlx::Result<Option<(Book, Book)>> {
    let mut transaction = begin_write(pool).await?;
    let Some(old) = book_in(&mut transaction, id).await? else {
        return Ok(None);
    };
    let new = new.with_id(id);
    sqlx::query("UPDATE books SET title = ?, author_id = ?, genre = ?, year = ? WHERE id = ?")
        .bind(&new.title)
        .bind(new.author_id)
        .bind(&new.genre)
        .bind(new.year)
        .bind(id)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Some((old, new)))
}

/// Inserts a book. Returns it with its id after the commit.
pub(crate) async fn insert_book(pool: &SqlitePool, new: NewBook) -> sqlx::Result<Book> {
    let mut transaction = begin_write(pool).await?;
    let inserted = sqlx::query("INSERT INTO books (title, author_id, genre, year) VALUES (?, ?, ?, ?)")
        .bind(&new.title)
        .bind(new.author_id)
        .bind(&new.genre)
        .bind(new.year)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(new.with_id(inserted.last_insert_rowid()))
}

/// Deletes the book `id`. Returns it after the commit, or `None` if there is no such book.
pub(crate) async fn delete_book(pool: &SqlitePool, id: i64) -> sqlx::Result<Option<Book>> {
    let mut transaction = begin_write(pool).await?;
    let Some(old) = book_in(&mut transaction, id).await? else {
        return Ok(None);
    };
    sqlx::query("DELETE FROM books WHERE id = ?").bind(id).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Some(old))
}

/// Begins a transaction that holds the write lock from the start. A transaction that began with a read would
/// fail at its first write, without waiting, if another write was committed in between.
async fn begin_write(pool: &SqlitePool) -> sqlx::Result<Transaction<'static, Sqlite>> {
    pool.begin_with("BEGIN IMMEDIATE").await
}

async fn book_in(connection: &mut SqliteConnection, id: i64) -> sqlx::Result<Option<Book>> {
    sqlx::query_as("SELECT id, title, author_id, genre, year FROM books WHERE id = ?")
        .bind(id)
        .fetch_optional(connection)
        .await
}

/// Creates and fills the tables in one transaction. If the process is killed, the file has no tables, and the
/// next start fills it. If two processes start at once, the second one finds the tables.
async fn fill_if_empty(pool: &SqlitePool) -> Result<(), OpenError> {
    let mut transaction = begin_write(pool).await?;
    let tables: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('authors', 'books')",
    )
    .fetch_one(&mut *transaction)
    .await?;
    match tables {
        0 => {}
        2 => return Ok(()),
        _ => return Err(OpenError::ForeignTables),
    }
    sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await?;
    fill(&mut transaction).await?;
    transaction.commit().await?;
    Ok(())
}

/// A row of the list of books.
#[derive(Deserialize)]
struct Row {
    id: i64,
    title: String,
    author: String,
    genre: String,
    year: i64,
}

/// Inserts the list of books. Authors get ids in the order of their first appearance.
async fn fill(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let mut author_ids = HashMap::new();
    for row in csv::Reader::from_reader(BOOKS_CSV.as_bytes()).deserialize() {
        let row: Row = row?;
        let author_id = match author_ids.get(&row.author) {
            Some(author_id) => *author_id,
            None => {
                let inserted = sqlx::query("INSERT INTO authors (name) VALUES (?)")
                    .bind(&row.author)
                    .execute(&mut *connection)
                    .await?;
                author_ids.insert(row.author, inserted.last_insert_rowid());
                inserted.last_insert_rowid()
            }
        };
        sqlx::query("INSERT INTO books (id, title, author_id, genre, year) VALUES (?, ?, ?, ?, ?)")
            .bind(row.id)
            .bind(row.title)
            .bind(author_id)
            .bind(row.genre)
            .bind(row.year)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

const BOOKS_CSV: &str = include_str!("books.csv");

/// `AUTOINCREMENT` never reuses the id of a deleted book: a URL shows the same book for ever, or none.
const SCHEMA: &str = "
CREATE TABLE authors (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE books (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    title     TEXT NOT NULL,
    author_id INTEGER NOT NULL REFERENCES authors (id),
    genre     TEXT NOT NULL,
    year      INTEGER NOT NULL
) STRICT;
CREATE INDEX books_by_author ON books (author_id, year, id);
CREATE INDEX books_by_genre ON books (genre, year DESC, id DESC);
";

/// How long to wait for the write of another connection, or for a free connection.
const WAIT_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::is_slug;

    #[test]
    fn the_list_of_books_is_valid() {
        let mut books_of_genre = HashMap::new();
        let rows = csv::Reader::from_reader(BOOKS_CSV.as_bytes()).into_deserialize();
        for (row, id) in rows.zip(1..) {
            let row: Row = row.expect("the row is valid");
            assert_eq!(row.id, id, "ids have no gaps");
            assert!(is_slug(&row.genre), "{} is a slug", row.genre);
            for text in [&row.title, &row.author] {
                assert!(!text.is_empty() && text.trim() == text, "{text:?}");
            }
            *books_of_genre.entry(row.genre).or_insert(0) += 1;
        }
        for (genre, books) in books_of_genre {
            assert!(books >= 5, "{genre} has only {books} books");
        }
    }
}
