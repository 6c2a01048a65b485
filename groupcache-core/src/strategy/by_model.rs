//! The strategies that group entries by the rows of models.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::error::{CRATE_NAME, Error, Result};
use crate::strategy::by_arguments::ByArguments;
use crate::strategy::call::Call;
use crate::strategy::key_strategy::KeyStrategy;
use crate::strategy::model::{Model, Models, argument_text, check_fields};

/// Groups entries by the row of a model that the arguments of the call identify, such as `book{id=5}`.
///
/// The arguments are fields of the model under the same (serde) names. Select some with [`on`](Self::on), and
/// give others names with [`rename`](Self::rename). The fields must be one of the sets in [`Model::GROUPS`];
/// other sets are an error of [`check`](KeyStrategy::check).
///
/// ```
/// use groupcache_core::{ByModel, Group, Groups, KeyStrategy, Model, NamedCall};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Book { id: i64, title: String }
///
/// impl Model for Book {
///     const NAME: &'static str = "book";
///     const GROUPS: &'static [&'static [&'static str]] = &[&["id"]];
/// }
///
/// let call = NamedCall::new("view_book").with("book_id", "05");
/// let groups = ByModel::<Book>::new().rename("book_id", "id").groups(&call)?;
/// assert_eq!(groups, Groups::from(Group::new("book").with("id", 5)));
/// # Ok::<(), groupcache_core::Error>(())
/// ```
pub struct ByModel<M> {
    arguments: ByArguments,
    model: PhantomData<fn() -> M>,
}

/// Groups entries by all rows of one or several [`Models`].
pub struct ByModels<L>(PhantomData<fn() -> L>);

impl<M: Model> ByModel<M> {
    /// Groups by all arguments of the call.
    #[must_use]
    pub fn new() -> Self {
        Self::from(ByArguments::all())
    }

    /// Selects these arguments. Defaults to all.
    #[must_use]
    pub fn on<N: Into<Cow<'static, str>>>(mut self, arguments: impl IntoIterator<Item = N>) -> Self {
        self.arguments = self.arguments.on(arguments);
        self
    }

    /// Makes `argument` the field `field` of the model. Defaults to the argument's own name.
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
    /// Groups by the arguments that `arguments` selects and renames. Its label has no effect.
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
        let mapping = self.arguments.mapping(&names)?;
        // `check` has seen only the arguments that all calls have.
        check_declared::<M>(&mapping)?;
        let mut group = Group::new(M::NAME);
        for (argument, field) in mapping {
            let text = call.arguments().get(argument).unwrap_or_default();
            group = group.with_text(field, &argument_text::<M>(field, text)?);
        }
        Ok(group.into())
    }

    fn check(&self, arguments: &[&str]) -> Result<()> {
        check_fields::<M>()?;
        check_declared::<M>(&self.arguments.mapping(arguments)?)
    }
}

/// Checks that the model declares a group by exactly these fields: rows belong to no other groups.
fn check_declared<M: Model>(mapping: &[(&str, &str)]) -> Result<()> {
    let is_mapped = |field: &&str| mapping.iter().any(|(_, mapped)| mapped == field);
    if M::GROUPS.iter().any(|set| set.len() == mapping.len() && set.iter().all(is_mapped)) {
        return Ok(());
    }
    let mut fields: Vec<_> = mapping.iter().map(|(_, field)| *field).collect();
    fields.sort_unstable();
    let sets: Vec<_> = M::GROUPS.iter().map(|set| format!("[{}]", set.join(", "))).collect();
    let message = format!(
        "model `{}` declares no group by the fields [{}], only by {}; select arguments with `on` and `rename`, \
         or add the group to `GROUPS`",
        M::NAME,
        fields.join(", "),
        if sets.is_empty() { "none".to_owned() } else { sets.join(", ") },
    );
    Err(Error::configuration(CRATE_NAME, message))
}

impl<L: Models> ByModels<L> {
    /// Groups by all rows of all models in `L`.
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
