//! A view: one wrapped handler, with what its pages depend on and how they are cached.

pub(crate) mod by_route;
pub(crate) mod page_call;
pub(crate) mod registry;

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use groupcache_core::{
    Address, Arguments, BoxBackend, ByArguments, Cache, Call, Error, Group, Groups, Key, KeyStrategy, Result,
};
use http::HeaderName;
use smallvec::SmallVec;

use crate::view::page_call::{PageCall, argument_names};

/// A wrapped handler or layer.
pub(crate) struct View<B = BoxBackend> {
    pub(crate) name: Arc<str>,
    pub(crate) cache: Cache<B>,
    pub(crate) allow_authorization: bool,
    pub(crate) body_bytes_max: usize,
    groupings: Vec<Grouping>,
    /// Whether [`PageCall::key`] determines a page's groups.
    is_keyed_by_call: bool,
    /// The request headers that responses vary on, as declared or as seen in `Vary` so far.
    vary: RwLock<Arc<[HeaderName]>>,
    /// The routes of the view, as far as they were checked.
    routes: RwLock<Vec<String>>,
    /// Why the view is not cached, if it was wrapped incorrectly.
    problem: Option<String>,
    problem_logged: AtomicBool,
}

/// What makes the pages of a view stale. A view may have several.
pub(crate) enum Grouping {
    /// A generation for each combination of some arguments, which [`uncache`](crate::Pages::uncache)
    /// invalidates.
    Versioned(ByArguments),
    /// A generation for each text that a function makes of the arguments; also for `uncache`.
    VersionedBy { label: String, version: VersionFn },
    /// The groups of a key strategy.
    Strategy(Box<dyn KeyStrategy<PageCall>>),
}

pub(crate) type VersionFn = Box<dyn Fn(&Arguments) -> Option<String> + Send + Sync>;

