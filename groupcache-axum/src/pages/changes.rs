//! Several changes, invalidated in one round trip.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use groupcache_core::{
    Arguments, Backend, BoxBackend, ByTag, Error, Group, Groups, Invalidator, Model, Result, check_fields,
    groups_of,
};

use crate::view::page_call::path_group;
use crate::view::registry::Registry;

/// Several changes, invalidated in one round trip; see [`Pages::changes`](crate::Pages::changes).
///
/// A mistake in one of the changes, such as an unknown view, is returned by [`invalidate`](Self::invalidate),
/// which then invalidates nothing.
///
/// ```
/// # use axum::{Router, routing::get};
/// # use groupcache_axum::Pages;
/// # use groupcache_core::{Cache, Model};
/// # use groupcache_memory::MemoryBackend;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct Book { id: i64, author_id: i64 }
/// # impl Model for Book {
/// #     const NAME: &'static str = "book";
/// #     const GROUPS: &'static [&'static [&'static str]] = &[&["id"], &["author_id"]];
/// # }
/// # async fn view_feed() {}
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> groupcache_core::Result<()> {
/// # let pages = Pages::new(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build());
/// # let _feed = pages.versioned(["feed_name"]).wrap(view_feed);
/// let (old, new) = (Book { id: 5, author_id: 1 }, Book { id: 5, author_id: 2 });
/// pages
///     .changes()
///     .saved_from(&old, &new)
///     .view("view_feed", [("feed_name", "novels")])
///     .tag("bestsellers")
///     .invalidate()
///     .await?;
/// assert!(pages.changes().view("no_such_view", [("id", 5)]).invalidate().await.is_err());
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is invalidated before `invalidate`"]
pub struct Changes<B = BoxBackend> {
    registry: Arc<Registry<B>>,
    groups: Vec<Group>,
    /// The first mistake.
    problem: Option<Error>,
}

impl<B: Backend> Changes<B> {
    pub(crate) const fn new(registry: Arc<Registry<B>>) -> Self {
        Self { registry, groups: Vec::new(), problem: None }
    }

    /// Adds the pages of a view with these arguments; see [`Pages::uncache`](crate::Pages::uncache).
    pub fn view(self, view: &str, arguments: impl Into<Arguments>) -> Self {
        let groups = match self.registry.find(view) {
            Some(view) => view.groups_of(&arguments.into()),
            None => Err(self.unknown_view(view)),
        };
        self.add(groups)
    }

    /// Adds the pages at a path; see [`Pages::uncache_from_path`](crate::Pages::uncache_from_path).
    pub fn path(self, path: &str) -> Self {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let groups = if path.starts_with('/') {
            Ok(path_group(path).into())
        } else {
            Err(configuration(format!("`{path}` is not an absolute path")))
        };
        self.add(groups)
    }

    /// Adds the pages with a tag; see [`Pages::uncache_from_tag`](crate::Pages::uncache_from_tag).
    pub fn tag(self, tag: &str) -> Self {
        let groups = if tag.is_empty() {
            Err(configuration("the tag is empty"))
        } else {
            Ok(ByTag::group(tag).into())
        };
        self.add(groups)
    }

    /// Adds the pages that show a saved row; see [`Pages::saved`](crate::Pages::saved).
    pub fn saved<M: Model>(self, row: &M) -> Self {
        self.add(check_fields::<M>().and_then(|()| groups_of(row)))
    }

    /// Adds the pages that show a row before or after a change; see
    /// [`Pages::saved_from`](crate::Pages::saved_from).
    pub fn saved_from<M: Model>(self, old: &M, new: &M) -> Self {
        self.saved(old).saved(new)
    }

    /// Adds the pages that show a deleted row; see [`Pages::deleted`](crate::Pages::deleted).
    pub fn deleted<M: Model>(self, row: &M) -> Self {
        self.saved(row)
    }

    /// Adds the pages that depend on any of these groups; see
    /// [`Pages::invalidate`](crate::Pages::invalidate).
    pub fn groups(self, groups: impl Into<Groups>) -> Self {
        self.add(Ok(groups.into()))
    }

    /// Invalidates all of them. One round trip, or none if there are no groups. Duplicates count once.
    ///
    /// Once polled, the cache completes the invalidation even if this future is dropped. A
    /// [downstream invalidator](crate::PagesBuilder::downstream_invalidator) may then not be notified.
    ///
    /// # Errors
    ///
    /// The first mistake among the changes, before anything is invalidated; or the failure of an invalidator,
    /// after which stale pages may still be served.
    pub fn invalidate(self) -> impl Future<Output = Result<()>> + Send + use<B> {
        let Self { registry, groups, problem } = self;
        let groups = Groups::from(groups);
        async move {
            match problem {
                Some(problem) => Err(problem),
                None => registry.invalidator.invalidate(&groups).await,
            }
        }
    }

    fn add(mut self, groups: Result<Groups>) -> Self {
        match groups {
            Ok(groups) => self.groups.extend(groups.iter().cloned()),
            Err(problem) => {
                self.problem.get_or_insert(problem);
            }
        }
        self
    }

    fn unknown_view(&self, view: &str) -> Error {
        let known = self.registry.names();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        configuration(format!("there is no view `{view}`; known views: {known}"))
    }
}

impl<B> fmt::Debug for Changes<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("groups", &self.groups)
            .field("problem", &self.problem)
            .finish_non_exhaustive()
    }
}

fn configuration(message: impl Into<String>) -> Error {
    Error::configuration("groupcache-axum", message)
}
