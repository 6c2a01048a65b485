//! Probes a `Deserialize` implementation for the fields of a struct and how their types read text.
//!
//! The probe is a serde deserializer without data. It records which fields and which types a `Deserialize`
//! implementation requests, and then fails.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

/// How the type of a field reads text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldKind {
    Integer,
    Boolean,
    /// Accepts any text.
    Text,
    /// An enum without data, and its variants.
    Variants(&'static [&'static str]),
    /// Anything else, including types that accept only some texts.
    Other,
}

/// Returns the serde names of the fields of `T`, or `None` if it is not a struct with named fields.
pub(crate) fn fields<T: DeserializeOwned>() -> Option<&'static [&'static str]> {
    let mut probe = StructProbe::default();
    // Always fails, as there is no data. The probe has recorded the fields.
    drop(T::deserialize(&mut probe));
    probe.fields
}

/// Returns how the type of `field` in `T` reads text.
pub(crate) fn field_kind<T: DeserializeOwned>(field: &str) -> FieldKind {
    let mut probe = StructProbe { field: Some(field.to_owned()), ..StructProbe::default() };
    drop(T::deserialize(&mut probe));
    probe.kind.unwrap_or(FieldKind::Other)
}

impl FieldKind {
    /// Returns the canonical spelling of the value that `text` stands for, such as `5` for `05`. Returns
    /// `None` if the type has no such value.
    pub(crate) fn canonical(self, text: &str) -> Option<String> {
        match self {
            Self::Integer => text.parse::<i128>().ok().map(|number| number.to_string()),
            Self::Boolean => text.parse::<bool>().ok().map(|truth| truth.to_string()),
            Self::Text => Some(text.to_owned()),
            Self::Variants(variants) => variants.contains(&text).then(|| text.to_owned()),
            Self::Other => None,
        }
    }
}

/// Records the fields of a struct, and the kind of one of them.
#[derive(Default)]
struct StructProbe {
    fields: Option<&'static [&'static str]>,
    /// The field whose kind to record.
    field: Option<String>,
    kind: Option<FieldKind>,
}

/// Records the kind of a field.
struct KindProbe<'a>(&'a mut Option<FieldKind>);

/// The error that ends a probe.
#[derive(Debug)]
struct NoData;

impl<'de> Deserializer<'de> for &mut StructProbe {
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

impl<'de> MapAccess<'de> for &mut StructProbe {
    type Error = NoData;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NoData> {
        match self.field.take() {
            Some(field) => seed.deserialize(StrDeserializer::new(&field)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, NoData> {
        let value = seed.deserialize(KindProbe(&mut self.kind));
        // The type requested a text and rejected `ARBITRARY_TEXT`, so it does not accept any text.
        if value.is_err() && self.kind == Some(FieldKind::Text) {
            self.kind = Some(FieldKind::Other);
        }
        value
    }
}

impl KindProbe<'_> {
    fn record<T>(self, kind: FieldKind) -> Result<T, NoData> {
        *self.0 = Some(kind);
        Err(NoData)
    }
}

macro_rules! integers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoData> {
            self.record(FieldKind::Integer)
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
        self.record(FieldKind::Boolean)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoData> {
        *self.0 = Some(FieldKind::Text);
        visitor.visit_char('\u{1}')
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoData> {
        *self.0 = Some(FieldKind::Text);
        visitor.visit_str(ARBITRARY_TEXT)
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
        self.record(FieldKind::Variants(variants))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoData> {
        self.record(FieldKind::Other)
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}

impl fmt::Display for NoData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the probe of a type has no data")
    }
}

impl std::error::Error for NoData {}

impl de::Error for NoData {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// A text that no type accepts but one that accepts any text.
const ARBITRARY_TEXT: &str = "\u{1} not a value of any type but free text \u{1}";

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is probed")]
    struct Row {
        id: Option<u32>,
        #[serde(rename = "name")]
        title: String,
        initial: char,
        address: std::net::IpAddr,
        price: f64,
        sold: bool,
    }

    #[test]
    fn fields_have_their_serde_names() {
        assert_eq!(fields::<Row>(), Some(["id", "name", "initial", "address", "price", "sold"].as_slice()));
        assert_eq!(fields::<(u8, u8)>(), None);
    }

    #[test]
    fn only_types_that_accept_any_text_are_text() {
        assert_eq!(field_kind::<Row>("id"), FieldKind::Integer);
        assert_eq!(field_kind::<Row>("name"), FieldKind::Text);
        assert_eq!(field_kind::<Row>("initial"), FieldKind::Text);
        assert_eq!(field_kind::<Row>("sold"), FieldKind::Boolean);
        for field in ["address", "price", "title"] {
            assert_eq!(field_kind::<Row>(field), FieldKind::Other, "{field}");
        }
    }
}