/// What a view is made of.
pub(crate) struct ViewParts<B> {
    pub(crate) name: Cow<'static, str>,
    pub(crate) cache: Cache<B>,
    pub(crate) allow_authorization: bool,
    pub(crate) body_bytes_max: usize,
    pub(crate) groupings: Vec<Grouping>,
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
            is_keyed_by_call: parts.groupings.iter().all(Grouping::is_keyed_by_call),
            groupings: parts.groupings,
            vary: RwLock::new(parts.vary.into()),
            routes: RwLock::default(),
            problem: parts.problem,
            problem_logged: AtomicBool::new(false),
        }
    }

    /// Returns the key of the page if the key determines its groups.
    pub(crate) fn key(&self, call: &PageCall) -> Option<Key> {
        if !self.is_keyed_by_call || self.problem.is_some() {
            return None;
        }
        call.key().ok()
    }

    /// Returns the key and the groups of the page. An error means that the page must not be cached.
    pub(crate) fn address(&self, call: &PageCall) -> Result<Address> {
        self.check_call(call.arguments())?;
        let mut key = None;
        let mut groups = SmallVec::<[Group; 4]>::new();
        groups.push(call.path_group());
        if !self.is_versioned() {
            groups.push(self.view_group(call.arguments()));
        }
        for grouping in &self.groupings {
            match grouping {
                Grouping::Versioned(by) => {
                    groups.push(by.group(&self.name, call.arguments()).map_err(|error| self.log_once(error))?)
                }
                Grouping::VersionedBy { label, version } => {
                    groups.push(version_group(label, version, call.arguments())?);
                }
                Grouping::Strategy(strategy) => {
                    groups.extend(strategy.groups(call)?.iter().cloned());
                    // The first of several strategies determines the key.
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

    /// Checks the groupings against a route, and remembers the route if they fit.
    pub(crate) fn check(&self, route: &str) -> Result<()> {
        if let Some(problem) = &self.problem {
            return Err(Error::configuration("groupcache-axum", problem.clone()));
        }
        let arguments = argument_names(route);
        for grouping in &self.groupings {
            grouping.check(&arguments).map_err(|error| {
                let message = format!("view `{}` at `{route}`", self.name);
                Error::configuration("groupcache-axum", message).with_source(error)
            })?;
        }
        self.routes.write().unwrap_or_else(PoisonError::into_inner).push(route.to_owned());
        Ok(())
    }

    /// Returns the groups to invalidate for the pages with these arguments.
    pub(crate) fn groups_of(&self, arguments: &Arguments) -> Result<Groups> {
        let mut groups = Vec::new();
        for grouping in &self.groupings {
            match grouping {
                Grouping::Versioned(by) if by.is_all() => {
                    for arguments in self.arguments_of_routes(arguments)? {
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
            for arguments in self.arguments_of_routes(arguments)? {
                groups.push(self.view_group(&arguments));
            }
        }
        Ok(groups.into())
    }

    /// Returns the request headers that responses are known to vary on.
    pub(crate) fn vary(&self) -> Arc<[HeaderName]> {
        Arc::clone(&self.vary.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds the headers that a response varies on, and returns all known ones. Returns `None` and adds
    /// nothing if they would exceed [`VARY_NAMES_MAX`].
    pub(crate) fn extend_vary(&self, names: &[HeaderName]) -> Option<Arc<[HeaderName]>> {
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

    /// Returns why the view is not cached, if it was wrapped incorrectly.
    pub(crate) const fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }

    /// Fails if the view was wrapped incorrectly, or if no checked route has these arguments: the groups
    /// would not be those that are invalidated.
    fn check_call(&self, arguments: &Arguments) -> Result<()> {
        if let Some(problem) = &self.problem {
            return Err(self.log_once(Error::configuration("groupcache-axum", problem.clone())));
        }
        if !self.is_known_route(arguments) {
            let message = format!(
                "view `{}` was called with the arguments [{}], which none of its routes has; declare the \
                 prefix of a nested router with `nested_under`",
                self.name,
                arguments.iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
            );
            return Err(self.log_once(Error::configuration("groupcache-axum", message)));
        }
        Ok(())
    }

    /// Returns whether one of the checked routes has exactly these arguments, or true if none was checked.
    fn is_known_route(&self, arguments: &Arguments) -> bool {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let has_arguments = |route: &String| {
            let names = argument_names(route);
            names.len() == arguments.len() && names.iter().all(|name| arguments.get(name).is_some())
        };
        routes.is_empty() || routes.iter().any(has_arguments)
    }

    /// Returns, for each route, those of `arguments` that the route has.
    fn arguments_of_routes(&self, arguments: &Arguments) -> Result<Vec<Arguments>> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        if routes.is_empty() {
            let message = format!(
                "the routes of view `{}` are unknown; build its router with `Pages::router`, or use \
                 `uncache_from_path`",
                self.name
            );
            return Err(Error::configuration("groupcache-axum", message));
        }
        let of_route = |route: &String| {
            let mut own = Arguments::new();
            for name in argument_names(route) {
                let text = arguments.get(name).ok_or_else(|| {
                    let message = format!("view `{}` at `{route}`: argument `{name}` is missing", self.name);
                    Error::configuration("groupcache-axum", message)
                })?;
                own.insert(name.to_owned(), text.to_owned());
            }
            Ok(own)
        };
        routes.iter().map(of_route).collect()
    }

    fn is_versioned(&self) -> bool {
        self.groupings.iter().any(|grouping| !matches!(grouping, Grouping::Strategy(_)))
    }

    /// Returns the group that `uncache` invalidates if the view is not versioned: the pages with these
    /// arguments.
    fn view_group(&self, arguments: &Arguments) -> Group {
        let group = Group::new(format!("view:{}", self.name));
        arguments.iter().fold(group, |group, (name, text)| group.with_text(name, text))
    }

    /// Logs the first error that keeps a page of this view from being cached; later ones most likely repeat
    /// it.
    fn log_once(&self, error: Error) -> Error {
        if !self.problem_logged.swap(true, Ordering::Relaxed) {
            tracing::error!(view = &*self.name, %error, "page is not cached");
        }
        error
    }
}

impl Grouping {
    fn is_keyed_by_call(&self) -> bool {
        match self {
            Self::Versioned(_) => true,
            Self::VersionedBy { .. } => false,
            Self::Strategy(strategy) => strategy.is_keyed_by_call(),
        }
    }

    fn check(&self, arguments: &[&str]) -> Result<()> {
        match self {
            Self::Versioned(by) => KeyStrategy::<PageCall>::check(by, arguments),
            Self::VersionedBy { .. } => Ok(()),
            Self::Strategy(strategy) => strategy.check(arguments),
        }
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

/// The most request headers that a view may vary on. Its pages are not cached if they vary on more.
const VARY_NAMES_MAX: usize = 16;
