//! What changed, told in one round trip.

use std::fmt;
use std::future::Future;

use groupcache_core::{
    Arguments, Backend, BoxBackend, ByTag, Error, Group, Groups, Invalidator, Model, Result, check_fields,
    groups_of,
};

use crate::page_call::path_group;
use crate::pages::Pages;

/// Several changes that are told in one round trip; made with [`Pages::changes`].
///
/// A mistake in any of them is an error of [`invalidate`](Self::invalidate), which then tells
/// nothing: the caller has to know that pages may be stale.
///
/// ```no_run
/// # use groupcache_core::{Backend, Model, Result};
/// # use groupcache_axum::Pages;
/// # async fn example<B: Backend, Book: Model>(pages: Pages<B>, old: Book, new: Book) -> Result<()> {
/// pages.changes().saved_from(&old, &new).view("view_feed", [("feed_name", "novel")]).invalidate().await
/// # }
/// ```
#[must_use = "nobody is told before `invalidate`"]
pub struct Changes<B = BoxBackend> {
    pages: Pages<B>,
    groups: Vec<Group>,
    problem: Option<Error>,
}

impl<B: Backend> Changes<B> {
    pub(crate) const fn new(pages: Pages<B>) -> Self {
        Self { pages, groups: Vec::new(), problem: None }
    }

    /// As [`Pages::uncache`].
    pub fn view(self, view: &str, arguments: impl Into<Arguments>) -> Self {
        let groups = match self.pages.find(view) {
            Ok(view) => view.groups_of(&arguments.into()),
            Err(known) => {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(wrong(format!("there is no view `{view}`; there are: {known}")))
            }
        };
        self.and(groups)
    }

    /// As [`Pages::uncache_from_path`].
    pub fn path(self, path: &str) -> Self {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let groups = if path.starts_with('/') {
            Ok(path_group(path).into())
        } else {
            Err(wrong(format!("`{path}` is no absolute path")))
        };
        self.and(groups)
    }

    /// As [`Pages::uncache_from_tag`].
    pub fn tag(self, tag: &str) -> Self {
        let groups =
            if tag.is_empty() { Err(wrong("the tag is empty")) } else { Ok(ByTag::group(tag).into()) };
        self.and(groups)
    }

    /// As [`Pages::saved`].
    pub fn saved<M: Model>(self, row: &M) -> Self {
        self.and(check_fields::<M>().and_then(|()| groups_of(row)))
    }

    /// As [`Pages::saved_from`].
    pub fn saved_from<M: Model>(self, old: &M, new: &M) -> Self {
        self.saved(old).saved(new)
    }

    /// As [`Pages::deleted`].
    pub fn deleted<M: Model>(self, row: &M) -> Self {
        self.saved(row)
    }

    /// Groups of one's own.
    pub fn groups(self, groups: impl Into<Groups>) -> Self {
        self.and(Ok(groups.into()))
    }

    /// Tells of all of them. One round trip, none if there is nothing to tell. Once polled it runs to
    /// its end even if the caller goes away, where the invalidator does; a cache does.
    ///
    /// # Errors
    ///
    /// If one of the changes could not be told, or the invalidation was not acknowledged.
    pub fn invalidate(self) -> impl Future<Output = Result<()>> + Send + use<B> {
        let Self { pages, groups, problem } = self;
        let groups = Groups::from(groups);
        async move {
            match problem {
                Some(problem) => Err(problem),
                None => pages.invalidator().invalidate(&groups).await,
            }
        }
    }

    fn and(mut self, groups: Result<Groups>) -> Self {
        match groups {
            Ok(groups) => self.groups.extend(groups.iter().cloned()),
            Err(problem) => {
                self.problem.get_or_insert(problem);
            }
        }
        self
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

fn wrong(message: impl Into<String>) -> Error {
    Error::configuration("groupcache-axum", message)
}
