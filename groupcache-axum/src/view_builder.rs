//! Saying how a handler is cached.

use std::any::type_name;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use groupcache_core::{
    Arguments, Backend, BoxBackend, ByArguments, ByModel, ByModels, ByTag, EntryOptions, Error, KeyStrategy,
    Model, Models, Result,
};
use http::HeaderName;

use crate::handler::CachedHandler;
use crate::layer::CacheLayer;
use crate::page_call::PageCall;
use crate::pages::Pages;
use crate::view::{Grouping, View, ViewParts};

/// Says how a handler is cached, and [`wrap`](Self::wrap)s it.
///
/// Each grouping adds to those before; a page is stale as soon as one of its groups is.
/// [`on`](Self::on), [`rename`](Self::rename) and [`shared`](Self::shared) belong to the grouping
/// before them.
#[must_use = "nothing is cached before `wrap`"]
pub struct ViewBuilder<B = BoxBackend> {
    pages: Pages<B>,
    name: Option<Cow<'static, str>>,
    groupings: Vec<Pending>,
    options: Option<EntryOptions>,
    vary: Vec<String>,
    allow_authorization: bool,
    body_bytes_max: usize,
    problem: Option<String>,
}

/// A grouping that may still be refined.
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
    pub(crate) const fn new(pages: Pages<B>, body_bytes_max: usize) -> Self {
        Self {
            pages,
            name: None,
            groupings: Vec::new(),
            options: None,
            vary: Vec::new(),
            allow_authorization: false,
            body_bytes_max,
            problem: None,
        }
    }

    /// Also as [`Pages::versioned`].
    pub fn versioned(self, arguments: impl Into<ByArguments>) -> Self {
        self.and(arguments.into(), Kind::Versioned)
    }

    /// Also as [`Pages::versioned_by`].
    pub fn versioned_by<F>(mut self, label: impl Into<String>, version: F) -> Self
    where
        F: Fn(&Arguments) -> Option<String> + Send + Sync + 'static,
    {
        let label = label.into();
        if label.is_empty() {
            self.problem("the label of `versioned_by` is empty");
        }
        let label = format!("label:{label}");
        self.fixed(Grouping::VersionedBy { label, version: Box::new(version) })
    }

    /// Also as [`Pages::tagged`].
    pub fn tagged(mut self, tag: impl Into<String>) -> Self {
        let tag = tag.into();
        if tag.is_empty() {
            self.problem("the tag is empty");
        }
        self.fixed(Grouping::Strategy(Box::new(ByTag::new(tag))))
    }

    /// Also as [`Pages::against_model`].
    pub fn against_model<M: Model + 'static>(mut self) -> Self {
        if let Err(error) = groupcache_core::check_fields::<M>() {
            self.problem(error.to_string());
        }
        self.and(ByArguments::all(), Kind::Model(|arguments| Box::new(ByModel::<M>::from(arguments))))
    }

    /// Also as [`Pages::against_models`].
    pub fn against_models<L: Models>(mut self) -> Self {
        if let Err(error) = L::check() {
            self.problem(error.to_string());
        }
        self.fixed(Grouping::Strategy(Box::new(ByModels::<L>::new())))
    }

    /// Also as [`Pages::strategy`]. Of several strategies the first says what identifies a page.
    pub fn strategy(self, strategy: impl KeyStrategy<PageCall> + 'static) -> Self {
        self.fixed(Grouping::Strategy(Box::new(strategy)))
    }

    /// Of the route's path arguments only these count for the grouping before.
    pub fn on<const COUNT: usize>(self, arguments: [&'static str; COUNT]) -> Self {
        self.refine("on", |by| by.on(arguments))
    }

    /// The path argument `argument` is the field `field` of the grouping before: of its model, or of
    /// what views share.
    pub fn rename(self, argument: &'static str, field: &'static str) -> Self {
        self.refine("rename", |by| by.rename(argument, field))
    }

    /// Views that are versioned with the same label and the same fields share their generations:
    /// [`Pages::uncache`] of one is one of all. Without it each view has its own.
    pub fn shared(mut self, label: impl Into<String>) -> Self {
        let label = label.into();
        if label.is_empty() {
            self.problem("the label of a shared version is empty");
        }
        match self.groupings.last() {
            Some(Pending { kind: Kind::Versioned, .. }) => {}
            _ => self.problem("`shared` belongs behind `versioned`"),
        }
        self.refine("shared", |by| by.shared(format!("label:{label}")))
    }

    /// The name by which [`Pages::uncache`] knows the view, and part of its keys. Unique among all
    /// applications that share a cache. Defaults to the name of the handler's function; closures have none and need this.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(Cow::Owned(name.into()));
        self
    }

    /// How long a page lives that nothing invalidates. Defaults to the cache's options.
    pub fn time_to_live(self, time_to_live: Duration) -> Self {
        let options = self.options.unwrap_or(*self.pages.cache().options());
        self.options(options.time_to_live(time_to_live))
    }

    /// Of several processes that share a store, lets one compute a page that all of them miss; the
    /// others wait up to this long for it. See [`EntryOptions::lease`]. Defaults to the cache's options:
    /// each process computes.
    pub fn lease(self, lasts: Duration) -> Self {
        let options = self.options.unwrap_or(*self.pages.cache().options());
        self.options(options.lease(lasts))
    }

    /// How long pages live and when stale ones may be served. Defaults to the cache's options.
    pub const fn options(mut self, options: EntryOptions) -> Self {
        self.options = Some(options);
        self
    }

    /// The responses differ by these request headers. A `Vary` header of a response says so too; said
    /// here it is known before the first one.
    pub fn vary<const COUNT: usize>(mut self, headers: [&str; COUNT]) -> Self {
        self.vary.extend(headers.map(str::to_owned));
        self
    }

    /// Requests with an `Authorization` header are answered from the cache too, with what any other
    /// request got: only for pages that are the same for everyone. Where they are not, add
    /// `.vary(["authorization"])`.
    pub const fn allow_authorization(mut self) -> Self {
        self.allow_authorization = true;
        self
    }

    /// Responses with a larger body than this pass by. Defaults to that of [`Pages`].
    pub const fn body_bytes_max(mut self, body_bytes_max: usize) -> Self {
        self.body_bytes_max = body_bytes_max;
        self
    }

    /// The handler, cached. Still an axum handler, for `get(...)`, with its extractors and state.
    ///
    /// What is wrong so far (an empty tag, a model without such a field, a name that is taken) is
    /// logged, makes [`PageRouter::build`](crate::PageRouter::build) an error, and keeps the view from
    /// being cached.
    pub fn wrap<H>(mut self, handler: H) -> CachedHandler<H, B> {
        if self.name.is_none() {
            match function_name(type_name::<H>()) {
                Some(name) => self.name = Some(Cow::Borrowed(name)),
                None => self.problem("a closure has no name: give the view one with `named`"),
            }
        }
        let pages = self.pages.clone();
        CachedHandler::new(handler, pages.register(self.into_view()))
    }

    /// A layer instead of a handler. It needs a [`name`](Self::named).
    ///
    /// # Errors
    ///
    /// What [`wrap`](Self::wrap) would log.
    pub fn into_layer(self) -> Result<CacheLayer<B>> {
        let pages = self.pages.clone();
        let view = pages.register(self.into_view());
        match view.problem() {
            Some(problem) => Err(Error::configuration("groupcache-axum", problem.clone())),
            None => Ok(CacheLayer::new(view)),
        }
    }

    fn and(mut self, arguments: ByArguments, kind: Kind) -> Self {
        self.groupings.push(Pending { arguments, kind });
        self
    }

    fn fixed(self, grouping: Grouping) -> Self {
        self.and(ByArguments::all(), Kind::Fixed(grouping))
    }

    fn refine(mut self, what: &str, refine: impl FnOnce(ByArguments) -> ByArguments) -> Self {
        match self.groupings.pop() {
            Some(Pending { arguments, kind: kind @ (Kind::Versioned | Kind::Model(_)) }) => {
                self.groupings.push(Pending { arguments: refine(arguments), kind });
            }
            other => {
                self.groupings.extend(other);
                self.problem(format!("`{what}` belongs behind `versioned` or `against_model`"));
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
            self.problem("it has no name: give it one with `named`");
        } else if self.pages.find(&name).is_ok() {
            self.problem("another view has the same name: give one of them another with `named`");
        }
        let vary: Vec<_> = std::mem::take(&mut self.vary)
            .into_iter()
            .filter_map(|header| {
                let parsed = header.parse::<HeaderName>();
                if parsed.is_err() {
                    self.problem(format!("`{header}` of `vary` is no header name"));
                }
                parsed.ok()
            })
            .collect();
        let cache = match self.options {
            Some(options) => self.pages.cache().with_options(options),
            None => self.pages.cache().clone(),
        };
        let grouping = self.groupings.into_iter().map(|pending| match pending.kind {
            // No name that a model would have.
            Kind::Versioned => Grouping::Versioned(pending.arguments.shared_or(format!("view:{name}"))),
            Kind::Model(strategy) => Grouping::Strategy(strategy(pending.arguments)),
            Kind::Fixed(grouping) => grouping,
        });
        let grouping = grouping.collect();
        View::new(ViewParts {
            cache,
            allow_authorization: self.allow_authorization,
            body_bytes_max: self.body_bytes_max,
            grouping,
            vary,
            problem: self.problem.map(|problem| format!("view `{name}`: {}", plain(&problem))),
            name,
        })
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

/// The last segment of a function's path: it survives a move to another module.
fn function_name(type_name: &'static str) -> Option<&'static str> {
    let path = type_name.split('<').next().unwrap_or_default();
    let name = path.rsplit("::").next().unwrap_or_default();
    let is_name = !name.is_empty() && name.chars().all(|letter| letter == '_' || letter.is_alphanumeric());
    is_name.then_some(name)
}

fn plain(problem: &str) -> &str {
    problem.strip_prefix("groupcache-core: wrong configuration: ").unwrap_or(problem)
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
