//! From one call to the key and the groups of its entry.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use crate::data::address::Address;
use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::error::{Error, Result};
use crate::strategy::call::{Arguments, Call};
use crate::strategy::model::{Model, Models, argument_text, check_fields};

/// Turns one call into the key and the groups of its entry.
///
/// # Behavior
///
/// * **Deterministic**: equal calls have equal keys and groups, in every process.
/// * **Injective**: calls whose values may differ have different keys.
/// * **Consistent**: the groups named here are those that are invalidated when the value changes.
///
/// `C` is what is called: any type of one's own, or one that implements [`Call`] for the supplied
/// strategies. A closure that returns an [`Address`] is a strategy.
///
/// ```
/// use groupcache_core::{Group, Groups, Key, KeyStrategy, Result};
///
/// struct Report { year: u16, region: String }
///
/// struct ByRegion;
///
/// impl KeyStrategy<Report> for ByRegion {
///     fn key(&self, report: &Report) -> Result<Key> {
///         Key::of(&("report", report.year, &report.region))
///     }
///
///     fn groups(&self, report: &Report) -> Result<Groups> {
///         Ok(Group::new("sales").with("region", &report.region).into())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no key strategy for calls of type `{C}`",
    note = "the supplied strategies take any `C` that implements `Call`"
)]
pub trait KeyStrategy<C: ?Sized>: Send + Sync {
    /// What the entry of this call is stored under.
    ///
    /// # Errors
    ///
    /// If this call has none; it is computed and not cached.
    fn key(&self, call: &C) -> Result<Key>;

    /// What the entry of this call depends on.
    ///
    /// # Errors
    ///
    /// If that cannot be said of this call; it is computed and not cached.
    fn groups(&self, call: &C) -> Result<Groups>;

    /// Whether this strategy suits calls with these argument names: asked once, when an application
    /// is built. Provided as yes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration), naming the argument or field.
    fn check(&self, arguments: &[&str]) -> Result<()> {
        let _ = arguments;
        Ok(())
    }

    /// Whether the key is [`Call::key`], and the groups follow from it: calls of equal keys have equal
    /// groups as long as the process lives. A hit in memory is then found without working out its
    /// groups. Provided as no.
    fn is_keyed_by_call(&self) -> bool {
        false
    }

    /// Both.
    ///
    /// # Errors
    ///
    /// If either fails.
    fn address(&self, call: &C) -> Result<Address> {
        Ok(Address { key: self.key(call)?, groups: self.groups(call)? })
    }
}

/// Groups entries by their call's arguments: by all of them, by some, or under other names; for each
/// called thing alone or shared between several.
///
/// ```
/// use groupcache_core::{ByArguments, Group, Groups, KeyStrategy, NamedCall};
///
/// let call = NamedCall::new("feed").with("name", "politics").with("entries", 10);
/// let groups = ByArguments::of(["name"]).groups(&call)?;
/// assert_eq!(groups, Groups::from(Group::new("feed").with("name", "politics")));
///
/// // Two functions that call the same thing by different names share a group.
/// let shared = ByArguments::of(["name"]).rename("name", "topic").shared("topics");
/// assert_eq!(shared.groups(&call)?, Groups::from(Group::new("topics").with("topic", "politics")));
/// # Ok::<(), groupcache_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct ByArguments {
    /// `None` for all.
    arguments: Option<Vec<Cow<'static, str>>>,
    renamed: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    shared: Option<Cow<'static, str>>,
}

