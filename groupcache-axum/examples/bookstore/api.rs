//! The JSON API.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::AppState;
use crate::database;
use crate::error::ApiError;
use crate::model::{Author, Book, NewBook, is_slug};

const LONGEST_TITLE: usize = 300;
const LONGEST_GENRE: usize = 40;
/// Feeds write dates, and their formats have four digits for a year.
const YEARS: std::ops::RangeInclusive<i64> = -9999..=9999;

pub(crate) async fn book(
    State(state): State<AppState>,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Json<Book>, ApiError> {
    let Path(id) = id?;
    let book = database::book(&state.pool, id).await?;
    book.map(Json).ok_or_else(|| no_such_book(id))
}

pub(crate) async fn author(
    State(state): State<AppState>,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Json<Author>, ApiError> {
    let Path(id) = id?;
    let author = database::author(&state.pool, id).await?;
    author.map(Json).ok_or_else(|| ApiError::NotFound(format!("there is no author {id}")))
}

pub(crate) async fn insert_book(
    State(state): State<AppState>,
    body: Result<Json<BookBody>, JsonRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Json(body) = body?;
    if body.id.is_some() {
        return Err(invalid("id", "a new book is given its id, it brings none"));
    }
    let new = body.checked()?;
    let pool = state.pool.clone();
    let write = async move {
        let author_id = new.author_id;
        let inserted = database::insert_book(&pool, new).await;
        inserted.map_err(|error| write_error(error, author_id))
    };
    let book = to_the_end(state, write, |book| (None, Some(book))).await?;
    let location = format!("/api/books/{}", book.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(book)))
}

pub(crate) async fn replace_book(
    State(state): State<AppState>,
    id: Result<Path<i64>, PathRejection>,
    body: Result<Json<BookBody>, JsonRejection>,
) -> Result<Json<Book>, ApiError> {
    let Path(id) = id?;
    let Json(body) = body?;
    if let Some(other) = body.id.filter(|other| *other != id) {
        return Err(ApiError::BadRequest(format!("id: the body says {other}, the address says {id}")));
    }
    let new = body.checked()?;
    let pool = state.pool.clone();
    let write = async move {
        let author_id = new.author_id;
        let replaced = database::replace_book(&pool, id, new).await;
        replaced.map_err(|error| write_error(error, author_id))?.ok_or_else(|| no_such_book(id))
    };
    let (_, new) = to_the_end(state, write, |(old, new)| (Some(old), Some(new))).await?;
    Ok(Json(new))
}

pub(crate) async fn delete_book(
    State(state): State<AppState>,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Json<Deleted>, ApiError> {
    let Path(id) = id?;
    let pool = state.pool.clone();
    let write = async move {
        let deleted = database::delete_book(&pool, id).await?;
        deleted.ok_or_else(|| no_such_book(id))
    };
    let deleted = to_the_end(state, write, |book| (Some(book), None)).await?;
    Ok(Json(Deleted { deleted }))
}

pub(crate) async fn no_such_route() -> ApiError {
    ApiError::NotFound("there is nothing at this address".to_owned())
}

pub(crate) async fn no_such_method() -> ApiError {
    ApiError::MethodNotAllowed
}

/// A book as clients send it. Its fields are what `GET` gives, so that an answer can be
/// changed and sent back; one that is none of ours is most likely a mistake and is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BookBody {
    id: Option<i64>,
    title: String,
    author_id: i64,
    genre: String,
    year: i64,
}

/// What is left to tell of a book that is gone.
#[derive(Serialize)]
pub(crate) struct Deleted {
    deleted: Book,
}

impl BookBody {
    /// The book, if all its fields make sense. Whether the author exists is left to the
    /// database, which alone can tell at the moment of the write.
    fn checked(self) -> Result<NewBook, ApiError> {
        if self.title.trim().is_empty() {
            return Err(invalid("title", "must not be empty"));
        }
        if self.title.chars().count() > LONGEST_TITLE {
            return Err(invalid("title", format!("must not be longer than {LONGEST_TITLE} characters")));
        }
        if self.title.chars().any(char::is_control) {
            return Err(invalid("title", "must not contain control characters"));
        }
        if self.genre.len() > LONGEST_GENRE || !is_slug(&self.genre) {
            return Err(invalid(
                "genre",
                format!(
                    "must be lower-case words joined by hyphens, such as science-fiction, \
                     in at most {LONGEST_GENRE} characters"
                ),
            ));
        }
        if !YEARS.contains(&self.year) {
            return Err(invalid("year", format!("must be from {} to {}", YEARS.start(), YEARS.end())));
        }
        Ok(NewBook { title: self.title, author_id: self.author_id, genre: self.genre, year: self.year })
    }
}

/// Runs a write and what follows its commit, whether or not the client stays.
///
/// A client that disconnects takes its request's future with it, wherever that happens to be.
/// Between the commit and the word to the cache that would leave pages that nobody ever makes
/// anew. So both run in a task of their own, and the end of the program waits for that task.
///
/// `old_and_new` finds the book before and after the write in what the write returns.
async fn to_the_end<T: Send + 'static>(
    state: AppState,
    write: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    old_and_new: fn(&T) -> (Option<&Book>, Option<&Book>),
) -> Result<T, ApiError> {
    let running = state.writes.clone().read_owned().await;
    let task = tokio::spawn(async move {
        let _running = running;
        let written = write.await?;
        // The write is committed from here on.
        let (old, new) = old_and_new(&written);
        if let Err(error) = announce(&state, old, new).await {
            return Err(ApiError::CacheNotTold {
                reason: error.to_string(),
                state: match new {
                    Some(new) => ("book", json!(new)),
                    None => ("deleted", json!(old)),
                },
            });
        }
        Ok(written)
    });
    task.await?
}

/// Tells the cache, in one round trip, what a committed write has changed: `old` is the book as it
/// was, `new` as it is now. A book that moved to another author or genre concerns both.
async fn announce(state: &AppState, old: Option<&Book>, new: Option<&Book>) -> groupcache_core::Result<()> {
    let mut changes = state.pages.changes();
    for book in [old, new].into_iter().flatten() {
        // All books, this book, this author's books: what the model says.
        changes = changes.saved(book).view("feed", [("feed_name", &book.genre)]);
    }
    changes.invalidate().await
}

fn no_such_book(id: i64) -> ApiError {
    ApiError::NotFound(format!("there is no book {id}"))
}

fn invalid(field: &'static str, problem: impl Into<String>) -> ApiError {
    ApiError::Invalid { field, problem: problem.into() }
}

/// The only reference a book has is the one to its author.
fn write_error(error: sqlx::Error, author_id: i64) -> ApiError {
    match error.as_database_error() {
        Some(refused) if refused.is_foreign_key_violation() => {
            invalid("author_id", format!("there is no author {author_id}"))
        }
        _ => error.into(),
    }
}
