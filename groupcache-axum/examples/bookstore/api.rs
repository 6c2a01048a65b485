//! The JSON API.
//!
//! Its handlers invalidate nothing: the database does, for every write, whichever program made it.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::database::Written;
use crate::error::ApiError;
use crate::model::{Author, Book, NewBook, is_slug};
use crate::state::AppState;

pub(crate) async fn book(
    State(state): State<AppState>,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Json<Book>, ApiError> {
    let Path(id) = id?;
    let book = state.database.book(id).await?;
    book.map(Json).ok_or_else(|| no_such_book(id))
}

pub(crate) async fn author(
    State(state): State<AppState>,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Json<Author>, ApiError> {
    let Path(id) = id?;
    let author = state.database.author(id).await?;
    author.map(Json).ok_or_else(|| ApiError::NotFound(format!("there is no author {id}")))
}

pub(crate) async fn insert_book(
    State(state): State<AppState>,
    body: Result<Json<BookBody>, JsonRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Json(body) = body?;
    if body.id.is_some() {
        return Err(invalid("id", "must not be given for a new book"));
    }
    let new = body.checked()?;
    let author_id = new.author_id;
    let inserted = state.database.insert_book(new).await.map_err(|error| write_error(error, author_id))?;
    let book = acknowledged(inserted, "book")?;
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
        return Err(ApiError::BadRequest(format!("id: {other} in the body, {id} in the address")));
    }
    let new = body.checked()?;
    let author_id = new.author_id;
    let replaced =
        state.database.replace_book(id, new).await.map_err(|error| write_error(error, author_id))?;
    acknowledged(replaced.ok_or_else(|| no_such_book(id))?, "book").map(Json)
}

pub(crate) async fn delete_book(
    State(state): State<AppState>,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Json<Deleted>, ApiError> {
    let Path(id) = id?;
    let deleted = state.database.delete_book(id).await?.ok_or_else(|| no_such_book(id))?;
    Ok(Json(Deleted { deleted: acknowledged(deleted, "deleted")? }))
}

pub(crate) async fn no_such_route() -> ApiError {
    ApiError::NotFound("there is nothing at this address".to_owned())
}

pub(crate) async fn no_such_method() -> ApiError {
    ApiError::MethodNotAllowed
}

/// A book as clients send it. It has the fields of a `GET` response, so that a client can modify and return
/// one. Unknown fields are most likely mistakes, and are rejected.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BookBody {
    id: Option<i64>,
    title: String,
    author_id: i64,
    genre: String,
    year: i64,
}

/// The response to a `DELETE`.
#[derive(Serialize)]
pub(crate) struct Deleted {
    deleted: Book,
}

impl BookBody {
    /// Validates the fields. The database checks whether the author exists when the book is written.
    fn checked(self) -> Result<NewBook, ApiError> {
        if self.title.trim().is_empty() {
            return Err(invalid("title", "must not be empty"));
        }
        if self.title.chars().count() > TITLE_CHARS_MAX {
            return Err(invalid("title", format!("must not be longer than {TITLE_CHARS_MAX} characters")));
        }
        if self.title.chars().any(char::is_control) {
            return Err(invalid("title", "must not contain control characters"));
        }
        if self.genre.len() > GENRE_BYTES_MAX || !is_slug(&self.genre) {
            return Err(invalid(
                "genre",
                format!(
                    "must be lower-case words joined by hyphens, such as science-fiction, \
                     in at most {GENRE_BYTES_MAX} characters"
                ),
            ));
        }
        if !YEARS.contains(&self.year) {
            return Err(invalid("year", format!("must be from {} to {}", YEARS.start(), YEARS.end())));
        }
        Ok(NewBook { title: self.title, author_id: self.author_id, genre: self.genre, year: self.year })
    }
}

/// Returns the book of a write, or 503 if the cache did not acknowledge that its pages are stale.
fn acknowledged(written: Written, name: &'static str) -> Result<Book, ApiError> {
    match written.invalidated {
        Ok(()) => Ok(written.book),
        Err(error) => Err(ApiError::WriteNotInvalidated {
            reason: error.to_string(),
            state: (name, json!(written.book)),
        }),
    }
}

fn no_such_book(id: i64) -> ApiError {
    ApiError::NotFound(format!("there is no book {id}"))
}

fn invalid(field: &'static str, problem: impl Into<String>) -> ApiError {
    ApiError::Invalid { field, problem: problem.into() }
}

/// Converts an error of a write. The only foreign key of a book is its author.
fn write_error(error: sqlx::Error, author_id: i64) -> ApiError {
    match error.as_database_error() {
        Some(refused) if refused.is_foreign_key_violation() => {
            invalid("author_id", format!("there is no author {author_id}"))
        }
        _ => error.into(),
    }
}

const TITLE_CHARS_MAX: usize = 300;
const GENRE_BYTES_MAX: usize = 40;
/// The date formats of feeds have four digits for a year.
const YEARS: std::ops::RangeInclusive<i64> = -9999..=9999;
