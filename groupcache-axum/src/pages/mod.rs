//! [`Pages`], the page cache of an application, and its builder. `wrap.rs` has the methods that wrap
//! handlers, `invalidate.rs` those that invalidate pages.

pub(crate) mod changes;
mod invalidate;
pub(crate) mod router;
pub(crate) mod view_builder;
mod wrap;

use std::fmt;
use std::sync::Arc;

use groupcache_core::{Backend, BoxBackend, BoxInvalidator, Cache, Invalidator};

use crate::view::registry::Registry;

/// The page cache of an application.
///
/// Wraps handlers: each method from [`versioned`](Self::versioned) to [`strategy`](Self::strategy) declares
/// what makes a page stale, and [`wrap`](crate::ViewBuilder::wrap) then takes the handler. Invalidates pages,
/// from anywhere in the application: [`saved`](Self::saved), [`uncache`](Self::uncache), and the methods next
/// to them.
///
/// Cheap to clone. Clones share the cache and the views.
///
/// Every page also depends on the group of its path, for [`uncache_from_path`](Self::uncache_from_path). The
/// page of a view that is not versioned also depends on a group of the view and its arguments, for
/// [`uncache`](Self::uncache).
///
/// ```
/// # use axum::{Router, extract::Path, routing::get};
/// # use groupcache_axum::Pages;
/// # use groupcache_core::{Cache, Model};
/// # use groupcache_memory::MemoryBackend;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct Book { id: i64 }
/// # impl Model for Book {
/// #     const NAME: &'static str = "book";
/// #     const GROUPS: &'static [&'static [&'static str]] = &[&["id"]];
/// # }
/// async fn view_book(Path(id): Path<i64>) -> String {
///     format!("book {id}")
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> groupcache_core::Result<()> {
/// let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(256 << 20)).build());
/// let app: Router = pages
///     .router()
///     .route("/books/{id}", get(pages.against_model::<Book>().wrap(view_book)))
///     .build()?;
///
/// // After the commit of a change:
/// pages.saved(&Book { id: 5 }).await?;
/// # let _ = app;
/// # Ok(())
/// # }
/// ```
pub struct Pages<B = BoxBackend> {
    registry: Arc<Registry<B>>,
}

/// Builds [`Pages`].
///
/// ```
/// use groupcache_axum::Pages;
/// use groupcache_core::{Cache, RecordingInvalidator};
/// use groupcache_memory::MemoryBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> groupcache_core::Result<()> {
/// let cdn = RecordingInvalidator::default();
/// let pages = Pages::builder(Cache::builder(MemoryBackend::with_max_bytes(256 << 20)).build())
///     .downstream_invalidator(cdn.clone())
///     .body_bytes_max(4 << 20)
///     .build();
///
/// pages.uncache_from_tag("static").await?;
/// assert_eq!(cdn.recorded().len(), 1);
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing before `build`"]
pub struct PagesBuilder<B = BoxBackend> {
    cache: Cache<B>,
    invalidator: BoxInvalidator,
    body_bytes_max: usize,
}

impl<B: Backend> Pages<B> {
    /// Returns a page cache on `cache`, with the defaults of [`PagesBuilder`].
    #[must_use]
    pub fn new(cache: Cache<B>) -> Self {
        Self::builder(cache).build()
    }

    /// Returns a builder of a page cache on `cache`.
    pub fn builder(cache: Cache<B>) -> PagesBuilder<B> {
        let invalidator = BoxInvalidator::new(cache.clone());
        PagesBuilder { cache, invalidator, body_bytes_max: BODY_BYTES_MAX }
    }

    /// Returns the cache behind the pages.
    ///
    /// Invalidate through `Pages`, not through this cache:
    /// [downstream invalidators](PagesBuilder::downstream_invalidator) are notified by `Pages` only.
    #[must_use]
    pub fn cache(&self) -> &Cache<B> {
        &self.registry.cache
    }
}

impl<B: Backend> PagesBuilder<B> {
    /// Also notifies `next` of every invalidation, after the cache and after the invalidators that were added
    /// before.
    ///
    /// For caches in front of this application, such as a CDN. A CDN that was notified first could fetch the
    /// old page from this cache again. An invalidation is acknowledged when all invalidators have
    /// acknowledged it; `next` is notified even if one before it fails.
    ///
    /// Defaults to the cache alone.
    pub fn downstream_invalidator(mut self, next: impl Invalidator) -> Self {
        self.invalidator = BoxInvalidator::new((self.invalidator, next));
        self
    }

    /// Sets the size of the largest response body to store, in bytes. A response with a larger body bypasses
    /// the cache.
    ///
    /// Up to this many bytes of a body without an announced length are buffered before the response is sent.
    /// [`ViewBuilder::body_bytes_max`](crate::ViewBuilder::body_bytes_max) takes precedence.
    ///
    /// Defaults to 1 MiB.
    pub const fn body_bytes_max(mut self, body_bytes_max: usize) -> Self {
        self.body_bytes_max = body_bytes_max;
        self
    }

    /// Returns the page cache.
    #[must_use]
    pub fn build(self) -> Pages<B> {
        let registry = Registry::new(self.cache, self.invalidator, self.body_bytes_max);
        Pages { registry: Arc::new(registry) }
    }
}

impl<B> Clone for Pages<B> {
    fn clone(&self) -> Self {
        Self { registry: Arc::clone(&self.registry) }
    }
}

impl<B: Backend> fmt::Debug for Pages<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages")
            .field("cache", &self.registry.cache)
            .field("views", &self.registry.names())
            .finish_non_exhaustive()
    }
}

impl<B: Backend> fmt::Debug for PagesBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagesBuilder")
            .field("cache", &self.cache)
            .field("body_bytes_max", &self.body_bytes_max)
            .finish_non_exhaustive()
    }
}

const BODY_BYTES_MAX: usize = 1 << 20;
