//! Whoever learns of a change tells an invalidator.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

use crate::data::group::Groups;
use crate::error::Result;
use crate::sync::Mutex;

/// What everything that learns of a change talks to.
///
/// A [`Cache`](crate::Cache) is one, and so is whatever else users write. A pair tells its first side
/// and then its second: a cache and the CDN in front of it, which must not fetch from the cache what
/// is not stale there yet. An array or a `Vec` tells all its members at the same time: several
/// regions.
///
/// # Behavior
///
/// * `Ok` means effective: every read that starts afterwards sees values computed later.
/// * Call it after the commit of what changed, never before.
/// * Calling it again, with more groups than changed, or in another order does no harm.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be told of changes",
    label = "not an `Invalidator`",
    note = "a `Cache` is one, and so are `Arc`s, pairs, arrays and `Vec`s of invalidators"
)]
pub trait Invalidator: Send + Sync + 'static {
    /// Makes every entry of any of these groups stale, in one round trip.
    ///
    /// # Errors
    ///
    /// If it is not certain that all of them are. Entries may still be served then: try again, or
    /// let whoever made the change know.
    fn invalidate(&self, groups: &Groups) -> impl Future<Output = Result<()>> + Send;
}

/// Remembers what it was told, for tests of one's own invalidating code.
///
/// ```
/// # use groupcache_core::{Group, Groups, Invalidator, RecordingInvalidator};
/// # futures_util::FutureExt::now_or_never(async {
/// let told = RecordingInvalidator::default();
/// told.invalidate(&Group::new("book").with("id", 5).into()).await?;
/// assert_eq!(told.recorded(), [Groups::from(Group::new("book").with("id", "5"))]);
/// # Ok::<(), groupcache_core::Error>(())
/// # }).unwrap().unwrap();
/// ```
#[derive(Debug, Clone, Default)]
pub struct RecordingInvalidator(Arc<Mutex<Vec<Groups>>>);

/// Any invalidator, chosen at run time.
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
    /// What it was told so far, one item for each call.
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

impl<I: Invalidator> Invalidator for Arc<I> {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        (**self).invalidate(groups).await
    }
}

/// The first is told, and once it has answered the second, even if the first failed; the first failure
/// is returned.
///
/// Where values of one cache are computed from values of the other, the inner cache has to be the
/// first: told second, it could hand an old value to the outer one that was told already.
impl<I: Invalidator, J: Invalidator> Invalidator for (I, J) {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        let first = self.0.invalidate(groups).await;
        first.and(self.1.invalidate(groups).await)
    }
}

/// All are told, at the same time, even if some fail; the first failure is returned.
impl<I: Invalidator> Invalidator for Vec<I> {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        all(self, groups).await
    }
}

/// All are told, at the same time, even if some fail; the first failure is returned.
impl<I: Invalidator, const N: usize> Invalidator for [I; N] {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        all(self, groups).await
    }
}

#[async_trait]
trait DynInvalidator: Send + Sync {
    async fn invalidate(&self, groups: &Groups) -> Result<()>;
}

#[async_trait]
impl<I: Invalidator> DynInvalidator for I {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        Invalidator::invalidate(self, groups).await
    }
}

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

async fn all<I: Invalidator>(invalidators: &[I], groups: &Groups) -> Result<()> {
    let told = invalidators.iter().map(|invalidator| invalidator.invalidate(groups));
    futures_util::future::join_all(told).await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::data::group::Group;
    use crate::error::{Error, ErrorKind};

    struct Failing;

    impl Invalidator for Failing {
        async fn invalidate(&self, _: &Groups) -> Result<()> {
            Err(Error::new(ErrorKind::Unavailable, "failing"))
        }
    }

    #[test]
    fn all_sides_are_told_and_any_failure_is_returned() {
        let told = RecordingInvalidator::default();
        let groups = Groups::from(Group::new("g"));
        let tell = |invalidator: BoxInvalidator| {
            Invalidator::invalidate(&invalidator, &groups).now_or_never().unwrap()
        };
        assert!(tell(BoxInvalidator::new((told.clone(), Arc::new(told.clone())))).is_ok());
        assert!(tell(BoxInvalidator::new((Failing, told.clone()))).is_err());
        assert!(tell(BoxInvalidator::new((told.clone(), Failing))).is_err());
        let list = vec![BoxInvalidator::new(Failing), BoxInvalidator::new(told.clone())];
        assert!(tell(BoxInvalidator::new(list)).is_err());
        assert!(tell(BoxInvalidator::new([told.clone(), told.clone()])).is_ok());
        assert_eq!(told.recorded(), vec![groups.clone(); 7]);
    }
}
