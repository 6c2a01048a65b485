//! Models: the groups that rows of data belong to.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::data::group::{Group, Groups};
use crate::error::{CRATE_NAME, Error, ErrorKind, Result};
use crate::strategy::field_probe::{self, FieldKind};

/// A kind of row, and the groups that its rows belong to.
///
/// A row belongs to the group of all rows (`book`), and to one group for each declared set of fields
/// (`book{id=5}`, `book{author_id=7}`). Strategies, invalidations and database triggers all use this
/// declaration.
///
/// ```
/// use groupcache_core::{Group, Groups, Model};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Book { id: i64, title: String, author_id: i64 }
///
/// impl Model for Book {
///     const NAME: &'static str = "book";
///     const GROUPS: &'static [&'static [&'static str]] = &[&["id"], &["author_id"]];
/// }
///
/// let book = Book { id: 5, title: "Emma".into(), author_id: 7 };
/// let groups = groupcache_core::groups_of(&book)?;
/// assert!(groups.contains(&Group::new("book")));
/// assert!(groups.contains(&Group::new("book").with("author_id", 7)));
/// # Ok::<(), groupcache_core::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Model`",
    label = "its rows belong to no declared groups",
    note = "implement `Model` for `{Self}`: give it a `NAME`, and the sets of fields to group rows by as `GROUPS`"
)]
pub trait Model: Serialize + DeserializeOwned {
    /// The name of the kind of row, unique in the application.
    const NAME: &'static str;

    /// The sets of fields, by their serde names, to group rows by. Every set that a strategy or a trigger
    /// uses must be declared here. The group of all rows needs no declaration.
    const GROUPS: &'static [&'static [&'static str]];

    /// Returns how an argument of a call identifies rows by `field`.
    ///
    /// The provided method returns [`ArgumentText::ByType`]. It works for integers, booleans, characters,
    /// free text, enums without data, and options and newtypes of these: the argument `05` identifies the row
    /// 5.
    ///
    /// A field of another type that reads text, such as a UUID or a date, may have several spellings of one
    /// value. Return the spelling that `Serialize` writes. Without that, such a field is an error when the
    /// application is built.
    ///
    /// # Examples
    ///
    /// ```
    /// use groupcache_core::{ArgumentText, ByModel, Group, KeyStrategy, Model, NamedCall};
    /// use std::net::IpAddr;
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Visit { from: IpAddr }
    ///
    /// impl Model for Visit {
    ///     const NAME: &'static str = "visit";
    ///     const GROUPS: &'static [&'static [&'static str]] = &[&["from"]];
    ///
    ///     fn argument(_field: &str, argument: &str) -> ArgumentText {
    ///         argument.parse().map_or(ArgumentText::NoRow, |from: IpAddr| ArgumentText::Is(from.to_string()))
    ///     }
    /// }
    ///
    /// let call = NamedCall::new("visits").with("from", "0:0:0:0:0:0:0:1");
    /// let groups = ByModel::<Visit>::new().groups(&call)?;
    /// assert!(groups.contains(&Group::new("visit").with("from", "::1")));
    /// # Ok::<(), groupcache_core::Error>(())
    /// ```
    fn argument(field: &str, argument: &str) -> ArgumentText {
        let (_, _) = (field, argument);
        ArgumentText::ByType
    }
}

/// How the text of an argument identifies rows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "every model builds it")]
pub enum ArgumentText {
    /// Identifies the rows whose field has the value that the type of the field reads from the argument.
    ByType,
    /// Identifies the rows whose field is serialised as this text.
    Is(String),
    /// Identifies no possible row. The call is not cached.
    NoRow,
}

/// One or several models: a [`Model`], or a tuple of up to six.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a `Model` nor a tuple of up to six models",
    note = "implement `Model` for each of the types"
)]
pub trait Models: 'static {
    /// Returns, for each model, the group of all its rows.
    fn all_rows() -> Groups;

    /// Checks the declaration of each model.
    ///
    /// # Errors
    ///
    /// Fails if [`check_fields`] fails for one of the models.
    fn check() -> Result<()>;
}

