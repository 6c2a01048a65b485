//! A key strategy for layers around a whole router.

use std::fmt;

use groupcache_core::{Call, Error, Groups, Key, KeyStrategy, NamedCall, Result};
use percent_encoding::percent_decode_str;

use crate::view::page_call::{PageCall, argument_names};

/// A key strategy for a [`CacheLayer`](crate::CacheLayer) around a whole router, where the path arguments are
/// not known yet.
///
/// Extracts the arguments from the path by its own routes, in axum's syntax, and applies the strategy of the
/// route that matches. A path that matches no route is not cached.
///
/// ```
/// use groupcache_axum::{ByRoute, Pages};
/// use groupcache_core::{ByArguments, Cache};
/// use groupcache_memory::MemoryBackend;
/// use tower::Layer;
///
/// # async fn view() {}
/// # use axum::{Router, routing::get};
/// # let router: Router = Router::new().route("/feed/{format}/{feed_name}", get(view));
/// let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build());
/// let routes = ByRoute::new()
///     .route("/feed/{format}/{feed_name}", ByArguments::of(["feed_name"]))?
///     .route("/about", ByArguments::all())?;
///
/// // Serves hits before routing.
/// let app = pages.layer("site", routes)?.layer(router);
/// # let _: groupcache_axum::CacheService<Router, MemoryBackend> = app;
/// # Ok::<(), groupcache_core::Error>(())
/// ```
#[derive(Default)]
pub struct ByRoute {
    routes: matchit::Router<usize>,
    strategies: Vec<(NamedCall, Box<dyn KeyStrategy<NamedCall>>)>,
}

impl ByRoute {
    /// Returns a strategy without routes, which caches nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Caches the pages of a route under the groups of `strategy`. The strategy's key is not used: the key is
    /// that of the whole request.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) if `path` is not a valid
    /// route, overlaps with another one, or lacks an argument that the strategy needs. The error names the
    /// route and its source the cause.
    pub fn route(mut self, path: &str, strategy: impl KeyStrategy<NamedCall> + 'static) -> Result<Self> {
        let error = || Error::configuration("groupcache-axum", format!("route `{path}`"));
        strategy.check(&argument_names(path)).map_err(|source| error().with_source(source))?;
        self.routes.insert(path, self.strategies.len()).map_err(|source| error().with_source(source))?;
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
            // axum decodes arguments in the same way, and rejects those that are not UTF-8.
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
