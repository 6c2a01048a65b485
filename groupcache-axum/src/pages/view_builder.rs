//! Declares how a handler is cached, and wraps it.

use std::any::type_name;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use groupcache_core::{
    Arguments, Backend, BoxBackend, ByArguments, ByModel, ByModels, ByTag, EntryOptions, Error, KeyStrategy,
    Model, Models, Result, check_fields,
};
use http::HeaderName;

use crate::serve::handler::CachedHandler;
use crate::serve::layer::CacheLayer;
use crate::view::page_call::PageCall;
use crate::view::registry::{Registry, describe};
use crate::view::{Grouping, View, ViewParts};

/// Declares how a handler is cached, and [wraps](Self::wrap) it.
///
/// Made by a method of [`Pages`](crate::Pages), such as [`versioned`](crate::Pages::versioned). Each grouping
/// adds to those before it: a page is stale as soon as one of its groups is. [`on`](Self::on),
/// [`rename`](Self::rename) and [`shared`](Self::shared) refine the grouping before them.
///
/// ```
/// # use axum::{Router, extract::Path, routing::get};
/// # use groupcache_axum::Pages;
/// # use groupcache_core::Cache;
/// # use groupcache_memory::MemoryBackend;
/// use std::time::Duration;
///
/// async fn view_feed(Path((format, name)): Path<(String, String)>) -> String {
///     format!("{name} as {format}")
/// }
///
/// # fn main() -> groupcache_core::Result<()> {
/// # let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build());
/// let feed = pages
///     .versioned(["name"])
///     .tagged("feeds")
///     .time_to_live(Duration::from_secs(3600))
///     .vary(["accept-language"])
///     .wrap(view_feed);
/// let app: Router = pages.router().route("/feed/{format}/{name}", get(feed)).build()?;
/// # let _ = app;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is cached before `wrap`"]
pub struct ViewBuilder<B = BoxBackend> {
    registry: Arc<Registry<B>>,
    name: Option<Cow<'static, str>>,
    groupings: Vec<Pending>,
    options: Option<EntryOptions>,
    vary: Vec<String>,
    allow_authorization: bool,
    body_bytes_max: usize,
    /// The first mistake.
    problem: Option<String>,
}

/// A grouping that later calls may refine.
struct Pending {
    arguments: ByArguments,
    kind: Kind,
}

enum Kind {
    Versioned,
    Model(fn(ByArguments) -> Box<dyn KeyStrategy<PageCall>>),
    Fixed(Grouping),
}

impl<B: Backend> ViewBuilder<B> {
    pub(crate) fn new(registry: Arc<Registry<B>>) -> Self {
        Self {
            name: None,
            groupings: Vec::new(),
            options: None,
            vary: Vec::new(),
            allow_authorization: false,
            body_bytes_max: registry.body_bytes_max,
            problem: None,
            registry,
        }
    }

    /// Adds a grouping; see [`Pages::versioned`](crate::Pages::versioned).
    pub fn versioned(self, arguments: impl Into<ByArguments>) -> Self {
        self.add(arguments.into(), Kind::Versioned)
    }

    /// Adds a grouping; see [`Pages::versioned_by`](crate::Pages::versioned_by).
    pub fn versioned_by<F>(mut self, label: impl Into<String>, version: F) -> Self
    where
        F: Fn(&Arguments) -> Option<String> + Send + Sync + 'static,
    {
        let label = label.into();
        if label.is_empty() {
            self.problem("the label of `versioned_by` is empty");
        }
        let label = format!("label:{label}");
        self.add_fixed(Grouping::VersionedBy { label, version: Box::new(version) })
    }

    /// Adds a grouping; see [`Pages::tagged`](crate::Pages::tagged).
    pub fn tagged(mut self, tag: impl Into<String>) -> Self {
        let tag = tag.into();
        if tag.is_empty() {
            self.problem("the tag is empty");
        }
        self.add_fixed(Grouping::Strategy(Box::new(ByTag::new(tag))))
    }

