//! Wrappers of backends: the boxed backend, and `Arc`s of backends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::Backend;
use crate::backend::lease::{LeaseName, LeaseOwner, LeaseRequest, Leased};
use crate::backend::lookup::{EntryView, Lookup, Minted, StoreOutcome, TimeLeft};
use crate::data::entry::Entry;
use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::error::Result;

/// A backend whose type is chosen at run time. Cheap to clone.
///
/// Costs one allocation for each call of an `async` method, and none for
/// [`lookup_now`](crate::Backend::lookup_now), from which hits in memory are served.
///
/// ```
/// use groupcache_core::{BoxBackend, Cache};
/// use groupcache_memory::MemoryBackend;
///
/// # let redis = |_: &str| MemoryBackend::with_max_bytes(1 << 20);
/// # let url: Option<&str> = None;
/// let backend = match url {
///     None => BoxBackend::new(MemoryBackend::with_max_bytes(64 << 20)),
///     Some(url) => BoxBackend::new(redis(url)),
/// };
/// let cache: Cache = Cache::builder(backend).build();
/// assert_eq!(cache.backend_name(), "memory");
/// ```
#[derive(Clone)]
pub struct BoxBackend(Arc<dyn DynBackend>);

impl BoxBackend {
    /// Erases the type of `backend`.
    #[must_use]
    pub fn new(backend: impl Backend) -> Self {
        Self(Arc::new(backend))
    }
}

#[async_trait]
trait DynBackend: Send + Sync {
    fn name(&self) -> &'static str;
    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup>;
    fn lookup_now(&self, key: &Key, visit: &mut dyn FnMut(EntryView<'_>));
    async fn lookup_many(&self, requests: &[(Key, Groups)], time_left: TimeLeft) -> Result<Vec<Lookup>>;
    async fn mint(&self, groups: &[Group]) -> Result<Minted>;
    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased>;
    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()>;
    async fn bump(&self, groups: &[Group]) -> Result<()>;
    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<StoreOutcome>;
    async fn delete(&self, key: &Key) -> Result<()>;
    fn default_time_to_live(&self) -> Option<Duration>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: Backend> DynBackend for B {
    fn name(&self) -> &'static str {
        Backend::name(self)
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        Backend::lookup(self, key, groups, time_left).await
    }

    fn lookup_now(&self, key: &Key, visit: &mut dyn FnMut(EntryView<'_>)) {
        Backend::lookup_now(self, key, visit);
    }

    async fn lookup_many(&self, requests: &[(Key, Groups)], time_left: TimeLeft) -> Result<Vec<Lookup>> {
        Backend::lookup_many(self, requests, time_left).await
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        Backend::mint(self, groups).await
    }

    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        Backend::lease(self, request).await
    }

    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        Backend::release(self, lease, owner).await
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        Backend::bump(self, groups).await
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<StoreOutcome> {
        Backend::store(self, entry, time_to_live).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        Backend::delete(self, key).await
    }

    fn default_time_to_live(&self) -> Option<Duration> {
        Backend::default_time_to_live(self)
    }
}

/// Forwards every method. A provided method that is not forwarded would silently replace the one of the inner
/// backend.
macro_rules! forward_backend {
    ([$($head:tt)*] $this:ident => $inner:expr) => {
        #[deny(clippy::missing_trait_methods)]
        $($head)* {
            fn name(&self) -> &'static str {
                let $this = self;
                $inner.name()
            }

            async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
                let $this = self;
                $inner.lookup(key, groups, time_left).await
            }

            fn lookup_now(&self, key: &Key, visit: &mut dyn FnMut(EntryView<'_>)) {
                let $this = self;
                $inner.lookup_now(key, visit);
            }

            async fn lookup_many(&self, requests: &[(Key, Groups)], time_left: TimeLeft) -> Result<Vec<Lookup>> {
                let $this = self;
                $inner.lookup_many(requests, time_left).await
            }

            async fn mint(&self, groups: &[Group]) -> Result<Minted> {
                let $this = self;
                $inner.mint(groups).await
            }

            async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
                let $this = self;
                $inner.lease(request).await
            }

            async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
                let $this = self;
                $inner.release(lease, owner).await
            }

            async fn bump(&self, groups: &[Group]) -> Result<()> {
                let $this = self;
                $inner.bump(groups).await
            }

            async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<StoreOutcome> {
                let $this = self;
                $inner.store(entry, time_to_live).await
            }

            async fn delete(&self, key: &Key) -> Result<()> {
                let $this = self;
                $inner.delete(key).await
            }

            fn default_time_to_live(&self) -> Option<Duration> {
                let $this = self;
                $inner.default_time_to_live()
            }
        }
    };
}

forward_backend!([impl Backend for BoxBackend] this => (*this.0));
forward_backend!([impl<B: Backend> Backend for Arc<B>] this => (**this));

impl fmt::Debug for BoxBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoxBackend").field(&self.0.name()).finish()
    }
}
