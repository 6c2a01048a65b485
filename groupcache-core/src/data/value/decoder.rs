//! The serde deserializer of values.

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeSeed, IntoDeserializer};
use serde::de::{
    Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::format::{self as tag, ValueError};
use crate::data::wire::Reader;

/// Decodes one value.
pub(super) struct Decoder<'a, 'de> {
    from: &'a mut Reader<'de>,
    depth: u16,
}

/// Decodes elements, or keys and values, up to the end.
struct Elements<'a, 'de> {
    from: &'a mut Reader<'de>,
    depth: u16,
    hint: usize,
    ended: bool,
}

/// Decodes a variant of an enum, whose name was read already.
struct Variant<'a, 'de> {
    tag: u8,
    name: &'de str,
    from: &'a mut Reader<'de>,
    depth: u16,
}

/// A variant with data, for a type that does not know that it is one: a map of its name to its data.
struct VariantAsMap<'a, 'de>(Option<Variant<'a, 'de>>, bool);

/// The data of a variant.
struct VariantData<'a, 'de>(Variant<'a, 'de>);

impl<'a, 'de> Decoder<'a, 'de> {
    pub(super) const fn new(from: &'a mut Reader<'de>) -> Self {
        Self { from, depth: 0 }
    }

    fn nested(self) -> Result<Self, ValueError> {
        Ok(Self { depth: ValueError::deeper(self.depth)?, ..self })
    }

    fn variant(self, tag: u8) -> Result<Variant<'a, 'de>, ValueError> {
        let name = self.from.str().ok_or_else(ValueError::malformed)?;
        let Self { from, depth } = self.nested()?;
        Ok(Variant { tag, name, from, depth })
    }

    fn natural<N: TryFrom<u64>>(&mut self) -> Result<N, ValueError> {
        let number = self.from.uint().ok_or_else(ValueError::malformed)?;
        N::try_from(number).map_err(|_| ValueError::malformed())
    }

    fn integer<N: TryFrom<i64>>(&mut self) -> Result<N, ValueError> {
        let number: u64 = self.natural()?;
        let number = (number >> 1).cast_signed() ^ -(number & 1).cast_signed();
        N::try_from(number).map_err(|_| ValueError::malformed())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ValueError> {
        self.from.array().ok_or_else(ValueError::malformed)
    }

    fn tag(&mut self) -> Result<u8, ValueError> {
        self.array().map(|[tag]| tag)
    }
}

impl<'a, 'de> Elements<'a, 'de> {
    fn begin(decoder: Decoder<'a, 'de>, is_counted: bool) -> Result<Self, ValueError> {
        let Decoder { from, depth } = decoder.nested()?;
        let hint = if is_counted { from.uint().ok_or_else(ValueError::malformed)? } else { 0 };
        // Corrupted input must not cause a large allocation.
        let hint = usize::try_from(hint).map_or(0, |hint| hint.min(from.remaining()));
        Ok(Self { from, depth, hint, ended: false })
    }

    fn is_at_end(&mut self) -> bool {
        if !self.ended && self.from.peek() == Some(tag::END) {
            self.ended = self.from.take(1).is_some();
        }
        self.ended
    }

    const fn decoder(&mut self) -> Decoder<'_, 'de> {
        Decoder { from: self.from, depth: self.depth }
    }

    fn visit_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, ValueError> {
        let value = visitor.visit_seq(&mut self)?;
        self.end(value)
    }

    fn visit_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, ValueError> {
        let value = visitor.visit_map(&mut self)?;
        self.end(value)
    }

    fn end<T>(mut self, value: T) -> Result<T, ValueError> {
        match self.is_at_end() {
            true => Ok(value),
            false => Err(ValueError::custom("there are more elements than the type has")),
        }
    }
}

impl<'de> Deserializer<'de> for Decoder<'_, 'de> {
    type Error = ValueError;

    // Long because every tag has a line of its own.
    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, ValueError> {
        match self.tag()? {
            tag::UNIT => visitor.visit_unit(),
            tag::NONE => visitor.visit_none(),
            tag::SOME => visitor.visit_some(self.nested()?),
            tag::FALSE => visitor.visit_bool(false),
            tag::TRUE => visitor.visit_bool(true),
            small @ tag::SMALL_U8.. => visitor.visit_u8(small & !tag::SMALL_U8),
            tag::U8 => self.array().and_then(|[value]| visitor.visit_u8(value)),
            tag::U16 => self.natural().and_then(|value| visitor.visit_u16(value)),
            tag::U32 => self.natural().and_then(|value| visitor.visit_u32(value)),
            tag::U64 => self.natural().and_then(|value| visitor.visit_u64(value)),
            tag::U128 => self.array().and_then(|value| visitor.visit_u128(u128::from_be_bytes(value))),
            tag::I8 => self.integer().and_then(|value| visitor.visit_i8(value)),
            tag::I16 => self.integer().and_then(|value| visitor.visit_i16(value)),
            tag::I32 => self.integer().and_then(|value| visitor.visit_i32(value)),
            tag::I64 => self.integer().and_then(|value| visitor.visit_i64(value)),
            tag::I128 => self.array().and_then(|value| visitor.visit_i128(i128::from_be_bytes(value))),
            tag::F32 => self.array().and_then(|value| visitor.visit_f32(f32::from_be_bytes(value))),
            tag::F64 => self.array().and_then(|value| visitor.visit_f64(f64::from_be_bytes(value))),
            tag::CHAR => {
                let letter = char::from_u32(self.natural()?).ok_or_else(ValueError::malformed)?;
                visitor.visit_char(letter)
            }
            tag::STR => visitor.visit_borrowed_str(self.from.str().ok_or_else(ValueError::malformed)?),
            tag::BYTES => visitor.visit_borrowed_bytes(self.from.bytes().ok_or_else(ValueError::malformed)?),
            tag::SEQ => Elements::begin(self, true)?.visit_seq(visitor),
            tag::TUPLE => Elements::begin(self, false)?.visit_seq(visitor),
            tag::MAP => Elements::begin(self, true)?.visit_map(visitor),
            tag::STRUCT => Elements::begin(self, false)?.visit_map(visitor),
            tag::UNIT_VARIANT => visitor.visit_borrowed_str(self.variant(tag::UNIT_VARIANT)?.name),
            tag @ (tag::NEWTYPE_VARIANT | tag::TUPLE_VARIANT | tag::STRUCT_VARIANT) => {
                visitor.visit_map(VariantAsMap(Some(self.variant(tag)?), false))
            }
            _ => Err(ValueError::malformed()),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, ValueError> {
        match self.from.peek() {
            Some(tag::NONE) => self.tag().and_then(|_| visitor.visit_none()),
            Some(tag::SOME) => {
                self.tag()?;
                visitor.visit_some(self.nested()?)
            }
            // A field that became optional after the value was stored.
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        match self.tag()? {
            tag @ tag::UNIT_VARIANT..=tag::STRUCT_VARIANT => visitor.visit_enum(self.variant(tag)?),
            tag::STR => {
                let name = self.from.str().ok_or_else(ValueError::malformed)?;
                visitor.visit_enum(name.into_deserializer())
            }
            _ => Err(ValueError::custom("what is stored is not a variant of an enum")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> SeqAccess<'de> for &mut Elements<'_, 'de> {
    type Error = ValueError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ValueError> {
        if self.is_at_end() {
            return Ok(None);
        }
        self.hint = self.hint.saturating_sub(1);
        seed.deserialize(self.decoder()).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.hint)
    }
}

impl<'de> MapAccess<'de> for &mut Elements<'_, 'de> {
    type Error = ValueError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ValueError> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ValueError> {
        seed.deserialize(self.decoder())
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.hint)
    }
}

impl<'a, 'de> Variant<'a, 'de> {
    fn elements(self) -> Elements<'a, 'de> {
        Elements { from: self.from, depth: self.depth, hint: 0, ended: false }
    }

    fn decoder(self) -> Decoder<'a, 'de> {
        Decoder { from: self.from, depth: self.depth }
    }

    fn expect(&self, tag: u8, kind: &'static str) -> Result<(), ValueError> {
        let found = match self.tag {
            found if found == tag => return Ok(()),
            tag::UNIT_VARIANT => Unexpected::UnitVariant,
            tag::NEWTYPE_VARIANT => Unexpected::NewtypeVariant,
            tag::TUPLE_VARIANT => Unexpected::TupleVariant,
            _ => Unexpected::StructVariant,
        };
        Err(ValueError::invalid_type(found, &kind))
    }
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = ValueError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), ValueError> {
        let name = seed.deserialize(BorrowedStrDeserializer::<ValueError>::new(self.name))?;
        Ok((name, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = ValueError;

    fn unit_variant(self) -> Result<(), ValueError> {
        self.expect(tag::UNIT_VARIANT, "a variant without data")
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, ValueError> {
        self.expect(tag::NEWTYPE_VARIANT, "a variant of one value")?;
        seed.deserialize(self.decoder())
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, ValueError> {
        self.expect(tag::TUPLE_VARIANT, "a variant of several values")?;
        self.elements().visit_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        self.expect(tag::STRUCT_VARIANT, "a variant of named fields")?;
        self.elements().visit_map(visitor)
    }
}

impl<'de> MapAccess<'de> for VariantAsMap<'_, 'de> {
    type Error = ValueError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ValueError> {
        let Self(Some(variant), key_was_read @ false) = self else { return Ok(None) };
        *key_was_read = true;
        seed.deserialize(BorrowedStrDeserializer::new(variant.name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ValueError> {
        let variant = self.0.take().ok_or_else(ValueError::malformed)?;
        seed.deserialize(VariantData(variant))
    }
}

impl<'de> Deserializer<'de> for VariantData<'_, 'de> {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.0.tag {
            tag::NEWTYPE_VARIANT => self.0.decoder().deserialize_any(visitor),
            tag::TUPLE_VARIANT => self.0.elements().visit_seq(visitor),
            _ => self.0.elements().visit_map(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
