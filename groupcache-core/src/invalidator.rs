//! Invalidators: what is notified when data changes.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

use crate::data::group::Groups;
use crate::error::Result;
use crate::sync::Mutex;

/// Receives notice of data changes.
///
/// A [`Cache`](crate::Cache) is an invalidator. So are `Arc`s, pairs, arrays and `Vec`s of invalidators:
///
/// * A pair notifies its first member, then its second. Use it for a cache and the CDN in front of it: the
///   CDN must not fetch from the cache before the old entries are stale there.
/// * An array or a `Vec` notifies all members concurrently. Use it for several regions.
///
/// # Behavior
///
/// * `Ok` means that every read which starts afterwards returns a value loaded after the call.
/// * The caller commits the change before it calls `invalidate`.
/// * Repeated calls, calls with too many groups and calls in any order do no harm.
///
/// ```
/// use groupcache_core::{Group, Groups, Invalidator, RecordingInvalidator, Result};
///
/// /// Purges a CDN that tags its objects with the names of groups.
/// struct Cdn;
///
/// impl Invalidator for Cdn {
///     async fn invalidate(&self, groups: &Groups) -> Result<()> {
///         let tags: Vec<String> = groups.iter().map(ToString::to_string).collect();
///         assert_eq!(tags, ["book{id=5}"]); // an HTTP request in a real one
///         Ok(())
///     }
/// }
///
/// # futures_util::FutureExt::now_or_never(async {
/// let cache = RecordingInvalidator::default();
/// (cache, Cdn).invalidate(&Group::new("book").with("id", 5).into()).await
/// # }).unwrap().unwrap();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `Invalidator`",
    label = "cannot be notified of data changes",
    note = "a `Cache` is an invalidator, and so are `Arc`s, pairs, arrays and `Vec`s of invalidators",
    note = "implement `Invalidator` for your own type"
)]
pub trait Invalidator: Send + Sync + 'static {
    /// Makes every entry of any of these groups stale, in one round trip for any number of groups and
    /// entries. An empty list makes nothing stale.
    ///
    /// # Errors
    ///
    /// An error means that it is unknown whether all entries are stale, so old values may still be served.
    /// Retry, or report the error to the author of the change.
    fn invalidate(&self, groups: &Groups) -> impl Future<Output = Result<()>> + Send;
}

/// Records the groups that it is notified of, for tests of code that invalidates. Clones share one record.
///
/// ```
/// # use groupcache_core::{Group, Groups, Invalidator, RecordingInvalidator};
/// # futures_util::FutureExt::now_or_never(async {
/// let invalidator = RecordingInvalidator::default();
/// invalidator.invalidate(&Group::new("book").with("id", 5).into()).await?;
/// assert_eq!(invalidator.recorded(), [Groups::from(Group::new("book").with("id", "5"))]);
/// # Ok::<(), groupcache_core::Error>(())
/// # }).unwrap().unwrap();
/// ```
#[derive(Debug, Clone, Default)]
pub struct RecordingInvalidator(Arc<Mutex<Vec<Groups>>>);

/// An invalidator whose type is chosen at run time. Costs one allocation a call.
#[derive(Clone)]
pub struct BoxInvalidator(Arc<dyn DynInvalidator>);

impl BoxInvalidator {
    /// Erases the type of `invalidator`.
    #[must_use]
    pub fn new(invalidator: impl Invalidator) -> Self {
        Self(Arc::new(invalidator))
    }
}

impl RecordingInvalidator {
    /// Returns the groups of all calls so far, one item a call.
    #[must_use]
    pub fn recorded(&self) -> Vec<Groups> {
        self.0.lock().clone()
    }
}

impl Invalidator for RecordingInvalidator {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        self.0.lock().push(groups.clone());
        Ok(())
    }
}

#[deny(clippy::missing_trait_methods)]
impl<I: Invalidator> Invalidator for Arc<I> {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        (**self).invalidate(groups).await
    }
}

/// Notifies the first member, then the second, even if the first fails. Returns the first error.
///
/// If loads of one cache read from the other, put the inner cache first. Otherwise the outer cache could
/// load an old value from the inner one after its own invalidation.
#[deny(clippy::missing_trait_methods)]
impl<I: Invalidator, J: Invalidator> Invalidator for (I, J) {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        let first = self.0.invalidate(groups).await;
        first.and(self.1.invalidate(groups).await)
    }
}

/// Notifies all members concurrently, even if some fail. Returns the first error.
#[deny(clippy::missing_trait_methods)]
impl<I: Invalidator> Invalidator for Vec<I> {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        invalidate_all(self, groups).await
    }
}

/// Notifies all members concurrently, even if some fail. Returns the first error.
#[deny(clippy::missing_trait_methods)]
impl<I: Invalidator, const N: usize> Invalidator for [I; N] {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        invalidate_all(self, groups).await
    }
}

#[async_trait]
trait DynInvalidator: Send + Sync {
    async fn invalidate(&self, groups: &Groups) -> Result<()>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<I: Invalidator> DynInvalidator for I {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        Invalidator::invalidate(self, groups).await
    }
}

#[deny(clippy::missing_trait_methods)]
impl Invalidator for BoxInvalidator {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        self.0.invalidate(groups).await
    }
}

impl fmt::Debug for BoxInvalidator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxInvalidator")
    }
}

async fn invalidate_all<I: Invalidator>(invalidators: &[I], groups: &Groups) -> Result<()> {
    let outcomes = invalidators.iter().map(|invalidator| invalidator.invalidate(groups));
    futures_util::future::join_all(outcomes).await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::data::group::Group;
    use crate::error::{Error, ErrorKind};

    struct FailingInvalidator;

    impl Invalidator for FailingInvalidator {
        async fn invalidate(&self, _: &Groups) -> Result<()> {
            Err(Error::new(ErrorKind::Unavailable, "failing"))
        }
    }

    #[test]
    fn all_members_are_notified_and_any_failure_is_returned() {
        let recorder = RecordingInvalidator::default();
        let groups = Groups::from(Group::new("g"));
        let notify = |invalidator: BoxInvalidator| {
            Invalidator::invalidate(&invalidator, &groups).now_or_never().unwrap()
        };
        assert!(notify(BoxInvalidator::new((recorder.clone(), Arc::new(recorder.clone())))).is_ok());
        assert!(notify(BoxInvalidator::new((FailingInvalidator, recorder.clone()))).is_err());
        assert!(notify(BoxInvalidator::new((recorder.clone(), FailingInvalidator))).is_err());
        let list = vec![BoxInvalidator::new(FailingInvalidator), BoxInvalidator::new(recorder.clone())];
        assert!(notify(BoxInvalidator::new(list)).is_err());
        assert!(notify(BoxInvalidator::new([recorder.clone(), recorder.clone()])).is_ok());
        assert_eq!(recorder.recorded(), vec![groups.clone(); 7]);
    }
}
