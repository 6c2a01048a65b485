//! The methods of [`Pages`] that invalidate pages.

use std::future::Future;
use std::sync::Arc;

use groupcache_core::{Arguments, Backend, Groups, Invalidator, Model, Result};

use crate::pages::Pages;
use crate::pages::changes::Changes;

/// Invalidating pages.
impl<B: Backend> Pages<B> {
    /// Invalidates the pages of a view with these path arguments.
    ///
    /// If the view is versioned, invalidates the generation of these arguments, with all pages that share it.
    /// Otherwise invalidates the pages with exactly these arguments, in every percent-encoding of their path.
    /// Arguments that the pages do not depend on are ignored; [`Arguments::new`] passes none.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if there is no such view or an
    /// argument is missing; otherwise the failure of the cache or of a downstream invalidator, after which
    /// stale pages may still be served.
    ///
    /// ```
    /// # use axum::{Router, routing::get};
    /// # use groupcache_axum::Pages;
    /// # use groupcache_core::Cache;
    /// # use groupcache_memory::MemoryBackend;
    /// # async fn is_hit(app: &Router, path: &str) -> bool {
    /// #     let request = axum::extract::Request::get(path).body(axum::body::Body::empty()).unwrap();
    /// #     let response = tower::ServiceExt::oneshot(app.clone(), request).await.unwrap();
    /// #     response.headers()["cache-status"] == "groupcache; hit"
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> groupcache_core::Result<()> {
    /// # let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build());
    /// let feed = pages.versioned(["feed_name"]).named("feed").wrap(|| async { "news" });
    /// let app: Router = pages.router().route("/feed/{format}/{feed_name}", get(feed)).build()?;
    ///
    /// is_hit(&app, "/feed/atom/politics").await; // Loads the page.
    /// pages.uncache("feed", [("feed_name", "politics")]).await?;
    /// assert!(!is_hit(&app, "/feed/atom/politics").await);
    /// assert!(pages.uncache("feed", [("format", "atom")]).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn uncache<A: Into<Arguments>>(
        &self,
        view: &str,
        arguments: A,
    ) -> impl Future<Output = Result<()>> + Send + use<B, A> {
        self.changes().view(view, arguments).invalidate()
    }

