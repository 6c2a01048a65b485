//! What is cached how: one view, its strategies, and its options.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use groupcache_core::{
    Address, Arguments, BoxBackend, ByArguments, Cache, Call, Error, Group, Groups, Key, KeyStrategy, Result,
};
use http::HeaderName;
use smallvec::SmallVec;

use crate::page_call::{PageCall, argument_names};

/// A view may vary on this many request headers; what varies on more is not cached.
const VARY_NAMES_MAX: usize = 16;

/// One cached view.
pub(crate) struct View<B = BoxBackend> {
    pub(crate) name: Arc<str>,
    pub(crate) cache: Cache<B>,
    pub(crate) allow_authorization: bool,
    pub(crate) body_bytes_max: usize,
    grouping: Vec<Grouping>,
    /// Whether a page's groups follow from the usual key.
    is_keyed_by_call: bool,
    /// What the view's responses have been seen to vary on, or were said to.
    vary: RwLock<Arc<[HeaderName]>>,
    /// The paths it was routed to, as far as the application told.
    routes: RwLock<Vec<String>>,
    problem: Option<String>,
    problem_logged: AtomicBool,
}

/// One of the reasons why a view's page becomes stale.
pub(crate) enum Grouping {
    /// A generation of its own for each combination of some arguments: these
    /// [`uncache`](crate::Pages::uncache) invalidates.
    Versioned(ByArguments),
    /// The same, by what a function makes of the arguments.
    VersionedBy { label: String, version: VersionFn },
    /// Whatever else there is.
    Strategy(Box<dyn KeyStrategy<PageCall>>),
}

pub(crate) type VersionFn = Box<dyn Fn(&Arguments) -> Option<String> + Send + Sync>;

/// What a view is made of.
pub(crate) struct ViewParts<B> {
    pub(crate) name: Cow<'static, str>,
    pub(crate) cache: Cache<B>,
    pub(crate) allow_authorization: bool,
    pub(crate) body_bytes_max: usize,
    pub(crate) grouping: Vec<Grouping>,
    pub(crate) vary: Vec<HeaderName>,
    pub(crate) problem: Option<String>,
}

impl<B> View<B> {
    pub(crate) fn new(parts: ViewParts<B>) -> Self {
        Self {
            name: parts.name.into(),
            cache: parts.cache,
            allow_authorization: parts.allow_authorization,
            body_bytes_max: parts.body_bytes_max,
            is_keyed_by_call: parts.grouping.iter().all(|grouping| match grouping {
                Grouping::Versioned(_) => true,
                Grouping::VersionedBy { .. } => false,
                Grouping::Strategy(strategy) => strategy.is_keyed_by_call(),
            }),
            grouping: parts.grouping,
            vary: RwLock::new(parts.vary.into()),
            routes: RwLock::default(),
            problem: parts.problem,
            problem_logged: AtomicBool::new(false),
        }
    }

    /// The key of this call's page, if its groups follow from that.
    pub(crate) fn key(&self, call: &PageCall) -> Option<Key> {
        if !self.is_keyed_by_call || self.problem.is_some() {
            return None;
        }
        call.key().ok()
    }

    /// Where the page of this call is and what makes it stale.
    pub(crate) fn address(&self, call: &PageCall) -> Result<Address> {
        if let Some(problem) = &self.problem {
            return Err(self.log(Error::configuration("groupcache-axum", problem.clone())));
        }
        if !self.is_known_route(call.arguments()) {
            let message = format!(
                "view `{}` is asked for with the arguments [{}], which none of its routes has; say where its \
                 router is nested with `nested_under`",
                self.name,
                call.arguments().iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
            );
            return Err(self.log(Error::configuration("groupcache-axum", message)));
        }
        let mut key = None;
        let mut groups = SmallVec::<[Group; 4]>::new();
        groups.push(call.path_group());
        if !self.is_versioned() {
            groups.push(self.view_group(call.arguments()));
        }
        for grouping in &self.grouping {
            match grouping {
                Grouping::Versioned(by) => {
                    groups.push(by.group(&self.name, call.arguments()).map_err(|error| self.log(error))?)
                }
                Grouping::VersionedBy { label, version } => {
                    groups.push(version_group(label, version, call.arguments())?);
                }
                Grouping::Strategy(strategy) => {
                    groups.extend(strategy.groups(call)?.iter().cloned());
                    // Of several strategies the first says what identifies a page.
                    if key.is_none() && !self.is_keyed_by_call {
                        key = Some(strategy.key(call)?);
                    }
                }
            }
        }
        let key = match key {
            Some(key) => call.key_of(&key)?,
            None => call.key()?,
        };
        Ok(Address { key, groups: groups.into_iter().collect() })
    }

