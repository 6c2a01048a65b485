//! Calls: what is called, and with which arguments.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use smallvec::SmallVec;

use crate::data::key::Key;
use crate::error::Result;

/// A call whose result is cached: of a function with its arguments, or of a view with its path arguments.
///
/// The supplied [key strategies](crate::KeyStrategy) work for every type that implements it. [`NamedCall`] is
/// the implementation for calls without HTTP.
///
/// ```
/// use groupcache_core::{Arguments, Call, Key};
///
/// struct Report { arguments: Arguments, currency: &'static str }
///
/// impl Call for Report {
///     fn name(&self) -> &str { "report" }
///     fn arguments(&self) -> &Arguments { &self.arguments }
///     // The currency changes the value, but not what makes it stale.
///     fn key(&self) -> groupcache_core::Result<Key> { Key::of(&(self.name(), &self.arguments, self.currency)) }
/// }
///
/// let [euro, yen] = ["EUR", "JPY"].map(|currency| Report { arguments: [("year", 2026)].into(), currency });
/// assert_ne!(euro.key()?, yen.key()?);
/// # Ok::<(), groupcache_core::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Call`",
    label = "has neither a name nor named arguments",
    note = "use `NamedCall`, implement `Call` for this type, or implement `KeyStrategy<{Self}>` for a strategy of \
            your own"
)]
pub trait Call {
    /// Returns the name of what is called. Calls of one name have their values from the same loader.
    fn name(&self) -> &str;

    /// Returns the named arguments.
    fn arguments(&self) -> &Arguments;

    /// Returns the key of the entry, which must contain everything that the value depends on.
    ///
    /// The provided method returns the key of name and arguments.
    ///
    /// # Errors
    ///
    /// An error means that the key cannot be encoded. The call is then not cached.
    fn key(&self) -> Result<Key> {
        Key::of(&(self.name(), self.arguments()))
    }
}

/// Named arguments and their texts, sorted by name and without duplicate names.
///
/// ```
/// use groupcache_core::Arguments;
///
/// let arguments = Arguments::from([("year", 2026), ("quarter", 3)]);
/// assert_eq!(arguments.get("year"), Some("2026"));
/// assert_eq!(arguments.get("month"), None);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Arguments(SmallVec<[(Cow<'static, str>, Cow<'static, str>); 2]>);

/// A call of a function by name, for use without HTTP.
///
/// ```
/// use groupcache_core::{Call, NamedCall};
///
/// let call = NamedCall::new("report").with("year", 2026).with("quarter", 3);
/// assert_eq!(call.name(), "report");
/// assert_eq!(call.arguments().get("quarter"), Some("3"));
/// // The order of arguments does not matter.
/// assert_eq!(call, NamedCall::new("report").with("quarter", 3).with("year", 2026));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamedCall {
    name: Arc<str>,
    arguments: Arguments,
}

impl Arguments {
    /// Creates an empty list of arguments.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an argument. A second text for the same name replaces the first.
    pub fn insert(&mut self, name: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) {
        let (name, text) = (name.into(), text.into());
        match self.0.binary_search_by(|(known, _)| known.cmp(&name)) {
            Ok(at) => self.0[at].1 = text,
            Err(at) => self.0.insert(at, (name, text)),
        }
    }

    /// Returns the text of an argument, or `None` if there is no argument of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok().map(|at| &*self.0[at].1)
    }

    /// Iterates over names and texts, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (&**name, &**text))
    }

    /// Returns the number of arguments.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no arguments.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<Cow<'static, str>>, T: fmt::Display> FromIterator<(N, T)> for Arguments {
    fn from_iter<I: IntoIterator<Item = (N, T)>>(pairs: I) -> Self {
        let mut arguments = Self::new();
        for (name, value) in pairs {
            arguments.insert(name, value.to_string());
        }
        arguments
    }
}

impl<N: Into<Cow<'static, str>>, T: fmt::Display, const COUNT: usize> From<[(N, T); COUNT]> for Arguments {
    fn from(pairs: [(N, T); COUNT]) -> Self {
        pairs.into_iter().collect()
    }
}

impl Serialize for Arguments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl NamedCall {
    /// Creates a call without arguments.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), arguments: Arguments::new() }
    }

    /// Adds an argument, whose value is formatted with `Display`. A second value replaces the first.
    #[must_use]
    pub fn with(mut self, argument: impl Into<Cow<'static, str>>, value: impl fmt::Display) -> Self {
        self.arguments.insert(argument, value.to_string());
        self
    }

    /// Adds an argument that is text already, without the cost of formatting it. Otherwise like
    /// [`with`](Self::with).
    #[must_use]
    pub fn with_text(
        mut self,
        argument: impl Into<Cow<'static, str>>,
        text: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.arguments.insert(argument, text);
        self
    }
}

impl Call for NamedCall {
    fn name(&self) -> &str {
        &self.name
    }

    fn arguments(&self) -> &Arguments {
        &self.arguments
    }
}