    /// Invalidates the pages at a path, for every host and query.
    ///
    /// A query in `path` is ignored. A path without pages is not an error. The pages of the same view at
    /// other paths stay.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if `path` is not absolute;
    /// otherwise as [`uncache`](Self::uncache).
    ///
    /// ```
    /// # use axum::{Router, routing::get};
    /// # use groupcache_axum::Pages;
    /// # use groupcache_core::Cache;
    /// # use groupcache_memory::MemoryBackend;
    /// # async fn is_hit(app: &Router, path: &str) -> bool {
    /// #     let request = axum::extract::Request::get(path).body(axum::body::Body::empty()).unwrap();
    /// #     let response = tower::ServiceExt::oneshot(app.clone(), request).await.unwrap();
    /// #     response.headers()["cache-status"] == "groupcache; hit"
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> groupcache_core::Result<()> {
    /// # let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build());
    /// let about = pages.tagged("static").named("about").wrap(|| async { "about us" });
    /// let app: Router = pages.router().route("/about/{topic}", get(about)).build()?;
    ///
    /// is_hit(&app, "/about/us").await; // Loads the page.
    /// is_hit(&app, "/about/them").await;
    /// pages.uncache_from_path("/about/us").await?;
    /// assert!(!is_hit(&app, "/about/us").await);
    /// assert!(is_hit(&app, "/about/them").await);
    /// # Ok(())
    /// # }
    /// ```
    pub fn uncache_from_path(&self, path: &str) -> impl Future<Output = Result<()>> + Send + use<B> {
        self.changes().path(path).invalidate()
    }

    /// Invalidates the pages with a tag. A tag without pages is not an error.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if the tag is empty; otherwise
    /// as [`uncache`](Self::uncache).
    ///
    /// ```
    /// # use axum::{Router, routing::get};
    /// # use groupcache_axum::Pages;
    /// # use groupcache_core::Cache;
    /// # use groupcache_memory::MemoryBackend;
    /// # async fn is_hit(app: &Router, path: &str) -> bool {
    /// #     let request = axum::extract::Request::get(path).body(axum::body::Body::empty()).unwrap();
    /// #     let response = tower::ServiceExt::oneshot(app.clone(), request).await.unwrap();
    /// #     response.headers()["cache-status"] == "groupcache; hit"
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> groupcache_core::Result<()> {
    /// # let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build());
    /// let about = pages.tagged("static").named("about").wrap(|| async { "about us" });
    /// let imprint = pages.tagged("static").named("imprint").wrap(|| async { "imprint" });
    /// let app: Router =
    ///     pages.router().route("/about", get(about)).route("/imprint", get(imprint)).build()?;
    ///
    /// is_hit(&app, "/about").await; // Loads the page.
    /// is_hit(&app, "/imprint").await;
    /// pages.uncache_from_tag("static").await?;
    /// assert!(!is_hit(&app, "/about").await);
    /// assert!(!is_hit(&app, "/imprint").await);
    /// # Ok(())
    /// # }
    /// ```
    pub fn uncache_from_tag(&self, tag: &str) -> impl Future<Output = Result<()>> + Send + use<B> {
        self.changes().tag(tag).invalidate()
    }

    /// Invalidates the pages that show this row, or all rows of its model, after it was inserted or changed.
    ///
    /// Call it after the commit. If fields by which the row is grouped may have changed, call
    /// [`saved_from`](Self::saved_from) instead.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Encode`](groupcache_core::ErrorKind::Encode) if the row does not serialize,
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if it lacks a field in
    /// [`Model::GROUPS`]; otherwise as [`uncache`](Self::uncache).
    ///
    /// ```
    /// # use axum::{Router, routing::get};
    /// # use groupcache_axum::Pages;
    /// # use groupcache_core::{Cache, Model};
    /// # use groupcache_memory::MemoryBackend;
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Book { id: i64, author_id: i64 }
    /// # impl Model for Book {
    /// #     const NAME: &'static str = "book";
    /// #     const GROUPS: &'static [&'static [&'static str]] = &[&["id"], &["author_id"]];
    /// # }
    /// # async fn is_hit(app: &Router, path: &str) -> bool {
    /// #     let request = axum::extract::Request::get(path).body(axum::body::Body::empty()).unwrap();
    /// #     let response = tower::ServiceExt::oneshot(app.clone(), request).await.unwrap();
    /// #     response.headers()["cache-status"] == "groupcache; hit"
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> groupcache_core::Result<()> {
    /// # let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build());
    /// let book = pages.against_model::<Book>().named("book").wrap(|| async { "a book" });
    /// let app: Router = pages.router().route("/books/{id}", get(book)).build()?;
    ///
    /// is_hit(&app, "/books/5").await; // Loads the page.
    /// is_hit(&app, "/books/6").await;
    /// pages.saved(&Book { id: 5, author_id: 7 }).await?;
    /// assert!(!is_hit(&app, "/books/5").await);
    /// assert!(is_hit(&app, "/books/6").await);
    /// # Ok(())
    /// # }
    /// ```
    pub fn saved<M: Model>(&self, row: &M) -> impl Future<Output = Result<()>> + Send + use<B, M> {
        self.changes().saved(row).invalidate()
    }

    /// Invalidates the pages that show the old row, the new row, or all rows of the model, after a row was
    /// changed.
    ///
    /// Call it after the commit.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// As [`saved`](Self::saved).
    ///
    /// ```
    /// # use axum::{Router, routing::get};
    /// # use groupcache_axum::Pages;
    /// # use groupcache_core::{Cache, Model};
    /// # use groupcache_memory::MemoryBackend;
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Book { id: i64, author_id: i64 }
    /// # impl Model for Book {
    /// #     const NAME: &'static str = "book";
    /// #     const GROUPS: &'static [&'static [&'static str]] = &[&["id"], &["author_id"]];
    /// # }
    /// # async fn is_hit(app: &Router, path: &str) -> bool {
    /// #     let request = axum::extract::Request::get(path).body(axum::body::Body::empty()).unwrap();
    /// #     let response = tower::ServiceExt::oneshot(app.clone(), request).await.unwrap();
    /// #     response.headers()["cache-status"] == "groupcache; hit"
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> groupcache_core::Result<()> {
    /// # let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build());
    /// let author = pages.against_model::<Book>().rename("id", "author_id");
    /// let author = author.named("author").wrap(|| async { "books" });
    /// let app: Router = pages.router().route("/authors/{id}", get(author)).build()?;
    ///
    /// is_hit(&app, "/authors/1").await; // Loads the page.
    /// is_hit(&app, "/authors/2").await;
    /// // The book moves from one author to the other.
    /// pages.saved_from(&Book { id: 5, author_id: 1 }, &Book { id: 5, author_id: 2 }).await?;
    /// assert!(!is_hit(&app, "/authors/1").await);
    /// assert!(!is_hit(&app, "/authors/2").await);
    /// # Ok(())
    /// # }
    /// ```
    pub fn saved_from<M: Model>(
        &self,
        old: &M,
        new: &M,
    ) -> impl Future<Output = Result<()>> + Send + use<B, M> {
        self.changes().saved_from(old, new).invalidate()
    }

    /// Invalidates the pages that show this row, or all rows of its model, after it was deleted.
    ///
    /// Call it after the commit.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// As [`saved`](Self::saved).
    pub fn deleted<M: Model>(&self, row: &M) -> impl Future<Output = Result<()>> + Send + use<B, M> {
        self.changes().deleted(row).invalidate()
    }

    /// Invalidates the pages that depend on any of these groups.
    ///
    /// For groups of your own, such as those of a [`strategy`](Self::strategy) or of
    /// [`depend`](groupcache_core::depend). No groups are not an error.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// The failure of the cache or of a downstream invalidator, after which stale pages may still be served.
    pub fn invalidate<G: Into<Groups>>(
        &self,
        groups: G,
    ) -> impl Future<Output = Result<()>> + Send + use<B, G> {
        self.changes().groups(groups).invalidate()
    }

    /// Returns an empty list of changes, to invalidate several in one round trip; see [`Changes`].
    pub fn changes(&self) -> Changes<B> {
        Changes::new(Arc::clone(&self.registry))
    }
}

/// Invalidates as [`Pages::invalidate`] does, so that other sources of changes can notify the pages.
#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Invalidator for Pages<B> {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        Self::invalidate(self, groups).await
    }
}
