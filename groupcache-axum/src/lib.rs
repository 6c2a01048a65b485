//! Caches the responses of axum handlers until the data they show changes.
//!
//! ```
//! use axum::body::Body;
//! use axum::extract::{Path, Request};
//! use axum::{Router, routing::get};
//! use groupcache_axum::Pages;
//! use groupcache_core::{Cache, Model};
//! use groupcache_memory::MemoryBackend;
//! use serde::{Deserialize, Serialize};
//! use tower::ServiceExt;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Book { id: i64, title: String, author_id: i64 }
//!
//! // Pages show one book, or the books of one author.
//! impl Model for Book {
//!     const NAME: &'static str = "book";
//!     const GROUPS: &'static [&'static [&'static str]] = &[&["id"], &["author_id"]];
//! }
//!
//! async fn view_book(Path(id): Path<i64>) -> String { format!("book {id}") }
//! async fn view_author(Path(id): Path<i64>) -> String { format!("the books of author {id}") }
//!
//! async fn cache_status(app: &Router, path: &str) -> String {
//!     let request = Request::get(path).body(Body::empty()).expect("the request is valid");
//!     let Ok(response) = app.clone().oneshot(request).await;
//!     response.headers()["cache-status"].to_str().expect("the header is ASCII").to_owned()
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> groupcache_core::Result<()> {
//! let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(256 << 20)).build());
//! let app: Router = pages
//!     .router()
//!     .route("/books/{id}", get(pages.against_model::<Book>().wrap(view_book)))
//!     .route(
//!         "/authors/{id}",
//!         get(pages.against_model::<Book>().rename("id", "author_id").wrap(view_author)),
//!     )
//!     .build()?;
//!
//! assert_eq!(cache_status(&app, "/books/5").await, "groupcache; fwd=uri-miss; stored");
//! assert_eq!(cache_status(&app, "/books/5").await, "groupcache; hit");
//! assert_eq!(cache_status(&app, "/books/6").await, "groupcache; fwd=uri-miss; stored");
//!
//! // After the commit of a change:
//! pages.saved(&Book { id: 5, title: "Emma".into(), author_id: 7 }).await?;
//!
//! assert_eq!(cache_status(&app, "/books/5").await, "groupcache; fwd=stale; detail=invalidated; stored");
//! assert_eq!(cache_status(&app, "/books/6").await, "groupcache; hit");
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! * **Safety.** If an invalidation returned `Ok` before a request started, the response to that request is
//!   never a page whose load began before that invalidation. The other guarantees of [`groupcache_core`] hold
//!   for pages, too.
//! * **Failure.** The cache never makes a request fail. If it cannot be used, the handler runs. The error
//!   type of a service stays its own.
//! * **Privacy.** Only `GET` and `HEAD` are served from the cache. Only responses with status 200, 203, 204,
//!   300, 301, 308, 404 or 410 are stored, and none with `Set-Cookie`, `Vary: *`, or `private` or `no-store` in
//!   `Cache-Control`. A request with `Authorization` bypasses the cache unless the view
//!   [allows it](ViewBuilder::allow_authorization).
//! * **Separation.** The key contains the view, the host, the path, the query, the request's target as
//!   proxies describe it (`Forwarded`, `X-Forwarded-Proto` and similar headers), and the request headers that
//!   the view's responses vary on.
//! * **Validation.** A stored page with status 200 has a strong `ETag`, and a matching conditional request gets
//!   a 304. A stored page has `Cache-Control: no-cache` unless the handler sets `Cache-Control` or `Expires`,
//!   so that browsers revalidate.
//! * **Transparency.** Every response of a view has a `Cache-Status` (RFC 9211): a hit, or the reason why not.
//!
//! # Limits
//!
//! * Invalidation is explicit. A `PUT` or `POST` does not invalidate the page at its path.
//! * View names are part of the keys: they must be unique among all applications that share a store.
//! * A page that differs by cookie must declare that with `.vary(["cookie"])` or in `Vary`, or must not be
//!   wrapped.
//! * Responses with a body of more than 1 MiB ([`PagesBuilder::body_bytes_max`]) bypass the cache. Up to that
//!   many bytes of a body without an announced length are buffered, so do not wrap endless responses other
//!   than `text/event-stream`, which always bypasses the cache.
//! * The scheme of the connection itself is not part of the key.
//! * A layer around middleware that rewrites requests sees the original request. What such a middleware puts
//!   into extensions, such as a language that it removed from the path, is not part of the key.
//! * The `Cache-Control` of requests is ignored: a cached page is never older than the last invalidation.
//! * Requests that wait for a load share its response if it is stored, or if it is a failure (500, 502, 503,
//!   504) that is not private. Otherwise each runs the handler itself. Failures are not stored: later
//!   requests run the handler.
//!
//! # Cost
//!
//! | operation | round trips to the backend |
//! |---|---|
//! | hit | 1, for any number of groups |
//! | miss | 1, and 1 if a group has no generation; the response is stored in the background |
//! | request that bypasses the cache | 0 |
//! | [`saved`](Pages::saved), [`uncache`](Pages::uncache) and all other invalidations | 1, for any number of pages |
//!
//! A hit in memory is served without waiting and without a boxed future. [`groupcache_core`] lists the costs
//! of groups that a handler declares with [`depend`](groupcache_core::depend).

#![warn(
    missing_docs,
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::exhaustive_enums,
    clippy::unwrap_used
)]
#![doc(test(attr(deny(unused_must_use))))]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should"))]

mod http;
mod pages;
mod serve;
mod view;

pub use crate::pages::changes::Changes;
pub use crate::pages::router::PageRouter;
pub use crate::pages::view_builder::ViewBuilder;
pub use crate::pages::{Pages, PagesBuilder};
pub use crate::serve::handler::{CachedHandler, HandlerFuture};
pub use crate::serve::layer::{CacheLayer, CacheService, ResponseFuture};
pub use crate::view::by_route::ByRoute;
pub use crate::view::page_call::PageCall;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
