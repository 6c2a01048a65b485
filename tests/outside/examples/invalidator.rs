//! An invalidator of one's own: it purges a CDN that stands in front of the cached pages.
//!
//! The CDN is a fake one. Like real ones it keeps pages with the keys that the origin names in a
//! header, and forgets all pages of a key when it is told to.

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

/// What a group is called at the CDN: hexadecimal digits fit into a header whatever the group is.
fn surrogate_key(group: &Group) -> String {
    group.hash().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default)]
struct Cdn {
    pages: Mutex<HashMap<String, Kept>>,
    is_down: AtomicBool,
}

struct Kept {
    body: String,
    keys: Vec<String>,
}

impl Cdn {
    fn pages(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a visitor gets: from the CDN if it has the page, from the origin otherwise.
    async fn visit(
        &self,
        origin: &Router,
        path: &str,
    ) -> std::result::Result<String, Box<dyn std::error::Error>> {
        if let Some(kept) = self.pages().get(path) {
            return Ok(kept.body.clone());
        }
        let response = origin.clone().oneshot(Request::builder().uri(path).body(Body::empty())?).await?;
        let keys = response.headers().get("surrogate-key").and_then(|keys| keys.to_str().ok());
        let keys = keys.unwrap_or_default().split(' ').map(str::to_owned).collect();
        let body = String::from_utf8(to_bytes(response.into_body(), 1 << 20).await?.to_vec())?;
        self.pages().insert(path.to_owned(), Kept { body: body.clone(), keys });
        Ok(body)
    }

    /// One call for any number of keys, as CDNs offer.
    async fn purge(&self, keys: &[String]) -> std::io::Result<()> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("no route to the CDN"));
        }
        self.pages().retain(|_, kept| !kept.keys.iter().any(|key| keys.contains(key)));
        Ok(())
    }
}

/// A failure is the caller's to know: pages may be old.
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
    // Browsers ask each time, as they would without this; the CDN may keep it until it is told.
    ([("surrogate-key", key), ("surrogate-control", "max-age=86400".to_owned())], body)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let cache: Cache = Cache::builder(BoxBackend::new(MemoryBackend::with_max_bytes(1 << 20))).build();
    let cdn = Arc::new(Cdn::default());
    // First the cache, then the CDN in front of it: told at the same time, the CDN could be the first,
    // fetch the old page from the cache once more, and keep it.
    let pages = Pages::builder(cache.clone()).downstream_invalidator(Arc::clone(&cdn)).build();
    let book = pages.against_model::<Book>().wrap(view_book);
    let origin: Router = pages.router().route("/books/{id}", get(book)).build()?;

    assert_eq!(cdn.visit(&origin, "/books/5").await?, "book 5 run 0");
    assert_eq!(cdn.visit(&origin, "/books/6").await?, "book 6 run 1");
    assert_eq!(cdn.visit(&origin, "/books/5").await?, "book 5 run 0");
    let asked = cache.stats();
    assert_eq!((asked.hits, asked.misses()), (0, 2), "the second visit did not reach the origin");

    // After the commit: one book's pages are gone from both, the other's from none.
    let emma = Book { id: 5, title: "Emma".to_owned() };
    pages.saved(&emma).await?;
    assert_eq!(cdn.visit(&origin, "/books/5").await?, "book 5 run 2");
    assert_eq!(cdn.visit(&origin, "/books/6").await?, "book 6 run 1");

    // A CDN that cannot be told is an error to whoever saved, and the cache was told all the same.
    cdn.is_down.store(true, Ordering::Relaxed);
    let failed = pages.saved(&emma).await.expect_err("the CDN is down");
    assert_eq!((failed.kind(), failed.backend()), (ErrorKind::Unavailable, "cdn"));
    assert!(failed.is_transient());
    assert_eq!(cdn.visit(&origin, "/books/5").await?, "book 5 run 2", "as old as the error says");

    // Trying again does no harm, and helps.
    cdn.is_down.store(false, Ordering::Relaxed);
    pages.saved(&emma).await?;
    assert_eq!(cdn.visit(&origin, "/books/5").await?, "book 5 run 3");

    // Without pages: anything that tells of changes can talk to the same invalidator.
    let both = (cache, Arc::clone(&cdn));
    both.invalidate(&Group::new(Book::NAME).with("id", 6).into()).await?;
    assert_eq!(cdn.visit(&origin, "/books/6").await?, "book 6 run 4");
    println!("the cache and the CDN were told together");
    Ok(())
}
