//! What can go wrong while answering, and how it is told: as a page to people, as JSON to
//! programs.

use std::fmt::Display;
use std::io::{self, Write};

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::layout;

/// An error of a page or a feed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    BadRequest(String),
    #[error("This page only answers to GET.")]
    MethodNotAllowed,
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("writing an Atom feed: {0}")]
    Atom(#[from] atom_syndication::Error),
    #[error("writing an RSS feed: {0}")]
    Rss(#[from] rss::Error),
}

/// A part of the path that is not of the right kind, such as a word for a number, names
/// nothing we have.
impl From<PathRejection> for PageError {
    fn from(_: PathRejection) -> Self {
        Self::NotFound("There is no page at this address.".to_owned())
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let (status, title, text) = match &self {
            Self::NotFound(text) => (StatusCode::NOT_FOUND, "Not found", text.clone()),
            Self::BadRequest(text) => (StatusCode::BAD_REQUEST, "Bad request", text.clone()),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", self.to_string())
            }
            Self::Database(_) | Self::Atom(_) | Self::Rss(_) => {
                log(&self);
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "Something went wrong",
                    "This is our fault, not yours. Please try again later.".to_owned(),
                )
            }
        };
        (status, layout::error_page(status, title, &text)).into_response()
    }
}

/// An error of the API.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    BadRequest(String),
    #[error("{field}: {problem}")]
    Invalid { field: &'static str, problem: String },
    #[error("there is no such method at this address")]
    MethodNotAllowed,
    #[error("{}", .0.body_text())]
    Body(#[from] JsonRejection),
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the cache was not told: {0}")]
    NotUncached(groupcache_core::Error),
    #[error("a write: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
    /// The write is in the database and stays there, but the cache may still show what was
    /// before. `state` is what the answer would have told, had it gone well.
    #[error("the write stands, but the cache was not told: {reason}")]
    CacheNotTold { reason: String, state: (&'static str, Value) },
}

impl From<PathRejection> for ApiError {
    fn from(_: PathRejection) -> Self {
        Self::NotFound("there is nothing at this address".to_owned())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Body(rejection) => rejection.status(),
            Self::Database(_) | Self::Interrupted(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::CacheNotTold { .. } | Self::NotUncached(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut message = self.to_string();
        if status.is_server_error() {
            log(&self);
        }
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            "something went wrong in the bookstore".clone_into(&mut message);
        }
        let mut body = Map::from_iter([("error".to_owned(), json!(message))]);
        if let Self::CacheNotTold { state: (name, state), .. } = self {
            body.insert(name.to_owned(), state);
        }
        (status, Json(body)).into_response()
    }
}

/// Like `eprintln!`, but a closed standard error is no reason to panic.
pub(crate) fn log(line: impl Display) {
    let _written = writeln!(io::stderr(), "{line}");
}
