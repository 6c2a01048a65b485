//! What is called, and with which arguments.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use smallvec::SmallVec;

use crate::data::key::Key;
use crate::error::Result;

/// One call of something whose outcome is cached: a view with its path arguments, a function with
/// its arguments.
pub trait Call {
    /// What is called; the same name means the same computation.
    fn name(&self) -> &str;

    /// The named arguments.
    fn arguments(&self) -> &Arguments;

    /// The key of the entry: everything its value depends on, which is at least name and arguments.
    ///
    /// # Errors
    ///
    /// If it cannot be encoded; the call is not cached then.
    fn key(&self) -> Result<Key> {
        Key::of(&(self.name(), self.arguments()))
    }
}

/// Named arguments by their texts, sorted by name, each name once.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Arguments(SmallVec<[(Cow<'static, str>, Cow<'static, str>); 2]>);

/// A call of a function, for use without HTTP.
///
/// ```
/// use groupcache_core::{Call, NamedCall};
///
/// let call = NamedCall::new("report").with("quarter", 3);
/// assert_eq!(call.arguments().get("quarter"), Some("3"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamedCall {
    name: Arc<str>,
    arguments: Arguments,
}

impl Arguments {
    /// No arguments.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an argument; a second text for the same name replaces the first.
    pub fn insert(&mut self, name: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) {
        let (name, text) = (name.into(), text.into());
        match self.0.binary_search_by(|(known, _)| known.cmp(&name)) {
            Ok(at) => self.0[at].1 = text,
            Err(at) => self.0.insert(at, (name, text)),
        }
    }

    /// The text of an argument.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok().map(|at| &*self.0[at].1)
    }

    /// All of them, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (&**name, &**text))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
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
    /// A call without arguments.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), arguments: Arguments::new() }
    }

    /// The call that also has this argument, by its text.
    #[must_use]
    pub fn with(mut self, argument: impl Into<Cow<'static, str>>, value: impl fmt::Display) -> Self {
        self.arguments.insert(argument, value.to_string());
        self
    }

    /// As [`with`](Self::with), for what is text already.
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
