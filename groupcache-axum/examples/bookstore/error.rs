//! The errors of handlers: an HTML page for pages and feeds, JSON for the API.

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
    #[error("This page supports only GET.")]
    MethodNotAllowed,
    #[error("database access failed: {0}")]
    Database(#[from] sqlx::Error),
    #[error("writing an Atom feed failed: {0}")]
    Atom(#[from] atom_syndication::Error),
    #[error("writing an RSS feed failed: {0}")]
    Rss(#[from] rss::Error),
}

/// A path argument of the wrong type, such as a word for a number, is a page that does not exist.
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
                    "The page could not be loaded. Please try again later.".to_owned(),
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
    #[error("this address does not support the method")]
    MethodNotAllowed,
    #[error("{}", .0.body_text())]
    Body(#[from] JsonRejection),
    #[error("database access failed: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the cache was not invalidated: {0}")]
    NotInvalidated(groupcache_core::Error),
    /// The write is committed, but pages may still show the old state. `state` is what a successful response
    /// would contain.
    #[error("the write stands, but the cache was not invalidated: {reason}")]
    WriteNotInvalidated { reason: String, state: (&'static str, Value) },
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
            Self::Database(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::WriteNotInvalidated { .. } | Self::NotInvalidated(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut message = self.to_string();
        if status.is_server_error() {
            log(&self);
        }
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            "something went wrong in the bookstore".clone_into(&mut message);
        }
        let mut body = Map::from_iter([("error".to_owned(), json!(message))]);
        if let Self::WriteNotInvalidated { state: (name, state), .. } = self {
            body.insert(name.to_owned(), state);
        }
        (status, Json(body)).into_response()
    }
}

/// Prints a line to standard error. Unlike `eprintln!`, does not panic if it is closed.
pub(crate) fn log(line: impl Display) {
    let _written = writeln!(io::stderr(), "{line}");
}