impl<M: Model + 'static> Models for M {
    fn all_rows() -> Groups {
        Group::new(M::NAME).into()
    }

    fn check() -> Result<()> {
        check_fields::<M>()
    }
}

macro_rules! tuples {
    ($(($($model:ident),+)),+ $(,)?) => {
        $(impl<$($model: Model + 'static),+> Models for ($($model,)+) {
            fn all_rows() -> Groups {
                [$(Group::new($model::NAME)),+].into()
            }

            fn check() -> Result<()> {
                $(check_fields::<$model>()?;)+
                Ok(())
            }
        })+
    };
}

tuples!((A), (A, B), (A, B, C), (A, B, C, D), (A, B, C, D, E), (A, B, C, D, E, F));

/// Returns all groups that a row belongs to, which are to be invalidated after it was inserted, changed or
/// deleted.
///
/// After a change, invalidate the groups of the old row and those of the new one.
///
/// # Errors
///
/// [`ErrorKind::Encode`] if the row cannot be serialised. [`ErrorKind::Configuration`] if it has no declared
/// field of that name, or if the value of the field is not an integer, boolean, text or null.
pub fn groups_of<M: Model>(row: &M) -> Result<Groups> {
    let value = serde_json::to_value(row)
        .map_err(|error| Error::new(ErrorKind::Encode, CRATE_NAME).with_source(error))?;
    let Value::Object(fields) = value else {
        return Err(invalid::<M>("is not a struct with named fields"));
    };
    let mut groups = vec![Group::new(M::NAME)];
    for set in M::GROUPS {
        let mut group = Group::new(M::NAME);
        for field in *set {
            group = match fields.get(*field) {
                Some(Value::String(text)) => group.with(*field, text),
                Some(Value::Bool(truth)) => group.with(*field, truth),
                Some(Value::Number(number)) if !number.is_f64() => group.with(*field, number),
                // A known field that is missing was left out by `skip_serializing_if`, because it is null.
                Some(Value::Null) => group.with_null(*field),
                None if fields_of::<M>()?.contains(field) => group.with_null(*field),
                None => return Err(invalid::<M>(format!("has no field `{field}`"))),
                Some(_) => {
                    return Err(invalid::<M>(format!(
                        "cannot be grouped by `{field}`: not an integer, boolean or text"
                    )));
                }
            };
        }
        groups.push(group);
    }
    Ok(groups.into())
}

/// Checks that a model has a name, and that it declares only fields that it has and that can identify rows.
///
/// Strategies call this when the application is built.
///
/// # Errors
///
/// [`ErrorKind::Configuration`], naming the model and the field.
pub fn check_fields<M: Model>() -> Result<()> {
    if M::NAME.is_empty() {
        return Err(Error::configuration(CRATE_NAME, "the `NAME` of a model is empty"));
    }
    let fields = fields_of::<M>()?;
    for set in M::GROUPS {
        if set.is_empty() {
            return Err(invalid::<M>(
                "declares a group by no field; the group of all rows needs no declaration",
            ));
        }
        for field in *set {
            if !fields.contains(field) {
                return Err(invalid::<M>(format!("has no field `{field}`; it has: {}", fields.join(", "))));
            }
            let by_type = M::argument(field, "") == ArgumentText::ByType;
            if by_type && field_probe::field_kind::<M>(field) == FieldKind::Other {
                return Err(invalid::<M>(format!(
                    "cannot identify rows by `{field}`: not an integer, boolean or free text; implement \
                     `Model::argument` for it"
                )));
            }
        }
    }
    Ok(())
}

/// Returns the text of `field` in the rows that the argument `text` identifies.
pub(crate) fn argument_text<M: Model>(field: &str, text: &str) -> Result<String> {
    let no_row = || invalid::<M>(format!("no row has `{text}` as its `{field}`"));
    match M::argument(field, text) {
        ArgumentText::Is(text) => Ok(text),
        ArgumentText::NoRow => Err(no_row()),
        ArgumentText::ByType => field_probe::field_kind::<M>(field).canonical(text).ok_or_else(no_row),
    }
}

