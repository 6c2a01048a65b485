//! The strategy that groups entries under a tag.

use std::borrow::Cow;

use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::error::{CRATE_NAME, Error, Result};
use crate::strategy::call::Call;
use crate::strategy::key_strategy::KeyStrategy;

/// Groups all entries of the calls that it is used for under one tag.
///
/// ```
/// use groupcache_core::{ByTag, Groups, KeyStrategy, NamedCall};
///
/// let about = NamedCall::new("about");
/// let groups = ByTag::new("static").groups(&about)?;
/// assert_eq!(groups, Groups::from(ByTag::group("static")));
/// # Ok::<(), groupcache_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ByTag(Cow<'static, str>);

impl ByTag {
    /// Creates a strategy. An empty tag is an error of [`check`](KeyStrategy::check).
    #[must_use]
    pub fn new(tag: impl Into<Cow<'static, str>>) -> Self {
        Self(tag.into())
    }

    /// Returns the group of a tag, which is what to invalidate.
    #[must_use]
    pub fn group(tag: &str) -> Group {
        // The colon keeps tags apart from the names of models and views.
        Group::new("gc:tag").with("tag", tag)
    }
}

impl<C: Call + ?Sized> KeyStrategy<C> for ByTag {
    fn key(&self, call: &C) -> Result<Key> {
        call.key()
    }

    fn is_keyed_by_call(&self) -> bool {
        true
    }

    fn groups(&self, _: &C) -> Result<Groups> {
        Ok(Self::group(&self.0).into())
    }

    fn check(&self, _: &[&str]) -> Result<()> {
        if self.0.is_empty() {
            return Err(Error::configuration(CRATE_NAME, "the tag is empty"));
        }
        Ok(())
    }
}
