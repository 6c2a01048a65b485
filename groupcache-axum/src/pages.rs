//! The page cache of an application: wraps handlers, and is told of changes.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use groupcache_core::{
    Arguments, Backend, BoxBackend, BoxInvalidator, ByArguments, Cache, Groups, Invalidator, KeyStrategy,
    Model, Models, Result,
};

use crate::changes::Changes;
use crate::layer::CacheLayer;
use crate::page_call::PageCall;
use crate::pages_builder::PagesBuilder;
use crate::router::{PageRouter, Problems};
use crate::view::View;
use crate::view_builder::ViewBuilder;

/// The page cache of an application. Cheap to clone; clones are the same.
///
/// Its first half wraps handlers: each method from [`versioned`](Self::versioned) to
/// [`strategy`](Self::strategy) says what makes a page stale and ends with
/// [`wrap`](ViewBuilder::wrap). Its second half is told of changes, from anywhere that guards it.
///
/// Besides its own groups, every page is in the group of its path, which is what
/// [`uncache_from_path`](Self::uncache_from_path) invalidates; and one that is not versioned in that of
/// its view with its arguments, for [`uncache`](Self::uncache).
pub struct Pages<B = BoxBackend> {
    inner: Arc<Inner<B>>,
}

struct Inner<B> {
    cache: Cache<B>,
    invalidator: BoxInvalidator,
    body_bytes_max: usize,
    views: Mutex<BTreeMap<String, Arc<View<B>>>>,
    problems: Arc<Problems>,
}

impl<B: Backend> Pages<B> {
    /// Pages in this cache.
    #[must_use]
    pub fn new(cache: Cache<B>) -> Self {
        Self::builder(cache).build()
    }

    /// Sets up pages in this cache.
    pub fn builder(cache: Cache<B>) -> PagesBuilder<B> {
        PagesBuilder::new(cache)
    }

    pub(crate) fn from_builder(cache: Cache<B>, invalidator: BoxInvalidator, body_bytes_max: usize) -> Self {
        let (views, problems) = (Mutex::default(), Arc::default());
        Self { inner: Arc::new(Inner { cache, invalidator, body_bytes_max, views, problems }) }
    }

    /// The cache behind the pages. Tell `Pages` of changes, not the cache: it knows whom else to tell.
    #[must_use]
    pub fn cache(&self) -> &Cache<B> {
        &self.inner.cache
    }