fn fields_of<M: Model>() -> Result<&'static [&'static str]> {
    field_probe::fields::<M>().ok_or_else(|| invalid::<M>("is not a struct with named fields"))
}

fn invalid<M: Model>(message: impl fmt::Display) -> Error {
    Error::configuration(CRATE_NAME, format!("model `{}` {message}", M::NAME))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Id(u32);

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Genre {
        Novel,
    }

    #[derive(Serialize, Deserialize)]
    struct Row {
        id: Id,
        #[serde(rename = "writer")]
        author_id: Option<i64>,
        title: String,
        sold: bool,
        genre: Genre,
        address: std::net::IpAddr,
        #[serde(skip_serializing_if = "Option::is_none")]
        shelf: Option<String>,
        price: f64,
    }

    fn row() -> Row {
        Row {
            id: Id(5),
            author_id: None,
            title: "Emma".into(),
            sold: true,
            genre: Genre::Novel,
            address: [127, 0, 0, 1].into(),
            shelf: None,
            price: 1.5,
        }
    }

    impl Model for Row {
        const NAME: &'static str = "row";
        const GROUPS: &'static [&'static [&'static str]] =
            &[&["id"], &["writer", "sold"], &["genre"], &["shelf"], &["title"]];
    }

    macro_rules! grouped_by {
        ($field:literal) => {{
            #[derive(Serialize, Deserialize)]
            #[serde(transparent)]
            struct By(Row);
            impl Model for By {
                const NAME: &'static str = "by";
                const GROUPS: &'static [&'static [&'static str]] = &[&[$field]];
            }
            (check_fields::<By>().map_err(|error| error.to_string()), groups_of(&By(row())).is_ok())
        }};
    }

    #[test]
    fn a_row_belongs_to_all_rows_and_to_each_declared_set() {
        check_fields::<Row>().unwrap();
        let name = || Group::new("row");
        let expected = Groups::from([
            name(),
            name().with("id", 5),
            name().with("sold", true).with_null("writer"),
            name().with("genre", "novel"),
            name().with_null("shelf"),
            name().with("title", "Emma"),
        ]);
        assert_eq!(groups_of(&row()).unwrap(), expected);
    }

    #[test]
    fn arguments_are_read_by_the_type_of_their_field() {
        assert_eq!(argument_text::<Row>("id", "05").unwrap(), "5");
        assert_eq!(argument_text::<Row>("id", "+5").unwrap(), "5");
        assert_eq!(argument_text::<Row>("writer", "-07").unwrap(), "-7");
        assert_eq!(argument_text::<Row>("title", "05").unwrap(), "05");
        assert_eq!(argument_text::<Row>("genre", "novel").unwrap(), "novel");
        for (field, text) in [("id", "five"), ("id", ""), ("sold", "yes"), ("genre", "Novel")] {
            assert!(argument_text::<Row>(field, text).is_err(), "{field} {text}");
        }
    }

    #[test]
    fn unknown_fields_and_fields_that_cannot_identify_rows_are_errors() {
        let (check, groups) = grouped_by!("author_id");
        assert!(check.unwrap_err().contains("model `by` has no field `author_id`; it has: id, writer"));
        assert!(!groups);
        let (price, address) = (grouped_by!("price"), grouped_by!("address"));
        assert!(!price.1, "a row cannot be grouped by a fraction");
        for (check, _) in [price, address] {
            assert!(check.unwrap_err().contains("`Model::argument`"));
        }
        assert_eq!(grouped_by!("title"), (Ok(()), true));
    }

    #[test]
    fn a_model_that_is_not_a_struct_with_named_fields_is_an_error() {
        #[derive(Serialize, Deserialize)]
        struct Pair(u8, u8);
        impl Model for Pair {
            const NAME: &'static str = "pair";
            const GROUPS: &'static [&'static [&'static str]] = &[];
        }
        assert!(check_fields::<Pair>().is_err());
        assert!(groups_of(&Pair(1, 2)).is_err());
    }
}
