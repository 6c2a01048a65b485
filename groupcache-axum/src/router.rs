//! A router that finds wrongly wrapped views before the first request does.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::routing::MethodRouter;
use groupcache_core::{Error, Result};

use crate::handler::views_in;

/// Builds an axum [`Router`] and checks every cached view against its route: whether the route has
/// the arguments that the wrapper names, whether the model has the fields, whether two views have one
/// name. Made with [`Pages::router`](crate::Pages::router).
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
/// assert!(error.to_string().contains("view `view_feed` at `/feed/{name}`: there is no argument `feed_name`"));
/// ```
#[must_use = "nothing is checked before `build`"]
pub struct PageRouter<S = ()> {
    router: Router<S>,
    prefix: String,
    problems: Arc<Problems>,
}

/// What is wrong with the views of an application, each thing once.
#[derive(Debug, Default)]
pub(crate) struct Problems(Mutex<Vec<String>>);

impl<S: Clone + Send + Sync + 'static> PageRouter<S> {
    pub(crate) fn new(problems: Arc<Problems>) -> Self {
        Self { router: Router::new(), prefix: String::new(), problems }
    }

    /// Says that the router will be nested under `prefix`, whose arguments its views see too.
    pub fn nested_under(mut self, prefix: &str) -> Self {
        prefix.trim_end_matches('/').clone_into(&mut self.prefix);
        self
    }

    /// As [`Router::route`]; views among `methods` may be cached or not.
    ///
    /// # Panics
    ///
    /// As [`Router::route`], if the path overlaps with another one.
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

    /// As [`Router::merge`]; routes of `other` are not checked here.
    ///
    /// # Panics
    ///
    /// As [`Router::merge`], if a path overlaps with another one.
    pub fn merge(mut self, other: impl Into<Router<S>>) -> Self {
        self.router = self.router.merge(other);
        self
    }

    /// The axum router.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if any view is wrapped
    /// wrongly; the message names each view and what is wrong.
    pub fn build(self) -> Result<Router<S>> {
        // Told once: another router of the same pages has to be right by itself.
        let problems = std::mem::take(&mut *self.problems.0.lock().unwrap_or_else(PoisonError::into_inner));
        if problems.is_empty() {
            return Ok(self.router);
        }
        Err(Error::configuration("groupcache-axum", problems.join("; ")))
    }
}

impl Problems {
    pub(crate) fn add(&self, problem: String) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !problems.contains(&problem) {
            problems.push(problem);
        }
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

/// An error and its causes in one line, without the words that say that it is about configuration.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    for noise in ["groupcache-axum: wrong configuration: ", "groupcache-core: wrong configuration: "] {
        text = text.replace(noise, "");
    }
    text
}
