//! Rows of data whose changes make entries stale.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::Value;

use crate::data::group::{Group, Groups};
use crate::error::{Error, ErrorKind, Result};

/// A kind of row: what wrappers, `saved` and database triggers agree on.
///
/// A row belongs to the group of all rows (`book`) and to one group for each declared set of fields
/// (`book{id=5}`, `book{author_id=7}`).
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
pub trait Model: Serialize + DeserializeOwned {
    /// The name of the kind of row, unique in the application.
    const NAME: &'static str;

    /// The sets of fields, by their serde names, that pages are tied to. Whatever a page or a trigger
    /// uses must be declared here.
    const GROUPS: &'static [&'static [&'static str]];

    /// The text by which rows are compared in `field` when an argument of a call says `argument`.
    ///
    /// Provided as "by the field's type", which works for integers, booleans, characters, free text,
    /// enums without data, and options and newtypes of these: `05` is the row 5. A field of another
    /// text type (a UUID, a date) has several spellings of one value; say here which is the one that
    /// `Serialize` writes. Until then such a field is an error when the application is built.
    fn argument(field: &str, argument: &str) -> ArgumentText {
        let (_, _) = (field, argument);
        ArgumentText::ByType
    }
}

/// How the text of an argument names a row.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "every model builds it")]
pub enum ArgumentText {
    /// As the field's type reads it.
    ByType,
    /// The rows whose field is this text.
    Is(String),
    /// No row can be meant; the call is not cached.
    NoRow,
}

/// Several models: a model, or a tuple of up to six.
pub trait Models: 'static {
    /// The groups of all rows of each.
    fn all_rows() -> Groups;

    /// Whether each is declared consistently.
    ///
    /// # Errors
    ///
    /// As [`check_fields`] of each.
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

/// All groups that a row belongs to: what to invalidate after it was inserted, changed or deleted.
/// For a change, invalidate those of the old row and of the new one.
///
/// # Errors
///
/// [`ErrorKind::Encode`] if the row does not serialise, or [`ErrorKind::Configuration`] if a declared
/// field is not among what it serialises or is no number, boolean, text or null.
pub fn groups_of<M: Model>(row: &M) -> Result<Groups> {
    let value = serde_json::to_value(row)
        .map_err(|error| Error::new(ErrorKind::Encode, "groupcache-core").with_source(error))?;
    let Value::Object(fields) = value else {
        return Err(wrong::<M>("is not a struct with named fields"));
    };
    let mut groups = vec![Group::new(M::NAME)];
    for set in M::GROUPS {
        let mut group = Group::new(M::NAME);
        for field in *set {
            group = match fields.get(*field) {
                Some(Value::String(text)) => group.with(*field, text),
                Some(Value::Bool(truth)) => group.with(*field, truth),
                Some(Value::Number(number)) if !number.is_f64() => group.with(*field, number),
                // `skip_serializing_if` leaves fields out that are null, but only known fields can be.
                Some(Value::Null) => group.with_null(*field),
                None if Probe::fields::<M>()?.contains(field) => group.with_null(*field),
                None => return Err(wrong::<M>(format!("has no field `{field}`"))),
                Some(_) => {
                    return Err(wrong::<M>(format!(
                        "cannot be grouped by `{field}`: not a number, boolean or text"
                    )));
                }
            };
        }
        groups.push(group);
    }
    Ok(groups.into())
}

/// Whether the model names itself and only fields that it has and that rows can be compared by.
/// Asked when an application is built.
///
/// # Errors
///
/// [`ErrorKind::Configuration`], naming the model and the field.
pub fn check_fields<M: Model>() -> Result<()> {
    if M::NAME.is_empty() {
        return Err(Error::configuration("groupcache-core", "a model's `NAME` is empty"));
    }
    let fields = Probe::fields::<M>()?;
    for set in M::GROUPS {
        if set.is_empty() {
            return Err(wrong::<M>(
                "declares a group by no field; the group of all rows needs no declaration",
            ));
        }
        for field in *set {
            if !fields.contains(field) {
                return Err(wrong::<M>(format!("has no field `{field}`; it has: {}", fields.join(", "))));
            }
            if Probe::kind::<M>(field) == Kind::Other && M::argument(field, "") == ArgumentText::ByType {
                return Err(wrong::<M>(format!(
                    "cannot compare rows by `{field}`: not an integer, boolean or free text; implement \
                     `Model::argument` for it"
                )));
            }
        }
    }
    Ok(())
}

/// The text by which rows are compared in `field`, if an argument says `text`.
pub(crate) fn argument_text<M: Model>(field: &str, text: &str) -> Result<String> {
    let no_row = || wrong::<M>(format!("no row has `{text}` as its `{field}`"));
    match M::argument(field, text) {
        ArgumentText::Is(text) => Ok(text),
        ArgumentText::NoRow => Err(no_row()),
        ArgumentText::ByType => Probe::kind::<M>(field).canonical(text).ok_or_else(no_row),
    }
}

fn wrong<M: Model>(message: impl fmt::Display) -> Error {
    Error::configuration("groupcache-core", format!("model `{}` {message}", M::NAME))
}

/// How a field's type reads a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    Boolean,
    Text,
    Variants(&'static [&'static str]),
    Other,
}

