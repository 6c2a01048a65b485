//! What every case works with: the backend under test, what to expect of it, and broken promises.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::{Found, GenerationVector, Lookup, Minted, TimeLeft};
use groupcache_core::{Backend, Entry, Error, Group, Groups, Key, Result};

/// What to expect of a store beyond the promises of [`Backend`].
///
/// ```
/// # use std::time::Duration;
/// use groupcache_conformance::Expectations;
///
/// // A server that expires to the second, shared by many processes, with leases.
/// let memcached = Expectations::new().resolution(Duration::from_secs(1)).shared().leases();
/// # let _ = memcached;
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Expectations {
    pub(crate) resolution: Duration,
    pub(crate) largest_body_bytes: usize,
    pub(crate) shared: bool,
    pub(crate) leases: bool,
}

/// A backend under test and what to expect of it; each of the [`cases`](crate::cases) takes one.
pub struct Kit<B> {
    /// Under a key prefix of this test's own.
    pub(crate) backend: Arc<B>,
    /// Under another key prefix.
    pub(crate) other_prefix: B,
    /// Another connection under the prefix of `backend`, if the store is shared.
    pub(crate) second_connection: Option<B>,
    pub(crate) expectations: Expectations,
    case: &'static str,
}

/// A promise that a backend, a strategy or an invalidator broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    case: &'static str,
    promise: &'static str,
    found: String,
}

/// Returns from a case with a [`Violation`] if the promise does not hold.
macro_rules! promised {
    ($kit:expr, $promise:expr, $holds:expr, $($found:tt)+) => {
        if !$holds {
            return Err($kit.violation($promise, format!($($found)+)));
        }
    };
}
pub(crate) use promised;

impl Expectations {
    /// Expects a store of one process that expires to the millisecond and keeps bodies of 2 MiB.
    pub const fn new() -> Self {
        Self {
            resolution: Duration::from_millis(1),
            largest_body_bytes: 2 << 20,
            shared: false,
            leases: false,
        }
    }

    /// Sets the documented resolution of times to live: how much earlier or later an entry may expire.
    ///
    /// Some cases sleep for about this long. Defaults to 1 millisecond.
    pub const fn resolution(mut self, resolution: Duration) -> Self {
        self.resolution = resolution;
        self
    }

    /// Sets the size of the largest body that the store must keep, in bytes.
    ///
    /// The store may refuse a larger body with [`Capacity`](groupcache_core::ErrorKind::Capacity), or not
    /// keep it. Defaults to 2 MiB.
    pub const fn largest_body_bytes(mut self, bytes: usize) -> Self {
        self.largest_body_bytes = bytes;
        self
    }

    /// Expects backends made with the same key prefix to share their data.
    ///
    /// Defaults to a store that each backend has for itself.
    pub const fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// Expects the store to grant leases: [`Backend::lease`] and [`Backend::release`] are its own.
    ///
    /// Defaults to the provided methods, which grant every lease.
    pub const fn leases(mut self) -> Self {
        self.leases = true;
        self
    }
}