    /// Whether the strategies suit a route; remembers it if they do.
    pub(crate) fn check(&self, route: &str) -> Result<()> {
        if let Some(problem) = &self.problem {
            return Err(Error::configuration("groupcache-axum", problem.clone()));
        }
        let arguments = argument_names(route);
        for grouping in &self.grouping {
            let checked = match grouping {
                Grouping::Versioned(by) => KeyStrategy::<PageCall>::check(by, &arguments),
                Grouping::VersionedBy { .. } => Ok(()),
                Grouping::Strategy(strategy) => strategy.check(&arguments),
            };
            checked.map_err(|error| {
                let message = format!("view `{}` at `{route}`", self.name);
                Error::configuration("groupcache-axum", message).with_source(error)
            })?;
        }
        self.routes.write().unwrap_or_else(PoisonError::into_inner).push(route.to_owned());
        Ok(())
    }

    /// What to invalidate so that this view's pages with these arguments are computed anew.
    pub(crate) fn groups_of(&self, arguments: &Arguments) -> Result<Groups> {
        let mut groups = Vec::new();
        for grouping in &self.grouping {
            match grouping {
                Grouping::Versioned(by) if by.is_all() => {
                    for arguments in self.of_routes(arguments)? {
                        groups.push(by.group(&self.name, &arguments)?);
                    }
                }
                Grouping::Versioned(by) => groups.push(by.group(&self.name, arguments)?),
                Grouping::VersionedBy { label, version } => {
                    groups.push(version_group(label, version, arguments)?);
                }
                Grouping::Strategy(_) => {}
            }
        }
        if !self.is_versioned() {
            for arguments in self.of_routes(arguments)? {
                groups.push(self.view_group(&arguments));
            }
        }
        Ok(groups.into())
    }

    /// The arguments of each route of this view, taken from `arguments`.
    fn of_routes(&self, arguments: &Arguments) -> Result<Vec<Arguments>> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        if routes.is_empty() {
            let message = format!(
                "which arguments view `{}` has is not known: build its router with `Pages::router`, or use \
                 `uncache_from_path`",
                self.name
            );
            return Err(Error::configuration("groupcache-axum", message));
        }
        let of_route = |route: &String| {
            let mut own = Arguments::new();
            for name in argument_names(route) {
                let text = arguments.get(name).ok_or_else(|| {
                    let message = format!("view `{}` at `{route}` needs the argument `{name}`", self.name);
                    Error::configuration("groupcache-axum", message)
                })?;
                own.insert(name.to_owned(), text.to_owned());
            }
            Ok(own)
        };
        routes.iter().map(of_route).collect()
    }

    fn is_versioned(&self) -> bool {
        self.grouping.iter().any(|grouping| !matches!(grouping, Grouping::Strategy(_)))
    }

    /// What `uncache` of a view without a version of its own invalidates: the pages of these arguments.
    fn view_group(&self, arguments: &Arguments) -> Group {
        let group = Group::new(format!("view:{}", self.name));
        arguments.iter().fold(group, |group, (name, text)| group.with_text(name, text))
    }

    /// Whether one of the routes that the application told of has exactly these arguments; yes if it
    /// told of none.
    fn is_known_route(&self, arguments: &Arguments) -> bool {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let is_of = |route: &String| {
            let names = argument_names(route);
            names.len() == arguments.len() && names.iter().all(|name| arguments.get(name).is_some())
        };
        routes.is_empty() || routes.iter().any(is_of)
    }

    pub(crate) fn vary(&self) -> Arc<[HeaderName]> {
        Arc::clone(&self.vary.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds the headers that a response varies on; what the view varies on then. `None` if that is more
    /// than is reasonable.
    pub(crate) fn learn_vary(&self, names: &[HeaderName]) -> Option<Arc<[HeaderName]>> {
        let known = self.vary();
        if names.iter().all(|name| known.contains(name)) {
            return Some(known);
        }
        let mut vary = self.vary.write().unwrap_or_else(PoisonError::into_inner);
        let mut all = [&**vary, names].concat();
        all.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        all.dedup();
        if all.len() > VARY_NAMES_MAX {
            return None;
        }
        *vary = all.into();
        Some(Arc::clone(&vary))
    }

    pub(crate) const fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }

    /// Says once what keeps this view from being cached.
    fn log(&self, error: Error) -> Error {
        if !self.problem_logged.swap(true, Ordering::Relaxed) {
            tracing::error!(view = &*self.name, %error, "served without the cache");
        }
        error
    }
}

impl<B> fmt::Debug for View<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("name", &self.name)
            .field("problem", &self.problem)
            .finish_non_exhaustive()
    }
}

fn version_group(label: &str, version: &VersionFn, arguments: &Arguments) -> Result<Group> {
    let version = version(arguments)
        .ok_or_else(|| Error::configuration("groupcache-axum", "these arguments have no version"))?;
    Ok(Group::new(label).with("version", version))
}
