//! Cached axum handlers that are fresh the moment their data changes.
//!
//! A handler is wrapped like with a decorator; its responses are kept until what they show changes,
//! and then exactly those are computed anew.
//!
//! ```
//! use axum::{Router, extract::Path, routing::get};
//! use groupcache_axum::Pages;
//! use groupcache_core::{Cache, Model};
//! use groupcache_memory::MemoryBackend;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Book { id: i64, title: String, author_id: i64 }
//!
//! impl Model for Book {
//!     const NAME: &'static str = "book";
//!     const GROUPS: &'static [&'static [&'static str]] = &[&["id"], &["author_id"]];
//! }
//!
//! async fn view_book(Path(id): Path<i64>) -> String { format!("book {id}") }
//! async fn view_author(Path(id): Path<i64>) -> String { format!("the books of {id}") }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(256 << 20)).build());
//!
//! let app: Router = pages
//!     .router()
//!     .route("/books/{id}", get(pages.against_model::<Book>().wrap(view_book)))
//!     .route("/authors/{id}", get(pages.against_model::<Book>().rename("id", "author_id").wrap(view_author)))
//!     .build()?;
//!
//! // After the commit of a change:
//! pages.saved(&Book { id: 5, title: "Emma".into(), author_id: 7 }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! Those of [`groupcache_core`], for responses. The cache never makes a request fail: whatever goes
//! wrong with it, the handler answers, and the error type of a service stays what it was.
//!
//! Only `GET` and `HEAD` are answered from the cache, and only final, complete, public responses are
//! stored: 200, 203, 204, 300, 301, 308, 404 and 410 without `Set-Cookie`, without `private` or
//! `no-store`, without `Vary: *`. Requests with `Authorization` pass by unless the view says
//! otherwise. The key has the view, the host, the path, the query, and the headers that the view's
//! responses vary on. Responses get a strong `ETag` and `Cache-Control: no-cache` unless the handler
//! said something else, so that browsers ask and get a 304. `Cache-Status` (RFC 9211) says on every
//! response whether it was a hit, or why not.
//!
//! # Limits
//!
//! A page that differs by cookie must say so: `.vary(["cookie"])`, or not be wrapped. Bodies over 1 MiB
//! ([`PagesBuilder::body_bytes_max`]) pass by; up to that much of a body of unannounced length is held
//! back while it is read, so endless ones other than `text/event-stream` should not be wrapped. The
//! `Host` header and what proxies say was asked for (`Forwarded`, `X-Forwarded-Proto` and their like) are
//! in the key, so that nobody's lie is another's page; the scheme of the connection itself is not. A
//! layer around middleware that rewrites requests sees them as they were before: what that middleware
//! leaves in extensions, such as a language that it took off the path, is not in the key. View names are
//! part of the keys: they must be unique among all applications that share a cache. What a `PUT` or
//! `POST` changes is not guessed from its path: tell. Requests' own `Cache-Control` is not looked at, as
//! nothing here is ever older than what was told. While a response passes that turns out not to be
//! storable, those who waited for it run the handler themselves; if it is a failure (500, 502, 503, 504)
//! that is not private, they get it too, and whoever comes later runs the handler again.
//!
//! # Cost
//!
//! That of [`groupcache_core`]: a hit is one round trip to the backend, and so is each of the methods
//! that tell of a change. A hit in memory is answered at once, without a future.

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

mod body;
mod by_route;
mod cache_status;
mod changes;
mod handler;
mod layer;
mod page_call;
mod pages;
mod pages_builder;
mod policy;
mod respond;
mod router;
mod serve;
mod stored_response;
mod view;
mod view_builder;

pub use crate::by_route::ByRoute;
pub use crate::changes::Changes;
pub use crate::handler::{CachedHandler, HandlerFuture};
pub use crate::layer::{CacheLayer, CacheService, ResponseFuture};
pub use crate::page_call::PageCall;
pub use crate::pages::Pages;
pub use crate::pages_builder::PagesBuilder;
pub use crate::router::PageRouter;
pub use crate::view_builder::ViewBuilder;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
