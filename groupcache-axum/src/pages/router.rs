//! A router that reports incorrectly wrapped views when it is built.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::routing::MethodRouter;
use groupcache_core::{Error, Result};

use crate::serve::handler::views_in;
use crate::view::registry::{Problems, describe};

/// Builds an axum [`Router`] and checks every cached view against its route; see
/// [`Pages::router`](crate::Pages::router).
///
/// Checks that the route has the arguments and the model the fields that the wrapper names, and that no two
/// views have the same name.
///
/// ```
/// # use axum::{extract::Path, routing::get};
/// # use groupcache_axum::Pages;
/// # use groupcache_core::Cache;
/// # use groupcache_memory::MemoryBackend;
/// # let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build());
/// async fn view_feed(Path(name): Path<String>) -> String {
///     name
/// }
///
/// let wrong = pages.versioned(["feed_name"]).wrap(view_feed);
/// let error = pages.router::<()>().route("/feed/{name}", get(wrong)).build().unwrap_err();
/// let error = error.to_string();
/// assert!(error.contains("view `view_feed` at `/feed/{name}`"));
/// assert!(error.contains("`feed_name`"));
/// ```
#[must_use = "nothing is checked before `build`"]
pub struct PageRouter<S = ()> {
    router: Router<S>,
    prefix: String,
    problems: Arc<Problems>,
}

impl<S: Clone + Send + Sync + 'static> PageRouter<S> {
    pub(crate) fn new(problems: Arc<Problems>) -> Self {
        Self { router: Router::new(), prefix: String::new(), problems }
    }

    /// Declares that the router will be nested under `prefix`, whose path arguments its views receive too.
    /// Applies to the routes added afterwards. Defaults to no prefix.
    pub fn nested_under(mut self, prefix: &str) -> Self {
        prefix.trim_end_matches('/').clone_into(&mut self.prefix);
        self
    }

    /// Adds a route and checks the cached views among its methods; see [`Router::route`].
    ///
    /// # Panics
    ///
    /// If the path overlaps with another one.
    pub fn route(mut self, path: &str, methods: MethodRouter<S>) -> Self {
        let route = format!("{}{path}", self.prefix);
        for view in views_in(&methods) {
            if let Err(error) = view.check(&route) {
                self.problems.add(describe(&error));
            }
        }
        self.router = self.router.route(path, methods);
        self
    }

    /// Adds the routes of another router without checking them; see [`Router::merge`].
    ///
    /// # Panics
    ///
    /// If a path overlaps with another one.
    pub fn merge(mut self, other: impl Into<Router<S>>) -> Self {
        self.router = self.router.merge(other);
        self
    }

    /// Returns the axum router.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if a view of these
    /// [`Pages`](crate::Pages) was wrapped incorrectly since the last router was built. The message names
    /// each view and its mistake.
    pub fn build(self) -> Result<Router<S>> {
        // Taken, so that the next router of the same pages does not report them again.
        let problems = self.problems.take();
        if problems.is_empty() {
            return Ok(self.router);
        }
        Err(Error::configuration("groupcache-axum", problems.join("; ")))
    }
}

impl<S> fmt::Debug for PageRouter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageRouter")
            .field("prefix", &self.prefix)
            .field("problems", &self.problems)
            .finish_non_exhaustive()
    }
}
