//! A key strategy for layers that stand outside the router.

use std::fmt;

use groupcache_core::{Call, Error, Groups, Key, KeyStrategy, NamedCall, Result};
use percent_encoding::percent_decode_str;

use crate::page_call::{PageCall, argument_names};

/// Finds out path arguments by itself, from routes in axum's syntax, and leaves the rest to a
/// strategy for each: for a [`CacheLayer`](crate::CacheLayer) that answers before routing. A path
/// that no route matches is not cached.
///
/// ```
/// # use groupcache_axum::ByRoute;
/// # use groupcache_core::ByArguments;
/// let site = ByRoute::new()
///     .route("/feed/{format}/{feed_name}", ByArguments::of(["feed_name"]))?
///     .route("/about", ByArguments::all())?;
/// # Ok::<(), groupcache_core::Error>(())
/// ```
#[derive(Default)]
pub struct ByRoute {
    routes: matchit::Router<usize>,
    strategies: Vec<(NamedCall, Box<dyn KeyStrategy<NamedCall>>)>,
}

impl ByRoute {
    /// No routes: nothing is cached.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Caches what matches `path` as `strategy` says. Of the strategy only the groups count: the key
    /// is the whole request's.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if the path is no route
    /// or overlaps with another one, or if the strategy does not suit its arguments; names both.
    pub fn route(mut self, path: &str, strategy: impl KeyStrategy<NamedCall> + 'static) -> Result<Self> {
        let wrong = || Error::configuration("groupcache-axum", format!("route `{path}`"));
        strategy.check(&argument_names(path)).map_err(|error| wrong().with_source(error))?;
        self.routes.insert(path, self.strategies.len()).map_err(|error| wrong().with_source(error))?;
        self.strategies.push((NamedCall::new(format!("route:{path}")), Box::new(strategy)));
        Ok(self)
    }
}

impl KeyStrategy<PageCall> for ByRoute {
    fn key(&self, call: &PageCall) -> Result<Key> {
        call.key()
    }

    fn is_keyed_by_call(&self) -> bool {
        self.strategies.iter().all(|(_, strategy)| strategy.is_keyed_by_call())
    }

    fn groups(&self, call: &PageCall) -> Result<Groups> {
        let no_route = || Error::configuration("groupcache-axum", "no route matches this path");
        let matched = self.routes.at(call.uri().path()).map_err(|_| no_route())?;
        let (call, strategy) = &self.strategies[*matched.value];
        let mut call = call.clone();
        for (name, text) in matched.params.iter() {
            // As axum decodes them; what is not text has no page.
            let text = percent_decode_str(text).decode_utf8().map_err(|_| no_route())?;
            call = call.with_text(name.to_owned(), text.into_owned());
        }
        strategy.groups(&call)
    }
}

impl fmt::Debug for ByRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.strategies.iter().map(|(call, _)| call.name())).finish()
    }
}