impl Default for Expectations {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> Kit<B> {
    /// Makes the backends that a case needs, under fresh key prefixes.
    ///
    /// Returns `None` if `make` does, and writes to standard error that `case` is skipped.
    ///
    /// # Panics
    ///
    /// Panics if `make` returns `None` and the environment has `GROUPCACHE_REQUIRE_SERVERS=1`.
    pub async fn new<F, Fut>(case: &'static str, make: &F, expectations: Expectations) -> Option<Self>
    where
        F: Fn(String) -> Fut + Sync,
        Fut: Future<Output = Option<B>> + Send,
    {
        let key_prefix = format!("{case}-{:032x}", rand::random::<u128>());
        let (Some(backend), Some(other_prefix)) =
            (make(key_prefix.clone()).await, make(format!("{key_prefix}-other")).await)
        else {
            let required = std::env::var("GROUPCACHE_REQUIRE_SERVERS").is_ok_and(|set| set == "1");
            assert!(!required, "{case}: there is no server, and GROUPCACHE_REQUIRE_SERVERS=1");
            eprintln!("{case}: SKIPPED, there is no server");
            return None;
        };
        let second_connection = if expectations.shared { make(key_prefix).await } else { None };
        Some(Self { backend: Arc::new(backend), other_prefix, second_connection, expectations, case })
    }

    /// Whether the store grants leases. Writes to standard error that the case does not apply if not.
    pub(crate) fn expects_leases(&self) -> bool {
        if !self.expectations.leases {
            eprintln!("{}: NOT APPLICABLE without `Expectations::leases`", self.case);
        }
        self.expectations.leases
    }

    /// Returns a second connection to the same data, if the store is shared. Writes to standard error that
    /// the case does not apply if not.
    pub(crate) fn second_connection(&self) -> Option<&B> {
        if self.second_connection.is_none() {
            eprintln!("{}: NOT APPLICABLE without `Expectations::shared`", self.case);
        }
        self.second_connection.as_ref()
    }

    pub(crate) fn violation(&self, promise: &'static str, found: String) -> Violation {
        Violation { case: self.case, promise, found }
    }

    pub(crate) fn answered<T>(&self, operation: &str, outcome: Result<T>) -> Result<T, Violation> {
        outcome.map_err(|error| {
            self.violation("a healthy store returns no error", format!("{operation}: {}", chain(&error)))
        })
    }

    pub(crate) async fn lookup(&self, key: &Key, groups: &[Group]) -> Result<Lookup, Violation> {
        self.lookup_of(&*self.backend, key, groups).await
    }

    pub(crate) async fn lookup_of(
        &self,
        backend: &B,
        key: &Key,
        groups: &[Group],
    ) -> Result<Lookup, Violation> {
        let lookup = self.answered("lookup", backend.lookup(key, groups, TimeLeft::NotNeeded).await)?;
        promised!(
            self,
            "a lookup returns a generation, or none, for each group",
            lookup.current.len() == groups.len(),
            "{} for {} groups",
            lookup.current.len(),
            groups.len()
        );
        Ok(lookup)
    }

    pub(crate) async fn find(&self, key: &Key) -> Result<Option<Arc<Entry>>, Violation> {
        match self.lookup(key, &[]).await?.found {
            Found::Absent => Ok(None),
            Found::Entry(entry, _) => Ok(Some(entry)),
            Found::Undecodable => Err(self.violation(
                "an entry is returned as it was stored",
                format!("the entry under {key:?} does not decode"),
            )),
        }
    }

    pub(crate) async fn mint(&self, groups: &[Group]) -> Result<Minted, Violation> {
        self.mint_in(&*self.backend, groups).await
    }

    pub(crate) async fn mint_in(&self, backend: &B, groups: &[Group]) -> Result<Minted, Violation> {
        let minted = self.answered("mint", backend.mint(groups).await)?;
        promised!(
            self,
            "a mint returns one generation for each group",
            minted.vector.len() == groups.len(),
            "{} generations for {} groups",
            minted.vector.len(),
            groups.len()
        );
        Ok(minted)
    }

    pub(crate) async fn bump(&self, groups: &[Group]) -> Result<(), Violation> {
        self.answered("bump", self.backend.bump(groups).await)
    }

    pub(crate) async fn store(
        &self,
        entry: &Arc<Entry>,
        time_to_live: Option<Duration>,
    ) -> Result<(), Violation> {
        self.answered("store", self.backend.store(entry, time_to_live).await)
    }

    /// Sleeps until anything that expires after `time` has expired, and a little longer.
    pub(crate) async fn outlive(&self, time: Duration) {
        tokio::time::sleep(time + self.expectations.resolution + Duration::from_millis(5)).await;
    }
}

impl Violation {
    /// Returns the name of the case that found it: one of [`cases`](crate::cases), or of the function that ran.
    #[must_use]
    pub const fn case(&self) -> &'static str {
        self.case
    }

    /// Returns the broken promise.
    #[must_use]
    pub const fn promise(&self) -> &'static str {
        self.promise
    }

    pub(crate) fn new(case: &'static str, promise: &'static str, found: impl Into<String>) -> Self {
        Self { case, promise, found: found.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken promise: {}\n  found: {}\n  by: {}", self.promise, self.found, self.case)
    }
}

impl std::error::Error for Violation {}

impl<B: Backend> fmt::Debug for Kit<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kit")
            .field("case", &self.case)
            .field("backend", &self.backend.name())
            .field("expectations", &self.expectations)
            .finish_non_exhaustive()
    }
}

/// The key of this name, under a prefix that keeps it apart from keys of other origin.
pub(crate) fn key(name: &str) -> Key {
    let mut bytes = b"conformance ".to_vec();
    bytes.extend_from_slice(name.as_bytes());
    Key::from_encoded(&bytes)
}

pub(crate) fn entry(
    key: &Key,
    groups: &Groups,
    vector: &GenerationVector,
    body: impl Into<Bytes>,
) -> Arc<Entry> {
    Arc::new(Entry::new(key.clone(), groups.clone(), vector.clone(), body.into(), Duration::ZERO))
}

/// An entry without groups.
pub(crate) fn plain(key: &Key, body: impl Into<Bytes>) -> Arc<Entry> {
    entry(key, &Groups::none(), &GenerationVector::default(), body)
}

/// Names that stores are known to mishandle: empty, long, with every kind of separator, or equal except
/// for case or white space.
pub(crate) fn odd_names() -> Vec<Vec<u8>> {
    const SHORT: [&str; 37] = [
        "",
        " ",
        "  ",
        "a",
        "A",
        "a ",
        " a",
        "a\n",
        "a\r\n",
        "a\0",
        "\0",
        "a b",
        "a\tb",
        "a:b",
        "a{b}",
        "{a}b",
        "a*",
        "a?",
        "[a]",
        "a/b",
        "a\\b",
        "a%20b",
        "a%b",
        "a=b",
        "a,b",
        "\"a\"",
        "'a'",
        "ä",
        "a\u{308}",
        "\u{7f}",
        "\u{1f4da}",
        "\u{feff}a",
        "a\u{200b}",
        "null",
        "None",
        "0",
        "-1",
    ];
    let mut names: Vec<Vec<u8>> = SHORT.iter().map(|name| name.as_bytes().to_vec()).collect();
    for length in [127, 128, 249, 250, 251, 1024, 65_536] {
        names.push(vec![b'x'; length]);
    }
    // These differ in their last byte only, past the length that some stores compare.
    for last in [b'1', b'2'] {
        let mut name = vec![b'y'; 4096];
        name.push(last);
        names.push(name);
    }
    names
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
