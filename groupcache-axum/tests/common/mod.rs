//! What the tests share: pages in memory, two models, and requests.

#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(clippy::future_not_send, reason = "tests that need `Send` futures have `Send` services")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use groupcache_axum::Pages;
use groupcache_core::{Cache, Model};
use groupcache_memory::MemoryBackend;
use serde::{Deserialize, Serialize};
use tower::{Service, ServiceExt};

pub(crate) type TestPages = Pages<MemoryBackend>;

pub(crate) fn pages() -> TestPages {
    Pages::new(Cache::builder(MemoryBackend::with_max_bytes(16 << 20)).build())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Book {
    pub(crate) id: i64,
    pub(crate) title: String,
    pub(crate) author_id: i64,
}

impl Model for Book {
    const NAME: &'static str = "book";
    const GROUPS: &'static [&'static [&'static str]] = &[&["id"], &["author_id"]];
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Author {
    pub(crate) id: i64,
}

impl Model for Author {
    const NAME: &'static str = "author";
    const GROUPS: &'static [&'static [&'static str]] = &[&["id"]];
}

pub(crate) fn book(id: i64, author_id: i64) -> Book {
    Book { id, title: "A Title".to_owned(), author_id }
}

/// Counts the runs of handlers.
#[derive(Clone, Default)]
pub(crate) struct Runs(Arc<AtomicU64>);

impl Runs {
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

pub(crate) fn get(path: &str) -> Request {
    request("GET", path, &[])
}

pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::empty()).unwrap()
}

pub(crate) async fn send<S>(app: &S, request: Request) -> Response
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone,
{
    let Ok(response) = app.clone().oneshot(request).await;
    response
}

pub(crate) async fn text(response: Response) -> String {
    String::from_utf8(to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap()
}

/// Returns the body of the response to a `GET` of this path.
pub(crate) async fn body<S>(app: &S, path: &str) -> String
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone,
{
    text(send(app, get(path)).await).await
}

/// Returns the `Cache-Status`.
pub(crate) fn status(response: &Response) -> &str {
    response.headers()["cache-status"].to_str().unwrap()
}
