//! What a case has to work with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use groupcache_core::backend::{Found, Lookup, Minted, TimeLeft};

use groupcache_core::Backend;
use groupcache_core::Entry;
use groupcache_core::Key;
use groupcache_core::backend::GenerationVector;
use groupcache_core::{Error, Result};
use groupcache_core::{Group, Groups};

/// What to expect of a store beyond the promises of [`Backend`].
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Expectations {
    pub(crate) resolution: Duration,
    pub(crate) largest_body_bytes: usize,
    pub(crate) shared: bool,
    pub(crate) leases: bool,
}

/// One backend under test, and what may be expected of it.
pub struct Kit<B> {
    /// In a name space of this test's own.
    pub(crate) backend: Arc<B>,
    /// In another one.
    pub(crate) elsewhere: B,
    /// Another connection to the same name space, if the store has several.
    pub(crate) again: Option<B>,
    pub(crate) expectations: Expectations,
    case: &'static str,
}

/// A promise that is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    case: &'static str,
    promise: &'static str,
    found: String,
}

/// Breaks off a case whose promise is broken.
macro_rules! promised {
    ($kit:expr, $promise:expr, $held:expr, $($found:tt)+) => {
        if !$held {
            return Err($kit.violation($promise, format!($($found)+)));
        }
    };
}
pub(crate) use promised;

impl Expectations {
    /// A store of one process, which expires to the millisecond and keeps entries of 2 MiB.
    pub const fn new() -> Self {
        Self {
            resolution: Duration::from_millis(1),
            largest_body_bytes: 2 << 20,
            shared: false,
            leases: false,
        }
    }

    /// The store's documented resolution of times to live: by how much an entry may expire earlier
    /// or later. Cases sleep for about this long. Defaults to a millisecond.
    pub const fn resolution(mut self, resolution: Duration) -> Self {
        self.resolution = resolution;
        self
    }

    /// The largest body that the store must keep. Larger ones may be refused, with
    /// [`Capacity`](groupcache_core::ErrorKind::Capacity), or not kept. Defaults to 2 MiB.
    pub const fn largest_body_bytes(mut self, bytes: usize) -> Self {
        self.largest_body_bytes = bytes;
        self
    }

    /// Backends made with the same name space are connections to the same data. Defaults to no.
    pub const fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// The store gives leases: [`Backend::lease`] and [`Backend::release`] are its own. Defaults to no.
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
    /// Makes what the case of this name needs. `None` if there is no server to test with, which is
    /// said on standard error.
    ///
    /// # Panics
    ///
    /// If there is no server and the environment has `GROUPCACHE_REQUIRE_SERVERS=1`.
    pub async fn new<F, Fut>(case: &'static str, make: &F, expectations: Expectations) -> Option<Self>
    where
        F: Fn(String) -> Fut + Sync,
        Fut: Future<Output = Option<B>> + Send,
    {
        let space = format!("{case}-{:032x}", rand::random::<u128>());
        let (Some(backend), Some(elsewhere)) =
            (make(space.clone()).await, make(format!("{space}-elsewhere")).await)
        else {
            let required = std::env::var("GROUPCACHE_REQUIRE_SERVERS").is_ok_and(|set| set == "1");
            assert!(!required, "{case}: there is no server, and GROUPCACHE_REQUIRE_SERVERS=1");
            eprintln!("{case}: SKIPPED, there is no server");
            return None;
        };
        let again = if expectations.shared { make(space).await } else { None };
        Some(Self { backend: Arc::new(backend), elsewhere, again, expectations, case })
    }

    pub(crate) fn violation(&self, promise: &'static str, found: String) -> Violation {
        Violation { case: self.case, promise, found }
    }

    pub(crate) fn answered<T>(&self, operation: &str, outcome: Result<T>) -> Result<T, Violation> {
        outcome.map_err(|error| {
            self.violation(
                "a store that works answers without an error",
                format!("{operation}: {}", chain(&error)),
            )
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
            "a lookup tells of each group that was asked for",
            lookup.current.len() == groups.len(),
            "{} answers for {} groups",
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
                "an entry comes back as it was stored",
                format!("what is under {key:?} does not decode"),
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

    /// Sleeps until what expires after `time` has, and a little longer.
    pub(crate) async fn outlive(&self, time: Duration) {
        tokio::time::sleep(time + self.expectations.resolution + Duration::from_millis(5)).await;
    }
}

/// Names that have led stores astray: empty, long, with every kind of separator, alike but for case
/// or white space.
pub(super) fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
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
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    for length in [127, 128, 249, 250, 251, 1024, 65_536] {
        names.push(vec![b'x'; length]);
    }
    // Differ in their last byte only, beyond what some stores look at.
    for last in [b'1', b'2'] {
        let mut name = vec![b'y'; 4096];
        name.push(last);
        names.push(name);
    }
    names
}

impl Violation {
    /// The case that found it: one of [`cases`](super::cases), or what was run by itself.
    #[must_use]
    pub const fn case(&self) -> &'static str {
        self.case
    }

    /// The promise that is broken, as the documentation of [`Backend`] has it.
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

/// A key that no other has.
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

/// An entry that depends on nothing.
pub(crate) fn plain(key: &Key, body: impl Into<Bytes>) -> Arc<Entry> {
    entry(key, &Groups::none(), &GenerationVector::default(), body)
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