impl Kind {
    fn canonical(self, text: &str) -> Option<String> {
        match self {
            Self::Integer => text.parse::<i128>().ok().map(|number| number.to_string()),
            Self::Boolean => text.parse::<bool>().ok().map(|truth| truth.to_string()),
            Self::Text => Some(text.to_owned()),
            Self::Variants(variants) => variants.contains(&text).then(|| text.to_owned()),
            Self::Other => None,
        }
    }
}

/// Asks a type's `Deserialize` implementation what it would like to read, without giving it
/// anything.
#[derive(Default)]
struct Probe {
    fields: Option<&'static [&'static str]>,
    /// The field whose kind is asked for.
    field: Option<String>,
    kind: Option<Kind>,
}

impl Probe {
    fn fields<M: Model>() -> Result<&'static [&'static str]> {
        let mut probe = Self::default();
        // It fails for want of data; what was asked for on the way is what counts.
        drop(M::deserialize(&mut probe));
        probe.fields.ok_or_else(|| wrong::<M>("is not a struct that names its fields to serde"))
    }

    fn kind<M: Model>(field: &str) -> Kind {
        let mut probe = Self { field: Some(field.to_owned()), ..Self::default() };
        drop(M::deserialize(&mut probe));
        probe.kind.unwrap_or(Kind::Other)
    }
}

#[derive(Debug)]
struct NoData;

impl<'de> Deserializer<'de> for &mut Probe {
    type Error = NoData;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoData> {
        self.fields = Some(fields);
        visitor.visit_map(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoData> {
        Err(NoData)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, NoData> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for &mut Probe {
    type Error = NoData;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NoData> {
        match self.field.take() {
            Some(field) => seed.deserialize(StrDeserializer::new(&field)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, NoData> {
        let value = seed.deserialize(KindProbe(&mut self.kind));
        // A type that reads texts but not just any is not free text.
        if value.is_err() && self.kind == Some(Kind::Text) {
            self.kind = Some(Kind::Other);
        }
        value
    }
}

struct KindProbe<'a>(&'a mut Option<Kind>);

impl KindProbe<'_> {
    fn say<T>(self, kind: Kind) -> Result<T, NoData> {
        *self.0 = Some(kind);
        Err(NoData)
    }
}

macro_rules! integers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoData> {
            self.say(Kind::Integer)
        })*
    };
}

impl<'de> Deserializer<'de> for KindProbe<'_> {
    type Error = NoData;

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoData> {
        self.say(Kind::Boolean)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoData> {
        *self.0 = Some(Kind::Text);
        visitor.visit_char('\u{1}')
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoData> {
        *self.0 = Some(Kind::Text);
        visitor.visit_str("\u{1} not a value of any type but free text \u{1}")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoData> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoData> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, NoData> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, NoData> {
        self.say(Kind::Variants(variants))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoData> {
        self.say(Kind::Other)
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}

impl fmt::Display for NoData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only the shape of the type was asked for")
    }
}

impl std::error::Error for NoData {}

impl de::Error for NoData {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
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
    fn arguments_are_read_as_the_type_of_their_field_reads_them() {
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
    fn fields_that_do_not_exist_or_cannot_be_compared_are_named() {
        let (check, groups) = grouped_by!("author_id");
        assert!(check.unwrap_err().contains("model `by` has no field `author_id`; it has: id, writer"));
        assert!(!groups);
        let (price, address) = (grouped_by!("price"), grouped_by!("address"));
        assert!(!price.1, "nor is a row grouped by a fraction");
        for (check, _) in [price, address] {
            assert!(check.unwrap_err().contains("`Model::argument`"));
        }
        assert_eq!(grouped_by!("title"), (Ok(()), true));
    }

    #[test]
    fn what_is_no_struct_is_refused() {
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
