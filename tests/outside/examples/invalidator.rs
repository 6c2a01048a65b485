//! A custom invalidator that purges a CDN in front of the cached pages.
//!
//! The CDN is a fake. Like a real one, it keeps pages with the keys that the origin sends in a header, and
//! removes all pages of a key when it is purged.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request};
use axum::response::IntoResponse;
use axum::routing::get;
use groupcache_axum::Pages;
use groupcache_core::{BoxBackend, Cache, Error, ErrorKind, Group, Groups, Invalidator, Model, Result};
use groupcache_memory::MemoryBackend;
use serde::{Deserialize, Serialize};
use tower::ServiceExt;

#[derive(Serialize, Deserialize)]
struct Book {
    id: i64,
    title: String,
}

impl Model for Book {
    const NAME: &'static str = "book";
    const GROUPS: &'static [&'static [&'static str]] = &[&["id"]];
}

/// The key of a group at the CDN. Hexadecimal digits are valid in a header, whatever the group.
fn surrogate_key(group: &Group) -> String {
    group.hash().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default)]
struct Cdn {
    pages: Mutex<HashMap<String, CdnPage>>,
    is_down: AtomicBool,
}

struct CdnPage {
    body: String,
    keys: Vec<String>,
}

impl Cdn {
    fn pages(&self) -> MutexGuard<'_, HashMap<String, CdnPage>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a page from the CDN, or from the origin if the CDN does not have it.
    async fn visit(
        &self,
        origin: &Router,
        path: &str,
    ) -> std::result::Result<String, Box<dyn std::error::Error>> {
        if let Some(page) = self.pages().get(path) {
            return Ok(page.body.clone());
        }
        let response = origin.clone().oneshot(Request::builder().uri(path).body(Body::empty())?).await?;
        let keys = response.headers().get("surrogate-key").and_then(|keys| keys.to_str().ok());
        let keys = keys.unwrap_or_default().split(' ').map(str::to_owned).collect();
        let body = String::from_utf8(to_bytes(response.into_body(), 1 << 20).await?.to_vec())?;
        self.pages().insert(path.to_owned(), CdnPage { body: body.clone(), keys });
        Ok(body)
    }

    /// Removes the pages of any number of keys in one call.
    async fn purge(&self, keys: &[String]) -> std::io::Result<()> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("no route to the CDN"));
        }
        self.pages().retain(|_, page| !page.keys.iter().any(|key| keys.contains(key)));
        Ok(())
    }
}

/// Returns the failure of a purge, as the CDN may then serve old pages.
impl Invalidator for Cdn {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        let keys: Vec<String> = groups.iter().map(surrogate_key).collect();
        let purged = self.purge(&keys).await;
        purged.map_err(|error| Error::new(ErrorKind::Unavailable, "cdn").with_source(error))
    }
}

static RUNS: AtomicU32 = AtomicU32::new(0);

async fn view_book(Path(id): Path<i64>) -> impl IntoResponse {
    let key = surrogate_key(&Group::new(Book::NAME).with("id", id));
    let body = format!("book {id} run {}", RUNS.fetch_add(1, Ordering::Relaxed));
    // The CDN may keep the page until it is purged. Browsers validate it on each visit.
    ([("surrogate-key", key), ("surrogate-control", "max-age=86400".to_owned())], body)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let cache: Cache = Cache::builder(BoxBackend::new(MemoryBackend::with_max_bytes(1 << 20))).build();
    let cdn = Arc::new(Cdn::default());
    // Invalidates the cache before the CDN in front of it. If both were notified at once, the CDN could
    // fetch the old page from the cache again, and keep it.
    let pages = Pages::builder(cache.clone()).downstream_invalidator(Arc::clone(&cdn)).build();
    let book = pages.against_model::<Book>().wrap(view_book);
    let origin: Router = pages.router().route("/books/{id}", get(book)).build()?;

    assert_eq!(cdn.visit(&origin, "/books/5").await?, "book 5 run 0");
    assert_eq!(cdn.visit(&origin, "/books/6").await?, "book 6 run 1");
    assert_eq!(cdn.visit(&origin, "/books/5").await?, "book 5 run 0");
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses()), (0, 2), "the second visit did not reach the origin");

    // After the commit, the pages of one book are stale in both, and those of the other in neither.
    let emma = Book { id: 5, title: "Emma".to_owned() };
    pages.saved(&emma).await?;
    assert_eq!(cdn.visit(&origin, "/books/5").await?, "book 5 run 2");
    assert_eq!(cdn.visit(&origin, "/books/6").await?, "book 6 run 1");

    // A CDN that is down is an error for the caller, and the cache is invalidated all the same.
    cdn.is_down.store(true, Ordering::Relaxed);
    let failed = pages.saved(&emma).await.expect_err("the CDN is down");
    assert_eq!((failed.kind(), failed.backend()), (ErrorKind::Unavailable, "cdn"));
    assert!(failed.is_transient());
    assert_eq!(cdn.visit(&origin, "/books/5").await?, "book 5 run 2", "the CDN still has the old page");

    // A retry is safe.
    cdn.is_down.store(false, Ordering::Relaxed);
    pages.saved(&emma).await?;
    assert_eq!(cdn.visit(&origin, "/books/5").await?, "book 5 run 3");

    // Without pages, a pair of invalidators does the same.
    let both = (cache, Arc::clone(&cdn));
    both.invalidate(&Group::new(Book::NAME).with("id", 6).into()).await?;
    assert_eq!(cdn.visit(&origin, "/books/6").await?, "book 6 run 4");
    println!("the cache and the CDN were invalidated together");
    Ok(())
}
