//! What the pages of one application share: the cache, the invalidator, and the views by name.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use groupcache_core::{Backend, BoxBackend, BoxInvalidator, Cache, Error, ErrorKind};

use crate::view::View;

/// What [`Pages`](crate::Pages) and everything made with it share.
pub(crate) struct Registry<B = BoxBackend> {
    pub(crate) cache: Cache<B>,
    pub(crate) invalidator: BoxInvalidator,
    /// The limit of views that set none.
    pub(crate) body_bytes_max: usize,
    pub(crate) problems: Arc<Problems>,
    views: Mutex<BTreeMap<String, Arc<View<B>>>>,
}

/// The mistakes found in views, each once.
#[derive(Debug, Default)]
pub(crate) struct Problems(Mutex<Vec<String>>);

impl<B: Backend> Registry<B> {
    pub(crate) fn new(cache: Cache<B>, invalidator: BoxInvalidator, body_bytes_max: usize) -> Self {
        Self { cache, invalidator, body_bytes_max, problems: Arc::default(), views: Mutex::default() }
    }

    /// Adds a view. One with a problem is not added; the problem is logged and recorded instead.
    pub(crate) fn register(&self, view: View<B>) -> Arc<View<B>> {
        let view = Arc::new(view);
        if let Some(problem) = view.problem() {
            tracing::error!(%problem, "view will not be cached");
            self.problems.add(problem.clone());
        } else {
            self.views().insert(view.name.to_string(), Arc::clone(&view));
        }
        view
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<View<B>>> {
        self.views().get(name).cloned()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.views().keys().cloned().collect()
    }

    fn views(&self) -> MutexGuard<'_, BTreeMap<String, Arc<View<B>>>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Problems {
    pub(crate) fn add(&self, problem: String) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    /// Returns the problems found since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns the message of an error and those of its causes in one line, without the prefixes that name the
/// crate and the kind of a configuration error.
pub(crate) fn describe(error: &Error) -> String {
    let mut description = message(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let message = cause.downcast_ref::<Error>().map_or_else(|| cause.to_string(), message);
        description = format!("{description}: {message}");
        source = cause.source();
    }
    description
}

fn message(error: &Error) -> String {
    let text = error.to_string();
    if error.kind() != ErrorKind::Configuration {
        return text;
    }
    let prefix = format!("{}: {}: ", error.backend(), error.kind());
    text.strip_prefix(&prefix).map(str::to_owned).unwrap_or(text)
}