    /// Adds a grouping; see [`Pages::against_model`](crate::Pages::against_model).
    pub fn against_model<M: Model + 'static>(mut self) -> Self {
        if let Err(error) = check_fields::<M>() {
            self.problem(describe(&error));
        }
        self.add(ByArguments::all(), Kind::Model(|arguments| Box::new(ByModel::<M>::from(arguments))))
    }

    /// Adds a grouping; see [`Pages::against_models`](crate::Pages::against_models).
    pub fn against_models<L: Models>(mut self) -> Self {
        if let Err(error) = L::check() {
            self.problem(describe(&error));
        }
        self.add_fixed(Grouping::Strategy(Box::new(ByModels::<L>::new())))
    }

    /// Adds a grouping; see [`Pages::strategy`](crate::Pages::strategy). The first of several strategies
    /// determines the key.
    pub fn strategy(self, strategy: impl KeyStrategy<PageCall> + 'static) -> Self {
        self.add_fixed(Grouping::Strategy(Box::new(strategy)))
    }

    /// Selects the path arguments that count for the grouping before. Must follow `versioned` or
    /// `against_model`.
    ///
    /// Defaults to the arguments given to `versioned`, or to all arguments of the route for `against_model`.
    pub fn on<const COUNT: usize>(self, arguments: [&'static str; COUNT]) -> Self {
        self.refine("on", |by| by.on(arguments))
    }

    /// Maps the path argument `argument` to the field `field` of the grouping before. Must follow `versioned`
    /// or `against_model`.
    ///
    /// The field is one of the model, or of the generation that views [share](Self::shared). Defaults to the
    /// field of the same name.
    pub fn rename(self, argument: &'static str, field: &'static str) -> Self {
        self.refine("rename", |by| by.rename(argument, field))
    }

    /// Shares the generations of the grouping before with the views that have the same label and the same
    /// fields: [`uncache`](crate::Pages::uncache) of one view invalidates the pages of all. Must follow
    /// `versioned`.
    ///
    /// Defaults to generations of the view's own.
    pub fn shared(mut self, label: impl Into<String>) -> Self {
        let label = label.into();
        if label.is_empty() {
            self.problem("the label of a shared version is empty");
        }
        match self.groupings.last() {
            Some(Pending { kind: Kind::Versioned, .. }) => {}
            _ => self.problem("`shared` must follow `versioned`"),
        }
        self.refine("shared", |by| by.shared(format!("label:{label}")))
    }

    /// Sets the view's name, which is part of its keys and which [`uncache`](crate::Pages::uncache) takes.
    ///
    /// Must be unique among all applications that share a store. Defaults to the name of the handler's
    /// function. Closures have no name and need this.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(Cow::Owned(name.into()));
        self
    }

    /// Sets how long a page lives if nothing invalidates it; see [`EntryOptions::time_to_live`].
    ///
    /// Defaults to the cache's options. Changes the [options](Self::options) set before.
    pub fn time_to_live(self, time_to_live: Duration) -> Self {
        let options = self.options.unwrap_or(*self.registry.cache.options());
        self.options(options.time_to_live(time_to_live))
    }

    /// Lets one of several processes that share a store load a page that all of them miss, while the others
    /// wait; see [`EntryOptions::lease`].
    ///
    /// Defaults to the cache's options, which by default let each process load. Changes the
    /// [options](Self::options) set before.
    pub fn lease(self, duration: Duration) -> Self {
        let options = self.options.unwrap_or(*self.registry.cache.options());
        self.options(options.lease(duration))
    }

    /// Sets how long pages live and when stale ones may be served. Defaults to the cache's options.
    ///
    /// Replaces what [`time_to_live`](Self::time_to_live) and [`lease`](Self::lease) set before.
    pub const fn options(mut self, options: EntryOptions) -> Self {
        self.options = Some(options);
        self
    }

    /// Declares request headers that the responses differ by, in addition to those in the responses' `Vary`.
    ///
    /// Declared headers are part of the key from the first request on. May be called several times. At most
    /// 16 headers in all: pages that vary on more are not cached.
    pub fn vary<const COUNT: usize>(mut self, headers: [&str; COUNT]) -> Self {
        self.vary.extend(headers.map(str::to_owned));
        self
    }

    /// Also serves requests with an `Authorization` header from the cache.
    ///
    /// They get the same pages as all other requests, so this is for pages that are the same for every
    /// client. Where they are not, add `.vary(["authorization"])`. Defaults to bypassing the cache.
    pub const fn allow_authorization(mut self) -> Self {
        self.allow_authorization = true;
        self
    }

    /// Sets the size of the largest response body to store, in bytes. Defaults to
    /// [`PagesBuilder::body_bytes_max`](crate::PagesBuilder::body_bytes_max).
    pub const fn body_bytes_max(mut self, body_bytes_max: usize) -> Self {
        self.body_bytes_max = body_bytes_max;
        self
    }

    /// Wraps a handler. The result is an axum handler with the same extractors and state.
    ///
    /// A mistake so far, such as an empty tag, a model without such a field, or a name that is taken, is
    /// logged. It makes [`PageRouter::build`](crate::PageRouter::build) fail, and the handler then runs for
    /// every request.
    pub fn wrap<H>(mut self, handler: H) -> CachedHandler<H, B> {
        if self.name.is_none() {
            match function_name(type_name::<H>()) {
                Some(name) => self.name = Some(Cow::Borrowed(name)),
                None => self.problem("a closure has no name; set one with `named`"),
            }
        }
        let registry = Arc::clone(&self.registry);
        CachedHandler::new(handler, registry.register(self.into_view()))
    }

    /// Returns a layer with these groupings and options. It needs a [name](Self::named).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](groupcache_core::ErrorKind::Configuration) for the mistakes that
    /// [`wrap`](Self::wrap) would log.
    pub fn into_layer(self) -> Result<CacheLayer<B>> {
        let registry = Arc::clone(&self.registry);
        let view = registry.register(self.into_view());
        match view.problem() {
            Some(problem) => Err(Error::configuration("groupcache-axum", problem.clone())),
            None => Ok(CacheLayer::new(view)),
        }
    }

    fn add(mut self, arguments: ByArguments, kind: Kind) -> Self {
        self.groupings.push(Pending { arguments, kind });
        self
    }

    fn add_fixed(self, grouping: Grouping) -> Self {
        self.add(ByArguments::all(), Kind::Fixed(grouping))
    }

    fn refine(mut self, method: &str, refine: impl FnOnce(ByArguments) -> ByArguments) -> Self {
        match self.groupings.pop() {
            Some(Pending { arguments, kind: kind @ (Kind::Versioned | Kind::Model(_)) }) => {
                self.groupings.push(Pending { arguments: refine(arguments), kind });
            }
            other => {
                self.groupings.extend(other);
                self.problem(format!("`{method}` must follow `versioned` or `against_model`"));
            }
        }
        self
    }

    fn problem(&mut self, problem: impl Into<String>) {
        self.problem.get_or_insert(problem.into());
    }

    fn into_view(mut self) -> View<B> {
        let name = self.name.take().unwrap_or_default();
        if name.is_empty() {
            self.problem("the view has no name; set one with `named`");
        } else if self.registry.find(&name).is_some() {
            self.problem("another view has the same name; set a different one with `named`");
        }
        let vary = self.parse_vary();
        let cache = match self.options {
            Some(options) => self.registry.cache.with_options(options),
            None => self.registry.cache.clone(),
        };
        let groupings = self.groupings.into_iter().map(|pending| pending.into_grouping(&name)).collect();
        View::new(ViewParts {
            cache,
            allow_authorization: self.allow_authorization,
            body_bytes_max: self.body_bytes_max,
            groupings,
            vary,
            problem: self.problem.map(|problem| format!("view `{name}`: {problem}")),
            name,
        })
    }

    fn parse_vary(&mut self) -> Vec<HeaderName> {
        let mut parsed = Vec::new();
        for header in std::mem::take(&mut self.vary) {
            match header.parse() {
                Ok(name) => parsed.push(name),
                Err(_) => self.problem(format!("`{header}` in `vary` is not a header name")),
            }
        }
        parsed
    }
}

