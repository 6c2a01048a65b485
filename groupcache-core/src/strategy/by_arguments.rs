//! The strategy that groups entries by the arguments of their calls.

use std::borrow::Cow;

use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::error::{CRATE_NAME, Error, Result};
use crate::strategy::call::{Arguments, Call};
use crate::strategy::key_strategy::KeyStrategy;

/// Groups entries by the arguments of their calls: by all of them, by some, or under other names.
///
/// The group has the name of the call, or a label that several calls share. Its fields are the arguments.
///
/// ```
/// use groupcache_core::{ByArguments, Group, Groups, KeyStrategy, NamedCall};
///
/// let call = NamedCall::new("feed").with("name", "politics").with("entries", 10);
/// let groups = ByArguments::of(["name"]).groups(&call)?;
/// assert_eq!(groups, Groups::from(Group::new("feed").with("name", "politics")));
///
/// // Two functions with different names for the same argument share a group.
/// let shared = ByArguments::of(["name"]).rename("name", "topic").shared("topics");
/// assert_eq!(shared.groups(&call)?, Groups::from(Group::new("topics").with("topic", "politics")));
/// # Ok::<(), groupcache_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct ByArguments {
    /// `None` selects all arguments.
    selected: Option<Vec<Cow<'static, str>>>,
    renamed: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    label: Option<Cow<'static, str>>,
}

impl ByArguments {
    /// Groups by all arguments of the call.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Groups by no argument: all calls of one name share one group.
    #[must_use]
    pub fn none() -> Self {
        Self { selected: Some(Vec::new()), ..Self::default() }
    }

    /// Groups by these arguments only.
    #[must_use]
    pub fn of<N: Into<Cow<'static, str>>>(arguments: impl IntoIterator<Item = N>) -> Self {
        Self::default().on(arguments)
    }

    /// Selects these arguments, instead of those selected before. Defaults to all.
    #[must_use]
    pub fn on<N: Into<Cow<'static, str>>>(mut self, arguments: impl IntoIterator<Item = N>) -> Self {
        self.selected = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// Makes `argument` the field `field` of the group. Defaults to the argument's own name.
    ///
    /// It is an error of [`check`](KeyStrategy::check) to rename an argument that is not selected.
    #[must_use]
    pub fn rename(
        mut self,
        argument: impl Into<Cow<'static, str>>,
        field: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.renamed.push((argument.into(), field.into()));
        self
    }

    /// Names the group `label`, so that several calls can share it. Defaults to the name of the call.
    ///
    /// An empty label is an error of [`check`](KeyStrategy::check).
    #[must_use]
    pub fn shared(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Names the group `label`, unless it already has a label.
    #[must_use]
    pub fn shared_or(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.label.get_or_insert_with(|| label.into());
        self
    }

    /// Returns whether all arguments of a call are selected.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        self.selected.is_none()
    }

    /// Returns the group of a call of `name` with these arguments. Ignores arguments that are not selected.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if a selected argument is missing; the
    /// message names it.
    pub fn group(&self, name: &str, arguments: &Arguments) -> Result<Group> {
        let mut group = Group::new(self.label.as_deref().unwrap_or(name));
        match &self.selected {
            None => {
                for (argument, text) in arguments.iter() {
                    group = group.with_text(self.field(argument), text);
                }
            }
            Some(selected) => {
                for argument in selected {
                    let text = arguments.get(argument).ok_or_else(|| missing(argument, &names(arguments)))?;
                    group = group.with_text(self.field(argument), text);
                }
            }
        }
        Ok(group)
    }

    fn field<'a>(&'a self, argument: &'a str) -> &'a str {
        let renamed = self.renamed.iter().find(|(from, _)| from == argument);
        renamed.map_or(argument, |(_, to)| to)
    }

    /// Returns the selected ones of the arguments `available`, each with the field that it becomes.
    ///
    /// # Errors
    ///
    /// Fails if a selected or renamed argument is not available, if a renamed one is not selected, or if two
    /// become the same field.
    pub(crate) fn mapping<'a>(&'a self, available: &[&'a str]) -> Result<Vec<(&'a str, &'a str)>> {
        let selected: Vec<&'a str> = match &self.selected {
            None => available.to_vec(),
            Some(names) => names.iter().map(|name| &**name).collect(),
        };
        let renamed = self.renamed.iter().map(|(from, _)| &**from);
        for argument in selected.iter().copied().chain(renamed) {
            if !available.contains(&argument) {
                return Err(missing(argument, &available.join(", ")));
            }
        }
        if let Some((from, _)) = self.renamed.iter().find(|(from, _)| !selected.contains(&&**from)) {
            return Err(invalid(format!("argument `{from}` is renamed but not selected")));
        }
        let mapping: Vec<_> = selected.into_iter().map(|argument| (argument, self.field(argument))).collect();
        for (at, (_, field)) in mapping.iter().enumerate() {
            if mapping[..at].iter().any(|(_, other)| other == field) {
                return Err(invalid(format!("two arguments become the field `{field}`")));
            }
        }
        Ok(mapping)
    }
}

impl<N: Into<Cow<'static, str>>, const COUNT: usize> From<[N; COUNT]> for ByArguments {
    fn from(arguments: [N; COUNT]) -> Self {
        Self::of(arguments)
    }
}

impl<C: Call + ?Sized> KeyStrategy<C> for ByArguments {
    fn key(&self, call: &C) -> Result<Key> {
        call.key()
    }

    fn is_keyed_by_call(&self) -> bool {
        true
    }

    fn groups(&self, call: &C) -> Result<Groups> {
        Ok(self.group(call.name(), call.arguments())?.into())
    }

    fn check(&self, arguments: &[&str]) -> Result<()> {
        if self.label.as_deref() == Some("") {
            return Err(invalid("the label of a shared group is empty"));
        }
        self.mapping(arguments).map(drop)
    }
}

fn names(arguments: &Arguments) -> String {
    arguments.iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

fn missing(argument: &str, available: &str) -> Error {
    let available = if available.is_empty() { "no arguments" } else { available };
    invalid(format!("there is no argument `{argument}`; there are: {available}"))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::configuration(CRATE_NAME, message)
}