/// Puts all entries of whatever it is used for into one group of this name.
#[derive(Debug, Clone)]
pub struct ByTag(Cow<'static, str>);

/// Groups entries by the row of a model that their arguments name: `book{id=5}`.
///
/// All arguments count, or those named with [`on`](Self::on), as the fields of the same (serde)
/// names, or of those given with [`rename`](Self::rename).
pub struct ByModel<M> {
    arguments: ByArguments,
    model: PhantomData<fn() -> M>,
}

/// Groups entries by all rows of some models; see [`Models`](crate::Models).
pub struct ByModels<L>(PhantomData<fn() -> L>);

impl ByArguments {
    /// By all arguments of the call.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// By no argument: one group of all calls.
    #[must_use]
    pub fn none() -> Self {
        Self { arguments: Some(Vec::new()), ..Self::default() }
    }

    /// By these arguments.
    #[must_use]
    pub fn of<N: Into<Cow<'static, str>>>(arguments: impl IntoIterator<Item = N>) -> Self {
        Self { arguments: Some(arguments.into_iter().map(Into::into).collect()), ..Self::default() }
    }

    /// Only these arguments count.
    #[must_use]
    pub fn on<N: Into<Cow<'static, str>>>(mut self, arguments: impl IntoIterator<Item = N>) -> Self {
        self.arguments = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// Calls the argument `argument` `field` in the group.
    #[must_use]
    pub fn rename(
        mut self,
        argument: impl Into<Cow<'static, str>>,
        field: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.renamed.push((argument.into(), field.into()));
        self
    }

    /// Names the group `label` instead of after what is called, so that others can share it.
    #[must_use]
    pub fn shared(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.shared = Some(label.into());
        self
    }

    /// Whether all arguments count, whichever there are.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        self.arguments.is_none()
    }

    /// Names the group `label` unless it was given a name to share already.
    #[must_use]
    pub fn shared_or(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.shared.get_or_insert_with(|| label.into());
        self
    }

    /// The group of a call of `name` with these arguments, others being ignored.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if one is missing; names it.
    pub fn group(&self, name: &str, arguments: &Arguments) -> Result<Group> {
        let mut group = Group::new(self.shared.as_deref().unwrap_or(name));
        match &self.arguments {
            None => {
                for (argument, text) in arguments.iter() {
                    group = group.with_text(self.field(argument), text);
                }
            }
            Some(names) => {
                for argument in names {
                    let text = arguments
                        .get(argument)
                        .ok_or_else(|| missing(argument, &arguments_list(arguments)))?;
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

    /// The arguments that count, of those there are, and the fields they become.
    fn mapping<'a>(&'a self, there_are: &[&'a str]) -> Result<Vec<(&'a str, &'a str)>> {
        let counting: Vec<&'a str> = match &self.arguments {
            None => there_are.to_vec(),
            Some(names) => names.iter().map(|name| &**name).collect(),
        };
        let renamed = self.renamed.iter().map(|(from, _)| &**from);
        for argument in counting.iter().copied().chain(renamed) {
            if !there_are.contains(&argument) {
                return Err(missing(argument, &there_are.join(", ")));
            }
        }
        if let Some((from, _)) = self.renamed.iter().find(|(from, _)| !counting.contains(&&**from)) {
            return Err(wrong(format!("argument `{from}` is renamed but not among those that count")));
        }
        let mapping: Vec<_> = counting.into_iter().map(|argument| (argument, self.field(argument))).collect();
        for (at, (_, field)) in mapping.iter().enumerate() {
            if mapping[..at].iter().any(|(_, other)| other == field) {
                return Err(wrong(format!("two arguments become the field `{field}`")));
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
        if self.shared.as_deref() == Some("") {
            return Err(wrong("the label of a shared group is empty"));
        }
        self.mapping(arguments).map(drop)
    }
}

impl ByTag {
    /// Entries under this tag. An empty one is an error of [`check`](KeyStrategy::check).
    #[must_use]
    pub fn new(tag: impl Into<Cow<'static, str>>) -> Self {
        Self(tag.into())
    }

    /// The group of a tag: what to invalidate.
    #[must_use]
    pub fn group(tag: &str) -> Group {
        // No name that a model or a view would have.
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
        if self.0.is_empty() { Err(wrong("the tag is empty")) } else { Ok(()) }
    }
}

impl<M: Model> ByModel<M> {
    /// By all arguments.
    #[must_use]
    pub fn new() -> Self {
        Self { arguments: ByArguments::all(), model: PhantomData }
    }

    /// By these arguments only.
    #[must_use]
    pub fn on<N: Into<Cow<'static, str>>>(mut self, arguments: impl IntoIterator<Item = N>) -> Self {
        self.arguments = self.arguments.on(arguments);
        self
    }

    /// The argument `argument` is the model's field `field`.
    #[must_use]
    pub fn rename(
        mut self,
        argument: impl Into<Cow<'static, str>>,
        field: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.arguments = self.arguments.rename(argument, field);
        self
    }
}

impl<M: Model> From<ByArguments> for ByModel<M> {
    /// By these arguments; a shared label has no meaning here.
    fn from(arguments: ByArguments) -> Self {
        Self { arguments, model: PhantomData }
    }
}

impl<M: Model> Default for ByModel<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Model, C: Call + ?Sized> KeyStrategy<C> for ByModel<M> {
    fn key(&self, call: &C) -> Result<Key> {
        call.key()
    }

    fn is_keyed_by_call(&self) -> bool {
        true
    }

    fn groups(&self, call: &C) -> Result<Groups> {
        let names: Vec<_> = call.arguments().iter().map(|(name, _)| name).collect();
        let mut group = Group::new(M::NAME);
        for (argument, field) in self.arguments.mapping(&names)? {
            let text = call.arguments().get(argument).unwrap_or_default();
            group = group.with_text(field, &argument_text::<M>(field, text)?);
        }
        Ok(group.into())
    }

    fn check(&self, arguments: &[&str]) -> Result<()> {
        check_fields::<M>()?;
        let mapping = self.arguments.mapping(arguments)?;
        let mut fields: Vec<&str> = mapping.iter().map(|(_, field)| *field).collect();
        fields.sort_unstable();
        let declared = M::GROUPS.iter().any(|set| {
            let mut set = set.to_vec();
            set.sort_unstable();
            set == fields
        });
        if declared {
            return Ok(());
        }
        let sets: Vec<_> = M::GROUPS.iter().map(|set| format!("[{}]", set.join(", "))).collect();
        Err(wrong(format!(
            "model `{}` declares no group by the fields [{}], only by {}; choose arguments with `on` and \
             `rename`, or add the group to `GROUPS`",
            M::NAME,
            fields.join(", "),
            if sets.is_empty() { "none".to_owned() } else { sets.join(", ") },
        )))
    }
}

impl<L: Models> ByModels<L> {
    /// By all rows of all models of `L`.
    #[must_use]
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<L: Models> Default for ByModels<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: Models, C: Call + ?Sized> KeyStrategy<C> for ByModels<L> {
    fn key(&self, call: &C) -> Result<Key> {
        call.key()
    }

    fn is_keyed_by_call(&self) -> bool {
        true
    }

    fn groups(&self, _: &C) -> Result<Groups> {
        Ok(L::all_rows())
    }

    fn check(&self, _: &[&str]) -> Result<()> {
        L::check()
    }
}

impl<C: ?Sized, F: Fn(&C) -> Result<Address> + Send + Sync> KeyStrategy<C> for F {
    fn key(&self, call: &C) -> Result<Key> {
        Ok(self(call)?.key)
    }

    fn groups(&self, call: &C) -> Result<Groups> {
        Ok(self(call)?.groups)
    }

    fn address(&self, call: &C) -> Result<Address> {
        self(call)
    }
}

/// The first one's key, and the groups of both.
impl<C: ?Sized, S: KeyStrategy<C>, T: KeyStrategy<C>> KeyStrategy<C> for (S, T) {
    fn key(&self, call: &C) -> Result<Key> {
        self.0.key(call)
    }

    fn groups(&self, call: &C) -> Result<Groups> {
        Ok(self.0.groups(call)?.union(&self.1.groups(call)?))
    }

    fn check(&self, arguments: &[&str]) -> Result<()> {
        self.0.check(arguments)?;
        self.1.check(arguments)
    }

    fn is_keyed_by_call(&self) -> bool {
        self.0.is_keyed_by_call() && self.1.is_keyed_by_call()
    }
}

impl<C: ?Sized> KeyStrategy<C> for Box<dyn KeyStrategy<C> + '_> {
    fn key(&self, call: &C) -> Result<Key> {
        (**self).key(call)
    }

    fn groups(&self, call: &C) -> Result<Groups> {
        (**self).groups(call)
    }

    fn check(&self, arguments: &[&str]) -> Result<()> {
        (**self).check(arguments)
    }

    fn is_keyed_by_call(&self) -> bool {
        (**self).is_keyed_by_call()
    }

    fn address(&self, call: &C) -> Result<Address> {
        (**self).address(call)
    }
}

impl<M: Model> fmt::Debug for ByModel<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByModel").field("model", &M::NAME).field("arguments", &self.arguments).finish()
    }
}

impl<L: Models> fmt::Debug for ByModels<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ByModels").field(&L::all_rows()).finish()
    }
}

fn arguments_list(arguments: &Arguments) -> String {
    arguments.iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

fn missing(argument: &str, there_are: &str) -> Error {
    let there_are = if there_are.is_empty() { "no arguments" } else { there_are };
    wrong(format!("there is no argument `{argument}`; there are: {there_are}"))
}

fn wrong(message: impl Into<String>) -> Error {
    Error::configuration("groupcache-core", message)
}