impl Pending {
    fn into_grouping(self, view: &str) -> Grouping {
        match self.kind {
            // The prefix keeps the name apart from those of models.
            Kind::Versioned => Grouping::Versioned(self.arguments.shared_or(format!("view:{view}"))),
            Kind::Model(strategy) => Grouping::Strategy(strategy(self.arguments)),
            Kind::Fixed(grouping) => grouping,
        }
    }
}

impl<B> fmt::Debug for ViewBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewBuilder")
            .field("name", &self.name)
            .field("options", &self.options)
            .field("problem", &self.problem)
            .finish_non_exhaustive()
    }
}

/// Returns the last segment of a function's path, or `None` for a closure. A view keeps its keys if its
/// function moves to another module.
fn function_name(type_name: &'static str) -> Option<&'static str> {
    let path = type_name.split('<').next().unwrap_or_default();
    let name = path.rsplit("::").next().unwrap_or_default();
    let is_name = !name.is_empty() && name.chars().all(|letter| letter == '_' || letter.is_alphanumeric());
    is_name.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_names_and_closures_have_none() {
        assert_eq!(function_name("bookstore::pages::view_book"), Some("view_book"));
        assert_eq!(function_name("app::list<alloc::string::String>"), Some("list"));
        assert_eq!(function_name("app::main::{{closure}}"), None);
    }
}