    /// A router that checks the views routed to it when it is built. Views work in any router, but
    /// only this one finds their mistakes before the first request.
    pub fn router<S: Clone + Send + Sync + 'static>(&self) -> PageRouter<S> {
        PageRouter::new(Arc::clone(&self.inner.problems))
    }

    /// A page with a generation for each combination of these path arguments:
    /// [`uncache`](Self::uncache) makes one combination stale. An argument that the route lacks is an
    /// error when the router is built.
    ///
    /// `["feed_name"]` for some arguments, [`ByArguments::all`] for all, [`ByArguments::none`] for one
    /// generation of all pages of the view; [`shared`](ViewBuilder::shared) to share it between
    /// views.
    pub fn versioned(&self, arguments: impl Into<ByArguments>) -> ViewBuilder<B> {
        self.view().versioned(arguments)
    }

    /// A page with a generation for each text that `version` makes of the path arguments; a call for
    /// which it returns `None` is not cached. Of several views with the same `label` the pages of the
    /// same version share a generation.
    pub fn versioned_by<F>(&self, label: impl Into<String>, version: F) -> ViewBuilder<B>
    where
        F: Fn(&Arguments) -> Option<String> + Send + Sync + 'static,
    {
        self.view().versioned_by(label, version)
    }

    /// A page that is stale when [`uncache_from_tag`](Self::uncache_from_tag) says so.
    pub fn tagged(&self, tag: impl Into<String>) -> ViewBuilder<B> {
        self.view().tagged(tag)
    }

    /// A page that shows one row of a model (or the rows that share the values of some fields): the
    /// one whose fields are the path arguments of the same names. It is stale when such a row is
    /// [`saved`](Self::saved) or [`deleted`](Self::deleted). The fields must be one of the sets in
    /// [`Model::GROUPS`].
    pub fn against_model<M: Model + 'static>(&self) -> ViewBuilder<B> {
        self.view().against_model::<M>()
    }

    /// A page that shows many rows of a model or of a tuple of models: stale when any row of any of
    /// them is saved or deleted.
    pub fn against_models<L: Models>(&self) -> ViewBuilder<B> {
        self.view().against_models::<L>()
    }

    /// A page that is cached as one's own key strategy says.
    pub fn strategy(&self, strategy: impl KeyStrategy<PageCall> + 'static) -> ViewBuilder<B> {
        self.view().strategy(strategy)
    }

    /// A layer that caches whatever it is put around as `strategy` says; see [`CacheLayer`]. `name` is
    /// part of the keys and must be unique among views and layers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if the name is taken or
    /// empty.
    pub fn layer(
        &self,
        name: impl Into<String>,
        strategy: impl KeyStrategy<PageCall> + 'static,
    ) -> Result<CacheLayer<B>> {
        self.strategy(strategy).named(name).into_layer()
    }

    /// The page of `view` with these path arguments is stale: its versions if it is versioned, the
    /// pages of exactly these arguments otherwise, however their path is spelled. Arguments that the
    /// page does not depend on need not be given; [`Arguments::new`] are none.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// If there is no such view, an argument is missing, or the invalidation was not acknowledged.
    pub fn uncache<A: Into<Arguments>>(
        &self,
        view: &str,
        arguments: A,
    ) -> impl Future<Output = Result<()>> + Send + use<B, A> {
        self.changes().view(view, arguments).invalidate()
    }

    /// The pages at this path are stale, whatever their host and query. A query in `path` is ignored.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// If it is no absolute path, or the invalidation was not acknowledged.
    pub fn uncache_from_path(&self, path: &str) -> impl Future<Output = Result<()>> + Send + use<B> {
        self.changes().path(path).invalidate()
    }

    /// The pages of this tag are stale.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// If the tag is empty, or the invalidation was not acknowledged.
    pub fn uncache_from_tag(&self, tag: &str) -> impl Future<Output = Result<()>> + Send + use<B> {
        self.changes().tag(tag).invalidate()
    }

    /// A row was inserted, or changed in fields by which it is not grouped: the pages that show it, or
    /// that show all rows, are stale. Call it after the commit.
    ///
    /// One round trip. Where the row may have moved between groups use
    /// [`saved_from`](Self::saved_from).
    ///
    /// # Errors
    ///
    /// If the row does not serialise, or the invalidation was not acknowledged.
    pub fn saved<M: Model>(&self, row: &M) -> impl Future<Output = Result<()>> + Send + use<B, M> {
        self.changes().saved(row).invalidate()
    }

    /// A row was changed: the pages that show the old row, the new one or all rows are stale. Call it
    /// after the commit.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// If a row does not serialise, or the invalidation was not acknowledged.
    pub fn saved_from<M: Model>(
        &self,
        old: &M,
        new: &M,
    ) -> impl Future<Output = Result<()>> + Send + use<B, M> {
        self.changes().saved_from(old, new).invalidate()
    }

    /// A row was deleted: the pages that showed it, or all rows, are stale. Call it after the commit.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// If the row does not serialise, or the invalidation was not acknowledged.
    pub fn deleted<M: Model>(&self, row: &M) -> impl Future<Output = Result<()>> + Send + use<B, M> {
        self.changes().deleted(row).invalidate()
    }

    /// Groups of one's own are stale.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// If the invalidation was not acknowledged.
    pub fn invalidate<G: Into<Groups>>(
        &self,
        groups: G,
    ) -> impl Future<Output = Result<()>> + Send + use<B, G> {
        self.changes().groups(groups).invalidate()
    }

    /// Several changes that are told in one round trip.
    pub fn changes(&self) -> Changes<B> {
        Changes::new(self.clone())
    }

    pub(crate) fn invalidator(&self) -> &BoxInvalidator {
        &self.inner.invalidator
    }

    pub(crate) fn find(&self, name: &str) -> Result<Arc<View<B>>, Vec<String>> {
        let views = self.views();
        views.get(name).cloned().ok_or_else(|| views.keys().cloned().collect())
    }

    /// Adds a view; says what is wrong with it if anything is.
    pub(crate) fn register(&self, view: View<B>) -> Arc<View<B>> {
        let view = Arc::new(view);
        if let Some(problem) = view.problem() {
            tracing::error!(%problem, "a view will be served without the cache");
            self.inner.problems.add(problem.clone());
        } else {
            self.views().insert(view.name.to_string(), Arc::clone(&view));
        }
        view
    }

    fn view(&self) -> ViewBuilder<B> {
        ViewBuilder::new(self.clone(), self.inner.body_bytes_max)
    }

    fn views(&self) -> MutexGuard<'_, BTreeMap<String, Arc<View<B>>>> {
        self.inner.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As [`Pages::invalidate`]: whatever else learns of changes can be given the pages to tell.
impl<B: Backend> Invalidator for Pages<B> {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        Self::invalidate(self, groups).await
    }
}

impl<B> Clone for Pages<B> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<B: Backend> fmt::Debug for Pages<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.views().keys().cloned().collect();
        f.debug_struct("Pages")
            .field("cache", &self.inner.cache)
            .field("views", &names)
            .finish_non_exhaustive()
    }
}
