//! The methods of [`Pages`] that wrap handlers. Each declares what makes a page stale.

use std::sync::Arc;

use groupcache_core::{Arguments, Backend, ByArguments, KeyStrategy, Model, Models, Result};

use crate::pages::Pages;
use crate::pages::router::PageRouter;
use crate::pages::view_builder::ViewBuilder;
use crate::serve::layer::CacheLayer;
use crate::view::page_call::PageCall;

/// Wrapping handlers.
impl<B: Backend> Pages<B> {
    /// Returns a router that checks its views when it is built.
    ///
    /// Views work in any router. Only this one reports mistakes before the first request, and knows the
    /// routes that [`uncache`](Self::uncache) needs for a view that is versioned by all arguments or not
    /// versioned.
    pub fn router<S: Clone + Send + Sync + 'static>(&self) -> PageRouter<S> {
        PageRouter::new(Arc::clone(&self.registry.problems))
    }

    /// Caches a page with a generation for each combination of these path arguments, which
    /// [`uncache`](Self::uncache) invalidates.
    ///
    /// `["feed_name"]` selects some arguments, [`ByArguments::all`] all, and [`ByArguments::none`] none: all
    /// pages of the view share one generation. [`shared`](ViewBuilder::shared) shares generations between
    /// views.
    ///
    /// An argument that the route lacks is an error of [`PageRouter::build`].
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
    /// for path in ["/feed/atom/politics", "/feed/rss/politics", "/feed/atom/sports"] {
    ///     is_hit(&app, path).await; // Loads the page.
    /// }
    /// pages.uncache("feed", [("feed_name", "politics")]).await?;
    /// assert!(!is_hit(&app, "/feed/atom/politics").await);
    /// assert!(!is_hit(&app, "/feed/rss/politics").await);
    /// assert!(is_hit(&app, "/feed/atom/sports").await);
    /// # Ok(())
    /// # }
    /// ```
    pub fn versioned(&self, arguments: impl Into<ByArguments>) -> ViewBuilder<B> {
        self.view().versioned(arguments)
    }

    /// Caches a page with a generation for each text that `version` makes of the path arguments, which
    /// [`uncache`](Self::uncache) invalidates.
    ///
    /// A page for which `version` returns `None` is not cached. Views with the same `label` share their
    /// generations.
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
    /// let archive = pages
    ///     .versioned_by("decade", |arguments| {
    ///         let year: u32 = arguments.get("year")?.parse().ok()?;
    ///         Some((year / 10).to_string())
    ///     })
    ///     .named("archive")
    ///     .wrap(|| async { "old news" });
    /// let app: Router = pages.router().route("/archive/{year}", get(archive)).build()?;
    ///
    /// is_hit(&app, "/archive/1995").await; // Loads the page.
    /// assert!(is_hit(&app, "/archive/1995").await);
    /// pages.uncache("archive", [("year", 1999)]).await?;
    /// assert!(!is_hit(&app, "/archive/1995").await);
    /// # Ok(())
    /// # }
    /// ```
    pub fn versioned_by<F>(&self, label: impl Into<String>, version: F) -> ViewBuilder<B>
    where
        F: Fn(&Arguments) -> Option<String> + Send + Sync + 'static,
    {
        self.view().versioned_by(label, version)
    }

    /// Caches a page until [`uncache_from_tag`](Self::uncache_from_tag) invalidates its tag.
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
    /// let app: Router = pages.router().route("/about", get(about)).build()?;
    ///
    /// is_hit(&app, "/about").await; // Loads the page.
    /// assert!(is_hit(&app, "/about").await);
    /// pages.uncache_from_tag("static").await?;
    /// assert!(!is_hit(&app, "/about").await);
    /// # Ok(())
    /// # }
    /// ```
    pub fn tagged(&self, tag: impl Into<String>) -> ViewBuilder<B> {
        self.view().tagged(tag)
    }

    /// Caches a page that shows one row of a model, or the rows that share the values of some fields, until
    /// such a row is [`saved`](Self::saved) or [`deleted`](Self::deleted).
    ///
    /// The path arguments are the fields of the same names; [`on`](ViewBuilder::on) selects some of them, and
    /// [`rename`](ViewBuilder::rename) maps one to a field of another name. The fields must be one of the
    /// sets in [`Model::GROUPS`].
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
    /// let author = pages.against_model::<Book>().rename("id", "author_id");
    /// let author = author.named("author").wrap(|| async { "the books of an author" });
    /// let app: Router =
    ///     pages.router().route("/books/{id}", get(book)).route("/authors/{id}", get(author)).build()?;
    ///
    /// for path in ["/books/5", "/books/6", "/authors/7"] {
    ///     is_hit(&app, path).await; // Loads the page.
    /// }
    /// pages.saved(&Book { id: 5, author_id: 7 }).await?;
    /// assert!(!is_hit(&app, "/books/5").await);
    /// assert!(!is_hit(&app, "/authors/7").await);
    /// assert!(is_hit(&app, "/books/6").await);
    /// # Ok(())
    /// # }
    /// ```
    pub fn against_model<M: Model + 'static>(&self) -> ViewBuilder<B> {
        self.view().against_model::<M>()
    }

    /// Caches a page that shows many rows of a model, or of a tuple of models, until any row of any of them
    /// is saved or deleted.
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
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Author { id: i64 }
    /// # impl Model for Author {
    /// #     const NAME: &'static str = "author";
    /// #     const GROUPS: &'static [&'static [&'static str]] = &[&["id"]];
    /// # }
    /// # async fn is_hit(app: &Router, path: &str) -> bool {
    /// #     let request = axum::extract::Request::get(path).body(axum::body::Body::empty()).unwrap();
    /// #     let response = tower::ServiceExt::oneshot(app.clone(), request).await.unwrap();
    /// #     response.headers()["cache-status"] == "groupcache; hit"
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> groupcache_core::Result<()> {
    /// # let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build());
    /// let books = pages.against_models::<(Book, Author)>().named("books").wrap(|| async { "all books" });
    /// let app: Router = pages.router().route("/books", get(books)).build()?;
    ///
    /// is_hit(&app, "/books").await; // Loads the page.
    /// assert!(is_hit(&app, "/books").await);
    /// pages.saved(&Author { id: 7 }).await?;
    /// assert!(!is_hit(&app, "/books").await);
    /// # Ok(())
    /// # }
    /// ```
    pub fn against_models<L: Models>(&self) -> ViewBuilder<B> {
        self.view().against_models::<L>()
    }

    /// Caches a page under the key and the groups of a key strategy.
    ///
    /// View, host, path, and the values of the headers that responses vary on are always added to the key. A
    /// page for which the strategy fails is not cached.
    ///
    /// ```
    /// # use axum::{Router, routing::get};
    /// # use groupcache_axum::Pages;
    /// # use groupcache_core::{Address, Cache, Call, Group, Key};
    /// # use groupcache_memory::MemoryBackend;
    /// # use groupcache_axum::PageCall;
    /// # async fn is_hit(app: &Router, path: &str) -> bool {
    /// #     let request = axum::extract::Request::get(path).body(axum::body::Body::empty()).unwrap();
    /// #     let response = tower::ServiceExt::oneshot(app.clone(), request).await.unwrap();
    /// #     response.headers()["cache-status"] == "groupcache; hit"
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> groupcache_core::Result<()> {
    /// # let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build());
    /// // Not `call.key()`: tracking parameters in the query do not change the page.
    /// let landing = |call: &PageCall| {
    ///     let key = Key::of(&(call.name(), call.uri().path()))?;
    ///     Ok(Address { key, groups: Group::new("campaign").into() })
    /// };
    /// let view = pages.strategy(landing).named("landing").wrap(|| async { "welcome" });
    /// let app: Router = pages.router().route("/landing", get(view)).build()?;
    ///
    /// is_hit(&app, "/landing?utm_source=a").await; // Loads the page.
    /// assert!(is_hit(&app, "/landing?utm_source=b").await);
    /// pages.invalidate(Group::new("campaign")).await?;
    /// assert!(!is_hit(&app, "/landing?utm_source=b").await);
    /// # Ok(())
    /// # }
    /// ```
    pub fn strategy(&self, strategy: impl KeyStrategy<PageCall> + 'static) -> ViewBuilder<B> {
        self.view().strategy(strategy)
    }

    /// Returns a layer that caches the responses of the service it wraps under the groups of `strategy`; see
    /// [`CacheLayer`].
    ///
    /// `name` is part of the keys. It must be unique among views and layers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if the name is empty or taken.
    ///
    /// ```
    /// # use axum::{Router, routing::get};
    /// # use groupcache_axum::Pages;
    /// # use groupcache_core::{ByTag, Cache};
    /// # use groupcache_memory::MemoryBackend;
    /// # async fn is_hit(app: &Router, path: &str) -> bool {
    /// #     let request = axum::extract::Request::get(path).body(axum::body::Body::empty()).unwrap();
    /// #     let response = tower::ServiceExt::oneshot(app.clone(), request).await.unwrap();
    /// #     response.headers()["cache-status"] == "groupcache; hit"
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> groupcache_core::Result<()> {
    /// # let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build());
    /// let router: Router = Router::new()
    ///     .route("/", get(|| async { "welcome" }))
    ///     .route("/about", get(|| async { "about us" }))
    ///     .layer(pages.layer("site", ByTag::new("site"))?);
    ///
    /// is_hit(&router, "/about").await; // Loads the page.
    /// assert!(is_hit(&router, "/about").await);
    /// pages.uncache_from_tag("site").await?;
    /// assert!(!is_hit(&router, "/about").await);
    /// # Ok(())
    /// # }
    /// ```
    pub fn layer(
        &self,
        name: impl Into<String>,
        strategy: impl KeyStrategy<PageCall> + 'static,
    ) -> Result<CacheLayer<B>> {
        self.strategy(strategy).named(name).into_layer()
    }

    fn view(&self) -> ViewBuilder<B> {
        ViewBuilder::new(Arc::clone(&self.registry))
    }
}
